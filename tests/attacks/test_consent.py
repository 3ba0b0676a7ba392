"""What a site did not agree to, t other sites can still open: the site must look ahead."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "protocol"))
from in_memory_round import World

from primia.protocol.events import Commit, Phase
from primia.types import SiteId


def test_a_site_is_never_in_a_sum_below_its_own_floor() -> None:
    # Seven sites, threshold 5. One asks for 7 in any sum it is part of. A partner drops out after
    # the masks were agreed: the site refuses to sign for 6, but 5 others sign, and open it.
    world = World(n=7)
    careful = SiteId("alder")
    world.members[careful] = world.member(careful, floor=7)
    found = world.run(silent_from={SiteId("gorse"): Phase.MASKED_UPDATE})
    in_a_smaller_sum = (
        isinstance(found, Commit) and careful in found.contributors and len(found.contributors) < 7
    )
    assert not in_a_smaller_sum


def test_a_signed_update_is_in_no_other_sum_though_its_site_refuses_to_sign() -> None:
    # alder signed this update for a sum with birch and cedar alone. A sum with dogwood, too, is
    # opened by the three others, after alder has refused.
    world = World(n=4)
    alder = SiteId("alder")
    world.members[alder] = world.member(
        alder, signed_before=tuple(SiteId(s) for s in ("alder", "birch", "cedar"))
    )
    found = world.run()
    assert not (isinstance(found, Commit) and alder in found.contributors)
