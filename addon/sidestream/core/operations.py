"""
Which OpenAI operation a request is, told from its method and path.

Chat is rewritten in full. The other operations keep their body, and go to the provider's
base path with its key. Everything else is none of ours: it goes on unchanged, without a key.

Source: OpenAI API reference (paths); OpenTelemetry GenAI (`gen_ai.operation.name`).
"""

import re
from dataclasses import dataclass
from urllib.parse import unquote

CHAT_PATH = "/chat/completions"

_OPERATIONS = {
    "embeddings": "embeddings",
    "completions": "text_completion",
    "models": "models",
    "responses": "responses",
    "images": "images",
    "audio": "audio",
}
"""First segment of an operation's path → its name. OpenTelemetry's names where it has one."""

_DOT_SEGMENT = re.compile(r"(?:^|[/\\])\.\.?(?:[/\\;]|$)")
"""`.` or `..` as any server may read it: some take `\\` for `/`, some cut `;` and what follows off a segment."""


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation: its `name`, and the `path` (with query) below the provider's base."""

    name: str
    path: str


CHAT = Operation("chat", CHAT_PATH)
OTHER = Operation("other", "")


def operation_of(method: str, target: str, base: str) -> Operation:
    """
    Return the operation that `method` and `target` (path and query) ask for.

    `base` is the provider's own base path: a client may use it, `/v1`, or neither.
    """
    path, mark, query = target.partition("?")
    if method == "POST" and (path in ("", "/") or path.endswith(CHAT_PATH)):
        return CHAT
    below = _below(path, base)
    plain = unquote(below)
    if _DOT_SEGMENT.search(plain):
        return OTHER  # `/models/../admin` must not take the key to another place
    segments = plain.split("/")
    name = _OPERATIONS.get(segments[1]) if len(segments) > 1 else None
    return Operation(name, below + mark + query) if name else OTHER


def base_of(path: str) -> str:
    """Return the base path that a provider's chat `path` stands under: ``/v1`` for ``/v1/chat/completions``."""
    path = path.partition("?")[0]
    return path.removesuffix(CHAT_PATH) if path.endswith(CHAT_PATH) else path.rpartition("/")[0]


def _below(path: str, base: str) -> str:
    for prefix in (base, "/v1"):
        if prefix and path.startswith(prefix + "/"):
            return path[len(prefix) :]
    return path
