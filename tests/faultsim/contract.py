"""The contract, checked while a history runs and when it has ended.

1. Committed rounds are 1..R with no gap and no repeat, and none is ever lost.
2. Each committed sum equals the sum over exactly the sites named in its record.
3. A site's ledger, as a power cut would leave it, holds every noised update that left the site.
4. For one (study, round, kind) a site emits one noised update, in one attempt always under the
   same masks: a resend is the same bytes. Only a retrain that was signed in vain is made anew:
   that is counted, and charged like any other.
5. Every chain verifies.
6. A round commits with its quorum or leaves an abort record, and no model.
7. Daemons start again on what they left; what a row names is whole; no process ends by a bug.
8. A site opens a peer one way, signs one list for one update, makes keys once for an attempt.
"""

from __future__ import annotations

from collections import defaultdict
from functools import lru_cache
from pathlib import Path

import numpy as np

from coordinator.state import CoordinatorState
from primia.errors import StateError
from primia.federation.optimiser import ServerState, pack_state, pack_weights, step
from primia.learning.terms import round_mechanism
from primia.privacy import Ledger
from primia.privacy.accounting import epsilon
from primia.privacy.mechanism import Mechanism
from primia.protocol.messages import (
    Answer,
    Closed,
    KeyAdvert,
    Outcome,
    RevealedShares,
    RoundId,
    RoundKind,
    SurvivorSignature,
)
from primia.storage.audit_log import FILE, AuditLog
from primia.types import Digest, SiteId, sha256
from primia.wire.handler import Attendance, UploadKey
from tests.faultsim.centre import DATABASE, FOLDER, Centre
from tests.faultsim.disk import SimDisk
from tests.faultsim.hospital import Hospital
from tests.faultsim.study import CAPS, CONTRIBUTION, OPTIMISER, PARAMETERS, Study
from tests.faultsim.world import World

_COMMITTED = "SELECT number, attempt FROM attempts WHERE outcome = 'committed' ORDER BY attempt"


@lru_cache
def _epsilon_of(mechanism: Mechanism, releases: int) -> float:
    return epsilon([mechanism] * releases, CAPS.max_delta)


