"""The one translator between protobuf and the protocol's dataclasses; what is odd is a PeerError.

Strict on the way in: lengths, names, sorted lists without repeats, known enumeration values, one
body per envelope. Whether a message fits the *moment* is for the protocol machines to say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message

from primia.errors import PeerError
from primia.protocol import messages as m
from primia.types import Digest, SiteId, site_id
from primia.wire.v1 import round_pb2 as pb

MAX_SITES = 1000
MAX_TEXT = 1000  # characters of a reason; longer ones are cut when sent
_SIGNATURE = (8, 72)  # ECDSA P-256 in DER
_SHARE = (1, 512)

P = TypeVar("P", bound=Message)
T = TypeVar("T")

_KINDS = {
    m.RoundKind.TRAIN: pb.ROUND_KIND_TRAIN,
    m.RoundKind.RETRAIN: pb.ROUND_KIND_RETRAIN,
    m.RoundKind.EVALUATE: pb.ROUND_KIND_EVALUATE,
}
_OUTCOMES = {
    m.Outcome.COMMITTED: pb.OUTCOME_COMMITTED,
    m.Outcome.ABORTED: pb.OUTCOME_ABORTED,
}
_KIND_OF: dict[int, m.RoundKind] = {number: kind for kind, number in _KINDS.items()}
_OUTCOME_OF: dict[int, m.Outcome] = {number: outcome for outcome, number in _OUTCOMES.items()}


# --- as bytes, for a database ------------------------------------------------------------------


def instruction_to_bytes(instruction: m.Instruction) -> bytes:
    """One instruction as deterministic bytes, for storage."""
    return instruction_to_pb(instruction).SerializeToString(deterministic=True)


def instruction_from_bytes(data: bytes) -> m.Instruction:
    """The reverse. Raises PeerError."""
    return instruction_from_pb(parse(pb.Instruction, data))


def answer_to_bytes(answer: m.Answer) -> bytes:
    """One answer as deterministic bytes, for storage and for telling a repeat from a change."""
    return answer_to_pb(answer).SerializeToString(deterministic=True)


def answer_from_bytes(data: bytes) -> m.Answer:
    """The reverse. Raises PeerError."""
    return answer_from_pb(parse(pb.Answer, data))


def parse(kind: type[P], data: bytes) -> P:
    """Bytes to a protobuf message. Raises PeerError."""
    try:
        return kind.FromString(data)
    except DecodeError as err:
        raise PeerError(f"{len(data)} bytes that are no {kind.DESCRIPTOR.name} message") from err


# --- down --------------------------------------------------------------------------------------


def instruction_to_pb(instruction: m.Instruction) -> pb.Instruction:
    """One instruction in its envelope."""
    match instruction:
        case m.Train(round):
            return pb.Instruction(train=pb.Train(round=round_to_pb(round)))
        case m.AdvertiseKeys(round, cohort):
            return pb.Instruction(
                advertise_keys=pb.AdvertiseKeys(round=round_to_pb(round), cohort=cohort)
            )
        case m.ShareSecrets(round, adverts):
            return pb.Instruction(
                share_secrets=pb.ShareSecrets(
                    round=round_to_pb(round), adverts=[_advert_to_pb(a) for a in adverts]
                )
            )
        case m.SendMasked(round, session, among, sealed):
            return pb.Instruction(
                send_masked=pb.SendMasked(
                    round=round_to_pb(round),
                    session=session,
                    among=among,
                    sealed=_map_to_pb(sealed),
                )
            )
        case m.SignSurvivors(round, session, survivors):
            return pb.Instruction(
                sign_survivors=pb.SignSurvivors(
                    round=round_to_pb(round), session=session, survivors=survivors
                )
            )
        case m.Reveal(round, session, signatures, masked):
            return pb.Instruction(
                reveal=pb.Reveal(
                    round=round_to_pb(round),
                    session=session,
                    signatures=_map_to_pb(signatures),
                    masked=_map_to_pb(masked),
                )
            )
        case m.Closed(round, outcome, reason):
            return pb.Instruction(
                closed=pb.Closed(
                    round=round_to_pb(round), outcome=_OUTCOMES[outcome], reason=clean(reason)
                )
            )


def instruction_from_pb(message: pb.Instruction) -> m.Instruction:
    """Read one instruction. Raises PeerError."""
    match _body(message):
        case pb.Train() as b:
            return m.Train(_round(b))
        case pb.AdvertiseKeys() as b:
            return m.AdvertiseKeys(_round(b), _names(b.cohort, "cohort"))
        case pb.ShareSecrets() as b:
            adverts = tuple(_advert_from_pb(a) for a in b.adverts)
            _names([a.site for a in b.adverts], "adverts")
            return m.ShareSecrets(_round(b), adverts)
        case pb.SendMasked() as b:
            among = _names(b.among, "among")
            sealed = _map(b.sealed, "sealed", _SHARE)
            return m.SendMasked(_round(b), session(b.session), among, sealed)
        case pb.SignSurvivors() as b:
            return m.SignSurvivors(_round(b), session(b.session), _names(b.survivors, "survivors"))
        case pb.Reveal() as b:
            return m.Reveal(
                _round(b),
                session(b.session),
                _map(b.signatures, "signatures", _SIGNATURE),
                _map(b.masked, "masked", _SIGNATURE),
            )
        case pb.Closed() as b:
            return m.Closed(_round(b), _known(_OUTCOME_OF, b.outcome, "outcome"), _text(b.reason))
    raise PeerError("an instruction without content; both sides need the same version of primia")


# --- up ----------------------------------------------------------------------------------------


def answer_to_pb(answer: m.Answer) -> pb.Answer:
    """One answer in its envelope."""
    match answer:
        case m.Ready(round):
            return pb.Answer(ready=pb.Ready(round=round_to_pb(round)))
        case m.Declined(round, reason):
            return pb.Answer(declined=pb.Declined(round=round_to_pb(round), reason=clean(reason)))
        case m.KeyAdvert():
            return pb.Answer(key_advert=_advert_to_pb(answer))
        case m.SealedShares(round, session, sealed):
            return pb.Answer(
                sealed_shares=pb.SealedShares(
                    round=round_to_pb(round), session=session, sealed=_map_to_pb(sealed)
                )
            )
        case m.Masked(round, session, signature):
            return pb.Answer(
                masked=pb.Masked(round=round_to_pb(round), session=session, signature=signature)
            )
        case m.SurvivorSignature(round, session, signature):
            return pb.Answer(
                survivor_signature=pb.SurvivorSignature(
                    round=round_to_pb(round), session=session, signature=signature
                )
            )
        case m.RevealedShares(round, session, self_seeds, mask_keys):
            return pb.Answer(
                revealed_shares=pb.RevealedShares(
                    round=round_to_pb(round),
                    session=session,
                    self_seeds=_map_to_pb(self_seeds),
                    mask_keys=_map_to_pb(mask_keys),
                )
            )


def answer_from_pb(message: pb.Answer) -> m.Answer:
    """Read one answer. Raises PeerError."""
    match _body(message):
        case pb.Ready() as b:
            return m.Ready(_round(b))
        case pb.Declined() as b:
            return m.Declined(_round(b), _text(b.reason))
        case pb.KeyAdvert() as b:
            return _advert_from_pb(b)
        case pb.SealedShares() as b:
            return m.SealedShares(_round(b), session(b.session), _map(b.sealed, "sealed", _SHARE))
        case pb.Masked() as b:
            return m.Masked(
                _round(b), session(b.session), _sized(b.signature, "signature", *_SIGNATURE)
            )
        case pb.SurvivorSignature() as b:
            return m.SurvivorSignature(
                _round(b), session(b.session), _sized(b.signature, "signature", *_SIGNATURE)
            )
        case pb.RevealedShares() as b:
            return m.RevealedShares(
                _round(b),
                session(b.session),
                _map(b.self_seeds, "self seeds", _SHARE),
                _map(b.mask_keys, "mask keys", _SHARE),
            )
    raise PeerError("an answer without content; both sides need the same version of primia")


# --- parts -------------------------------------------------------------------------------------


def round_to_pb(round: m.RoundId) -> pb.RoundId:
    """A round's name."""
    return pb.RoundId(
        plan=bytes.fromhex(round.plan),
        number=round.number,
        attempt=round.attempt,
        kind=_KINDS[round.kind],
        model=bytes.fromhex(round.model),
    )


