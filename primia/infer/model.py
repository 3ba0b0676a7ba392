"""The model owner: serves one model version to enrolled data owners, within their budgets."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from safetensors.numpy import save

from primia.errors import (
    ConfigError,
    IdentityError,
    PeerError,
    PrimiaError,
    StateError,
)
from primia.identity import authority
from primia.identity.certificate import Identity, Role, fingerprint, to_pem
from primia.identity.keyfile import key_to_pem, store
from primia.infer import home
from primia.infer.ahead import ahead
from primia.infer.binding import MODEL, Binding
from primia.infer.checking import opened_of, same
from primia.infer.dealer import MOST_FILMS, noise_of
from primia.infer.engine import Engine
from primia.infer.home import Own
from primia.infer.model_store import ModelStore
from primia.infer.turns import Turns
from primia.inference.operations import Linear
from primia.inference.program import Program, Weights, to_json
from primia.types import Digest, SiteId, sha256
from primia.wire.handler import Enrolment
from primia.wire.inference_client import DealerLink
from primia.wire.inference_handler import MOST_SESSIONS, Description, Hello, Order, Stocked, Terms
from primia.wire.limits import Seldom
from primia.wire.pieces import Wanted
from primia.wire.server import ServerTls

log = structlog.get_logger()

HELD_S = 3600.0  # a batch that was not opened by then never will be
NOISE_SHARE = 8.0
"""Of a bound. A quarter of the bound is the largest logit that was seen when the model was
prepared, and the noise passes no six deviations: together they stay within."""


@dataclass(frozen=True)
class Served:
    """One model version, ready to serve."""

    program: Program
    weights: Weights
    mask_seed: bytes
    given: Path
    given_digest: Digest


def prepare_serving(
    folder: Path, book: ModelStore, engine: Engine, program: Program, weights: Weights, file: Digest
) -> Served:
    """Make or find the version's mask, and the file of masked weights. Raises StateError.

    file: SHA-256 of the model file.
    """
    seed = book.mask_seed(program.digest, program.model_version, file)
    data = save(engine.given(program, weights, seed))
    digest = sha256(data)
    path = folder / "given" / digest
    if not path.exists():
        store(path, data)
    for other in path.parent.iterdir():
        if other != path:
            other.unlink(missing_ok=True)
    return Served(program, weights, seed, path, digest)


def check_noise(program: Program, deviation: float) -> None:
    """Raise ConfigError unless logits with such noise stay within what the protocol compares."""
    last = program.nodes[-1]
    if deviation and not isinstance(last.op, Linear):
        raise ConfigError(
            f"--noise: it is added in a linear layer, and this program ends in {last.name} "
            f"({last.op.kind}); serve it without noise"
        )
    if deviation > last.bound / NOISE_SHARE:
        raise ConfigError(
            f"--noise {deviation:g}: the logits are compared up to {last.bound:g}, which leaves "
            f"room for a deviation of {last.bound / NOISE_SHARE:.2g}; choose that or less"
        )


class ModelService:
    """See `primia.wire.inference_handler.ModelHandler`."""

    def __init__(
        self,
        folder: Path,
        book: ModelStore,
        own: Own,
        served: Served,
        engine: Engine,
        dealer: str,
        terms: Terms = Terms(),  # noqa: B008  (frozen)
    ) -> None:
        """dealer: host:port. Raises ConfigError for noise that the program has no room for."""
        check_noise(served.program, terms.noise)
        self._terms = terms
        self._folder = folder
        self._book = book
        self._own = own
        self._served = served
        self._engine = engine
        self._dealer = dealer
        self._text = to_json(served.program)
        self._turns = Turns()
        self._held: dict[bytes, float] = {}  # batches that are to be opened, and since when
        self._seldom = Seldom()
        if lost := book.sweep(served.program.digest, str(terms)):
            log.warning("stock_discarded", sessions=lost)

    # --- who -----------------------------------------------------------------------------------

    def authorise(self, identity: Identity, certificate: x509.Certificate) -> None:
        """Roster and struck names are looked up at every call, on open channels too."""
        if identity.role is Role.SITE:
            self._book.check_site(identity.site, fingerprint(certificate))

    def refused(self, caller: str, reason: str) -> None:
        """Keep a trace of who was refused and why."""
        if (left_out := self._seldom.left_out()) is not None:
            self._book.audit.append("call_refused", caller=caller, reason=reason, left_out=left_out)

    def enrol(self, identity: Identity, certificate: x509.Certificate, csr: bytes) -> Enrolment:
        """Use up an invitation; name and role are the invitation's, not the caller's."""
        folder = self._folder / "authority"
        if not (folder / authority.KEY_FILE).exists():
            raise StateError(
                f"{folder / authority.KEY_FILE} is kept elsewhere, so nobody can be enrolled now"
            )
        made = authority.load(folder)
        key = authority.key_of_request(csr)

        role = Role.DEALER if identity.name == self._book.noted("dealer") else Role.SITE

        def issue(name: SiteId) -> tuple[bytes, str]:
            if name != identity.name:
                raise IdentityError("the invitation is for another name; ask for a new one")
            issued = made.issue(
                Identity(role, name), key, now=home.now(), valid_days=home.CERTIFICATE_DAYS
            )
            return to_pem(issued), fingerprint(issued)

        form = serialization.PublicFormat.SubjectPublicKeyInfo
        request_key = sha256(key.public_bytes(serialization.Encoding.DER, form))
        pem = self._book.redeem(fingerprint(certificate), request_key, issue)
        log.info("enrolled", who=home.called(Identity(role, identity.name)))
        return Enrolment(certificate=pem, authority=to_pem(made.certificate))

    def roots(self) -> tuple[x509.Certificate, ...]:
        """Whose certificates are valid."""
        return (self._own.authority,)

    def tls(self) -> ServerTls:
        """What a new connection is served with."""
        return ServerTls(
            certificate=to_pem(self._own.certificate),
            authority=to_pem(self._own.authority),
            anchors=tuple(self._book.invitation_certificates()),
            key=key_to_pem(self._own.key),
        )

    # --- material ------------------------------------------------------------------------------

    def describe(self, identity: Identity) -> Description:
        """What is served, and where the dealer is."""
        return Description(
            program=self._text,
            given=self._served.given_digest,
            given_size=self._served.given.stat().st_size,
            dealer=self._dealer,
            dealer_certificate=self._dealer_certificate(),
            films_left=self._book.budget(identity.site).left,
            most_films=MOST_FILMS,
            terms=self._terms,
        )

    def given(self) -> Path:
        """The file of the masked weights."""
        return self._served.given

    def stock(
        self,
        identity: Identity,
        certificate: x509.Certificate,
        *,
        program: Digest,
        sessions: int,
        films: int,
        discarded: tuple[bytes, ...] = (),
    ) -> Iterator[Stocked]:
        """Have the dealer deal, and put each session on disk as it comes."""
        self._drop_unopened()
        self._book.discard(identity.site, discarded)
        self._check_program(program)
        if not 0 < sessions <= MOST_SESSIONS or not 0 < films <= MOST_FILMS:
            raise PeerError(
                f"{sessions} sessions of {films} films; up to {MOST_SESSIONS} of up to "
                f"{MOST_FILMS} can be stocked at once"
            )
        site = identity.site
        pinned = self._dealer_certificate()
        if not pinned:
            raise StateError("no dealer is enrolled; invite one: primia infer invite dealer NAME")
        order = Order(
            program=self._text,
            mask_seed=self._served.mask_seed,
            data_owner=identity,
            fingerprint=fingerprint(certificate),
            films=films,
            numbers=self._book.order(site, program, films, sessions, opened_of(sessions)),
            terms=self._terms,
        )
        keys: dict[bytes, bytes] = {}
        received = 0
        tls = self._own.tls(Role.DEALER, pinned)
        try:
            with (
                DealerLink(self._dealer, tls) as link,
                link.deal(order) as (batch, dealt),
            ):
                for row, messages in zip(batch.sessions, dealt, strict=True):
                    keys[row.session] = os.urandom(32)
                    received += self._book.material.write(row.session, keys[row.session], messages)
                    yield Stocked(len(keys), received)
        except BaseException:
            self._book.material.remove(keys)
            self._book.cancel(order.numbers)
            raise
        self._book.hold(batch, keys)
        self._held[batch.batch] = time.monotonic()
        log.info("stocked", data_owner=site, sessions=len(keys), bytes=received)
        yield Stocked(len(keys), received, batch.batch)

    def _drop_unopened(self) -> None:
        """Who ordered these was stopped before it opened them."""
        for batch, since in list(self._held.items()):
            if time.monotonic() - since > HELD_S and self._held.pop(batch, None) is not None:
                self._book.drop_batch(batch)

    def open_sessions(self, identity: Identity, batch: bytes, opened: dict[bytes, bytes]) -> None:
        """Deal the opened sessions again, and compare with what came."""
        site = identity.site
        held = {row.session: row for row in self._book.held(site, batch)}
        if len(opened) != opened_of(len(held)) or not opened.keys() <= held.keys():
            raise PeerError(
                f"{opened_of(len(held))} sessions of this batch of {len(held)} are to be opened, "
                f"{len(opened)} were; both sides need the same version of primia"
            )
        for session, theirs in opened.items():
            row = held[session]
            taken = self._book.material.take(session)
            taken.delete()
            binding = self._binding(identity, batch, row.films)
            dealt = self._engine.deal(
                self._served.program,
                self._served.mask_seed,
                theirs,
                binding.seed(row.seed, session, MODEL),
                row.films,
                noise_of(binding, row.seed, session),
                self._terms.profile,
            )
            try:
                holds = same(taken.messages(row.key), dealt)
            finally:
                taken.close()
            if not holds:
                self._book.drop_batch(batch)
                self._book.audit.append("batch_refused", site=site, batch=batch.hex())
                log.error("batch_refused", data_owner=site)
                raise PeerError(
                    "an opened session does not hold what it should: the dealer, or the way to "
                    "it, is faulty; the whole batch was discarded, tell the dealer's operator"
                )
        self._book.release(site, batch, opened)
        self._held.pop(batch, None)

    # --- predictions ---------------------------------------------------------------------------

    @contextmanager
    def asking(self, identity: Identity, hello: Hello) -> Iterator[Generator[Wanted, bytes, None]]:
        """Spend the session and charge the budget, then lend the machine."""
        site = identity.site
        self._check_program(hello.program)
        if not 0 < hello.films <= MOST_FILMS:
            raise PeerError(f"{hello.films} films in one session; at most {MOST_FILMS}")
        self._book.check_budget(site, hello.films)
        with self._turns.turn(site):
            held, taken = self._book.begin(site, hello)
            outcome = "broken"
            try:
                self._book.discard(site, hello.discarded)
                seed = self._binding(identity, held.batch, held.films).seed(
                    held.seed, held.session, MODEL
                )
                with ahead(taken.messages(held.key)) as corrections:
                    yield self._engine.model_party(
                        self._served.program,
                        self._served.weights,
                        corrections,
                        seed,
                        held.films,
                        self._terms.profile,
                    )
                outcome = "done"
            except PrimiaError:
                outcome = "refused"
                raise
            finally:
                taken.close()
                log.info("prediction_ended", data_owner=site, number=held.number, outcome=outcome)

    def _check_program(self, program: Digest) -> None:
        if program != self._served.program.digest:
            raise PeerError(
                f"the program {program[:16]}… is not served here; the model owner serves "
                f"{self._served.program.digest[:16]}… now: ask again, which fetches that one"
            )

    def _binding(self, data_owner: Identity, batch: bytes, films: int) -> Binding:
        return Binding(
            self._served.program.digest, self._own.identity, data_owner, batch, films, self._terms
        )

    def _dealer_certificate(self) -> bytes:
        """The enrolled dealer's, or nothing."""
        name = self._book.noted("dealer")
        for site in self._book.enrolled():
            if site.site == name:
                return site.certificate
        return b""
