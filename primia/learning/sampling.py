"""Which patients, and which of their films, are in one step's batch.

The privacy analysis assumes Poisson sampling: each patient is in each batch independently with
the same probability. A shuffled list cut into batches is not that, and is not done here.
"""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt

from primia.learning.noise import Entropy

Indices = npt.NDArray[np.int64]


def poisson_patients(patients: int, rate: float, entropy: Entropy = os.urandom) -> Indices:
    """The patients 0..patients-1 drawn for one step, each with probability `rate`; may be empty.

    The probability is rounded down to 53 bits, so the accounted rate is never exceeded.
    """
    words = np.frombuffer(entropy(8 * patients), dtype="<u8") >> np.uint64(11)
    return np.flatnonzero(words < np.uint64(int(rate * 2**53))).astype(np.int64)


def films_of(
    drawn: Indices, patients: Indices, limit: int, entropy: Entropy = os.urandom
) -> Indices:
    """Indices of at most `limit` films of each drawn patient, chosen at random, patient by patient.

    patients: the patient of each film, shape (films,). A patient with more films than the limit
    shows others in other steps.
    """
    films = np.flatnonzero(np.isin(patients, drawn))
    keys = np.frombuffer(entropy(8 * films.size), dtype="<u8")
    films = films[np.lexsort((keys, patients[films]))]
    owner = patients[films]
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    lengths = np.diff(starts, append=films.size)
    rank = np.arange(films.size) - np.repeat(starts, lengths)
    return films[rank < limit].astype(np.int64)
