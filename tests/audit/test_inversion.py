"""Films are rebuilt from plain and clipped updates, and not from those that the plan lets out.

Error rates: two films named out of 256 by luck have a chance of 1.5e-5; protection under which
ranks are guesses is called fallen with a chance of 0.001 (`chance.ALPHA`), at system entropy.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from primia.audit.chance import ALPHA, luck_of_ranks
from primia.audit.films import Case, case_of, gallery_of
from primia.audit.inversion import Effort, Problem, by_direction, by_value
from primia.audit.invert import Inversion, Wishes
from primia.audit.invert_finding import attack_invert
from primia.audit.likeness import psnr, rank_of
from primia.audit.networks import easy_network, first_network, sigmoid_network, warmed_network
from primia.audit.release import Releases, Rows
from primia.cli.main import app
from primia.errors import ConfigError, DataError
from primia.findings import Verdict, from_json
from primia.imaging.export import write_site_npz
from tests.audit.scene import case, small_plan

EXAMPLE = Path(__file__).parents[2] / "configs" / "study.example.yaml"


@pytest.fixture(scope="module")
def example() -> Case:
    """The example plan on synthetic films of 28 px."""
    return case_of(EXAMPLE, None, 28, 0)


def test_a_plain_update_of_28_pixels_is_inverted_to_the_very_film(example: Case) -> None:
    inversion = Inversion(example, Wishes(films=2, seconds=1e9))
    trial = inversion.attack("easy", easy_network(28, 1, 3), ["plain"])
    assert trial.ranks("plain") == [1, 1]
    assert min(a.psnr for a in trial.found) >= 30


@pytest.mark.slow
def test_a_plain_update_of_64_pixels_is_inverted_to_the_very_film() -> None:
    inversion = Inversion(case_of(EXAMPLE, None, 64, 0), Wishes(films=3, seconds=1e9))
    trial = inversion.attack("easy", easy_network(64, 1, 3), ["plain"])
    assert trial.ranks("plain") == [1, 1, 1]
    assert min(a.psnr for a in trial.found) >= 30


def test_the_example_plan_is_attacked_no_better_than_by_guessing(example: Case) -> None:
    """Clipping alone does not help, noise does, and the verdict says so."""
    heard: list[float] = []
    wishes = Wishes(films=2, steps=100, seconds=1e9)
    finding = attack_invert(example, None, wishes, on_part=lambda _what, x: heard.append(x))
    figures = finding.figures
    assert figures["noise_multiplier"] == pytest.approx(1.406, abs=0.01)
    assert figures["attack_works"] is True
    assert figures["control_plain_named"] == figures["control_clipped_named"] == 2
    assert finding.verdict is Verdict.HELD
    assert isinstance(figures["luck"], float)
    assert figures["luck"] >= ALPHA
    assert not finding.local
    assert heard == sorted(heard)
    assert heard[-1] == pytest.approx(1.0)
    assert len(finding.pictures) == 1
    assert "easy network, plain: rank 1" in finding.pictures[0].words


def test_ranks_are_guesses_at_the_smallest_noise_that_a_worker_accepts() -> None:
    inversion = Inversion(case(patients=300), Wishes(films=6, steps=60, seconds=1e9))
    trial = inversion.attack("easy", easy_network(28, 1, 3), ["as planned"])
    assert luck_of_ranks(trial.ranks("as planned"), 256) >= ALPHA


def test_noise_of_a_hundredth_of_the_clip_norm_does_not_hide_a_film(example: Case) -> None:
    """PriMIA's stored configuration: the same release with that noise, and the film is named."""
    gallery = gallery_of(example.films, 0)
    releases = Releases(easy_network(28, 1, 3), example.plan)
    rows = Rows.of(example.films, [gallery.index[0]])
    seen = releases.noised(rows, noise_multiplier=0.01)
    problem = Problem(releases.model, seen, rows.labels, 28, 1, gallery.box)
    found = by_direction(problem, Effort(150), torch.Generator().manual_seed(0))
    assert rank_of(0, found.films[0], gallery.seen) == 1


