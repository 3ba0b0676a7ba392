import io
import struct
import zlib

import numpy as np
import pytest
from film_files import encoded, film
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from primia.imaging.pictures import Defect
from primia.imaging.pictures import decode as decode_picture

SIZE = 32
GOOD = {form: encoded(film(1), form) for form in ("PNG", "JPEG")}


def decode(raw, size):
    """The pixels, or the defect."""
    result = decode_picture(raw, size)
    return result if isinstance(result, Defect) else result.pixels


def png_header(width: int, height: int) -> bytes:
    """A PNG of a few bytes that declares any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + head
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


def test_a_picture_of_the_right_size_comes_through_unchanged():
    picture = film(3, height=SIZE, width=SIZE)
    assert np.array_equal(decode(encoded(picture), SIZE), picture)


def test_aspect_is_kept_and_the_rest_is_black():
    square = decode(
        encoded(np.full((40, 80), 200, np.uint8) - np.eye(40, 80, dtype=np.uint8)), SIZE
    )
    assert (square[:8] == 0).all()
    assert (square[24:] == 0).all()
    assert (square[8:24] > 190).all()


def test_shrinking_averages_and_does_not_alias():
    stripes = np.zeros((256, 256), np.uint8)
    stripes[:, ::2] = 255
    square = decode(encoded(stripes), SIZE)
    assert square[4:-4, 4:-4].astype(int).std() < 3
    assert square[4:-4, 4:-4].mean() == pytest.approx(127.5, abs=4)


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_deeper_films_are_scaled_by_the_bits_they_use(bits):
    ramp = np.linspace(0, 2**bits - 1, SIZE * SIZE).astype(np.uint16).reshape(SIZE, SIZE)
    expected = np.linspace(0, 255, SIZE * SIZE).reshape(SIZE, SIZE)
    assert np.abs(decode(encoded(ramp), SIZE) - expected).max() <= 1


def test_colour_palette_and_alpha_become_grey():
    grey = film(5, height=SIZE, width=SIZE)
    for mode in ("RGB", "RGBA", "LA", "P"):
        file = io.BytesIO()
        Image.fromarray(grey).convert(mode).save(file, "PNG")
        assert np.abs(decode(file.getvalue(), SIZE).astype(int) - grey).max() <= 1, mode


@pytest.mark.parametrize(
    ("raw", "defect"),
    [
        (GOOD["PNG"][:900], Defect.DAMAGED),
        (GOOD["PNG"][:20], Defect.DAMAGED),
        (GOOD["JPEG"][:-200], Defect.DAMAGED),
        (b"", Defect.FORMAT),
        (b"not a picture at all", Defect.FORMAT),
        (encoded(film(1), "TIFF"), Defect.FORMAT),
        (encoded(film(1), "GIF"), Defect.FORMAT),
        (png_header(60_000, 60_000), Defect.LARGE),
        (png_header(8_000, 8_000), Defect.LARGE),
        (png_header(4_000, 3), Defect.SMALL),
        (encoded(np.full((40, 40), 7, np.uint8)), Defect.BLANK),
    ],
)
def test_a_bad_file_is_named_by_its_defect(raw, defect):
    assert decode(raw, SIZE) is defect


def test_a_bomb_is_refused_before_it_is_unpacked(monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("pixels were decoded"))
    assert decode(png_header(8_000, 8_000), SIZE) is Defect.LARGE


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["PNG", "JPEG"]),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=8),
    st.integers(0, 10_000),
)
def test_no_damage_escapes_as_an_exception(form, changes, keep):
    raw = bytearray(GOOD[form][: max(keep, 30)])
    for place, value in changes:
        raw[place % len(raw)] = value
    result = decode(bytes(raw), SIZE)
    assert isinstance(result, Defect) or result.shape == (SIZE, SIZE)
