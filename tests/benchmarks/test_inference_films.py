from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.inference import films
from benchmarks.inference.weak import cost
from primia.imaging.synth import CLASSES, synthesise
from primia.inference.prepare import Wanted, prepare


def test_the_protocol_answers_as_a_network_does_and_the_judge_agrees() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    pixels = synthesise(20, size=28, seed=0).pixels
    wanted = Wanted(CLASSES, "logits", 1)
    prepared = prepare(model, wanted, pixels, model_version="0" * 32)
    expected = {"synthetic": films.logits(model, films.seen(pixels[:3]))}
    found = films.answers(prepared.program, prepared.weights, pixels[:3], "lan")
    run = films.judge({"synthetic": found}, expected, "logits")
    assert run["films"] == 3
    assert 0 < run["max_logit_error"]["synthetic"] < 1e-3
    assert films.good(run)


def test_only_a_class_that_the_network_itself_is_unsure_of_counts_as_a_tie() -> None:
    exact = {"kermany": np.array([[0.0, 1.0, 2.0], [1.0, 1.009, 0.0], [1.0, 1.02, 0.0]])}
    right = films.judge({"kermany": np.array([2, 1, 1])}, exact, "class")
    assert films.good(right)
    assert right["classes_that_differ"] == []
    tie = films.judge({"kermany": np.array([2, 0, 1])}, exact, "class")
    assert films.good(tie)
    assert [o["film"] for o in tie["classes_that_differ"]] == [1]
    assert not films.good(films.judge({"kermany": np.array([2, 1, 0])}, exact, "class"))
    off = {"kermany": exact["kermany"] + 6e-3}
    assert not films.good(films.judge(off, exact, "logits"))


def test_what_is_asked_is_of_no_patient_that_was_learned_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kermany_cxr").mkdir()
    patients = np.array([f"P{i // 3}" for i in range(60)])
    pixels = np.zeros((60, 64, 64), np.uint8)
    pixels[:, 0, 0] = np.arange(60) // 3
    np.savez(
        tmp_path / "kermany_cxr" / "kermany_64_dev.npz",
        images=pixels, labels=np.zeros(60, np.uint8), patient_ids=patients,
    )  # fmt: skip
    monkeypatch.setattr(films, "DATA", tmp_path)
    (learned, _), (asked, _) = films.held_out(8)
    assert len(asked) == 8
    assert len(learned) > 30
    assert not set(learned[:, 0, 0]) & set(asked[:, 0, 0])


def test_values_within_the_margin_under_zero_pass_and_no_others() -> None:
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten())
    values = torch.tensor([[[[-(2.0**-13), -(2.0**-10)], [-(2.0**-8), 1.0]]]]).double()
    lan, wan = cost(model, values, "lan"), cost(model, values, "wan")
    assert (lan["share"], lan["max_logit_change"]) == (0.25, 2.0**-13)
    assert (wan["share"], wan["max_logit_change"]) == (0.5, 2.0**-10)
    assert torch.equal(model(values), values.clamp_min(0).flatten(1)), "the network is as before"


def test_a_maximum_takes_the_least_that_its_comparisons_may_leave() -> None:
    model = nn.Sequential(nn.MaxPool2d(2), nn.Flatten())
    values = torch.tensor([[[[1.0, 1 - 2.0**-12], [1 - 2.0**-10, 0.0]]]]).double()
    assert cost(model, values, "lan")["max_logit_change"] == 2.0**-12
