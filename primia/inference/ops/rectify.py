"""Which comparison a ReLU or maximum takes: by profile, and by what its bound allows.

"lan": few bytes, three messages each way, values within 2^-12 under zero may pass. "wan": two
messages, a margin of 2^-9 and some three times the dealer's material, for lines where a message
takes longer than its bytes.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Literal

from primia.inference.bits import Words
from primia.inference.correlations import Dealer, Party
from primia.inference.messages import Step
from primia.inference.ops.compare import Window, deal_relu, relu, window
from primia.inference.ops.wide import Halves, deal_wide_relu, halves, wide_relu

Profile = Literal["lan", "wan"]
Comparison = Window | Halves
Received = bytes | bytearray | memoryview


def comparison(bound: float, scale: int, profile: Profile) -> Comparison:
    """For real values up to `bound`; one that is too large for "wan" goes the other way."""
    cut = halves(bound, scale) if profile == "wan" else None
    return cut or window(bound, scale)


def deal_rectify(dealer: Dealer, label: str, count: int, shift: int, how: Comparison) -> None:
    """For `rectify` of `count` values."""
    if isinstance(how, Halves):
        deal_wide_relu(dealer, label, count, shift, how)
    else:
        deal_relu(dealer, label, (count,), shift, how)


def rectify(
    party: Party, label: str, share: Words, shift: int, how: Comparison
) -> Generator[Step, Received, Words]:
    """Shares of max(y, 0) >> shift, from shares of flat values."""
    if isinstance(how, Halves):
        return (yield from wide_relu(party, label, share, shift, how))
    return (yield from relu(party, label, share, shift, how))
