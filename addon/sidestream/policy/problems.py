"""
What is wrong with a policy: where, what, and what to do.

Problems are values, collected and reported all at once. An error keeps a policy from being
used; a warning tells a person something that they may act on.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How bad a problem is."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One problem. `line` counts from 1, 0 when there is none; `document` is kind and namespace/name."""

    file: str
    line: int
    document: str
    field: str
    message: str
    severity: Severity = Severity.ERROR

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        subject = " ".join(part for part in (self.document, self.field) if part)
        return _one_line(f"{place}: {self.severity}: {subject}{': ' if subject else ''}{self.message}")

    def as_dict(self) -> dict[str, object]:
        """Return the problem as plain values, for JSON."""
        return {
            "severity": self.severity.value,
            "file": self.file,
            "line": self.line,
            "document": self.document,
            "field": self.field,
            "message": self.message,
        }


class PolicyError(ValueError):
    """Documents that make no policy. `problems` holds all of them, errors and warnings."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


def _one_line(text: str) -> str:
    # Names in documents, and names of files, can hold anything.
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def errors_in(problems: Iterable[Problem]) -> list[Problem]:
    """Return the problems that keep a policy from being used."""
    return [problem for problem in problems if problem.severity is Severity.ERROR]
