import io
import json
import sys

import pytest
import torch
from rich.console import Console
from torch import nn

from benchmarks.dp import run, worker
from benchmarks.dp.cases import CASES, Case, resnet18
from benchmarks.dp.engines import ENGINES, Terms, Unsupported, out_of_place
from benchmarks.dp.report import chart, table


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )


TINY = Case(
    name="tiny",
    network=tiny_network,
    size=12,
    physical=2,
    logical=4,  # in two parts, so that accumulation is checked too
    time_bar=1.3,
    memory_bar=1.2,
)


@pytest.mark.parametrize("engine", ["primia", "vmap"])
def test_an_engine_sums_what_the_loop_sums(engine):
    assert max(worker.errors_against_loop(engine, TINY, "cpu").values()) < 1e-5


def test_a_step_without_clipping_fails_the_check():
    assert min(worker.errors_against_loop("plain", TINY, "cpu").values()) > 0.01


def test_an_engine_that_leaves_a_parameter_out_is_named_with_it(monkeypatch):
    def frozen_head(model, losses, terms):
        model[-1].bias.requires_grad = False
        return ENGINES["plain"](model, losses, terms)

    monkeypatch.setitem(ENGINES, "frozen", frozen_head)
    with pytest.raises(Unsupported, match=r"never trains 4\.bias"):
        worker.errors_against_loop("frozen", TINY, "cpu")


@pytest.mark.parametrize(
    ("engine", "package"),
    [("opacus-hooks", "opacus"), ("opacus-ghost", "opacus"), ("fastdp", "fastDP")],
)
def test_a_peer_that_is_not_there_is_refused_by_name(engine, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(Unsupported, match=f"{package} is not installed"):
        ENGINES[engine](tiny_network(), TINY.losses, Terms(logical=4))


def test_made_out_of_place_a_residual_network_computes_the_same():
    model, inputs = resnet18(), torch.randn(1, 1, 32, 32)
    expected = model(inputs)
    assert torch.equal(out_of_place(model)(inputs), expected)
    assert not any(getattr(module, "inplace", False) for module in model.modules())


def test_a_ratio_is_the_median_over_pairs_and_not_a_ratio_of_medians():
    found = worker.summary([(1.0, 2.0), (10.0, 11.0), (2.0, 3.0)])
    assert found["time_ratio"] == 1.5
    assert found["plain_s"] == 2.0
    assert found["private_s"] == 3.0


def test_memory_is_compared_with_and_without_what_was_held_before():
    memory = {"held_bytes": 100, "peak_bytes": 160}
    baseline = {"held_bytes": 90, "peak_bytes": 120}
    assert run.memory_ratios(memory, baseline) == {
        "memory_ratio": pytest.approx(160 / 120),
        "memory_ratio_net": 2.0,
    }


def test_an_engine_too_large_for_the_machine_is_not_started(monkeypatch):
    monkeypatch.setattr(run, "available_gib", lambda: 8.0)
    monkeypatch.setattr(run, "worker", lambda *_args, **_kwargs: pytest.fail("started"))
    row = run.measure("opacus-hooks", "resnet18-28-b256", baseline={}, device="cpu", budget_s=1)
    assert row["missing"] == "needs 20 GiB of memory, 8 GiB are free"


def test_every_case_divides_its_images_as_it_says():
    for case in CASES.values():
        sizes = [len(inputs) for inputs, _ in case.batches(images=case.logical, device="cpu")]
        assert sizes == [case.physical] * (case.logical // case.physical)


def test_a_row_without_figures_is_listed_with_its_reason(tmp_path):
    bars = {"case": "tiny", "time_bar": 1.3, "memory_bar": 1.2}
    timed = worker.summary([(1.0, 1.2), (1.0, 1.2)]) | {"error": 1e-6, "error_float64": 2e-6}
    rows = [
        {"engine": "primia", **bars, **timed, "memory_ratio": 1.25, "memory_ratio_net": 1.5},
        {"engine": "fastdp", **bars, "missing": "fastDP is not installed"},
    ]
    console = Console(width=80, record=True, file=io.StringIO())
    table({"machine": {"cpu": "a CPU", "versions": {}, "date": "today"}, "rows": rows}, console)
    text = console.export_text()
    assert "1.20 [1.20–1.20] ✓" in text
    assert "1.25 (1.50) ✗" in text
    assert "tiny, fastdp: fastDP is not installed" in text
    chart(rows, tmp_path / "dp.png")
    assert (tmp_path / "dp.png").read_bytes().startswith(b"\x89PNG")
    json.dumps(rows)
