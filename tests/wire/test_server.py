"""Who is let in, who is not, and what garbage does."""

from __future__ import annotations

import os
import socket
import threading
from datetime import timedelta

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID

from primia.errors import IdentityError, StateError
from primia.identity.authority import common_name, key_usage
from primia.identity.certificate import to_pem
from primia.identity.keyfile import key_to_pem, new_key
from primia.types import SiteId
from primia.wire import servicer
from primia.wire.channel import ClientTls, connect
from primia.wire.client import enrol
from primia.wire.handler import Attendance
from primia.wire.server import serve
from primia.wire.v1 import federation_pb2 as pb
from primia.wire.v1 import federation_pb2_grpc


def raw_call(world, tls, method="GetStudy", request=None):
    """A caller that checks nothing about itself."""
    channel = connect(world.address, tls)
    try:
        stub = federation_pb2_grpc.FederationStub(channel)
        return getattr(stub, method)(request or pb.GetStudyRequest(), timeout=10)
    finally:
        channel.close()


def test_every_method_of_the_service_is_guarded_by_a_role():
    """An unguarded method would still have the generated base class's body or two arguments."""
    for method in pb.DESCRIPTOR.services_by_name["Federation"].methods:
        mine = servicer.FederationServicer.__dict__[method.name]
        assert mine.__wrapped__ is not None, method.name


def test_enrolment_end_to_end_and_the_new_certificate_works(world):
    invitation = world.invite()
    key = new_key()
    enrolled = enrol(invitation, key)
    assert enrolled.authority == world.authority.certificate
    tls = ClientTls(to_pem(enrolled.authority), to_pem(enrolled.certificate), key_to_pem(key))
    assert world.client(tls).get_study().plan == b"plan"


def test_an_invitation_made_while_the_server_runs_works_without_a_restart(world):
    world.client().get_study()
    enrol(world.invite(SiteId("berlin")), new_key())


def test_a_used_invitation_is_refused_by_name_but_its_own_repeat_is_answered(world):
    """The repeat is that of a site whose first reply was lost: same key, same certificate."""
    invitation = world.invite()
    key = new_key()
    first = enrol(invitation, key)
    assert enrol(invitation, key) == first
    with pytest.raises(IdentityError, match="already used"):
        enrol(invitation, new_key())


def test_an_unknown_invitation_is_refused_with_a_reason(world):
    invitation = world.invite()
    world.anchors = ()
    with pytest.raises(IdentityError, match="does not know this invitation"):
        enrol(invitation, new_key())


def test_an_expired_invitation_is_refused_before_anything_is_dialled(world):
    invitation = world.invite()
    world.server.stop(0)
    with pytest.raises(IdentityError, match="invitation expired"):
        enrol(invitation, new_key(), now=lambda: world.now + timedelta(days=3))


def test_an_impostor_at_the_address_gets_nothing_stored(world, tmp_path):
    """Another coordinator, with its own authority, that lets the invitation in."""
    other = type(world)(tmp_path / "other")
    try:
        invitation = world.invite(address=other.address)
        other.anchors = world.anchors
        other.handler.invited = dict(world.handler.invited)
        with pytest.raises(IdentityError, match="another authority"):
            enrol(invitation, new_key())
    finally:
        other.close()


def test_an_invitation_opens_no_other_call(world):
    invitation = world.invite()
    tls = ClientTls(
        world.authority_pem, to_pem(invitation.certificate()), key_to_pem(invitation.key())
    )
    with pytest.raises(grpc.RpcError) as caught:
        raw_call(world, tls)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "may not make this call" in caught.value.details()


