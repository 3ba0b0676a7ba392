import numpy as np
import pytest

from primia.imaging.dataset import Films


def films(patients: list[int]) -> Films:
    n = len(patients)
    pixels = np.arange(n, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 4), np.uint8)
    return Films(pixels, np.arange(n, dtype=np.int64), np.array(patients, np.int64))


def test_selection_keeps_films_together_with_their_patients_and_renumbers_them():
    chosen = films([0, 1, 1, 2]).select(np.array([False, True, True, True]))
    assert chosen.patients.tolist() == [0, 0, 1]
    assert chosen.labels.tolist() == [1, 2, 3]
    assert chosen.pixels[:, 0, 0].tolist() == [1, 2, 3]
    assert chosen.patient_count == 2


def test_nothing_selected_is_no_patient():
    assert films([0, 1]).select(np.zeros(2, bool)).patient_count == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixels": np.zeros((2, 4, 5), np.uint8)}, "pixels"),
        ({"pixels": np.zeros((2, 4, 4), np.float32)}, "pixels"),
        ({"labels": np.zeros(3, np.int64)}, "labels"),
        ({"labels": np.array([0, -1])}, "below 0"),
        ({"patients": np.zeros(2, np.int32)}, "patients"),
        ({"patients": np.array([0, 2])}, "without gaps"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change, message):
    good = {
        "pixels": np.zeros((2, 4, 4), np.uint8),
        "labels": np.zeros(2, np.int64),
        "patients": np.array([0, 1]),
    }
    Films(**good)
    with pytest.raises(ValueError, match=message):
        Films(**{**good, **change})
