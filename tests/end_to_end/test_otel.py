"""Spans and metrics of a real proxy, as a collector gets them."""

import json
import os
import socket
import subprocess

import httpx2
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.collector import attributes_of, collecting
from tests.scripted import scripted, sized
from tests.sdk_calls import CLIENT_KEY
from tests.world import (
    BIN,
    DASHSCOPE_KEY,
    ENVIRONMENT,
    MOONSHOT_KEY,
    free_port,
    mitmproxy_script,
    provider_document,
    sidestream_run,
    wait_for,
)

HOST = "dashscope.aliyuncs.com"
CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "what-was-asked"}]}
STREAM = CHAT | {"stream": True}
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "vendor=of-the-app"}
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "50", "OTEL_METRIC_EXPORT_INTERVAL": "100"}
WELL = sized(b'{"model": "m", "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}')
DOWN = WELL.replace(b"200 OK", b"500 Internal Server Error")


@pytest.fixture(scope="module")
def collector():
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="module")
def failing(shared_world):
    """A provider of many names that answers as the name says."""
    with scripted(
        lambda line, request: line.send(DOWN if b"down.test" in request else WELL),
        shared_world.authority.issue("*.of-otel.test", "down.test", "api.openai.com"),
    ) as provider:
        yield provider


@pytest.fixture(scope="module")
def traced(shared_world, collector, failing):
    policies = shared_world.policies("policies-of-otel")
    kind = {"apiVersion": "istio.alibabacloud.com/v1beta1", "kind": "LLMRoute", "metadata": {"name": "failover"}}
    refs = [{"providerHost": "down.test", "priority": 0}, {"providerHost": "up.of-otel.test", "priority": 1}]
    route = kind | {"spec": {"host": "failover.test", "rules": [{"name": "tiers", "backendRefs": refs}]}}
    models = {"down.test": "m", "up.of-otel.test": "m", "api.openai.com": "gpt-4o"}
    documents = [provider_document(host, failing.port, model=model) for host, model in models.items()]
    (policies / "otel.yaml").write_text("\n---\n".join([*documents, json.dumps(route)]))
    environment = SOON | {
        "SIDESTREAM_COST": "true",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_EXPORTER_OTLP_HEADERS": "x-collector-key=of-the-collector",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
    }
    with sidestream_run(shared_world, "--otel", policies=policies, environment=environment) as proxy:
        yield proxy


def call(proxy, settings="", *, host=HOST, body=CHAT, path="/", **headers):
    """Make a call; return its record."""
    before = len(proxy.records)
    headers |= {"x-standin": settings} if settings else {}
    with httpx2.Client(proxy=proxy.url, timeout=20, trust_env=False) as client:
        client.post(f"http://{host}{path}", content=json.dumps(body), headers=headers)
    [record] = wait_for(lambda: proxy.records[before:])
    return record


def spans_of(collector, record):
    """Return the exchange's span and those of its attempts."""
    span = wait_for(lambda: next((one for one in collector.spans if one.span_id.hex() == record["span_id"]), None))
    return span, [one for one in collector.spans if one.parent_span_id == span.span_id]


def test_an_exchange_is_a_span_below_the_apps_own(world, traced, collector):
    record = call(traced, "prompt-tokens=70 completion-tokens=31 cached=64 reasoning=8", **PARENT)

    span, [attempt] = spans_of(collector, record)
    assert (span.trace_id.hex(), span.parent_span_id.hex(), span.trace_state) == (TRACE, SPAN, "vendor=of-the-app")
    assert (record["trace_id"], record["parent_span_id"]) == (TRACE, SPAN)
    assert (span.name, span.kind, span.status.code) == ("chat qwen1.5-72b-chat", Span.SPAN_KIND_CLIENT, 0)
    told = attributes_of(span)
    assert (
        told
        | {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "dashscope",
            "gen_ai.request.model": "qwen1.5-72b-chat",
            "gen_ai.request.stream": False,
            "gen_ai.response.model": "qwen1.5-72b-chat",
            "gen_ai.response.id": record["response_id"],
            "gen_ai.response.finish_reasons": ["stop"],
            "gen_ai.usage.input_tokens": 70,
            "gen_ai.usage.output_tokens": 31,
            "gen_ai.usage.cache_read.input_tokens": 64,
            "gen_ai.usage.reasoning.output_tokens": 8,
            "server.address": "127.0.0.1",
            "http.response.status_code": 200,
            "sidestream.id": record["id"],
            "sidestream.host": HOST,
            "sidestream.route": "default/dashscope-route",
            "sidestream.provider": "default/dashscope-qwen",
            "sidestream.request_model": "gpt-4o",
            "sidestream.attempts": 1,
        }
        == told
    )
    assert span.end_time_unix_nano - span.start_time_unix_nano == round(record["duration_seconds"] * 1e9)
    assert span.start_time_unix_nano <= attempt.start_time_unix_nano < attempt.end_time_unix_nano
    assert attempt.end_time_unix_nano <= span.end_time_unix_nano


