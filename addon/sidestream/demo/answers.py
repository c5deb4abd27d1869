"""
What the stand-in answers, as values: the shapes of the OpenAI API and of its errors.

Pure: the same request, behaviour, number and time always give the same answer. How an
answer travels, and how it is spoilt on the way, is decided in `delivery`.

Source: OpenAI API reference (chat, completions, embeddings, models, responses).
"""

import base64
import hashlib
import json
import struct
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from sidestream.demo.behaviour import HTTP_OK, Behaviour
from sidestream.demo.events import Streamed, chat_stream, completion_stream, response_stream
from sidestream.demo.received import Received
from sidestream.demo.turn import Json, Turn

EMBEDDING_DIMENSIONS = 8
"""Numbers in an embedding, unless the request says `dimensions`."""

MAX_DIMENSIONS = 4096

ERROR_TYPES = {
    401: ("invalid_request_error", "invalid_api_key"),
    403: ("permission_error", "permission_denied"),
    408: ("timeout", "request_timeout"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
}
"""Status → the `type` and `code` of the error; other 4xx are invalid requests, 5xx server errors."""

FIRST_SERVER_ERROR = 500


@dataclass(frozen=True, slots=True)
class Whole:
    """An answer with a body of known length, always JSON."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


type Answer = Whole | Streamed


def answer(
    request: Received,
    behaviour: Behaviour,
    *,
    name: str,
    api_keys: Collection[str] | None,
    number: int,
    created: int,
) -> Answer:
    """
    Answer `request` as the provider `name`.

    `api_keys` are those accepted; None accepts every request. `number` makes ids, `created`
    is in seconds since the epoch.
    """
    if refusal := _refuse_key(request, api_keys) or _failure(behaviour, name):
        return refusal
    path = request.path.partition("?")[0].rstrip("/")
    operation = next((o for o in OPERATIONS if path.endswith(o)), None)
    if path.endswith("/models"):
        return _models(name, created) if request.method == "GET" else _wrong_method(request, "GET")
    if operation is None:
        return error(404, f"Invalid URL ({request.method} {path or '/'})")
    if request.method != "POST":
        return _wrong_method(request, "POST")
    body = _json_object(request.body)
    if body is None:
        return error(400, "We could not parse the JSON body of your request.")
    tag = request.header("x-request-tag")
    return _operate(OPERATIONS[operation], Turn(name, number, created, body, tag, behaviour))


def error(
    status: int,
    message: str,
    *,
    param: str | None = None,
    code: str | None = None,
    headers: tuple[tuple[str, str], ...] = (),
) -> Whole:
    """Build an error in OpenAI's shape."""
    ordinary = "server_error" if status >= FIRST_SERVER_ERROR else "invalid_request_error"
    kind, usual_code = ERROR_TYPES.get(status, (ordinary, None))
    content = {"message": message, "type": kind, "param": param, "code": code or usual_code}
    return Whole(status, _encode({"error": content}), headers)


def _refuse_key(request: Received, api_keys: Collection[str] | None) -> Whole | None:
    if api_keys is None:
        return None
    authorization = request.header("authorization")
    if authorization is None:
        return error(401, "You didn't provide an API key in the Authorization header.")
    scheme, _, key = authorization.partition(" ")
    if scheme.lower() != "bearer" or key not in api_keys:
        return error(401, "Incorrect API key provided.")
    return None


def _failure(behaviour: Behaviour, name: str) -> Whole | None:
    if behaviour.status == HTTP_OK:
        return None
    retry = (("retry-after", behaviour.retry_after),) if behaviour.retry_after else ()
    return error(behaviour.status, f"{name} was asked to answer {behaviour.status}.", headers=retry)


def _wrong_method(request: Received, right: str) -> Whole:
    message = f"Not allowed to {request.method} on {request.path}. (HINT: Perhaps you meant to {right}?)"
    return error(405, message, code="method_not_supported", headers=(("allow", right),))


def _json_object(body: bytes) -> Json | None:
    try:
        decoded = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return decoded if isinstance(decoded, dict) else None


@dataclass(frozen=True, slots=True)
class _Operation:
    """An operation: the parameter it needs besides `model`, and its answers in both forms."""

    required: str
    whole: Callable[[Turn], Whole]
    stream: Callable[[Turn], Streamed] | None = None


def _operate(operation: _Operation, turn: Turn) -> Answer:
    if not isinstance(turn.body.get("model"), str) or not turn.body["model"]:
        return error(400, "you must provide a model parameter", param="model")
    if operation.required not in turn.body:
        return error(
            400,
            f"Missing required parameter: '{operation.required}'.",
            param=operation.required,
            code="missing_required_parameter",
        )
    if operation.stream and turn.streams:
        return operation.stream(turn)
    if turn.behaviour.ending == "error-event":
        return error(400, "x-standin: error-event needs a request with stream: true")
    return operation.whole(turn)


def _chat(turn: Turn) -> Whole:
    message: Json = {"role": "assistant", "content": turn.text, "refusal": None}
    if turn.tool:
        function = {"name": turn.tool, "arguments": turn.arguments}
        calls = [{"id": turn.tool_call_id, "type": "function", "function": function}]
        message |= {"content": None, "tool_calls": calls}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": turn.finish_reason}
    head = turn.head("chatcmpl", "chat.completion")
    return _ok(head | {"choices": [choice]} | _usage_unless_never(turn))


def _completion(turn: Turn) -> Whole:
    choice = {"index": 0, "text": turn.text, "logprobs": None, "finish_reason": "stop"}
    head = turn.head("cmpl", "text_completion")
    return _ok(head | {"choices": [choice]} | _usage_unless_never(turn))


def _response(turn: Turn) -> Whole:
    return _ok(turn.response())


def _usage_unless_never(turn: Turn) -> Json:
    return {} if turn.behaviour.usage == "never" else {"usage": turn.usage()}


def _models(name: str, created: int) -> Whole:
    models = [
        {"id": f"{name}-{size}", "object": "model", "created": created, "owned_by": name} for size in ("large", "small")
    ]
    return _ok({"object": "list", "data": models})


def _embeddings(turn: Turn) -> Whole:
    dimensions = turn.body.get("dimensions", EMBEDDING_DIMENSIONS)
    if not isinstance(dimensions, int) or not 0 < dimensions <= MAX_DIMENSIONS:
        return error(400, f"dimensions: 1 to {MAX_DIMENSIONS} expected", param="dimensions")
    as_base64 = turn.body.get("encoding_format") == "base64"
    entries = []
    for index, text in enumerate(_inputs(turn.body["input"])):
        vector = _vector(text, dimensions)
        packed = base64.b64encode(struct.pack(f"<{dimensions}f", *vector)).decode("ascii")
        embedding = packed if as_base64 else vector
        entries.append({"object": "embedding", "index": index, "embedding": embedding})
    usage = {"prompt_tokens": turn.prompt_tokens, "total_tokens": turn.prompt_tokens}
    content = {"object": "list", "data": entries, "model": turn.model}
    reported = {} if turn.behaviour.usage == "never" else {"usage": usage}
    return _ok(content | reported)


def _inputs(value: object) -> Sequence[str]:
    """Take apart what embeddings accept: one text or token list, or a list of either."""
    if isinstance(value, list) and not all(isinstance(item, int) for item in value):
        return [str(item) for item in value]
    return [str(value)]


def _vector(text: str, dimensions: int) -> list[float]:
    """Make a vector that depends on `text` alone, of numbers that a 32-bit float holds exactly."""
    digest = hashlib.shake_128(text.encode("utf-8", "surrogatepass")).digest(dimensions)
    return [(byte - 128) / 128 for byte in digest]


OPERATIONS = {
    "/chat/completions": _Operation("messages", _chat, chat_stream),
    "/completions": _Operation("prompt", _completion, completion_stream),
    "/embeddings": _Operation("input", _embeddings),
    "/responses": _Operation("input", _response, response_stream),
}
"""What a path ends in → the operation; of two that fit, the first."""


def _ok(content: Json) -> Whole:
    return Whole(HTTP_OK, _encode(content))


def _encode(content: Json) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode("utf-8", "replace")
