"""The hooks of requests, without a network. End-to-end tests have the same with one."""

import json
import logging
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy import websocket
from mitmproxy.flow import Error
from mitmproxy.test import tflow, tutils

from sidestream.core.attempts import Failure
from sidestream.core.secret import Secret
from sidestream.core.snapshot import Backend, Endpoint, OpenAIConfig, OutlierDetection, Provider, Route, Rule, Snapshot
from sidestream.mitm import exchanges, requests
from sidestream.mitm.current import Current
from sidestream.mitm.requests import RequestHooks
from sidestream.mitm.runtime import Runtime, Settings
from tests.mitm.driver import FakeUpstream

HOST = "dashscope.aliyuncs.com"
KEY = "sk-marker-hooks"
PROVIDER = Provider(
    "default/dashscope",
    HOST,
    Endpoint(HOST, 443, HOST, server_name=HOST),
    "/v1/chat/completions",
    OpenAIConfig(model="qwen-turbo", key=Secret(KEY)),
)


class FixedSource:
    def __init__(self, *providers):
        self.snapshot = Snapshot("test", {provider.host: provider for provider in providers})

    async def run(self):
        raise AssertionError("not in these tests")


def make_hooks(*, sinks=(), **settings):
    current, records = Current(), []
    current.settings = Settings(policies="test", **settings)
    current.runtime = Runtime(FixedSource(PROVIDER), (*sinks, records.append), FakeUpstream())
    return RequestHooks(current), records


def make_flow(host=HOST, body=b'{"messages": []}', **headers):
    request = tutils.treq(host=host, port=80, path=b"/", content=body, headers=[(b"host", host.encode())])
    request.method = "POST"
    request.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return tflow.tflow(req=request)


def answer_with(flow, body=b'{"model": "qwen-turbo"}', **headers):
    flow.response = tutils.tresp(content=body, headers=[(b"content-type", b"application/json")])
    flow.response.headers.update(headers)
    flow.response.raw_content = None  # it is still to come


def test_a_governed_request_is_rewritten_and_recorded():
    hooks, records = make_hooks()
    flow = make_flow()

    hooks.requestheaders(flow)
    hooks.request(flow)
    answer_with(flow)
    hooks.responseheaders(flow)
    hooks.response(flow)

    assert flow.request.url == f"https://{HOST}/v1/chat/completions"
    assert json.loads(flow.request.raw_content)["model"] == "qwen-turbo"
    assert [(record.provider, record.status, record.error) for record in records] == [("default/dashscope", 200, None)]


def test_a_request_that_no_policy_names_is_left_as_it_is():
    hooks, records = make_hooks()
    flow = make_flow("other.example", authorization="Bearer sk-its-own")
    before = flow.get_state()

    hooks.requestheaders(flow)
    hooks.request(flow)
    after = flow.get_state()
    answer_with(flow)
    hooks.responseheaders(flow)
    hooks.response(flow)

    assert after == before
    assert flow.request.stream is True
    assert flow.response.stream is True
    assert records == []


def test_the_clients_credentials_are_out_of_sight_from_the_first_hook_on():
    hooks, _ = make_hooks()
    flow = make_flow(authorization="Bearer sk-clients", x_api_key="sk-clients")

    hooks.requestheaders(flow)

    assert "sk-clients" not in repr(flow.get_state())


def raise_a_bug(*_, **__):
    raise RuntimeError("a bug of ours")


@pytest.mark.parametrize("function", ["named_hosts", "header_values", "read_body", "decide", "plan", "apply"])
def test_a_bug_of_ours_answers_500_and_says_nothing_of_it(monkeypatch, caplog, function):
    hooks, _ = make_hooks()
    flow = make_flow()
    monkeypatch.setattr(requests, function, raise_a_bug)

    hooks.requestheaders(flow)
    hooks.request(flow)

    assert flow.response.status_code == 500
    assert flow.response.json()["error"]["code"] == "internal_error"
    assert "a bug of ours" not in flow.response.text
    assert "a bug of ours" in caplog.text


