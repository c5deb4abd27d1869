"""
What a Kubernetes API server checks of a document by itself, said in CEL.

Rules and bounds stand beside the fields that they are about (`documents`) and travel in their
JSON Schema to the CRDs (`resources`). They say a part of what compiling says, so that it is said
without a webhook too. Bounds hold in Kubernetes alone: a rule's estimated cost grows with how
often it may be checked, and an API server refuses definitions that could cost too much.

Source: Kubernetes, "Validation rules" and "Resource use by validation functions".
"""

from pydantic.config import JsonDict

VALIDATIONS = "x-kubernetes-validations"
MAX_HOST_LENGTH = 253
"""The longest name that DNS knows, in characters."""
MAX_DURATION_LENGTH = 32
"""The longest duration, in characters."""


def rule(expression: str, message: str) -> JsonDict:
    """Return the part of a JSON Schema that carries one rule; `self` is the value that it stands at."""
    return {VALIDATIONS: [{"rule": expression, "message": message}]}


def exactly_one(*fields: str) -> JsonDict:
    """Return the rule that an object has exactly one of `fields`."""
    given = " + ".join(f"(has(self.{field}) ? 1 : 0)" for field in fields)
    return rule(f"{given} == 1", f"exactly one of {', '.join(fields)} must be given")


BARE_HOST: JsonDict = {
    "maxLength": MAX_HOST_LENGTH,
    **rule(
        "!self.contains('/') && !self.matches('^[^:]*:[0-9]+$')",
        "a host is given without scheme, port and path",
    ),
}
ONE_KEY = rule("!has(self.apiKey) || !has(self.apiKeyFrom)", "apiKey and apiKeyFrom exclude each other")
SERVICE_PORT = rule("(has(self.kind) && self.kind != 'Service') || has(self.port)", "a Service is given with its port")
WEIGHTS: JsonDict = {
    "maxItems": 64,
    VALIDATIONS: [
        {
            "rule": "self.all(ref, has(ref.weight)) || !self.exists(ref, has(ref.weight))",
            "message": "give every backend a weight, or none",
        },
        {
            "rule": "!self.all(ref, has(ref.weight) && ref.weight == 0)",
            "message": "all weights are 0, so none could ever be taken",
        },
    ],
}
RULES: JsonDict = {
    "maxItems": 128,
    **rule(
        "self.all(one, !has(one.name) || self.exists_one(other, has(other.name) && other.name == one.name))",
        "two rules have the same name",
    ),
}
EJECTIONS = rule(
    "(has(self.maxEjectionTime) ? duration(self.maxEjectionTime) : duration('300s'))"
    " >= (has(self.baseEjectionTime) ? duration(self.baseEjectionTime) : duration('30s'))",
    "maxEjectionTime is shorter than baseEjectionTime",
)


def at_most(*, items: int | None = None, properties: int | None = None, length: int | None = None) -> JsonDict:
    """Return the part of a JSON Schema that bounds a list, a mapping or a text."""
    bounds = {"maxItems": items, "maxProperties": properties, "maxLength": length}
    return {name: bound for name, bound in bounds.items() if bound is not None}
