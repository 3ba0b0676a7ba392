"""One private folder, one process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from primia.errors import StateError
from primia.storage.folder import StateFolder


def test_a_new_folder_is_private(tmp_path):
    with StateFolder(tmp_path / "state"):
        assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700


def test_a_second_process_is_refused_and_told_who_holds_the_folder(tmp_path):
    code = (
        "import sys\nfrom pathlib import Path\nfrom primia.storage.folder import StateFolder\n"
        "from primia.errors import StateError\n"
        "try: StateFolder(Path(sys.argv[1]))\n"
        "except StateError as err: print(err)"
    )
    with StateFolder(tmp_path / "state"):
        second = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "state")],
            capture_output=True,
            text=True,
            check=True,
        )
    assert f"in use by process {os.getpid()}" in second.stdout


def test_the_folder_is_free_again_after_close(tmp_path):
    StateFolder(tmp_path / "state").close()
    StateFolder(tmp_path / "state").close()


def test_a_folder_open_to_others_is_refused_with_the_remedy(tmp_path):
    (tmp_path / "state").mkdir(mode=0o755)
    (tmp_path / "state").chmod(0o755)
    with pytest.raises(StateError, match=r"mode 0755 .* chmod 700"):
        StateFolder(tmp_path / "state")


def test_a_path_that_cannot_be_a_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StateError, match="file/state"):
        StateFolder(tmp_path / "file" / "state")


def test_a_folder_that_is_not_writable_is_named(tmp_path, monkeypatch):
    def refuse(*_args):
        raise PermissionError(13, "Permission denied")  # root would be let through for real

    (tmp_path / "state").mkdir(mode=0o700)
    monkeypatch.setattr("primia.storage.folder.os.open", refuse)
    with pytest.raises(StateError, match=r"cannot write in .*/state: Permission denied"):
        StateFolder(tmp_path / "state")
