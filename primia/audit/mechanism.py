"""`primia audit mechanism`: canaries through the real path, and what they say of the claim.

Two parts. *Releases*: canaries in or out by a fair coin go through whole rounds, and what whoever
knows everybody else sees of them bounds ε from below. *Steps*: the conditions that the accountant's
figure rests on are tried one by one. Either may refute the claim; neither can prove it.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from primia.audit.bounds import Coins, Scores, error_rate, fit_gaussian, rank_bound
from primia.audit.canaries import MOST, Canaries
from primia.audit.checks import (
    Check,
    at_least,
    at_most,
    exact,
    uniform_words,
    unrelated_rows,
)
from primia.audit.path import Hospitals, Release, rehearsed
from primia.audit.steps import watch
from primia.config.plan import StudyPlan
from primia.config.strict import validate
from primia.errors import ConfigError
from primia.findings import Figure, Finding, Table, Verdict
from primia.learning.terms import is_distributed
from primia.privacy import DistributedDpSgd, DpSgd, epsilon
from primia.settle import settled_digest
from primia.types import Ring

Z = 3.09
CANARIES = 5000
FEWEST = 500
GUESSED = 10  # one in so many canaries is guessed in or out; fixed before looking
_MOST_ROUNDS = 16
FAR_DELTA = 1e-9
"""Where the rank bound is taken: it gives twice δ away for each canary. Who claims (ε, δ) by this
accountant claims its ε there, too."""
OnStep = Callable[[int, int], None]

STAND_IN = validate(
    StudyPlan,
    {
        "study": "stand-in",
        "model": {"name": "small-cnn", "input_size": 28, "classes": ["one", "other"]},
        "sites": ["a", "b", "c"],
        "rounds": 12,
        "training": {
            "patient_sampling_rate": 0.2,
            "local_steps": 10,
            "expected_patients": 150,
            "learning_rate": 0.3,
            "momentum": 0.9,
        },
        "privacy": {"clip_norm": 1.0, "delta": 1e-4, "noise_multiplier": 1.0},
    },
    where="the stand-in for a plan",
)
"""Where no plan is given."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What the canaries gave. scores: None when a sum did not come out.

    claimed: ε at `delta` of the rounds played, all canaries in every step, so without the help of
    sampling; claimed_far: at `FAR_DELTA`.
    """

    scores: Scores | None
    included: Coins
    rounds: int
    claimed: float
    claimed_far: float
    delta: float
    checks: tuple[Check, ...]


def audit_mechanism(
    plan: StudyPlan,
    *,
    canaries: int = CANARIES,
    z: float = Z,
    device: str = "cpu",
    on_step: OnStep = lambda _done, _of: None,
) -> Finding:
    """The finding for `plan`. z: deviations of a one-sided bound, 3.09 for an error in a thousand.

    device: where the steps are made.

    A claim that is met is refuted with probability 2 Φ(-z) at most: Φ(-z) by the Gaussian fit, and
    Φ(-z) by all else together. Raises ConfigError for `privacy: none` and for wrong numbers.
    """
    check_numbers(canaries, z)
    began = time.time()
    seen = releases(plan, canaries, on_step, device)
    conditions = (*seen.checks, *watch(plan, device))
    on_step(1, 1)
    found = judge(seen, conditions, z, began=began)
    return replace(found, plan=settled_digest(plan))


def check_numbers(canaries: int, z: float) -> None:
    """Raise ConfigError for numbers that no audit can be made with."""
    if not FEWEST <= canaries < MOST:
        raise ConfigError(f"canaries {canaries}: must be from {FEWEST} to {MOST - 1}")
    if not 1.0 <= z <= 6.0:  # so for NaN, too
        raise ConfigError(f"z {z}: must be from 1 to 6")


def releases(plan: StudyPlan, count: int, on_step: OnStep, device: str = "cpu") -> Seen:
    """Whole rounds of one step each, with the same canaries in all of them."""
    terms = rehearsed(plan, rate=1.0, steps=1, most_patients=count)
    assert terms.privacy != "none"
    assert terms.privacy.noise_multiplier is not None
    noise = terms.privacy.noise_multiplier
    rounds = min(_MOST_ROUNDS, max(2, math.ceil(noise**2)))
    kind = DistributedDpSgd if is_distributed(plan) else DpSgd
    delta = terms.privacy.delta
    claimed, far = (epsilon([kind(1.0, noise, rounds)], d) for d in (delta, FAR_DELTA))
    canaries = Canaries.of(terms, count + 1)
    sites = Hospitals(terms, canaries, device)
    coins = (np.frombuffer(os.urandom(count), np.uint8) & 1).astype(bool)
    patients, stranger = np.flatnonzero(coins), np.array([count])
    played = []
    for done in range(rounds):
        played.append(sites.release(patients, stranger))
        on_step(done, rounds + 1)
    checks = _of_releases(sites, played, patients.size)
    seen = [r.seen for r in played if r.seen is not None]
    if len(seen) < rounds:
        return Seen(None, coins, rounds, claimed, far, delta, tuple(checks))
    own = np.stack([canaries.noise(r.work.steps[0]).ravel() for r in played])
    checks.append(unrelated_rows("noise of the same patients' sums", own))
    if is_distributed(plan):  # a site's own noise is watched before rounding may swallow it
        noises = np.stack([canaries.noise(s) for s in seen])
        checks.append(at_least("noise of a sum", noises, noise))
    scores = canaries.scores(np.mean(seen, axis=0))[:count]
    films, lengths = canaries.films_of(np.arange(count)), canaries.lengths().numpy()[:count]
    groups = [scores[coins]]
    groups += [scores[coins & (kind == k)] for kind in (films, lengths) for k in np.unique(kind)]
    checks.append(at_most("what a patient adds, in clip norms", groups, 1.0))
    return Seen(scores, coins, rounds, claimed, far, delta, tuple(checks))


def _of_releases(sites: Hospitals, played: list[Release], patients: int) -> list[Check]:
    """What the masked aggregation and the encoding have to keep to."""
    reason = next((r.reason for r in played if r.seen is None), "")
    cancel = all(r.masks_cancel for r in played)
    found = [
        exact("masked sum", "comes out", met=not reason, seen=reason or "came out"),
        exact("masks", "cancel", met=cancel, seen="cancelled" if cancel else "left in the sum"),
    ]
    losses = [loss for r in played if (loss := sites.loss(r.work, patients)) is not None]
    if losses:
        most = 1.0 if sites.fixed.stochastic else 0.5
        whole = max(losses) <= most + 0.01
        found.append(
            exact("encoding", f"{most} steps off at most", met=whole, seen=f"{max(losses):.3g}")
        )
    bits = sites.fixed.wire_bits
    masked = [r.masked for r in played if r.masked is not None]
    if len(masked) == len(played):
        bare, words, paired, own = (
            [sites.fixed.layout.split(v)["update"] for v in vectors]
            for vectors in ([r.work.vector for r in played], *zip(*masked, strict=True))
        )
        found.append(uniform_words("masked words", np.concatenate(words), bits))
        found.append(uniform_words("masks with others", np.concatenate(paired), bits))
        found.append(uniform_words("a site's own mask", np.concatenate(own), bits))
        found.append(uniform_words("masks of two rounds", _apart(words, bare), bits))
    return found


def _apart(words: list[Ring], bare: list[Ring]) -> Ring:
    """The difference of two rounds' masks, which is uniform unless they have one in common."""
    first, second = (w - b for w, b in zip(words[:2], bare[:2], strict=True))
    return np.asarray(first - second, np.uint32)


