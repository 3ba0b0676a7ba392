"""DICOM films made for the tests, in every encoding that a hospital may send."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="pip install 'primia[dicom]'")

from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.uid import (  # noqa: E402
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

CR = "1.2.840.10008.5.1.4.1.1.1"
NATIVE = {
    "implicit": ImplicitVRLittleEndian,
    "explicit": ExplicitVRLittleEndian,
    "big endian": ExplicitVRBigEndian,
}
PYDICOM_ENCODES = {"rle": RLELossless, "jpeg-ls": JPEGLSLossless, "jpeg 2000": JPEG2000Lossless}
GDCM_ENCODES = ("jpeg lossless", "jpeg lossless first-order")
LOSSLESS = (*NATIVE, *PYDICOM_ENCODES, *GDCM_ENCODES)

DETECTOR = {"WindowCenter": None}  # a film without a window


def gradient(height: int = 60, width: int = 44, bits: int = 12) -> np.ndarray:
    """A film on which every turn and mirror image shows: dark top left, bright bottom right."""
    rows, columns = np.mgrid[0:height, 0:width]
    share = (2 * rows / (height - 1) + columns / (width - 1)) / 3
    return np.rint(share * (2**bits - 1)).astype(np.uint16 if bits > 8 else np.uint8)


def dataset(stored: np.ndarray, bits: int = 12, **tags: Any) -> Dataset:
    """A chest film of these stored values; a tag given as None is left out."""
    film = Dataset()
    film.file_meta = FileMetaDataset()
    film.file_meta.MediaStorageSOPClassUID = film.SOPClassUID = CR
    film.file_meta.MediaStorageSOPInstanceUID = film.SOPInstanceUID = "1.2.3.4"
    film.Modality, film.BodyPartExamined, film.ViewPosition = "CR", "CHEST", "PA"
    film.PatientName, film.PatientID = "CANARY^NAME", "CANARY-ID"
    film.SamplesPerPixel, film.PhotometricInterpretation = 1, "MONOCHROME2"
    film.Rows, film.Columns = stored.shape
    film.BitsAllocated = 8 * stored.dtype.itemsize
    film.BitsStored, film.HighBit = bits, bits - 1
    film.PixelRepresentation = int(stored.dtype.kind == "i")
    film.PixelData = stored.tobytes()
    film["PixelData"].VR = "OB" if stored.dtype.itemsize == 1 else "OW"
    for tag, value in tags.items():
        if value is None:
            film.pop(tag, None)
        else:
            setattr(film, tag, value)
    return film


def encoded_film(stored: np.ndarray, bits: int = 12, form: str = "explicit", **tags: Any) -> bytes:
    """The film as a file in one of LOSSLESS."""
    film = dataset(stored, bits, **tags)
    if form in GDCM_ENCODES:
        return _by_gdcm(encoded_film(stored, bits, **tags), form)
    if form == "big endian":
        film.PixelData = stored.astype(stored.dtype.newbyteorder(">")).tobytes()
    syntax = NATIVE.get(form, ExplicitVRLittleEndian)
    film.file_meta.TransferSyntaxUID = syntax
    if form in PYDICOM_ENCODES:
        film.compress(PYDICOM_ENCODES[form], generate_instance_uid=False)
    return written(film)


def written(film: Dataset) -> bytes:
    """The dataset as a file."""
    syntax = film.file_meta.TransferSyntaxUID
    file = io.BytesIO()
    pydicom.dcmwrite(
        file, film, enforce_file_format=True,
        implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian,
    )  # fmt: skip
    return file.getvalue()


def _by_gdcm(raw: bytes, form: str) -> bytes:
    gdcm = pytest.importorskip("gdcm", reason="pip install python-gdcm")
    syntaxes = {
        "jpeg lossless": gdcm.TransferSyntax.JPEGLosslessProcess14,
        "jpeg lossless first-order": gdcm.TransferSyntax.JPEGLosslessProcess14_1,
    }
    with tempfile.TemporaryDirectory() as folder:
        before, after = str(Path(folder, "in.dcm")), str(Path(folder, "out.dcm"))
        Path(before).write_bytes(raw)
        reader = gdcm.ImageReader()
        reader.SetFileName(before)
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(syntaxes[form]))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(after)
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        return Path(after).read_bytes()
