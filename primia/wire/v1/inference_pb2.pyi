from primia.wire.v1 import federation_pb2 as _federation_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Direction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DIRECTION_UNSPECIFIED: _ClassVar[Direction]
    DATA_TO_MODEL: _ClassVar[Direction]
    MODEL_TO_DATA: _ClassVar[Direction]
    DEALER_TO_MODEL: _ClassVar[Direction]
DIRECTION_UNSPECIFIED: Direction
DATA_TO_MODEL: Direction
MODEL_TO_DATA: Direction
DEALER_TO_MODEL: Direction

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DescribeReply(_message.Message):
    __slots__ = ("program", "given", "given_size", "dealer", "dealer_certificate", "films_left", "most_films", "noise", "profile")
    PROGRAM_FIELD_NUMBER: _ClassVar[int]
    GIVEN_FIELD_NUMBER: _ClassVar[int]
    GIVEN_SIZE_FIELD_NUMBER: _ClassVar[int]
    DEALER_FIELD_NUMBER: _ClassVar[int]
    DEALER_CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    FILMS_LEFT_FIELD_NUMBER: _ClassVar[int]
    MOST_FILMS_FIELD_NUMBER: _ClassVar[int]
    NOISE_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    program: bytes
    given: bytes
    given_size: int
    dealer: str
    dealer_certificate: bytes
    films_left: int
    most_films: int
    noise: float
    profile: str
    def __init__(self, program: _Optional[bytes] = ..., given: _Optional[bytes] = ..., given_size: _Optional[int] = ..., dealer: _Optional[str] = ..., dealer_certificate: _Optional[bytes] = ..., films_left: _Optional[int] = ..., most_films: _Optional[int] = ..., noise: _Optional[float] = ..., profile: _Optional[str] = ...) -> None: ...

class StockRequest(_message.Message):
    __slots__ = ("program_hash", "sessions", "films", "discarded")
    PROGRAM_HASH_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    FILMS_FIELD_NUMBER: _ClassVar[int]
    DISCARDED_FIELD_NUMBER: _ClassVar[int]
    program_hash: bytes
    sessions: int
    films: int
    discarded: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, program_hash: _Optional[bytes] = ..., sessions: _Optional[int] = ..., films: _Optional[int] = ..., discarded: _Optional[_Iterable[bytes]] = ...) -> None: ...

class StockReply(_message.Message):
    __slots__ = ("sessions", "received", "batch")
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    sessions: int
    received: int
    batch: bytes
    def __init__(self, sessions: _Optional[int] = ..., received: _Optional[int] = ..., batch: _Optional[bytes] = ...) -> None: ...

class OpenedSession(_message.Message):
    __slots__ = ("session", "seed")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    session: bytes
    seed: bytes
    def __init__(self, session: _Optional[bytes] = ..., seed: _Optional[bytes] = ...) -> None: ...

class OpenRequest(_message.Message):
    __slots__ = ("batch", "opened")
    BATCH_FIELD_NUMBER: _ClassVar[int]
    OPENED_FIELD_NUMBER: _ClassVar[int]
    batch: bytes
    opened: _containers.RepeatedCompositeFieldContainer[OpenedSession]
    def __init__(self, batch: _Optional[bytes] = ..., opened: _Optional[_Iterable[_Union[OpenedSession, _Mapping]]] = ...) -> None: ...

class OpenReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class AskHello(_message.Message):
    __slots__ = ("program_hash", "session", "number", "films", "discarded")
    PROGRAM_HASH_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    FILMS_FIELD_NUMBER: _ClassVar[int]
    DISCARDED_FIELD_NUMBER: _ClassVar[int]
    program_hash: bytes
    session: bytes
    number: int
    films: int
    discarded: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, program_hash: _Optional[bytes] = ..., session: _Optional[bytes] = ..., number: _Optional[int] = ..., films: _Optional[int] = ..., discarded: _Optional[_Iterable[bytes]] = ...) -> None: ...

class AskAccepted(_message.Message):
    __slots__ = ("number",)
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    number: int
    def __init__(self, number: _Optional[int] = ...) -> None: ...

