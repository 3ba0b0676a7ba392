"""A struck site is out at once: in its next call, in one that waits, in a stream that flows."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from coordinator import rotation
from coordinator import service as services
from coordinator.state import CoordinatorState
from primia.errors import IdentityError, PrimiaError
from primia.protocol.messages import RoundId, RoundKind
from primia.types import Digest, sha256
from primia.wire.channel import CHUNK
from primia.wire.handler import UploadKey
from tests.renewal.study import EAST, NORTH, Study, Worker, bundle_of


@pytest.fixture(autouse=True)
def _looked_up_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "STANDING_S", 0.0)


def strike(study: Study) -> None:
    """As the command does it: in another process, through the file alone."""
    book = CoordinatorState(study.home)
    book.strike(EAST)
    book.close()


def upload_key() -> UploadKey:
    return UploadKey(RoundId(Digest("1" * 64), 1, 1, RoundKind.TRAIN, Digest("2" * 64)), b"s" * 32)


def refused(call: object) -> PrimiaError:
    with pytest.raises(PrimiaError) as caught:
        call()  # type: ignore[operator]
    return caught.value


def test_the_next_call_on_the_open_channel_is_refused(study: Study) -> None:
    east = study.enrol(EAST)
    east.link.get_study()
    strike(study)
    with pytest.raises(IdentityError, match="struck from the roster"):
        east.link.get_study()
    with pytest.raises(IdentityError, match="struck from the roster"):
        east.link.renew()


def test_a_call_that_waits_ends_promptly(study: Study) -> None:
    east = study.enrol(EAST)
    heard: list[PrimiaError] = []
    waiting = threading.Thread(target=lambda: heard.append(refused(lambda: east.link.attend(0))))
    began = time.monotonic()
    waiting.start()
    time.sleep(0.5)
    assert waiting.is_alive()
    strike(study)
    waiting.join(60)
    assert isinstance(heard[0], IdentityError)
    assert "struck" in str(heard[0])
    # A long poll takes 20 s; the loop wakes every second.
    assert time.monotonic() - began < 15


def frames_until_refused(study: Study, east: Worker, chunks: int, strike_at: int) -> IdentityError:
    """An upload in whose middle the site is struck."""

    done: list[int] = []

    def progress(sent: int) -> None:
        if sent >= strike_at * CHUNK and not done:
            done.append(sent)
            strike(study)
        time.sleep(0.05)  # so that the frames do not all lie in a buffer

    with pytest.raises(IdentityError) as caught:
        east.link.upload(upload_key(), bytes(chunks * CHUNK), on_progress=progress)
    return caught.value


def test_an_upload_in_progress_is_refused_at_its_next_frame(study: Study) -> None:
    east = study.enrol(EAST)
    said = frames_until_refused(study, east, chunks=40, strike_at=5)
    assert "struck" in str(said)
    spooled = sum(p.stat().st_size for p in (study.home / "uploads").iterdir())
    assert spooled < 40 * CHUNK


def test_an_upload_whose_last_frame_had_passed_is_refused_at_completion(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    east = study.enrol(EAST)
    real = study.service.upload_complete

    def struck_just_before(*args: object) -> None:
        strike(study)
        real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(study.service, "upload_complete", struck_just_before)
    with pytest.raises(IdentityError, match="struck"):
        east.link.upload(upload_key(), b"x" * 100)  # the driver would fail the test


def test_a_download_in_progress_ends_at_its_next_piece(study: Study, tmp_path: Path) -> None:
    east = study.enrol(EAST)
    data = bytes(64 * CHUNK)
    path = tmp_path / "model"
    path.write_bytes(data)
    study.service.model = lambda *_: path  # type: ignore[method-assign]

    done: list[int] = []

    def progress(received: int) -> None:
        if received >= 2 * CHUNK and not done:
            done.append(received)
            strike(study)

    with pytest.raises(IdentityError, match="struck"):
        east.link.fetch_model(sha256(data), max_bytes=len(data), on_progress=progress)


def test_a_struck_sites_certificate_is_handed_to_nobody_and_dropped(study: Study) -> None:
    east, north = study.enrol(EAST), study.enrol(NORTH)
    north.look(study.state.directory())
    assert north.peers.knows({EAST})
    strike(study)
    assert len(bundle_of(study).sites) == 1
    north.look(study.state.directory(), between_rounds=False)
    assert north.peers.knows({EAST})  # it signed in the round at hand
    north.look(study.state.directory())
    assert not north.peers.knows({EAST})
    assert east.load().site == EAST


def test_an_expired_or_cut_off_hospital_does_not_stop_the_others(study: Study) -> None:
    east, north = study.enrol(EAST), study.enrol(NORTH)
    rotation.rotate(study.home, study.state)
    north.look(study.state.directory())
    north.link.get_study()
    rotation.retire(study.home, study.state, force=True)
    north.look(study.state.directory())  # east's certificate is of the retired authority
    assert not north.peers.knows({EAST})
    assert north.link.get_study().plan
    assert east.load().site == EAST
