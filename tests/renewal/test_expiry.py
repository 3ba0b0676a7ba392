"""Days left, and that a person is told in time and not at every look."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from coordinator.show import certificates_json, sites_json, status_json
from primia.identity import authority
from primia.identity.expiry import Notices, days_left, renewal_due, threshold
from primia.identity.keyfile import new_key
from tests.renewal.study import EAST, NORTH, Study

START = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    made = authority.create(tmp_path_factory.mktemp("a") / "a", "chest", now=START, valid_days=400)
    key = new_key().public_key()
    return made.issue_coordinator(key, "chest", now=START, valid_days=90)


@given(hours=st.integers(-1000, 4000))
def test_days_left_counts_down_and_goes_below_zero(certificate, hours):
    assert days_left(certificate, START + timedelta(hours=hours)) == pytest.approx(90 - hours / 24)


@given(hours=st.integers(0, 4000))
def test_a_certificate_is_due_in_the_last_third_of_its_life(certificate, hours):
    life = 90 * 24 + 1  # it begins an hour before it was made
    due = renewal_due(certificate, START + timedelta(hours=hours))
    assert due == (90 * 24 - hours < life / 3)


@pytest.mark.parametrize(
    ("days", "limit"), [(31, None), (30, 30), (8, 30), (7, 7), (1.1, 7), (1, 1), (-5, 1)]
)
def test_thresholds(days, limit):
    assert threshold(days) == limit


def test_each_threshold_is_told_once_a_day(certificate):
    notices = Notices()
    told = []
    for hour in range(90 * 24 + 48):
        now = START + timedelta(hours=hour)
        days = notices.expiry("site", certificate, now)
        if days is not None:
            told.append(now.date())
    assert min(told) == (START + timedelta(days=60)).date()
    # Once a day, and once more on the two days on which the next threshold is passed.
    assert len(told) - len(set(told)) <= 2
    assert len(set(told)) == 32


def test_both_sides_log_what_ends_soon_with_days_and_remedy(tmp_path: Path) -> None:
    study = Study(tmp_path, age_days=820)
    try:
        east = study.enrol(EAST)
        study.take_authority_away()
        with capture_logs() as logs:
            for _ in range(3):
                study.upkeep.look()
                east.look(1)
        ends = [(x["whose"], x["days_left"]) for x in logs if x["event"] == "certificate_ends"]
        assert ends == [("coordinator", 4), ("site", 4)]
        assert all(x["remedy"] for x in logs if x["event"] == "certificate_ends")
        assert certificates_json(study.state)["coordinator"] == pytest.approx(5, abs=0.1)
        (site,) = sites_json(study.state)
        assert site["days_left"] == pytest.approx(5, abs=0.1)
    finally:
        study.close()


def test_the_coordinator_renews_its_own_certificate_for_new_connections(study: Study) -> None:
    """Issued 600 of 825 days ago; the same key, so that the plan's signature holds."""
    east = study.enrol(EAST)
    before = study.service.tls()
    study.upkeep.look()
    after = study.service.tls()
    assert after.certificate != before.certificate
    assert after.key == before.key
    assert certificates_json(study.state)["coordinator"] > 820
    assert east.link.get_study().coordinator == after.certificate
    east.link.use(east.load().tls())  # a new connection
    assert east.link.get_study().plan
    study.upkeep.look()
    assert study.service.tls() == after


def test_without_the_authority_the_coordinator_says_once_a_day_what_to_do(study: Study) -> None:
    study.take_authority_away()
    with capture_logs() as logs:
        study.upkeep.look()
        study.upkeep.look()
    (said,) = [x for x in logs if x["event"] == "coordinator_certificate_not_renewed"]
    assert "put the folder back" in said["reason"]


def test_open_invitations_stand_in_the_roster_until_they_are_used(study: Study) -> None:
    from coordinator import home

    home.invite(study.home, NORTH, study.server.address)
    study.enrol(EAST)
    shown = {x["site"]: x["state"] for x in sites_json(study.state)}
    assert shown == {"east": "enrolled", "north": "invited"}
    assert status_json.__doc__
    study.enrol(NORTH)
    assert {x["state"] for x in sites_json(study.state)} == {"enrolled"}