@pytest.mark.parametrize("function", ["named_hosts", "header_values", "is_well_formed", "read_body"])
def test_a_bug_of_ours_shows_nothing_of_the_clients_credentials(monkeypatch, function):
    hooks, _ = make_hooks()
    flow = make_flow(authorization="Bearer sk-clients", x_api_key="sk-clients")
    monkeypatch.setattr(requests, function, raise_a_bug)

    hooks.requestheaders(flow)
    hooks.request(flow)

    assert "sk-clients" not in repr(flow.get_state())


@pytest.mark.parametrize("function", ["read_body", "decide", "plan", "apply"])
def test_a_bug_of_ours_is_recorded_once(monkeypatch, function):
    hooks, records = make_hooks()
    flow = make_flow()
    monkeypatch.setattr(requests, function, raise_a_bug)

    hooks.requestheaders(flow)
    hooks.request(flow)
    hooks.responseheaders(flow)
    hooks.response(flow)

    assert [(record.status, record.error) for record in records] == [(500, "internal_error")]


@pytest.mark.parametrize("function", ["read_body", "decide", "plan"])
def test_failing_open_sends_the_request_as_it_came(monkeypatch, function):
    hooks, _ = make_hooks(fail_open=True)
    flow = make_flow(authorization="Bearer sk-its-own")
    before = flow.request.get_state()
    monkeypatch.setattr(requests, function, raise_a_bug)

    hooks.requestheaders(flow)
    hooks.request(flow)

    assert flow.response is None
    assert flow.request.get_state() == before
    assert hooks.attempt_of(flow) is None


@pytest.mark.parametrize("function", ["is_well_formed", "redact_credentials", "read_body", "plan", "apply"])
def test_failing_open_is_recorded_once(monkeypatch, function):
    hooks, records = make_hooks(fail_open=True)
    flow = make_flow()
    monkeypatch.setattr(requests, function, raise_a_bug)

    for name in ("request", "response", "client_disconnected"):
        hooks.requestheaders(flow) if name == "request" else None
        HOOKS[name](hooks, flow)

    assert [(record.status, record.error) for record in records] == [(None, "internal_error")]


def test_failing_open_takes_back_what_was_half_applied(monkeypatch):
    hooks, _ = make_hooks(fail_open=True)
    flow = make_flow(authorization="Bearer sk-its-own")
    before = flow.request.get_state()

    def apply_half(_, flow):
        flow.request.host = "half.example"
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr(requests, "apply", apply_half)
    hooks.requestheaders(flow)
    hooks.request(flow)

    assert flow.request.get_state() == before


def test_a_bug_in_counting_lets_the_answer_go_on(monkeypatch, caplog):
    hooks, _ = make_hooks()
    flow = make_flow()
    monkeypatch.setattr("sidestream.core.exchange.Exchange.passed", raise_a_bug)

    hooks.requestheaders(flow)
    hooks.request(flow)
    answer_with(flow, **{"content-type": "text/event-stream"})
    hooks.responseheaders(flow)
    passed = flow.response.stream(b"data: 1\n\n")

    assert passed == b"data: 1\n\n"
    assert "could not be metered" in caplog.text


@pytest.mark.parametrize(
    ("content_type", "length", "is_streamed"),
    [
        ("application/json", "100", False),
        ("Application/JSON; charset=utf-8", "100", False),
        ("application/json", "8388608", False),
        ("application/json", "8388609", True),
        ("application/json", "", True),  # the upstream half knows the length of all that it could hold
        ("application/jsonl", "", True),
        ("application/json-seq", "", True),
        ("text/event-stream; charset=utf-8", "", True),
        ("audio/mpeg", "100", True),
        ("", "", True),
    ],
)
def test_an_answer_is_streamed_unless_it_is_short_json(content_type, length, is_streamed):
    hooks, _ = make_hooks()
    flow = make_flow()

    hooks.requestheaders(flow)
    hooks.request(flow)
    answer_with(flow, **{"content-type": content_type})
    flow.response.headers["content-length"] = length
    hooks.responseheaders(flow)

    assert bool(flow.response.stream) is is_streamed


def test_the_end_of_a_stream_is_never_taken_for_a_chunk():
    hooks, _ = make_hooks()
    flow = make_flow()

    hooks.requestheaders(flow)
    hooks.request(flow)
    answer_with(flow, **{"content-type": "text/event-stream"})
    hooks.responseheaders(flow)

    assert flow.response.stream(b"") == []


