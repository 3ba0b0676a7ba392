"""Who must not come in, and what each side says then (rows A01 to A10)."""

from __future__ import annotations

import contextlib
import socket
import ssl
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from primia.identity import authority as authorities
from primia.identity import keyfile
from primia.identity.certificate import COORDINATOR_HOST, to_pem
from primia.identity.enrolment import make_request
from primia.storage.audit_log import FILE, read
from primia.types import SiteId
from tests.faults.ward import Ward

pytestmark = [pytest.mark.faults, pytest.mark.timeout(200)]

DAY = timedelta(days=1)
NOW = datetime.now(UTC)


def certify(folder: Path, site: str, begins: datetime, ends: datetime) -> tuple[bytes, bytes]:
    """Key and certificate (PEM) for `site`, by the authority in `folder`, with any dates."""
    made = authorities.load(folder)
    key = keyfile.new_key()
    issued = made.issue_site(make_request(key), SiteId(site), now=NOW, valid_days=30)
    builder = (
        x509.CertificateBuilder()
        .subject_name(issued.subject)
        .issuer_name(issued.issuer)
        .public_key(issued.public_key())
        .serial_number(issued.serial_number)
        .not_valid_before(begins)
        .not_valid_after(ends)
    )
    for extension in issued.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    signer = keyfile.load_key(folder / "authority.key")
    return keyfile.key_to_pem(key), to_pem(builder.sign(signer, hashes.SHA256()))


def wear(ward: Ward, site: str, key: bytes, certificate: bytes) -> None:
    """Put an identity into a worker's folder."""
    home = ward.folder / site / "identity"
    (home / "site.key").write_bytes(key)
    (home / "site.pem").write_bytes(certificate)


def refusal(ward: Ward, site: str) -> str:
    """The last line of a worker that ends by itself."""
    worker = ward.start_worker(site)
    assert worker.process.wait(90) == 1, worker.last_lines(20)
    assert "Traceback" not in ward.said(site)
    return worker.last_lines(1)


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    authorities.create(tmp_path / "foreign", "small", now=NOW, valid_days=9)
    return tmp_path / "foreign"


def test_a01_each_way_to_come_without_right_has_its_own_words_at_the_worker(
    ward: Ward, foreign: Path
) -> None:
    ward.start_coordinator()
    (ward.folder / "north" / "identity" / "site.pem").unlink()
    none = refusal(ward, "north")
    assert "nobody enrolled here" in none

    wear(ward, "south", *certify(foreign, "south", NOW - DAY / 24, NOW + DAY))
    other = refusal(ward, "south")
    assert "not issued by" in other

    wear(ward, "east", *certify(ward.home / "authority", "east", NOW - 9 * DAY, NOW - DAY))
    assert "expired on" in refusal(ward, "east")

    with socket.create_server(("127.0.0.1", 0)) as plain:
        ward.dials("west", f"127.0.0.1:{plain.getsockname()[1]}")
        worker = ward.start_worker("west")
        link, _ = plain.accept()
        with contextlib.suppress(OSError):
            link.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        plain.settimeout(30)
        while not ward.said("west").count("does not speak TLS"):
            with contextlib.suppress(OSError):
                link, _ = plain.accept()
                link.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            assert worker.process.poll() is None
        worker.process.terminate()
        assert worker.process.wait(15) == 0


def test_a01_the_coordinator_logs_why_a_handshake_failed(ward: Ward, foreign: Path) -> None:
    daemon = ward.start_coordinator()
    expired = certify(ward.home / "authority", "north", NOW - 9 * DAY, NOW - DAY)
    stranger = certify(foreign, "north", NOW - DAY / 24, NOW + DAY)
    early = certify(ward.home / "authority", "north", NOW + DAY, NOW + 2 * DAY)
    for identity, says in (
        (None, "no client certificate"),
        (stranger, "a certificate of a foreign authority"),
        (expired, "an expired certificate"),
        (early, "a certificate that is not valid yet; compare the clocks"),
    ):
        _handshake(ward.port, identity)
        ward.wait_for(daemon, "handshake_failed", reason=says)
    with socket.create_connection(("127.0.0.1", ward.port)) as link:
        link.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")  # gRPC without TLS
        link.recv(100)
    ward.wait_for(daemon, "handshake_failed", reason="no TLS (a plaintext client?)")
    ward.terminate("coordinator")
    lines, _ = read(ward.home / FILE)
    audited = {x.fields["reason"] for x in lines if x.event == "call_refused"}
    assert {"no client certificate", "an expired certificate"} <= audited
    assert "a certificate of a foreign authority" in audited


def _handshake(port: int, identity: tuple[bytes, bytes] | None) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    if identity is not None:
        with tempfile.TemporaryDirectory() as folder:
            chain = Path(folder) / "chain.pem"
            chain.write_bytes(b"".join(identity))
            context.load_cert_chain(chain)
    with (
        contextlib.suppress(OSError),
        socket.create_connection(("127.0.0.1", port)) as raw,
        context.wrap_socket(raw, server_hostname=COORDINATOR_HOST) as link,
    ):
        link.settimeout(10)
        link.recv(1)


def test_a06_a_certificate_of_the_authority_is_no_enrolment(ward: Ward) -> None:
    ward.start_coordinator()
    wear(ward, "north", *certify(ward.home / "authority", "north", NOW - DAY / 24, NOW + DAY))
    line = refusal(ward, "north")
    assert "north" in line
    assert "certificate" in line or "enrolled" in line
    ward.wait_for(ward.coordinator, "call_refused")


def test_a09_a_key_that_others_can_read_is_refused(ward: Ward) -> None:
    key = ward.folder / "north" / "identity" / "site.key"
    key.chmod(0o644)
    line = refusal(ward, "north")
    assert str(key) in line
    assert "chmod 600" in line


def test_a10_a_certificate_from_the_future_suggests_to_check_the_clock(ward: Ward) -> None:
    wear(ward, "north", *certify(ward.home / "authority", "north", NOW + DAY, NOW + 9 * DAY))
    assert "check the clock" in refusal(ward, "north")
