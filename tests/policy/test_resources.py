"""
The Kubernetes definitions are structural, and say what the documents say.

Source: Kubernetes, "Structural schemas" and "Field pruning"; the checks are those of the API
server (apiextensions-apiserver, pkg/apiserver/schema/validation.go).
"""

import re
from pathlib import Path
from typing import Any

import cel
import kubernetes_validate
import pytest
import yaml

from sidestream.policy.cel import VALIDATIONS
from sidestream.policy.documents import KINDS
from sidestream.policy.resources import CONDITIONS, resource_definitions
from tests.policy.definitions import (
    DEFINITIONS,
    MAX_COST_OF_A_DEFINITION,
    MAX_COST_OF_A_RULE,
    PRESERVE,
    costs_of,
    faults,
    parts_of,
    schema_of,
)
from tests.policy.test_published import MANIFESTS
from tests.policy.test_reading import GOOD
from tests.policy.written import compiled

WRITTEN = Path(__file__).parents[2] / "k8s" / "crds" / "definitions.yaml"
TYPES = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool}
ALLOWED = {
    "type", "format", "description", "properties", "additionalProperties", "items", "required", "enum", "pattern",
    "default", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "maxProperties", PRESERVE,
    "x-kubernetes-list-type", "x-kubernetes-list-map-keys", VALIDATIONS,
}  # fmt: skip
SCALARS = ("string", "integer", "number", "boolean")


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
    assert names == {
        "kind": kind,
        "listKind": f"{kind}List",
        "plural": f"{kind.lower()}s",
        "singular": kind.lower(),
        "shortNames": [{"LLMProvider": "llmp", "LLMRoute": "llmr"}[kind]],
        "categories": ["sidestream"],
    }
    assert (spec["group"], spec["scope"]) == ("istio.alibabacloud.com", "Namespaced")
    assert [(version["name"], version["served"], version["storage"]) for version in spec["versions"]] == [
        ("v1beta1", True, True)
    ]
    assert spec["versions"][0]["subresources"] == {"status": {}}