def test_a_sink_that_fails_harms_neither_the_others_nor_the_request(caplog):
    hooks, records = make_hooks(sinks=(raise_a_bug,))
    flow = make_flow()

    hooks.requestheaders(flow)
    hooks.request(flow)
    answer_with(flow)
    hooks.responseheaders(flow)
    hooks.response(flow)

    assert len(records) == 1
    assert "a sink failed" in caplog.text


def test_no_more_exchanges_are_taken_than_there_may_be():
    hooks, records = make_hooks(max_exchanges=1)
    under_way, flow = make_flow(), make_flow()

    for each in (under_way, flow):
        hooks.requestheaders(each)
        hooks.request(each)
    hooks.response(flow)

    assert under_way.response is None
    assert (flow.response.status_code, flow.response.headers["retry-after"]) == (503, "1")
    assert [record.error for record in records] == ["too_many_exchanges"]


@pytest.mark.parametrize(("flow_host", "limit"), [(HOST, 1000), (HOST.upper(), 1000), ("other.example", None)])
def test_only_the_body_of_a_governed_request_has_a_bound(flow_host, limit):
    hooks, _ = make_hooks(max_body_bytes=1000)

    assert hooks.max_body_bytes(make_flow(flow_host)) == limit


@pytest.mark.parametrize(("fail_open", "limit"), [(False, 1000), (True, None)])
def test_a_bug_of_ours_bounds_no_body_that_is_to_go_on(monkeypatch, fail_open, limit):
    hooks, _ = make_hooks(max_body_bytes=1000, fail_open=fail_open)
    monkeypatch.setattr(requests, "named_hosts", raise_a_bug)

    assert hooks.max_body_bytes(make_flow()) == limit


def test_the_bound_stays_when_the_policy_is_gone_meanwhile():
    hooks, _ = make_hooks(max_body_bytes=1000)
    flow = make_flow()

    hooks.requestheaders(flow)
    hooks._current.runtime = Runtime(FixedSource(), (), FakeUpstream())

    assert hooks.max_body_bytes(flow) == 1000


# --- what is sent ----------------------------------------------------------------------------------

BACKUP = replace(PROVIDER, name="default/backup", host="backup.example", config=OpenAIConfig(model="m-2"))
TIERS = Route(
    "default/chat",
    HOST,
    (Rule("r", (), (Backend(PROVIDER, PROVIDER.config), Backend(BACKUP, BACKUP.config, priority=1))),),
)


@pytest.mark.parametrize(("size", "kept"), [(1, 100), (100_000, 2), (1_000_000, 1)])
def test_a_conversation_is_not_kept_whole(size, kept):
    hooks, _ = make_hooks()
    flow = tflow.twebsocketflow(messages=False)

    for number in range(200):
        flow.websocket.messages.append(websocket.WebSocketMessage(2, True, bytes([number]) * size))
        hooks.websocket_message(flow)

    assert [message.content[0] for message in flow.websocket.messages] == list(range(200))[-kept:]


def make_tiers():
    """Return hooks for a route with two tiers, and a flow that is sent to the first."""
    hooks, records = make_hooks()
    hooks._current.runtime = Runtime(FixedSource(TIERS), (records.append,), FakeUpstream())
    flow = make_flow()
    hooks.requestheaders(flow)
    hooks.request(flow)
    return hooks, flow


def test_the_first_attempt_is_what_the_flow_shows():
    hooks, flow = make_tiers()

    sending = hooks.calling(flow)

    assert sending.first.backend.provider is PROVIDER
    assert sending.plan(sending.first) is sending.planned
    assert flow.request.url == f"https://{HOST}/v1/chat/completions"


def test_another_attempt_is_planned_from_what_the_client_sent_and_shown_in_the_flow():
    hooks, flow = make_tiers()
    sending = hooks.calling(flow)

    planned = sending.plan(sending.attempts.failed(Failure("reset", "a test"), now=time.monotonic(), draw=0.0))

    assert json.loads(planned.attempt.body) == {"messages": [], "model": "m-2"}
    assert json.loads(flow.request.raw_content)["model"] == "m-2"
    assert planned.attempt.key is None
    assert "authorization" not in flow.request.headers


