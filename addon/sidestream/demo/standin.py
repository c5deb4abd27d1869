"""
The stand-in: a server on loopback that answers like an LLM provider, and fails like one.

Speaks the OpenAI API over TLS, or plain HTTP, and remembers every request. It runs beside a
test (`running`) or as a process of its own (`python -m sidestream.demo.standin`). How one
request is answered is up to its `x-standin` header (see `behaviour`).
"""

import argparse
import asyncio
import contextlib
import signal
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Self

from sidestream.demo import answers, behaviour, delivery
from sidestream.demo.behaviour import Behaviour, SettingsError
from sidestream.demo.certificates import Certificate
from sidestream.demo.connection import Connection
from sidestream.demo.received import Received

__all__ = ["Received", "StandIn", "main", "running"]

BACKLOG = 1024
"""How many connections may wait to be accepted."""

TLS_GOODBYE_SECONDS = 1.0
"""How long a closed TLS connection stays, for the client to say goodbye too."""


class StandIn:
    """
    One provider. All members may be used from any thread while it runs.

    `host` and `port` are where it listens, `name` is what it calls itself in answers.
    """

    def __init__(
        self,
        name: str,
        certificate: Certificate | None = None,
        *,
        api_keys: Collection[str] | None = None,
        on_request: Callable[[Received], None] | None = None,
    ) -> None:
        """
        Describe the provider; `serve` starts it.

        `certificate`: None speaks plain HTTP. `api_keys`: None accepts requests without a key.
        `on_request` is called with each request before its answer begins, in the server's thread.
        """
        self.name = name
        self.host = ""
        self.port = 0
        self._tls = certificate is not None
        self._server_names: weakref.WeakKeyDictionary[ssl.SSLObject, str] = weakref.WeakKeyDictionary()
        self._context = self._tls_context(certificate) if certificate else None
        self._api_keys = None if api_keys is None else frozenset(api_keys)
        self._on_request = on_request
        self._changed = threading.Condition()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._requests: list[Received] = []
        self._answered = 0
        self._accepted = 0
        self._aborted = 0
        self._open: dict[int, Connection] = {}
        self._default = Behaviour()
        self._default_times: int | None = None

    @property
    def url(self) -> str:
        """Where it listens, without a path."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self._tls else 'http'}://{host}:{self.port}"

    @property
    def requests(self) -> list[Received]:
        """What was received since the start or the last `clear`, in order."""
        with self._changed:
            return list(self._requests)

    @property
    def connections_open(self) -> int:
        """How many clients are connected (and past the TLS handshake)."""
        with self._changed:
            return len(self._open)

    @property
    def aborted(self) -> int:
        """How many clients left before their answer was complete."""
        with self._changed:
            return self._aborted

    def clear(self) -> None:
        """Forget requests and aborted answers. What `behave` set stays."""
        with self._changed:
            self._requests.clear()
            self._aborted = 0

    def behave(self, settings: str = "", *, times: int | None = None) -> None:
        """
        Set the behaviour for requests that ask for none, `x-standin` being laid over it.

        With `times` it holds for that many requests, good health after. No settings: good
        health at once.

        Raises:
            SettingsError: a setting is unknown or malformed.
        """
        parsed = behaviour.parse(settings)
        with self._changed:
            self._default, self._default_times = parsed, times

    def hang_up(self) -> None:
        """Close every open connection, as a provider does that restarts; idle ones too."""
        with self._changed:
            loop, connections = self._loop, list(self._open.values())
        if loop is not None:
            for connection in connections:
                loop.call_soon_threadsafe(connection.abort)

    def wait_for(self, condition: Callable[[Self], bool], timeout: float = 5.0) -> None:
        """
        Wait until `condition` holds of this stand-in; it is looked at after every change.

        Raises:
            TimeoutError: it did not within `timeout` seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: condition(self), timeout):
                seen = [f"{r.method} {r.path}" for r in self._requests]
                raise TimeoutError(
                    f"stand-in {self.name}: condition not met in {timeout} s; requests {seen}, "
                    f"connections open {len(self._open)}, aborted {self._aborted}"
                )

    async def serve(self, host: str, port: int, stopping: asyncio.Event, listening: Callable[[], None]) -> None:
        """
        Serve until `stopping`; `listening` is called when clients can connect.

        Raises:
            OSError: `host` and `port` cannot be bound.
        """
        server = await asyncio.start_server(
            self._accept,
            host,
            port,
            backlog=BACKLOG,
            ssl=self._context,
            ssl_shutdown_timeout=TLS_GOODBYE_SECONDS if self._context else None,
        )
        self.host, self.port = server.sockets[0].getsockname()[:2]
        self._loop = asyncio.get_running_loop()
        listening()
        try:
            await stopping.wait()
        finally:
            server.close()
            self.hang_up()

    def reply(self, request: Received) -> Iterable[delivery.Step]:
        """Record a request and decide how to answer it (for `connection`)."""
        with self._changed:
            self._answered += 1
            number, default = self._answered, self._take_default()
            self._requests.append(request)
            self._changed.notify_all()
        if self._on_request:
            self._on_request(request)
        headers = [("server", "standin"), ("x-request-id", f"req_standin_{number}")]
        if (tag := request.header("x-request-tag")) is not None:
            headers.append(("x-request-tag", tag))
        try:
            wanted = behaviour.parse(request.header(behaviour.HEADER) or "", default)
        except SettingsError as e:
            refusal = answers.error(400, f"{behaviour.HEADER}: {e}", code="unknown_setting")
            return delivery.steps(refusal, Behaviour(), tuple(headers))
        answer = answers.answer(
            request,
            wanted,
            name=self.name,
            api_keys=self._api_keys,
            number=number,
            created=int(time.time()),
        )
        return delivery.steps(answer, wanted, tuple(headers))

    def client_left(self) -> None:
        """Count an answer that nobody waited for (for `connection`)."""
        with self._changed:
            self._aborted += 1
            self._changed.notify_all()

    def _take_default(self) -> Behaviour:
        if self._default_times is None:
            return self._default
        if self._default_times == 0:
            return Behaviour()
        self._default_times -= 1
        return self._default

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tls = writer.get_extra_info("ssl_object")
        server_name = self._server_names.get(tls) if tls is not None else None
        with self._changed:
            self._accepted += 1
            number = self._accepted
            connection = Connection(reader, writer, self, number=number, server_name=server_name)
            self._open[number] = connection
            self._changed.notify_all()
        try:
            await connection.converse()
        finally:
            with self._changed:
                del self._open[number]
                self._changed.notify_all()

    def _tls_context(self, certificate: Certificate) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate.cert_file, certificate.key_file)
        context.set_alpn_protocols(["http/1.1"])

        def remember(tls: ssl.SSLObject, server_name: str | None, _: ssl.SSLContext) -> None:
            if server_name is not None:
                self._server_names[tls] = server_name

        context.sni_callback = remember
        return context


