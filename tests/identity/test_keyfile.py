"""Keys on disk: private, whole, and refused when open to others."""

from __future__ import annotations

import pytest

from primia.errors import IdentityError, StateError
from primia.identity.keyfile import load_key, new_key, store, store_key


def test_a_key_is_stored_private_and_read_back(tmp_path):
    path, key = tmp_path / "keys" / "site.key", new_key()
    store_key(path, key)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert load_key(path).public_key() == key.public_key()
    assert [p.name for p in path.parent.iterdir()] == ["site.key"]


@pytest.mark.parametrize(("file", "folder"), [(0o644, 0o700), (0o600, 0o755), (0o640, 0o700)])
def test_a_key_that_others_can_read_is_refused_with_the_remedy(tmp_path, file, folder):
    path = tmp_path / "keys" / "site.key"
    store_key(path, new_key())
    path.chmod(file)
    path.parent.chmod(folder)
    with pytest.raises(IdentityError, match=r"mode 0\d+ and is open to others; run: chmod \d+ "):
        load_key(path)


def test_a_missing_or_damaged_key_is_named(tmp_path):
    path = tmp_path / "keys" / "site.key"
    with pytest.raises(StateError, match="enrolled"):
        load_key(path)
    store(path, b"not a key")
    with pytest.raises(IdentityError, match=r"site\.key: not a private key"):
        load_key(path)


def test_a_write_that_fails_names_the_path(tmp_path):
    (tmp_path / "keys").write_text("a file where the folder should be")
    with pytest.raises(StateError, match=r"cannot write .*keys/site\.key"):
        store_key(tmp_path / "keys" / "site.key", new_key())
