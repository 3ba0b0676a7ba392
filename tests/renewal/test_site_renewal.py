"""A hospital's certificate is renewed without a restart, a telephone call or a lost reply."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from coordinator import home
from primia.errors import IdentityError, Unreachable
from primia.identity import authority, keyfile
from primia.identity.certificate import fingerprint, from_pem, key_fingerprint, to_pem
from primia.identity.enrolment import make_request
from primia.identity.expiry import days_left
from primia.identity.signing import sign
from primia.wire.labels import ROUND_LABEL
from tests.renewal.study import EAST, NORTH, PLAN, SOUTH, Study, another_key, bundle_of
from worker import home as worker_home


@pytest.mark.parametrize(("age_days", "renewed"), [(0, False), (549, False), (552, True)])
def test_a_certificate_is_renewed_in_its_last_third_and_not_before(
    tmp_path: Path, age_days: float, renewed: bool
) -> None:
    study = Study(tmp_path, age_days)
    try:
        east = study.enrol(EAST)
        before = east.files()
        east.look()
        assert (east.files() != before) is renewed
        assert east.files()["site.key"] == before["site.key"]
        wanted = 825 if renewed else 825 - age_days
        assert wanted - 1 < days_left(east.load().certificate, study.clock()) <= wanted
    finally:
        study.close()


def test_the_link_goes_on_with_the_new_certificate(study: Study) -> None:
    """A gRPC channel keeps the certificate it was made with; the daemon is not restarted."""
    east = study.enrol(EAST)
    east.look(between_rounds=False)
    assert not study.state.sites()[0].seen
    assert east.link.get_study().plan
    assert study.state.sites()[0].seen


def test_a_reply_that_got_lost_is_given_again_and_both_certificates_are_taken(
    study: Study,
) -> None:
    east = study.enrol(EAST)
    lost = east.link.renew()
    assert east.link.renew() == lost  # asked with the older one, which is still taken
    assert east.link.get_study().plan
    east.look()
    assert from_pem(lost) == east.load().certificate


def test_the_older_certificate_is_refused_some_time_after_the_newer_was_used(
    study: Study,
) -> None:
    now = [1e9]
    study.state._clock = lambda: now[0]
    east = study.enrol(EAST)
    old = east.load()
    east.look()
    now[0] += 10 * 86400.0
    check = study.state.check_site
    check(EAST, fingerprint(old.certificate))  # the newer one was never used
    check(EAST, fingerprint(east.load().certificate))
    check(EAST, fingerprint(old.certificate))
    now[0] += 3601.0
    with pytest.raises(IdentityError, match="has a newer certificate"):
        check(EAST, fingerprint(old.certificate))
    check(EAST, fingerprint(east.load().certificate))


def test_a_worker_killed_before_it_stored_the_certificate_gets_the_same_again(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    east = study.enrol(EAST)
    with monkeypatch.context() as patched:
        patched.setattr(keyfile, "store", lambda *_: (_ for _ in ()).throw(SystemExit))
        with pytest.raises(SystemExit):
            east.look()
    issued = study.state.sites()[0].certificate
    east.stop()
    east.start()
    east.look()
    assert to_pem(east.load().certificate) == issued


def test_with_the_authority_offline_the_site_hears_who_has_to_do_what(study: Study) -> None:
    east = study.enrol(EAST)
    study.take_authority_away()
    with pytest.raises(Unreachable, match="operator puts the folder authority/ back"):
        east.link.renew()
    with capture_logs() as logs:
        east.look()
        study.clock.pass_days(0.01)
        east.look()
    said = [x for x in logs if x["event"] == "certificate_not_renewed"]
    assert len(said) == 1  # once a day, not at every look
    study.bring_authority_back()
    study.clock.pass_days(0.01)
    east.look()
    assert days_left(east.load().certificate, study.clock()) > 820


def test_a_failed_renewal_is_not_tried_again_at_once(study: Study) -> None:
    east = study.enrol(EAST)
    study.take_authority_away()
    assert east.renewal.due(study.clock())
    east.look()
    assert not east.renewal.due(study.clock())


def test_the_peers_notice_nothing_of_a_renewal(study: Study) -> None:
    east, north = study.enrol(EAST), study.enrol(NORTH)
    north.look(1)
    pins = north.state.peers()
    assert pins[EAST] == key_fingerprint(east.load().certificate)
    east.look(2)
    north.look(2)
    assert north.state.peers() == pins
    assert north.peers.knows({EAST, NORTH})


def test_a_renewal_that_a_strike_or_a_new_enrolment_overtook_changes_nothing(study: Study) -> None:
    east = study.enrol(EAST)
    held = fingerprint(east.load().certificate)
    late = to_pem(east.load().certificate)
    with pytest.raises(IdentityError, match="enrolled again"):
        study.state.renew_site(EAST, late, "00", held="of an earlier enrolment")
    study.state.strike(EAST)
    with pytest.raises(IdentityError, match="was struck"):
        study.state.renew_site(EAST, late, "00", held=held)
    assert [s.fingerprint for s in study.state.sites()] == [held]


def test_a_coordinator_that_certifies_another_key_for_a_site_is_refused_by_its_peers(
    study: Study,
) -> None:
    """It holds the authority's key, so the certificate is genuine; the key is not the one seen."""
    east, north = study.enrol(EAST), study.enrol(NORTH)
    north.look(1)
    made = authority.load(study.home / "authority")
    usurper = another_key()
    forged = made.issue_site(make_request(usurper), EAST, now=study.clock(), valid_days=9)
    with pytest.raises(IdentityError, match="another key"):
        north.peers.learn((to_pem(forged),), PLAN)
    # Handed out by the coordinator: the worker says so, and goes on with what it knew.
    held = fingerprint(east.load().certificate)
    study.state.renew_site(EAST, to_pem(forged), "00", held=held)
    with capture_logs() as logs:
        north.look(2)
    assert [x["event"] for x in logs] == ["roster_refused"]
    assert "peers --forget east" in logs[0]["reason"]
    statement = b"keys of a round"
    assert north.peers.verify(EAST, statement, sign(east.load().key, ROUND_LABEL, statement))
    assert not north.peers.verify(EAST, statement, sign(usurper, ROUND_LABEL, statement))


