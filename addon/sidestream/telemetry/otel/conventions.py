"""
Names of OpenTelemetry's, and ours beside them.

Source: OpenTelemetry semantic conventions, GenAI (status Development), HTTP and general attributes.
tests/telemetry/otel/test_conventions.py holds them against the package `opentelemetry-semantic-conventions`.
"""

OPERATION_NAME = "gen_ai.operation.name"
PROVIDER_NAME = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
REQUEST_STREAM = "gen_ai.request.stream"
MAX_TOKENS = "gen_ai.request.max_tokens"
TEMPERATURE = "gen_ai.request.temperature"
TOP_P = "gen_ai.request.top_p"
RESPONSE_MODEL = "gen_ai.response.model"
RESPONSE_ID = "gen_ai.response.id"
FINISH_REASONS = "gen_ai.response.finish_reasons"
TIME_TO_FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
CACHE_READ_TOKENS = "gen_ai.usage.cache_read.input_tokens"
REASONING_TOKENS = "gen_ai.usage.reasoning.output_tokens"
INPUT_MESSAGES = "gen_ai.input.messages"
OUTPUT_MESSAGES = "gen_ai.output.messages"
TOKEN_TYPE = "gen_ai.token.type"  # noqa: S105 it is no secret
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"
CLIENT_ADDRESS = "client.address"
CLIENT_PORT = "client.port"
ERROR_TYPE = "error.type"
STATUS_CODE = "http.response.status_code"
RESEND_COUNT = "http.request.resend_count"

ID = "sidestream.id"
HOST = "sidestream.host"
ROUTE = "sidestream.route"
RULE = "sidestream.rule"
PROVIDER = "sidestream.provider"
CLIENT_MODEL = "sidestream.request_model"
ATTEMPTS = "sidestream.attempts"
COST = "sidestream.cost_usd"
USAGE_PARTIAL = "sidestream.usage_partial"
OVERHEAD = "sidestream.overhead_seconds"
BYTES_IN, BYTES_OUT = "sidestream.bytes_in", "sidestream.bytes_out"
EVENTS_OUT = "sidestream.events_out"
REQUEST_BODY, RESPONSE_BODY = "sidestream.request_body", "sidestream.response_body"

METRICS = {
    "gen_ai_client_token_usage": ("gen_ai.client.token.usage", "{token}"),
    "gen_ai_client_operation_duration_seconds": ("gen_ai.client.operation.duration", "s"),
    "gen_ai_client_operation_time_to_first_chunk_seconds": ("gen_ai.client.operation.time_to_first_chunk", "s"),
    "gen_ai_client_operation_time_per_output_chunk_seconds": ("gen_ai.client.operation.time_per_output_chunk", "s"),
}
"""Metric of Prometheus' → name and unit of OpenTelemetry's, where that is one of its own."""

LABELS = {
    name.replace(".", "_"): name
    for name in (
        *(OPERATION_NAME, PROVIDER_NAME, REQUEST_MODEL, RESPONSE_MODEL, TOKEN_TYPE),
        *(SERVER_ADDRESS, SERVER_PORT, ERROR_TYPE),
    )
}
"""Label of Prometheus' → attribute of OpenTelemetry's, where that is one of its own."""

ASKED = {"max_tokens": MAX_TOKENS, "max_completion_tokens": MAX_TOKENS, "temperature": TEMPERATURE, "top_p": TOP_P}
"""Field of a request's body → attribute."""

_UNITS = {"_seconds": "s", "_bytes": "By"}


def metric_of(name: str) -> tuple[str, str]:
    """Return name and unit of a metric of Prometheus': those that OpenTelemetry would make this name of."""
    if name in METRICS:
        return METRICS[name]
    unit = next((unit for ending, unit in _UNITS.items() if name.endswith(ending)), "")
    for ending in _UNITS:
        name = name.removesuffix(ending)
    return name.replace("sidestream_", "sidestream.", 1), unit
