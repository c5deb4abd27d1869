"""
Where something stands in a policy: the file, the document, the field, the line.

A `Spot` is what compiling passes around: it knows its place, and takes the problems found there.
"""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import yaml

from sidestream.policy.problems import Problem, Severity
from sidestream.policy.syntax import compose

type FieldPath = tuple[str | int, ...]
"""The way to a field: names and list indexes."""


@dataclass(frozen=True, slots=True)
class Text:
    """A policy file: what it is called in messages, the folder it stands in, and what it says."""

    name: str
    folder: Path
    content: bytes = field(repr=False)


@dataclass(frozen=True)
class Source:
    """Where a document stands: the `index`-th of a file, written as `part`, from the line `first_line` (from 0) on."""

    text: Text
    index: int
    title: str
    part: str = field(repr=False)
    first_line: int = 0

    def problem(self, path: FieldPath, message: str, severity: Severity = Severity.ERROR) -> Problem:
        """Return a problem of the field at `path`, with its line."""
        return Problem(self.text.name, self.line_of(path), self.title, dotted(path), message, severity)

    def line_of(self, path: FieldPath) -> int:
        """Return the line, from 1, of the deepest node on `path` that is there."""
        node = self._root
        line = node.start_mark.line
        for part in path:
            child: yaml.Node | None = None
            if isinstance(node, yaml.MappingNode):
                for key, value in node.value:
                    if key.value == str(part):
                        child, line = value, key.start_mark.line
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                child = node.value[part]
                line = child.start_mark.line
            if child is None:
                break
            node = child
        return int(self.first_line + line + 1)

    @cached_property
    def _root(self) -> yaml.Node:
        # Only a problem needs it, and it costs as much as reading the document did.
        return compose(self.part)


@dataclass(frozen=True, slots=True)
class Spot:
    """A field of a document, and the list that collects problems."""

    source: Source
    path: FieldPath
    problems: list[Problem]

    def at(self, *path: str | int) -> "Spot":
        """Return the spot of a field further down."""
        return Spot(self.source, self.path + path, self.problems)

    def error(self, message: str) -> None:
        """Report what keeps the policy from being used."""
        self.report(message, Severity.ERROR)

    def warn(self, message: str) -> None:
        """Report what a person may act on."""
        self.report(message, Severity.WARNING)

    def report(self, message: str, severity: Severity) -> None:
        """Report a problem of this field."""
        self.problems.append(self.source.problem(self.path, message, severity))


def dotted(path: FieldPath) -> str:
    """Return `path` as it is written: ``spec.rules[0].name``."""
    written = ""
    for part in path:
        written += f"[{part}]" if isinstance(part, int) else f".{part}"
    return written.removeprefix(".")