def test_what_only_one_backend_could_be_sent_is_refused_at_once():
    fixed = replace(PROVIDER, config=OpenAIConfig(parameters={"temperature": 0.2}))
    backends = (Backend(fixed, fixed.config), Backend(BACKUP, BACKUP.config, priority=1))
    hooks, records = make_hooks()
    route = Route("default/chat", HOST, (Rule("r", (), backends),))
    hooks._current.runtime = Runtime(FixedSource(route), (records.append,), FakeUpstream())
    flow = make_flow(body=b'{"messages": [], "temperature": 1e999}')

    hooks.requestheaders(flow)
    hooks.request(flow)

    assert (flow.response.status_code, flow.response.json()["error"]["code"]) == (400, "invalid_chat_body")


def test_no_key_shows_in_what_is_kept_of_an_exchange():
    hooks, flow = make_tiers()

    shown = f"{hooks.calling(flow)!r} {hooks._exchanges.of(flow)!r} {vars(hooks)!r}"

    assert KEY not in shown


def test_a_provider_that_is_left_alone_is_not_asked_first():
    careful = replace(PROVIDER, outlier_detection=OutlierDetection(consecutive_errors=1))
    backends = (Backend(careful, careful.config), Backend(BACKUP, BACKUP.config, priority=1))
    hooks, records = make_hooks()
    route = Route("default/chat", HOST, (Rule("r", (), backends),))
    hooks._current.runtime = Runtime(FixedSource(route), (records.append,), FakeUpstream())
    hooks.health.outliers.failed(careful, "reset", time.monotonic())
    flow = make_flow()

    hooks.requestheaders(flow)
    hooks.request(flow)

    assert json.loads(flow.request.raw_content)["model"] == "m-2"
    assert hooks.calling(flow).first.backend.provider is BACKUP


@pytest.mark.parametrize(
    ("method", "path", "is_followed"),
    [
        ("POST", "/v1/chat/completions", True),
        ("POST", "/v1/embeddings", True),
        ("POST", "/v1/files", False),
        ("DELETE", "/v1/files/1", False),
        ("GET", "/v1/files", True),
        ("HEAD", "/v1/files", True),
    ],
)
def test_what_may_have_an_effect_that_nobody_knows_is_not_sent_twice(method, path, is_followed):
    hooks, records = make_hooks()
    hooks._current.runtime = Runtime(FixedSource(TIERS), (records.append,), FakeUpstream())
    flow = make_flow()
    flow.request.method, flow.request.path = method, path

    hooks.requestheaders(flow)
    hooks.request(flow)
    following = hooks.calling(flow).attempts.failed(Failure("reset", "a test"), now=time.monotonic(), draw=0.0)

    assert (following is not None) is is_followed


def test_a_client_that_is_gone_ends_its_call():
    hooks, flow = make_tiers()
    call = FakeUpstream()
    hooks.calling(flow).call = call

    hooks.client_disconnected(flow.client_conn)

    assert call.cancelled == 1


def test_a_replayed_flow_is_not_sent_without_its_key():
    hooks, _ = make_hooks()
    flow = make_flow()
    flow.is_replay = "request"

    hooks.requestheaders(flow)
    hooks.request(flow)

    assert flow.response.status_code == 409
    assert flow.response.json()["error"]["code"] == "replayed_flow"


HOOKS = {
    "request": lambda hooks, flow: hooks.request(flow),
    "response": lambda hooks, flow: (answer_with(flow), hooks.responseheaders(flow), hooks.response(flow)),
    "error": lambda hooks, flow: (setattr(flow, "error", Error("broken")), hooks.error(flow)),
    "client_disconnected": lambda hooks, flow: hooks.client_disconnected(flow.client_conn),
}


flows = st.builds(
    make_flow,
    st.just(HOST),
    st.sampled_from([b'{"messages": []}', b'{"messages": [], "stream": true}', b"{}", b"no JSON", b""]),
    authorization=st.just("Bearer sk-clients"),
    content_encoding=st.sampled_from(["identity", "of-no-kind"]),
)


