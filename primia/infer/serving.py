"""The two servers as processes: take the folder, serve until SIGTERM or SIGINT."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path

import structlog

from primia import __version__
from primia.errors import StateError
from primia.identity.certificate import Role, to_pem
from primia.identity.invitation import split_address
from primia.identity.keyfile import key_to_pem
from primia.infer import home
from primia.infer.dealer import DealerService
from primia.infer.dealer_store import DealerStore
from primia.infer.engine import Engine
from primia.infer.home import Own
from primia.infer.model import ModelService, Served, prepare_serving
from primia.infer.model_store import ModelStore
from primia.inference.program import Program, Weights
from primia.storage.folder import StateFolder
from primia.types import sha256
from primia.wire.inference_handler import Terms
from primia.wire.inference_servicer import DealerServicer, EnrolServicer, InferenceServicer
from primia.wire.server import Server, ServerTls, check_address, start
from primia.wire.v1 import federation_pb2_grpc, inference_pb2_grpc

log = structlog.get_logger()

_GRACE_S = 2.0  # for predictions under way when the daemon is told to stop


def serve_model(
    folder: Path,
    model_file: Path,
    listen: str,
    dealer: str,
    engine: Engine,
    load: Callable[[Path], tuple[Program, Weights]],
    *,
    terms: Terms = Terms(),  # noqa: B008  (frozen)
) -> None:
    """Serve one model file until told to stop. Raises StateError, ConfigError, IdentityError."""
    split_address(dealer)
    stop = stopping()
    with StateFolder(folder):
        check_address(listen)
        book, own = home.open_model(folder)
        try:
            program, weights = load(model_file)
            digest = sha256(model_file.read_bytes())
            served = prepare_serving(folder, book, engine, program, weights, digest)
            book.audit.append("started", version=__version__)
            with start_model(folder, book, own, served, listen, dealer, engine, terms) as server:
                log.info("listening", address=server.address, program=program.digest[:16])
                stop.wait()
                server.stop(_GRACE_S)
            book.audit.append("stopped")
            log.info("stopped")
        finally:
            book.close()


def start_model(
    folder: Path, book: ModelStore, own: Own, served: Served, listen: str, dealer: str,
    engine: Engine, terms: Terms = Terms(),  # noqa: B008  (frozen)
) -> Server:  # fmt: skip
    """The model owner's server, running."""
    service = ModelService(folder, book, own, served, engine, dealer, terms)
    add_enrol = federation_pb2_grpc.add_FederationServicer_to_server
    add_inference = inference_pb2_grpc.add_InferenceServicer_to_server
    return start(
        [
            (add_enrol, EnrolServicer(service, service.roots, home.now)),
            (add_inference, InferenceServicer(service, service.roots, home.now)),
        ],
        listen=listen,
        tls=service.tls,
    )


def serve_dealer(folder: Path, listen: str, engine: Engine) -> None:
    """Deal until told to stop. Raises StateError, IdentityError."""
    stop = stopping()
    with StateFolder(folder):
        check_address(listen)
        own = home.load(folder, Role.DEALER)
        book = DealerStore(folder)
        try:
            book.audit.append("started", version=__version__)
            with start_dealer(dealer_service(book, engine), own, listen) as server:
                log.info("listening", address=server.address)
                stop.wait()
                server.stop(_GRACE_S)
            book.audit.append("stopped")
            log.info("stopped")
        finally:
            book.close()


def dealer_service(book: DealerStore, engine: Engine) -> DealerService:
    """For the one model owner where this dealer enrolled. Raises StateError."""
    model = book.noted("model")
    if model is None:
        raise StateError("this folder does not say for whom it deals; enrol again in a new one")
    return DealerService(book, model, engine)


def start_dealer(service: DealerService, own: Own, listen: str) -> Server:
    """The dealer's server, running."""
    tls = ServerTls(
        certificate=to_pem(own.certificate),
        authority=to_pem(own.authority),
        key=key_to_pem(own.key),
    )
    add = inference_pb2_grpc.add_DealerServicer_to_server
    return start(
        [(add, DealerServicer(service, lambda: (own.authority,), home.now))],
        listen=listen,
        tls=lambda: tls,
    )


def stopping() -> threading.Event:
    """An event that SIGTERM and SIGINT set."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop
