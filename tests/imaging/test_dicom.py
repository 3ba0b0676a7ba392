"""Fault rows D03 (a film and its negative) and D04 (depths, windows, encodings), hostile files."""

import hashlib
import io
import json
import sys
import zlib

import numpy as np
import pytest
from dicom_files import LOSSLESS, dataset, encoded_film, gradient, written
from film_files import real
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.sequence import Sequence
from pydicom.uid import (
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
)

from primia.imaging import dicom
from primia.imaging.dicom import decode
from primia.imaging.pictures import Defect, fit_square

SIZE = 44


def pixels(raw, **more):
    picture = decode(raw, SIZE, **more)
    assert not isinstance(picture, Defect), picture
    return picture.pixels


def shown(grey):
    """The square that a film of these grey values (0 to 255) must give."""
    return fit_square(Image.fromarray(np.asarray(grey, np.float32)), SIZE)


def window(low, high):
    return {"WindowCenter": (low + high + 1) / 2, "WindowWidth": high - low + 1}


FULL = window(0, 4095)


@pytest.mark.parametrize("form", LOSSLESS)
def test_every_encoding_gives_the_same_pixels(form):
    stored = gradient()
    expected = shown(stored / 4095 * 255)
    assert np.array_equal(pixels(encoded_film(stored, form=form, **FULL)), expected)


@pytest.mark.parametrize("form", LOSSLESS)
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_every_depth_spans_black_to_white(bits, form):
    top = 2**bits - 1
    found = pixels(encoded_film(gradient(bits=bits), bits, form, **window(0, top)))
    assert np.abs(found.astype(int) - shown(gradient(bits=12) / 4095 * 255)).max() <= 1


@pytest.mark.parametrize("form", [f for f in LOSSLESS if not f.startswith("jpeg l")])
def test_signed_values_and_rescale_come_before_the_window(form):
    stored = gradient().astype(np.int16) - 2048
    raw = encoded_film(
        stored, 12, form, RescaleSlope=2, RescaleIntercept=100, **window(-1000, 1000)
    )
    expected = np.clip((stored * 2 + 100 + 1000) / 2000, 0, 1) * 255
    assert np.array_equal(pixels(raw), shown(expected))


@pytest.mark.parametrize("form", LOSSLESS)
@pytest.mark.parametrize(
    "view", [{}, FULL, window(300, 2500), {**FULL, "VOILUTFunction": "SIGMOID"}]
)
def test_a_film_and_its_negative_give_equal_tensors(form, view):
    stored = gradient() + np.random.default_rng(1).integers(0, 9, (60, 44), np.uint16)
    stored = np.minimum(stored, 4095).astype(np.uint16)
    mirrored = dict(view)
    if view:
        mirrored["WindowCenter"] = 4096 - view["WindowCenter"]  # of a window of 4096 - c values
        if view.get("VOILUTFunction") == "SIGMOID":
            mirrored["WindowCenter"] = 4095 - view["WindowCenter"]
    negative = encoded_film(
        4095 - stored, form=form, PhotometricInterpretation="MONOCHROME1",
        PresentationLUTShape="INVERSE", **mirrored,
    )  # fmt: skip
    assert np.array_equal(pixels(encoded_film(stored, form=form, **view)), pixels(negative))


def test_nothing_is_turned_or_mirrored():
    marked = np.zeros((60, 44), np.uint16)
    marked[3:9, 5:17] = 4000  # an upright R in the top left corner, as it were
    found = pixels(encoded_film(marked, **FULL))
    rows, columns = np.nonzero(found > 127)
    scale = SIZE / 60
    left = (SIZE - round(44 * scale)) // 2
    assert abs(rows.min() - 3 * scale) <= 1
    assert abs(rows.max() - 8 * scale) <= 1
    assert abs(columns.min() - left - 5 * scale) <= 1
    assert abs(columns.max() - left - 16 * scale) <= 1


def table(entries, first, bits=16, *, words=True):
    item = Dataset()
    item.LUTDescriptor = [len(entries), first, bits]
    if words:
        item.add_new("LUTData", "OW", np.asarray(entries, "<u2").tobytes())
    else:
        item.add_new("LUTData", "US", [int(entry) for entry in entries])
    return Sequence([item])


