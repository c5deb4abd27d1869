"""
The Kubernetes definitions of the documents, made from the documents themselves.

Source: Kubernetes, "CustomResourceDefinition v1": structural schemas, printer columns.
"""

from typing import Any

import yaml

from sidestream.policy.documents import API_GROUP, KINDS

_PRINTER_COLUMNS = {
    "LLMProvider": {"Host": ".spec.host", "Model": ".spec.configs.defaultConfig.openAIConfig.model"},
    "LLMRoute": {"Host": ".spec.host"},
}
_KEPT = (
    "description",
    "type",
    "enum",
    "pattern",
    "minimum",
    "maximum",
    "minLength",
    "minItems",
    "required",
    "format",
    "default",
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
            "names": {"kind": kind, "listKind": f"{kind}List", "plural": f"{singular}s", "singular": singular},
            "versions": [
                {
                    "name": "v1beta1",
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": _object_schema(schema["description"], spec)},
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [
                        {"name": name, "type": "string", "jsonPath": path}
                        for name, path in _PRINTER_COLUMNS[kind].items()
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
            "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
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
