"""TLS to a provider: whose certificate is taken, against a stand-in."""

import contextlib
import socket

import pytest
from OpenSSL import SSL

from sidestream.core.snapshot import Endpoint
from sidestream.demo.certificates import Authority
from sidestream.demo.standin import running
from sidestream.mitm.engine.tls import provider_connection


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority.create(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def ca_pem(authority):
    return authority.ca_file.read_text()


@pytest.fixture(scope="module")
def other_ca_pem(tmp_path_factory):
    return Authority.create(tmp_path_factory.mktemp("other-ca")).ca_file.read_text()


@pytest.fixture(scope="module")
def standin(authority):
    with running(authority.issue("a.example", "*.b.example", "127.0.0.1", "::1")) as standin:
        yield standin


def shake_hands(standin, name, *, ca_pem=None, extra_ca_pem=""):
    """Do a handshake; return the connection once it is established."""
    endpoint = Endpoint(standin.host, standin.port, name, server_name=name, ca_pem=ca_pem)
    conn = provider_connection(endpoint, extra_ca_pem)
    with socket.create_connection((standin.host, standin.port), timeout=20) as server:
        while True:
            try:
                conn.do_handshake()
            except SSL.WantReadError:
                send_all(conn, server)
                conn.bio_write(server.recv(65536))
            else:
                send_all(conn, server)
                return conn


def send_all(conn, server):
    with contextlib.suppress(SSL.WantReadError):
        while True:
            server.sendall(conn.bio_read(65536))


@pytest.mark.parametrize("name", ["a.example", "A.example", "c.b.example", "127.0.0.1", "::1"])
def test_a_certificate_for_the_name_is_taken(standin, ca_pem, name):
    conn = shake_hands(standin, name, ca_pem=ca_pem)

    assert conn.get_alpn_proto_negotiated() == b"http/1.1"


@pytest.mark.parametrize("name", ["other.example", "c.d.b.example", "b.example", "127.0.0.2", "::2"])
def test_a_certificate_for_another_name_is_refused(standin, ca_pem, name):
    with pytest.raises(SSL.Error, match="certificate verify failed"):
        shake_hands(standin, name, ca_pem=ca_pem)


def test_a_certificate_of_an_unknown_ca_is_refused(standin, other_ca_pem):
    for cas in ({"ca_pem": other_ca_pem}, {"extra_ca_pem": other_ca_pem}, {}):
        with pytest.raises(SSL.Error, match="certificate verify failed"):
            shake_hands(standin, "a.example", **cas)


def test_a_ca_can_be_added_for_all_providers(standin, ca_pem):
    assert shake_hands(standin, "a.example", extra_ca_pem=ca_pem)


def test_a_providers_own_ca_is_the_only_one_it_may_have(standin, ca_pem, other_ca_pem):
    with pytest.raises(SSL.Error, match="certificate verify failed"):
        shake_hands(standin, "a.example", ca_pem=other_ca_pem, extra_ca_pem=ca_pem)


def test_several_cas_may_stand_in_one_text(standin, ca_pem, other_ca_pem):
    assert shake_hands(standin, "a.example", ca_pem=other_ca_pem + ca_pem)


def test_a_name_is_told_to_the_server_and_an_address_is_not(standin, ca_pem):
    assert shake_hands(standin, "a.example", ca_pem=ca_pem).get_servername() == b"a.example"
    assert shake_hands(standin, "127.0.0.1", ca_pem=ca_pem).get_servername() is None
