from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RoundKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROUND_KIND_UNSPECIFIED: _ClassVar[RoundKind]
    ROUND_KIND_TRAIN: _ClassVar[RoundKind]
    ROUND_KIND_EVALUATE: _ClassVar[RoundKind]
    ROUND_KIND_RETRAIN: _ClassVar[RoundKind]

class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTCOME_UNSPECIFIED: _ClassVar[Outcome]
    OUTCOME_COMMITTED: _ClassVar[Outcome]
    OUTCOME_ABORTED: _ClassVar[Outcome]
ROUND_KIND_UNSPECIFIED: RoundKind
ROUND_KIND_TRAIN: RoundKind
ROUND_KIND_EVALUATE: RoundKind
ROUND_KIND_RETRAIN: RoundKind
OUTCOME_UNSPECIFIED: Outcome
OUTCOME_COMMITTED: Outcome
OUTCOME_ABORTED: Outcome

class RoundId(_message.Message):
    __slots__ = ("plan", "number", "attempt", "kind", "model")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    plan: bytes
    number: int
    attempt: int
    kind: RoundKind
    model: bytes
    def __init__(self, plan: _Optional[bytes] = ..., number: _Optional[int] = ..., attempt: _Optional[int] = ..., kind: _Optional[_Union[RoundKind, str]] = ..., model: _Optional[bytes] = ...) -> None: ...

class SiteBytes(_message.Message):
    __slots__ = ("site", "data")
    SITE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    site: str
    data: bytes
    def __init__(self, site: _Optional[str] = ..., data: _Optional[bytes] = ...) -> None: ...

class Train(_message.Message):
    __slots__ = ("round",)
    ROUND_FIELD_NUMBER: _ClassVar[int]
    round: RoundId
    def __init__(self, round: _Optional[_Union[RoundId, _Mapping]] = ...) -> None: ...

class AdvertiseKeys(_message.Message):
    __slots__ = ("round", "cohort")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    COHORT_FIELD_NUMBER: _ClassVar[int]
    round: RoundId
    cohort: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, round: _Optional[_Union[RoundId, _Mapping]] = ..., cohort: _Optional[_Iterable[str]] = ...) -> None: ...

class ShareSecrets(_message.Message):
    __slots__ = ("round", "adverts")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ADVERTS_FIELD_NUMBER: _ClassVar[int]
    round: RoundId
    adverts: _containers.RepeatedCompositeFieldContainer[KeyAdvert]
    def __init__(self, round: _Optional[_Union[RoundId, _Mapping]] = ..., adverts: _Optional[_Iterable[_Union[KeyAdvert, _Mapping]]] = ...) -> None: ...

class SendMasked(_message.Message):
    __slots__ = ("round", "session", "sealed", "among")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SEALED_FIELD_NUMBER: _ClassVar[int]
    AMONG_FIELD_NUMBER: _ClassVar[int]
    round: RoundId
    session: bytes
    sealed: _containers.RepeatedCompositeFieldContainer[SiteBytes]
    among: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, round: _Optional[_Union[RoundId, _Mapping]] = ..., session: _Optional[bytes] = ..., sealed: _Optional[_Iterable[_Union[SiteBytes, _Mapping]]] = ..., among: _Optional[_Iterable[str]] = ...) -> None: ...

class SignSurvivors(_message.Message):
    __slots__ = ("round", "session", "survivors")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SURVIVORS_FIELD_NUMBER: _ClassVar[int]
    round: RoundId
    session: bytes
    survivors: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, round: _Optional[_Union[RoundId, _Mapping]] = ..., session: _Optional[bytes] = ..., survivors: _Optional[_Iterable[str]] = ...) -> None: ...

class Reveal(_message.Message):
    __slots__ = ("round", "session", "signatures", "masked")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SIGNATURES_FIELD_NUMBER: _ClassVar[int]
    MASKED_FIELD_NUMBER: _ClassVar[int]
    round: RoundId
    session: bytes
    signatures: _containers.RepeatedCompositeFieldContainer[SiteBytes]
    masked: _containers.RepeatedCompositeFieldContainer[SiteBytes]
    def __init__(self, round: _Optional[_Union[RoundId, _Mapping]] = ..., session: _Optional[bytes] = ..., signatures: _Optional[_Iterable[_Union[SiteBytes, _Mapping]]] = ..., masked: _Optional[_Iterable[_Union[SiteBytes, _Mapping]]] = ...) -> None: ...

class Closed(_message.Message):
    __slots__ = ("round", "outcome", "reason")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    round: RoundId
    outcome: Outcome
    reason: str
    def __init__(self, round: _Optional[_Union[RoundId, _Mapping]] = ..., outcome: _Optional[_Union[Outcome, str]] = ..., reason: _Optional[str] = ...) -> None: ...

