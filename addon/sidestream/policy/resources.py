"""
The Kubernetes definitions of the documents, made from the documents themselves.

`k8s/crds/definitions.yaml` is what `resource_definitions` returns, written down.

Source: Kubernetes, "CustomResourceDefinition v1": structural schemas, printer columns; the conditions
are those of the Gateway API.
"""

from typing import Any

import yaml

from sidestream.policy.cel import VALIDATIONS
from sidestream.policy.documents import API_GROUP, KINDS

_SHORT_NAMES = {"LLMProvider": "llmp", "LLMRoute": "llmr"}
CONDITIONS = {
    "Accepted": "it has no problems of its own",
    "ResolvedRefs": "all that it refers to is there: Secrets and files of keys, providers",
    "Programmed": "it is in what sidecars are given",
}
"""Types of conditions in the status → what it means that one is true."""


def _state(condition: str) -> str:
    return f'.status.conditions[?(@.type=="{condition}")].status'


_PRINTER_COLUMNS: dict[str, list[tuple[str, str, str]]] = {
    "LLMProvider": [
        ("Host", "string", ".spec.host"),
        ("Model", "string", ".spec.configs.defaultConfig.openAIConfig.model"),
    ],
    "LLMRoute": [("Host", "string", ".spec.host")],
}
_COMMON_COLUMNS = [
    *((condition, "string", _state(condition)) for condition in CONDITIONS),
    ("Age", "date", ".metadata.creationTimestamp"),
]
_KEPT = (
    "description",
    "type",
    "enum",
    "pattern",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "maxProperties",
    "required",
    "format",
    "default",
    VALIDATIONS,
)
"""JSON Schema keywords that a structural schema may hold and that mean the same there."""


def resource_definitions() -> str:
    """Return the definitions of all kinds as YAML documents."""
    definitions = [_definition(kind) for kind in KINDS]
    return yaml.dump_all(definitions, Dumper=_Dumper, sort_keys=False, width=110)


class _Dumper(yaml.SafeDumper):
    """Writes everything out: readers of definitions need not know anchors."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 its signature
        return True


def _definition(kind: str) -> dict[str, Any]:
    singular = kind.lower()
    schema = KINDS[kind].model_json_schema(by_alias=True, mode="validation")
    spec = _structural(schema["properties"]["spec"], schema["$defs"])
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{singular}s.{API_GROUP}"},
        "spec": {
            "group": API_GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": f"{singular}s",
                "singular": singular,
                "shortNames": [_SHORT_NAMES[kind]],
                "categories": ["sidestream"],
            },
            "versions": [
                {
                    "name": "v1beta1",
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": _object_schema(schema["description"], spec)},
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [
                        {"name": name, "type": column_type, "jsonPath": path}
                        for name, column_type, path in [*_PRINTER_COLUMNS[kind], *_COMMON_COLUMNS]
                    ],
                }
            ],
        },
    }


def _object_schema(description: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "description": description,
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": _status_schema(),
        },
    }


def _status_schema() -> dict[str, Any]:
    meanings = "; ".join(f"{name}: {meaning}" for name, meaning in CONDITIONS.items())
    generation = {
        "description": "The metadata.generation that was looked at.",
        "type": "integer",
        "format": "int64",
        "minimum": 0,
    }
    return {
        "description": "What was made of the document; the controller writes it.",
        "type": "object",
        "properties": {
            "observedGeneration": generation,
            "conditions": {
                "description": f"{meanings}.",
                "type": "array",
                "maxItems": 8,
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
                "items": {
                    "description": "One aspect of the state.",
                    "type": "object",
                    "required": ["type", "status", "lastTransitionTime", "reason", "message"],
                    "properties": {
                        "type": {"description": "The aspect.", "type": "string", "minLength": 1, "maxLength": 316},
                        "status": {
                            "description": "Whether it is so.",
                            "type": "string",
                            "enum": ["True", "False", "Unknown"],
                        },
                        "observedGeneration": generation,
                        "lastTransitionTime": {
                            "description": "When the status became this.",
                            "type": "string",
                            "format": "date-time",
                        },
                        "reason": {
                            "description": "Why, in a word.",
                            "type": "string",
                            "maxLength": 1024,
                            "minLength": 1,
                            "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
                        },
                        "message": {
                            "description": "Why, in sentences: every problem with its field.",
                            "type": "string",
                            "maxLength": 32768,
                        },
                    },
                },
            },
        },
    }


def _is_of_type(value: object, json_type: str | None) -> bool:
    kinds: dict[str | None, type] = {"string": str, "integer": int, "boolean": bool}
    return json_type in kinds and type(value) is kinds[json_type]


def _structural(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON Schema of pydantic as a structural schema: references and unions with null resolved."""
    schema = dict(schema)
    if "anyOf" in schema:
        (inner,) = (option for option in schema.pop("anyOf") if option.get("type") != "null")
        schema = {**inner, **schema}
    if "$ref" in schema:
        target = definitions[schema.pop("$ref").rpartition("/")[2]]
        schema = {**target, **schema}
    result = {name: schema[name] for name in _KEPT if name in schema and schema[name] is not None}
    if not _is_of_type(result.get("default"), result.get("type")):
        result.pop("default", None)  # that of a part, or of a duration as a number; what is absent is compiled alike
    # What a schema does not name, the API server drops: conditions that went that way would match everything.
    values = schema.get("additionalProperties")
    if "patternProperties" in schema:
        (values,) = schema["patternProperties"].values()  # names of a certain form, which can't be said here
    if "properties" in schema:
        result["properties"] = {name: _structural(part, definitions) for name, part in schema["properties"].items()}
    elif values is True:
        result["x-kubernetes-preserve-unknown-fields"] = True  # any JSON, null too
    elif values:
        result["additionalProperties"] = _structural(values, definitions)
    if "items" in schema:
        result["items"] = _structural(schema["items"], definitions)
    return result