def test_the_provider_is_told_the_span_of_its_attempt(world, traced, collector):
    record = call(traced, **PARENT)

    [request] = world.dashscope.requests
    _, [attempt] = spans_of(collector, record)
    assert request.header("traceparent") == f"00-{TRACE}-{attempt.span_id.hex()}-01"
    assert request.header("tracestate") == "vendor=of-the-app"
    assert record["attempts"][0]["span_id"] == attempt.span_id.hex()


@pytest.mark.parametrize("parent", [{}, PARENT | {"traceparent": f"00-{TRACE}-{'0' * 16}-01"}], ids=["none", "bad"])
def test_without_a_parent_a_trace_begins(world, traced, collector, parent):
    record = call(traced, **parent)

    span, [attempt] = spans_of(collector, record)
    [request] = world.dashscope.requests
    assert (span.parent_span_id, record["parent_span_id"]) == (b"", None)
    assert span.trace_id.hex() == record["trace_id"] != TRACE
    assert request.header("traceparent") == f"00-{span.trace_id.hex()}-{attempt.span_id.hex()}-03"
    assert request.header("tracestate") is None


def test_what_an_app_does_not_trace_is_not_traced_either(world, traced, collector):
    record = call(traced, traceparent=f"00-{TRACE}-{SPAN}-00")
    later = call(traced)

    spans_of(collector, later)
    [request, _] = world.dashscope.requests
    assert record["span_id"] not in [span.span_id.hex() for span in collector.spans]
    assert request.header("traceparent") == f"00-{TRACE}-{record['attempts'][0]['span_id']}-00"


def test_each_attempt_of_a_failover_is_a_span(world, traced, collector, failing):
    record = call(traced, host="failover.test", **PARENT)

    span, attempts = spans_of(collector, record)
    assert [one.name for one in attempts] == ["attempt default/down-test", "attempt default/up-of-otel-test"]
    assert {one.kind for one in attempts} == {Span.SPAN_KIND_CLIENT}
    assert [attributes_of(one).get("error.type") for one in attempts] == ["server-error", None]
    assert [one.status.code for one in attempts] == [Status.STATUS_CODE_ERROR, Status.STATUS_CODE_UNSET]
    assert [attributes_of(one).get("http.request.resend_count") for one in attempts] == [None, 1]
    assert [attributes_of(one)["http.response.status_code"] for one in attempts] == [500, 200]
    assert attempts[0].end_time_unix_nano <= attempts[1].start_time_unix_nano
    assert (span.status.code, attributes_of(span)["sidestream.rule"]) == (0, "tiers")
    told = [request.lower().partition(b"traceparent: ")[2][:55].decode() for request in failing.requests[-2:]]
    assert told == [f"00-{TRACE}-{one.span_id.hex()}-01" for one in attempts]


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ({"settings": "status=429"}, "429"),
        ({"settings": "cut=2", "body": STREAM}, "provider_failed"),
        ({"body": {"prompt": "hi"}}, "invalid_chat_body"),
    ],
    ids=["status", "cut", "refused"],
)
def test_a_failure_is_the_spans_status(world, traced, collector, how, error):
    try:
        record = call(traced, **how)
    except httpx2.RemoteProtocolError:
        record = traced.wait_for_record(lambda one: one["error"] == error)

    span, _ = spans_of(collector, record)
    assert (span.status.code, span.status.message) == (Status.STATUS_CODE_ERROR, error)
    assert attributes_of(span)["error.type"] == error


