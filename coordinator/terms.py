"""What the rounds need to know of a settled plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from primia.federation.contribution import Contribution
from primia.federation.optimiser import FedAdam, FedAvg
from primia.types import Digest, SiteId


@dataclass(frozen=True)
class StudyTerms:
    """Times are seconds; `threads` may work on the masks at the end."""

    plan: Digest
    roster: tuple[SiteId, ...]
    rounds: int
    quorum: int
    deadline_s: float
    grace_s: float
    stage_timeout_s: float
    contribution: Contribution
    cipher: str
    groups: int
    threads: int
    score: Callable[[npt.NDArray[np.int64], tuple[SiteId, ...]], dict[str, Any]]
    optimiser: FedAvg | FedAdam
    max_rounds_missed: int = 3  # then a site is not waited for any more
    voting: bool = False  # whether a model that no majority accepts is taken back