class Piece(_message.Message):
    __slots__ = ("session", "step", "direction", "length", "offset", "data", "check")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    DIRECTION_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    CHECK_FIELD_NUMBER: _ClassVar[int]
    session: bytes
    step: int
    direction: Direction
    length: int
    offset: int
    data: bytes
    check: bytes
    def __init__(self, session: _Optional[bytes] = ..., step: _Optional[int] = ..., direction: _Optional[_Union[Direction, str]] = ..., length: _Optional[int] = ..., offset: _Optional[int] = ..., data: _Optional[bytes] = ..., check: _Optional[bytes] = ...) -> None: ...

class AskRequest(_message.Message):
    __slots__ = ("hello", "piece")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    PIECE_FIELD_NUMBER: _ClassVar[int]
    hello: AskHello
    piece: Piece
    def __init__(self, hello: _Optional[_Union[AskHello, _Mapping]] = ..., piece: _Optional[_Union[Piece, _Mapping]] = ...) -> None: ...

class AskReply(_message.Message):
    __slots__ = ("accepted", "piece")
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    PIECE_FIELD_NUMBER: _ClassVar[int]
    accepted: AskAccepted
    piece: Piece
    def __init__(self, accepted: _Optional[_Union[AskAccepted, _Mapping]] = ..., piece: _Optional[_Union[Piece, _Mapping]] = ...) -> None: ...

class DealRequest(_message.Message):
    __slots__ = ("program", "mask_seed", "data_owner", "fingerprint", "films", "numbers", "noise", "profile")
    PROGRAM_FIELD_NUMBER: _ClassVar[int]
    MASK_SEED_FIELD_NUMBER: _ClassVar[int]
    DATA_OWNER_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    FILMS_FIELD_NUMBER: _ClassVar[int]
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    NOISE_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    program: bytes
    mask_seed: bytes
    data_owner: str
    fingerprint: str
    films: int
    numbers: _containers.RepeatedScalarFieldContainer[int]
    noise: float
    profile: str
    def __init__(self, program: _Optional[bytes] = ..., mask_seed: _Optional[bytes] = ..., data_owner: _Optional[str] = ..., fingerprint: _Optional[str] = ..., films: _Optional[int] = ..., numbers: _Optional[_Iterable[int]] = ..., noise: _Optional[float] = ..., profile: _Optional[str] = ...) -> None: ...

class DealtSession(_message.Message):
    __slots__ = ("session", "number", "seed")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    session: bytes
    number: int
    seed: bytes
    def __init__(self, session: _Optional[bytes] = ..., number: _Optional[int] = ..., seed: _Optional[bytes] = ...) -> None: ...

class DealtBatch(_message.Message):
    __slots__ = ("batch", "sessions")
    BATCH_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    batch: bytes
    sessions: _containers.RepeatedCompositeFieldContainer[DealtSession]
    def __init__(self, batch: _Optional[bytes] = ..., sessions: _Optional[_Iterable[_Union[DealtSession, _Mapping]]] = ...) -> None: ...

class DealReply(_message.Message):
    __slots__ = ("batch", "piece", "end")
    BATCH_FIELD_NUMBER: _ClassVar[int]
    PIECE_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    batch: DealtBatch
    piece: Piece
    end: DealtEnd
    def __init__(self, batch: _Optional[_Union[DealtBatch, _Mapping]] = ..., piece: _Optional[_Union[Piece, _Mapping]] = ..., end: _Optional[_Union[DealtEnd, _Mapping]] = ...) -> None: ...

class DealtEnd(_message.Message):
    __slots__ = ("session", "steps")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    session: bytes
    steps: int
    def __init__(self, session: _Optional[bytes] = ..., steps: _Optional[int] = ...) -> None: ...

class CollectRequest(_message.Message):
    __slots__ = ("batch",)
    BATCH_FIELD_NUMBER: _ClassVar[int]
    batch: bytes
    def __init__(self, batch: _Optional[bytes] = ...) -> None: ...

class CollectReply(_message.Message):
    __slots__ = ("program_hash", "model", "films", "batch")
    PROGRAM_HASH_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FILMS_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    program_hash: bytes
    model: str
    films: int
    batch: DealtBatch
    def __init__(self, program_hash: _Optional[bytes] = ..., model: _Optional[str] = ..., films: _Optional[int] = ..., batch: _Optional[_Union[DealtBatch, _Mapping]] = ...) -> None: ...