def test_what_an_exchange_cost_is_said(world, traced, collector):
    record = call(traced, host="api.openai.com")

    assert attributes_of(spans_of(collector, record)[0])["sidestream.cost_usd"] == record["cost_usd"] > 0


def test_a_stream_says_when_its_first_event_came(world, traced, collector):
    record = call(traced, "events=4", body=STREAM)

    told = attributes_of(spans_of(collector, record)[0])
    assert told["gen_ai.response.time_to_first_chunk"] == record["time_to_first_event_seconds"]
    assert (told["gen_ai.request.stream"], told["sidestream.events_out"]) == (True, record["events_out"])


def test_an_operation_that_nobody_knows_is_traced_and_its_body_untouched(world, traced, collector):
    record = call(traced, path="/v1/files", body={"a": 1}, **PARENT)

    [request] = world.dashscope.requests
    _, [attempt] = spans_of(collector, record)
    assert request.header("traceparent") == f"00-{TRACE}-{attempt.span_id.hex()}-01"
    assert request.body == b'{"a": 1}'


def test_an_upgrade_which_has_no_attempts_is_told_the_span_of_the_exchange(world, traced, collector, failing):
    host = b"up.of-otel.test"
    head = b"POST http://%b/v1/files HTTP/1.1\r\nhost: %b\r\nconnection: upgrade\r\nupgrade: other\r\n" % (host, host)
    with socket.create_connection(("127.0.0.1", traced.port), timeout=20) as client:
        client.sendall(head + b"traceparent: %b\r\ncontent-length: 0\r\n\r\n" % PARENT["traceparent"].encode())
        assert client.recv(65536).startswith(b"HTTP/1.1 200")

    record = traced.wait_for_record(lambda one: one["trace_id"] == TRACE and one["host"] == host.decode())
    assert f"traceparent: 00-{TRACE}-{record['span_id']}-01".encode() in failing.requests[-1].lower()
    assert spans_of(collector, record)[1] == []


def test_metrics_arrive_under_opentelemetrys_names(world, traced, collector):
    call(traced, "events=4 prompt-tokens=70", body=STREAM)
    number = len(collector.metric_requests)
    wait_for(lambda: len(collector.metric_requests) > number + 1)

    metrics = collector.metrics()
    usage = metrics["gen_ai.client.token.usage"]
    points = [(attributes_of(point), point) for point in usage.histogram.data_points]
    [point] = [
        point
        for told, point in points
        if (told["gen_ai.token.type"], told["gen_ai.response.model"]) == ("input", "qwen1.5-72b-chat")
    ]
    assert usage.unit == "{token}"
    assert sum(point.bucket_counts) == point.count >= 1
    assert point.sum >= 70
    assert attributes_of(point)["server.port"] == world.dashscope.port
    for name in ("operation.duration", "operation.time_to_first_chunk", "operation.time_per_output_chunk"):
        assert metrics[f"gen_ai.client.{name}"].unit == "s"
    exchanges = metrics["sidestream.exchanges"].sum
    assert sum(point.as_double for point in exchanges.data_points) >= 1
    assert exchanges.is_monotonic
    assert metrics["sidestream.client_connections"].sum.data_points[0].as_double >= 1


def test_the_sender_says_who_it_is(world, traced, collector):
    spans_of(collector, call(traced))

    [*_, resource] = collector.resources
    instance = {one["service.instance.id"] for one in collector.resources}
    assert resource["service.name"] == "sidestream"
    assert resource["deployment.environment.name"] == "test"
    assert len(instance) == 1
    assert {one["x-collector-key"] for one in collector.headers} == {"of-the-collector"}


def test_neither_keys_nor_content_are_sent(world, traced, collector):
    record = call(traced, "status=401", authorization=f"Bearer {CLIENT_KEY}", **PARENT)
    spans_of(collector, record)
    spans_of(collector, call(traced, host="api.moonshot.cn", **{"x-api-key": CLIENT_KEY}))
    spans_of(collector, call(traced, host="failover.test"))

    sent = b"".join(collector.bodies)
    held = [
        key for key in (DASHSCOPE_KEY, MOONSHOT_KEY, CLIENT_KEY, "sk-marker", "what-was-asked") if key.encode() in sent
    ]
    assert held == []
    assert b"of-the-collector" not in sent
    assert "of-the-collector" not in traced.said


