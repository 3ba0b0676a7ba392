"""Films from one update of this study, protected more and more: `primia attack invert`.

One site's step with one patient's film in it, the worst case for that patient, is released plain,
clipped, and with the plan's noise; and in a masked sum with the films of other sites. Each release
is attacked alike. That the attack works is shown on a network that is easy to invert, beside the
study's own.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

from primia.audit.films import Case, Gallery, gallery_of
from primia.audit.inversion import Effort, Method, Problem, Rebuilt, by_direction, by_value
from primia.audit.likeness import psnr, rank_of, ssim
from primia.audit.release import Gradient, Releases, Rows, privacy_of
from primia.audit.threads import one_thread
from primia.federation.contribution import Entropy
from primia.imaging.dataset import Films
from primia.learning.terms import LocalTerms

Way = Literal["plain", "clipped", "as planned", "masked sum", "one upload"]
WAYS: tuple[Way, ...] = ("plain", "clipped", "as planned", "masked sum", "one upload")
MOST_SUMMED = 8  # films in a masked sum; the search is for all of them at once

OnPart = Callable[[str, float], None]
"""Called often with (what is attacked, share of the whole attack done)."""


STEPS = {"direction": 250, "value": 60}  # enough at 28 and at 64 px


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """films: attacked one by one in each way, the sums aside. seconds: for the whole attack.

    summed: sites in the masked sum. method: direction is Inverting Gradients, value is DLG.
    """

    films: int = 2
    steps: int = STEPS["direction"]
    seconds: float = 110.0
    summed: int = 3
    seed: int = 0
    method: Literal["direction", "value"] = "direction"


@dataclass(frozen=True, eq=False)
class Attacked:
    """One film, attacked in one way. rank: among the gallery; likeness beside it."""

    way: Way
    film: int  # place in the gallery
    rank: int
    psnr: float
    ssim: float
    rebuilt: torch.Tensor  # (size, size), as the network sees it
    distance: float


@dataclass(frozen=True, eq=False)
class Trial:
    """All attacks on one network."""

    name: str
    weights: int
    found: tuple[Attacked, ...]

    def of(self, way: Way) -> list[Attacked]:
        """Those of one way of release."""
        return [a for a in self.found if a.way == way]

    def ranks(self, way: Way) -> list[int]:
        return [a.rank for a in self.of(way)]

    def named(self, way: Way) -> int:
        """Films that came first of the gallery."""
        return self.ranks(way).count(1)

    def median(self, way: Way, what: Literal["rank", "psnr", "ssim"]) -> float:
        return statistics.median(float(getattr(a, what)) for a in self.of(way))


def mean_film_psnr(gallery: Gallery) -> float:
    """The zero line: what the mean film scores against each film of the gallery."""
    mean = gallery.grey(gallery.seen.mean(0))
    return statistics.fmean(psnr(mean, gallery.grey(film)) for film in gallery.seen)


class Inversion:
    """Attacks networks under one plan, on films of one gallery."""

    def __init__(self, case: Case, wishes: Wishes, entropy: Entropy = os.urandom) -> None:
        self.case, self.wishes, self._entropy = case, wishes, entropy
        self.gallery = gallery_of(case.films, wishes.seed)
        self.noise = privacy_of(LocalTerms.of(case.plan)).noise_multiplier
        self._method: Method = by_direction if wishes.method == "direction" else by_value
        self._began = time.monotonic()

    @property
    def unattacked(self) -> Films:
        """All films of patients of whom none is attacked."""
        most = max(self.wishes.films, self.wishes.summed)
        attacked = self.case.films.patients[self.gallery.index[:most]]
        return self.case.films.select(~np.isin(self.case.films.patients, attacked))

    def attack(
        self,
        name: str,
        model: nn.Module,
        ways: Sequence[Way] = WAYS,
        on_part: OnPart = lambda _what, _share: None,
        part: tuple[float, float] = (0.0, 1.0),
    ) -> Trial:
        """Every way of release. part: from where to where of the whole attack this network goes,
        which also divides the seconds."""
        releases = Releases(model, self.case.plan, self._entropy)
        jobs = [(way, films) for way in ways for films in self._films(way)]
        total = sum(len(films) for _, films in jobs)
        spent = 0
        found: list[Attacked] = []
        for number, (way, films) in enumerate(jobs):
            begin, end = (
                part[0] + (part[1] - part[0]) * x / total for x in (spent, spent + len(films))
            )
            spent += len(films)

            def heard(done: int, of: int, way: Way = way, a: float = begin, b: float = end) -> None:
                on_part(f"{name}: {way}", a + (b - a) * done / of)

            until = self._began + self.wishes.seconds * end
            effort = Effort(self.wishes.steps, max(0.05, until - time.monotonic()))
            with one_thread():
                found += self._one(releases, way, films, effort, number, heard)
            on_part(f"{name}: {way}", end)
        weights = sum(p.numel() for p in releases.parameters)
        return Trial(name, weights, tuple(found))

    def _films(self, way: Way) -> list[list[int]]:
        """Places in the gallery of the films that go into each release of that way."""
        if way == "masked sum":
            return [list(range(min(self.wishes.summed, MOST_SUMMED)))]
        if way == "one upload":
            return [[0]]
        return [[film] for film in range(self.wishes.films)]

    def _one(
        self,
        releases: Releases,
        way: Way,
        films: list[int],
        effort: Effort,
        number: int,
        on_step: Callable[[int, int], None],
    ) -> list[Attacked]:
        rows = [Rows.of(self.case.films, [self.gallery.index[f]]) for f in films]
        seen = self._release(releases, way, rows)
        problem = Problem(
            model=releases.model,
            seen=seen,
            labels=torch.cat([r.labels for r in rows]),
            size=self.case.films.size,
            channels=self.case.plan.model.channels,
            box=self.gallery.box,
        )
        generator = torch.Generator().manual_seed(1000 * self.wishes.seed + number)
        rebuilt = self._method(problem, effort, generator, on_step)
        return [self._judge(way, film, rebuilt) for film in films]

    def _release(self, releases: Releases, way: Way, rows: list[Rows]) -> Gradient:
        match way:
            case "plain":
                return releases.plain(rows[0])
            case "clipped":
                return releases.clipped(rows[0])
            case "as planned":
                return releases.noised(rows[0])
            case "masked sum":
                return releases.masked([releases.clipped(r) for r in rows])[0]
            case "one upload":
                return releases.one_upload([releases.clipped(r) for r in rows * 3])

    def _judge(self, way: Way, film: int, rebuilt: Rebuilt) -> Attacked:
        """By the rebuilt film that is most like the true one: of a sum, any may be it."""
        seen, true = self.gallery.seen, self.gallery.seen[film]
        best = min(rebuilt.films, key=lambda f: rank_of(film, f, seen))
        grey, wanted = self.gallery.grey(best), self.gallery.grey(true)
        return Attacked(
            way=way,
            film=film,
            rank=rank_of(film, best, seen),
            psnr=psnr(grey, wanted),
            ssim=ssim(grey, wanted),
            rebuilt=best,
            distance=rebuilt.distance,
        )
