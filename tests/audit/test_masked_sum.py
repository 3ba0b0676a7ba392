"""Any vectors through the real round: the sum is exact, and one upload says nothing."""

from __future__ import annotations

import numpy as np

from primia.audit.masked import masked_sum
from primia.study import contribution
from tests.audit.scene import small_plan


def test_the_sum_is_that_of_the_vectors_and_each_upload_looks_uniform() -> None:
    plan = small_plan()
    fixed = contribution(plan, 20_000)
    none = np.zeros(fixed.metrics, np.int64)
    updates = [np.full(fixed.parameters, x, np.float32) for x in (0.01, -0.005, 0.02, 0.0025)]
    vectors = [fixed.encode(u, weight=1, metrics=none)[0] for u in updates]
    kept = [v.copy() for v in vectors]
    found = masked_sum(plan, fixed, vectors)
    np.testing.assert_allclose(found.aggregate.mean_update, 0.0275 / 4, atol=2e-6)
    assert found.aggregate.weight == 4
    assert all((a == b).all() for a, b in zip(vectors, kept, strict=True))
    words = found.uploads[0][: fixed.parameters] & 0xFFFFFF
    assert not (words == kept[0][: fixed.parameters] & 0xFFFFFF).all()
    # Uniform on 2^24: the mean of 20,000 is within six deviations of the middle.
    assert abs(words.mean() / 2**24 - 0.5) < 6 * (1 / 12 / words.size) ** 0.5


def test_two_rounds_of_the_same_vectors_share_no_upload() -> None:
    plan = small_plan()
    fixed = contribution(plan, 1000)
    vector = fixed.encode(
        np.zeros(1000, np.float32), weight=1, metrics=np.zeros(fixed.metrics, np.int64)
    )[0]
    first, second = (masked_sum(plan, fixed, [vector] * 3).uploads[0] for _ in range(2))
    assert (first[:1000] == second[:1000]).mean() < 0.01
