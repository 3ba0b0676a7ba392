"""Why a connection failed, in words.

gRPC says "Socket closed" for a missing, foreign or expired certificate and for a plaintext
server alike. So after a failure we go the same way once more with the standard library (name,
proxy, TCP, TLS, first bytes) and say at which step it ends.
"""

from __future__ import annotations

import base64
import os
import socket
import ssl
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

from cryptography import x509

from primia.errors import IdentityError, PrimiaError, Unreachable
from primia.identity.certificate import (
    CALLED,
    HOSTS,
    Role,
    check_validity,
    from_pem,
    identity_of,
    is_issued_by,
    roots_from_pem,
)
from primia.identity.invitation import split_address
from primia.wire.channel import ClientTls

TIMEOUT_S = 5.0
_FIRST_BYTES_S = 2.0
# gRPC looks at these, in this order, and at no upper-case form (gRPC core, HTTP proxy mapper).
_PROXY_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")

_EXPIRED, _NOT_YET, _WRONG_NAME = 10, 9, 62  # OpenSSL X509_V_ERR_*


def diagnose(address: str, tls: ClientTls, *, timeout_s: float = TIMEOUT_S) -> PrimiaError:
    """Try to connect and return (not raise) the reason why it does not work.

    IdentityError where a person must look at certificates, else Unreachable.
    """
    return probe(address, tls, timeout_s=timeout_s) or Unreachable(
        f"the connection to {address} broke; the {CALLED[tls.server]} answers again, so try again"
    )


def probe(address: str, tls: ClientTls, *, timeout_s: float = TIMEOUT_S) -> PrimiaError | None:
    """What is wrong with the way to the server (as `diagnose`), or None: it answers."""
    try:
        raw = dial(address, timeout_s=timeout_s, server=tls.server)
    except Unreachable as err:
        return err
    with raw:
        try:
            context = _context(tls)
        except OSError as err:
            return Unreachable(
                f"the connection to {address} broke; the reason cannot be looked for without a "
                f"temporary file ({err.strerror})"
            )
        try:
            with context.wrap_socket(raw, server_hostname=HOSTS[tls.server]) as link:
                return _first_bytes(address, tls, link)
        except ssl.SSLCertVerificationError as err:
            return _server_refused(address, tls, err)
        except ssl.SSLError as err:
            return _no_tls(address, err, tls.server)
        except TimeoutError:
            return Unreachable(f"{address} takes connections but does not answer; try again later")
        except OSError as err:
            return Unreachable(
                f"{address} closed the connection during the TLS handshake ({err.strerror}); is "
                f"it a primia {CALLED[tls.server]}, and does a firewall let TLS pass?"
            )


