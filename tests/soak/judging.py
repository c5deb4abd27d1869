"""
Whether what a client got is one answer or one clear error: pure, from values.

An answer is compared with what the stand-in would have said to this very call. So it is known
to be whole, from one attempt, in order, and this call's own; or how far it got.
"""

import dataclasses
import json
import re
import zlib
from dataclasses import dataclass
from typing import Literal

from sidestream.demo import answers
from sidestream.demo.answers import Whole
from sidestream.demo.received import Received
from tests.soak.asking import CHAT, PROVIDERS, Ask
from tests.soak.speaking import Answer

STABLE_WORD = re.compile(r"[a-z][a-z_]*")
GZIP = 31
"""`wbits` that make zlib read gzip's format."""

type Kind = Literal["complete", "error", "incomplete", "left", "gave up", "offence"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """`kind` is what the client got. An offence says in `complaint` what should not be."""

    kind: Kind
    complaint: str = ""


def judge(ask: Ask, answer: Answer) -> Verdict:
    """Judge what came back for `ask`."""
    complaint = _of_connection(ask, answer)
    if complaint:
        return Verdict("offence", complaint)
    if answer.end == "left" and answer.status is None:
        return Verdict("left")
    if answer.end == "gave-up" and answer.status is None:
        return Verdict("gave up")
    verdict = _of_error(answer) if answer.status != 200 else _of_content(ask, answer)
    if verdict.kind == "offence":
        return verdict
    if answer.end == "left":
        return Verdict("left")
    return Verdict("gave up") if answer.end == "gave-up" else verdict


def _of_connection(ask, answer):
    if answer.excess:
        return f"{len(answer.excess)} bytes that nobody asked for: {answer.excess[:200]!r}"
    if answer.end == "nothing":
        return f"no answer at all: {answer.problem}"
    if answer.end == "bad-framing":
        return f"the answer is no HTTP: {answer.problem}"
    if answer.problem and answer.end == "complete":
        return answer.problem
    echoed = answer.headers.get("x-request-tag")
    if echoed not in {None, ask.tag} or (echoed is None and answer.status == 200):
        return f"mixed up: the answer is for {echoed}"
    return ""


def _of_error(answer):
    if answer.end != "complete":
        return Verdict("incomplete")
    try:
        error = json.loads(_decoded(answer.headers, answer.body))["error"]
        message, kind, code = error["message"], error["type"], error["code"]
    except (ValueError, KeyError, TypeError, zlib.error) as e:
        return Verdict("offence", f"status {answer.status} without a clear error: {e!r}")
    if answer.status == 401:
        return Verdict("offence", f"the provider did not get its key: {message}")
    if kind == "sidestream_error" and not STABLE_WORD.fullmatch(str(code)):
        return Verdict("offence", f"the error's code is no stable word: {code!r}")
    return Verdict("error")


def _of_content(ask, answer):
    whole = answer.end == "complete"
    try:
        content = _decoded(answer.headers, answer.body)
    except zlib.error as e:
        return Verdict("offence", f"not gzip: {e}")
    if ask.streams:
        return _of_stream(ask, content, whole=whole)
    if not whole:
        return Verdict("incomplete")
    try:
        got = json.loads(content)
    except ValueError:
        return Verdict("offence", "what looks like a complete answer is no JSON")
    fits = any(got == expected for expected in _expected(ask, got, json.loads))
    return Verdict("complete") if fits else Verdict("offence", "the answer is not this call's")


def _of_stream(ask, content, *, whole):
    events, rest = split_events(content)
    failed = bool(events) and _is_error(events[-1])
    said = [_loads(event) for event in (events[:-1] if failed else events)]
    is_prefix = is_all = False
    for expected in _expected(ask, said[0] if said else {}, _read_stream):
        is_prefix |= said == expected[: len(said)]
        is_all |= said == expected
    if not is_prefix:
        return Verdict("offence", "the events are not this call's, or not in order")
    if is_all and not failed:
        return Verdict("complete") if not rest else Verdict("offence", f"more after the end: {rest[:200]!r}")
    if whole and not failed:
        return Verdict("offence", f"ends after {len(said)} events as if it were complete")
    return Verdict("incomplete")


def split_events(content: bytes) -> tuple[list[bytes], bytes]:
    """Return the payloads of complete events, without comments, and what follows them."""
    *events, rest = content.replace(b"\r\n", b"\n").split(b"\n\n")
    lines = (line for event in events for line in event.split(b"\n"))
    return [line.removeprefix(b"data: ") for line in lines if line.startswith(b"data: ")], rest


def _read_stream(content):
    return [_loads(event) for event in split_events(content)[0]]


def _expected(ask, got, read):
    """Say what each provider that may answer would have said, with what it draws itself taken from `got`."""
    inner = got.get("response", got) if isinstance(got, dict) else {}
    identity = re.search(r"(\d+)$", str(inner.get("id", "")))
    created = inner.get("created", inner.get("created_at", 0))
    asked = dataclasses.replace(ask.behaviour, status=200, ending=None, close=None)
    for name in PROVIDERS[ask.host]:
        body = ask.body | ({"model": f"{name}-model"} if ask.path == CHAT else {})
        asks_for_usage = "include_usage" in body.get("stream_options", {})
        if ask.path == CHAT and body.get("stream") is True:
            body["stream_options"] = {"include_usage": True}  # as the proxy asks whoever asks for chat
        headers = [("x-request-tag", ask.tag)]
        sent = Received("POST", ask.path, headers, json.dumps(body).encode(), 0.0, None, 0)
        number = int(identity[1]) if identity else 0
        told = answers.answer(sent, asked, name=name, api_keys=None, number=number, created=created)
        if isinstance(told, Whole):
            yield read(told.body)
            continue
        events = read(b"".join(told.opening + told.content + told.closing))
        yield events if asks_for_usage or ask.path != CHAT else [event for event in events if not _is_usage(event)]


def _is_usage(event):
    return isinstance(event, dict) and event.get("choices") == [] and bool(event.get("usage"))


def _decoded(headers, body):
    if headers.get("content-encoding") == "gzip":
        return zlib.decompressobj(wbits=GZIP).decompress(body)
    return body


def _is_error(payload):
    loaded = _loads(payload)
    return isinstance(loaded, dict) and ("error" in loaded or loaded.get("type") == "error")


def _loads(payload):
    return "[DONE]" if payload == b"[DONE]" else json.loads(payload)
