"""TLS for conversations: the first bytes of clients, and a server that repeats what it hears."""

import base64
import contextlib
import hashlib
import socket
import ssl
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from sidestream.control import issuing
from sidestream.demo import certificates
from sidestream.demo.certificates import Authority, Certificate


def client_hello(server_name: str | None, alpn: Sequence[str] = ()) -> bytes:
    """Return the first bytes of a TLS client."""
    context = ssl.create_default_context()
    context.check_hostname = server_name is not None
    context.set_alpn_protocols(alpn)
    sent = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=server_name).do_handshake()
    return sent.read()


def der(certificate: Certificate) -> bytes:
    return ssl.PEM_cert_to_DER_cert(certificate.cert_file.read_text())


def public_key_pin(certificate: Certificate) -> str:
    """Return the key of `certificate` as curl and HPKP (RFC 7469) pin it."""
    key = x509.load_pem_x509_certificate(certificate.cert_file.read_bytes()).public_key()
    info = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(info).digest()).decode()


def client_certificate(authority: Authority) -> Certificate:
    """Issue a certificate that a client may present; `authority` itself issues those of servers."""
    key = ec.generate_private_key(ec.SECP256R1())
    purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    issuer_key_id = authority._certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    certificate = (
        issuing._builder(issuing._named("an app"), authority._certificate.subject, key, certificates._validity())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(purpose, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_key_id),
            critical=False,
        )
        .sign(authority._key, hashes.SHA256())
    )
    return authority._write(certificate, key)


@contextlib.contextmanager
def echoing(listener: socket.socket, certificate: Certificate) -> Iterator[Future[str | None]]:
    """Take one TLS connection and repeat what it says; the result is the name it gave."""
    named = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.cert_file, certificate.key_file)
    context.sni_callback = lambda _, server_name, __: named.append(server_name)

    def serve() -> str | None:
        with context.wrap_socket(listener.accept()[0], server_side=True) as connection:
            connection.sendall(connection.recv(100))
        return named[0]

    with ThreadPoolExecutor(1) as thread:
        yield thread.submit(serve)
