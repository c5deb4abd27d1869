"""
The Kubernetes definitions are structural, and say what the documents say.

Source: Kubernetes, "Structural schemas" and "Field pruning"; the checks are those of the API
server (apiextensions-apiserver, pkg/apiserver/schema/validation.go).
"""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidestream.policy.documents import KINDS
from sidestream.policy.resources import resource_definitions
from tests.policy.test_published import MANIFESTS
from tests.policy.test_reading import GOOD
from tests.policy.written import compiled

DEFINITIONS = {
    definition["spec"]["names"]["kind"]: definition for definition in yaml.safe_load_all(resource_definitions())
}
TYPES = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool}
ALLOWED = {
    "type", "description", "properties", "additionalProperties", "items", "required", "enum", "pattern", "default",
    "minimum", "maximum", "minLength", "minItems", "x-kubernetes-preserve-unknown-fields",
}  # fmt: skip


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


def faults(schema: dict[str, Any], value: object, path: str = "") -> list[str]:
    """Return where `value` does not satisfy the structural `schema`, or would lose a part to pruning."""
    kind = schema.get("type")
    if kind and (not isinstance(value, TYPES[kind]) or (isinstance(value, bool) and kind != "boolean")):
        return [f"{path}: no {kind}"]
    found = [f"{path}: not one of {schema['enum']}"] if value not in schema.get("enum", [value]) else []
    if isinstance(value, str):
        found += [f"{path}: too short"] if len(value) < schema.get("minLength", 0) else []
        found += [f"{path}: not {schema['pattern']}"] if not re.search(schema.get("pattern", ""), value) else []
    elif isinstance(value, list):
        found += [f"{path}: too short"] if len(value) < schema.get("minItems", 0) else []
        found += [
            fault for index, part in enumerate(value) for fault in faults(schema["items"], part, f"{path}[{index}]")
        ]
    elif isinstance(value, dict):
        found += [f"{path}.{name}: missing" for name in schema.get("required", []) if name not in value]
        for name, part in value.items():
            inner = schema.get("properties", {}).get(name) or schema.get("additionalProperties")
            if inner is not None:
                found += faults(inner, part, f"{path}.{name}")
            elif not schema.get("x-kubernetes-preserve-unknown-fields") and path != ".metadata":
                found.append(f"{path}.{name}: pruned")
    elif kind in ("integer", "number"):
        low, high = schema.get("minimum", value), schema.get("maximum", value)
        found += [f"{path}: not in {low}..{high}"] if not low <= value <= high else []
    return found


def published() -> list[dict[str, Any]]:
    documents = [yaml.safe_load(path.read_text()) for path in sorted(MANIFESTS.glob("*.yaml"))]
    return [document for document in documents if document["kind"] in KINDS]


PARTS = [(f"{kind}{path}", part) for kind in KINDS for path, part in parts_of(schema_of(kind))]


