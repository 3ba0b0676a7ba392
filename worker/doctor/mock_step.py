"""A private step of the plan's network on made-up films, on the device that the site file names.

The engine is that of a study; nothing is stored or charged, and the weights are thrown away.
"""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass, replace

import numpy as np
import torch

from primia.config.plan import ModelTerms, StudyPlan
from primia.config.site import Caps, Compute
from primia.imaging.dataset import Films
from primia.learning.local import train_locally
from primia.learning.models import build_for, flatten
from primia.learning.terms import LocalTerms, Privacy
from worker.devices import devices_of
from worker.doctor.visit import Seen
from worker.limits import memory_told

_FEW, _MOST = 4, 64  # patients in a step
_AFFORDABLE_S = 4.0

STAND_IN = LocalTerms(
    model=ModelTerms(name="small-cnn", input_size=28, classes=("one", "other")),
    sampling_rate=1.0,
    local_steps=1,
    expected_patients=32,
    max_films_per_patient=1,
    learning_rate=0.1,
    momentum=0.0,
    privacy=Privacy(clip_norm=1.0, noise_multiplier=1.0),
)
"""While no plan is known."""


def model_bytes(plan: StudyPlan) -> int:
    """Bytes of a model of the plan."""
    return 4 * flatten(build_for(plan.model)).size


@dataclass(frozen=True)
class _Trial:
    seconds: float
    patients: int


def private_step(plan: StudyPlan | None, compute: Compute, caps: Caps | None) -> Seen[None]:
    """A step of local work on the configured device, timed. Raises StateError, PolicyRefused."""
    terms = STAND_IN if plan is None else LocalTerms.of(plan)
    device = devices_of(compute)[0]
    torch.set_num_threads(compute.threads)
    with memory_told():
        _step(terms, device, _FEW)  # the first one loads and compiles what the others use
        few = _step(terms, device, _FEW)
        fit = int(_FEW * _AFFORDABLE_S / few.seconds)
        trial = _step(terms, device, max(_FEW, min(_MOST, round(terms.expected_patients), fit)))
    used = _memory(device)
    kind = "private step" if terms.privacy else "step (without privacy, as the plan says)"
    says = (
        f"a {kind} of {terms.model.name} with {trial.patients} made-up patients took "
        f"{trial.seconds:.2f} s on {device}; {used / 2**30:.1f} GiB at most"
    )
    if plan is None:
        return Seen(None, f"{says} (a stand-in, for the plan is not known)")
    each = trial.seconds * max(1.0, terms.expected_patients / trial.patients)
    training = each * terms.local_steps
    concern = ""
    if training > plan.schedule.deadline_s:
        concern = (
            f"a round's training would take about {training / 60:.0f} minutes here, longer than "
            f"the {plan.schedule.deadline_s / 60:.0f} that the plan gives, so rounds would go on "
            "without this site; use a GPU or more threads (compute:), or ask for a longer "
            "deadline_s"
        )
    elif caps and caps.max_memory_gib and device == "cpu" and used > caps.max_memory_gib * 2**30:
        concern = (
            f"this took {used / 2**30:.1f} GiB, more than caps.max_memory_gib allows; raise it, or "
            "training is declined for want of memory"
        )
    return Seen(None, f"{says}; about {training:.0f} s of training in a round", concern)


def _step(terms: LocalTerms, device: str, patients: int) -> _Trial:
    terms = replace(
        terms, sampling_rate=1.0, local_steps=1, expected_patients=patients, max_films_per_patient=1
    )
    size, classes = terms.model.input_size, len(terms.model.classes)
    who = np.arange(patients, dtype=np.int64)
    pixels = np.random.default_rng().integers(0, 256, (patients, size, size), np.uint8)
    weights = flatten(build_for(terms.model))
    began = time.monotonic()
    train_locally(terms, weights, Films(pixels, who % classes, who), device=device)
    return _Trial(time.monotonic() - began, patients)


def _memory(device: str) -> int:
    """The most that was taken at one time, on the GPU or by this process."""
    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
