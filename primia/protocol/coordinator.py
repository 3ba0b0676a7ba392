"""One aggregation round as the coordinator sees it: events in, commands out.

No socket, no clock, no thread: time comes in with each event, and the driver carries out the
commands it gets back, in order. An event that is refused raises PeerError and changes nothing.

    phase           waits for            from                      goes on with at least
    --------------  -------------------  ------------------------  ------------------------
    TRAINING        Ready                invited                   quorum
    KEYS            KeyAdvert            cohort (the ready)        max(t(cohort), quorum)
    SHARES          SealedShares         those who advertised: n   max(t(n), quorum)
    MASKED_UPDATE   UpdateArrived        those who shared          max(t(n), quorum)
    SURVIVORS       SurvivorSignature    those who arrived         t(n)
    UNMASKING       RevealedShares       those who signed          t(n), and of each site's
                                                                   neighbours the graph's t
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from primia.errors import PeerError, RoundFailed
from primia.protocol.answers import (
    Exchange,
    check_advert,
    check_masked,
    check_revealed,
    check_sealed,
    check_signature,
)
from primia.protocol.carried import Carried
from primia.protocol.events import (
    Abort,
    Answered,
    Command,
    Commit,
    Dropped,
    Event,
    Loss,
    Phase,
    Progress,
    RoundTerms,
    SiteLost,
    Tell,
    Tick,
    UpdateArrived,
)
from primia.protocol.messages import (
    AdvertiseKeys,
    Answer,
    Closed,
    Declined,
    Instruction,
    KeyAdvert,
    Masked,
    Outcome,
    Ready,
    Reveal,
    RevealedShares,
    SealedShares,
    SendMasked,
    ShareSecrets,
    SignSurvivors,
    SurvivorSignature,
    Train,
)
from primia.protocol.session import session_id
from primia.protocol.unmasking import MaskedSums, unmask
from primia.secagg.packing import Packed, add_packed
from primia.secagg.topology import Topology, threshold
from primia.types import Digest, Ring, SiteId

AWAITED: Mapping[Phase, type] = {
    Phase.TRAINING: Ready,
    Phase.KEYS: KeyAdvert,
    Phase.SHARES: SealedShares,
    Phase.MASKED_UPDATE: UpdateArrived,
    Phase.SURVIVORS: SurvivorSignature,
    Phase.UNMASKING: RevealedShares,
    Phase.DONE: type(None),
    Phase.ABORTED: type(None),
}
"""The one kind of answer each phase takes; Declined is taken in all but the final ones, and Masked
goes before the vectors."""

FINAL = (Phase.DONE, Phase.ABORTED)


class CoordinatorRound:
    """One attempt at one round. `start` once, then `handle` each event.

    Holds one vector for each group, whatever the number of sites: updates are summed as they
    arrive.
    """

    def __init__(self, terms: RoundTerms, now: float) -> None:
        self.terms = terms
        self.phase = Phase.TRAINING
        self.contributors: tuple[SiteId, ...] = ()
        self._expected: set[SiteId] = set(terms.invited)
        self._answered: set[SiteId] = set()
        self._dropped: dict[SiteId, Dropped] = {}
        self._told: dict[SiteId, Instruction] = {}
        self._phase_began = self._active_at = now
        self._quorum_at: float | None = None
        self._cohort: tuple[SiteId, ...] = ()
        self._topology = Topology(b"", ())
        # Everything taken so far, by kind and site: what a repeat is compared with. Of a
        # vector only its SHA-256 is kept.
        self._taken: dict[tuple[type, SiteId], Answer | Digest] = {}
        self._adverts: dict[SiteId, KeyAdvert] = {}
        self._sealed: dict[SiteId, SealedShares] = {}
        self._masked: dict[SiteId, Masked] = {}
        self._signatures: dict[SiteId, bytes] = {}
        self._revealed: dict[SiteId, RevealedShares] = {}
        self._opened: Counter[SiteId] = Counter()  # neighbours that revealed, by owner
        self._masked_among: tuple[SiteId, ...] = ()
        self._sums: tuple[Ring, ...] = ()

    def __repr__(self) -> str:
        return f"CoordinatorRound({self.terms.round}, phase={self.phase.value!r})"

    # --- what outlives the process ---

    @property
    def carried(self) -> Carried:
        """What `resume` needs beside `masked_sums`; from SURVIVORS on, until the round is over."""
        return Carried(
            phase=self.phase,
            invited=self.terms.invited,
            cohort=self._cohort,
            adverts=tuple(self._adverts.values()),
            masked_among=self._masked_among,
            masked={site: m.signature for site, m in self._masked.items()},
            uploads=self.uploaded,
            signatures=self._signatures if self.phase is Phase.UNMASKING else {},
            dropped=self.dropped,
        )

    @property
    def masked_sums(self) -> tuple[Ring, ...]:
        """The sum of each group, still masked; they do not change from SURVIVORS on."""
        return self._sums

    @classmethod
    def resume(
        cls, terms: RoundTerms, carried: Carried, sums: tuple[Ring, ...], now: float
    ) -> CoordinatorRound:
        """The attempt as it was when `carried` was taken; its phase is asked for once more.

        terms: as they were. sums: writable, one for each group; they belong to the machine.
        """
        self = cls(terms, now)
        self.phase = carried.phase
        self._cohort = carried.cohort
        self._adverts = {a.site: a for a in carried.adverts}
        session = session_id(terms.round, carried.cohort, carried.adverts)
        self._topology = Topology(session, tuple(self._adverts), terms.groups)
        self._masked_among = carried.masked_among
        self._masked = {s: Masked(terms.round, session, m) for s, m in carried.masked.items()}
        self._sums = sums
        self.contributors = tuple(sorted(carried.uploads))
        self._signatures = dict(carried.signatures)
        self._dropped = {d.site: d for d in carried.dropped}
        for (kind, known) in (
            (KeyAdvert, self._adverts), (Masked, self._masked), (UpdateArrived, carried.uploads),
        ):  # fmt: skip
            self._taken |= {(kind, site): said for site, said in known.items()}
        asked = self.contributors if self.phase is Phase.SURVIVORS else tuple(self._signatures)
        self._expected = set(asked) - set(self._dropped)
        self._told = self._order()
        return self

    # --- what the driver and the status page may read ---

    @property
    def session(self) -> bytes:
        """Names this round's exchange of keys; empty before all keys are there."""
        return self._topology.session

    @property
    def uploaded(self) -> dict[SiteId, Digest]:
        """Whose vectors are in the sums, and their SHA-256."""
        taken = self._taken.items()
        return {s: said for (k, s), said in taken if k is UpdateArrived and isinstance(said, str)}

    @property
    def answered(self) -> tuple[SiteId, ...]:
        """Who has answered in this phase."""
        return tuple(sorted(self._answered))

    @property
    def waiting_for(self) -> tuple[SiteId, ...]:
        """Who is still expected to answer in this phase."""
        return tuple(sorted(self._expected - self._answered))

    @property
    def dropped(self) -> tuple[Dropped, ...]:
        """Who fell out, by site; a site that gave wrong shares is listed too."""
        return tuple(self._dropped[s] for s in sorted(self._dropped))

    @property
    def next_deadline(self) -> float | None:
        """When a Tick will have something to decide; None once the round is over."""
        if self.phase in FINAL:
            return None
        hard = self._phase_began + self.terms.deadline_s
        if self.phase is not Phase.TRAINING:
            return min(hard, self._active_at + self.terms.stage_timeout_s)
        if self._quorum_at is not None:
            return min(hard, self._quorum_at + self.terms.grace_s)
        return hard

    def instruction_for(self, site: SiteId) -> Instruction | None:
        """What `site` should be doing now; None if it has nothing to do but wait.

        The same instruction again for a site that lost its connection, and Closed at the end.
        """
        if self.phase not in FINAL and site not in self._expected - self._answered:
            return None
        return self._told.get(site)

    # --- the machine ---

    def start(self) -> list[Command]:
        """The first commands: every invited site is told to train."""
        return self._tell({s: Train(self.terms.round) for s in self.terms.invited})

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take one event at time `now` (seconds, never going back); returns what to do.

        Raises PeerError, with nothing changed, for an answer that is refused.
        """
        match event:
            case Answered(site, answer):
                accepted = self._take(site, answer)
            case UpdateArrived(site, packed, digest):
                accepted = self._take_update(site, packed, digest)
            case Progress(site):
                accepted = site in self._expected - self._answered
            case SiteLost(site):
                accepted = self._drop(site, "struck from the roster", Loss.STRUCK)
            case Tick():
                accepted = False
        if accepted:
            self._active_at = now
        return self._advance(now)

    def _take(self, site: SiteId, answer: Answer) -> bool:
        """Check and store one answer; False if it is a repeat. Raises PeerError."""
        if answer.round != self.terms.round:
            raise PeerError(f"{site} answered for another round; it should ask again")
        kind = type(answer)
        if (kind, site) in self._taken:
            self._refuse_unless_same(kind, site, answer)
            return False
        if isinstance(answer, Declined):
            self._refuse_unless_awaited(site, AWAITED[self.phase])
            self._taken[kind, site] = answer
            return self._drop(site, f"declined: {answer.reason}", Loss.DECLINED)
        if self.phase is Phase.DONE and kind is RevealedShares and site in self._expected:
            return False  # it was asked for, and t others were faster
        if isinstance(answer, Masked):
            self._refuse_unless_awaited(site, UpdateArrived)
            check_masked(site, answer, self._exchange)
            self._masked[site] = self._taken[kind, site] = answer
            return True  # its vectors follow
        self._refuse_unless_awaited(site, kind)
        match answer:
            case KeyAdvert():
                check_advert(site, answer, self._cohort, self.terms.verify)
                self._adverts[site] = answer
            case SealedShares():
                check_sealed(site, answer, self._exchange)
                self._sealed[site] = answer
            case SurvivorSignature():
                check_signature(site, answer, self._exchange)
                self._signatures[site] = answer.signature
            case RevealedShares():
                check_revealed(site, answer, self._exchange)
                self._revealed[site] = answer
                self._opened.update([*answer.self_seeds, *answer.mask_keys])
        self._taken[kind, site] = answer
        self._answered.add(site)
        return True

    def _take_update(self, site: SiteId, packed: Packed, digest: Digest) -> bool:
        """Fold a site's packed vectors into its group's sum; False if it is a repeat.

        Raises PeerError.
        """
        expected = self.terms.layout.wire_bytes
        if len(packed) != expected:
            raise PeerError(
                f"vectors of {site}: got {len(packed)} bytes, need {expected}; check that both "
                "sides run one version"
            )
        if (UpdateArrived, site) in self._taken:
            self._refuse_unless_same(UpdateArrived, site, digest)
            return False
        self._refuse_unless_awaited(site, UpdateArrived)
        if site not in self._masked:
            raise PeerError(f"vectors of {site}: it has to say first whom it masked among")
        add_packed(self._sums[self._topology.group_of(site)], packed, self.terms.layout)
        self._taken[UpdateArrived, site] = digest
        self._answered.add(site)
        return True

    def _refuse_unless_same(self, kind: type, site: SiteId, again: Answer | Digest) -> None:
        if self._taken[kind, site] != again:
            raise PeerError(f"{site} sent a second, different {kind.__name__}; the first stands")

    def _refuse_unless_awaited(self, site: SiteId, kind: type) -> None:
        if kind is not AWAITED[self.phase] or self.phase in FINAL:
            raise PeerError(
                f"{kind.__name__} of {site} came while the round is at {self.phase.value}; "
                "wait for the next instruction"
            )
        if site not in self._expected - self._answered:
            raise PeerError(f"{site} is not awaited at {self.phase.value}; wait for the next round")

    @property
    def _exchange(self) -> Exchange:
        """What the answers from the vectors on are checked against."""
        return Exchange(self._topology, self._masked_among, self.contributors, self.terms.verify)

    # --- moving on ---

    @property
    def _needed(self) -> int:
        """How many must answer in this phase for the round to go on."""
        quorum = self.terms.quorum
        match self.phase:
            case Phase.TRAINING:
                return quorum
            case Phase.KEYS:
                return max(threshold(len(self._cohort)), quorum)
            case Phase.SHARES | Phase.MASKED_UPDATE:
                return max(threshold(len(self._adverts)), quorum)
            case _:
                return threshold(len(self._adverts))

    def _advance(self, now: float) -> list[Command]:
        """Decide whether this phase is over; at most one phase is left per event."""
        if self.phase in FINAL:
            return []
        if len(self._answered) < self._needed:
            self._quorum_at = None
            if len(self._expected) < self._needed:
                return self._abort("too few sites are left")
            return self._abort("time ran out", self._late(now)) if self._time_is_up(now) else []
        if self._quorum_at is None:
            self._quorum_at = now
        if self.phase is Phase.UNMASKING:
            over = self._answered == self._expected or self._time_is_up(now)
            return self._finish(now) if self._can_open or over else []
        if self._answered < self._expected and not self._time_is_up(now):
            return []
        for site in self._expected - self._answered:
            self._drop(site, self._late(now), Loss.LATE)
        if self.phase in (Phase.SHARES, Phase.MASKED_UPDATE):
            short = self._topology.short_group(self._answered)
            if short is not None:
                return self._abort(f"a group has only {len(short)} sites left")
        if self._splits_a_promise:
            return self._abort("of sites that may have signed for each other, not all are here")
        return self._enter_next(now)

    @property
    def _splits_a_promise(self) -> bool:
        """Whether the survivors would be a part of sites of which some may sign for all only.

        They would refuse, the others sign, and from then on neither sum could be opened.
        """
        among = frozenset(self._masked_among)
        here = self.phase is Phase.MASKED_UPDATE
        return here and among in self.terms.promised and self._answered != among

    def _time_is_up(self, now: float) -> bool:
        deadline = self.next_deadline
        return deadline is not None and now >= deadline

    def _enter_next(self, now: float) -> list[Command]:
        came = tuple(sorted(self._answered))
        round_id = self.terms.round
        order: dict[SiteId, Instruction] = {}
        match self.phase:
            case Phase.TRAINING:
                self._cohort = came
                order = {s: AdvertiseKeys(round_id, came) for s in came}
                self.phase = Phase.KEYS
            case Phase.KEYS:
                adverts = tuple(self._adverts[s] for s in came)
                self._adverts = {a.site: a for a in adverts}
                session = session_id(round_id, self._cohort, adverts)
                self._topology = Topology(session, came, self.terms.groups)
                order = {s: ShareSecrets(round_id, adverts) for s in came}
                self.phase = Phase.SHARES
            case Phase.SHARES:
                self._masked_among = came
                words = self.terms.layout.length
                self._sums = tuple(np.zeros(words, np.uint32) for _ in range(self.terms.groups))
                order = {s: self._sealed_for(s) for s in came}
                self._sealed.clear()
                self.phase = Phase.MASKED_UPDATE
            case Phase.MASKED_UPDATE:
                self.contributors = came
                self.phase = Phase.SURVIVORS
                order = self._order()
            case _:
                self._signatures = {s: self._signatures[s] for s in came}
                self.phase = Phase.UNMASKING
                order = self._order()
        self._expected = set(came) - set(self._dropped)
        self._answered = set()
        self._quorum_at = None
        self._phase_began = self._active_at = now
        return self._tell(order)

    def _order(self) -> dict[SiteId, Instruction]:
        """What each site is told in the two last phases; the same after a restart."""
        if self.phase is Phase.SURVIVORS:
            signing = SignSurvivors(self.terms.round, self.session, self.contributors)
            return dict.fromkeys(self.contributors, signing)
        return {s: self._reveal_for(s, self._signatures) for s in self._signatures}

    def _sealed_for(self, site: SiteId) -> SendMasked:
        neighbours = set(self._topology.holders(site)) & set(self._masked_among) - {site}
        sealed = {s: self._sealed[s].sealed[site] for s in sorted(neighbours)}
        return SendMasked(self.terms.round, self.session, self._masked_among, sealed)

    def _reveal_for(self, site: SiteId, signed: Mapping[SiteId, bytes]) -> Reveal:
        alive = set(self._topology.holders(site)) & set(self.contributors) - {site}
        masked = {s: self._masked[s].signature for s in sorted(alive)}
        return Reveal(self.terms.round, self.session, signed, masked)

    @property
    def _can_open(self) -> bool:
        """Whether enough of each site's neighbours have revealed what they hold of it."""
        t = self._topology.threshold
        return all(self._opened[owner] >= t for owner in self._masked_among)

    def _finish(self, now: float) -> list[Command]:
        """Unmask with the shares at hand; if one is wrong, wait for more while they may come."""
        masked = MaskedSums(
            totals=self._sums,
            layout=self.terms.layout,
            topology=self._topology,
            adverts=self._adverts,
            masked_among=self._masked_among,
            survivors=self.contributors,
            cipher=self.terms.cipher,
        )
        try:
            wrong = unmask(masked, self._revealed, threads=self.terms.threads)
        except RoundFailed as err:
            if self._answered < self._expected and not self._time_is_up(now):
                return []
            return self._abort(str(err))
        for site in wrong:
            self._dropped[site] = Dropped(
                site, self.phase, "revealed a wrong share", Loss.WRONG_SHARE
            )
        self.phase = Phase.DONE
        groups = self._topology.survivors_by_group(self.contributors)
        commit = Commit(self._sums, groups, self.contributors)
        return [commit, *self._close(Outcome.COMMITTED, "")]

    def _late(self, now: float) -> str:
        return f"no answer in time: waited {now - self._phase_began:.1f} s"

    def _abort(self, why: str, late: str | None = None) -> list[Command]:
        """late: said of those who are waited for, when it is they who did not come in time."""
        missing = self.waiting_for
        absent = tuple(sorted({*missing, *self._dropped}))
        reason = (
            f"{why} at {self.phase.value}: {len(self._answered)} answered, {self._needed} needed"
            f"; missing: {', '.join(absent) or 'none'}"
        )
        for site in missing:
            if late is not None:
                self._drop(site, late, Loss.LATE)
            else:
                self._drop(site, "the attempt ended before it answered", Loss.ENDED)
        self.phase = Phase.ABORTED
        self.contributors = ()
        return [Abort(reason, absent), *self._close(Outcome.ABORTED, reason)]

    def _close(self, outcome: Outcome, reason: str) -> list[Command]:
        """Forget what the round was made of and let every invited site do the same."""
        self._sums = ()
        self._revealed.clear()
        closed = Closed(self.terms.round, outcome, reason)
        return self._tell(dict.fromkeys(self.terms.invited, closed))

    def _tell(self, order: Mapping[SiteId, Instruction]) -> list[Command]:
        self._told = dict(order)
        return [Tell(site, order[site]) for site in sorted(order)]

    def _drop(self, site: SiteId, reason: str, code: Loss) -> bool:
        """Stop waiting for `site`; False if it is not in the round (any more).

        A vector that is already in the sum stays there: it came while the site was enrolled,
        and one vector cannot be taken out again.
        """
        if site not in self._expected or self.phase in FINAL:
            return False
        self._dropped[site] = Dropped(site, self.phase, reason, code)
        if self.phase is Phase.MASKED_UPDATE and site in self._answered:
            return True  # it stays among the contributors, and is not asked for anything more
        self._expected.discard(site)
        self._answered.discard(site)
        return True
