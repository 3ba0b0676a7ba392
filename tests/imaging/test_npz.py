import contextlib
import io
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from primia.errors import DataError
from primia.imaging.npz import form_of, load_arrays, squares


def npz(path, **arrays):
    np.savez_compressed(path, **arrays)
    return path


def test_only_the_named_arrays_are_read(tmp_path):
    path = npz(tmp_path / "a.npz", images=np.zeros((2, 4, 4), np.uint8), labels=np.arange(2))
    found = load_arrays(path, ("labels", "nothing"))
    assert list(found) == ["labels"]
    assert found["labels"].tolist() == [0, 1]


def test_a_pickled_array_is_refused_and_not_executed(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    path = npz(tmp_path / "a.npz", images=np.array([Trap()], object), labels=np.arange(1))
    with pytest.raises(DataError, match="object"):
        load_arrays(path, ("images",))


def test_a_bomb_is_refused_by_its_declared_size(tmp_path):
    """A header that promises more than the archive holds must not make memory."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {"descr": "|u1", "fortran_order": False, "shape": (10**9, 1000, 1000)}
    )
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", head.getvalue() + bytes(1000))
    with pytest.raises(DataError, match="not as long as it says"):
        load_arrays(path, ("images",))


def test_an_array_above_the_limit_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    path = npz(tmp_path / "a.npz", images=np.zeros((100, 100, 100), np.uint8))
    monkeypatch.setattr("primia.imaging.npz.MAX_ARRAY_BYTES", 999_999)
    with pytest.raises(DataError, match="array images is above"):
        load_arrays(path, ("images",))


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04" + bytes(50)])
def test_what_is_no_archive_is_one_clear_line(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DataError, match="not an NPZ file"):
        form_of(tmp_path / "a.npz")


def test_the_two_forms_are_told_apart_and_a_third_refused(tmp_path):
    x = np.zeros(1, np.uint8)
    assert form_of(npz(tmp_path / "a.npz", images=x, labels=x)) == "plain"
    assert form_of(npz(tmp_path / "b.npz", train_images=x, train_labels=x)) == "medmnist"
    with pytest.raises(DataError, match="neither images/labels"):
        form_of(npz(tmp_path / "c.npz", x=x))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1500), st.integers(0, 255)), min_size=1, max_size=6))
def test_no_damage_escapes_as_another_error(tmp_path_factory, changes):
    file = io.BytesIO()
    np.savez_compressed(file, images=np.arange(512, dtype=np.uint8), labels=np.arange(3))
    raw = bytearray(file.getvalue())
    for place, value in changes:
        raw[place % len(raw)] = value
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    path.write_bytes(raw)
    with contextlib.suppress(DataError):
        load_arrays(path, ("images", "labels"))


@pytest.mark.parametrize("header", [b"{'descr': ", b"{" * 500, b"('a'", b"{'descr': 3}"])
def test_a_broken_array_header_is_one_clear_line(tmp_path, header):
    path = tmp_path / "a.npz"
    raw = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", raw)
    with pytest.raises(DataError, match="damaged NPZ"):
        load_arrays(path, ("images",))


def test_colour_and_other_sizes_become_grey_squares(tmp_path):
    grey = np.full((2, 30, 30), 90, np.uint8)
    colour = np.repeat(grey[..., None], 3, axis=3)
    for images in (grey, grey[..., None], colour):
        assert (squares(images, 16, tmp_path) == 90).all()
        assert squares(images, None, tmp_path).shape == (2, 30, 30)


@pytest.mark.parametrize("images", [np.zeros((2, 8, 8)), np.zeros((2, 8), np.uint8)])
def test_pictures_of_another_kind_are_refused(tmp_path, images):
    with pytest.raises(DataError, match="need uint8"):
        squares(images, 16, tmp_path)
