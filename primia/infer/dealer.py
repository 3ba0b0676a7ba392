"""The dealer: makes correlated randomness for others, hands each its part, and forgets it.

It dials nobody and hears nothing of a prediction. Between the two deliveries of a batch it holds
the data owner's seeds in memory; the rest is made while it is sent.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import structlog
from cryptography import x509

from primia.errors import IdentityError, PeerError, TooManyCalls
from primia.identity.certificate import Identity, Role, fingerprint
from primia.infer.ahead import ahead
from primia.infer.binding import DATA, MODEL, NOISE, Binding
from primia.infer.dealer_store import DealerStore
from primia.infer.engine import Engine
from primia.inference.dealing import Noise
from primia.inference.program import Program, from_json
from primia.wire.inference_handler import (
    MOST_SESSIONS,
    SEED_BYTES,
    SESSION_BYTES,
    Batch,
    Collected,
    DealtSession,
    Order,
)
from primia.wire.limits import Seldom
from primia.wire.pieces import Message

log = structlog.get_logger()

WAITS_S = 900.0
"""Seeds that the data owner has not collected by then are dropped, and its batch with them."""

MOST_FILMS = 64  # in one session
_MOST_BATCHES = 100  # at once
_MOST_OF_ONE = 10  # of one data owner, so that it keeps nobody else waiting


@dataclass
class _Waiting:
    """A batch between its two deliveries; in memory alone."""

    collected: Collected = field(repr=False)
    data_owner: Identity
    fingerprint: str
    made_at: float
    complete: bool = False


class DealerService:
    """See `primia.wire.inference_handler.DealerHandler`."""

    def __init__(
        self,
        store: DealerStore,
        model: str,
        engine: Engine,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """model: the name of the one model owner that may order."""
        self._store = store
        self._model = model
        self._engine = engine
        self._clock = clock
        self._lock = threading.Lock()
        self._batches: dict[bytes, _Waiting] = {}
        self._seldom = Seldom()

    def authorise(self, identity: Identity, certificate: x509.Certificate) -> None:  # noqa: ARG002
        """The one model owner; and data owners, whom each batch names by their certificate."""
        if identity.role is Role.MODEL and identity.name != self._model:
            raise IdentityError(f"{identity} is not the model owner that this dealer deals for")

    def refused(self, caller: str, reason: str) -> None:
        """Keep a trace of who was refused."""
        if (left_out := self._seldom.left_out()) is not None:
            self._store.audit.append(
                "call_refused", caller=caller, reason=reason, left_out=left_out
            )

    def deal(
        self, identity: Identity, order: Order
    ) -> tuple[Batch, Iterator[tuple[bytes, Iterator[Message]]]]:
        """The model owner's part; nothing is made before it is asked for."""
        program = from_json(order.program)
        if not 0 < len(order.numbers) <= MOST_SESSIONS or not 0 < order.films <= MOST_FILMS:
            raise PeerError(
                f"an order of {len(order.numbers)} sessions of {order.films} films; this dealer "
                f"deals up to {MOST_SESSIONS} of up to {MOST_FILMS}"
            )
        batch = secrets.token_bytes(SESSION_BYTES)
        rows = [
            (secrets.token_bytes(SESSION_BYTES), number, *_two_seeds()) for number in order.numbers
        ]
        for_data = Batch(batch, tuple(DealtSession(s, n, seed) for s, n, seed, _ in rows))
        for_model = Batch(batch, tuple(DealtSession(s, n, seed) for s, n, _, seed in rows))
        collected = Collected(program.digest, identity, order.films, for_data)
        waiting = _Waiting(collected, order.data_owner, order.fingerprint, self._clock())
        with self._lock:
            self._drop_old()
            if len(self._batches) >= _MOST_BATCHES:
                raise TooManyCalls(
                    f"this dealer has {_MOST_BATCHES} batches that nobody collected; try later"
                )
            own = sum(w.data_owner == order.data_owner for w in self._batches.values())
            if own >= _MOST_OF_ONE:
                raise TooManyCalls(
                    f"{order.data_owner.name} left {_MOST_OF_ONE} batches at this dealer; those "
                    f"not collected are dropped after {WAITS_S / 60:.0f} minutes: try later"
                )
            self._batches[batch] = waiting
        binding = Binding(
            program.digest, identity, order.data_owner, batch, order.films, order.terms
        )
        self._store.audit.append(
            "batch_dealt",
            site=order.data_owner.name, batch=batch.hex(), program=program.digest,
            sessions=len(rows),
        )  # fmt: skip
        log.info("dealing", data_owner=order.data_owner.name, sessions=len(rows))
        return for_model, self._sessions(program, order, binding, rows)

    def _sessions(
        self,
        program: Program,
        order: Order,
        binding: Binding,
        rows: list[tuple[bytes, int, bytes, bytes]],
    ) -> Iterator[tuple[bytes, Iterator[Message]]]:
        for session, _, data, model in rows:
            dealt = self._engine.deal(
                program,
                order.mask_seed,
                binding.seed(data, session, DATA),
                binding.seed(model, session, MODEL),
                order.films,
                noise_of(binding, model, session),
                order.terms.profile,
            )
            with ahead(dealt) as messages:  # sending takes as long as making
                yield session, messages

    def dealt(self, batch: bytes) -> None:
        """The data owner may collect."""
        with self._lock:
            if batch in self._batches:
                self._batches[batch].complete = True

    def collect(self, identity: Identity, certificate: x509.Certificate, batch: bytes) -> Collected:
        """The seeds, to the very certificate that the batch was ordered for, once."""
        with self._lock:
            self._drop_old()
            waiting = self._batches.get(batch)
            if waiting is None or not waiting.complete:
                raise PeerError(
                    "no such batch waits here: it was collected before, or dropped after "
                    f"{WAITS_S / 60:.0f} minutes, or the dealer was restarted; stock again"
                )
            if (identity, fingerprint(certificate)) != (waiting.data_owner, waiting.fingerprint):
                raise IdentityError("this batch was ordered for somebody else")
            del self._batches[batch]
        log.info("delivered", data_owner=identity.name)
        return waiting.collected

    def waiting(self) -> int:
        """How many batches are between their deliveries."""
        with self._lock:
            self._drop_old()
            return len(self._batches)

    def _drop_old(self) -> None:
        oldest = self._clock() - WAITS_S
        self._batches = {b: w for b, w in self._batches.items() if w.made_at >= oldest}


def noise_of(binding: Binding, dealt: bytes, session: bytes) -> Noise | None:
    """What is added to the answers of a session; dealt: the model owner's seed of it."""
    std = binding.terms.noise
    return Noise(std, binding.seed(dealt, session, NOISE)) if std else None


def _two_seeds() -> tuple[bytes, bytes]:
    return secrets.token_bytes(SEED_BYTES), secrets.token_bytes(SEED_BYTES)
