"""One DICOM file to one grey square, as a radiologist's screen would show it.

The order is that of the standard (PS3.3 C.7.6.3, C.11): Modality LUT or rescale, then VOI LUT or
window, and inversion last. Only the tags in `TAGS` are read, and of these only the patient's
name for itself leaves this module. Runs in a child process (sandbox.py).
"""

from __future__ import annotations

import io
import warnings
import zlib
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from primia.imaging.pictures import MAX_PIXELS, MIN_EDGE, Defect, Picture, fit_square

if TYPE_CHECKING:
    from pydicom import Dataset

Values: TypeAlias = npt.NDArray[Any]

MAX_RATIO = 100  # unpacked to packed bytes of a deflated file; a noisy film reaches 3
MAX_UNPACKED = 256 << 20
TAIL = 0.005  # darkest and brightest share that is cut where a film names no window

MODALITIES = {"CR", "DX", "RG"}
CHEST = ("CHEST", "THORAX", "LUNG")
FRONTAL = ("AP", "PA", "POSTERO", "ANTERO", "FRONTAL")

TAGS = [
    "Modality", "BodyPartExamined", "ViewPosition", "PatientID", "IssuerOfPatientID",
    "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PixelPaddingValue", "PixelPaddingRangeLimit",
    "ModalityLUTSequence", "RescaleSlope", "RescaleIntercept",
    "VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction",
    "ExtendedOffsetTable", "ExtendedOffsetTableLengths", "PixelData",
]  # fmt: skip

_DEFLATED = "1.2.840.10008.1.2.1.99"
_DICOMDIR = "1.2.840.10008.1.3.10"
_PILLOW, _GDCM = ("pillow", Defect.NO_DECODER), ("gdcm", Defect.NO_GDCM)
_JPEG_LS = ("pyjpegls", Defect.NO_JPEG_LS)
_JPEG_2000 = ("pylibjpeg", Defect.NO_JPEG_2000)

# One decoder for each compressed transfer syntax: the pixels of a film must not depend on what
# else is installed, and where two could do it, the one that refuses a film cut short is here.
_DECODERS = {
    "1.2.840.10008.1.2.5": ("pydicom", Defect.NO_DECODER),  # RLE
    "1.2.840.10008.1.2.4.50": _PILLOW,  # JPEG baseline
    "1.2.840.10008.1.2.4.51": _GDCM,  # JPEG extended, 12 bit
    "1.2.840.10008.1.2.4.57": _GDCM,  # JPEG lossless
    "1.2.840.10008.1.2.4.70": _GDCM,  # JPEG lossless, first-order prediction
    "1.2.840.10008.1.2.4.80": _JPEG_LS,  # lossless
    "1.2.840.10008.1.2.4.81": _JPEG_LS,  # near-lossless
    "1.2.840.10008.1.2.4.90": _JPEG_2000,  # lossless
    "1.2.840.10008.1.2.4.91": _JPEG_2000,
    "1.2.840.10008.1.2.4.201": _JPEG_2000,  # high throughput, lossless
    "1.2.840.10008.1.2.4.202": _JPEG_2000,  # high throughput, lossless, progressive
    "1.2.840.10008.1.2.4.203": _JPEG_2000,  # high throughput
}


def is_dicom(head: bytes) -> bool:
    """Does a file that begins so (132 bytes are enough) call itself DICOM?"""
    return head[128:132] == b"DICM"


def missing_decoders() -> tuple[Defect, ...]:
    """What is not installed here of what decodes DICOM films, each with its remedy."""
    try:
        from pydicom.pixels.decoders.base import get_decoder
        from pydicom.uid import UID
    except ImportError:
        return (Defect.NO_DICOM,)
    missing = [
        defect
        for syntax, (plugin, defect) in _DECODERS.items()
        if plugin not in get_decoder(UID(syntax)).available_plugins
    ]
    return tuple(dict.fromkeys(missing))