def test_a_modality_table_comes_first_and_a_view_table_replaces_the_window():
    stored = gradient()
    raw = encoded_film(
        stored,
        ModalityLUTSequence=table(np.arange(4096)[::-1] // 4, 0, 10, words=False),
        VOILUTSequence=table(np.arange(512) ** 2 // 4, 256),
        **FULL,
    )
    modality = (4095 - stored.astype(int)) // 4
    view = np.clip(modality - 256, 0, 511) ** 2 // 4
    assert np.array_equal(pixels(raw), shown(view / 65535 * 255))


def test_of_several_views_the_first_is_shown():
    several = {"WindowCenter": [2048, 100], "WindowWidth": [4096, 10]}
    assert np.array_equal(
        pixels(encoded_film(gradient(), **several)), pixels(encoded_film(gradient(), **FULL))
    )


def test_without_a_window_a_bright_marker_does_not_darken_the_film():
    stored = gradient(200, 200, 10)
    stored[:5, :5] = 60_000  # a tenth of the share that is cut
    found = pixels(encoded_film(stored, 16))
    low, high = np.quantile(stored, [0.005, 0.995])
    expected = shown(np.clip((stored - low) / (high - low), 0, 1) * 255)
    assert np.abs(found.astype(int) - expected).max() <= 2


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_what_a_shutter_filled_in_is_black_and_does_not_count(photometric):
    stored = gradient() // 4 + 500
    padded = stored.copy()
    padded[:, :8] = 4095
    found = pixels(
        encoded_film(padded, PixelPaddingValue=4095, PhotometricInterpretation=photometric)
    )
    assert (found[:, 6:9] == 0).all()
    assert found[:, 14:].max() == 255


def test_bits_beyond_those_stored_are_not_part_of_the_film():
    overlay = gradient() | np.uint16(0x8000)
    assert np.array_equal(
        pixels(encoded_film(overlay, **FULL)), pixels(encoded_film(gradient(), **FULL))
    )


def test_jpeg_baseline_is_decoded():
    grey = gradient(bits=8)
    file = io.BytesIO()
    Image.fromarray(grey).save(file, "JPEG", quality=95)
    film = dataset(grey, 8, **window(0, 255))
    film.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    film.PixelData = encapsulate([file.getvalue()])
    film["PixelData"].is_undefined_length = True
    assert np.abs(pixels(written(film)).astype(int) - shown(grey)).max() <= 4


@pytest.mark.parametrize(
    ("tags", "defect"),
    [
        ({"Modality": "CT"}, Defect.MODALITY),
        ({"Modality": "OT"}, Defect.MODALITY),
        ({"BodyPartExamined": "HAND"}, Defect.BODY_PART),
        ({"ViewPosition": "LL"}, Defect.VIEW),
        ({"PixelData": None}, Defect.NO_PIXELS),
        ({"NumberOfFrames": 2}, Defect.FRAMES),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, Defect.COLOUR),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, Defect.COLOUR),
        ({"BitsAllocated": 32}, Defect.DEPTH),
        ({"Rows": 60_000, "Columns": 60_000}, Defect.LARGE),
        ({"Columns": 8}, Defect.SMALL),
        ({"Rows": 61}, Defect.DAMAGED),
        ({"RescaleSlope": "0", "RescaleIntercept": "5"}, Defect.BLANK),
        ({"WindowCenter": 9000, "WindowWidth": 2}, Defect.BLANK),
    ],
)
def test_a_film_that_cannot_be_used_is_named_by_its_defect(tags, defect):
    assert decode(encoded_film(gradient(), **tags), SIZE) is defect


@pytest.mark.parametrize("tag", ["Modality", "BodyPartExamined", "ViewPosition"])
def test_a_missing_tag_says_nothing_and_a_person_outranks_a_wrong_one(tag):
    pixels(encoded_film(gradient(), **{tag: None}))
    wrong = encoded_film(gradient(), **{tag: "OTHER"})
    assert decode(wrong, SIZE).unfit
    pixels(wrong, any_view=True)


def test_a_blank_film_is_named():
    assert decode(encoded_film(np.full((40, 40), 7, np.uint16)), SIZE) is Defect.BLANK


def test_a_dicomdir_is_not_followed():
    film = dataset(gradient())
    film.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    film.file_meta.MediaStorageSOPClassUID = film.SOPClassUID = "1.2.840.10008.1.3.10"
    assert decode(written(film), SIZE) is Defect.DICOMDIR


@pytest.mark.parametrize(
    ("form", "plugin", "package"),
    [
        ("jpeg lossless", "gdcm", "python-gdcm"),
        ("jpeg-ls", "pyjpegls", "pyjpegls"),
        ("jpeg 2000", "pylibjpeg", "pylibjpeg-openjpeg"),
    ],
)
def test_a_missing_decoder_is_named(monkeypatch, form, plugin, package):
    raw = encoded_film(gradient(), form=form)
    monkeypatch.setattr(
        dicom, "_DECODERS", {k: ("absent", d) for k, (_, d) in dicom._DECODERS.items()}
    )
    assert package in decode(raw, SIZE)


