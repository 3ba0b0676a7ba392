"""A masked aggregation in memory, with the machines, keys, shares and masks of a study.

Nobody else takes part, and what was summed is random and thrown away.
"""

from __future__ import annotations

import os
import time

import numpy as np

from primia.config.plan import StudyPlan
from primia.errors import StateError
from primia.protocol.events import Phase, RoundTerms
from primia.protocol.messages import RoundId, RoundKind
from primia.protocol.site import SiteRound
from primia.secagg.layout import Layout, Vector
from primia.simulate.attempt import Keys, Play
from primia.types import Digest, Ring, SiteId
from worker.doctor.visit import Seen

_SITES = tuple(SiteId(f"made-up-{i}") for i in range(1, 6))
_WORDS = 50_000


def masked_sum(plan: StudyPlan | None) -> Seen[None]:
    """Five made-up sites, of which one is lost under way. Raises StateError for a wrong sum."""
    bits = 24 if plan is None else plan.aggregation.wire_bits
    cipher = "aes-256-ctr" if plan is None else plan.aggregation.mask_cipher
    layout = Layout((Vector("update", _WORDS, bits), Vector("counts", 1000, 32)))
    words = {s: np.frombuffer(os.urandom(4 * layout.length), np.uint32) for s in _SITES}
    digest = Digest(os.urandom(32).hex())
    round_id = RoundId(plan=digest, number=1, attempt=1, kind=RoundKind.TRAIN, model=digest)
    keys = Keys(_SITES)
    sites = {
        s: SiteRound(
            me=s, round=round_id, layout=layout, floor=3, roster=_SITES, sign=keys.sign_as(s),
            verify=keys.verify, entropy=os.urandom, cipher=cipher,
        )
        for s in _SITES
    }  # fmt: skip
    terms = RoundTerms(
        round=round_id, invited=_SITES, quorum=3, deadline_s=60.0, grace_s=1.0,
        stage_timeout_s=1.0, layout=layout, cipher=cipher, verify=keys.verify,
    )  # fmt: skip
    began = time.monotonic()
    lost = {_SITES[-1]: Phase.MASKED_UPDATE}
    commit = Play(terms, sites, lambda s: words[s].copy(), lost).run().commit
    took = time.monotonic() - began
    if commit is None or not _same(layout, commit.totals[0], [words[s] for s in _SITES[:-1]]):
        raise StateError(
            "a sum of made-up sites did not come out of its masks; primia or a library of it is "
            "damaged: install it again, and report this if that does not help"
        )
    return Seen(None, f"4 of 5 made-up sites summed under masks, one lost under way ({took:.1f} s)")


def _same(layout: Layout, found: Ring, parts: list[Ring]) -> bool:
    wanted = layout.split(np.sum(parts, axis=0, dtype=np.uint32))
    got = layout.split(found)
    masks = {v.name: np.uint32(2**v.bits - 1) for v in layout.vectors}
    return all(np.array_equal(got[n] & m, wanted[n] & m) for n, m in masks.items())
