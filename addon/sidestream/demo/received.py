"""
What the stand-in was sent: one value per request, and its form as a line of a journal.

A line read back is equal to the request that was written, whatever bytes its body has.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Received:
    """
    One request as it reached the provider, recorded before anything is decided about it.

    `path` is the request target as sent, query included. `headers` keep their order and
    repetitions, names in lower case. `at` is `time.monotonic()` when the body was complete.
    `server_name` is the TLS SNI (None: none sent, or plain HTTP). Requests that came over
    the same TCP connection have the same `connection`.
    """

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes
    at: float
    server_name: str | None
    connection: int

    @property
    def json(self) -> Any:
        """
        The body, decoded.

        Raises:
            ValueError: it is not JSON.
        """
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        """Return the header's value, in any case of `name`; repeated ones joined by `, `."""
        values = [value for key, value in self.headers if key == name.lower()]
        return ", ".join(values) if values else None

    def to_line(self) -> str:
        """Write as one JSON line. The body is text; bytes that are not UTF-8 are lone surrogates."""
        return json.dumps(asdict(self) | {"body": self.body.decode("utf-8", "surrogateescape")})

    @classmethod
    def from_line(cls, line: str) -> Self:
        """Read what `to_line` wrote."""
        fields = json.loads(line)
        fields["headers"] = [(name, value) for name, value in fields["headers"]]
        fields["body"] = fields["body"].encode("utf-8", "surrogateescape")
        return cls(**fields)


def read_journal(file: Path) -> list[Received]:
    """Read the requests of a journal that may still be growing: an unfinished last line is left out."""
    return list(_complete_lines(file.read_text(encoding="utf-8")))


def _complete_lines(text: str) -> Iterator[Received]:
    for line in text.splitlines(keepends=True):
        if line.endswith("\n"):
            yield Received.from_line(line)