class Contract:
    """Sees what leaves each site, and reads what is on the disks."""

    def __init__(self, world: World, study: Study) -> None:
        self._world, self._study = world, study
        self.hospitals: dict[SiteId, Hospital] = {}
        self._uploads: dict[tuple[SiteId, int], Digest] = {}  # by site and attempt
        self._sent: dict[tuple[SiteId, int], Digest] = {}  # the masked bytes, likewise
        self._emitted: dict[tuple[SiteId, int, RoundKind], list[Digest]] = defaultdict(list)
        self._signed: dict[tuple[SiteId, Digest], tuple[SiteId, ...]] = {}
        self._keys: dict[tuple[SiteId, int], bytes] = {}
        self._opened: dict[tuple[SiteId, bytes, SiteId], str] = {}
        self._committed: list[tuple[int, int]] = []  # (round, attempt), as first seen
        self._looked_at = -1

    # --- what leaves a site (see `network.Observer`) -----------------------------------------

    def uploaded(self, site: SiteId, key: UploadKey, masked: bytes) -> None:
        """The first byte of an update is about to leave."""
        participant = self.hospitals[site].participant
        assert participant is not None
        assert participant._update is not None
        digest, round_id = participant._update.digest, key.round
        self._world.say(site, f"uploads {digest[:8]} for {_name(round_id)}")
        before = self._uploads.setdefault((site, round_id.attempt), digest)
        sent = self._sent.setdefault((site, round_id.attempt), sha256(masked))
        if before != digest or sent != sha256(masked):
            self._world.find(f"4: {site} sends two updates in attempt {round_id.attempt}")
        emitted = self._emitted[site, round_id.number, round_id.kind]
        if digest not in emitted:
            self._check_fresh(site, round_id, emitted)
            emitted.append(digest)
        if round_id.kind is not RoundKind.EVALUATE:
            self._check_charged(site)

    def _check_fresh(self, site: SiteId, round_id: RoundId, emitted: list[Digest]) -> None:
        counted = self._world.counted
        if not emitted:
            if round_id.kind is RoundKind.RETRAIN:
                counted["retrains"] += 1
            return
        if round_id.kind is RoundKind.RETRAIN and self._bound(site, emitted[-1]):
            counted["retrains made anew"] += 1
            return
        self._world.find(f"4: {site} emits a second update for {_name(round_id)}")

    def _bound(self, site: SiteId, update: Digest) -> bool:
        """Whether the site has signed a list for this update, be it on its disk alone."""
        hospital = self.hospitals[site]
        rows = hospital.disk.rows_after_the_worst(
            hospital.folder / "worker.db", "SELECT digest FROM updates WHERE signed IS NOT NULL"
        )
        return (site, update) in self._signed or update in {row[0] for row in rows}

    def _check_charged(self, site: SiteId) -> None:
        hospital, mechanism = self.hospitals[site], round_mechanism(self._study.plan)
        assert mechanism is not None
        left = self._noised(site)
        rows = hospital.disk.rows_after_the_worst(
            hospital.folder / "ledger.db", "SELECT update_digest FROM ledger"
        )
        charged = [digest for (digest,) in rows]
        missing = left - set(charged)
        if missing:
            self._world.find(f"3: {site} lets {min(missing)[:8]} leave, its ledger lacks it")
        elif _epsilon_of(mechanism, len(charged)) < _epsilon_of(mechanism, len(left)):
            self._world.find(f"3: the ledger of {site} says less than the accountant")

    def _noised(self, site: SiteId) -> set[Digest]:
        return {
            digest
            for (who, _, kind), digests in self._emitted.items()
            for digest in digests
            if who == site and kind is not RoundKind.EVALUATE
        }

    def answered(self, site: SiteId, answer: Answer) -> None:
        """An answer is about to leave."""
        match answer:
            case KeyAdvert():
                made = self._keys.setdefault((site, answer.round.attempt), answer.mask_key)
                if made != answer.mask_key:
                    self._world.find(f"8: {site} makes keys twice for {_name(answer.round)}")
            case SurvivorSignature():
                self._check_signed(site, answer)
            case RevealedShares():
                ways = {"seed": answer.self_seeds, "key": answer.mask_keys}
                for way, peers in ways.items():
                    for peer in peers:
                        seen = self._opened.setdefault((site, answer.session, peer), way)
                        if seen != way:
                            self._world.find(f"8: {site} opens {peer} both ways")

    def _check_signed(self, site: SiteId, answer: SurvivorSignature) -> None:
        participant = self.hospitals[site].participant
        assert participant is not None
        machine, update = participant._round, participant._update
        assert machine is not None
        assert update is not None
        signed = self._signed.setdefault((site, update.digest), machine._survivors)
        if signed != machine._survivors:
            self._world.find(f"8: {site} signs {update.digest[:8]} into two sums")

    def told(self, site: SiteId, news: Attendance) -> None:
        """What the coordinator said has to be on its disk."""
        instruction = news.instruction
        what = news.study_over or type(instruction).__name__
        self._world.say(site, f"hears {what}")
        if isinstance(instruction, Closed) and instruction.outcome is Outcome.COMMITTED:
            attempt = (instruction.round.number, instruction.round.attempt)
            if attempt not in self._committed:
                self._world.find(f"1: {site} hears of a commit that is not on record: {attempt}")

    # --- the coordinator's record ------------------------------------------------------------

    def look(self, centre: Centre) -> None:
        """After everything that the coordinator does: commits only ever follow one another."""
        commits = centre.disk.commits(DATABASE)
        if commits == self._looked_at:
            return
        self._looked_at = commits
        rows = centre.disk.rows_after_the_worst(DATABASE, _COMMITTED)
        found = [(number, attempt) for number, attempt in rows]
        if found[: len(self._committed)] != self._committed:
            self._world.find(f"1: committed {self._committed}, now on record {found}")
        for number, attempt in found[len(self._committed) :]:
            self._world.say("coordinator", f"round {number} committed by attempt {attempt}")
            self._world.counted["rounds"] += 1
        self._committed = found
        if [number for number, _ in found] != list(range(1, len(found) + 1)):
            self._world.find(f"1: rounds on record are {found}")

    def check_end(self, centre: Centre, *, finished: bool) -> None:
        """Everything that can be read off the disks once the history is over."""
        state = CoordinatorState(FOLDER, disk=centre.disk)
        plan = self._study.plan
        try:
            if finished and len(self._committed) not in (plan.rounds, plan.rounds + 1):
                self._world.find(f"1: the study is over with rounds {self._committed}")
            self._check_chain(FOLDER, centre.disk)
            self._check_aborts(state, finished=finished)
            if not self._world.findings:
                self._check_sums(state, centre)
        finally:
            state.close()
        for site, hospital in self.hospitals.items():
            with Ledger(hospital.folder / "ledger.db", disk=hospital.disk) as ledger:
                ledger.verify()
            self._check_chain(hospital.folder, hospital.disk)
            self._check_charged(site)

    def _check_chain(self, folder: Path, disk: SimDisk) -> None:
        """Read anew from its first byte."""
        try:
            AuditLog(folder / FILE, disk=disk).verify()
        except StateError as err:
            self._world.find(f"5: {err}")

    def _check_sums(self, state: CoordinatorState, centre: Centre) -> None:
        """Every model again, from the updates of the sites that its record names."""
        server = ServerState.start(np.zeros(PARAMETERS, np.float32), OPTIMISER)
        models = {m.number: m for m in state.models()}
        for row in state.attempts():
            if row.outcome != "committed":
                continue
            self._world.counted["contributions"] += len(row.contributors)
            name = _name(row.round)
            if len(row.contributors) < self._study.plan.schedule.quorum:
                self._world.find(f"6: {name} committed with {row.contributors}")
            total = np.zeros(CONTRIBUTION.layout.length, np.uint32)
            for site in row.contributors:
                digest = self._uploads.get((SiteId(site), row.round.attempt))
                if digest is None:
                    self._world.find(f"2: {name} names {site}, which sent nothing")
                    return
                total += self.hospitals[SiteId(site)].made[digest]
            total[:PARAMETERS] &= (1 << 24) - 1
            sums = CONTRIBUTION.decode(total, contributors=len(row.contributors))
            if row.round.kind is not RoundKind.RETRAIN:
                before = models[row.round.number - 1]
                if before.scores is None or before.scores["counts"] != sums.metrics.tolist():
                    self._world.find(f"2: the counts of {name} are not its sites' sum")
            if row.round.kind is not RoundKind.EVALUATE:
                server = step(server, sums.mean_update, OPTIMISER)
                weights, packed = pack_weights(server.weights), pack_state(server)
                made = models[row.round.number]
                if (made.digest, made.state) != (sha256(weights), sha256(packed)):
                    self._world.find(f"2: the model of {name} is not its sites' sum")
                for digest in (made.digest, made.state):
                    path = FOLDER / "blobs" / digest
                    if sha256(centre.disk.file_after_the_worst(path) or b"") != digest:
                        self._world.find(f"7: a blob of {name} is not whole on disk")

    def _check_aborts(self, state: CoordinatorState, *, finished: bool) -> None:
        attempts = state.attempts()
        models = [m.number for m in state.models()]
        trained = [
            a.round.number
            for a in attempts
            if a.outcome == "committed" and a.round.kind is not RoundKind.EVALUATE
        ]
        if models != [0, *trained]:
            self._world.find(f"6: models {models} of rounds {trained}")
        for row in attempts:
            if row.outcome == "aborted" and (not row.reason or row.contributors):
                self._world.find(f"6: {_name(row.round)} aborted without a record")
            if row.outcome == "open" and finished:
                self._world.find(f"6: {_name(row.round)} is open although the study is over")
        self._world.counted["attempts"] += len(attempts)


def _name(round_id: RoundId) -> str:
    return f"round {round_id.number} ({round_id.kind.value}, attempt {round_id.attempt})"
