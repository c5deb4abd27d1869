"""
A value that goes into an outgoing request and nowhere else.

`Secret` has no representation: printing, formatting, logging, comparing in an assertion
or pickling one never shows what it holds. Only `reveal` does, and it is called in one
place, where the wire bytes of an attempt are made.
"""

from typing import NoReturn
from urllib.parse import unquote_plus

REDACTED = "[redacted]"
"""What stands in place of a secret wherever a person or a program can look."""

CREDENTIAL_HEADERS = frozenset({"authorization", "api-key", "x-api-key", "x-goog-api-key", "proxy-authorization"})
"""Request headers that carry a key, in lower case. A client's own never reach a provider."""
CREDENTIAL_PARAMETERS = frozenset({"key", "api-key", "api_key", "apikey", "access_token"})
"""Parameters of a query that carry a key, in lower case. Like those headers."""


def without_credentials(target: str) -> str:
    """Return `target`, a path with its query, without the parameters that carry a key."""
    path, _, query = target.partition("?")
    given = query.split("&")
    kept = [one for one in given if unquote_plus(one.partition("=")[0]).lower() not in CREDENTIAL_PARAMETERS]
    if len(kept) == len(given):
        return target
    return path + ("?" + "&".join(kept) if kept else "")


class Secret:
    """A key. Equal to another of the same value; shown by nothing."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the value, for the wire bytes of an attempt."""
        return self._value

    def __repr__(self) -> str:
        return f"Secret({REDACTED})"

    def __str__(self) -> str:
        return REDACTED

    def __format__(self, spec: str) -> str:
        return format(REDACTED, spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> NoReturn:
        message = "a Secret is not written anywhere"
        raise TypeError(message)
