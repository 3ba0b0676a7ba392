"""Books put back to an older copy, edited or invented: the other side's signed heads tell.

The real books of a site and of a coordinator, and the real code of both; only the wire is left out.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from coordinator.heads import MOST_IN_ATTEMPT, HeadKeeper, compare_books
from coordinator.state import CoordinatorState
from coordinator.why import head_troubles
from primia.errors import IdentityError, PeerError, StateError, Unreachable
from primia.identity import authority, keyfile
from primia.identity.certificate import to_pem
from primia.identity.enrolment import make_request
from primia.identity.heads import Mark, SiteHeads, sign_heads
from primia.privacy.ledger import Ledger
from primia.privacy.mechanism import DpSgd
from primia.protocol.messages import RoundId, RoundKind
from primia.protocol.site_events import KeysMade, SurvivorsSigned
from primia.storage.audit_log import FILE, read
from primia.types import Digest, SiteId, sha256
from worker.heads import Heads
from worker.home import SiteIdentity
from worker.state import WorkerState
from worker.work import check_books

PLAN = sha256(b"plan")
MODEL = sha256(b"model")
STUDY = "rolled"


class Lead:
    """A coordinator's folder and what is held in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = datetime.now(UTC)
        self.authority = authority.create(folder / "authority", STUDY, now=self.now, valid_days=9)
        self.key = keyfile.new_key()
        self.certificate = self.authority.issue_coordinator(
            self.key.public_key(), STUDY, now=self.now, valid_days=9
        )
        self.start()

    def start(self) -> None:
        self.state = CoordinatorState(self.folder)
        compare_books(self.state)
        self.keeper = HeadKeeper(
            self.state,
            PLAN,
            lambda: (self.certificate, self.key),
            lambda: (self.authority.certificate,),
        )

    def open_attempt(self) -> RoundId:
        return self.state.open_attempt(PLAN, 1, RoundKind.TRAIN, MODEL)

    def events(self) -> list[str]:
        return [x.event for x in read(self.folder / FILE)[0]]


class Wire:
    """Calls a keeper as the servicer does for an authenticated caller."""

    def __init__(self, lead: Lead, site: SiteId, certificate) -> None:
        self.lead, self.site, self.certificate = lead, site, certificate
        self.down = False

    def last_heads(self, seen):
        if self.down:
            raise Unreachable("down")
        return self.lead.keeper.last(self.site, seen)

    def countersign(self, heads, seen):
        if self.down:
            raise Unreachable("down")
        return self.lead.keeper.countersign(self.site, self.certificate, heads, seen)


class Clinic:
    """A worker's folder and its books."""

    def __init__(self, folder: Path, lead: Lead, name: str) -> None:
        self.folder, self.lead, self.site = folder, lead, SiteId(name)
        folder.mkdir(mode=0o700)
        self.key = keyfile.new_key()
        self.certificate = lead.authority.issue_site(
            make_request(self.key), self.site, now=lead.now, valid_days=9
        )
        self.wire = Wire(lead, self.site, self.certificate)
        Ledger(folder / "ledger.db", create=True).close()
        self.start()

    def start(self) -> None:
        self.state = WorkerState(self.folder)
        self.ledger = Ledger(self.folder / "ledger.db")
        identity = SiteIdentity(
            self.site, "127.0.0.1:1", self.certificate, self.lead.authority.certificate, self.key
        )
        self.heads = Heads(identity, PLAN, self.state, self.ledger, self.wire)

    def stop(self) -> None:
        self.state.close()
        self.ledger.close()

    def check_at_start(self) -> None:
        """What the daemon does before it trains."""
        self.stop()
        self.start()
        check_books(self.ledger, self.state)
        self.heads.check()

    def charge(self, attempt: RoundId) -> None:
        update = self.state.add_update(attempt, sha256(str(attempt.attempt).encode()))
        row = self.ledger.charge(
            plan=PLAN, round_number=attempt.number, attempt=attempt.attempt,
            mechanism=DpSgd(0.1, 2.0, 1), update=update.digest, cap_epsilon=99.0,
            cap_delta=1e-3, time="2026-01-01T00:00:00",
        )  # fmt: skip
        self.state.audit.append(
            "charged", round=1, attempt=attempt.attempt, ledger=row.number, update=update.digest
        )
        head = self.ledger.head()
        self.state.note("ledger_head", f"{head.rows}:{head.digest}")

    def take_part(self) -> RoundId:
        attempt = self.lead.open_attempt()
        self.charge(attempt)
        self.state.remember(KeysMade(attempt), None)
        return attempt

    def full_round(self) -> None:
        attempt = self.take_part()
        assert self.heads.exchange(attempt.attempt)

    def copy(self, to: Path) -> None:
        self.stop()
        shutil.copytree(self.folder, to)
        self.start()

    def restore(self, copy: Path, *names: str) -> None:
        self.stop()
        for name in names:
            for old in self.folder.glob(f"{name}*"):
                old.unlink()
            for file in copy.glob(f"{name}*"):
                shutil.copy(file, self.folder / file.name)
        self.start()


