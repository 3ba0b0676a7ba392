"""`primia audit mechanism`: canaries through the real path, and what they say of the claim.

Two parts. *Releases*: canaries in or out by a fair coin go through whole rounds, and what whoever
knows everybody else sees of them bounds ε from below. *Steps*: the conditions that the accountant's
figure rests on are tried one by one. Either may refute the claim; neither can prove it.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable

import numpy as np

from primia.audit.bounds import Coins, Scores
from primia.audit.canaries import MOST, Canaries
from primia.audit.checks import (
    Check,
    Floats,
    at_least,
    at_most,
    exact,
    uniform_words,
    unrelated_rows,
)
from primia.audit.path import Hospitals, Release, rehearsed
from primia.audit.steps import watch
from primia.audit.verdict import FAR_DELTA, Evidence, Judgement
from primia.config.plan import StudyPlan
from primia.config.strict import validate
from primia.errors import ConfigError
from primia.findings import Finding
from primia.learning.terms import is_distributed, noise_multiplier
from primia.privacy import DistributedDpSgd, DpSgd, epsilon
from primia.settle import settled_digest
from primia.types import Ring

Z = 3.09
CANARIES = 5000
FEWEST = 500
_MOST_ROUNDS = 16
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
    rounds = _rounds(plan)
    seen = releases(plan, canaries, rounds, on_step, device)
    judged = Judgement(seen, z)
    on_step(1, 1)
    return Finding(
        command="audit mechanism",
        title="Audit of the release mechanism",
        question="Do made-up patients, in or out by a coin, show more than the claimed ε allows?",
        verdict=judged.verdict,
        answer=judged.answer,
        limits=(
            f"A claim that holds is refuted once in {1 / judged.false_alarms:.0f} audits. Not "
            "refuted is not proved. The ε is of rounds with every patient in them, not the plan's. "
            "This sees the release step on this machine, and what its canaries "
            "reach; not a leak beside the sum, nor a machine that does otherwise in a study."
        ),
        figures=judged.figures() | {"rounds": rounds},
        tables=judged.tables(),
        seconds=time.time() - began,
        made_at=began,
        plan=settled_digest(plan),
    )


def check_numbers(canaries: int, z: float) -> None:
    """Raise ConfigError for numbers that no audit can be made with."""
    if not FEWEST <= canaries < MOST:
        raise ConfigError(f"canaries {canaries}: must be from {FEWEST} to {MOST - 1}")
    if not 1.0 <= z <= 6.0:  # so for NaN, too
        raise ConfigError(f"z {z}: must be from 1 to 6")


def _rounds(plan: StudyPlan) -> int:
    """So many that the canaries stand out of the noise, and two at least."""
    noise = noise_multiplier(plan)
    return 2 if noise is None else min(_MOST_ROUNDS, max(2, math.ceil(noise**2)))


def releases(
    plan: StudyPlan, count: int, rounds: int, on_step: OnStep, device: str = "cpu"
) -> Evidence:
    """Whole rounds of one step each with the same canaries in all of them, none left out by
    sampling, and the steps watched one by one.

    The ε claimed is that of these rounds, at rate 1: without the help of sampling.
    """
    terms = rehearsed(plan, rate=1.0, steps=1, most_patients=count)
    assert terms.privacy != "none"
    assert terms.privacy.noise_multiplier is not None
    kind = DistributedDpSgd if is_distributed(plan) else DpSgd
    whole = [kind(1.0, terms.privacy.noise_multiplier, rounds)]
    canaries = Canaries.of(terms, count + 1)
    sites = Hospitals(terms, canaries, device)
    coins = (np.frombuffer(os.urandom(count), np.uint8) & 1).astype(bool)
    patients, stranger = np.flatnonzero(coins), np.array([count])
    played = []
    for done in range(rounds):
        played.append(sites.release(patients, stranger))
        on_step(done, rounds + 1)
    checks = _of_releases(sites, played, patients.size)
    scores = None
    seen = [r.seen for r in played if r.seen is not None]
    if len(seen) == rounds:
        scores = canaries.scores(np.mean(seen, axis=0))[:count]
        checks += _of_sums(sites, played, np.stack(seen), scores, coins)
    delta = terms.privacy.delta
    return Evidence(
        scores=scores,
        included=coins,
        claimed=epsilon(whole, delta),
        claimed_far=epsilon(whole, FAR_DELTA),
        delta=delta,
        conditions=(*checks, *watch(plan, device)),
        played=f"{rounds} rounds at rate 1",
    )


def _of_sums(
    sites: Hospitals, played: list[Release], seen: Floats, scores: Scores, coins: Coins
) -> list[Check]:
    """What the sums have to hold: new noise, enough of it, and of no patient more than one norm."""
    canaries = sites.canaries
    own = np.stack([canaries.noise(r.work.steps[0]).ravel() for r in played])
    found = [unrelated_rows("noise of the same patients' sums", own)]
    if is_distributed(sites.plan):  # a site's own noise is watched before rounding may swallow it
        assert sites.plan.privacy != "none"
        assert sites.plan.privacy.noise_multiplier is not None
        least = sites.plan.privacy.noise_multiplier
        found.append(at_least("noise of a sum", canaries.noise(seen), least))
    count = scores.size
    films, lengths = canaries.films_of(np.arange(count)), canaries.lengths().numpy()[:count]
    groups = [scores[coins]]
    groups += [scores[coins & (kind == k)] for kind in (films, lengths) for k in np.unique(kind)]
    return [*found, at_most("what a patient adds, in clip norms", groups, 1.0)]


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
