"""
What is taken out of prompts and answers before they are logged, where somebody asked for them.

The known shapes of keys, of bearer tokens and of e-mail addresses, and what the operator adds. It is a net, no
promise: a prompt may hold secrets of any shape.
"""

from collections.abc import Sequence

import re2

from sidestream.core.secret import REDACTED

USUAL = (
    r"\b(?:sk|pk|rk|ak)-[A-Za-z0-9_\-]{8,}",
    r"\bgh[pousr]_[A-Za-z0-9]{20,}",
    r"\bxox[abprs]-[A-Za-z0-9\-]{8,}",
    r"\bAKIA[A-Z0-9]{16}\b",
    r"\bAIza[A-Za-z0-9_\-]{30,}",
    r"\beyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]*",
    r"(?i:\bbearer)\s+[A-Za-z0-9._~+/=\-]{8,}",
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----[^-]*-----END [A-Z ]*PRIVATE KEY-----",
    r"[A-Za-z0-9._%+\-]+@[A-Za-z0-9\-]+(?:\.[A-Za-z0-9\-]+)+",
)
"""Patterns (RE2) of what is always taken out: keys of common services, JSON web tokens, private keys, addresses."""


class Redactor:
    """
    Takes out what matches a pattern. `more`: patterns (RE2) besides the usual ones.

    Raises:
        ValueError: one of them is no pattern; the message says which.
    """

    def __init__(self, more: Sequence[str] = ()) -> None:
        for pattern in more:
            try:
                re2.compile(pattern)
            except re2.error as e:
                raise ValueError(f"{pattern!r} is no pattern that RE2 takes: {e}") from e
        self._pattern = re2.compile("|".join(f"(?:{pattern})" for pattern in (*USUAL, *more)))

    def __call__(self, text: str) -> str:
        """Return `text` without them."""
        redacted: str = self._pattern.sub(REDACTED, text)
        return redacted