def test_an_attack_that_was_too_short_says_nothing_of_protection(example: Case) -> None:
    finding = attack_invert(example, None, Wishes(films=2, steps=1, seconds=1e9))
    assert finding.verdict is Verdict.TOLD
    assert "too short" in finding.answer


def test_seconds_end_the_search_in_time(example: Case) -> None:
    inversion = Inversion(example, Wishes(films=2, steps=10**6, seconds=0.5))
    trial = inversion.attack("easy", easy_network(28, 1, 3), ["plain"])
    assert len(trial.found) == 2


def test_the_network_of_deep_leakage_is_inverted_by_value(example: Case) -> None:
    inversion = Inversion(example, Wishes(films=2, steps=60, seconds=1e9, method="value"))
    trial = inversion.attack("sigmoid", sigmoid_network(28, 1, 3), ["plain"])
    assert trial.ranks("plain") == [1, 1]
    assert min(a.psnr for a in trial.found) >= 30


@pytest.mark.parametrize("method", [by_direction, by_value])
def test_the_attackers_gradient_is_the_one_that_leaves(example: Case, method: object) -> None:
    model = easy_network(28, 1, 3)
    gallery = gallery_of(example.films, 0)
    rows = Rows.of(example.films, gallery.index[:2])
    seen = Releases(model, example.plan).plain(rows)
    problem = Problem(model, seen, rows.labels, 28, 1, gallery.box)
    torch.testing.assert_close(
        problem.gradient(gallery.seen[:2, None]).detach(), problem.target(), rtol=1e-4, atol=1e-5
    )


def test_the_first_network_gives_a_film_away_only_through_its_head(example: Case) -> None:
    """At a head of zeros no gradient passes to what lies below, so a warmed one is attacked."""
    rows = Rows.of(example.films, [0])
    first = Releases(first_network(example.plan), example.plan).plain(rows)
    assert all(bool((g == 0).all()) for g in first[:-2])
    warm = Releases(warmed_network(example.plan, example.films), example.plan).plain(rows)
    assert all(bool((g != 0).any()) for g in warm)


def test_no_film_of_a_patient_who_is_attacked_warms_the_network(example: Case) -> None:
    inversion = Inversion(example, Wishes(films=5))
    attacked = example.films.pixels[inversion.gallery.index[:5]]
    there = {p.tobytes() for p in inversion.unattacked.pixels}
    assert not {p.tobytes() for p in attacked} & there
    assert len(inversion.unattacked) > 0.9 * len(example.films)


def test_a_gallery_has_each_film_once_and_too_few_films_are_refused(example: Case) -> None:
    gallery = gallery_of(example.films, 3)
    assert len(set(gallery.index.tolist())) == 256
    assert len(np.unique(example.films.patients[gallery.index])) == 256
    assert not set(gallery.index.tolist()) & set(gallery.others.tolist())
    low, high = gallery.box
    assert low < 0 < high
    assert psnr(gallery.grey(gallery.seen[0]), gallery.grey(gallery.seen[0])) == 100
    with pytest.raises(DataError, match="256"):
        gallery_of(case(patients=40).films, 0)


def test_a_plan_without_privacy_is_not_attacked() -> None:
    made = case(patients=200)
    bare = Case(made.plan.model_copy(update={"privacy": "none"}), made.films, own=False)
    with pytest.raises(ConfigError, match="privacy: none"):
        attack_invert(bare, None, Wishes())


def test_a_hospitals_own_films_stay_out_of_the_file_that_may_be_handed_on(tmp_path: Path) -> None:
    films = case(patients=200).films
    (path,) = write_site_npz({"here": films}, tmp_path, ("normal", "bacterial", "viral"))
    out = tmp_path / "out"
    words = ["attack", "invert", "--data", str(path), "--films", "2", "--steps", "2", "--json"]
    done = CliRunner().invoke(app, [*words, "--out", str(out)])
    assert done.exit_code == 0, done.output
    kept = from_json((out / "finding.json").read_text())
    assert kept.pictures == ()
    assert (out / "picture-1.png").exists()
    assert json.loads(done.stdout)["pictures"] == []
    assert kept.figures["gallery"] == 256
    assert small_plan().model.input_size == kept.figures["pixels"]
