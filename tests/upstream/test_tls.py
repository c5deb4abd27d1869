"""TLS to providers: verified, whatever else is asked for."""

import pytest

from sidestream.core.snapshot import Endpoint
from sidestream.upstream.connection import AttemptFailed
from sidestream.upstream.pool import Pool
from sidestream.upstream.tls import Contexts
from tests.upstream.provider import NAME, serving


@pytest.fixture
async def provider(authority, certificate):
    async with serving(authority, certificate) as provider:
        yield provider


async def why_not(pool, endpoint):
    """Return why there is no connection to `endpoint`."""
    with pytest.raises(AttemptFailed) as failed:
        await pool.open(endpoint)
    assert failed.value.failure.kind == "connect-failure"
    return failed.value.failure.message


async def test_the_name_that_is_verified_is_the_one_that_is_asked_for(provider):
    connection = await Pool().open(provider.endpoint("another.test"))

    assert provider.names == ["another.test"]
    connection.abort()


async def test_a_certificate_for_another_name_is_refused(provider):
    message = await why_not(Pool(), provider.endpoint("wrong.test"))

    assert message.startswith("its certificate is not accepted: Hostname mismatch")
    assert provider.names == ["wrong.test"]


async def test_a_ca_that_is_not_known_is_refused(provider, another_authority):
    message = await why_not(Pool(), provider.endpoint(ca_pem=None))
    by_another = await why_not(Pool(), provider.endpoint(ca_pem=another_authority.ca_file.read_text()))

    assert message.startswith("its certificate is not accepted")
    assert by_another.startswith("its certificate is not accepted")


async def test_a_ca_that_is_given_for_all_is_trusted_besides_the_systems(provider, authority):
    pool = Pool(authority.ca_file.read_text())

    connection = await pool.open(provider.endpoint(ca_pem=None))

    known = pool._contexts.of(provider.endpoint(ca_pem=None)).cert_store_stats()
    assert known["x509_ca"] > 1
    connection.abort()


async def test_an_endpoints_own_ca_replaces_all_others(provider, authority, another_authority):
    pool = Pool(authority.ca_file.read_text())
    endpoint = provider.endpoint(ca_pem=another_authority.ca_file.read_text())

    message = await why_not(pool, endpoint)

    assert message.startswith("its certificate is not accepted")
    assert pool._contexts.of(endpoint).cert_store_stats()["x509_ca"] == 1


async def test_a_session_that_was_verified_is_no_pass_for_another_ca(provider, authority, another_authority):
    pool = Pool(authority.ca_file.read_text())
    trusted = await pool.open(provider.endpoint())
    pool._contexts.remember(trusted.endpoint, trusted.tls)

    await why_not(pool, provider.endpoint(ca_pem=another_authority.ca_file.read_text()))

    trusted.abort()


class Handshaken:
    """A connection as far as its session goes. `asked`: how often it was asked for."""

    session = property(lambda self: setattr(self, "asked", self.asked + 1) or object())

    def __init__(self, context, *, reused=False):
        self.context, self.session_reused, self.asked = context, reused, 0


@pytest.mark.parametrize(("reused", "asked"), [(True, 0), (False, 1)])
def test_a_session_is_asked_for_only_where_none_was_taken_up_and_not_at_once_again(reused, asked):
    endpoint = Endpoint("a.test", 443, "a.test", tls=True, server_name="a.test")
    contexts = Contexts()
    connections = [Handshaken(contexts.of(endpoint), reused=reused) for _ in range(3)]

    for connection in connections:
        contexts.remember(endpoint, connection)

    assert sum(connection.asked for connection in connections) == asked


async def test_an_environment_that_would_turn_it_off_does_not(provider, monkeypatch):
    monkeypatch.setenv("PYTHONHTTPSVERIFY", "0")
    monkeypatch.setenv("SSL_CERT_FILE", str(provider.authority.ca_file))

    # SSL_CERT_FILE names the system's CAs, as it does for every program; the name is verified nevertheless.
    await why_not(Pool(), provider.endpoint("wrong.test", ca_pem=None))


async def test_what_is_no_tls_is_refused(authority):
    async def talk(reader, writer):
        writer.write(b"220 this is no TLS\r\n")
        await reader.read()

    async with serving(authority, None, talk) as provider:
        assert (await why_not(Pool(), provider.endpoint())).startswith("TLS failed: ")


async def test_only_http1_is_offered(authority, certificate):
    async with serving(authority, certificate) as provider:
        connection = await Pool().open(provider.endpoint(NAME))

        assert connection.tls.selected_alpn_protocol() in (None, "http/1.1")
        connection.abort()