def judge(seen: Seen, conditions: tuple[Check, ...], z: float, *, began: float) -> Finding:
    """The verdict on the claim, and how it was reached."""
    failure = error_rate(z)
    each = failure / (len(conditions) + 1)
    fit_epsilon = mu = rank = 0.0
    if seen.scores is not None:
        fit = fit_gaussian(seen.scores, seen.included, z)
        mu, fit_epsilon = fit.mu, fit.epsilon(seen.delta)
        guesses = seen.included.size // GUESSED
        rank = rank_bound(
            seen.scores, seen.included, guesses=guesses, delta=FAR_DELTA, failure=each
        )
    broken = [c for c in conditions if not c.chance >= each]  # also where it is no number
    over = fit_epsilon > seen.claimed or rank > seen.claimed_far
    refuted = over or bool(broken)
    figures: dict[str, Figure] = {
        "epsilon_claimed": seen.claimed,
        "epsilon_gaussian_lower": fit_epsilon,
        "epsilon_rank_claimed": seen.claimed_far,
        "epsilon_rank_lower": rank,
        "mu_estimate": mu,
        "delta": seen.delta,
        "rounds": seen.rounds,
        "canaries": int(seen.included.size),
        "z": z,
        "false_alarm_rate": 2 * failure,
        "conditions": len(conditions),
        "conditions_broken": len(broken),
    }
    return Finding(
        command="audit mechanism",
        title="Audit of the release mechanism",
        question="Do made-up patients, in or out by a coin, show more than the claimed ε allows?",
        verdict=Verdict.REFUTED if refuted else Verdict.NOT_REFUTED,
        answer=_answer(seen, fit_epsilon, broken, over=over),
        limits=(
            f"A claim that holds is refuted once in {1 / (2 * failure):.0f} audits. Not refuted is "
            "not proved. The ε is of rounds with every patient in them, not the plan's. "
            "This sees the release step on this machine, and what its canaries "
            "reach; not a leak beside the sum, nor a machine that does otherwise in a study."
        ),
        figures=figures,
        tables=(_bounds(seen, fit_epsilon, rank, z), conditions_table(conditions, each)),
        seconds=time.time() - began,
        made_at=began,
    )


def _answer(seen: Seen, fit: float, broken: list[Check], *, over: bool) -> str:
    bound = (
        f"ε is at least {fit:.2f} over {seen.rounds} rounds at rate 1, claimed {seen.claimed:.2f}"
    )
    if over:
        bound = f"{bound}: more is shown than was claimed"
    if broken:
        first = broken[0]
        more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        bound += f"; broken: {first.name}{more} (claimed {first.claim}, seen {first.seen})"
    else:
        bound += f"; {seen.included.size} canaries, and no condition of the price was found broken"
    return bound


def _bounds(seen: Seen, fit: float, rank: float, z: float) -> Table:
    return Table(
        (f"ε over {seen.rounds} rounds at rate 1", "at least", "claimed", "rests on"),
        (
            (
                f"δ = {seen.delta:g}",
                f"{fit:.3f}",
                f"{seen.claimed:.3f}",
                f"Gaussian fit, z = {z:g}",
            ),
            (f"δ = {FAR_DELTA:g}", f"{rank:.3f}", f"{seen.claimed_far:.3f}", "ranks alone"),
        ),
    )


def conditions_table(conditions: Sequence[Check], each: float) -> Table:
    """Each condition, what was seen of it, and whether it was met."""
    rows = tuple(
        (c.name, c.claim, c.seen, "met" if c.chance >= each else "broken") for c in conditions
    )
    return Table(("condition", "claimed", "seen", ""), rows)
