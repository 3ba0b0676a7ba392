from primia.wire.v1 import round_pb2 as _round_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EnrolRequest(_message.Message):
    __slots__ = ("csr",)
    CSR_FIELD_NUMBER: _ClassVar[int]
    csr: bytes
    def __init__(self, csr: _Optional[bytes] = ...) -> None: ...

class EnrolReply(_message.Message):
    __slots__ = ("certificate", "authority")
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    AUTHORITY_FIELD_NUMBER: _ClassVar[int]
    certificate: bytes
    authority: bytes
    def __init__(self, certificate: _Optional[bytes] = ..., authority: _Optional[bytes] = ...) -> None: ...

class GetStudyRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StudyReply(_message.Message):
    __slots__ = ("plan", "signature", "coordinator", "sites", "succession", "clock")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    COORDINATOR_FIELD_NUMBER: _ClassVar[int]
    SITES_FIELD_NUMBER: _ClassVar[int]
    SUCCESSION_FIELD_NUMBER: _ClassVar[int]
    CLOCK_FIELD_NUMBER: _ClassVar[int]
    plan: bytes
    signature: bytes
    coordinator: bytes
    sites: _containers.RepeatedScalarFieldContainer[bytes]
    succession: Succession
    clock: float
    def __init__(self, plan: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., coordinator: _Optional[bytes] = ..., sites: _Optional[_Iterable[bytes]] = ..., succession: _Optional[_Union[Succession, _Mapping]] = ..., clock: _Optional[float] = ...) -> None: ...

class Succession(_message.Message):
    __slots__ = ("authority", "endorsement")
    AUTHORITY_FIELD_NUMBER: _ClassVar[int]
    ENDORSEMENT_FIELD_NUMBER: _ClassVar[int]
    authority: bytes
    endorsement: bytes
    def __init__(self, authority: _Optional[bytes] = ..., endorsement: _Optional[bytes] = ...) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RenewReply(_message.Message):
    __slots__ = ("certificate",)
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    certificate: bytes
    def __init__(self, certificate: _Optional[bytes] = ...) -> None: ...

class AttendRequest(_message.Message):
    __slots__ = ("after",)
    AFTER_FIELD_NUMBER: _ClassVar[int]
    after: int
    def __init__(self, after: _Optional[int] = ...) -> None: ...

class Wait(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StudyOver(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class AttendReply(_message.Message):
    __slots__ = ("serial", "instruction", "wait", "study_over", "directory")
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    INSTRUCTION_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    STUDY_OVER_FIELD_NUMBER: _ClassVar[int]
    DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    serial: int
    instruction: _round_pb2.Instruction
    wait: Wait
    study_over: StudyOver
    directory: int
    def __init__(self, serial: _Optional[int] = ..., instruction: _Optional[_Union[_round_pb2.Instruction, _Mapping]] = ..., wait: _Optional[_Union[Wait, _Mapping]] = ..., study_over: _Optional[_Union[StudyOver, _Mapping]] = ..., directory: _Optional[int] = ...) -> None: ...

class AnswerReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class FetchRequest(_message.Message):
    __slots__ = ("digest", "offset")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    digest: bytes
    offset: int
    def __init__(self, digest: _Optional[bytes] = ..., offset: _Optional[int] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("offset", "data")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    offset: int
    data: bytes
    def __init__(self, offset: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class UploadKey(_message.Message):
    __slots__ = ("round", "session")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    round: _round_pb2.RoundId
    session: bytes
    def __init__(self, round: _Optional[_Union[_round_pb2.RoundId, _Mapping]] = ..., session: _Optional[bytes] = ...) -> None: ...

class UploadStatusReply(_message.Message):
    __slots__ = ("received", "complete")
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    received: int
    complete: bool
    def __init__(self, received: _Optional[int] = ..., complete: _Optional[bool] = ...) -> None: ...

class UploadHeader(_message.Message):
    __slots__ = ("key", "length", "sha256", "offset")
    KEY_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    key: UploadKey
    length: int
    sha256: bytes
    offset: int
    def __init__(self, key: _Optional[_Union[UploadKey, _Mapping]] = ..., length: _Optional[int] = ..., sha256: _Optional[bytes] = ..., offset: _Optional[int] = ...) -> None: ...

class UploadFrame(_message.Message):
    __slots__ = ("header", "data")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    header: UploadHeader
    data: bytes
    def __init__(self, header: _Optional[_Union[UploadHeader, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class UploadReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Mark(_message.Message):
    __slots__ = ("count", "digest")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    count: int
    digest: bytes
    def __init__(self, count: _Optional[int] = ..., digest: _Optional[bytes] = ...) -> None: ...

class SiteHeads(_message.Message):
    __slots__ = ("plan", "site", "attempt", "ledger", "audit")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    SITE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    LEDGER_FIELD_NUMBER: _ClassVar[int]
    AUDIT_FIELD_NUMBER: _ClassVar[int]
    plan: bytes
    site: str
    attempt: int
    ledger: Mark
    audit: Mark
    def __init__(self, plan: _Optional[bytes] = ..., site: _Optional[str] = ..., attempt: _Optional[int] = ..., ledger: _Optional[_Union[Mark, _Mapping]] = ..., audit: _Optional[_Union[Mark, _Mapping]] = ...) -> None: ...

class SignedHeads(_message.Message):
    __slots__ = ("heads", "signature", "certificate")
    HEADS_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    heads: SiteHeads
    signature: bytes
    certificate: bytes
    def __init__(self, heads: _Optional[_Union[SiteHeads, _Mapping]] = ..., signature: _Optional[bytes] = ..., certificate: _Optional[bytes] = ...) -> None: ...

class Countersigned(_message.Message):
    __slots__ = ("heads", "audit", "signature", "certificate")
    HEADS_FIELD_NUMBER: _ClassVar[int]
    AUDIT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    heads: SiteHeads
    audit: Mark
    signature: bytes
    certificate: bytes
    def __init__(self, heads: _Optional[_Union[SiteHeads, _Mapping]] = ..., audit: _Optional[_Union[Mark, _Mapping]] = ..., signature: _Optional[bytes] = ..., certificate: _Optional[bytes] = ...) -> None: ...

class LastHeadsRequest(_message.Message):
    __slots__ = ("last",)
    LAST_FIELD_NUMBER: _ClassVar[int]
    last: Countersigned
    def __init__(self, last: _Optional[_Union[Countersigned, _Mapping]] = ...) -> None: ...

class LastHeadsReply(_message.Message):
    __slots__ = ("heads",)
    HEADS_FIELD_NUMBER: _ClassVar[int]
    heads: SignedHeads
    def __init__(self, heads: _Optional[_Union[SignedHeads, _Mapping]] = ...) -> None: ...

class CountersignRequest(_message.Message):
    __slots__ = ("heads", "last")
    HEADS_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    heads: SignedHeads
    last: Countersigned
    def __init__(self, heads: _Optional[_Union[SignedHeads, _Mapping]] = ..., last: _Optional[_Union[Countersigned, _Mapping]] = ...) -> None: ...