@pytest.mark.parametrize("version", ["1.29", "1.37"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_definition_satisfies_kubernetes_own_schema(kind, version):
    kubernetes_validate.validate(DEFINITIONS[kind], version, strict=True)


def test_the_definitions_are_written_down_as_they_are_made():
    # sidestream crds >k8s/crds/definitions.yaml
    assert WRITTEN.read_text() == resource_definitions()


@pytest.mark.parametrize("kind", KINDS)
def test_printer_columns_lead_to_fields(kind):
    known = {path for path, _ in parts_of(schema_of(kind))} | {".metadata.creationTimestamp"}

    columns = DEFINITIONS[kind]["spec"]["versions"][0]["additionalPrinterColumns"]
    fields = [re.sub(r"\[\?\(@\.type==\"\w+\"\)\]", "[]", column["jsonPath"]) for column in columns]

    assert [field for field in fields if field not in known] == []
    assert [column["name"] for column in columns if column["name"] != "Model"] == ["Host", *CONDITIONS, "Age"]


@pytest.mark.parametrize(("name", "part"), PARTS, ids=[name for name, _ in PARTS])
def test_every_part_is_structural(name, part):
    assert set(part) <= ALLOWED
    assert part.get("type") in TYPES
    assert not ("properties" in part and "additionalProperties" in part)
    assert part.get("type") != "array" or "items" in part
    assert set(part.get("required", [])) <= set(part.get("properties", {}))
    assert "default" not in part or faults(part, part["default"]) == []
    assert re.compile(part.get("pattern", ""))
    assert "format" not in part or (part["type"], part["format"]) in {("integer", "int64"), ("string", "date-time")}


@pytest.mark.parametrize(("name", "part"), PARTS, ids=[name for name, _ in PARTS])
def test_bounds_are_on_what_they_bound(name, part):
    bounds = {
        "string": {"minLength", "maxLength", "pattern", "enum"},
        "array": {"minItems", "maxItems", "x-kubernetes-list-type", "x-kubernetes-list-map-keys"},
        "object": {"maxProperties", "required", PRESERVE},
        "integer": {"minimum", "maximum"},
        "boolean": set(),
    }
    foreign = set().union(*bounds.values()) - bounds[part["type"]]

    assert set(part) & foreign == set()


@pytest.mark.parametrize(("name", "part"), PARTS, ids=[name for name, _ in PARTS])
def test_the_keys_of_a_list_that_is_a_map_are_required_scalars(name, part):
    keys = part.get("x-kubernetes-list-map-keys", [])

    assert bool(keys) == (part.get("x-kubernetes-list-type") == "map")
    assert set(keys) <= set(part.get("items", {}).get("required", []))
    assert [key for key in keys if part["items"]["properties"][key]["type"] not in SCALARS] == []


@pytest.mark.parametrize(("name", "part"), PARTS, ids=[name for name, _ in PARTS])
def test_every_field_is_described(name, part):
    frame = name.partition(".")[2] in {"apiVersion", "kind", "metadata"}

    assert frame or name.endswith(("[]", "{}")) or part["description"].endswith((".", ")"))


@pytest.mark.parametrize(("name", "part"), PARTS, ids=[name for name, _ in PARTS])
def test_no_object_loses_all_it_holds(name, part):
    kept = {"properties", "additionalProperties", PRESERVE} & set(part)

    assert part["type"] != "object" or kept or name.endswith(".metadata")


@pytest.mark.parametrize("kind", KINDS)
def test_no_rule_costs_more_than_an_api_server_allows(kind):
    costs = costs_of(schema_of(kind))

    assert costs
    assert max(costs) < MAX_COST_OF_A_RULE
    assert sum(costs) < MAX_COST_OF_A_DEFINITION


@pytest.mark.parametrize(
    "rule",
    [(name, rule) for name, part in PARTS for rule in part.get(VALIDATIONS, [])],
    ids=lambda rule: f"{rule[0]} {rule[1]['message']}",
)
def test_a_rule_is_an_expression_with_a_message(rule):
    _, written = rule

    assert cel.compile(written["rule"])
    assert set(written) == {"rule", "message"}
    assert written["message"].isprintable()


@pytest.mark.parametrize("kind", KINDS)
def test_a_status_with_conditions_is_kept(kind):
    condition = {
        "type": "Accepted",
        "status": "False",
        "observedGeneration": 3,
        "lastTransitionTime": "2026-11-25T10:00:00Z",
        "reason": "Invalid",
        "message": "spec.host: 'a:80' is no host",
    }
    status = schema_of(kind)["properties"]["status"]

    assert faults(status, {"observedGeneration": 3, "conditions": [condition]}) == []
    assert faults(status, {"conditions": [{**condition, "status": "false"}]}) != []
    assert faults(status, {"conditions": [{"type": "Accepted", "status": "True"}]}) != []


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
        PRESERVE: True,
    }


def test_a_default_that_kubernetes_writes_changes_nothing():
    defaults = {name: part["default"] for name, part in PARTS if "default" in part}

    assert defaults == {
        "LLMProvider.spec.path": "/v1/chat/completions",
        "LLMProvider.spec.endpoint.tls.mode": "SIMPLE",
        "LLMProvider.spec.outlierDetection.consecutive5xxErrors": 5,
        "LLMRoute.spec.rules[].backendRefs[].backendRef.group": "",
        "LLMRoute.spec.rules[].backendRefs[].backendRef.kind": "Service",
        "LLMRoute.spec.rules[].backendRefs[].priority": 0,
    }


def test_definitions_are_read_by_parsers_that_know_no_anchors():
    text = resource_definitions()

    assert re.search(r"[&*]id\d", text) is None
    assert "$ref" not in text
    assert Path(__file__).name not in text
