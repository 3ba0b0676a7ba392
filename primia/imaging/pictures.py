"""One PNG or JPEG to one grey square, and what all films have in common: limits, defects, the fit.

A file is hostile until it is decoded, so this runs in a child process (sandbox.py).
"""

from __future__ import annotations

import enum
import io
import struct
import warnings
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

from primia.imaging.dataset import Pixels

MAX_FILE_BYTES = 64 << 20
MAX_PIXELS = 40_000_000  # a large detector gives about 4300 x 3500
MIN_EDGE = 16

# What Pillow's PNG and JPEG plugins raise on damaged input.
_DAMAGE = (
    OSError, SyntaxError, ValueError, TypeError, OverflowError, IndexError, KeyError, EOFError,
    struct.error, zlib.error,
)  # fmt: skip


class Defect(enum.StrEnum):
    """Why a film is quarantined."""

    MISSING = "missing"
    NO_FILE = "a folder or a device, where a file is wanted"
    DAMAGED = "truncated or damaged"
    FORMAT = "neither DICOM nor PNG nor JPEG"
    LARGE = f"above {MAX_FILE_BYTES >> 20} MiB or {MAX_PIXELS // 1_000_000} megapixels"
    SMALL = f"under {MIN_EDGE} pixels on one side"
    BLANK = "the same grey everywhere"
    LIMITS = "decoding it crashed or passed the limits of memory or time"
    BOMB = "unpacks to far more than it is; export it uncompressed"
    NO_PIXELS = "DICOM without an image, or cut short in it"
    COLOUR = "DICOM in colour"
    FRAMES = "DICOM of several frames"
    DEPTH = "DICOM of neither 8 nor 16 bits allocated"
    NO_DICOM = "DICOM, which needs: pip install 'primia[dicom]'"
    NO_GDCM = "JPEG lossless or 12 bit, which needs: pip install python-gdcm"
    NO_JPEG_LS = "JPEG-LS, which needs: pip install pyjpegls"
    NO_JPEG_2000 = "JPEG 2000, which needs: pip install pylibjpeg pylibjpeg-openjpeg"
    NO_DECODER = "a transfer syntax that nothing here decodes; export it uncompressed"
    DICOMDIR = "a DICOMDIR, which is not followed"
    MODALITY = "no radiograph (modality CR, DX or RG)"
    BODY_PART = "not of the chest"
    VIEW = "not a frontal view (PA or AP)"

    @property
    def unfit(self) -> bool:
        """Readable, but its tags say that it is no frontal chest film: no fault of the export."""
        return self in {Defect.DICOMDIR, Defect.MODALITY, Defect.BODY_PART, Defect.VIEW}

    @property
    def code(self) -> str:
        """The reason for scripts and logs."""
        return self.name.lower()


@dataclass(frozen=True)
class Picture:
    """A decoded film."""

    pixels: Pixels  # (size, size)
    patient: str | None = None  # as the file itself names the patient; never logged
    issuer: str | None = None  # who gave that name
    edge: int = 0  # the longer one of the film as it was, in pixels


def decode(raw: bytes, size: int) -> Picture | Defect:
    """Decode a PNG or JPEG into (size, size) uint8, or say what is wrong with it.

    The aspect ratio is kept and the rest padded with black. Depths above 8 bits are scaled by the
    number of bits the film uses, because 10 and 12 bit films are stored as 16 bit PNG.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of bombs and odd EXIF; we decide below
            picture = Image.open(io.BytesIO(raw), formats=("PNG", "JPEG"))
    except UnidentifiedImageError:
        # Pillow says the same of a foreign format and of a header cut short.
        known = raw.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"))
        return Defect.DAMAGED if known else Defect.FORMAT
    except Image.DecompressionBombError:
        return Defect.LARGE
    except _DAMAGE:
        return Defect.DAMAGED
    with picture:
        # The size stands in the header: it is checked before a pixel is decoded.
        if picture.width * picture.height > MAX_PIXELS:
            return Defect.LARGE
        if min(picture.size) < MIN_EDGE:
            return Defect.SMALL
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                picture.load()
                grey = _grey(picture)
        except _DAMAGE:
            return Defect.DAMAGED
    low, high = grey.getextrema()
    if low == high:
        return Defect.BLANK
    return Picture(fit_square(grey, size), edge=max(grey.size))


def fit_square(picture: Image.Image, size: int) -> Pixels:
    """Resize a grey picture (mode L or F) into (size, size) uint8, padded with black.

    Lanczos over the whole footprint of a pixel, so shrinking does not alias.
    """
    scale = size / max(picture.size)
    width, height = (max(1, round(edge * scale)) for edge in picture.size)
    resized = np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS))
    square = np.zeros((size, size), np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    square[top : top + height, left : left + width] = np.clip(np.rint(resized), 0, 255)
    return square


def _grey(picture: Image.Image) -> Image.Image:
    if not picture.mode.startswith("I"):
        return picture.convert("L")
    values = np.asarray(picture).astype(np.float32)
    used_bits = max(8, int(values.max()).bit_length())
    return Image.fromarray(values * np.float32(255 / (2**used_bits - 1)))
