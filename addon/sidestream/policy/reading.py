"""
From the text of a file to documents: YAML first, then the shape of each document.

All problems of a file are found at once, each with its line. Lines are looked for only
when there is a problem to report, so a policy without any costs nothing for them.

Documents of other API groups (a Service, say) may stand in the same files and are left alone.
"""

import difflib
import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sidestream.core.errors import cut
from sidestream.policy import documents
from sidestream.policy.documents import API_GROUP, API_VERSION, KINDS, LLMProvider, LLMRoute
from sidestream.policy.places import Source, Text, line_of
from sidestream.policy.problems import Problem


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
            contents = list(yaml.load_all(text.content.decode("utf-8-sig"), Loader=_Loader))
        except yaml.YAMLError as e:
            read.problems.append(_syntax_problem(text, e))
        except UnicodeDecodeError as e:
            read.problems.append(Problem(text.name, 0, "", "", f"not UTF-8 (byte {e.start}): save the file as UTF-8"))
        except RecursionError:
            read.problems.append(Problem(text.name, 0, "", "", "nested too deeply"))
        else:
            for index, content in enumerate(contents):
                if content is not None:
                    _read_document(text, index, content, read)
    return read


class _Loader(yaml.CSafeLoader):
    """
    A safe loader for policies.

    It refuses a key that stands twice, since the first would be lost silently, and knows the
    scalars of YAML 1.2: `on` is a word (`retry.on` is a field) and a date is text.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 as its base class has it
        first: [
            (tag, pattern)
            for tag, pattern in resolvers
            if tag not in ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp")
        ]
        for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002 its signature
        seen = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.value in seen:
                message = f"the key {cut(str(key.value))!r} stands twice in one mapping: remove one"
                raise yaml.constructor.ConstructorError(None, None, message, key.start_mark)
            seen.add(key.value if isinstance(key.value, str) else id(key))
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"true|True|TRUE|false|False|FALSE"), list("tTfF"))


def _syntax_problem(text: Text, error: yaml.YAMLError) -> Problem:
    mark = getattr(error, "problem_mark", None)
    reason = getattr(error, "problem", None) or str(error)
    return Problem(text.name, mark.line + 1 if mark else 0, "", "", f"not YAML: {cut(str(reason))}")


def _read_document(text: Text, index: int, content: object, read: Documents) -> None:
    if not isinstance(content, dict):
        line = line_of(text, index, ())
        read.problems.append(Problem(text.name, line, "", "", "a document is a mapping with apiVersion, kind and spec"))
        return
    source = Source(text, index, _title(content))
    group = str(content.get("apiVersion", "")).partition("/")[0]
    kind = content.get("kind")
    if group != API_GROUP:
        if kind in KINDS or kind in ("List", None):
            read.problems.append(source.problem(("apiVersion",), _not_ours(kind)))
        return
    if content["apiVersion"] != API_VERSION:
        read.problems.append(source.problem(("apiVersion",), f"only {API_VERSION} is known here"))
    elif kind not in KINDS:
        message = f"unknown kind {cut(str(kind))!r}{_suggest(str(kind), KINDS)}; known here: {', '.join(KINDS)}"
        read.problems.append(source.problem(("kind",), message))
    else:
        _read_ours(source, KINDS[kind], content, read)


def _read_ours(source: Source, model: type[LLMProvider | LLMRoute], content: dict[Any, Any], read: Documents) -> None:
    try:
        document = model.model_validate(content)
    except ValidationError as e:
        read.problems.extend(_shape_problem(source, error) for error in e.errors(include_url=False))
        spec = content.get("spec")
        if isinstance(spec, dict) and isinstance(spec.get("host"), str):
            read.broken_hosts.add(spec["host"])
    else:
        if isinstance(document, LLMProvider):
            read.providers.append(Located(document, source))
        else:
            read.routes.append(Located(document, source))


def _not_ours(kind: object) -> str:
    if kind == "List":
        return "a List is not read: separate its items with '---'"
    return f"a policy document has apiVersion: {API_VERSION}" + ("" if kind else " and a kind")


def _title(content: dict[Any, Any]) -> str:
    metadata = content.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    name = f"{metadata.get('namespace', 'default')}/{metadata.get('name', '?')}"
    return cut(f"{content.get('kind', 'document')} {name}")


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
        message = f"unknown field{_suggest(str(path[-1]), _KNOWN_FIELDS)}"
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


def _suggest(word: str, known: Sequence[str] | dict[str, Any]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.7)
    return f" (did you mean {close[0]!r}?)" if close else ""
