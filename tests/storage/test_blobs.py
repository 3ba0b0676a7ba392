"""Blobs: by digest, whole or not there, damage named."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from primia.errors import StateError
from primia.storage.blobs import Blobs
from primia.types import Digest, sha256


@given(st.binary(max_size=2000))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_what_is_put_is_what_is_got(tmp_path, data):
    blobs = Blobs(tmp_path / "blobs")
    digest = blobs.put(data)
    assert digest == sha256(data)
    assert digest in blobs
    assert blobs.get(digest) == data


def test_a_flipped_bit_is_named_by_digest(tmp_path):
    blobs = Blobs(tmp_path)
    digest = blobs.put(b"model")
    blobs.path(digest).write_bytes(b"modem")
    with pytest.raises(StateError, match=f"{digest}.*damaged"):
        blobs.get(digest)


def test_a_missing_blob_is_a_state_error(tmp_path):
    with pytest.raises(StateError, match="cannot be read"):
        Blobs(tmp_path).get(sha256(b"never stored"))


def test_a_failed_write_leaves_no_trace_and_names_the_folder(tmp_path, monkeypatch):
    blobs = Blobs(tmp_path)

    def no_space(_handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("primia.storage.disk.os.fsync", no_space)
    with pytest.raises(StateError, match="No space left on device"):
        blobs.put(b"model")
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_a_killed_writer_are_no_blobs_and_can_be_swept(tmp_path):
    blobs = Blobs(tmp_path)
    digest = blobs.put(b"model")
    (tmp_path / f"{digest}.part-0000").write_bytes(b"mo")
    assert list(blobs) == [digest]
    blobs.sweep()
    assert [p.name for p in tmp_path.iterdir()] == [digest]


def test_removed_is_gone_and_twice_is_harmless(tmp_path):
    blobs = Blobs(tmp_path)
    digest = blobs.put(b"x")
    blobs.remove(digest)
    blobs.remove(digest)
    assert digest not in blobs


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "A" * 64, "0" * 63])
def test_a_digest_cannot_be_a_path(tmp_path, name):
    with pytest.raises(ValueError, match="SHA-256"):
        Blobs(tmp_path).path(Digest(name))
