"""A new study authority: endorsed by the old one, or not trusted by anybody."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from coordinator import home, rotation
from primia.errors import IdentityError, StateError
from primia.identity import authority, keyfile
from primia.identity.certificate import from_pem, is_issued_by, to_pem
from primia.identity.rotation import check_successor, endorse
from primia.wire.handler import Succession
from tests.renewal.study import EAST, NORTH, PLAN, SOUTH, Study, bundle_of
from worker.renewal import follow


def killed(*_: object, **__: object) -> None:
    raise SystemExit


def rotate(study: Study) -> None:
    rotation.rotate(study.home, study.state)


def sites_with(study: Study) -> list[tuple[str, ...]]:
    return [a.sites for a in rotation.standings(study.home, study.state)]


def test_sites_move_to_the_new_authority_and_the_old_one_is_retired(study: Study) -> None:
    east, north = study.enrol(EAST), study.enrol(NORTH)
    east.look(1)
    north.look(1)
    pins = north.state.peers()
    before = east.load()
    rotate(study)
    assert sites_with(study) == [(EAST, NORTH), ()]
    east.look(2)
    assert len(east.load().roots) == 2
    north.look(2)  # east's certificate is already of the new authority
    assert north.peers.knows({EAST, NORTH})
    for worker in (east, north):
        worker.link.get_study()
    assert sites_with(study) == [(), (EAST, NORTH)]
    rotation.retire(study.home, study.state, force=False)
    for worker in (east, north):
        worker.look(3)
        assert worker.load().roots == (east.load().authority,)
        assert worker.load().authority != before.authority
        assert worker.link.get_study().plan
    assert north.state.peers() == pins
    assert east.load().key.private_numbers() == before.key.private_numbers()


def test_the_retired_authority_and_its_certificates_are_refused(study: Study) -> None:
    east = study.enrol(EAST)
    old = east.load()
    rotate(study)
    east.look(2)
    east.link.get_study()
    rotation.retire(study.home, study.state, force=False)
    east.link.use(replace(old, successor=east.load().roots[-1]).tls())
    with pytest.raises(IdentityError, match="retired the authority that issued our certificate"):
        east.link.get_study()
    assert not (study.home / "authority" / "authority.key").exists()


def test_a_site_that_missed_the_rotation_hears_what_happened(study: Study) -> None:
    east = study.enrol(EAST)
    rotate(study)
    rotation.retire(study.home, study.state, force=True)
    with pytest.raises(IdentityError, match="newer authority than the one trusted here"):
        east.link.get_study()


def test_retiring_is_refused_while_sites_would_be_cut_off(study: Study) -> None:
    east = study.enrol(EAST)
    study.enrol(NORTH)
    study.enrol(SOUTH)
    study.state.strike(SOUTH)
    rotate(study)
    with pytest.raises(StateError, match="east, north would be cut off"):
        rotation.retire(study.home, study.state, force=False)
    east.look(2)
    with pytest.raises(StateError, match="east, north would be cut off"):
        rotation.retire(study.home, study.state, force=False)  # issued, but never used
    east.link.get_study()
    with pytest.raises(StateError, match=r"^north would be cut off"):
        rotation.retire(study.home, study.state, force=False)
    with pytest.raises(StateError, match="end that rotation first"):
        rotate(study)


def test_a_hospital_enrols_during_the_overlap_and_moves_by_itself(study: Study) -> None:
    rotate(study)
    east = study.enrol(EAST)
    assert east.load().successor is None
    east.look(2)
    assert is_issued_by(east.load().certificate, east.load().roots[-1])


def test_codes_of_the_old_authority_are_void_once_it_is_retired(study: Study) -> None:
    home.invite(study.home, EAST, study.server.address)
    rotate(study)
    rotation.retire(study.home, study.state, force=False)
    assert study.state.open_invitations() == []


# --- killed in the middle ---


def test_a_rotation_killed_before_its_row_left_nothing_valid_and_is_made_again(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    east = study.enrol(EAST)
    with monkeypatch.context() as patched:
        patched.setattr(study.state, "add_authority", killed)
        with pytest.raises(SystemExit):
            rotate(study)
    assert (study.home / "authority" / "2" / "authority.pem").exists()
    assert len(study.state.valid_authorities()) == 1
    east.look(2)
    assert east.load().successor is None
    rotate(study)
    east.look(3)
    assert east.load().successor == from_pem(study.state.valid_authorities()[1].certificate)


def test_a_retirement_killed_before_the_key_was_deleted_deletes_it_when_repeated(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotate(study)
    with monkeypatch.context() as patched:
        patched.setattr(rotation, "_delete_retired_keys", killed)
        with pytest.raises(SystemExit):
            rotation.retire(study.home, study.state, force=False)
    assert (study.home / "authority" / "authority.key").exists()
    assert len(study.state.valid_authorities()) == 1
    with pytest.raises(StateError, match="nothing to retire"):
        rotation.retire(study.home, study.state, force=False)
    assert not (study.home / "authority" / "authority.key").exists()


@pytest.mark.parametrize("file", ["authority.pem", "site.pem"])
def test_a_worker_killed_between_its_files_starts_again_and_goes_on(
    study: Study, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    east = study.enrol(EAST)
    rotate(study)
    real = keyfile.store

    def killed_at(path: Path, data: bytes) -> None:
        if path.name == file and path.read_bytes() != data:
            raise SystemExit
        real(path, data)

    with monkeypatch.context() as patched:
        patched.setattr(keyfile, "store", killed_at)
        with pytest.raises(SystemExit):
            east.look(2)
    east.stop()
    east.start()
    east.look(2)
    assert is_issued_by(east.load().certificate, east.load().roots[-1])
    assert east.link.get_study().plan


# --- attacks ---


def test_an_endorsement_by_anything_but_the_pinned_authority_is_refused(study: Study) -> None:
    east = study.enrol(EAST)
    now = study.clock()
    old = authority.load(study.home / "authority")
    evil = authority.create(study.folder / "evil", PLAN.study, now=now, valid_days=99)
    other = authority.create(study.folder / "other", PLAN.study, now=now, valid_days=99)
    genuine = endorse(old, evil.certificate)
    check_successor(old.certificate, evil.certificate, genuine, now=now)
    coordinator_key = home.coordinator_key(study.home)
    forgeries = {
        "by itself": endorse(evil, evil.certificate),
        "by a third": endorse(other, evil.certificate),
        "by the coordinator's key": endorse(
            authority.Authority(old.certificate, coordinator_key), evil.certificate
        ),
        "by a site's key": endorse(
            authority.Authority(old.certificate, east.load().key), evil.certificate
        ),
        "of another": endorse(old, other.certificate),
        "cut": genuine[:-1],
        "nothing": b"",
    }
    files = east.files()
    for name, endorsement in forgeries.items():
        bundle = replace(
            bundle_of(study), succession=Succession(to_pem(evil.certificate), endorsement)
        )
        with pytest.raises(IdentityError, match="did not endorse"):
            follow(east.load(), bundle, now=now)
        assert east.files() == files, name


def test_a_forged_succession_is_reported_and_the_worker_goes_on(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    east = study.enrol(EAST)
    evil = authority.create(study.folder / "evil", PLAN.study, now=study.clock(), valid_days=99)
    forged = replace(bundle_of(study), succession=Succession(to_pem(evil.certificate), b"forged"))
    monkeypatch.setattr(study.service, "study", lambda _: forged)
    with capture_logs() as logs:
        east.look(2, between_rounds=True)
    assert "did not endorse" in next(x["reason"] for x in logs if x["event"] == "roster_refused")
    assert len(east.load().roots) == 1


def test_what_the_old_authority_certified_as_a_leaf_is_no_successor(study: Study) -> None:
    """Even endorsed: only a root over leaves may follow, in date."""
    now = study.clock()
    old = authority.load(study.home / "authority")
    leaf = study.enrol(EAST).load().certificate
    with pytest.raises(IdentityError, match=r"malformed|not that of an authority"):
        check_successor(old.certificate, leaf, endorse(old, leaf), now=now)
    gone = authority.create(
        study.folder / "gone", PLAN.study, now=now - timedelta(days=9), valid_days=2
    ).certificate
    with pytest.raises(IdentityError, match="expired"):
        check_successor(old.certificate, gone, endorse(old, gone), now=now)


def test_an_older_authority_endorses_nobody_once_a_newer_one_is_trusted(study: Study) -> None:
    """That is what a rotation is for: the old key may have been read by others."""
    east = study.enrol(EAST)
    old = authority.load(study.home / "authority")
    rotate(study)
    east.look(2)
    evil = authority.create(study.folder / "evil", PLAN.study, now=study.clock(), valid_days=99)
    word = Succession(to_pem(evil.certificate), endorse(old, evil.certificate))
    with pytest.raises(IdentityError, match="did not endorse"):
        follow(east.load(), replace(bundle_of(study), succession=word), now=study.clock())


def test_the_old_authority_is_not_dropped_before_the_coordinator_has_moved(study: Study) -> None:
    east = study.enrol(EAST)
    rotate(study)
    east.look(2)
    without = replace(bundle_of(study), succession=None)
    mine = east.load()
    assert follow(mine, without, now=study.clock()) is mine


def test_an_offline_authority_cannot_be_rotated_and_says_so(study: Study) -> None:
    study.take_authority_away()
    with pytest.raises(StateError, match="put the folder back"):
        rotate(study)
    study.start()  # and serves without it
    assert study.server.port
