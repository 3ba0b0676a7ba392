"""One aggregation round as one site sees it: instructions in, commands out.

The coordinator is not trusted: each instruction is checked against what this site knows by
itself (its own floor, the roster of the signed plan, its peers' certificates), and the one
thing that could open a peer, giving both kinds of share, cannot be asked for.

    phase       instruction it takes    what leaves
    ----------  ----------------------  ------------------------------
    FRESH       Train                   -
    TRAINING    (UpdateReady)           Ready
    READY       AdvertiseKeys           KeyAdvert
    ADVERTISED  ShareSecrets            SealedShares
    SHARED      SendMasked              Masked, the masked vectors
    UPLOADED    SignSurvivors           SurvivorSignature
    SIGNED      Reveal                  RevealedShares, then no secret is left
    REVEALED    Closed (in any phase)   -

A repeated identical instruction gets the same commands again, from memory. An instruction that
breaks the rules raises, and ends this round at this site: its secrets are forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from enum import StrEnum

import numpy as np

from primia.errors import PeerError, PolicyRefused
from primia.protocol.messages import (
    AdvertiseKeys,
    Answer,
    Closed,
    Declined,
    Instruction,
    KeyAdvert,
    Masked,
    Ready,
    Reveal,
    RevealedShares,
    RoundId,
    SealedShares,
    SendMasked,
    ShareSecrets,
    SignSurvivors,
    SurvivorSignature,
    Train,
)
from primia.protocol.session import (
    SMALLEST_COHORT,
    advert_statement,
    partner_statement,
    session_id,
    survivor_statement,
)
from primia.protocol.site_events import (
    CannotTakePart,
    Command,
    Forget,
    KeysMade,
    Remember,
    Send,
    SharesRevealed,
    SiteEvent,
    SurvivorsSigned,
    TrainLocally,
    UpdateReady,
    Upload,
)
from primia.protocol.site_secrets import Entropy, SiteSecrets
from primia.secagg.keys import KEY_BYTES
from primia.secagg.layout import Layout
from primia.secagg.topology import Topology, threshold
from primia.types import Ring, SiteId


class PromisedElsewhere(PolicyRefused):
    """This update was signed for a sum with other sites; it joins no second one."""


class SitePhase(StrEnum):
    """How far this site has come; the last three are final."""

    FRESH = "fresh"
    TRAINING = "training"
    READY = "ready"
    ADVERTISED = "keys advertised"
    SHARED = "secrets shared"
    UPLOADED = "uploaded"
    SIGNED = "survivors signed"
    REVEALED = "shares revealed"
    DECLINED = "declined"
    REFUSED = "refused"
    CLOSED = "closed"


TAKES: Mapping[type, SitePhase] = {
    Train: SitePhase.FRESH,
    AdvertiseKeys: SitePhase.READY,
    ShareSecrets: SitePhase.ADVERTISED,
    SendMasked: SitePhase.SHARED,
    SignSurvivors: SitePhase.UPLOADED,
    Reveal: SitePhase.SIGNED,
}
"""The phase in which each instruction is new; Closed is taken in all."""


class SiteRound:
    """One attempt at one round at site `me`.

    layout: the vectors that UpdateReady brings, from the signed plan; so are cipher and groups.
    floor: the site's own smallest cohort, at least 3; the coordinator cannot lower it.
    plan_floor: the smallest sum that every site of the signed plan agrees to (its quorum).
    roster: the sites of the signed plan. verify(site, statement, signature) must check against
    the certificate that the study authority issued to that site.
    entropy(n): n bytes from the operating system.
    last_attempt: the highest attempt in the remembered `KeysMade`.
    signed_before: the survivors of a remembered `SurvivorsSigned` for this same update, if any:
    two sums over different sites would give away the difference.
    """

    def __init__(
        self,
        *,
        me: SiteId,
        round: RoundId,
        layout: Layout,
        floor: int,
        plan_floor: int = SMALLEST_COHORT,
        roster: Collection[SiteId],
        sign: Callable[[bytes], bytes],
        verify: Callable[[SiteId, bytes, bytes], bool],
        entropy: Entropy,
        last_attempt: int = 0,
        signed_before: Collection[SiteId] | None = None,
        cipher: str = "aes-256-ctr",
        groups: int = 1,
        threads: int = 1,
    ) -> None:
        if floor < SMALLEST_COHORT or me not in roster:
            raise ValueError(f"floor {floor} (at least {SMALLEST_COHORT}), {me} in the roster")
        self.me = me
        self.round = round
        self.phase = SitePhase.FRESH
        self._layout, self._cipher, self._threads = layout, cipher, threads
        self._groups = groups
        self._own_floor = floor
        self._plan_floor = plan_floor
        self._floor = max(floor, plan_floor)
        self._roster = frozenset(roster)
        self._sign, self._verify, self._entropy = sign, verify, entropy
        self._last_attempt = last_attempt
        self._signed_before = None if signed_before is None else frozenset(signed_before)
        self._answers: dict[type, tuple[Instruction, list[Command]]] = {}
        self._vector: Ring | None = None
        self._secrets: SiteSecrets | None = None
        self._cohort: tuple[SiteId, ...] = ()
        self._advert: KeyAdvert | None = None
        self._topology: Topology | None = None
        self._masked_among: tuple[SiteId, ...] = ()
        self._survivors: tuple[SiteId, ...] = ()

    def __repr__(self) -> str:
        return f"SiteRound({self.me}, {self.round}, phase={self.phase.value!r})"

    def handle(self, event: SiteEvent) -> list[Command]:
        """Take one instruction or local event; returns commands to carry out in order.

        Raises PeerError (the coordinator or a peer broke the protocol) or PolicyRefused (this
        site's own rules say no). Nothing leaves then; answer the coordinator with Declined.
        """
        if isinstance(event, UpdateReady):
            return self._update_ready(event.vector)
        if isinstance(event, CannotTakePart):
            return self._decline(event.reason)
        if event.round != self.round:
            raise PeerError(f"{type(event).__name__} for another round; nothing was answered")
        if isinstance(event, Closed):
            self._forget(SitePhase.CLOSED)
            return [Forget()]
        return self._instructed(event)

    def leave(self) -> None:
        """Take no further part: every secret is forgotten, what comes later is refused."""
        self._forget(SitePhase.REFUSED)

    def _instructed(self, instruction: Instruction) -> list[Command]:
        kind = type(instruction)
        if kind in self._answers:
            earlier, commands = self._answers[kind]
            if earlier == instruction:
                return commands
            self._forget(SitePhase.REFUSED)
            raise PeerError(f"a second, different {kind.__name__} in one round; round left")
        if self.phase is not TAKES[kind]:
            raise PeerError(f"{kind.__name__} came while this site is at {self.phase.value}")
        try:
            commands = self._carry_out(instruction)
        except (PeerError, PolicyRefused):
            self._forget(SitePhase.REFUSED)
            raise
        # A repeated Train while the work goes on must not start it twice.
        self._answers[kind] = (instruction, [] if kind is Train else commands)
        return commands

    def _carry_out(self, instruction: Instruction) -> list[Command]:
        match instruction:
            case Train():
                self.phase = SitePhase.TRAINING
                return [TrainLocally(self.round)]
            case AdvertiseKeys(cohort=cohort):
                return self._advertise(cohort)
            case ShareSecrets(adverts=adverts):
                return self._share(adverts)
            case SendMasked(session=session, among=among, sealed=sealed):
                return self._mask(self._graph(session), among, sealed)
            case SignSurvivors(session=session, survivors=survivors):
                return self._sign_survivors(self._graph(session), survivors)
            case Reveal(session=session, signatures=signatures, masked=masked):
                return self._reveal(self._graph(session), signatures, masked)
            case _:
                raise PeerError(f"{type(instruction).__name__} is no instruction of a round")

    # --- local work ---

    def _update_ready(self, vector: Ring) -> list[Command]:
        """Also taken before Train: a restarted worker may have the update on disk already."""
        if self.phase not in (SitePhase.FRESH, SitePhase.TRAINING):
            raise PeerError(f"an update came while this site is at {self.phase.value}")
        fits = vector.dtype == np.uint32 and vector.shape == (self._layout.length,)
        if not fits or not vector.flags.writeable:
            raise ValueError(
                f"vector: {vector.dtype}{vector.shape}; need writable uint32 "
                f"({self._layout.length},)"
            )
        self._vector = np.ascontiguousarray(vector)
        return self._local_answer(Ready(self.round), SitePhase.READY)

    def _decline(self, reason: str) -> list[Command]:
        if self.phase not in (SitePhase.FRESH, SitePhase.TRAINING):
            raise PeerError(f"too late to decline: this site is at {self.phase.value}")
        return self._local_answer(Declined(self.round, reason), SitePhase.DECLINED)

    def _local_answer(self, answer: Answer, phase: SitePhase) -> list[Command]:
        """From now on, Train is answered with this instead of more training."""
        self.phase = phase
        commands: list[Command] = [Send(answer)]
        self._answers[Train] = (Train(self.round), commands)
        return commands

    # --- keys ---

    def _advertise(self, cohort: tuple[SiteId, ...]) -> list[Command]:
        self._check_names("cohort", cohort, within=self._roster, least=self._floor)
        if self.round.attempt <= self._last_attempt:
            raise PolicyRefused(
                f"attempt {self.round.attempt} is not above {self._last_attempt}, for which keys "
                "were made already; start a new attempt"
            )
        if self._signed_before is not None and not self._signed_before <= set(cohort):
            raise PromisedElsewhere(
                "this update was signed for a sum with other sites already; it joins only those"
            )
        self._cohort = cohort
        secrets = SiteSecrets.make(self.me, self._entropy)
        unsigned = secrets.advert(self.round)
        signature = self._sign(advert_statement(unsigned, cohort))
        self._secrets = secrets
        self._advert = replace(unsigned, signature=signature)
        self.phase = SitePhase.ADVERTISED
        return [Remember(KeysMade(self.round)), Send(self._advert)]

    # --- shares ---

    def _share(self, adverts: tuple[KeyAdvert, ...]) -> list[Command]:
        secrets = self._need_secrets()
        names = tuple(a.site for a in adverts)
        least = max(self._floor, threshold(len(self._cohort)))
        self._check_names("key list", names, within=self._cohort, least=least)
        session = session_id(self.round, self._cohort, adverts)
        self._topology = Topology(session, names, self._groups)
        self._check_own_floor(self._topology)
        neighbours = set(self._topology.holders(self.me)) - {self.me}
        for advert in adverts:
            self._check_advert(advert)
        if len({key for a in adverts for key in (a.mask_key, a.seal_key)}) < 2 * len(adverts):
            raise PeerError("two advertised keys are the same; round left")
        secrets.meet(a for a in adverts if a.site in neighbours)
        sealed = secrets.share(self._topology, self._entropy)
        self.phase = SitePhase.SHARED
        return [Send(SealedShares(self.round, session, sealed))]

    def _check_own_floor(self, topology: Topology) -> None:
        """Leave in time: after the upload, the others could open a sum this site would not sign."""
        sites = len(topology.sites)
        smallest = max(threshold(sites), self._plan_floor)
        if topology.group_count > 1:
            smallest = min(threshold(len(group)) for group in topology.groups)
        if self._own_floor > smallest:
            raise PolicyRefused(
                f"with {sites} sites in {topology.group_count} group(s) a sum of {smallest} can be "
                f"opened, this site's rules ask for {self._own_floor}; invite more sites, raise "
                "the plan's quorum or make fewer groups"
            )

    def _check_advert(self, advert: KeyAdvert) -> None:
        if advert.site == self.me:
            if advert != self._advert:
                raise PeerError("the coordinator changed this site's own keys; round left")
            return
        if advert.round != self.round or len(advert.seed_commitment) != KEY_BYTES:
            raise PeerError(f"keys of {advert.site} are for another round or malformed; round left")
        if not self._verify(advert.site, advert_statement(advert, self._cohort), advert.signature):
            raise PeerError(
                f"keys of {advert.site}: its signature does not hold for this round, model and "
                "cohort; round left"
            )

    # --- the masked vector ---

    def _mask(
        self, topology: Topology, among: tuple[SiteId, ...], sealed: Mapping[SiteId, bytes]
    ) -> list[Command]:
        secrets, words = self._need_secrets(), self._vector
        if words is None:
            raise PeerError("there is no update to mask; round left")
        self._check_sum("mask partners", among, topology, within=topology.sites)
        near = set(topology.holders(self.me)) & set(among)
        if set(sealed) != near - {self.me}:
            raise PeerError("the sealed shares are not one from each neighbour; round left")
        if len(near) < topology.threshold:
            # The others may have been told otherwise, and could open what few masks cover.
            raise PolicyRefused(
                f"{len(near) - 1} of this site's neighbours shared their secrets, "
                f"{topology.threshold - 1} are needed for their masks to cover it; run the round "
                "again"
            )
        if self._signed_before is not None and self._signed_before != set(among):
            # Before the upload: afterwards the others could open it without this site.
            raise PromisedElsewhere(
                "this update was signed for a sum with other sites already; it joins only those"
            )
        secrets.take_shares(sealed, session=topology.session)
        self._masked_among = among
        secrets.mask_in_place(
            words,
            self._layout,
            sorted(set(topology.partners(self.me)) & set(among)),
            session=topology.session,
            cipher=self._cipher,
            threads=self._threads,
        )
        words.flags.writeable = False
        self.phase = SitePhase.UPLOADED
        signature = self._sign(partner_statement(topology.session, among))
        return [Send(Masked(self.round, topology.session, signature)), Upload(words)]

    # --- survivors and opening ---

    def _sign_survivors(self, topology: Topology, survivors: tuple[SiteId, ...]) -> list[Command]:
        self._check_sum("survivors", survivors, topology, within=self._masked_among)
        if self._signed_before is not None and self._signed_before != set(survivors):
            raise PromisedElsewhere(
                "this update was signed for a sum with other sites already; two such sums would "
                "give away the difference"
            )
        self._survivors = survivors
        session = topology.session
        signature = self._sign(survivor_statement(session, self._masked_among, survivors))
        self.phase = SitePhase.SIGNED
        return [
            Remember(SurvivorsSigned(self.round, session, survivors)),
            Send(SurvivorSignature(self.round, session, signature)),
        ]

    def _reveal(
        self,
        topology: Topology,
        signatures: Mapping[SiteId, bytes],
        masked: Mapping[SiteId, bytes],
    ) -> list[Command]:
        secrets, session = self._need_secrets(), topology.session
        needed = threshold(len(topology.sites))
        if not set(signatures) <= set(self._survivors) or len(signatures) < needed:
            raise PeerError(
                f"{len(signatures)} signatures for the survivors, need {needed} of them; round left"
            )
        statement = survivor_statement(session, self._masked_among, self._survivors)
        for site, signature in signatures.items():
            if not self._verify(site, statement, signature):
                raise PeerError(f"{site} did not sign the survivors this site signed; round left")
        neighbours = set(topology.holders(self.me))
        alive = tuple(s for s in self._survivors if s in neighbours)
        self._check_masked(session, set(alive) - {self.me}, masked)
        lost = tuple(
            s for s in self._masked_among if s in neighbours and s not in set(self._survivors)
        )
        opened = RevealedShares(
            self.round,
            session,
            self_seeds=secrets.seed_shares(alive),
            mask_keys=secrets.key_shares(lost),
        )
        self._secrets = None  # each peer was opened one way; the other way is gone for good
        self.phase = SitePhase.REVEALED
        return [Remember(SharesRevealed(self.round, session, alive, lost)), Send(opened)]

    def _check_masked(
        self, session: bytes, alive: Collection[SiteId], masked: Mapping[SiteId, bytes]
    ) -> None:
        """Were the neighbours to be opened told of the same mask partners as this site?

        A site that was told of fewer carries fewer masks, and must not be opened by those that
        were told the truth.
        """
        if set(masked) != set(alive):
            raise PeerError("not every neighbour says whom it masked among; round left")
        statement = partner_statement(session, self._masked_among)
        for site, signature in masked.items():
            if not self._verify(site, statement, signature):
                raise PeerError(
                    f"{site} masked among other sites than this site was told; round left"
                )

    # --- small things ---

    def _check_sum(
        self,
        what: str,
        names: tuple[SiteId, ...],
        topology: Topology,
        *,
        within: Collection[SiteId],
    ) -> None:
        """Sites that will be in a sum: two thirds of all, and no group too small to hide in."""
        least = max(self._floor, threshold(len(topology.sites)))
        self._check_names(what, names, within=within, least=least)
        short = topology.short_group(names)
        if short is not None:
            raise PolicyRefused(
                f"{what}: {len(short)} sites of a group are too few for none to be seen alone; "
                "make fewer groups or wait for more sites"
            )

    def _check_names(
        self, what: str, names: tuple[SiteId, ...], *, within: Collection[SiteId], least: int
    ) -> None:
        """A sorted list without repeats, of known sites, with this one, and long enough."""
        if list(names) != sorted(set(names)):
            raise PeerError(f"{what}: not sorted or a site twice; round left")
        strangers = set(names) - set(within)
        if strangers:
            raise PeerError(f"{what}: {', '.join(sorted(strangers))} does not belong; round left")
        if self.me not in names:
            raise PeerError(f"{what}: this site is not in it; round left")
        if len(names) < least:
            raise PolicyRefused(
                f"{what}: {len(names)} sites, this site's rules ask for {least}; invite more sites"
            )

    def _graph(self, session: bytes) -> Topology:
        """The session's graph, once its keys are known. Raises PeerError for another session."""
        if self._topology is None or session != self._topology.session:
            raise PeerError("the instruction is for another session; round left")
        return self._topology

    def _need_secrets(self) -> SiteSecrets:
        if self._secrets is None:
            raise PeerError("this site holds no keys for the round; round left")
        return self._secrets

    def _forget(self, phase: SitePhase) -> None:
        """Drop every secret, vector and answer of the round."""
        self.phase = phase
        self._secrets = None
        self._vector = None
        self._answers.clear()