def test_content_is_sent_where_somebody_asks_for_it_less_what_is_secret(world, shared_world, collector):
    said = CHAT["messages"] + [{"role": "user", "content": "my key is sk-abcdefghijklmnop, and forbidden-word"}]
    policies = shared_world.policies("policies-of-otel-content")
    flags = ["--set", "sidestream_log_content=true", "--set", r"sidestream_log_redact=forbidden-\w+"]
    environment = SOON | {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "SIDESTREAM_OTEL": "true"}
    with mitmproxy_script(shared_world, *flags, policies=policies, environment=environment) as proxy:
        record = call(proxy, body=CHAT | {"messages": said}, **PARENT)

        span, _ = spans_of(collector, record)
    told = attributes_of(span)
    assert span.parent_span_id.hex() == SPAN
    asked, answered = (json.loads(told[f"gen_ai.{kind}.messages"]) for kind in ("input", "output"))
    assert asked[0] == {"role": "user", "parts": [{"type": "text", "content": "what-was-asked"}]}
    assert [word for word in ("sk-abcd", "forbidden-word") if word in told["gen_ai.input.messages"]] == []
    assert "qwen1.5-72b-chat" in answered[0]["parts"][0]["content"]


def test_without_telemetry_the_apps_headers_pass_unchanged(world, proxy):
    record = call(proxy, traceparent="whatever this is", tracestate="A=b c")
    known = call(proxy, **PARENT)

    bad, good = world.dashscope.requests
    assert (bad.header("traceparent"), bad.header("tracestate")) == ("whatever this is", "A=b c")
    assert (record["trace_id"], record["span_id"], record["parent_span_id"]) == (None, None, None)
    assert good.header("traceparent") == PARENT["traceparent"]
    assert (known["trace_id"], known["span_id"], known["parent_span_id"]) == (TRACE, None, SPAN)


def test_what_waits_is_sent_at_the_end_and_a_collector_that_is_away_harms_nobody(world, shared_world):
    port = free_port()
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}", "OTEL_BSP_SCHEDULE_DELAY": "20"}
    with sidestream_run(
        shared_world, "--otel", policies=shared_world.policies("policies-of-away"), environment=environment
    ) as proxy:
        records = [call(proxy) for _ in range(3)]
        proxy.wait_for_said("telemetry can't be sent")
        records.append(call(proxy))
        with collecting(port) as collector:
            proxy.wait_for_said("telemetry is sent again")
            records.append(call(proxy))
            assert proxy.stop() == 0
            arrived = {span.span_id.hex() for span in collector.spans}
            assert "sidestream.exchanges" in collector.metrics()

    assert {record["span_id"] for record in records} <= arrived
    assert [record["status"] for record in records] == [200] * 5
    assert proxy.said.count("telemetry can't be sent") == 1


def test_every_worker_sends_its_own(world, shared_world):
    first = 24_000 + 2 * (os.getpid() % 4000)  # which clients are not given, as those from 32,768 on are
    policies = shared_world.policies("policies-of-otel-workers")
    with collecting() as collector:
        environment = SOON | {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
        with sidestream_run(
            shared_world, "--otel", "--workers=2", policies=policies, port=first, environment=environment
        ):
            wait_for(lambda: len({one["service.instance.id"] for one in collector.resources}) == 2, 90)


def test_that_it_is_not_installed_is_said_at_the_start(shared_world, tmp_path):
    hiding = tmp_path / "opentelemetry"
    hiding.mkdir()
    (hiding / "__init__.py").touch()
    policies = shared_world.policies("policies-of-otel-missing")
    command = [str(BIN / "sidestream"), "run", f"--policies={policies}", f"--listen=127.0.0.1:{free_port()}", "--otel"]
    command += ["--admin=off", f"--confdir={shared_world.folder / 'confdir'}", "--log=/dev/null"]
    environment = os.environ | ENVIRONMENT | {"PYTHONPATH": str(tmp_path)}

    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

    assert ended.returncode == 1
    assert ended.stderr.endswith("\nOpenTelemetry is not installed: install sidestream[otel]\n")
