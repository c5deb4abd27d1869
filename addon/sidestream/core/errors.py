"""
The errors a client of Sidestream can see.

Each has a stable `code` and OpenAI's error shape, so that SDKs raise their usual exceptions.
Messages never hold a body, a key or a traceback.

Source: OpenAI API reference, "Errors".
"""

import json
from dataclasses import dataclass
from typing import Literal

MAX_FOREIGN_TEXT = 256
"""How much of text that is not ours goes into a message or record, in characters."""


def cut(text: str) -> str:
    """Return `text` as it may stand in a message or record: bounded."""
    return text if len(text) <= MAX_FOREIGN_TEXT else text[: MAX_FOREIGN_TEXT - 1] + "…"


@dataclass(frozen=True, slots=True)
class ClientError:
    """An answer that Sidestream gives itself. `param` names the field of the request at fault."""

    status: int
    code: str
    message: str
    param: str | None = None
    retry_after_seconds: int | None = None

    def body(self) -> bytes:
        """Return the error as the JSON bytes that are sent."""
        error = {"message": self.message, "type": "sidestream_error", "param": self.param, "code": self.code}
        return json.dumps({"error": error}).encode()


type Fault = Literal[
    "client_disconnected",
    "killed",
    "invalid_request",
    "body_too_large",
    "provider_unreachable",
    "provider_timeout",
    "provider_failed",
    "shutting_down",
    "internal_error",
]
"""Why an exchange broke off: the record's word, and the client's `code` if it is told."""


_TOLD: dict[Fault, tuple[int, str]] = {
    "invalid_request": (400, ""),
    "body_too_large": (413, ""),
    "provider_unreachable": (502, "the provider can't be reached: "),
    "provider_timeout": (504, "the provider did not answer in time: "),
    "provider_failed": (502, "the provider broke off its answer: "),
}
"""Faults that a client is told of → status, and how the message begins."""


def client_error(fault: Fault, message: str) -> ClientError | None:
    """Return what a client whose answer has not begun is told, unless it is gone. `message`: what is known besides."""
    if fault == "internal_error":
        return INTERNAL_ERROR
    if fault == "shutting_down":
        return SHUTTING_DOWN
    if fault not in _TOLD:
        return None
    status, beginning = _TOLD[fault]
    return ClientError(status, fault, cut(beginning + message))


INTERNAL_ERROR = ClientError(
    500, "internal_error", "Sidestream failed to handle this request; it was not sent on. Its log says more."
)

SHUTTING_DOWN = ClientError(
    503, "shutting_down", "Sidestream is shutting down, and the answer took longer than it waits; ask again"
)
