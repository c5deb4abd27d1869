"""TLS for conversations: the first bytes of clients, and a server that repeats what it hears."""

import contextlib
import socket
import ssl
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from sidestream.demo.certificates import Certificate


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
