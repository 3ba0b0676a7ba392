from __future__ import annotations

from primia.report import plan_words
from primia.report.record import StudyRecord


def test_plan_in_words_leaves_out_what_a_plan_does_not_say(record: StudyRecord) -> None:
    words = dict(plan_words.plan_in_words(record))
    assert "multiplier 1.43" in words["Privacy"]
    assert "probability 0.25" in words["Sampling"]
    del record.plan["training"]["patient_sampling_rate"]
    assert "Sampling" not in dict(plan_words.plan_in_words(record))


def test_calibrated_noise_is_described_by_its_target(record: StudyRecord) -> None:
    record.plan["privacy"].update(noise_multiplier=None, target_epsilon=8.0)
    assert (
        "calibrated to ε = 8 over all rounds" in dict(plan_words.plan_in_words(record))["Privacy"]
    )


def test_the_report_says_whom_the_guarantee_relies_on(record: StudyRecord) -> None:
    alone = dict(plan_words.plan_in_words(record))["Who adds the noise"]
    assert "relies on nobody else" in alone
    record.plan["privacy"].update(noise="distributed", colluding_sites=2)
    together = dict(plan_words.plan_in_words(record))["Who adds the noise"]
    assert "against the coordinator together with up to 2 of the sites" in together


def test_the_report_says_what_the_aggregation_does_to_an_update(record: StudyRecord) -> None:
    words = dict(plan_words.plan_in_words(record))
    assert "Length of an update" not in words
    assert "momentum" not in words["Server step"]
    record.plan["aggregation"].update(
        update_norm=1.5, rounding="stochastic", mask_cipher="chacha20", wire_bits=32
    )
    record.plan["server"].update(momentum=0.9)
    words = dict(plan_words.plan_in_words(record))
    assert "L2 norm 1.5" in words["Length of an update"]
    for said in ("rounded at random within ±4", "32 bits", "chacha20"):
        assert said in words["Masking"]
    assert words["Server step"].endswith("momentum 0.9")


def test_shared_noise_is_not_said_to_be_rounded_within_a_range(record: StudyRecord) -> None:
    record.plan["privacy"].update(noise="distributed", colluding_sites=1)
    assert "±" not in dict(plan_words.plan_in_words(record))["Masking"]