def round_from_pb(message: pb.RoundId) -> m.RoundId:
    """Read a round's name. Raises PeerError."""
    if message.number < 1 or message.attempt < 1:
        raise PeerError(f"round {message.number}, attempt {message.attempt}: both count from 1")
    return m.RoundId(
        plan=digest(message.plan, "plan"),
        number=message.number,
        attempt=message.attempt,
        kind=_known(_KIND_OF, message.kind, "kind of round"),
        model=digest(message.model, "model"),
    )


def digest(data: bytes, what: str) -> Digest:
    """32 raw bytes as a digest. Raises PeerError."""
    return Digest(_sized(data, f"{what} digest", 32, 32).hex())


def session(data: bytes) -> bytes:
    """A session identifier, 32 bytes. Raises PeerError."""
    return _sized(data, "session", 32, 32)


def clean(text: str) -> str:
    """One line of printable text, cut to MAX_TEXT: what a peer may put into our log."""
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else "?" for c in line)[:MAX_TEXT]


def _body(message: Message) -> Any:
    name = message.WhichOneof("body")
    return None if name is None else getattr(message, name)


def _round(message: Any) -> m.RoundId:
    return round_from_pb(message.round)


def _advert_to_pb(advert: m.KeyAdvert) -> pb.KeyAdvert:
    return pb.KeyAdvert(
        round=round_to_pb(advert.round),
        site=advert.site,
        mask_key=advert.mask_key,
        seal_key=advert.seal_key,
        seed_commitment=advert.seed_commitment,
        signature=advert.signature,
    )


