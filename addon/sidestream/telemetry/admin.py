"""
The admin endpoint: how the proxy is, to be read over HTTP.

It only answers GET, changes nothing and shows no key. A page on the web must not read it through
a browser on the same machine, by a name that was pointed here: so only an address, or `localhost`,
is taken for its host.
"""

import asyncio
import ipaddress
import json
import logging
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets, bind_unix_socket
from tornado.web import Application, RequestHandler

logger = logging.getLogger(__name__)

JSON_TYPE = "application/json"
TEXT_TYPE = "text/plain; charset=utf-8"
MAX_BODY_BYTES = 1024
"""How long the body of a request may be. None has any, and without a bound a hundred megabytes would be held."""
IDLE_SECONDS = 60.0
"""How long a connection may be silent between requests, and take to ask."""
UNIX = "unix:"
"""What an address begins with that is a socket file, as workers have it."""


@dataclass(frozen=True, slots=True)
class Page:
    """An answer. `content_type` as in HTTP."""

    body: bytes
    content_type: str = TEXT_TYPE
    status: int = 200

    @classmethod
    def of_json(cls, value: object) -> "Page":
        """Return `value` as JSON, indented for people."""
        return cls(json.dumps(value, indent=2, default=str).encode() + b"\n", JSON_TYPE)

    @classmethod
    def of_readiness(cls, reason: str | None) -> "Page":
        """Return 200, or 503 with why it is not ready."""
        return cls(b"ready\n") if reason is None else cls(f"not ready: {reason}\n".encode(), status=503)


type Pages = Mapping[str, Callable[[], Page]]
"""Path → what makes its page. It is called in a thread."""


class AdminError(ValueError):
    """The endpoint can't be had; the message says why and what to do."""


class AdminEndpoint:
    """
    Serves `pages` at `address`: HOST:PORT, or ``unix:`` and a path.

    `may_miss`: nobody asked for this address, so if it is taken the proxy runs without.
    """

    def __init__(self, address: str, pages: Pages, *, may_miss: bool = False) -> None:
        self._address = address
        self._pages = pages
        self._may_miss = may_miss
        self._server: HTTPServer | None = None

    def open(self) -> None:
        """
        Listen.

        Raises:
            AdminError: the address can't be listened at.
        """
        try:
            sockets = _listen(self._address)
        except OSError as e:
            message = f"the admin endpoint can't listen at {self._address}: {e.strerror or e}; name another, or off"
            if not self._may_miss:
                raise AdminError(message) from e
            logger.warning("%s", message)
            return
        handlers = [(path, _Handler, {"make": make}) for path, make in self._pages.items()]
        application = Application(
            handlers,
            default_handler_class=_Missing,
            default_handler_args={"pages": self._pages},
            log_function=_say_nothing,
        )
        self._server = HTTPServer(
            application,
            idle_connection_timeout=IDLE_SECONDS,
            body_timeout=IDLE_SECONDS,
            max_body_size=MAX_BODY_BYTES,
        )
        self._server.add_sockets(sockets)

    def close(self) -> None:
        """Stop to listen."""
        if self._server is not None:
            self._server.stop()
            self._server = None
            if self._address.startswith(UNIX):
                Path(self._address.removeprefix(UNIX)).unlink(missing_ok=True)


def _say_nothing(_: object) -> None:
    """Log no answers: that it is not ready is no error, and is asked for every few seconds."""


def _listen(address: str) -> list[socket.socket]:
    if address.startswith(UNIX):
        return [bind_unix_socket(address.removeprefix(UNIX), mode=0o600)]
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal() and 0 < int(port) < 65536):
        raise AdminError(f"admin endpoint: {address!r} is no HOST:PORT; or write off")
    return bind_sockets(int(port), host.removeprefix("[").removesuffix("]"), reuse_port=False)


class _Handler(RequestHandler):
    def initialize(self, make: Callable[[], Page]) -> None:
        self._make = make

    def prepare(self) -> None:
        if not _is_local_name(self.request.host_name):
            self._send(Page(b"ask by address, or as localhost\n", status=403))

    async def get(self) -> None:
        # In a thread: to write some thousand series must not hold up the traffic.
        self._send(await asyncio.to_thread(self._make))

    head = get

    def _send(self, page: Page) -> None:
        self.set_status(page.status)
        self.set_header("Content-Type", page.content_type)
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.clear_header("Server")
        self.finish(page.body)

    def log_exception(self, *told: object) -> None:
        logger.error("a page of the admin endpoint could not be made: %r", told[1])

    def write_error(self, status_code: int, **_: object) -> None:
        self._send(Page(f"{status_code}\n".encode(), status=status_code))


class _Missing(_Handler):
    def initialize(self, pages: Pages) -> None:  # type: ignore[override]
        listed = "".join(f"{path}\n" for path in pages)
        super().initialize(lambda: Page(f"there is no such page; there are\n{listed}".encode(), status=404))


def _is_local_name(host: str) -> bool:
    name = host.removeprefix("[").removesuffix("]")
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name == "localhost"
    return True
