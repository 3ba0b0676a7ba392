import pytest

from primia.config.plan import StudyPlan
from primia.errors import ConfigError
from primia.learning.terms import LocalTerms, noise_multiplier, round_mechanism, study_mechanism
from primia.privacy import DpSgd, epsilon


def plan(privacy):
    return StudyPlan.model_validate(
        {
            "study": "test",
            "model": {"name": "small-cnn", "input_size": 28, "classes": ("normal", "pneumonia")},
            "sites": ("a", "b", "c"),
            "rounds": 6,
            "training": {
                "patient_sampling_rate": 0.3,
                "local_steps": 10,
                "expected_patients": 200.0,
                "learning_rate": 0.5,
                "momentum": 0.9,
            },
            "privacy": privacy,
        }
    )


def test_the_noise_of_the_plan_is_used_as_written():
    p = plan({"delta": 1e-4, "noise_multiplier": 2.0})
    assert noise_multiplier(p) == 2.0
    assert round_mechanism(p) == DpSgd(0.3, 2.0, 10)
    assert study_mechanism(p) == DpSgd(0.3, 2.0, 60)


def test_a_target_is_calibrated_over_all_rounds_of_the_study():
    p = plan({"delta": 1e-4, "target_epsilon": 8.0})
    study = study_mechanism(p)
    assert study is not None
    assert 7.9 < epsilon([study], 1e-4) <= 8.0
    terms = LocalTerms.of(p)
    assert terms.privacy is not None
    assert terms.privacy.noise_multiplier == study.noise_multiplier
    assert (len(terms.model.classes), terms.local_steps, terms.momentum) == (2, 10, 0.9)


def test_noise_that_misses_the_target_beside_it_is_refused():
    with pytest.raises(ConfigError, match="above target_epsilon"):
        noise_multiplier(plan({"delta": 1e-4, "noise_multiplier": 0.5, "target_epsilon": 1.0}))
    both = plan({"delta": 1e-4, "noise_multiplier": 5.0, "target_epsilon": 8.0})
    assert noise_multiplier(both) == 5.0


def test_no_privacy_is_no_mechanism():
    p = plan("none")
    assert noise_multiplier(p) is round_mechanism(p) is study_mechanism(p) is None
    assert LocalTerms.of(p).privacy is None


def test_the_recipe_of_the_plan_reaches_the_terms():
    written = plan({"delta": 1e-4, "noise_multiplier": 2.0, "clipping": "per-layer"})
    recipe = written.model_dump()
    recipe["model"] |= {
        "name": "resnet18-gn",
        "scale_norm": True,
        "weight_standardisation": True,
        "trainable": "bias",
    }
    recipe["training"]["augmentations"] = 8
    terms = LocalTerms.of(StudyPlan.model_validate(recipe))
    assert (terms.model.scale_norm, terms.model.weight_standardisation) == (True, True)
    assert (terms.model.trainable, terms.augmentations) == ("bias", 8)
    assert terms.privacy is not None
    assert terms.privacy.clipping == "per-layer"


def test_a_recipe_left_out_is_the_plain_one():
    terms = LocalTerms.of(plan({"delta": 1e-4, "noise_multiplier": 2.0}))
    assert (terms.model.scale_norm, terms.model.weight_standardisation) == (False, False)
    assert (terms.model.trainable, terms.augmentations) == ("all", 1)
    assert terms.privacy is not None
    assert terms.privacy.clipping == "flat"