@pytest.fixture
def lead(tmp_path):
    return Lead(tmp_path / "lead")


@pytest.fixture
def clinic(tmp_path, lead):
    return Clinic(tmp_path / "north", lead, "north")


def test_books_that_only_grew_are_accepted_at_each_start(clinic):
    clinic.check_at_start()
    for _ in range(3):
        clinic.full_round()
        clinic.check_at_start()
    assert clinic.lead.events().count("heads_countersigned") == 3
    assert not head_troubles(clinic.lead.state)


ALL = ("ledger.db", "worker.db", FILE)


@pytest.mark.parametrize(
    "files", [*[(name,) for name in ALL], ALL[:2], ALL[1:], (ALL[0], ALL[2]), ALL], ids=str
)
def test_any_of_the_books_put_back_is_found_before_training(clinic, tmp_path, files):
    clinic.full_round()
    clinic.copy(tmp_path / "backup")
    clinic.full_round()
    clinic.restore(tmp_path / "backup", *files)
    with pytest.raises(StateError, match=r"older|forgotten"):
        clinic.check_at_start()


def test_the_whole_folder_put_back_is_found_by_what_the_coordinator_holds_alone(clinic, tmp_path):
    clinic.full_round()
    clinic.copy(tmp_path / "backup")
    clinic.full_round()
    clinic.restore(tmp_path / "backup", *ALL)
    check_books(clinic.ledger, clinic.state)  # they are of one age
    with pytest.raises(StateError, match="nothing was trained"):
        clinic.heads.check()
    assert read(clinic.folder / FILE)[0][-1].event == "rollback_found"
    # The note of it made the log as long as before perhaps; it is still another one.
    with pytest.raises(StateError, match="nothing was trained"):
        clinic.heads.check()


def test_a_folder_put_back_under_a_running_worker_is_refused_and_why_names_the_site(
    clinic, tmp_path
):
    clinic.full_round()
    clinic.copy(tmp_path / "backup")
    clinic.full_round()
    clinic.full_round()
    clinic.restore(tmp_path / "backup", *ALL)
    attempt = clinic.take_part()
    with pytest.raises(StateError, match="nothing was trained"):
        clinic.heads.exchange(attempt.attempt)
    (found,) = head_troubles(clinic.lead.state)
    assert found["site"] == "north"
    assert "privacy ledger went from entry 3 to entry 2" in found["reason"]
    assert "restore the newest copy" in found["next"]
    assert clinic.lead.events().count("heads_refused") == 1


def test_two_workers_on_copies_of_one_folder_are_found(clinic, tmp_path):
    """A cloned machine: as many entries, and others."""
    clinic.full_round()
    clinic.copy(tmp_path / "clone")
    twin = object.__new__(Clinic)
    twin.__dict__.update(clinic.__dict__)
    twin.folder = tmp_path / "clone"
    twin.start()
    attempt = clinic.lead.open_attempt()
    for one in (clinic, twin):
        one.charge(attempt)
    clinic.state.audit.append("stopped")
    twin.state.audit.append("peer_forgotten", site="x")
    assert clinic.heads.exchange(attempt.attempt)
    with pytest.raises(StateError, match="nothing was trained"):
        twin.heads.exchange(attempt.attempt)


def test_an_edited_line_in_the_middle_is_found_at_the_start(clinic):
    clinic.full_round()
    clinic.full_round()
    path = clinic.folder / FILE
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b'"attempt":1', b'"attempt":7')
    path.write_bytes(b"".join(lines))
    with pytest.raises(StateError, match="changed at line 2 "):
        clinic.check_at_start()


def test_a_deleted_audit_log_does_not_start_as_a_new_one(clinic):
    clinic.full_round()
    (clinic.folder / FILE).unlink()
    with pytest.raises(StateError, match="older"):
        clinic.check_at_start()


