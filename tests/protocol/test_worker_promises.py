"""The worker's own driver and folder against a coordinator that lies or brings back old times.

Real `Participant`, `WorkerState`, `Peers` and certificates; only the link is false, and the local
work is a vector.
"""

from __future__ import annotations

import base64
import logging
import pickle
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import structlog
from in_memory_round import ROUND, another_attempt, layout_of, vector_of

from primia.errors import IdentityError
from primia.identity import authority, keyfile
from primia.identity.certificate import to_pem
from primia.identity.enrolment import make_request
from primia.identity.signing import sign
from primia.protocol.coordinator import CoordinatorRound
from primia.protocol.events import Abort, Answered, Commit, Phase, RoundTerms, UpdateArrived
from primia.protocol.messages import (
    AdvertiseKeys,
    Closed,
    Declined,
    KeyAdvert,
    Outcome,
    Reveal,
    RevealedShares,
    RoundId,
    ShareSecrets,
    SurvivorSignature,
    Train,
)
from primia.protocol.session import advert_statement
from primia.protocol.site import SitePhase
from primia.types import Digest, SiteId, sha256
from primia.wire.labels import PLAN_LABEL, ROUND_LABEL
from worker import participant
from worker.home import SiteIdentity
from worker.participant import Participant
from worker.state import StoredUpdate, WorkerState
from worker.study import Peers

NAMES = tuple(SiteId(n) for n in ("alder", "birch", "cedar", "dogwood"))
LAYOUT = layout_of(24)
PLAN = SimpleNamespace(
    site_ids=NAMES,
    schedule=SimpleNamespace(quorum=3),
    aggregation=SimpleNamespace(mask_cipher="aes-256-ctr", groups=1),
)


@dataclass
class Link:
    """Keeps what the worker sends."""

    sent: list[Any] = field(default_factory=list)

    def answer(self, answer: Any) -> None:
        self.sent.append(answer)

    def upload(self, _key: Any, data: Any) -> None:
        self.sent.append(bytes(data))


class Work:
    """Local work without learning: the same stored vector for each attempt at a round."""

    contribution = SimpleNamespace(layout=LAYOUT)
    caps = SimpleNamespace(min_cohort=3)
    plan = PLAN
    ledger = None  # nothing is charged, and no heads are handed over

    def __init__(self, site: SiteId, state: WorkerState) -> None:
        self.site, self.state = site, state

    def prepare(self, round_id: RoundId, *_: Any) -> tuple[Any, StoredUpdate]:
        update = self.state.update_for(round_id)
        if update is None:
            update = self.state.add_update(round_id, Digest("d" * 64))
        return vector_of(self.site, LAYOUT.length), update

    def reusable(self, round_id: RoundId) -> StoredUpdate | None:
        return self.state.update_for(round_id)

    def check_resumable(self, _update: StoredUpdate) -> None:
        """The films stay the same."""

    def vector(self, _update: StoredUpdate) -> Any:
        return vector_of(self.site, LAYOUT.length)


@dataclass
class Site:
    """One worker process on its folder; `start` is also what a restart does."""

    site: SiteId
    folder: Path
    identity: SiteIdentity
    certificates: tuple[bytes, ...]

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        self.link = Link()
        self.state = WorkerState(self.folder)
        peers = Peers(self.identity, self.state)
        peers.learn(self.certificates, PLAN)  # type: ignore[arg-type]
        self.peers = peers
        self.participant = Participant(
            self.identity, peers, Work(self.site, self.state), self.link, threading.Event(), 1,
            gate=Mock(is_open=True),
        )  # type: ignore[arg-type]  # fmt: skip

    def stop(self) -> None:
        self.state.close()

    def tell(self, instruction: Any) -> list[Any]:
        count = len(self.link.sent)
        self.participant._obey(instruction)
        return self.link.sent[count:]


