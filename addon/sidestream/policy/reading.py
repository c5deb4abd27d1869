"""
From the text of a file to documents: YAML first, then the shape of each document.

All problems of a file are found at once, each with its line. Lines are looked for only
when there is a problem to report, so a policy without any costs nothing for them.

Documents of other API groups (a Service, say) may stand in the same files and are left alone.
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sidestream.core.errors import cut
from sidestream.policy import documents
from sidestream.policy.documents import API_GROUP, API_VERSION, KINDS, LLMProvider, LLMRoute
from sidestream.policy.places import Source, Text
from sidestream.policy.problems import Problem
from sidestream.policy.syntax import NotYaml, parse

_HOST_LINE = re.compile(r"""^\s*(?:-\s+)?["']?host["']?\s*:\s*["']?([^\s"']+)""", re.MULTILINE)
"""A host in a file that can't be read, so that what refers to it is not reported as well."""


@dataclass(frozen=True, slots=True)
class Located[D: (LLMProvider, LLMRoute)]:
    """A document and where it stands."""

    document: D
    source: Source


@dataclass(slots=True)
class Documents:
    """
    Everything that was read.

    `broken_hosts`: hosts of documents that have problems of their own, so that what refers to
    them is not reported as well.
    """

    providers: list[Located[LLMProvider]] = field(default_factory=list)
    routes: list[Located[LLMRoute]] = field(default_factory=list)
    broken_hosts: set[str] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)


def read_documents(texts: Sequence[Text]) -> Documents:
    """Read all documents of `texts`, and all problems of their syntax and shape."""
    read = Documents()
    for text in texts:
        try:
            decoded = text.content.decode("utf-8-sig")
            for index, document in enumerate(parse(decoded)):
                if document.content is not None:
                    part = decoded[document.start : document.end]
                    _read_document(Source(text, index, "", part, document.line), document.content, read)
        except UnicodeDecodeError as e:
            reason = f"not UTF-8 (byte {e.start}): save the file as UTF-8"
            _read_broken(text, Problem(text.name, 0, "", "", reason), read)
        except NotYaml as e:
            _read_broken(text, Problem(text.name, e.line, "", "", f"not YAML: {e.reason}"), read)
    return read


def _read_broken(text: Text, problem: Problem, read: Documents) -> None:
    read.problems.append(problem)
    read.broken_hosts.update(_HOST_LINE.findall(text.content.decode("utf-8", "replace")))


def _read_document(place: Source, content: object, read: Documents) -> None:
    if not isinstance(content, dict):
        read.problems.append(place.problem((), "a document is a mapping with apiVersion, kind and spec"))
        return
    source = replace(place, title=_title(content))
    version, kind = content.get("apiVersion"), content.get("kind")
    known = KINDS.get(kind) if isinstance(kind, str) else None
    if str(version).partition("/")[0] != API_GROUP:
        if known is None and kind not in ("List", None):
            return  # some other API's
        read.problems.append(source.problem(("apiVersion",), _not_ours(kind)))
    elif version != API_VERSION:
        read.problems.append(source.problem(("apiVersion",), f"only {API_VERSION} is known here"))
    elif known is None:
        read.problems.append(source.problem(("kind",), _unknown_kind(kind)))
    elif _read_ours(source, known, content, read):
        return
    if known is not LLMRoute:
        spec = content.get("spec")
        if isinstance(spec, dict) and isinstance(spec.get("host"), str):
            read.broken_hosts.add(spec["host"])


def _read_ours(source: Source, model: type[LLMProvider | LLMRoute], content: dict[Any, Any], read: Documents) -> bool:
    try:
        document = model.model_validate(content)
    except ValidationError as e:
        read.problems.extend(_shape_problem(source, error) for error in e.errors(include_url=False))
        return False
    if isinstance(document, LLMProvider):
        read.providers.append(Located(document, source))
    else:
        read.routes.append(Located(document, source))
    return True


def _not_ours(kind: object) -> str:
    if kind == "List":
        return "a List is not read: separate its items with '---'"
    return f"a policy document has apiVersion: {API_VERSION}" + ("" if kind else " and a kind")


def _unknown_kind(kind: object) -> str:
    if kind is None:
        return f"is required: one of {', '.join(KINDS)}"
    return f"unknown kind {cut(str(kind))!r}{_suggest(str(kind), KINDS)}; known here: {', '.join(KINDS)}"


def _title(content: dict[Any, Any]) -> str:
    metadata = content.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    name = f"{metadata.get('namespace') or 'default'}/{metadata.get('name') or '?'}"
    return cut(f"{content.get('kind') or 'document'} {name}")


_KNOWN_FIELDS = sorted(
    {
        field.alias or name
        for model in vars(documents).values()
        if isinstance(model, type) and issubclass(model, BaseModel)
        for name, field in model.model_fields.items()
    }
)

_EXPECTED = {
    "missing": "is required",
    "string_type": "must be text; put it in quotes if it looks like a number or true/false",
    "bool_type": "must be true or false, without quotes",
    "int_type": "must be a whole number, without quotes",
    "dict_type": "must be a mapping (name: value)",
    "model_type": "must be a mapping (name: value)",
    "list_type": "must be a list (- item)",
    "string_too_short": "must not be empty",
    "too_short": "must not be empty",
}


def _shape_problem(source: Source, error: ErrorDetails) -> Problem:
    path = tuple(part for part in error["loc"] if part != "[key]")
    kind = error["type"]
    if kind == "extra_forbidden":
        message = _unknown_field(str(path[-1]))
    elif kind == "value_error":
        message = error["msg"].removeprefix("Value error, ")
    elif kind == "string_pattern_mismatch":
        found = cut(repr(error["input"]))
        message = (
            f"{found} is no header name"
            if "[key]" in error["loc"] or path[-1] == "header"
            else f"{found} is no path: it starts with '/' and holds visible ASCII only"
        )
    else:
        message = _EXPECTED.get(kind) or error["msg"][:1].lower() + error["msg"][1:]
    return source.problem(path, message)


def _unknown_field(name: str) -> str:
    if name in _KNOWN_FIELDS:
        return "unknown field: it belongs to another part of the document"
    return f"unknown field{_suggest(name, _KNOWN_FIELDS)}"


def _suggest(word: str, known: Sequence[str] | dict[str, Any]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.7)
    return f" (did you mean {close[0]!r}?)" if close else ""
