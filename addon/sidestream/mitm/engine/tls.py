"""
TLS to a provider: always verified, against its own CA or the system's.

mitmproxy's options can only replace the system's CAs, for every server at once, and can turn
verification off. A key goes over these connections, so neither applies to them.
"""

import functools
import ipaddress
import ssl

import certifi
from cryptography import x509
from mitmproxy.addons.tlsconfig import DEFAULT_HOSTFLAGS
from OpenSSL import SSL, crypto

from sidestream.core.snapshot import Endpoint


def provider_connection(endpoint: Endpoint, extra_ca_pem: str) -> SSL.Connection:
    """Return a client connection that accepts only the certificate of `endpoint`."""
    conn = SSL.Connection(_context(endpoint.ca_pem, extra_ca_pem))
    name = endpoint.server_name
    param = SSL._lib.SSL_get0_param(conn._ssl)
    SSL._lib.X509_VERIFY_PARAM_set_hostflags(param, DEFAULT_HOSTFLAGS)
    try:
        address = ipaddress.ip_address(name).packed
    except ValueError:
        conn.set_tlsext_host_name(name.encode("ascii"))
        ok = SSL._lib.X509_VERIFY_PARAM_set1_host(param, name.encode("ascii"), len(name))
    else:
        ok = SSL._lib.X509_VERIFY_PARAM_set1_ip(param, address, len(address))
    SSL._openssl_assert(ok == 1)
    conn.set_alpn_protos([b"http/1.1"])
    conn.set_connect_state()
    return conn


def distrusting_connection() -> SSL.Connection:
    """Return a client connection that accepts no certificate."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_verify(SSL.VERIFY_PEER)
    conn = SSL.Connection(context)
    conn.set_connect_state()
    return conn


@functools.lru_cache(maxsize=64)
def _context(ca_pem: str | None, extra_ca_pem: str) -> SSL.Context:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_verify(SSL.VERIFY_PEER)
    if ca_pem is None:
        paths = ssl.get_default_verify_paths()
        context.load_verify_locations(paths.cafile or certifi.where(), paths.capath)
    store = context.get_cert_store()
    assert store is not None
    if own := ca_pem or extra_ca_pem:
        for certificate in x509.load_pem_x509_certificates(own.encode()):
            store.add_cert(crypto.X509.from_cryptography(certificate))
    return context
