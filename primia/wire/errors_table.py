"""The one table between errors and gRPC status codes.

An error that tells the *caller* something crosses by name and comes back as the same class. A
fault of the coordinator itself (disk, configuration, a bug) is none of the caller's business: it
is logged there under an incident number, and the caller hears that and tries again later.
"""

from __future__ import annotations

import secrets
import traceback

import grpc
import structlog

from primia.errors import (
    BudgetExhausted,
    IdentityError,
    PeerError,
    PolicyRefused,
    PrimiaError,
    RoundFailed,
    TooManyCalls,
    Unreachable,
)
from primia.wire.convert import clean

CODES: dict[type[PrimiaError], grpc.StatusCode] = {
    IdentityError: grpc.StatusCode.UNAUTHENTICATED,
    PolicyRefused: grpc.StatusCode.PERMISSION_DENIED,
    BudgetExhausted: grpc.StatusCode.FAILED_PRECONDITION,
    PeerError: grpc.StatusCode.INVALID_ARGUMENT,
    RoundFailed: grpc.StatusCode.ABORTED,
    Unreachable: grpc.StatusCode.UNAVAILABLE,
    TooManyCalls: grpc.StatusCode.RESOURCE_EXHAUSTED,
}
OWN_FAULT = grpc.StatusCode.INTERNAL
NAME_KEY = "primia-error"

_CLASSES = {cls.__name__: cls for cls in CODES}
# What gRPC itself says when no primia on the other side named a class.
_BARE: dict[grpc.StatusCode, type[PrimiaError]] = {
    grpc.StatusCode.UNAVAILABLE: Unreachable,
    grpc.StatusCode.DEADLINE_EXCEEDED: Unreachable,
    grpc.StatusCode.CANCELLED: Unreachable,
    grpc.StatusCode.INTERNAL: Unreachable,  # includes a stream reset by a broken link
    grpc.StatusCode.UNKNOWN: Unreachable,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Unreachable,  # too many calls at once
}

log = structlog.get_logger(__name__)


def status_of(error: Exception, called: str = "coordinator") -> tuple[grpc.StatusCode, str, str]:
    """(code, message, class name) to answer a call that ended in `error`; called: who answers."""
    for cls in type(error).__mro__:
        if cls in CODES:
            return CODES[cls], clean(str(error)), cls.__name__
    incident = secrets.token_hex(4)
    if isinstance(error, PrimiaError):  # its text names cause and remedy
        detail = {"reason": str(error)}
    else:
        # As text, not exc_info: some log renderers print local variables, keys among them.
        detail = {"trace": "".join(traceback.format_exception(error))}
    log.error("call_failed", incident=incident, error=type(error).__name__, **detail)
    text = f"the {called} has a fault of its own (incident {incident}, see its log); try later"
    return OWN_FAULT, text, Unreachable.__name__


def error_of(call: grpc.RpcError) -> PrimiaError:
    """The error behind a failed call. Class names outside the table are never looked up."""
    code: grpc.StatusCode = call.code()
    text = clean(call.details() or code.name)
    cls = _named_class(call)
    if cls is not None:
        return cls(text)
    return _BARE.get(code, PeerError)(f"{text} ({code.name})")


def was_named(call: grpc.RpcError) -> bool:
    """Whether a primia answered the call, as opposed to the network or gRPC itself."""
    return _named_class(call) is not None


def _named_class(call: grpc.RpcError) -> type[PrimiaError] | None:
    for entry in call.trailing_metadata() or ():
        if entry.key == NAME_KEY and isinstance(entry.value, str):
            return _CLASSES.get(entry.value)
    return None
