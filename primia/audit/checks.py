"""What a price rests on, tried one by one: each check gives the chance of what it saw.

The accountant's figure holds for noise of one size, new in every weight, step, round and site, and
for patients who are drawn independently. A lower bound on ε sees gross breaches of that only; these
look at each condition by itself, and are far sharper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Check:
    """One condition. chance: of something as odd as what was `seen`, or odder, if it is met.

    claim and seen: for people, short.
    """

    name: str
    claim: str
    seen: str
    chance: float


def exact(name: str, claim: str, *, met: bool, seen: str) -> Check:
    """A condition without chance in it."""
    return Check(name, claim, seen, 1.0 if met else 0.0)


def level(name: str, groups: Sequence[Floats], sigma: float) -> Check:
    """Each group of samples is N(0, σ²): by the sum of their squares, too small or too large."""
    from scipy.stats import chi2

    worst, odd = 1.0, sigma
    for samples in groups:
        total = float(np.square(samples).sum()) / sigma**2
        tails = chi2.cdf(total, samples.size), chi2.sf(total, samples.size)
        chance = min(1.0, 2 * float(min(tails)))
        if chance <= worst:
            worst, odd = chance, sigma * math.sqrt(total / samples.size)
    return Check(name, f"{sigma:.4g}", f"{odd:.4g}", min(1.0, len(groups) * worst))


def at_least(name: str, samples: Floats, sigma: float) -> Check:
    """The samples are Gaussian of this deviation or more: by the sum of their squares."""
    from scipy.stats import chi2

    total = float(np.square(samples).sum()) / sigma**2
    seen = sigma * math.sqrt(total / samples.size)
    chance = float(chi2.cdf(total, samples.size))
    return Check(name, f"{sigma:.4g} at least", f"{seen:.4g}", chance)


def farthest(name: str, samples: Floats) -> Check:
    """The largest of all is neither nearer nor farther out than that of N(0, 1)."""
    largest = float(np.abs(samples).max())
    beyond = math.log1p(-min(math.erfc(largest / math.sqrt(2)), 1 - 1e-16)) * samples.size
    nearer, farther = math.exp(beyond), -math.expm1(beyond)
    claim = "as far as Gaussian noise"
    return Check(name, claim, f"{largest:.3g} deviations", min(1.0, 2 * min(nearer, farther)))


def shape(name: str, samples: Floats) -> Check:
    """Excess kurtosis 0 and mean 0, as Gaussian noise has; -1.2 is uniform, 3 Laplace."""
    count = samples.size
    squares = np.square(samples)
    kurtosis = float(np.square(squares).mean()) / max(float(squares.mean()) ** 2, 1e-300) - 3
    mean = float(samples.mean()) / max(float(samples.std()), 1e-150)
    chance = 2 * min(
        _two_sided(kurtosis / math.sqrt(24 / count)), _two_sided(mean * math.sqrt(count))
    )
    seen = f"mean {mean:+.4f} deviations, kurtosis {kurtosis:+.3f}"
    return Check(name, "0 and 0", seen, min(1.0, chance))


def unrelated_rows(name: str, rows: Floats) -> Check:
    """No row of noise (rows, weights) is like another: the largest of all their correlations."""
    count = len(rows)
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)
    likeness = np.abs(unit @ unit.T)
    np.fill_diagonal(likeness, 0.0)
    largest = float(likeness.max())
    chance = _two_sided(largest * math.sqrt(rows.shape[1])) * count * (count - 1) / 2
    return Check(name, "none alike", f"correlation {largest:.3f} at most", min(1.0, chance))


def unrelated_weights(name: str, rows: Floats) -> Check:
    """Within rows (rows, weights) no stretch of noise comes again: all shifts at once."""
    size = rows.shape[1]
    power = np.square(np.abs(np.fft.rfft(rows, axis=1))).sum(0)
    shifted = np.fft.irfft(power, n=size)
    alike = np.abs(shifted[1 : size // 2 + 1]) / max(float(shifted[0]), 1e-300)
    deviations = alike * math.sqrt(rows.size)
    if size % 2 == 0:
        deviations[-1] /= math.sqrt(2)  # half way around each product is counted twice
    chance = _two_sided(float(deviations.max())) * deviations.size
    return Check(name, "none alike", f"correlation {alike.max():.3f} at most", min(1.0, chance))


def drawn(
    name: str,
    counts: Floats,
    films: npt.NDArray[np.int64],
    size: int,
    rate: float,
    noise: float,
) -> Check:
    """The mean share of patients in a step is the rate, whether they have one film or several, and
    in each group by itself.

    counts: (steps, groups), each with noise; films: that each patient of a group has; size:
    patients of a group.
    """
    worst, seen = 1.0, rate
    kinds = [counts[:, films == kind] for kind in np.unique(films)]
    groups = list(counts.T) if counts.shape[1] > 1 else []
    for found in (*kinds, *groups):
        error = math.sqrt((size * rate * (1 - rate) + noise**2) / found.size)
        chance = _two_sided((float(found.mean()) - size * rate) / error)
        if chance <= worst:
            worst, seen = chance, float(found.mean()) / size
    return Check(name, f"{rate:.4g}", f"{seen:.4g}", min(1.0, (len(kinds) + len(groups)) * worst))


def spread(name: str, totals: Floats, variance: float, per: str) -> Check:
    """Sums of independent draws vary so much: too little for batches of one size or for a shuffled
    order, too much where patients are drawn together."""
    from scipy.stats import chi2

    ratio = float(np.square(totals).sum()) / variance
    tails = chi2.cdf(ratio, totals.size), chi2.sf(ratio, totals.size)
    seen = f"{variance and ratio * variance / totals.size:.4g}"
    return Check(name, f"variance {variance:.4g} {per}", seen, min(1.0, 2 * float(min(tails))))


def unrelated_draws(name: str, counts: Floats, runs: int) -> Check:
    """Who is drawn in a step says nothing of the next one, nor of the same one in another round.

    counts: (runs · steps, groups), centred, of deviation one.
    """
    by_run = counts.reshape(runs, -1, counts.shape[1])
    products = [np.concatenate([by_run[:, :-1] * by_run[:, 1:]]).ravel()]
    products += [(by_run[0] * other).ravel() for other in by_run[1:]]
    worst, odd = 1.0, 0.0
    tried = 0
    for found in products:
        if found.size:
            tried += 1
            chance = _two_sided(float(found.sum()) / math.sqrt(found.size))
            if chance <= worst:
                worst, odd = chance, float(found.mean())
    return Check(name, "unrelated", f"correlation {odd:+.3f}", min(1.0, tried * worst))


def uniform_words(name: str, words: npt.NDArray[np.uint32], bits: int) -> Check:
    """Every byte of the words is as likely as any other."""
    from scipy.stats import chisquare

    chances = []
    for shift in range(0, bits, 8):
        found = np.bincount((words >> np.uint32(shift)) & np.uint32(255), minlength=256)
        chances.append(float(chisquare(found).pvalue))
    chance = min(1.0, len(chances) * min(chances))
    return Check(name, "uniform", f"chance {chance:.2g}", chance)


def at_most(name: str, groups: Sequence[Floats], most: float) -> Check:
    """No group of canaries has a larger mean than `most`; one-sided, by its own deviation."""
    worst, largest, give = 1.0, -math.inf, 0.0
    for samples in groups:
        mean = float(samples.mean())
        error = float(samples.std(ddof=1)) / math.sqrt(samples.size)
        chance = _two_sided((mean - most) / max(error, 1e-150)) / 2 if mean > most else 1.0
        if chance < worst or (worst == 1.0 and mean > largest):
            worst, largest, give = min(worst, chance), mean, error
    seen = f"{largest:.4g} ± {give:.2g}"  # one deviation of a mean, which chance alone gives
    return Check(name, f"{most:.4g} at most", seen, min(1.0, len(groups) * worst))


def _two_sided(deviations: float) -> float:
    if math.isnan(deviations):
        return 0.0
    return math.erfc(abs(deviations) / math.sqrt(2))