class Study:
    """Four sites with certificates of one authority, and the coordinator's machine."""

    def __init__(self, folder: Path) -> None:
        self.now = datetime.now(UTC)
        self.authority = authority.create(
            folder / "authority", "s", now=self.now - timedelta(days=20), valid_days=40
        )
        self.keys = {site: keyfile.new_key() for site in NAMES}
        certificates = {s: self.issue(s) for s in NAMES}
        pems = tuple(to_pem(c) for c in certificates.values())
        self.sites: dict[SiteId, Site] = {}
        for site in NAMES:
            (folder / site).mkdir(mode=0o700)
            identity = SiteIdentity(
                site, "127.0.0.1:1", certificates[site], self.authority.certificate, self.keys[site]
            )
            self.sites[site] = Site(site, folder / site, identity, pems)

    def issue(self, site: SiteId, *, now: datetime | None = None) -> Any:
        request = make_request(self.keys[site])
        return self.authority.issue_site(request, site, now=now or self.now, valid_days=9)

    def run(self, round_id: RoundId = ROUND, *, until: Phase = Phase.DONE) -> CoordinatorRound:
        """An honest attempt, up to a phase."""
        terms = RoundTerms(
            round=round_id,
            invited=NAMES,
            quorum=3,
            deadline_s=10.0,
            grace_s=1.0,
            stage_timeout_s=1.0,
            layout=LAYOUT,
            verify=self.sites[NAMES[0]].peers.verify,
        )
        machine = CoordinatorRound(terms, 0.0)
        machine.start()
        return self.drive(machine, until=until)

    def drive(self, machine: CoordinatorRound, *, until: Phase) -> CoordinatorRound:
        """On with an attempt, up to a phase."""
        while machine.phase is not until:
            for site in machine.waiting_for:
                for what in self.sites[site].tell(machine.instruction_for(site)):
                    arrived = (
                        UpdateArrived(site, what, sha256(what))
                        if isinstance(what, bytes)
                        else Answered(site, what)
                    )
                    for command in machine.handle(arrived, 0.0):
                        if isinstance(command, Commit | Abort):
                            self.outcome = command
                if machine.phase in (until, Phase.DONE, Phase.ABORTED):
                    break
        return machine


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Study]:
    monkeypatch.setattr(participant, "check_round", lambda *_: None)  # of the real plan
    monkeypatch.setattr(participant, "plan_digest", lambda _: ROUND.plan)
    made = Study(tmp_path)
    yield made
    for site in made.sites.values():
        site.stop()


def test_the_harness_is_honest_a_true_round_commits_exactly(study: Study) -> None:
    study.run()
    bits = [v.bits for v in LAYOUT.vectors for _ in range(v.length)]
    columns = zip(*(vector_of(s, LAYOUT.length).tolist() for s in NAMES), strict=True)
    plain = [sum(c) % 2**b for c, b in zip(columns, bits, strict=True)]
    assert np.array_equal(study.outcome.totals[0], plain)


# --- a worker's folder put back ---

PHASES = [Phase.SHARES, Phase.MASKED_UPDATE, Phase.SURVIVORS, Phase.UNMASKING]


@pytest.mark.parametrize("phase", PHASES, ids=lambda p: p.value)
def test_a_restarted_worker_goes_on_where_it_was_and_sends_the_same_bytes(
    study: Study, phase: Phase
) -> None:
    machine = study.run(until=phase)
    site = study.sites[NAMES[0]]
    asked = machine.instruction_for(site.site)
    first = site.tell(asked)
    site.stop()
    site.start()
    again = site.tell(asked)
    assert first
    assert again == first


@pytest.mark.parametrize("phase", PHASES, ids=lambda p: p.value)
def test_a_restarted_worker_makes_no_second_keys_for_its_attempt(
    study: Study, phase: Phase
) -> None:
    study.run(until=phase)
    site = study.sites[NAMES[0]]
    site.stop()
    site.start()
    (refused,) = site.tell(AdvertiseKeys(ROUND, NAMES[:3]))
    assert isinstance(refused, Declined)
    site.stop()
    site.start()  # it has left the round, for good
    answers = site.tell(AdvertiseKeys(ROUND, NAMES))
    assert not [a for a in answers if isinstance(a, KeyAdvert | bytes)]
    assert any(isinstance(a, Declined) and "not above" in a.reason for a in answers)


@pytest.mark.parametrize("phase", PHASES, ids=lambda p: p.value)
def test_a_round_ends_well_though_every_worker_is_killed_in_it(study: Study, phase: Phase) -> None:
    machine = study.run(until=phase)
    for site in study.sites.values():
        site.stop()
        site.start()
    study.drive(machine, until=Phase.DONE)
    assert isinstance(study.outcome, Commit)
    assert study.outcome.contributors == NAMES
    columns = zip(*(vector_of(s, LAYOUT.length).tolist() for s in NAMES), strict=True)
    bits = [v.bits for v in LAYOUT.vectors for _ in range(v.length)]
    plain = [sum(c) % 2**b for c, b in zip(columns, bits, strict=True)]
    assert np.array_equal(study.outcome.totals[0], plain)


def test_a_copy_of_a_folder_made_within_a_round_is_not_gone_on_with_a_day_later(
    study: Study,
) -> None:
    machine = study.run(until=Phase.SURVIVORS)
    site = study.sites[NAMES[0]]
    site.stop()
    with sqlite3.connect(site.folder / "worker.db") as db:
        db.execute("UPDATE journal SET made_at = made_at - 90000")
    site.start()
    with sqlite3.connect(site.folder / "worker.db") as db:
        assert not db.execute("SELECT * FROM journal").fetchall()  # nor kept for ever
    answers = site.tell(machine.instruction_for(site.site))
    assert not [a for a in answers if isinstance(a, SurvivorSignature)]