@contextlib.contextmanager
def running(
    certificate: Certificate | None = None,
    *,
    name: str = "dashscope",
    host: str = "127.0.0.1",
    port: int = 0,
    api_keys: Collection[str] | None = None,
) -> Iterator[StandIn]:
    """
    Run a stand-in in a thread of its own while the block runs; port 0 takes a free one.

    Without `certificate` it speaks plain HTTP. With `api_keys` it answers 401 to a request that
    has none of them.

    Raises:
        OSError: `host` and `port` cannot be bound.
    """
    standin = StandIn(name, certificate, api_keys=api_keys)
    ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        stopping = asyncio.Event()
        here = asyncio.get_running_loop()
        await standin.serve(host, port, stopping, lambda: ready.set_result((here, stopping)))

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as e:
            if ready.done():
                raise
            ready.set_exception(e)

    thread = threading.Thread(target=run, name=f"stand-in {name}", daemon=True)
    thread.start()
    loop, stopping = ready.result()
    try:
        yield standin
    finally:
        loop.call_soon_threadsafe(stopping.set)
        thread.join()


def main(arguments: list[str] | None = None) -> None:
    """Run a stand-in in the foreground until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m sidestream.demo.standin", description=main.__doc__)
    parser.add_argument("--listen", metavar="HOST:PORT", default="127.0.0.1:0")
    parser.add_argument("--cert", type=Path, metavar="FILE", help="PEM; without it, plain HTTP")
    parser.add_argument("--key", type=Path, metavar="FILE", help="PEM, the certificate's key")
    parser.add_argument("--name", default="dashscope", help="what it calls itself in answers")
    parser.add_argument("--api-key", action="append", metavar="KEY", help="accept only these")
    parser.add_argument("--journal", type=Path, metavar="FILE", help="append requests to it as JSON")
    options = parser.parse_args(arguments)
    if (options.cert is None) != (options.key is None):
        parser.error("--cert and --key go together")
    host, _, port = options.listen.rpartition(":")
    if not port.isdigit():
        parser.error(f"--listen: HOST:PORT expected, got {options.listen!r}")
    certificate = Certificate(options.cert, options.key) if options.cert else None
    with contextlib.ExitStack() as stack:
        on_request = None
        if options.journal:
            journal = stack.enter_context(options.journal.open("a", encoding="utf-8", buffering=1))
            on_request = lambda request: print(request.to_line(), file=journal)  # noqa: E731
        standin = StandIn(options.name, certificate, api_keys=options.api_key, on_request=on_request)
        asyncio.run(_serve_until_signal(standin, host.strip("[]") or "127.0.0.1", int(port)))


async def _serve_until_signal(standin: StandIn, host: str, port: int) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)

    def announce() -> None:
        print(f"{standin.name} listening on {standin.url}", flush=True)

    await standin.serve(host, port, stopping, announce)


if __name__ == "__main__":
    main()
