"""
References to API keys, and who turns them into keys.

A document says where a key comes from; only a source can fetch it. What it fetches is
checked here to be fit for a header, and is a `Secret` from then on.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sidestream.core.secret import Secret

_ENVIRONMENT = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_FIT_FOR_HEADER = re.compile(r"[!-~]+")


class Unavailable(ValueError):
    """What a document refers to can't be had; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class FromEnvironment:
    """The environment variable `name`."""

    name: str


@dataclass(frozen=True, slots=True)
class FromFile:
    """The text of the file at `path`."""

    path: Path


@dataclass(frozen=True, slots=True)
class FromSecret:
    """The `key` of the Kubernetes Secret `name` in `namespace`."""

    namespace: str
    name: str
    key: str


type KeyReference = FromEnvironment | FromFile | FromSecret


class Resolver(Protocol):
    """Fetches what documents refer to. Both methods raise `Unavailable`."""

    def key(self, reference: KeyReference) -> str:
        """Return the text of a key."""

    def ca(self, path: Path) -> str:
        """Return the PEM text of a CA file."""


def parse_api_key(text: str) -> FromEnvironment | Secret:
    """
    Return what the field `apiKey` means: a variable for ``${NAME}``, otherwise a literal.

    Raises:
        Unavailable: the text mixes both, or is not fit for a header.
    """
    if variable := _ENVIRONMENT.fullmatch(text):
        return FromEnvironment(variable[1])
    if "${" in text:
        message = "a key is either a literal or exactly ${NAME}, with NAME of letters, digits and _"
        raise Unavailable(message)
    return make_secret(text)


def make_secret(text: str) -> Secret:
    """
    Return `text` without the white space around it as a key.

    Raises:
        Unavailable: it is empty or holds what a header can't.
    """
    text = text.strip()
    if not text:
        message = "the key is empty"
        raise Unavailable(message)
    if not _FIT_FOR_HEADER.fullmatch(text):
        message = "the key holds characters that no header may hold (spaces, line breaks or non-ASCII)"
        raise Unavailable(message)
    return Secret(text)
