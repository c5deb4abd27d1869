"""A provider on loopback in the test's own event loop, and endpoints that lead to it."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from sidestream.core.snapshot import Endpoint
from sidestream.demo.certificates import Authority, Certificate

NAME = "provider.test"
OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
REQUEST = b"POST / HTTP/1.1\r\nHost: provider.test\r\n\r\n"

type Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Provider:
    """`names`: what each connection asked for by SNI. `writers`: of the connections, in order."""

    authority: Authority
    port: int = 0
    names: list[str | None] = field(default_factory=list)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    def endpoint(self, name: str = NAME, *, ca_pem: str | None = "", tls: bool = True) -> Endpoint:
        """Return where this is. `ca_pem`: its own CA's unless it says otherwise."""
        own = self.authority.ca_file.read_text() if ca_pem == "" else ca_pem
        return Endpoint("127.0.0.1", self.port, name, tls=tls, server_name=name, ca_pem=own)


async def answer_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer each request, as long as any come."""
    with contextlib.suppress(asyncio.IncompleteReadError):
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(OK)


@contextlib.asynccontextmanager
async def serving(
    authority: Authority,
    certificate: Certificate | None,
    talk: Talk = answer_all,
    *,
    version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
) -> AsyncIterator[Provider]:
    """Run a provider that does `talk` on every connection, up to `version` of TLS."""
    provider = Provider(authority)
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.maximum_version = version
        context.load_cert_chain(certificate.cert_file, certificate.key_file)
        context.sni_callback = lambda _, name, __: provider.names.append(name)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        provider.writers.append(writer)
        with contextlib.suppress(ConnectionError):
            await talk(reader, writer)
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
    provider.port = server.sockets[0].getsockname()[1]
    try:
        yield provider
    finally:
        server.close()
        for writer in provider.writers:
            writer.transport.abort()


async def until(condition: Callable[[], object]) -> None:
    """Wait until `condition` holds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 it may be anything
            await asyncio.sleep(0.005)
