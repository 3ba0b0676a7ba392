"""Secure aggregation's building blocks: ring encoding, keys, masks, shares, sealing.

Pure functions over bytes and numpy arrays; no network, no clock, no randomness of their own.
`primia.protocol` puts them in order.
"""

from primia.secagg.encoding import (
    decode_counts,
    decode_sum,
    encode,
    encode_counts,
    encoding_step,
    fits,
)
from primia.secagg.layout import Layout
from primia.secagg.masks import Mask, apply_masks

__all__ = [
    "Layout",
    "Mask",
    "apply_masks",
    "decode_counts",
    "decode_sum",
    "encode",
    "encode_counts",
    "encoding_step",
    "fits",
]