def test_a_certificate_for_another_key_or_site_is_not_stored(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    east = study.enrol(EAST)
    made = authority.load(study.home / "authority")
    key = east.load().key
    before = east.files()
    for owner, name in ((another_key(), EAST), (key, NORTH)):
        bad = made.issue_site(make_request(owner), name, now=study.clock(), valid_days=9)
        monkeypatch.setattr(study.service, "renew", lambda _, bad=bad: to_pem(bad))
        study.clock.pass_days(1)
        with capture_logs() as logs:
            east.look()
        assert "the certificate that came is bad" in logs[0]["reason"]
        assert east.files() == before


def test_pins_of_before_renewals_are_carried_over(study: Study) -> None:
    """They hold a certificate; shown once more, it gives its key."""
    east, north = study.enrol(EAST), study.enrol(NORTH)
    old = fingerprint(east.load().certificate)
    with north.state._db.transaction() as db:
        db.execute("INSERT INTO peers (site, fingerprint, pinned_at) VALUES (?, ?, 0)", (EAST, old))
        db.execute("INSERT INTO peers (site, fingerprint, pinned_at) VALUES ('south', 'ab', 0)")
    north.look(1)
    assert north.state.peers()[EAST] == key_fingerprint(east.load().certificate)
    study.enrol(SOUTH)
    with pytest.raises(IdentityError, match="of the certificate ab"):
        north.peers.learn(bundle_of(study).sites, PLAN)


def test_a_site_that_was_away_too_long_enrols_again_with_its_key_and_its_pins_hold(
    study: Study,
) -> None:
    east, north = study.enrol(EAST), study.enrol(NORTH)
    north.look(1)
    pins = north.state.peers()
    study.state.strike(EAST)
    invitation, _ = home.invite(study.home, EAST, study.server.address)
    with pytest.raises(Exception, match="--again"):
        worker_home.enrol(east.folder, invitation.code(), None)
    worker_home.enrol(east.folder, invitation.code(), None, again=True)
    east.stop()
    east.start()
    assert east.link.get_study().plan
    north.look(2)
    assert north.state.peers() == pins


def test_another_sites_code_does_not_replace_an_identity(study: Study) -> None:
    east = study.enrol(EAST)
    invitation, _ = home.invite(study.home, NORTH, study.server.address)
    with pytest.raises(IdentityError, match="the code is for north"):
        worker_home.enrol(east.folder, invitation.code(), None, again=True)


def test_a_new_hospital_touches_no_other(study: Study) -> None:
    east, north = study.enrol(EAST), study.enrol(NORTH)
    east.look(1)
    files, pins, link = east.files(), east.state.peers(), east.renewal._link
    study.enrol(SOUTH)
    east.look(2)
    assert east.files() == files
    assert east.renewal._link is link  # nothing was dialled anew
    assert {s: k for s, k in east.state.peers().items() if s != SOUTH} == pins
    assert east.peers.knows({EAST, NORTH, SOUTH})
    assert north.link.get_study().plan
