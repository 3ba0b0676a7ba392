"""Who is in which model, what the budget allows, and what is found of a model that memorises."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from primia.audit import membership
from primia.audit.membership import (
    Attack,
    Exported,
    Pool,
    Recipe,
    as_planned,
    control_pool,
    groups,
    in_halves,
    memorising,
    trained_on,
    without_privacy,
)
from primia.audit.membership_finding import ERROR, better_than_chance
from primia.config.plan import StudyPlan
from primia.config.strict import validate
from primia.errors import ConfigError
from primia.imaging.dataset import Films
from primia.imaging.synth import CLASSES, synthesise
from primia.learning.insecure import insecure_seeded_entropy
from primia.learning.models import build_for, flatten
from primia.learning.parallel import use_threads

PLAN = validate(
    StudyPlan,
    {
        "study": "membership",
        "model": {"name": "small-cnn", "input_size": 28, "classes": list(CLASSES)},
        "sites": ["a", "b", "c"],
        "rounds": 2,
        "training": {
            "patient_sampling_rate": 0.5,
            "local_steps": 4,
            "expected_patients": 100.0,
            "learning_rate": 0.3,
            "momentum": 0.9,
        },
        "privacy": {"noise_multiplier": 2.0, "delta": 1e-3},
    },
    where="test",
)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    use_threads(1)


def blank(patients: np.ndarray) -> Films:
    """Films that carry their own number, so that who was trained on can be read off them."""
    count = patients.size
    pixels = np.zeros((count, 28, 28), np.uint8)
    pixels[:, 0, 0], pixels[:, 0, 1] = np.arange(count) % 256, np.arange(count) // 256
    return Films(pixels, np.arange(count) % 3, patients.astype(np.int64))


@st.composite
def pools(draw: st.DrawFn) -> Films:
    films = draw(st.lists(st.integers(1, 4), min_size=4, max_size=12))
    owners = draw(st.permutations(np.repeat(np.arange(len(films)), films).tolist()))
    return blank(np.array(owners))


@given(films=pools(), seed=st.integers(0, 2**32), pairs=st.integers(1, 4))
def test_every_patient_is_in_half_of_the_references_with_all_films_or_none(
    films: Films, seed: int, pairs: int
) -> None:
    halves = in_halves(2 * pairs, films.patient_count, np.random.default_rng(seed))
    assert (halves.sum(0) == pairs).all()
    seen = np.zeros((2 * pairs, len(films)), bool)
    for reference, members in enumerate(halves):
        chosen = trained_on(films, members).pixels[:, 0, 0]
        seen[reference, chosen] = True
    for patient in range(films.patient_count):
        own = seen[:, films.patients == patient]
        assert (own == own[:, :1]).all()  # together in every reference
        assert (own[:, 0] == halves[:, patient]).all()


@settings(max_examples=8, phases=[Phase.generate])  # each trains; shrinking would take minutes
@given(films=pools(), seed=st.integers(0, 1000), method=st.sampled_from(["lira", "rmia"]))
def test_references_and_targets_train_on_whole_patients_and_know_whom(
    films: Films, seed: int, method: str
) -> None:
    trained: list[set[int]] = []

    def note(_recipe: Recipe, part: Films, _entropy: object) -> np.ndarray:
        trained.append(set(part.pixels[:, 0, 0].tolist()))
        return flatten(build_for(PLAN.model))

    attack = Attack(method=method, references=4, targets=2, budget=1e9, seed=seed)
    recipe = as_planned(PLAN, 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recipe, "train", note)
        found = attack.on([(recipe, Pool(films, films))])[0]
    assert len(trained) == 6
    for members, numbers in zip(found.trials.members, trained[4:], strict=True):
        assert numbers == set(np.flatnonzero(members[films.patients]).tolist())


def test_who_is_trained_on_does_not_follow_from_what_the_films_were_drawn_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One seed makes films and coins: were they of one stream, members would be of one class."""
    films = synthesise(400, size=28, seed=0)
    shares: list[float] = []

    def note(_recipe: Recipe, part: Films, _entropy: object) -> np.ndarray:
        shares.append(float((part.labels == 0).mean()))
        return flatten(build_for(PLAN.model))

    monkeypatch.setattr(Recipe, "train", note)
    attack = Attack(method="rmia", references=2, targets=1, budget=1e9, seed=0)
    attack.on([(as_planned(PLAN, 200), Pool(films, films.select(films.patients < 5)))])
    assert shares == pytest.approx([float((films.labels == 0).mean())] * 3, abs=0.15)


