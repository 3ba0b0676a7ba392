"""Calls that begin and whose message never comes count like any other from their first byte."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from primia.identity.certificate import COORDINATOR_HOST, to_pem
from primia.identity.keyfile import key_to_pem, new_key
from primia.types import SiteId
from primia.wire.channel import ClientTls
from primia.wire.client import enrol

METHODS = ["GetStudy", "Attend", "SendAnswer", "FetchModel", "Enrol"]


def _hold(world: Any, tls: ClientTls, method: str, until: threading.Event) -> list[Any]:
    """Three connections with 16 calls each: more than the server has threads."""
    credentials = grpc.ssl_channel_credentials(tls.authority, tls.key, tls.certificate)
    options = [
        ("grpc.ssl_target_name_override", COORDINATOR_HOST),
        ("grpc.use_local_subchannel_pool", 1),
    ]

    def nothing() -> Iterator[bytes]:
        until.wait()
        yield from ()

    held = []
    for _ in range(3):
        channel = grpc.secure_channel(world.address, credentials, options=options)
        call = channel.stream_stream(f"/primia.wire.v1.Federation/{method}")
        held += [channel, *(call(nothing()) for _ in range(16))]
    return held


def _let_go(held: list[Any]) -> None:
    for channel in held:
        if isinstance(channel, grpc.Channel):
            channel.close()


@pytest.mark.parametrize("method", METHODS)
def test_a_caller_that_withholds_its_messages_leaves_the_others_their_calls(
    world: Any, method: str
) -> None:
    tls = world.site_tls()
    if method == "Enrol":
        invitation = world.invite()
        tls = ClientTls(
            world.authority_pem, to_pem(invitation.certificate()), key_to_pem(invitation.key())
        )
    until = threading.Event()
    held = _hold(world, tls, method, until)
    try:
        time.sleep(2)
        honest = world.client(world.site_tls(SiteId("berlin")))
        assert honest.get_study().plan == b"plan"
    finally:
        until.set()
        _let_go(held)


def test_who_withholds_its_enrolment_keeps_no_other_hospital_from_enrolling(world: Any) -> None:
    held_up, other = world.invite(), world.invite(SiteId("berlin"))
    tls = ClientTls(world.authority_pem, to_pem(held_up.certificate()), key_to_pem(held_up.key()))
    until = threading.Event()
    held = _hold(world, tls, "Enrol", until)
    try:
        time.sleep(1)
        assert enrol(other, new_key()).certificate
    finally:
        until.set()
        _let_go(held)