def decode(raw: bytes, size: int, *, any_view: bool = False) -> Picture | Defect:
    """A film as (size, size) uint8 with bright bones, or what is wrong with it.

    any_view: a person has looked at it, so modality, body part and view are not asked for.
    """
    try:
        import pydicom  # noqa: F401
    except ImportError:
        return Defect.NO_DICOM
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd headers; what matters is checked below
        film = _read(raw)
        if isinstance(film, Defect):
            return film
        # pydicom parses a value when it is asked for, so a damaged one shows up anywhere here. Its
        # errors are of all kinds, and all of them mean that this film cannot be used.
        try:
            defect = (None if any_view else _unfit(film)) or _unusable(film)
            picture = defect or _show(film, size)
        except MemoryError:
            return Defect.LIMITS
        except Exception:
            return Defect.DAMAGED
        return picture


def _read(raw: bytes) -> Dataset | Defect:
    """The tags of a file that is not a bomb and not a DICOMDIR."""
    from pydicom import dcmread
    from pydicom.filereader import read_dataset, read_preamble

    try:
        file = io.BytesIO(raw)
        read_preamble(file, force=False)
        meta = read_dataset(file, False, True, stop_when=lambda tag, _vr, _length: tag.group != 2)
        if meta.get("MediaStorageSOPClassUID") == _DICOMDIR:
            return Defect.DICOMDIR
        if meta["TransferSyntaxUID"].value == _DEFLATED and _is_bomb(raw[file.tell() :]):
            return Defect.BOMB
        film = dcmread(io.BytesIO(raw), specific_tags=list(TAGS))
    except MemoryError:
        return Defect.LIMITS
    except Exception:  # of all kinds, see decode()
        return Defect.DAMAGED
    return film


def _is_bomb(packed: bytes) -> bool:
    most = min(MAX_UNPACKED, MAX_RATIO * len(packed))
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    return len(unpacker.decompress(packed, most + 1)) > most


def _unfit(film: Dataset) -> Defect | None:
    """A tag that is there must be that of a frontal chest film; a missing one says nothing."""
    modality, part, view = (_word(film, tag) for tag in TAGS[:3])
    if modality and modality not in MODALITIES:
        return Defect.MODALITY
    if part and not any(word in part for word in CHEST):
        return Defect.BODY_PART
    if view and not view.startswith(FRONTAL):
        return Defect.VIEW
    return None


def _unusable(film: Dataset) -> Defect | None:
    """What can be told from the header, before a pixel is decoded."""
    if "PixelData" not in film or not film["PixelData"].value:
        return Defect.NO_PIXELS
    if int(film.get("NumberOfFrames") or 1) != 1:
        return Defect.FRAMES
    if film.get("SamplesPerPixel", 1) != 1 or _word(film, "PhotometricInterpretation") not in {
        "MONOCHROME1", "MONOCHROME2",
    }:  # fmt: skip
        return Defect.COLOUR
    if film.BitsAllocated not in {8, 16}:
        return Defect.DEPTH
    if film.Rows * film.Columns > MAX_PIXELS:
        return Defect.LARGE
    return Defect.SMALL if min(film.Rows, film.Columns) < MIN_EDGE else None


def _show(film: Dataset, size: int) -> Picture | Defect:
    stored = _stored(film)
    if isinstance(stored, Defect):
        return stored
    padding = _padding(film, stored)
    values = modality_values(film, stored)
    used = values.ravel() if padding is None else values[~padding]
    if used.size == 0 or used.min() == used.max():
        return Defect.BLANK
    shades = _shades(film, values, used)
    if _word(film, "PhotometricInterpretation") == "MONOCHROME1":
        shades = -shades
    if padding is not None:
        shades[padding] = -1
    if not np.isfinite(shades).all():
        return Defect.DAMAGED
    if shades.min() == shades.max():
        return Defect.BLANK
    grey = Image.fromarray(((shades + 1) * 127.5).astype(np.float32))
    patient, issuer = (str(film.get(tag) or "").strip() or None for tag in TAGS[3:5])
    f"{patient}{issuer}".encode()  # raises for half a character, which no text has
    return Picture(fit_square(grey, size), patient, issuer, max(grey.size))


def _stored(film: Dataset) -> Values | Defect:
    """Stored values (rows, columns), signed or not, bits that are not stored cleared."""
    from pydicom.pixels.decoders.base import get_decoder

    syntax = film.file_meta.TransferSyntaxUID
    plugin = ""
    if syntax.is_encapsulated:
        plugin, missing = _DECODERS.get(str(syntax), ("", Defect.NO_DECODER))
        if not plugin or plugin not in get_decoder(syntax).available_plugins:
            return missing
    decoder = get_decoder(syntax)
    stored, _ = decoder.as_array(film, index=0, raw=True, decoding_plugin=plugin)
    if stored.shape != (film.Rows, film.Columns):
        return Defect.DAMAGED
    return stored


def _padding(film: Dataset, stored: Values) -> npt.NDArray[np.bool_] | None:
    """Where a shutter or the detector's edge was filled in: no part of the film (C.7.5.1.1.2)."""
    if film.get("PixelPaddingValue") is None:
        return None
    first = int(film.PixelPaddingValue)
    last = int(film.get("PixelPaddingRangeLimit", first))
    return (stored >= min(first, last)) & (stored <= max(first, last))


def modality_values(film: Dataset, stored: Values) -> Values:
    """Modality LUT or rescale (C.11.1): float64, in the units that windows are given in."""
    if film.get("ModalityLUTSequence"):
        return _look_up(film.ModalityLUTSequence[0], film, stored)[0]
    slope, intercept = (film.get(tag) for tag in ("RescaleSlope", "RescaleIntercept"))
    values = stored.astype(np.float64)
    if slope is None or intercept is None:
        return values
    return values * float(slope) + float(intercept)


def _shades(film: Dataset, values: Values, used: Values) -> Values:
    """The film's first view (VOI LUT or window, C.11.2), else all but its extremes; in [-1, 1].

    Zero is the middle of the window, so that inversion is a change of sign, and a film and its
    negative give the same bits.
    """
    if film.get("VOILUTSequence"):
        looked_up, top = _look_up(film.VOILUTSequence[0], film, np.rint(values))
        return (2 * looked_up - top) / top
    centre, width = _first(film, "WindowCenter"), _first(film, "WindowWidth")
    function = _word(film, "VOILUTFunction") or "LINEAR"
    if centre is None or width is None or width <= 0:
        darkest, brightest = _extremes(used)
        centre, width, function = (darkest + brightest) / 2, brightest - darkest, "LINEAR_EXACT"
    if function == "SIGMOID":
        return np.tanh(2 * (values - centre) / width)
    if function == "LINEAR":
        centre, width = centre - 0.5, max(width - 1, 1e-6)
    return np.clip((values - centre) / (width / 2), -1, 1)


def _extremes(used: Values) -> tuple[float, float]:
    """The values with a share of TAIL beyond them at either end, the same for a negative."""
    beyond = int(TAIL * used.size)
    ordered = np.partition(used, (beyond, used.size - 1 - beyond))
    darkest, brightest = float(ordered[beyond]), float(ordered[used.size - 1 - beyond])
    if darkest == brightest:  # hardly anything but background
        return float(used.min()), float(used.max())
    return darkest, brightest


def _look_up(item: Dataset, film: Dataset, values: Values) -> tuple[Values, int]:
    """Values through a table of the file, and the most its entries may be (C.11.1.1)."""
    count, first, bits = (int(number) for number in item.LUTDescriptor)
    count = count or 2**16
    data = item["LUTData"].value
    if isinstance(data, bytes):
        order = "<" if film.original_encoding[1] else ">"
        table = np.frombuffer(data, f"{order}u2").astype(np.float64)
    else:
        table = np.atleast_1d(np.asarray(data, np.float64))
    if not 8 <= bits <= 16 or len(table) < count:
        raise ValueError("a look-up table is not as long or deep as it says")
    places = np.clip(values - first, 0, count - 1).astype(np.int64)
    return table[:count][places], 2**bits - 1


def _first(film: Dataset, tag: str) -> float | None:
    """The first of the values of a tag, as of several views."""
    value = film.get(tag)
    if value is None or value == "":
        return None
    return float(value[0] if hasattr(value, "__len__") else value)


def _word(film: Dataset, tag: str) -> str:
    value = film.get(tag)
    return "" if value is None else str(value).strip().upper()