def test_a_site_cannot_enrol(world):
    with pytest.raises(grpc.RpcError) as caught:
        raw_call(world, world.site_tls(), "Enrol", pb.EnrolRequest(csr=b"x"))
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("anchor_is_ca", [True, False])
def test_a_certificate_signed_with_an_enrolment_key_is_no_site(world, anchor_is_ca):
    """With a CA anchor the handshake itself lets it in; the check of the issuer must not."""
    key, site_key = new_key(), new_key()
    name = common_name("enrolment")

    def make(issuer_key, subject, owner, uri, ca):
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(name)
            .public_key(owner.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(world.now - timedelta(days=1))
            .not_valid_after(world.now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(key_usage(signs_certificates=ca), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False
            )
            .sign(issuer_key, hashes.SHA256())
        )

    anchor = make(key, name, key, "primia://enrol/munich", anchor_is_ca)
    world.anchors = (to_pem(anchor),)
    forged = make(key, common_name("x"), site_key, "primia://site/munich", False)
    tls = ClientTls(world.authority_pem, to_pem(forged) + to_pem(anchor), key_to_pem(site_key))
    with pytest.raises(grpc.RpcError) as caught:
        raw_call(world, tls)
    if anchor_is_ca:
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "not issued by the authority trusted here" in caught.value.details()
    else:
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_struck_site_is_refused_at_its_next_call_on_the_open_channel(world):
    client = world.client()
    client.get_study()
    world.handler.struck.add("munich")
    with pytest.raises(IdentityError, match="site munich was struck from the roster"):
        client.get_study()


def test_a_certificate_that_expires_on_an_open_channel_is_refused(world):
    clock = [world.now]
    server = world.serve(now=lambda: clock[0])
    client = world.client(address=server.address)
    client.get_study()
    clock[0] += timedelta(days=31)
    with pytest.raises(IdentityError, match="expired"):
        client.get_study()


def test_a_site_cannot_play_the_coordinator(world):
    """Its certificate is of the right authority but not for the coordinator's name."""
    berlin = world.site_tls(SiteId("berlin"))
    original = world.server_tls()

    def impostor():
        return type(original)(
            certificate=berlin.certificate, key=berlin.key, authority=world.authority_pem
        )

    server = world.serve(tls=impostor)
    with pytest.raises(IdentityError, match=r"no coordinator|foreign authority"):
        world.client(address=server.address).get_study()


def test_without_a_client_certificate_there_is_no_call(world):
    credentials = grpc.ssl_channel_credentials(world.authority_pem)
    options = [("grpc.ssl_target_name_override", "coordinator.primia.internal")]
    with grpc.secure_channel(world.address, credentials, options=options) as channel:
        stub = federation_pb2_grpc.FederationStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.GetStudy(pb.GetStudyRequest(), timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_message_of_200_mb_is_refused_and_the_service_goes_on(world):
    tls = world.site_tls()
    channel = grpc.secure_channel(
        world.address,
        grpc.ssl_channel_credentials(tls.authority, tls.key, tls.certificate),
        options=[
            ("grpc.ssl_target_name_override", "coordinator.primia.internal"),
            ("grpc.max_send_message_length", -1),
        ],
    )
    with channel:
        stub = federation_pb2_grpc.FederationStub(channel)
        message = pb.CountersignRequest(heads=pb.SignedHeads(certificate=bytes(200 << 20)))
        with pytest.raises(grpc.RpcError) as caught:
            stub.Countersign(message, timeout=60)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert world.client().get_study().plan == b"plan"


def test_garbage_on_the_port_is_ignored_and_others_are_served(world):
    client = world.client()
    host, port = "127.0.0.1", world.server.port
    for garbage in (os.urandom(4096), b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01"):
        with socket.create_connection((host, port)) as link:
            link.sendall(garbage)
        assert client.get_study().plan == b"plan"


def test_the_same_port_twice_is_refused_by_name(world):
    with pytest.raises(StateError, match=f"cannot listen at {world.address}: the port is in use"):
        serve(world.handler, listen=world.address, tls=world.server_tls)


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [pb.UploadFrame(data=b"x")],
        [pb.UploadFrame(header=pb.UploadHeader())],
    ],
)
def test_an_upload_that_does_not_begin_well_is_invalid(world, frames):
    with pytest.raises(grpc.RpcError) as caught:
        raw_call(world, world.site_tls(), "Upload", iter(frames))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_forty_sites_can_wait_at_once(world):
    server = world.serve(max_sites=40)
    clients = [
        world.client(world.site_tls(SiteId(f"site-{i}")), address=server.address) for i in range(40)
    ]
    got = []

    def wait(client):
        got.append(client.attend(after=0))

    threads = [threading.Thread(target=wait, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    world.handler.announce(Attendance(1, study_over="done"))
    for thread in threads:
        thread.join(timeout=20)
    assert len(got) == 40
