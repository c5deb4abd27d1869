"""The definitions as an API server applies them: shape, unknown fields, and rules in CEL."""

import math
import re
from collections.abc import Iterator
from typing import Any

import cel
import yaml
from jsonschema import Draft202012Validator, FormatChecker

from sidestream.policy.cel import VALIDATIONS
from sidestream.policy.resources import resource_definitions

DEFINITIONS: dict[str, dict[str, Any]] = {
    definition["spec"]["names"]["kind"]: definition
    for definition in yaml.load_all(resource_definitions(), Loader=yaml.CSafeLoader)
}
PRESERVE = "x-kubernetes-preserve-unknown-fields"
MAX_COST_OF_A_RULE = 10_000_000
MAX_COST_OF_A_DEFINITION = 100_000_000
BYTES_OF_A_CHARACTER = 4
"""As an API server reckons `maxLength`."""


def schema_of(kind: str) -> dict[str, Any]:
    (version,) = DEFINITIONS[kind]["spec"]["versions"]
    return version["schema"]["openAPIV3Schema"]


def parts_of(schema: dict[str, Any], path: str = "") -> list[tuple[str, dict[str, Any]]]:
    inner = [(f"{path}.{name}", part) for name, part in schema.get("properties", {}).items()]
    inner += [
        (f"{path}{mark}", schema[name])
        for name, mark in (("additionalProperties", "{}"), ("items", "[]"))
        if name in schema
    ]
    return [(path, schema), *(found for name, part in inner for found in parts_of(part, name))]


def faults(schema: dict[str, Any], value: object) -> list[str]:
    """Return what strict decoding, the schema and its rules have against `value`."""
    validator = Draft202012Validator(_strict(schema), format_checker=FormatChecker())
    wrong = [f"{error.json_path[1:]}: {error.message}" for error in validator.iter_errors(value)]
    return wrong or [f"{path}: {message}" for path, message in broken_rules(schema, value)]


def _strict(schema: dict[str, Any], *, is_metadata: bool = False) -> dict[str, Any]:
    """Return the JSON Schema that also refuses what an API server would prune."""
    result = {name: part for name, part in schema.items() if name != VALIDATIONS}
    if "properties" in schema:
        result["properties"] = {
            name: _strict(part, is_metadata=name == "metadata") for name, part in schema["properties"].items()
        }
    for name in ("items", "additionalProperties"):
        if name in schema:
            result[name] = _strict(schema[name])
    if schema["type"] == "object" and not is_metadata and not schema.get(PRESERVE):
        result.setdefault("additionalProperties", False)
    return result


def broken_rules(schema: dict[str, Any], value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield where a rule in CEL is broken, and its message."""
    for rule in schema.get(VALIDATIONS, []):
        if cel.evaluate(rule["rule"], {"self": value}) is not True:
            yield path, rule["message"]
    if schema["type"] == "array":
        for index, part in enumerate(value):
            yield from broken_rules(schema["items"], part, f"{path}[{index}]")
    elif schema["type"] == "object":
        for name, part in value.items():
            inner = schema.get("properties", {}).get(name) or schema.get("additionalProperties")
            if inner is not None:
                yield from broken_rules(inner, part, f"{path}.{name}")


def costs_of(schema: dict[str, Any], times: float = 1) -> list[float]:
    """
    Return a bound for each rule's estimated cost: what it takes once, by how often it may be checked.

    What has no bound counts as endless. An API server reckons by the steps of an expression, and
    tenths of the bytes of texts that it goes through.
    """
    costs = [times * _cost(rule["rule"], schema) for rule in schema.get(VALIDATIONS, [])]
    for part in schema.get("properties", {}).values():
        costs += costs_of(part, times)
    if "items" in schema:
        costs += costs_of(schema["items"], times * schema.get("maxItems", math.inf))
    if "additionalProperties" in schema:
        costs += costs_of(schema["additionalProperties"], times * schema.get("maxProperties", math.inf))
    return costs


def _cost(expression: str, schema: dict[str, Any]) -> float:
    loops = len(re.findall(r"\.(?:all|exists|exists_one)\(", expression))
    readings = len(re.findall(r"\b(?:contains|duration|matches)\b|== \w+\.name", expression))
    pattern = max(map(len, re.findall(r"matches\('([^']*)'\)", expression)), default=4) / 4
    steps: float = len(re.findall(r"\w+|[=<>|&]{1,2}|[+!?]", expression))
    if readings:
        steps += readings * _longest_text(expression, schema) / 10 * pattern
    return steps * schema["maxItems"] ** loops if loops else steps


def _longest_text(expression: str, schema: dict[str, Any]) -> float:
    """Return how many bytes the longest text has that `expression` can read."""
    fields = {**schema.get("properties", {}), **schema.get("items", {}).get("properties", {})}
    read = [part for name, part in fields.items() if f".{name}" in expression and part["type"] == "string"]
    read += [schema] if schema["type"] == "string" else []
    return max((part.get("maxLength", math.inf) for part in read), default=0) * BYTES_OF_A_CHARACTER
