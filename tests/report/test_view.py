from __future__ import annotations

from primia.report import view
from primia.report.record import StudyRecord


def test_scores_stand_beside_the_attempt_that_made_the_model(record: StudyRecord) -> None:
    rows = view.attempt_rows(record, {5: 6.3})
    made = {r.attempt.attempt: r for r in rows if r.scores}
    assert 5 not in made, "the aborted attempt made no model"
    assert made[6].scores == record.models[5].scores
    assert (made[6].tries, made[6].epsilon) == (2, 6.3)
    assert rows[-1].label == "evaluation"
    assert rows[-1].scores is None