@given(st.lists(st.sampled_from(sorted(HOOKS)), min_size=1, max_size=8), flows, st.booleans())
def test_any_order_of_hooks_ends_in_exactly_one_record(names, flow, fail_open):
    logging.getLogger("sidestream.mitm.requests").setLevel(logging.CRITICAL)
    hooks, records = make_hooks(fail_open=fail_open)

    hooks.requestheaders(flow)
    for name in [*names, "client_disconnected"]:
        HOOKS[name](hooks, flow)

    assert len(records) == 1
    assert KEY not in repr(records)


@given(st.lists(st.sampled_from(sorted(HOOKS)), max_size=8))
def test_hooks_of_a_flow_that_never_began_do_nothing(names):
    hooks, records = make_hooks()
    flow = make_flow()
    before = flow.request.get_state()

    for name in names:
        HOOKS[name](hooks, flow)

    assert records == []
    assert flow.request.get_state() == before


@given(st.text(max_size=20), st.binary(max_size=20), st.sampled_from(["authorization", "x_api_key", "connection"]))
def test_whatever_no_policy_names_keeps_its_state(host, body, name):
    hooks, records = make_hooks()
    flow = make_flow(f"not-{HOST}", body, **{name: host.encode("ascii", "ignore").decode()})
    before = flow.get_state()

    hooks.requestheaders(flow)
    hooks.request(flow)
    passed = flow.get_state()
    answer_with(flow)
    answered = flow.get_state()
    hooks.responseheaders(flow)
    hooks.response(flow)
    hooks.client_disconnected(flow.client_conn)

    assert passed == before
    assert flow.get_state() == answered
    assert records == []


def test_a_policy_that_changes_meanwhile_does_not_change_a_request(monkeypatch):
    hooks, records = make_hooks()
    flow = make_flow()

    hooks.requestheaders(flow)
    hooks._current.runtime = Runtime(FixedSource(), hooks._current.runtime.sinks, FakeUpstream())
    hooks.request(flow)
    answer_with(flow)
    hooks.response(flow)

    assert json.loads(flow.request.raw_content)["model"] == "qwen-turbo"
    assert [record.provider for record in records] == ["default/dashscope"]


def test_nothing_is_kept_of_a_finished_exchange():
    hooks, _ = make_hooks()
    flow = make_flow()

    hooks.requestheaders(flow)
    hooks.request(flow)
    answer_with(flow)
    hooks.response(flow)

    assert len(hooks._exchanges) == 0


def test_no_more_of_a_streamed_answer_is_kept_than_there_is_room_for(monkeypatch):
    hooks, records = make_hooks()
    flow = make_flow()
    monkeypatch.setattr(exchanges, "MAX_KEPT_BYTES", 10)

    hooks.requestheaders(flow)
    hooks.request(flow)
    answer_with(flow, **{"content-type": "text/event-stream"})
    hooks.responseheaders(flow)
    passed = [flow.response.stream(b"data: 1\n\n") for _ in range(3)]
    hooks.response(flow)

    assert passed == [b"data: 1\n\n"] * 3
    assert flow.response.raw_content == b"data: 1\n\nd"
    assert records[0].bytes_out == 27


def test_an_answer_of_another_addon_is_left_whole():
    hooks, records = make_hooks()
    flow = make_flow()

    hooks.requestheaders(flow)
    hooks.request(flow)
    flow.response = tutils.tresp(content=b"data: [DONE]\n\n", headers=[(b"content-type", b"text/event-stream")])
    hooks.responseheaders(flow)
    hooks.response(flow)

    assert flow.response.raw_content == b"data: [DONE]\n\n"
    assert [record.bytes_out for record in records] == [14]


def test_a_flow_that_somebody_kills_is_recorded_as_that():
    hooks, records = make_hooks()
    flow = make_flow()

    hooks.requestheaders(flow)
    hooks.request(flow)
    flow.error = Error(Error.KILLED_MESSAGE)
    hooks.error(flow)

    assert [(record.error, record.status) for record in records] == [("killed", None)]


def test_an_answer_to_what_is_not_ours_to_read_is_never_held():
    hooks, _ = make_hooks()
    flow = make_flow()
    flow.request.path = "/v1beta/models:streamGenerate"

    hooks.requestheaders(flow)
    hooks.request(flow)
    answer_with(flow)
    hooks.responseheaders(flow)

    assert flow.response.stream