def test_no_secret_of_a_round_is_left_on_disk_when_it_is_closed(study: Study) -> None:
    study.run(until=Phase.UNMASKING)
    site = study.sites[NAMES[0]]
    assert site.state.journal.of(ROUND) is not None
    site.tell(Closed(ROUND, Outcome.COMMITTED, ""))
    assert site.state.journal.of(ROUND) is None


@pytest.mark.parametrize("phase", PHASES, ids=lambda p: p.value)
def test_a_folder_put_back_whole_brings_no_key_back(
    study: Study, tmp_path: Path, phase: Phase
) -> None:
    """The site cannot tell; but its keys are new, so nothing of the old session fits them."""
    site = study.sites[NAMES[0]]
    site.stop()
    shutil.copytree(site.folder, tmp_path / "old")
    site.start()
    machine = study.run(until=phase)
    (advert,) = [a for a in site.link.sent if isinstance(a, KeyAdvert)]
    adverts = tuple(machine._adverts[s] for s in NAMES)
    site.stop()
    shutil.rmtree(site.folder)
    shutil.copytree(tmp_path / "old", site.folder)
    site.start()
    for instruction in (Train(ROUND), AdvertiseKeys(ROUND, NAMES)):
        again = site.tell(instruction)
    (new,) = again
    assert isinstance(new, KeyAdvert)
    assert not {new.mask_key, new.seal_key, new.seed_commitment} & {
        advert.mask_key,
        advert.seal_key,
        advert.seed_commitment,
    }
    (refused,) = site.tell(ShareSecrets(ROUND, adverts))
    assert isinstance(refused, Declined)
    assert "own keys" in refused.reason


def test_a_reveal_is_promised_on_disk_before_it_leaves(study: Study) -> None:
    machine = study.run(until=Phase.UNMASKING)
    site = study.sites[NAMES[0]]

    def full(*_: object) -> None:
        raise OSError("no space left")

    real, site.state.remember = site.state.remember, full  # type: ignore[method-assign]
    with pytest.raises(OSError, match="no space"):
        site.tell(machine.instruction_for(site.site))
    assert not [a for a in site.link.sent if isinstance(a, RevealedShares)]
    site.state.remember = real  # type: ignore[method-assign]


def test_a_worker_signs_no_second_list_for_an_update_after_a_restart(study: Study) -> None:
    """The first session is signed for four; the next attempt, with three, gets no upload."""
    study.run(until=Phase.UNMASKING)
    for site in study.sites.values():
        site.stop()
        site.start()
    later = another_attempt(ROUND)
    victim = study.sites[NAMES[0]]
    victim.tell(Train(later))
    answers = victim.tell(AdvertiseKeys(later, NAMES[:3]))
    assert [type(a) for a in answers] == [Declined]
    assert "signed for a sum with other sites" in answers[0].reason


# --- certificates of peers ---


def test_a_peers_expired_certificate_is_not_learnt(study: Study) -> None:
    site = study.sites[NAMES[0]]
    old = study.issue(NAMES[1], now=study.now - timedelta(days=10))
    site.peers.learn((to_pem(old),), PLAN)  # type: ignore[arg-type]
    assert not site.peers.knows({NAMES[1]})  # and the others' are not held up by it


def test_a_second_certificate_in_a_peers_name_is_not_learnt(study: Study) -> None:
    """The authority's key lies with the coordinator: it can issue, but not replace."""
    site = study.sites[NAMES[0]]
    study.keys[NAMES[1]] = keyfile.new_key()
    with pytest.raises(IdentityError, match="another key"):
        site.peers.learn((to_pem(study.issue(NAMES[1])),), PLAN)  # type: ignore[arg-type]


def test_a_certificate_that_runs_out_signs_no_more_keys(study: Study) -> None:
    site = study.sites[NAMES[0]]
    soon = datetime.now(UTC) - timedelta(days=9) + timedelta(seconds=2)
    certificate = study.issue(NAMES[1], now=soon)
    site.state.forget_peer(NAMES[1])
    site.peers.learn((to_pem(certificate),), PLAN)  # type: ignore[arg-type]
    statement = b"statement"
    signature = sign(study.keys[NAMES[1]], ROUND_LABEL, statement)
    assert site.peers.verify(NAMES[1], statement, signature)
    time.sleep(
        max(0.0, (certificate.not_valid_after_utc - datetime.now(UTC)).total_seconds()) + 0.1
    )
    assert not site.peers.verify(NAMES[1], statement, signature)