def _advert_from_pb(message: pb.KeyAdvert) -> m.KeyAdvert:
    return m.KeyAdvert(
        round=_round(message),
        site=_name(message.site),
        mask_key=_sized(message.mask_key, "mask key", 32, 32),
        seal_key=_sized(message.seal_key, "seal key", 32, 32),
        seed_commitment=_sized(message.seed_commitment, "seed commitment", 32, 32),
        signature=_sized(message.signature, "signature", *_SIGNATURE),
    )


def _map_to_pb(entries: Mapping[SiteId, bytes]) -> list[pb.SiteBytes]:
    return [pb.SiteBytes(site=site, data=entries[site]) for site in sorted(entries)]


def _map(
    entries: Iterable[pb.SiteBytes], what: str, bounds: tuple[int, int]
) -> dict[SiteId, bytes]:
    entries = list(entries)
    names = _names([entry.site for entry in entries], what)
    return {
        name: _sized(entry.data, f"{what} of {name}", *bounds)
        for name, entry in zip(names, entries, strict=True)
    }


def _names(texts: Iterable[str], what: str) -> tuple[SiteId, ...]:
    names = tuple(_name(text) for text in texts)
    if len(names) > MAX_SITES:
        raise PeerError(f"{what}: {len(names)} sites; at most {MAX_SITES} are read")
    if any(a >= b for a, b in pairwise(names)):
        raise PeerError(f"{what}: sites must be sorted and named once each")
    return names


def _name(text: str) -> SiteId:
    try:
        return site_id(text)
    except ValueError as err:
        raise PeerError(clean(str(err))) from err


def _sized(data: bytes, what: str, least: int, most: int) -> bytes:
    if not least <= len(data) <= most:
        raise PeerError(f"{what}: {len(data)} bytes, expected {least} to {most}")
    return data


def _text(text: str) -> str:
    if len(text) > MAX_TEXT or text != clean(text):
        raise PeerError(f"a text that is not one printable line of at most {MAX_TEXT} characters")
    return text


def _known(table: Mapping[int, T], number: int, what: str) -> T:
    try:
        return table[number]
    except KeyError:
        raise PeerError(f"{what} {number} is not known to this version of primia") from None