def served_certificate(
    address: str, *, timeout_s: float = TIMEOUT_S, server: Role = Role.COORDINATOR
) -> bytes:
    """PEM of the certificate that the server at `address` shows. Nothing is trusted by this.

    Raises Unreachable with the reason.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # judged by the caller against the invitation
    context.minimum_version = ssl.TLSVersion.TLSv1_3  # earlier ones want our certificate first
    context.set_alpn_protocols(["h2"])
    try:
        with (
            dial(address, timeout_s=timeout_s, server=server) as raw,
            context.wrap_socket(raw, server_hostname=HOSTS[server]) as link,
        ):
            der = link.getpeercert(binary_form=True)
    except ssl.SSLError as err:
        raise _no_tls(address, err, server) from err
    except OSError as err:
        raise Unreachable(f"{address} broke off the TLS handshake ({err}); try again") from err
    if der is None:
        raise Unreachable(f"{address} showed no certificate; it is no primia {CALLED[server]}")
    return ssl.DER_cert_to_PEM_cert(der).encode("ascii")


def dial(address: str, *, timeout_s: float, server: Role = Role.COORDINATOR) -> socket.socket:
    """A TCP connection the way gRPC would go, proxy included. Raises Unreachable."""
    host, port = split_address(address)
    proxy = proxy_for(host, os.environ)
    if proxy is None:
        try:
            return socket.create_connection((host, port), timeout_s)
        except socket.gaierror as err:
            raise Unreachable(
                f"the name {host} cannot be resolved ({err.strerror}); check the address and DNS"
            ) from err
        except TimeoutError as err:
            raise Unreachable(
                f"no answer from {address} within {timeout_s:.0f} s; a firewall may drop the "
                "connection, or the machine is off"
            ) from err
        except OSError as err:
            raise Unreachable(
                f"nothing listens at {address} ({err.strerror}); is the {CALLED[server]} running, "
                "and are address and port right?"
            ) from err
    return _dial_proxy(address, *proxy, timeout_s=timeout_s)


def proxy_for(host: str, environment: Mapping[str, str]) -> tuple[str, str] | None:
    """(variable, URL) of the proxy that gRPC would take to `host`, or None."""
    variable = next((v for v in _PROXY_VARIABLES if environment.get(v)), None)
    if variable is None:
        return None
    exempt = environment.get("no_grpc_proxy") or environment.get("no_proxy") or ""
    for entry in (part.strip() for part in exempt.split(",")):
        if entry and (host == entry or host.endswith(entry)):
            return None
    return variable, environment[variable]


def _dial_proxy(address: str, variable: str, url: str, *, timeout_s: float) -> socket.socket:
    parts = urlsplit(url)
    try:
        host, port = parts.hostname or "", parts.port or 80
        raw = socket.create_connection((host, port), timeout_s)
    except (OSError, ValueError) as err:
        shown = f"{parts.hostname}:{parts.netloc.rpartition(':')[2]}"  # without the password
        raise Unreachable(
            f"the proxy {shown} named in {variable} does not answer ({err}); correct or "
            f"unset {variable}, or add {split_address(address)[0]} to no_proxy"
        ) from err
    lines = [f"CONNECT {address} HTTP/1.1", f"Host: {address}"]
    if parts.username is not None:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        lines.append(f"Proxy-Authorization: Basic {base64.b64encode(user).decode()}")
    try:
        raw.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        answer = b""
        while b"\r\n\r\n" not in answer and len(answer) < 8192:
            piece = raw.recv(1)  # byte by byte: what follows the blank line is TLS
            if not piece:
                break
            answer += piece
    except OSError as err:
        raw.close()
        raise Unreachable(f"the proxy {host}:{port} named in {variable} hung up: {err}") from err
    status = answer.split(b"\r\n", 1)[0].decode("ascii", "replace")
    if status.split(" ")[1:2] != ["200"]:
        raw.close()
        raise Unreachable(
            f"the proxy {host}:{port} named in {variable} refuses the way to {address} "
            f"({status[:80]!r}); ask IT to allow CONNECT to it, or add it to no_proxy"
        )
    return raw


def _context(tls: ClientTls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=tls.trusted.decode("ascii"))
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # as gRPC does
    context.set_alpn_protocols(["h2"])
    # The standard library loads a key from a file only: a private one, for a moment.
    with tempfile.TemporaryDirectory(prefix="primia-") as folder:
        chain = Path(folder) / "chain.pem"
        chain.touch(mode=0o600)
        chain.write_bytes(tls.key + tls.certificate)
        context.load_cert_chain(chain)
    return context


def _first_bytes(address: str, tls: ClientTls, link: ssl.SSLSocket) -> PrimiaError | None:
    """In TLS 1.3 our side of the handshake ends before the server has judged our certificate."""
    served = link.getpeercert(binary_form=True) or b""
    who = CALLED[tls.server]
    link.settimeout(_FIRST_BYTES_S)
    try:
        answered = link.recv(1) != b""  # an HTTP/2 server speaks first
    except TimeoutError:
        return Unreachable(f"{address} takes connections but does not answer; try again later")
    except OSError:  # an alert (ssl.SSLError) or a reset
        answered = False
    if answered:
        return None
    if identity_of(from_pem(tls.certificate)).role is Role.ENROL:
        return IdentityError(
            f"the {who} at {address} does not know this invitation: it was withdrawn or replaced "
            f"by a newer one, has expired by the {who}'s clock, or belongs to another {who}; ask "
            "for a new one"
        )
    return _refused(address, tls, served)


def _refused(address: str, tls: ClientTls, served: bytes) -> IdentityError:
    """gRPC's server hangs up without an alert: what we know ourselves has to give the reason."""
    own, roots = from_pem(tls.certificate), roots_from_pem(tls.authority)
    who = CALLED[tls.server]
    try:
        check_validity(own, "our certificate", now=datetime.now(UTC))
    except IdentityError as err:
        return err
    shown = x509.load_der_x509_certificate(served)
    of_older = is_issued_by(own, roots[0]) and not is_issued_by(own, roots[-1])
    if of_older and is_issued_by(shown, roots[-1]):
        return IdentityError(
            f"the {who} at {address} has retired the authority that issued our certificate; "
            "ask for a new invitation and enrol with --again"
        )
    return IdentityError(
        f"the {who} at {address} refused our certificate in the handshake: it has another "
        "authority, or its clock says that the certificate is out of date; compare clocks, else "
        "enrol again"
    )


def _server_refused(address: str, tls: ClientTls, err: ssl.SSLCertVerificationError) -> PrimiaError:
    who = CALLED[tls.server]
    if err.verify_code == _EXPIRED:
        return IdentityError(
            f"the {who}'s certificate at {address} has expired by this machine's clock; "
            f"check the clock, else the {who}'s operator must renew it"
        )
    if err.verify_code == _NOT_YET:
        return IdentityError(
            f"the {who}'s certificate at {address} is not valid yet by this machine's "
            "clock; check the clock of this machine"
        )
    if err.verify_code == _WRONG_NAME:
        return IdentityError(
            f"the server at {address} is no {who}: its certificate is not for that role; "
            "check the address"
        )
    if tls.pinned:
        return IdentityError(
            f"the {who} at {address} shows another certificate than the one pinned here; it has "
            f"a new one, or somebody poses as it: ask the {who}'s operator by telephone for its "
            "fingerprint, then trust that one"
        )
    if _claims_our_study(address, tls):
        return IdentityError(
            f"the {who} at {address} shows a certificate of a newer authority than the one "
            "trusted here: its authority was replaced while we were away, or "
            f"somebody poses as the {who}; ask its operator by telephone, then enrol with "
            "--again"
        )
    return IdentityError(
        f"the server at {address} shows a certificate of a foreign authority "
        f"({err.verify_message}); wrong address, another {who}, or a proxy that opens TLS "
        "(ask IT to exempt this address)"
    )


def _claims_our_study(address: str, tls: ClientTls) -> bool:
    """Whether the server's certificate names an authority like ours; that alone proves nothing."""
    try:
        served = from_pem(served_certificate(address, server=tls.server))
        has_its_role = identity_of(served).role is tls.server
    except PrimiaError:
        return False
    return has_its_role and served.issuer == roots_from_pem(tls.authority)[-1].subject


def _no_tls(address: str, err: ssl.SSLError, server: Role) -> Unreachable:
    reason = err.reason or str(err)
    if reason in {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"}:
        return Unreachable(
            f"{address} does not speak TLS (a plaintext server?); check the address and port"
        )
    return Unreachable(
        f"the TLS handshake with {address} failed ({reason}); is it a primia {CALLED[server]}, and "
        "does no middlebox stand between?"
    )