def test_there_is_a_definition_of_each_kind():
    assert sorted(DEFINITIONS) == sorted(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_definition_is_named_as_kubernetes_wants(kind):
    definition = DEFINITIONS[kind]
    spec = definition["spec"]
    names = spec["names"]

    assert (definition["apiVersion"], definition["kind"]) == ("apiextensions.k8s.io/v1", "CustomResourceDefinition")
    assert definition["metadata"]["name"] == f"{names['plural']}.{spec['group']}"
    assert names == {"kind": kind, "listKind": f"{kind}List", "plural": f"{kind.lower()}s", "singular": kind.lower()}
    assert (spec["group"], spec["scope"]) == ("istio.alibabacloud.com", "Namespaced")
    assert [(version["name"], version["served"], version["storage"]) for version in spec["versions"]] == [
        ("v1beta1", True, True)
    ]
    assert spec["versions"][0]["subresources"] == {"status": {}}


@pytest.mark.parametrize("kind", KINDS)
def test_printer_columns_lead_to_fields(kind):
    known = {path for path, _ in parts_of(schema_of(kind))}

    columns = DEFINITIONS[kind]["spec"]["versions"][0]["additionalPrinterColumns"]

    assert [column["name"] for column in columns if column["jsonPath"] not in known] == []
    assert "Host" in [column["name"] for column in columns]


@pytest.mark.parametrize(("name", "part"), PARTS, ids=[name for name, _ in PARTS])
def test_every_part_is_structural(name, part):
    assert set(part) <= ALLOWED
    assert part.get("type") in TYPES
    assert not ("properties" in part and "additionalProperties" in part)
    assert part.get("type") != "array" or "items" in part
    assert set(part.get("required", [])) <= set(part.get("properties", {}))
    assert "default" not in part or faults({**part, "default": None}, part["default"]) == []
    assert re.compile(part.get("pattern", ""))
    assert isinstance(part.get("description", ""), str)


@pytest.mark.parametrize(("name", "part"), PARTS, ids=[name for name, _ in PARTS])
def test_no_object_loses_all_it_holds(name, part):
    kept = {"properties", "additionalProperties", "x-kubernetes-preserve-unknown-fields"} & set(part)

    assert part["type"] != "object" or kept or name.endswith(".metadata")


@pytest.mark.parametrize("kind", KINDS)
def test_a_definition_leaves_the_frame_to_kubernetes(kind):
    schema = schema_of(kind)

    assert schema["type"] == "object"
    assert schema["required"] == ["spec"]
    assert schema["properties"]["metadata"] == {"type": "object"}
    assert schema["properties"]["apiVersion"] == schema["properties"]["kind"] == {"type": "string"}


def fields_of(model: Any) -> dict[str, Any]:
    return {field.alias: field for field in model.model_fields.values()}


def paths_of(schema: dict[str, Any], definitions: dict[str, Any], path: str = "") -> set[str]:
    """Return the paths of all fields of a JSON Schema as pydantic makes it."""
    if "$ref" in schema:
        return paths_of(definitions[schema["$ref"].rpartition("/")[2]], definitions, path)
    found = {path} if path else set()
    for option in schema.get("anyOf", []):
        found |= paths_of(option, definitions, path)
    for name, part in schema.get("properties", {}).items():
        found |= paths_of(part, definitions, f"{path}.{name}")
    for part in [*schema.get("patternProperties", {}).values(), schema.get("additionalProperties")]:
        if isinstance(part, dict):
            found |= paths_of(part, definitions, f"{path}{{}}")
    if "items" in schema:
        found |= paths_of(schema["items"], definitions, f"{path}[]")
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_fields_are_those_of_the_documents(kind):
    schema = KINDS[kind].model_json_schema(by_alias=True)
    written = paths_of(schema["properties"]["spec"], schema["$defs"])

    defined = {path for path, _ in parts_of(schema_of(kind)["properties"]["spec"]) if path}

    assert defined == written
    assert [path for path in defined if "_" in path] == []


@pytest.mark.parametrize("document", [*published(), *GOOD], ids=lambda document: document["metadata"]["name"])
def test_a_good_document_is_good_in_kubernetes_and_loses_nothing(document):
    assert faults(schema_of(document["kind"]), document) == []


def test_the_published_manifests_were_looked_at():
    assert [document["kind"] for document in published()] == [
        "LLMProvider",
        "LLMRoute",
        "LLMProvider",
        "LLMProvider",
        "LLMRoute",
    ]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("host",), ""),
        (("host",), 7),
        (("path",), "v1"),
        (("endpoint", "port"), 0),
        (("endpoint", "port"), "443"),
        (("endpoint", "tls", "mode"), "NONE"),
        (("outlierDetection", "consecutive5xxErrors"), 0),
        (("outlierDetection", "consecutive429Errors"), 1001),
        (("outlierDetection", "interval"), 10),
        (("outlierDetection", "baseEjectionTime"), 30.0),
        (("outlierDetection", "consecutiveErrors"), 5),
        (("xyzzy",), 1),
        (("configs", "defaultConfig", "openAIConfig", "stream"), "yes"),
        (("configs", "defaultConfig", "openAIConfig", "apikey"), "x"),
    ],
)
def test_what_a_shape_forbids_is_forbidden_in_kubernetes_too(path, value):
    spec: dict[str, Any] = {"host": "a.example"}
    place = spec
    for name in path[:-1]:
        place = place.setdefault(name, {})
    place[path[-1]] = value
    document = {**GOOD[0], "spec": spec}

    assert compiled(yaml.safe_dump(document)).snapshot is None
    assert faults(schema_of("LLMProvider"), document) != []


def test_a_header_that_a_route_looks_at_is_not_dropped():
    headers = schema_of("LLMRoute")["properties"]["spec"]["properties"]["rules"]["items"]["properties"]["matches"][
        "items"
    ]

    conditions = headers["properties"]["headers"]["additionalProperties"]["properties"]

    assert sorted(conditions) == ["exact", "prefix", "present", "regex"]


def test_a_parameter_may_be_null_to_be_removed():
    config = schema_of("LLMProvider")["properties"]["spec"]["properties"]["configs"]["properties"]["defaultConfig"]

    # With a schema for its values, the API server would drop those that are null.
    assert config["properties"]["openAIConfig"]["properties"]["parameters"] == {
        "description": "Body fields to set or replace; null removes a field.",
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": True,
    }


def test_a_default_that_kubernetes_writes_changes_nothing():
    defaults = {name: part["default"] for name, part in PARTS if "default" in part}

    assert defaults == {
        "LLMProvider.spec.path": "/v1/chat/completions",
        "LLMProvider.spec.endpoint.tls.mode": "SIMPLE",
        "LLMProvider.spec.outlierDetection.consecutive5xxErrors": 5,
        "LLMRoute.spec.rules[].backendRefs[].priority": 0,
    }


def test_definitions_are_read_by_parsers_that_know_no_anchors():
    text = resource_definitions()

    assert re.search(r"[&*]id\d", text) is None
    assert "$ref" not in text
    assert Path(__file__).name not in text
