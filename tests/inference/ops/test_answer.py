from __future__ import annotations

import numpy as np
import pytest

from primia.inference.ops.answer import (
    answer_class,
    answer_probabilities,
    class_window,
    deal_class,
    deal_probabilities,
    exp_table,
)
from tests.inference.pair import Exchange, run_op

BOUND = 20.0


def class_of(logits: np.ndarray) -> Exchange:
    near = class_window(BOUND, 16)
    return run_op(
        lambda d: deal_class(d, "t", *logits.shape, near),
        lambda party, x: answer_class(party, "t", x, near),
        np.rint(logits * 65536).astype(np.int64),
    )


@pytest.mark.parametrize("classes", [2, 3, 10, 40])
def test_the_class_is_the_largest_logit_by_one_unit(classes: int) -> None:
    draw = np.random.default_rng(classes)
    logits = np.rint(draw.uniform(-BOUND, BOUND, (70, classes)) * 65536) / 65536
    for row in logits[:35]:  # close races
        first, second = np.argsort(row)[-2:]
        row[second] = row[first] + 2.0**-16
    run = class_of(logits)
    assert (run.results[0].values.argmax(axis=1) == logits.argmax(axis=1)).all()
    assert (run.results[0].values.sum(axis=1) == 1).all()
    assert run.results[1] is None


def test_of_equal_logits_the_first_wins() -> None:
    run = class_of(np.array([[1.0, 2.0, 2.0], [0.0, 0.0, 0.0]]))
    assert run.results[0].classes == (1, 0)


def test_the_model_party_gets_nothing_back_with_the_answer() -> None:
    run = class_of(np.zeros((5, 3)))
    assert len(run.sent[1]) == len(run.sent[0]) + 1  # its last message goes one way


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_probabilities_are_rounded_to_a_twentieth(classes: int) -> None:
    logits = np.random.default_rng(classes).uniform(-3, 3, (60, classes))
    logits[0] = np.linspace(-BOUND, BOUND, classes)
    logits[1] = 0
    exp = exp_table(BOUND, 16)
    run = run_op(
        lambda d: deal_probabilities(d, "t", *logits.shape, exp),
        lambda party, x: answer_probabilities(party, "t", x, exp),
        np.rint(logits * 65536).astype(np.int64),
    )
    real = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = run.results[0].values
    assert np.allclose(found * 20, np.rint(found * 20))
    assert np.abs(found - real).max() <= 0.025 + 1e-3