def test_keys_signed_for_another_purpose_are_no_keys_of_a_round(study: Study) -> None:
    """A plan's or a film's signature cannot be passed for one over keys: labels differ."""
    machine = study.run(until=Phase.SHARES)
    adverts = {a.site: a for a in machine.instruction_for(NAMES[0]).adverts}
    birch = adverts[NAMES[1]]
    relabelled = sign(study.keys[NAMES[1]], PLAN_LABEL, advert_statement(birch, NAMES))
    adverts[NAMES[1]] = replace(birch, signature=relabelled)
    (refused,) = study.sites[NAMES[0]].tell(
        ShareSecrets(ROUND, tuple(adverts[s] for s in sorted(adverts)))
    )
    assert isinstance(refused, Declined)


# --- secrets: nowhere but in memory ---


def spellings(secret: bytes) -> list[bytes]:
    return [
        secret,
        secret.hex().encode(),
        base64.b64encode(secret)[:-4],
        base64.urlsafe_b64encode(secret)[:-4],
        repr(secret)[2:-1].encode(),
        str(int.from_bytes(secret, "big")).encode(),
    ]


def test_no_secret_of_a_round_is_logged_or_in_an_error_nor_stored_once_it_is_over(
    study: Study, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    drawn: list[bytes] = []
    seeded = participant.seeded_entropy

    def listening(seed: bytes) -> Callable[[int], bytes]:
        drawn.append(seed)
        draw = seeded(seed)

        def one(count: int) -> bytes:
            drawn.append(draw(count))
            return drawn[-1]

        return one

    monkeypatch.setattr(participant, "seeded_entropy", listening)
    caplog.set_level(logging.DEBUG)
    held: set[bytes] = set()
    with structlog.testing.capture_logs() as logs:
        machine = study.run(until=Phase.UNMASKING)
        for site in study.sites.values():
            secrets = site.participant._round._secrets
            for pair in secrets.held.values():
                held |= {pair.self_seed, pair.mask_key}
            for peer in secrets.peers.values():
                held |= {peer.mask, peer.seal}
        # Three are honest to the end; the fourth is lied to, and says why it leaves.
        for name in NAMES[:3]:
            study.sites[name].tell(machine.instruction_for(name))
        lie = Reveal(ROUND, machine.session, {NAMES[0]: bytes(64)}, {})
        study.sites[NAMES[3]].tell(lie)
        for site in study.sites.values():
            site.tell(Closed(ROUND, Outcome.ABORTED, "the fourth left"))
    secret = {d for d in drawn if len(d) >= 32} | held
    # A seed and three secrets of each of four sites.
    assert len([d for d in drawn if len(d) == 32]) >= 16
    assert len(held) > 30
    kept = [
        p.read_bytes() for s in study.sites.values() for p in s.folder.rglob("*") if p.is_file()
    ]
    shown = repr(logs).encode() + caplog.text.encode()
    machines = [repr(s.participant._round) for s in study.sites.values()]
    reasons = [
        a.reason for s in study.sites.values() for a in s.link.sent if isinstance(a, Declined)
    ]
    assert reasons
    assert logs
    haystack = b"\n".join([*kept, shown, *(t.encode() for t in machines + reasons)])
    for one in secret:
        for text in spellings(one):
            assert text not in haystack


def test_a_machine_with_secrets_cannot_be_pickled(study: Study) -> None:
    for phase in PHASES:
        study.run(another_attempt(ROUND, PHASES.index(phase)), until=phase)
        machine = study.sites[NAMES[0]].participant._round
        assert machine is not None
        assert machine.phase is not SitePhase.REFUSED
        with pytest.raises((pickle.PicklingError, TypeError, AttributeError)):
            pickle.dumps(machine)


def test_every_secret_is_fresh_in_each_attempt(study: Study) -> None:
    seen: list[bytes] = []
    for by in range(3):
        study.run(another_attempt(ROUND, by), until=Phase.MASKED_UPDATE)
        for site in study.sites.values():
            secrets = site.participant._round._secrets
            seen += [secrets.mask.private, secrets.seal.private, secrets.self_seed]
    assert len(set(seen)) == len(seen) == 3 * 4 * 3


def test_only_known_kinds_of_message_leave_a_worker(study: Study) -> None:
    study.run()
    kinds = [type(a).__name__ for a in study.sites[NAMES[0]].link.sent]
    assert kinds == [
        "Ready", "KeyAdvert", "SealedShares", "Masked", "bytes", "SurvivorSignature",
        "RevealedShares",
    ]  # fmt: skip
