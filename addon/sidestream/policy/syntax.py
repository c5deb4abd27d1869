"""
YAML as policies are written: from text to plain values, or the reason why not.

Any text gives one or the other, in time and space that its length bounds. What YAML would
allow and this refuses: a key that stands twice (the first would be lost silently), a key that
is a list or mapping, tags of programs, and nesting or repetition that no policy needs.

Scalars are those of YAML 1.2, so `on` is a word (`retry.on` is a field) and a date is text.

Source: YAML 1.2.2, 10.3 "Core Schema"; merge keys (`<<`) as in YAML 1.1.
"""

import math
import re
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import yaml
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
)

from sidestream.core.errors import cut

MAX_DEPTH = 100
"""How deep lists and mappings may stand in each other."""
MAX_REPEATED = 100_000
"""How many values aliases may add to a file."""
MAX_NUMBER_LENGTH = 400
"""The longest number, in characters. A float has no more digits."""

_YAML_TAG = "tag:yaml.org,2002:"
_TEXT_TAGS = frozenset(_YAML_TAG + name for name in ("str", "binary", "timestamp"))
_CONTAINER_TAGS = frozenset({None, "!", *(_YAML_TAG + name for name in ("map", "seq", "set", "omap", "pairs"))})
_TYPES: dict[str, type] = {"int": int, "float": float, "bool": bool, "null": type(None)}
_SCALAR = re.compile(
    r"""
      (?P<null> ~ | null | Null | NULL | )
    | (?P<true> true | True | TRUE )
    | (?P<false> false | False | FALSE )
    | (?P<int> [-+]?[0-9]+ )
    | (?P<octal> 0o[0-7]+ )
    | (?P<hexadecimal> 0x[0-9a-fA-F]+ )
    | (?P<float> [-+]? (?: \.[0-9]+ | [0-9]+ (?: \.[0-9]* )? ) (?: [eE][-+]?[0-9]+ )? )
    | (?P<infinite> [-+]? \. (?: inf | Inf | INF ) )
    | (?P<undefined> \. (?: nan | NaN | NAN ) )
    """,
    re.VERBOSE,
)
_FIRST = frozenset(["", *"~nNtTfF+-.0123456789"])
"""What the expression can start with. Most words don't."""
_CONVERT: dict[str, Callable[[str], Hashable]] = {
    "null": lambda _: None,
    "true": lambda _: True,
    "false": lambda _: False,
    "int": int,
    "octal": lambda text: int(text, 8),
    "hexadecimal": lambda text: int(text, 16),
    "float": float,
    "infinite": lambda text: float(text.replace(".", "")),
    "undefined": lambda _: math.nan,
}


class NotYaml(ValueError):
    """Text that is no YAML, or not of the kind that is read here. `line` counts from 1, 0 when there is none."""

    def __init__(self, reason: str, line: int) -> None:
        self.reason = reason
        self.line = line
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Parsed:
    """One document of a text: what it says, its span in characters, and the line it starts at, from 0."""

    content: object
    start: int
    end: int
    line: int


def parse(text: str) -> Iterator[Parsed]:
    """
    Yield the documents of `text`, one after the other. One that says nothing is ``None``.

    Raises:
        NotYaml: the text is no YAML from here on, or not of the kind that is read here.
    """
    try:
        yield from _Reader(text).documents()
    except yaml.reader.ReaderError as e:
        line = text.encode("utf-8", "replace")[: e.position].count(b"\n") + 1
        raise NotYaml(f"{e.reason}: remove the character", line) from e
    except yaml.MarkedYAMLError as e:
        raise _not_yaml(text, e) from e


def compose(text: str) -> yaml.Node:
    """Return the nodes of the first document of a text that `parse` accepts."""
    root: yaml.Node = next(yaml.compose_all(text, Loader=yaml.CSafeLoader))
    return root


def _not_yaml(text: str, error: yaml.MarkedYAMLError) -> NotYaml:
    mark = error.problem_mark
    reason = cut(error.problem or str(error))
    if mark is None:
        return NotYaml(reason, 0)
    lines = text.splitlines() or [""]
    line = min(mark.line, len(lines) - 1)  # the end of a text can lie past its last line
    if "\t" in lines[line][: len(lines[line]) - len(lines[line].lstrip())]:
        reason = "a tab in the indentation: indent with spaces"
    return NotYaml(reason, line + 1)


