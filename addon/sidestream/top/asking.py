"""Asks an admin endpoint, over HTTP."""

import http.client
import time

from sidestream.top.reading import Reading, ReadingError, read

PATIENCE_SECONDS = 5.0
"""How long an answer is waited for."""
MAX_PAGE_BYTES = 64 * 1024 * 1024
"""How long a page may be. Past it, somebody else answers."""


class NoAnswer(Exception):
    """The endpoint can't be read now; the message says why and what to do."""


class Endpoint:
    """An admin endpoint at `host` and `port`."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self.name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def read(self) -> Reading:
        """
        Return what it says now.

        Raises:
            NoAnswer: it does not answer, or is no admin endpoint.
        """
        try:
            metrics, at = self._page("/metrics"), time.monotonic()
            return read(metrics, self._page("/exchanges"), at=at)
        except ReadingError as e:
            raise NoAnswer(f"{self.name} is no admin endpoint of Sidestream: {e}") from e
        except (OSError, http.client.HTTPException, UnicodeError) as e:
            reason = getattr(e, "strerror", None) or str(e) or type(e).__name__
            raise NoAnswer(
                f"no admin endpoint at {self.name} ({reason}): is `sidestream run` there, and --admin the same?"
            ) from e

    def _page(self, path: str) -> str:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=PATIENCE_SECONDS)
        try:
            # It only answers to an address or to this, so that no page on the web can read it.
            connection.request("GET", path, headers={"Host": "localhost"})
            answer = connection.getresponse()
            body = answer.read(MAX_PAGE_BYTES + 1)
        finally:
            connection.close()
        if answer.status != http.client.OK or len(body) > MAX_PAGE_BYTES:
            raise ReadingError(f"{path} is answered with {answer.status}")
        return body.decode("utf-8", "replace")