class Instruction(_message.Message):
    __slots__ = ("train", "advertise_keys", "share_secrets", "send_masked", "sign_survivors", "reveal", "closed")
    TRAIN_FIELD_NUMBER: _ClassVar[int]
    ADVERTISE_KEYS_FIELD_NUMBER: _ClassVar[int]
    SHARE_SECRETS_FIELD_NUMBER: _ClassVar[int]
    SEND_MASKED_FIELD_NUMBER: _ClassVar[int]
    SIGN_SURVIVORS_FIELD_NUMBER: _ClassVar[int]
    REVEAL_FIELD_NUMBER: _ClassVar[int]
    CLOSED_FIELD_NUMBER: _ClassVar[int]
    train: Train
    advertise_keys: AdvertiseKeys
    share_secrets: ShareSecrets
    send_masked: SendMasked
    sign_survivors: SignSurvivors
    reveal: Reveal
    closed: Closed
    def __init__(self, train: _Optional[_Union[Train, _Mapping]] = ..., advertise_keys: _Optional[_Union[AdvertiseKeys, _Mapping]] = ..., share_secrets: _Optional[_Union[ShareSecrets, _Mapping]] = ..., send_masked: _Optional[_Union[SendMasked, _Mapping]] = ..., sign_survivors: _Optional[_Union[SignSurvivors, _Mapping]] = ..., reveal: _Optional[_Union[Reveal, _Mapping]] = ..., closed: _Optional[_Union[Closed, _Mapping]] = ...) -> None: ...

class Ready(_message.Message):
    __slots__ = ("round",)
    ROUND_FIELD_NUMBER: _ClassVar[int]
    round: RoundId
    def __init__(self, round: _Optional[_Union[RoundId, _Mapping]] = ...) -> None: ...

class Declined(_message.Message):
    __slots__ = ("round", "reason")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    round: RoundId
    reason: str
    def __init__(self, round: _Optional[_Union[RoundId, _Mapping]] = ..., reason: _Optional[str] = ...) -> None: ...

class KeyAdvert(_message.Message):
    __slots__ = ("round", "site", "mask_key", "seal_key", "seed_commitment", "signature")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    SITE_FIELD_NUMBER: _ClassVar[int]
    MASK_KEY_FIELD_NUMBER: _ClassVar[int]
    SEAL_KEY_FIELD_NUMBER: _ClassVar[int]
    SEED_COMMITMENT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    round: RoundId
    site: str
    mask_key: bytes
    seal_key: bytes
    seed_commitment: bytes
    signature: bytes
    def __init__(self, round: _Optional[_Union[RoundId, _Mapping]] = ..., site: _Optional[str] = ..., mask_key: _Optional[bytes] = ..., seal_key: _Optional[bytes] = ..., seed_commitment: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class SealedShares(_message.Message):
    __slots__ = ("round", "session", "sealed")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SEALED_FIELD_NUMBER: _ClassVar[int]
    round: RoundId
    session: bytes
    sealed: _containers.RepeatedCompositeFieldContainer[SiteBytes]
    def __init__(self, round: _Optional[_Union[RoundId, _Mapping]] = ..., session: _Optional[bytes] = ..., sealed: _Optional[_Iterable[_Union[SiteBytes, _Mapping]]] = ...) -> None: ...

class Masked(_message.Message):
    __slots__ = ("round", "session", "signature")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    round: RoundId
    session: bytes
    signature: bytes
    def __init__(self, round: _Optional[_Union[RoundId, _Mapping]] = ..., session: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class SurvivorSignature(_message.Message):
    __slots__ = ("round", "session", "signature")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    round: RoundId
    session: bytes
    signature: bytes
    def __init__(self, round: _Optional[_Union[RoundId, _Mapping]] = ..., session: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class RevealedShares(_message.Message):
    __slots__ = ("round", "session", "self_seeds", "mask_keys")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SELF_SEEDS_FIELD_NUMBER: _ClassVar[int]
    MASK_KEYS_FIELD_NUMBER: _ClassVar[int]
    round: RoundId
    session: bytes
    self_seeds: _containers.RepeatedCompositeFieldContainer[SiteBytes]
    mask_keys: _containers.RepeatedCompositeFieldContainer[SiteBytes]
    def __init__(self, round: _Optional[_Union[RoundId, _Mapping]] = ..., session: _Optional[bytes] = ..., self_seeds: _Optional[_Iterable[_Union[SiteBytes, _Mapping]]] = ..., mask_keys: _Optional[_Iterable[_Union[SiteBytes, _Mapping]]] = ...) -> None: ...

class Answer(_message.Message):
    __slots__ = ("ready", "declined", "key_advert", "sealed_shares", "survivor_signature", "revealed_shares", "masked")
    READY_FIELD_NUMBER: _ClassVar[int]
    DECLINED_FIELD_NUMBER: _ClassVar[int]
    KEY_ADVERT_FIELD_NUMBER: _ClassVar[int]
    SEALED_SHARES_FIELD_NUMBER: _ClassVar[int]
    SURVIVOR_SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    REVEALED_SHARES_FIELD_NUMBER: _ClassVar[int]
    MASKED_FIELD_NUMBER: _ClassVar[int]
    ready: Ready
    declined: Declined
    key_advert: KeyAdvert
    sealed_shares: SealedShares
    survivor_signature: SurvivorSignature
    revealed_shares: RevealedShares
    masked: Masked
    def __init__(self, ready: _Optional[_Union[Ready, _Mapping]] = ..., declined: _Optional[_Union[Declined, _Mapping]] = ..., key_advert: _Optional[_Union[KeyAdvert, _Mapping]] = ..., sealed_shares: _Optional[_Union[SealedShares, _Mapping]] = ..., survivor_signature: _Optional[_Union[SurvivorSignature, _Mapping]] = ..., revealed_shares: _Optional[_Union[RevealedShares, _Mapping]] = ..., masked: _Optional[_Union[Masked, _Mapping]] = ...) -> None: ...
