"""Names that travel through the whole house: identifiers are types, not bare strings."""

from __future__ import annotations

import hashlib
import re
from typing import Annotated, NewType

import numpy as np
import numpy.typing as npt

SiteId = NewType("SiteId", str)
"""A hospital's name in a study: lower case letters, digits, hyphens; 1 to 40 characters."""

Digest = NewType("Digest", str)
"""A SHA-256 as 64 lower-case hexadecimal digits."""

Ring = Annotated[npt.NDArray[np.uint32], "elements of Z_{2^32}, shape (length,)"]
"""A vector over Z_{2^32}; numpy's unsigned arithmetic wraps and so is the ring's."""

_SITE_ID = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?")


def site_id(text: str) -> SiteId:
    """Check `text` and give it back as a `SiteId`.

    Raises ValueError with the rule when it does not fit (names go into file names and
    certificates, so the alphabet is small on purpose).
    """
    if not _SITE_ID.fullmatch(text):
        raise ValueError(
            f"{text!r} cannot be a name: use 1 to 40 lower-case letters, digits and hyphens"
        )
    return SiteId(text)


def sha256(data: bytes | bytearray | memoryview) -> Digest:
    """SHA-256 of `data` as hexadecimal text."""
    return Digest(hashlib.sha256(data).hexdigest())
