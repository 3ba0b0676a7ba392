"""The plan and site files are read strictly, and a mistake is named where it was made."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from primia.config import (
    StudyPlan,
    canonical_bytes,
    load_plan,
    load_site,
    plan_digest,
    plan_from_canonical,
)
from primia.config.plan import Aggregation, Evaluation, PrivacyTerms
from primia.errors import ConfigError
from primia.learning.federated import learning_coordinates
from primia.settle import price_plan, settle
from primia.study import contribution

CONFIGS = Path(__file__).parents[2] / "configs"
EXAMPLES = sorted(CONFIGS.glob("study*.yaml"))

GOOD = """\
study: cxr
model: {name: small-cnn, input_size: 28, classes: [normal, pneumonia]}
sites: [c, b, a]
rounds: 3
training: {patient_sampling_rate: 0.2, local_steps: 3, expected_patients: 20, learning_rate: 1}
privacy: {delta: 1e-5, noise_multiplier: 1.5}
"""


def plan_from(tmp_path: Path, text: str) -> StudyPlan:
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    return load_plan(path)


def test_a_good_plan_is_read_and_its_sites_are_sorted(tmp_path: Path) -> None:
    plan = plan_from(tmp_path, GOOD)
    assert plan.sites == ("a", "b", "c")
    assert plan.privacy != "none"
    assert plan.privacy.delta == 1e-5


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ("noise_multiplier: 1.5", "noise_multiplierr: 1.5", "did you mean 'noise_multiplier'"),
        ("rounds: 3", "rounds: 3\nrounds: 4", "line 5: key 'rounds' is given twice"),
        ("noise_multiplier: 1.5", "target_epsilon: 1e400", "privacy.target_epsilon = inf"),
        ("noise_multiplier: 1.5", "target_epsilon: .nan", "privacy.target_epsilon = nan"),
        ("noise_multiplier: 1.5", "target_epsilon: -1", "privacy.target_epsilon = -1"),
        ("noise_multiplier: 1.5", 'target_epsilon: "1"', "privacy.target_epsilon = '1'"),
        ("noise_multiplier: 1.5", "noise_multiplier: 0.1", "greater than or equal to 0.5"),
        ("sites: [c, b, a]", "sites: [a, b]", "at least 3"),
        ("sites: [c, b, a]", "sites: [a, b, NO]", "lower-case"),
        ("rounds: 3", "rounds: yes", "rounds = 'yes'"),
        ("rounds: 3", "rounds: 1:30", "rounds = '1:30'"),
        ("rounds: 3", "schedule: {quorum: 4}\nrounds: 3", "more than the 3 sites"),
        ("rounds: 3", "aggregation: {encoding_bits: 30}\nrounds: 3", "overflow 24 bits"),
        ("rounds: 3", "rounds: !!python/object:os.system 3", "tag"),
        ("rounds: 3", "rounds: &x 3\nstudy2: *x", "aliases are not allowed"),
        ("rounds: 3\n", "", "missing key 'rounds'"),
        ("input_size: 28", "input_size: 28, scale_norm: true", "only resnet18-gn has"),
        ("input_size: 28", "input_size: 28, weight_standardisation: true", "only resnet18-gn has"),
        ("input_size: 28", "input_size: 28, scale_norm: 1", "model.scale_norm = 1"),
        ("input_size: 28", "input_size: 28, trainable: tail", "model.trainable = 'tail'"),
        ("local_steps: 3", "local_steps: 3, augmentations: 0", "training.augmentations = 0"),
        ("local_steps: 3", "local_steps: 3, augmentations: 17", "training.augmentations = 17"),
        (
            "local_steps: 3",
            "local_steps: 3, augmentations: 3, max_films_per_patient: 43",
            "is 129, above 128: one patient has to fit a physical batch",
        ),
        ("delta: 1e-5", "delta: 1e-5, clipping: none", "privacy.clipping = 'none'"),
        ("privacy: {delta: 1e-5, noise_multiplier: 1.5}", "privacy: off", "privacy = 'off'"),
    ],
)
def test_a_mistake_is_named_with_file_key_and_remedy(
    tmp_path: Path, old: str, new: str, wanted: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        plan_from(tmp_path, GOOD.replace(old, new))
    message = str(caught.value)
    assert "plan.yaml" in message
    assert wanted in message


def test_every_key_of_the_recipe_is_read_and_changes_the_digest(tmp_path: Path) -> None:
    resnet = GOOD.replace("small-cnn", "resnet18-gn")
    plain = plan_from(tmp_path, resnet)
    seen = {plan_digest(plain)}
    for old, new in [
        ("input_size: 28", "input_size: 28, scale_norm: true"),
        ("input_size: 28", "input_size: 28, weight_standardisation: true"),
        ("input_size: 28", "input_size: 28, trainable: head"),
        ("local_steps: 3", "local_steps: 3, augmentations: 16, max_films_per_patient: 8"),
        ("delta: 1e-5", "delta: 1e-5, clipping: automatic"),
    ]:
        changed = plan_from(tmp_path, resnet.replace(old, new))
        assert plan_from_canonical(canonical_bytes(changed)) == changed
        seen.add(plan_digest(changed))
    assert len(seen) == 6


def test_several_mistakes_are_all_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        plan_from(tmp_path, GOOD.replace("rounds: 3", "rounds: 0\nround: 1"))
    assert len(str(caught.value).splitlines()) == 2


def test_a_missing_file_and_a_file_that_is_no_mapping_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_plan(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="expected keys and values"):
        plan_from(tmp_path, "- 1\n- 2\n")
    with pytest.raises(ConfigError, match="line"):
        plan_from(tmp_path, "a: [1, 2\n")


def test_the_canonical_form_does_not_depend_on_how_the_yaml_was_written(tmp_path: Path) -> None:
    one = plan_from(tmp_path, GOOD)
    other = plan_from(tmp_path, "\n".join(reversed(GOOD.strip().splitlines())) + "\n# a comment\n")
    assert plan_digest(one) == plan_digest(other)


def test_any_other_byte_form_of_a_plan_is_refused(tmp_path: Path) -> None:
    data = canonical_bytes(plan_from(tmp_path, GOOD))
    assert canonical_bytes(plan_from_canonical(data)) == data
    with pytest.raises(ConfigError, match="canonical"):
        plan_from_canonical(data.replace(b'"rounds":3', b'"rounds": 3'))
    with pytest.raises(ConfigError, match="not readable"):
        plan_from_canonical(data[:-1])


@given(
    q=st.floats(1e-6, 1),
    delta=st.floats(1e-12, 0.5),
    sigma=st.floats(0.5, 1e3),
    rounds=st.integers(1, 10_000),
)
def test_the_canonical_form_round_trips(q: float, delta: float, sigma: float, rounds: int) -> None:
    plan = StudyPlan.model_validate_json(
        f"""{{"study": "s", "rounds": {rounds}, "sites": ["a", "b", "c"],
        "model": {{"name": "small-cnn", "input_size": 28, "classes": ["x", "y"]}},
        "training": {{"patient_sampling_rate": {q!r}, "local_steps": 1, "expected_patients": 10,
                      "learning_rate": 1}},
        "privacy": {{"delta": {delta!r}, "noise_multiplier": {sigma!r}}}}}"""
    )
    assert plan_from_canonical(canonical_bytes(plan)) == plan


def test_the_site_file_resolves_paths_beside_itself(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text("data: {kind: folder, path: films}\ncaps: {max_epsilon: 8, max_delta: 1e-4}\n")
    assert load_site(path).data.path == tmp_path / "films"


def test_the_example_site_file_is_valid() -> None:
    assert load_site(CONFIGS / "site.example.yaml").caps.max_epsilon


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.name)
def test_every_example_plan_loads_settles_keeps_its_target_and_fits(path: Path) -> None:
    plan = load_plan(path)
    settled = settle(plan)
    assert plan.privacy != "none"
    assert settled.privacy != "none"
    assert plan.privacy.target_epsilon is not None
    assert settled.privacy.noise_multiplier is not None
    assert 0 < price_plan(settled).epsilon <= plan.privacy.target_epsilon
    contribution(settled, learning_coordinates(settled.model).size)  # raises when it does not fit


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.name)
def test_keys_that_an_example_shows_as_comments_exist(path: Path) -> None:
    shown = re.findall(r"^ +# ([a-z_]+): ", path.read_text(), re.MULTILINE)
    known = set(re.findall(r'"([a-z0-9_]+)": \{', json.dumps(StudyPlan.model_json_schema())))
    assert not set(shown) - known


def test_the_example_plan_shows_every_key_of_aggregation_and_privacy() -> None:
    text = (CONFIGS / "study.example.yaml").read_text()
    for section in (Aggregation, PrivacyTerms, Evaluation):
        for key in section.model_fields:
            assert key in text, f"configs/study.example.yaml does not show {key}"
