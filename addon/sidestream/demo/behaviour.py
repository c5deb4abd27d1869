"""
How the stand-in is asked to misbehave: the settings of the `x-standin` request header.

Settings are `key=value`, parted by commas or spaces. A setting that is unknown, malformed,
repeated or at odds with another is a problem, never ignored: a typo in a test must not pass.

    status=429 retry-after=2   an error in OpenAI's shape (200: none), and when to come back
    first-byte=0.5             seconds before the status line
    events=50 gap=0.02         content events of a stream, seconds between any two events
    cut=3 reset=3 stall=3      after 3 content events: end without goodbye, TCP reset, silence;
                               an answer that is no stream: half-way through its body
    error-event=2              after 2 content events: an error event, then a proper end
    close=before|reset         end or reset the connection instead of answering
    connection=close|drop      close after the answer, announced or not
    comments=1 crlf=1          comment lines before events; lines end in CRLF
    split=1                    bytes travel cut at odd places, within characters too
    gzip=1                     compressed, whatever the client accepts
    length=100                 characters of text (a stream has at least one per event)
    usage=always|never|with-last    usage event though not asked; none; in the last chunk
    prompt-tokens=9 completion-tokens=9 cached=9 reasoning=9    what usage reports
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

HEADER = "x-standin"
"""The request header that carries settings for one request."""

HTTP_OK = 200

type Ending = Literal["cut", "reset", "stall", "error-event"]
type UsageReport = Literal["asked", "always", "never", "with-last"]


class SettingsError(ValueError):
    """Settings that cannot be obeyed; `problems` has all of them, each a sentence."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Behaviour:
    """
    How to answer one request; the default is a provider in good health.

    `ending` is how the answer is spoilt, `ending_after` the content events before that.
    """

    status: int = HTTP_OK
    retry_after: str | None = None
    first_byte_seconds: float = 0.0
    events: int = 5
    gap_seconds: float = 0.0
    ending: Ending | None = None
    ending_after: int = 0
    close: Literal["before", "reset"] | None = None
    comments: bool = False
    gzip: bool = False
    usage: UsageReport = "asked"
    crlf: bool = False
    split: bool = False
    connection: Literal["keep-alive", "close", "drop"] = "keep-alive"
    length: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int = 0
    reasoning_tokens: int | None = None


def parse(text: str, base: Behaviour | None = None) -> Behaviour:
    """
    Lay the settings in `text` over `base`, setting by setting.

    Raises:
        SettingsError: with every problem in `text`.
    """
    values: dict[str, Any] = {}
    problems: list[str] = []
    for word in re.split(r"[,\s]+", text.strip(", \t")) if text.strip(", \t") else []:
        key, equals, value = word.partition("=")
        setting = SETTINGS.get(key)
        if setting is None:
            problems.append(f"unknown setting {key!r} (known: {', '.join(sorted(SETTINGS))})")
            continue
        try:
            fields = setting(value)
        except ValueError as e:
            problems.append(f"{key}: {e}, got {value!r}" if equals else f"{key}: needs a value")
            continue
        if taken := sorted(fields.keys() & values.keys()):
            problems.append(f"{key}: {taken[0].replace('_', '-')} was already set by another setting")
        values |= fields
    if problems:
        raise SettingsError(problems)
    return replace(base or Behaviour(), **values)


type _Setting = Callable[[str], dict[str, Any]]


def _whole(field: str, *, least: int = 0) -> _Setting:
    def read(value: str) -> dict[str, Any]:
        if not re.fullmatch(r"[0-9]{1,9}", value) or int(value) < least:
            raise ValueError(f"a whole number of at least {least} expected")
        return {field: int(value)}

    return read


def _seconds(field: str) -> _Setting:
    def read(value: str) -> dict[str, Any]:
        if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", value):
            raise ValueError("seconds expected, as 2 or 0.5")
        return {field: float(value)}

    return read


def _flag(field: str) -> _Setting:
    def read(value: str) -> dict[str, Any]:
        if value not in {"0", "1"}:
            raise ValueError("0 or 1 expected")
        return {field: value == "1"}

    return read


def _choice(field: str, *choices: str) -> _Setting:
    def read(value: str) -> dict[str, Any]:
        if value not in choices:
            raise ValueError(f"one of {', '.join(choices)} expected")
        return {field: value}

    return read


def _ending(kind: Ending) -> _Setting:
    count = _whole("ending_after")
    return lambda value: {"ending": kind} | count(value)


def _status(value: str) -> dict[str, Any]:
    if not re.fullmatch(r"200|[45][0-9][0-9]", value):
        raise ValueError("200 or 400 to 599 expected")
    return {"status": int(value)}


def _retry_after(value: str) -> dict[str, Any]:
    _seconds("retry_after")(value)
    return {"retry_after": value}


SETTINGS: dict[str, _Setting] = {
    "status": _status,
    "retry-after": _retry_after,
    "first-byte": _seconds("first_byte_seconds"),
    "events": _whole("events"),
    "gap": _seconds("gap_seconds"),
    "cut": _ending("cut"),
    "reset": _ending("reset"),
    "stall": _ending("stall"),
    "error-event": _ending("error-event"),
    "close": _choice("close", "before", "reset"),
    "comments": _flag("comments"),
    "gzip": _flag("gzip"),
    "usage": _choice("usage", "asked", "always", "never", "with-last"),
    "crlf": _flag("crlf"),
    "split": _flag("split"),
    "connection": _choice("connection", "keep-alive", "close", "drop"),
    "length": _whole("length", least=1),
    "prompt-tokens": _whole("prompt_tokens"),
    "completion-tokens": _whole("completion_tokens"),
    "cached": _whole("cached_tokens"),
    "reasoning": _whole("reasoning_tokens"),
}
"""Every setting: name → reader of its value into fields of `Behaviour`."""
