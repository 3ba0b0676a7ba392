"""Films and names of files that would end the reading of all the others."""

from __future__ import annotations

import os
import signal
import struct
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "imaging"))
from film_files import encoded, film

from primia.config.site import DataSource
from primia.errors import DataError
from primia.imaging import dicom, sandbox
from primia.imaging.manifest import SiteKey
from primia.imaging.pictures import Defect, Picture
from primia.imaging.readers import load_cohort
from primia.imaging.sandbox import Sandbox
from worker.daemon import _heard_at_once
from worker.link import Stopped

SIZE = 28
KEY = SiteKey(bytes(32))


def a_folder(root: Path, name: bytes) -> DataSource:
    """Two classes of ten films each, the first of them called `name`."""
    for label in ("normal", "sick"):
        (root / label).mkdir(parents=True)
        for i in range(10):
            called = name if i == 0 else f"{i}.png".encode()
            picture = encoded(film(i + 50 * (label == "sick"), height=SIZE, width=SIZE))
            Path(os.fsdecode(os.fsencode(root / label) + b"/" + called)).write_bytes(picture)
    return DataSource(kind="folder", path=root, every_film_its_own_patient=True)


@pytest.mark.parametrize("content", [None, b"\xff\xd8\xff no film"])
def test_a_file_whose_name_is_no_utf8_does_not_end_the_reading(
    tmp_path: Path, content: bytes | None
) -> None:
    source = a_folder(tmp_path / "films", b"r\xf6ntgen.png")
    if content is not None:
        Path(os.fsdecode(os.fsencode(source.path) + b"/sick/r\xf6ntgen.png")).write_bytes(content)
    cohort = load_cohort(
        source, classes=("normal", "sick"), input_size=SIZE, min_patients=2, site_key=KEY
    )
    assert cohort.quarantined == (content is not None)
    assert len(cohort.train) + len(cohort.validation) == 20 - cohort.quarantined


def test_a_dicom_film_that_names_half_a_character_is_one_film_less(tmp_path: Path) -> None:
    from dicom_files import encoded_film, gradient

    raw = encoded_film(gradient(), PatientID="ZZZZZ")
    at = raw.index(struct.pack("<HH", 8, 0x16) + b"UI")
    charset = struct.pack("<HH2sH", 8, 5, b"CS", 6) + b"utf_7 "
    hostile = (raw[:at] + charset + raw[at:]).replace(b"ZZZZZ", b"+2AA-")
    assert dicom.decode(hostile, SIZE) is Defect.DAMAGED
    assert isinstance(dicom.decode(raw, SIZE), Picture)


@pytest.mark.parametrize("head", [b'{"patient": "\\ud800"}', b'{"patient": ' + b"[" * 2000])
def test_a_decoder_gone_bad_cannot_end_the_worker_with_its_reply(head: bytes) -> None:
    with pytest.raises(sandbox._Died):
        sandbox._text(sandbox._parse(head), "patient")


def test_patient_ids_of_half_characters_are_refused_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "films.npz"
    pixels = np.random.default_rng(1).integers(0, 255, (20, SIZE, SIZE)).astype(np.uint8)
    ids = np.array([f"p{i}" for i in range(19)] + ["\ud800"], np.str_)
    np.savez(path, images=pixels, labels=np.arange(20) % 2, patient_ids=ids, allow_pickle=False)
    with pytest.raises(DataError, match="no text"):
        load_cohort(
            DataSource(kind="npz", path=path),
            classes=("a", "b"), input_size=SIZE, min_patients=2, site_key=KEY,
        )  # fmt: skip


def test_a_signal_while_a_film_hangs_is_heard_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs = "import os, time; os.write(0, b'films\\n'); time.sleep(600)"
    monkeypatch.setattr(sandbox, "COMMAND", (sys.executable, "-c", hangs))
    (tmp_path / "film.png").write_bytes(b"x")
    stop = threading.Event()
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
    started = time.monotonic()
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped), _heard_at_once(stop), Sandbox(2) as films:
        list(films.decode([(tmp_path / "film.png", False)] * 50, SIZE))
    assert stop.is_set()
    assert signal.getsignal(signal.SIGTERM) is before
    assert time.monotonic() - started < sandbox.WALL_S / 2
