"""gRPC's own lines about failed handshakes, in our words. Real ones: tests/faults."""

from __future__ import annotations

import os

import pytest

from primia.wire import handshakes
from primia.wire.handshakes import reason

BEGIN = b"I1128 00:09:35.802212   19265 ssl_transport_security.cc:2563] Handshake failed with "


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            b"SSL_ERROR_SSL: error:100000c0:SSL routines:OPENSSL_internal:"
            b"PEER_DID_NOT_RETURN_A_CERTIFICATE: Invalid certificate verification context",
            "no client certificate",
        ),
        (
            b"SSL_ERROR_SSL: error:1000007d:SSL routines:OPENSSL_internal:"
            b"CERTIFICATE_VERIFY_FAILED: unable to get local issuer certificate",
            "foreign authority",
        ),
        (
            b"SSL_ERROR_SSL: error:1000007d:SSL routines:OPENSSL_internal:"
            b"CERTIFICATE_VERIFY_FAILED: certificate has expired",
            "expired",
        ),
        (
            b"SSL_ERROR_SSL: error:100000f7:SSL routines:OPENSSL_internal:"
            b"WRONG_VERSION_NUMBER: Invalid certificate verification context",
            "no TLS",
        ),
        (
            b"SSL_ERROR_SSL: error:10000001:SSL routines:OPENSSL_internal:SOMETHING_NEW: x",
            "SOMETHING_NEW",
        ),
    ],
)
def test_each_reason_has_its_words(line, says):
    assert says in reason(BEGIN + b"error " + line + b"\n")


def test_other_lines_of_the_core_are_no_handshakes():
    assert reason(b"I1128 00:09:35.802212   19265 log.cc:102] something else\n") is None


def test_each_failed_handshake_is_told_and_other_lines_pass_through(monkeypatch):
    told: list[str] = []
    monkeypatch.setattr(handshakes, "_told", [])
    handshakes.tell(told.append)
    (lines, into), (real, out) = os.pipe(), os.pipe()
    failed = (
        BEGIN + b"error SSL_ERROR_SSL: error:1000007d:SSL routines:OPENSSL_internal:"
        b"CERTIFICATE_VERIFY_FAILED: certificate has expired\n"
    )
    os.write(into, failed + b"a line of ours\n" + failed)
    os.close(into)
    handshakes._read(lines, out)
    os.close(out)
    with os.fdopen(real, "rb") as passed:
        assert passed.read() == b"a line of ours\n"
    assert told == ["an expired certificate"] * 2