def test_the_control_has_some_wrong_labels() -> None:
    films = synthesise(120, size=28, seed=1)
    few = control_pool(Pool(films, films), seed=3)
    assert few.films.patient_count == membership.CONTROL_PATIENTS
    right = {f.tobytes(): label for f, label in zip(films.pixels, films.labels, strict=True)}
    wrong = [
        right[f.tobytes()] != label
        for f, label in zip(few.films.pixels, few.films.labels, strict=True)
    ]
    assert 0.05 < np.mean(wrong) < 0.4


def test_the_plan_is_trained_with_its_own_noise_rounds_and_server_step() -> None:
    recipe = as_planned(PLAN, 40)
    assert recipe.rounds == 2
    assert recipe.terms.privacy is not None
    assert recipe.terms.privacy.noise_multiplier == 2.0
    assert recipe.terms.expected_patients == 20.0  # of those trained on here
    assert without_privacy(recipe).terms.privacy is None
    assert without_privacy(recipe).rounds == 2


class Clock:
    """Every look at it costs a second, so a training costs one."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recipe, "train", lambda *_args: flatten(build_for(PLAN.model)))


@pytest.mark.usefixtures("untrained")
def test_the_budget_decides_how_many_targets_there_are() -> None:
    films = blank(np.arange(12))
    recipes = [(as_planned(PLAN, 6), Pool(films, films))] * 2
    counted: list[tuple[int, int]] = []
    attack = Attack(
        method="rmia",
        references=2,
        budget=20.0,
        clock=Clock(),
        on_training=lambda done, of: counted.append((done, of)),
    )
    control, plan = attack.on(recipes)
    assert len(control.trials.members) == membership.CONTROL_TARGETS
    assert 1 < len(plan.trials.members) < membership.MOST_TARGETS
    done, of = counted[-1]
    assert done == of == 4 + len(control.trials.members) + len(plan.trials.members)


@pytest.mark.usefixtures("untrained")
def test_a_budget_too_short_for_any_target_says_what_is_needed() -> None:
    films = blank(np.arange(12))
    attack = Attack(budget=10.0, clock=Clock())
    with pytest.raises(ConfigError, match=r"--budget 10: 16 references .* about \d+ seconds"):
        attack.on([(as_planned(PLAN, 6), Pool(films, films))] * 2)


@pytest.mark.parametrize(
    ("method", "references", "words"),
    [("rmia", 3, "even number"), ("lira", 2, "4 or more"), ("rmia", 1, "even number")],
)
def test_references_that_cannot_be_halved_are_refused(
    method: str, references: int, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        Attack(method=method, references=references)


@pytest.mark.usefixtures("untrained")
def test_an_exported_model_is_attacked_in_place_of_targets() -> None:
    films = blank(np.arange(12))
    recipe = as_planned(PLAN, 6)
    members = np.arange(12) < 8
    exported = Exported(flatten(build_for(PLAN.model)), members)
    attack = Attack(method="rmia", references=2, budget=1e9)
    _, found = attack.on([(recipe, Pool(films, films))] * 2, exported)
    assert found.trials.members.tolist() == [members.tolist()]


def test_groups_tell_class_number_of_films_and_exposure() -> None:
    patients = np.array([0, 1, 1, 2, 2, 2])
    pixels = np.zeros((6, 28, 28), np.uint8)
    pixels += np.array([10, 100, 100, 200, 200, 200], np.uint8)[:, None, None]
    found = dict(groups(Films(pixels, np.array([0, 1, 1, 0, 0, 0]), patients), ("n", "p")))
    assert found["class n"].tolist() == [True, False, True]
    assert found["two films"].tolist() == [False, True, False]
    assert found["three films or more"].tolist() == [False, False, True]
    assert found["darkest third"].tolist() == [True, False, False]
    assert found["brightest third"].tolist() == [False, False, True]


@pytest.mark.timeout(1200)
@pytest.mark.filterwarnings("ignore::primia.learning.insecure.InsecureEntropyWarning")
def test_who_is_learnt_by_heart_is_found_and_who_is_under_noise_is_not() -> None:
    """Either verdict is wrong with probability `ERROR` at most when the noise is the system's."""
    assert ERROR == 1e-3
    films = synthesise(40, size=28, seed=0)
    pool = Pool(films, synthesise(20, size=28, seed=0, site=1))
    planned = as_planned(PLAN, 20)
    attack = Attack(
        method="rmia", references=2, targets=2, budget=1e9, entropy=insecure_seeded_entropy(1)
    )
    control, plan = attack.on([(memorising(planned, 20), control_pool(pool, 0)), (planned, pool)])
    assert control.fit.inside > 0.95
    assert better_than_chance(control.trials)
    assert not better_than_chance(plan.trials)