class _Reader:
    """Builds the values of a text from libyaml's events."""

    def __init__(self, text: str) -> None:
        self._next: Callable[[], Any] = yaml.CSafeLoader(text).get_event
        self._anchors: dict[str, object] = {}
        self._repeated = 0
        self._meanings: dict[str, Hashable] = {}  # of plain words: a policy repeats them

    def documents(self) -> Iterator[Parsed]:
        """Read one document after the other."""
        self._next()  # the start of the stream
        while True:
            start: Any = self._next()
            if type(start) is not DocumentStartEvent:
                return
            self._anchors.clear()
            content = self._node(self._next(), MAX_DEPTH)
            begin, end = start.start_mark, self._next().end_mark
            assert begin is not None, "libyaml marks every event"
            yield Parsed(content, begin.index, end.index, begin.line)

    def _node(self, event: Any, depth: int) -> Any:
        """Read the node that starts with `event`, and in which `depth` more may stand."""
        kind = type(event)
        if kind is ScalarEvent:
            value: Any = self._scalar(event)
        elif kind is AliasEvent:
            return self._alias(event)
        elif depth == 0:
            raise _not_yaml_at(event, f"nested more than {MAX_DEPTH} deep")
        elif kind is MappingStartEvent:
            value = self._mapping(depth - 1)
        else:
            value = self._list(depth - 1)
        if event.tag is not None or event.anchor is not None:
            self._check_properties(event, value)
        return value

    def _mapping(self, depth: int) -> dict[Hashable, Any]:
        content: dict[Hashable, Any] = {}
        merged: dict[Hashable, Any] = {}
        next_event, node = self._next, self._node
        while type(event := next_event()) is not MappingEndEvent:
            key = node(event, depth)
            value = node(next_event(), depth)
            if isinstance(key, (dict, list)):
                raise _not_yaml_at(event, "a key is a list or mapping: only a name can be a key")
            if key == "<<" and type(event) is ScalarEvent and event.implicit[0]:
                _merge(value, merged, event)
            elif key in content:
                raise _not_yaml_at(event, f"the key {cut(str(key))!r} stands twice in one mapping: remove one")
            else:
                content[key] = value
        return {**merged, **content} if merged else content

    def _list(self, depth: int) -> list[Any]:
        content = []
        while type(event := self._next()) is not SequenceEndEvent:
            content.append(self._node(event, depth))
        return content

    def _scalar(self, event: ScalarEvent) -> Hashable:
        text: str = event.value
        if event.implicit[0]:
            if text not in self._meanings:
                self._meanings[text] = _meaning(event)
            return self._meanings[text]
        return text if event.tag is None else _tagged(event)

    def _alias(self, event: AliasEvent) -> Any:
        name = str(event.anchor)
        if name not in self._anchors:
            raise _not_yaml_at(event, f"*{cut(name)} refers to nothing that ends before it")
        value = self._anchors[name]
        self._repeated += _size(value, MAX_REPEATED)
        if self._repeated > MAX_REPEATED:
            raise _not_yaml_at(event, f"aliases repeat more than {MAX_REPEATED} values")
        return value

    def _check_properties(self, event: Any, value: object) -> None:
        if isinstance(value, (dict, list)) and event.tag not in _CONTAINER_TAGS:
            raise _unknown_tag(event)
        if event.anchor in self._anchors:
            raise _not_yaml_at(event, f"&{cut(event.anchor)} stands twice in one document: rename one")
        if event.anchor is not None:
            self._anchors[event.anchor] = value


def _merge(value: object, merged: dict[Hashable, Any], event: yaml.Event) -> None:
    for mapping in value if isinstance(value, list) else [value]:
        if not isinstance(mapping, dict):
            raise _not_yaml_at(event, "<< takes a mapping, or a list of mappings")
        for key, part in mapping.items():
            merged.setdefault(key, part)


def _size(value: object, limit: int) -> int:
    """Return how many values `value` is made of, itself among them; a little more than `limit` is enough to know."""
    size, waiting = 0, [value]
    while waiting and size <= limit:
        size += 1
        part = waiting.pop()
        if isinstance(part, dict):
            waiting.extend(part.values())
        elif isinstance(part, list):
            waiting.extend(part)
    return size


def _meaning(event: ScalarEvent) -> Hashable:
    """Return what a plain word means in YAML 1.2."""
    text: str = event.value
    match = _SCALAR.fullmatch(text) if text[:1] in _FIRST else None
    if match is None:
        return text
    if len(text) > MAX_NUMBER_LENGTH:
        raise _not_yaml_at(event, "a number of that length can't be read: put it in quotes if it is text")
    return _CONVERT[match.lastgroup or ""](text)


def _tagged(event: ScalarEvent) -> Hashable:
    if event.tag in _TEXT_TAGS:
        return str(event.value)
    name = str(event.tag).removeprefix(_YAML_TAG)
    if name not in _TYPES:
        raise _unknown_tag(event)
    value = _meaning(event)
    if name == "float" and type(value) is int:
        return float(value)
    if type(value) is not _TYPES[name]:
        raise _not_yaml_at(event, f"{cut(event.value)!r} is no {name}, as its tag says")
    return value


def _unknown_tag(event: Any) -> NotYaml:
    return _not_yaml_at(event, f"the tag {cut(str(event.tag))} is not known here: remove it")


def _not_yaml_at(event: yaml.Event, reason: str) -> NotYaml:
    assert event.start_mark is not None, "libyaml marks every event"
    return NotYaml(reason, event.start_mark.line + 1)