def test_a_transfer_syntax_that_nothing_decodes_is_named():
    film = dataset(gradient(bits=8), 8)
    film.file_meta.TransferSyntaxUID = MPEG2MPML
    film.PixelData = encapsulate([b"\0\0\1\xb3" + bytes(60)])
    film["PixelData"].is_undefined_length = True
    assert decode(written(film), SIZE) is Defect.NO_DECODER


def test_without_pydicom_the_extra_is_named(monkeypatch):
    raw = encoded_film(gradient())
    monkeypatch.setitem(sys.modules, "pydicom", None)
    assert "primia[dicom]" in decode(raw, SIZE)


def deflated(film):
    film.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    return written(film)


def test_a_deflated_film_is_read_and_a_deflated_bomb_is_not_unpacked(monkeypatch):
    noisy = np.random.default_rng(1).integers(0, 4096, (60, 44)).astype(np.uint16)
    assert pixels(deflated(dataset(noisy))).std() > 10
    bomb = deflated(dataset(gradient(), ImageComments="0" * 30_000_000))
    assert len(bomb) < 100_000
    unpacked = []
    monkeypatch.setattr(zlib, "decompress", lambda *a: unpacked.append(a))
    assert decode(bomb, SIZE) is Defect.BOMB
    assert not unpacked


@pytest.mark.parametrize("form", LOSSLESS)
@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_a_film_cut_short_is_damaged(form, share):
    noisy = np.random.default_rng(1).integers(0, 4096, (64, 64)).astype(np.uint16)
    raw = encoded_film(noisy, form=form)
    assert decode(raw[: int(share * len(raw))], SIZE) in {Defect.DAMAGED, Defect.NO_PIXELS}


@pytest.mark.parametrize("form", [form for form in LOSSLESS if form.startswith(("rle", "jpeg"))])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_compressed_image_cut_short_within_a_whole_file_is_damaged(form, share):
    noisy = np.random.default_rng(1).integers(0, 4096, (64, 64)).astype(np.uint16)
    film = dcmread(io.BytesIO(encoded_film(noisy, form=form)))
    (stream,) = generate_frames(film.PixelData, number_of_frames=1)
    film.PixelData = encapsulate([stream[: int(share * len(stream))]])
    film["PixelData"].is_undefined_length = True
    assert decode(written(film), SIZE) is Defect.DAMAGED


SMALL = {f: encoded_film(gradient(20, 20), form=f) for f in ("implicit", "big endian", "rle")}


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(sorted(SMALL)),
    st.lists(st.tuples(st.integers(132, 2000), st.integers(0, 255)), max_size=8),
    st.integers(140, 4000),
)
def test_no_damage_escapes_as_an_exception(form, changes, keep):
    raw = bytearray(SMALL[form][:keep])
    for place, value in changes:
        raw[place % len(raw)] = value
    result = decode(bytes(raw), SIZE)
    assert isinstance(result, Defect) or result.pixels.shape == (SIZE, SIZE)


def test_only_the_patients_key_leaves_the_header():
    picture = decode(encoded_film(gradient(), IssuerOfPatientID=" KLINIK "), SIZE)
    assert (picture.patient, picture.issuer) == ("CANARY-ID", "KLINIK")
    assert "CANARY^NAME" not in repr(picture)
    assert "PatientName" not in dicom.TAGS


FILMS = {"dx_mono2_12bit": (1 / 16, 0), "cr_mono1_10bit": (-1 / 4, 255)}


@pytest.mark.data
def test_the_films_of_the_collection_give_the_digests_of_its_manifest():
    folder = real("dicom")
    for entry in json.loads((folder / "manifest.json").read_text()):
        expected = entry["expected"]
        raw = (folder / entry["file"]).read_bytes()
        if expected["kind"].startswith("refuse"):
            assert dicom.is_dicom(raw[:132]) is (entry["file"] != "bad_not_dicom.dcm")
            assert isinstance(decode(raw, SIZE), Defect), entry["file"]
            continue
        film = dicom._read(raw)
        values = dicom.modality_values(film, dicom._stored(film))
        assert list(values.shape) == expected["shape"]
        if expected["kind"] == "needs_jpeg2000_codec":
            assert (values.min(), values.max()) == (expected["min"], expected["max"])
        else:
            slope, intercept = FILMS.get(entry["file"].removesuffix(".dcm"), (1, 0))
            grey = np.rint(values * slope + intercept).astype(np.uint8)
            assert hashlib.sha256(grey.tobytes()).hexdigest() == expected["sha256"], entry["file"]
            # What is learnt from is that picture but for brightness and contrast.
            assert np.corrcoef(pixels(raw).ravel(), shown(grey).ravel())[0, 1] > 0.93
