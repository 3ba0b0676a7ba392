"""What travels between the coordinator and one site during an aggregation round.

Plain frozen data: no bytes layout here (see `primia.wire`), no behaviour. `Instruction`s go
down, `Answer`s go up. The sender of an answer is never a field that is trusted: the transport
takes it from the certificate and hands it to the machine beside the message.

The order of a round is that of Bonawitz et al., CCS 2017, in the variant against an active
server, with the keys *after* local training:

    down                up                        phase
    ------------------  ------------------------  -----------------
    Train               Ready | Declined          TRAINING
    AdvertiseKeys       KeyAdvert                 KEYS
    ShareSecrets        SealedShares              SHARES
    SendMasked          Masked, then the vectors  MASKED_UPDATE
    SignSurvivors       SurvivorSignature         SURVIVORS
    Reveal              RevealedShares            UNMASKING
    Closed              -                         DONE | ABORTED
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from primia.types import Digest, SiteId


class RoundKind(StrEnum):
    """What a site contributes.

    TRAIN: an update, and metrics of the model that the round starts from. EVALUATE: metrics of the
    last model alone. RETRAIN: an update alone, where the study returned to a model that was counted
    before, or where an attempt was signed in vain: no model is counted in two sums.
    """

    TRAIN = "train"
    RETRAIN = "retrain"
    EVALUATE = "evaluate"


class Outcome(StrEnum):
    """How a round ended; both are final."""

    COMMITTED = "committed"
    ABORTED = "aborted"


@dataclass(frozen=True)
class RoundId:
    """Names one attempt at one round; every message carries it.

    number: 1..R for training rounds, R + 1 for the closing evaluation.
    attempt: counts all attempts of the study, so it only ever grows; a site keeps the highest
        it made keys for on disk and refuses anything not above it.
    model: digest of the global model that the round starts from.
    """

    plan: Digest
    number: int
    attempt: int
    kind: RoundKind
    model: Digest


# --- down: the coordinator to one site ---------------------------------------------------------


@dataclass(frozen=True)
class Train:
    """Do the local work on this model, then answer Ready. Nothing leaves yet."""

    round: RoundId


@dataclass(frozen=True)
class AdvertiseKeys:
    """The sites that are ready; make this round's keys and sign them for exactly this cohort."""

    round: RoundId
    cohort: tuple[SiteId, ...]  # sorted


@dataclass(frozen=True)
class ShareSecrets:
    """All signed keys of the round; check them, then share both secrets among the neighbours."""

    round: RoundId
    adverts: tuple[KeyAdvert, ...]  # sorted by site


@dataclass(frozen=True)
class SendMasked:
    """Who shared its secrets, and what this site's neighbours sealed for it; mask now.

    among: all sites that shared, sorted, this one among them.
    """

    round: RoundId
    session: bytes
    among: tuple[SiteId, ...]
    sealed: Mapping[SiteId, bytes]  # neighbour → ciphertext; without this site itself


@dataclass(frozen=True)
class SignSurvivors:
    """The sites whose masked vectors arrived; sign the list if it holds by your own rules."""

    round: RoundId
    session: bytes
    survivors: tuple[SiteId, ...]  # sorted


@dataclass(frozen=True)
class Reveal:
    """At least t survivors' signatures over the one list; open one share per neighbour.

    masked: what each surviving neighbour signed about whom it masked among.
    """

    round: RoundId
    session: bytes
    signatures: Mapping[SiteId, bytes]
    masked: Mapping[SiteId, bytes]


@dataclass(frozen=True)
class Closed:
    """The round is over; forget its secrets."""

    round: RoundId
    outcome: Outcome
    reason: str


Instruction = Train | AdvertiseKeys | ShareSecrets | SendMasked | SignSurvivors | Reveal | Closed


# --- up: one site to the coordinator -----------------------------------------------------------


@dataclass(frozen=True)
class Ready:
    """Local work is done, charged in the ledger and stored; the site could go on to keys."""

    round: RoundId


@dataclass(frozen=True)
class Declined:
    """The site takes no part in this attempt. `reason` is fit for a person and names no patient."""

    round: RoundId
    reason: str


@dataclass(frozen=True)
class KeyAdvert:
    """One site's X25519 keys for one round, signed with the key of its certificate."""

    round: RoundId
    site: SiteId
    mask_key: bytes  # 32 bytes, public
    seal_key: bytes  # 32 bytes, public
    seed_commitment: bytes  # 32 bytes, binds the self seed so that a wrong share cannot pass
    signature: bytes


@dataclass(frozen=True)
class SealedShares:
    """Shares of both secrets of the sender, one ciphertext for each neighbour."""

    round: RoundId
    session: bytes
    sealed: Mapping[SiteId, bytes]


@dataclass(frozen=True)
class Masked:
    """Signature of the sender over (session, the sites it was told to mask among).

    Goes before the vectors. Nobody opens a site that masked among others than it was told itself.
    """

    round: RoundId
    session: bytes
    signature: bytes


@dataclass(frozen=True)
class SurvivorSignature:
    """Signature of the sender over (session, survivor list)."""

    round: RoundId
    session: bytes
    signature: bytes


@dataclass(frozen=True)
class RevealedShares:
    """For each surviving neighbour a share of its self seed, for each lost one of its mask key.

    One peer stands in one of the two mappings at most; a site that answered with both would
    open that peer's update.
    """

    round: RoundId
    session: bytes
    self_seeds: Mapping[SiteId, bytes] = field(repr=False)  # survivors, the sender among them
    mask_keys: Mapping[SiteId, bytes] = field(repr=False)  # masked but not arrived


Answer = Ready | Declined | KeyAdvert | SealedShares | Masked | SurvivorSignature | RevealedShares
