"""What an attack runs on: a plan, and films of the site's own or made up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from primia.config.plan import StudyPlan, load_plan
from primia.config.strict import validate
from primia.demo.plans import GIVEN, SYNTHETIC, Recipe
from primia.demo.plans import plan as demo_plan
from primia.errors import ConfigError, DataError
from primia.imaging.archives import read_npz
from primia.imaging.dataset import Films, Indices
from primia.imaging.division import FILE_SIZE, classes_of, source_of
from primia.imaging.readers import read_pool
from primia.imaging.synth import CLASSES, synthesise
from primia.learning.local import to_input
from primia.settle import settle, settled_digest
from primia.types import Digest

GALLERY = 256  # films among which the true one is looked for
SIZE = 28  # pixels; where neither plan nor films say otherwise
_PATIENTS = 420  # synthetic ones: about 800 films, a gallery and others to learn the tone from


@dataclass(frozen=True)
class Case:
    """A settled plan, and films at its size. own: they are a hospital's, not made up.

    study: the plan before it was given another size, where it was.
    """

    plan: StudyPlan
    films: Films
    own: bool
    study: StudyPlan | None = None

    @property
    def digest(self) -> Digest:
        """Of the study's plan, as it is signed."""
        return settled_digest(self.study or self.plan)

    def size_text(self) -> str:
        """A sentence on the size of what was attacked, for the limits of a finding."""
        here = self.plan.model.input_size
        study = here if self.study is None else self.study.model.input_size
        beside = (
            "" if study == here else f"; the plan's have {study}, and its network other weights"
        )
        return f"Films of {here} pixels{beside}. "


def case_of(
    plan: Path | None,
    data: Path | None,
    size: int | None,
    seed: int,
    *,
    patients: int = _PATIENTS,
) -> Case:
    """Read what the command line named; what it left out is the demonstration's.

    size: in place of the plan's. patients: synthetic ones. Raises ConfigError, DataError.
    """
    study = None if plan is None else load_plan(plan)
    named = None if study is None else resized(study, size)
    if data is None:
        chosen = settle(named or _demonstration(CLASSES, size or SIZE, SYNTHETIC))
        return Case(chosen, drawn(chosen, seed, patients=patients), own=False, study=study)
    source = source_of(data)
    classes = named.model.classes if named else classes_of(source)
    wanted = named.model.input_size if named else size
    if wanted is None and source.kind == "npz":
        pool = read_npz(source, classes, None)
    else:
        pool = read_pool(source, classes=classes, input_size=wanted or FILE_SIZE)
    films = pool.films()
    chosen = settle(named or _demonstration(classes, films.size, GIVEN))
    return Case(chosen, films, own=True, study=study)


def resized(plan: StudyPlan, size: int | None) -> StudyPlan:
    """The plan for films of another size. Raises ConfigError for a size that none can have."""
    if size is None:
        return plan
    raw = plan.model_dump(mode="json")
    raw["model"]["input_size"] = size
    return validate(StudyPlan, raw, where="the plan with --size")


def _demonstration(classes: tuple[str, ...], size: int, recipe: Recipe) -> StudyPlan:
    raw = demo_plan(
        sites=["hospital-a", "hospital-b", "hospital-c"],
        classes=classes,
        input_size=size,
        patients_per_site=320,
        rounds=None,
        recipe=recipe,
    )
    return validate(StudyPlan, raw, where="the demonstration's plan")


def drawn(plan: StudyPlan, seed: int, *, patients: int = _PATIENTS) -> Films:
    """Synthetic films at a plan's size. Raises ConfigError where it has too many classes.

    A plan whose classes cannot be drawn gets films of others: what a gradient shows of a film does
    not hang on the name of its class.
    """
    classes = plan.model.classes
    if not set(classes) <= set(CLASSES):
        if len(classes) > len(CLASSES):
            raise ConfigError(
                f"the plan has {len(classes)} classes, synthetic films have {len(CLASSES)}; give "
                "films with --data"
            )
        classes = CLASSES[: len(classes)]
    return synthesise(patients, size=plan.model.input_size, seed=seed, classes=classes)


@dataclass(frozen=True, eq=False)
class Gallery:
    """The films among which a rebuilt one is looked for, and others that the attacker may know.

    index: of the gallery's films among all, one a patient where there are enough patients.
    seen: the gallery as a network sees it, every film at mean 0 and deviation 1, so that exposure,
        which no gradient holds, counts neither for nor against: float32 (GALLERY, size, size).
    mean, deviation: the tone of films in general, in grey from 0 to 1.
    """

    films: Films
    index: Indices
    others: Indices
    seen: torch.Tensor
    mean: float
    deviation: float

    @property
    def box(self) -> tuple[float, float]:
        """Black and white, as the network sees them."""
        return -self.mean / self.deviation, (1 - self.mean) / self.deviation

    def grey(self, seen: torch.Tensor) -> torch.Tensor:
        """From what the network sees to grey of the usual tone, 0 to 1."""
        return (seen * self.deviation + self.mean).clamp(0, 1)


def gallery_of(films: Films, seed: int, *, size: int = GALLERY) -> Gallery:
    """Choose a gallery at random. Raises DataError for fewer films than it holds."""
    if len(films) < size:
        raise DataError(
            f"the attack looks for a film among {size}, and there are {len(films)}; give more "
            "films, or leave --data out for synthetic ones"
        )
    order = np.random.default_rng(seed).permutation(len(films))
    _, first = np.unique(films.patients[order], return_index=True)
    later = np.setdiff1d(np.arange(len(films)), first)
    index = order[np.concatenate([np.sort(first), later])[:size]]
    others = np.setdiff1d(np.arange(len(films)), index)
    known = films.pixels[others if len(others) >= size // 4 else index].astype(np.float32) / 255
    return Gallery(
        films,
        index,
        others,
        as_seen(films, index),
        float(known.mean()),
        float(known.std((1, 2)).mean()),
    )


def as_seen(films: Films, index: Sequence[int] | Indices) -> torch.Tensor:
    """Films as a network sees them, one channel: float32 (n, size, size)."""
    return to_input(torch.from_numpy(films.pixels[np.asarray(index)]), 1, "cpu")[:, 0]
