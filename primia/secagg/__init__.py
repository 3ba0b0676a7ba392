"""Secure aggregation's building blocks: ring encoding, keys, masks, shares, sealing, packing.

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
from primia.secagg.layout import Layout, Vector
from primia.secagg.masks import Mask, apply_masks
from primia.secagg.packing import add_packed, pack, unpack

__all__ = [
    "Layout",
    "Mask",
    "Vector",
    "add_packed",
    "apply_masks",
    "decode_counts",
    "decode_sum",
    "encode",
    "encode_counts",
    "encoding_step",
    "fits",
    "pack",
    "unpack",
]
