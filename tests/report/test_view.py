from __future__ import annotations

import pytest

from primia.report import view
from primia.report.record import StudyRecord


@pytest.mark.parametrize(
    ("epsilon", "shown"),
    [(7.951, "7.96"), (8.0, "8.00"), (0.1 + 0.2, "0.30"), (1e-6, "0.01"), (None, "–")],
)
def test_epsilon_is_never_shown_smaller_than_it_is(epsilon: float | None, shown: str) -> None:
    assert view.epsilon_text(epsilon) == shown


@pytest.mark.parametrize(("delta", "shown"), [(1e-4, "1×10⁻⁴"), (2.5e-6, "2.5×10⁻⁶"), (None, "–")])
def test_delta_is_written_as_a_power_of_ten(delta: float | None, shown: str) -> None:
    assert view.delta_text(delta) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.04, "0.0 s"), (9.96, "10 s"), (59.6, "1 min 00 s"), (7384, "2 h 03 min"), (None, "–")],
)
def test_durations_are_in_the_units_that_matter(seconds: float | None, shown: str) -> None:
    assert view.duration_text(seconds) == shown


def test_outside_text_cannot_steer_the_display_or_flood_it() -> None:
    assert view.clean("a\x1b[31m\u202eb\nc") == "a\ufffd[31m\ufffdb c"
    assert len(view.clean("x" * 10_000)) == view.MAX_TEXT


def test_plan_in_words_leaves_out_what_a_plan_does_not_say(record: StudyRecord) -> None:
    words = dict(view.plan_in_words(record))
    assert "multiplier 1.43" in words["Privacy"]
    assert "probability 0.25" in words["Sampling"]
    del record.plan["training"]["patient_sampling_rate"]
    assert "Sampling" not in dict(view.plan_in_words(record))


def test_calibrated_noise_is_described_by_its_target(record: StudyRecord) -> None:
    record.plan["privacy"].update(noise_multiplier=None, target_epsilon=8.0)
    assert "calibrated to ε = 8 over all rounds" in dict(view.plan_in_words(record))["Privacy"]


def test_the_report_says_whom_the_guarantee_relies_on(record: StudyRecord) -> None:
    alone = dict(view.plan_in_words(record))["Who adds the noise"]
    assert "relies on nobody else" in alone
    record.plan["privacy"].update(noise="distributed", colluding_sites=2)
    together = dict(view.plan_in_words(record))["Who adds the noise"]
    assert "against the coordinator together with up to 2 of the sites" in together


def test_the_report_says_what_the_aggregation_does_to_an_update(record: StudyRecord) -> None:
    words = dict(view.plan_in_words(record))
    assert "Length of an update" not in words
    assert "momentum" not in words["Server step"]
    record.plan["aggregation"].update(
        update_norm=1.5, rounding="stochastic", mask_cipher="chacha20", wire_bits=32
    )
    record.plan["server"].update(momentum=0.9)
    words = dict(view.plan_in_words(record))
    assert "L2 norm 1.5" in words["Length of an update"]
    for said in ("rounded at random within ±4", "32 bits", "chacha20"):
        assert said in words["Masking"]
    assert words["Server step"].endswith("momentum 0.9")


def test_shared_noise_is_not_said_to_be_rounded_within_a_range(record: StudyRecord) -> None:
    record.plan["privacy"].update(noise="distributed", colluding_sites=1)
    assert "±" not in dict(view.plan_in_words(record))["Masking"]


def test_scores_stand_beside_the_attempt_that_made_the_model(record: StudyRecord) -> None:
    rows = view.attempt_rows(record, {5: 6.3})
    made = {r.attempt.attempt: r for r in rows if r.scores}
    assert 5 not in made, "the aborted attempt made no model"
    assert made[6].scores == record.models[5].scores
    assert (made[6].tries, made[6].epsilon) == (2, 6.3)
    assert rows[-1].label == "evaluation"
    assert rows[-1].scores is None