def test_a_crash_between_promise_and_line_is_made_up_for(clinic, monkeypatch):
    clinic.full_round()
    attempt = clinic.take_part()
    promise = SurvivorsSigned(attempt, bytes(32), (SiteId("north"), SiteId("south")))
    with monkeypatch.context() as patch:
        patch.setattr(type(clinic.state.audit), "append", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            clinic.state.remember(promise, None)
    clinic.check_at_start()
    line = read(clinic.folder / FILE)[0][-1]
    assert line.event == "survivors_signed"
    assert line.fields == {
        "round": 1, "attempt": attempt.attempt, "survivors": ["north", "south"],
    }  # fmt: skip
    clinic.check_at_start()


def test_an_unreachable_coordinator_loses_no_head(clinic):
    clinic.full_round()
    clinic.wire.down = True
    attempt = clinic.take_part()
    assert not clinic.heads.exchange(attempt.attempt)
    clinic.wire.down = False
    clinic.check_at_start()
    assert clinic.heads.exchange(attempt.attempt)
    kept = clinic.lead.state.kept_heads(clinic.site)
    assert kept is not None
    assert kept[0].heads.ledger.count == 2


def test_a_lost_answer_is_given_again_without_another_line(clinic):
    attempt = clinic.take_part()
    signed = signed_heads(clinic, attempt=attempt.attempt)
    first = clinic.wire.countersign(signed, None)
    assert clinic.wire.countersign(signed, None) == first
    clinic.lead.start()  # also over a restart of the coordinator
    assert clinic.wire.countersign(signed, None) == first
    assert clinic.lead.events().count("heads_countersigned") == 1


def signed_heads(clinic: Clinic, *, attempt=0, key=None, **changes):
    ledger, audit = clinic.ledger.head(), clinic.state.audit.head()
    heads = SiteHeads(
        PLAN,
        clinic.site,
        attempt,
        Mark(ledger.rows, ledger.digest),
        Mark(audit.lines, audit.digest),
    )
    return sign_heads(replace(heads, **changes), key or clinic.key, to_pem(clinic.certificate))


def test_an_older_head_replayed_is_refused_and_the_newer_one_stays(clinic):
    old = signed_heads(clinic, attempt=clinic.take_part().attempt)
    clinic.wire.countersign(old, None)
    clinic.full_round()
    kept = clinic.lead.state.kept_heads(clinic.site)
    with pytest.raises(PeerError, match="went from"):
        clinic.wire.countersign(old, None)
    assert clinic.lead.state.kept_heads(clinic.site) == kept


def test_no_site_writes_the_heads_of_another(clinic, lead, tmp_path):
    south = Clinic(tmp_path / "south", lead, "south")
    of_north = signed_heads(clinic)
    with pytest.raises(PeerError, match="another site"):
        south.wire.countersign(of_north, None)
    with pytest.raises(PeerError, match="another site"):  # north's name, south's key
        south.wire.countersign(signed_heads(south, site=clinic.site), None)
    with pytest.raises(PeerError, match="not signed by the key"):  # stolen link, own signature
        clinic.wire.countersign(signed_heads(clinic, key=south.key), None)
    assert lead.state.kept_heads(clinic.site) is None


def test_heads_of_another_study_or_of_an_attempt_to_come_are_refused(clinic):
    with pytest.raises(PeerError, match="study"):
        clinic.wire.countersign(signed_heads(clinic, plan=Digest("ab" * 32)), None)
    with pytest.raises(PeerError, match="never opened"):
        clinic.wire.countersign(signed_heads(clinic, attempt=1), None)


def test_a_site_cannot_fill_the_coordinators_disk_with_heads(clinic):
    for i in range(MOST_IN_ATTEMPT):
        clinic.state.audit.append("peer_forgotten", site=f"s{i}")
        clinic.wire.countersign(signed_heads(clinic), None)
    clinic.state.audit.append("stopped")
    with pytest.raises(PeerError, match="often enough"):
        clinic.wire.countersign(signed_heads(clinic), None)


def test_a_site_cannot_fill_the_coordinators_disk_by_naming_other_attempts(clinic):
    """The attempt in its heads is what a site says: it goes to and fro between two of them."""
    clinic.full_round()
    lines = len(clinic.lead.events())
    for i in range(3 * MOST_IN_ATTEMPT):
        clinic.state.audit.append("peer_forgotten", site=f"s{i}")
        newer = signed_heads(clinic, attempt=i % 2)
        gone_back = signed_heads(clinic, attempt=i % 2, ledger=Mark(0, Digest("0" * 64)))
        for heads in (newer, gone_back):
            with suppress(PeerError):
                clinic.wire.countersign(heads, None)
    assert len(clinic.lead.events()) - lines <= MOST_IN_ATTEMPT
    clinic.full_round()  # in the next attempt it is heard again


def test_a_coordinator_cannot_invent_heads_for_a_site(clinic, lead, tmp_path):
    clinic.full_round()
    south = Clinic(tmp_path / "south", lead, "south")
    far = Mark(99, Digest("cd" * 32))
    forged = [
        signed_heads(clinic, key=keyfile.new_key(), ledger=far),  # somebody's key
        sign_heads(
            replace(signed_heads(clinic).heads, ledger=far), lead.key, to_pem(lead.certificate)
        ),
        sign_heads(  # the certificate that the authority may make at any time
            replace(signed_heads(clinic).heads, ledger=far), south.key, to_pem(south.certificate)
        ),
        replace(signed_heads(clinic), signature=bytes(70)),
        replace(signed_heads(clinic), certificate=b"no certificate"),
        signed_heads(clinic, site=south.site),
        signed_heads(clinic, plan=Digest("ab" * 32)),
    ]
    for held in forged:
        clinic.wire.last_heads = lambda _seen, held=held: held
        with pytest.raises(IdentityError, match="did not sign"):
            clinic.heads.check()


def test_a_forged_countersignature_is_not_kept(clinic, lead, tmp_path):
    south = Clinic(tmp_path / "south", lead, "south")
    attempt = clinic.take_part()
    real = clinic.wire.countersign
    for forge in (
        lambda answer: replace(answer, audit=Mark(answer.audit.count + 1, answer.audit.digest)),
        lambda answer: replace(answer, certificate=to_pem(south.certificate)),
        lambda answer: replace(answer, signature=bytes(70)),
        lambda _answer: south.lead.keeper._sign(signed_heads(south), 1),
    ):
        clinic.wire.countersign = lambda h, s, forge=forge: forge(real(h, s))
        assert not clinic.heads.exchange(attempt.attempt)
        assert clinic.state.countersigned() is None


def test_a_coordinator_put_back_to_a_backup_goes_on_and_everybody_is_told(clinic, lead, tmp_path):
    clinic.full_round()
    lead.state.close()
    shutil.copytree(lead.folder, tmp_path / "backup")
    lead.start()
    for _ in range(3):
        clinic.full_round()
    lead.state.close()
    shutil.rmtree(lead.folder)
    shutil.copytree(tmp_path / "backup", lead.folder)
    lead.start()
    assert not head_troubles(lead.state)  # of one age: it cannot know by itself
    clinic.check_at_start()
    (found,) = head_troubles(lead.state)
    assert found["site"] == "north"
    assert "restored from an older copy" in found["next"]
    lead.open_attempt()
    assert clinic.heads.exchange(2)
    assert lead.events().count("coordinator_rolled_back") == 1
    assert "coordinator_rolled_back" in [x.event for x in read(clinic.folder / FILE)[0]]
    clinic.full_round()  # the study goes on, and nobody says it again
    assert lead.events().count("coordinator_rolled_back") == 1


def test_a_site_cannot_accuse_the_coordinator_with_a_forged_countersignature(clinic, lead):
    clinic.full_round()
    seen = clinic.state.countersigned()
    assert seen is not None
    forged = replace(seen, audit=Mark(99, Digest("ef" * 32)))
    with pytest.raises(PeerError):
        clinic.wire.last_heads(forged)
    assert not head_troubles(lead.state)


@pytest.mark.parametrize("name", ["coordinator.db", FILE])
def test_a_coordinator_whose_books_are_not_of_one_age_says_so(clinic, lead, tmp_path, name):
    clinic.full_round()
    lead.state.close()
    shutil.copytree(lead.folder, tmp_path / "backup")
    lead.start()
    clinic.full_round()
    clinic.full_round()
    lead.state.close()
    for old in lead.folder.glob(f"{name}*"):
        old.unlink()
    for file in (tmp_path / "backup").glob(f"{name}*"):
        shutil.copy(file, lead.folder / file.name)
    lead.start()
    assert lead.events()[-1] == "books_differ"
    assert any(name.split(".")[0] in t["reason"] for t in head_troubles(lead.state))


def test_an_attempt_that_crashed_before_its_row_was_written_is_no_difference(lead, monkeypatch):
    lead.open_attempt()
    lead.state.audit.append("round_opened", round=1, attempt=2, kind="train", model=MODEL)
    lead.start()
    assert lead.events()[-1] == "round_opened"
