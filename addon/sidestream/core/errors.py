"""
The errors a client of Sidestream can see.

Each has a stable `code` and OpenAI's error shape, so that SDKs raise their usual exceptions.
Messages never hold a body, a key or a traceback.

Source: OpenAI API reference, "Errors".
"""

import json
from dataclasses import dataclass

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

    def body(self) -> bytes:
        """Return the error as the JSON bytes that are sent."""
        error = {"message": self.message, "type": "sidestream_error", "param": self.param, "code": self.code}
        return json.dumps({"error": error}).encode()


INTERNAL_ERROR = ClientError(
    500, "internal_error", "Sidestream failed to handle this request; it was not sent on. Its log says more."
)
