import json
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidestream.core.errors import INTERNAL_ERROR, MAX_FOREIGN_TEXT
from sidestream.core.exchange import Exchange
from sidestream.core.planning import Plan, plan
from sidestream.core.routing import Forward, PassThrough, Reject, decide
from sidestream.core.usage import Meter
from tests.core.builders import (
    CLIENT_KEY,
    CREDENTIALS,
    DASHSCOPE,
    KEY,
    MESSAGES,
    json_lines,
    make_backend,
    make_condition,
    make_config,
    make_provider,
    make_request,
    make_route,
    make_rule,
    make_snapshot,
    requests,
)

PROVIDER = make_provider(config=make_config(model="qwen-max"))
ROUTE = make_route(make_rule(make_backend(PROVIDER), name="vip-route"))
STREAMING = make_request(body={"model": "gpt-4o", "messages": MESSAGES, "stream": True}, headers=CREDENTIALS)
ANSWER = json.dumps(
    {"model": "qwen-max-0125", "choices": [], "usage": {"prompt_tokens": 22, "completion_tokens": 7}}
).encode()
CHUNK = '{"model":"qwen-max-0125","choices":[{"delta":{"content":"hi"}}]}'
ERROR = '{"error":{"message":"overloaded"}}'


def begin():
    return Exchange("flow-1", "10.0.0.7:40112", DASHSCOPE, wall_time=1_700_000_000.25, now=100.0)


def governed(request, content_type="application/json", policy=ROUTE):
    """Return an exchange for `request` whose answer begins."""
    exchange = begin()
    exchange.decision = decide(request, make_snapshot(policy), draw=0.0)
    made = plan(exchange.decision, request)
    exchange.plan = made if isinstance(made, Plan) else None
    exchange.meter = Meter(content_type)
    exchange.answered(200, now=100.5)
    return exchange


def decided(exchange):
    exchange.decision = decide(STREAMING, make_snapshot(ROUTE), draw=0.0)


def made_plan(exchange):
    exchange.plan = plan(Forward(make_backend(PROVIDER)), STREAMING)


def rejected(exchange):
    exchange.decision = Reject(INTERNAL_ERROR)


def passed_through(exchange):
    exchange.decision = PassThrough()


def metered(exchange):
    exchange.meter = Meter("text/event-stream")


EVENTS = {
    "decided": decided,
    "made plan": made_plan,
    "rejected": rejected,
    "passed through": passed_through,
    "metered": metered,
    "answered": lambda exchange: exchange.answered(200, now=101.0),
    "passed": lambda exchange: exchange.passed(json_lines(CHUNK)),
    "passed nothing": lambda exchange: exchange.passed(b""),
    "passed the end": lambda exchange: exchange.passed(b"data: [DONE]\n\n"),
    "finished": lambda exchange: exchange.finish(now=102.0),
    "broke off": lambda exchange: exchange.finish(now=102.0, error="client_disconnected"),
}


def play(names):
    """Return the records of an exchange that meets the events `names` and is finished at the end, if it was not."""
    exchange = begin()
    returned = [EVENTS[name](exchange) for name in (*names, "finished")]
    return [record for record in returned if record is not None]


def test_a_finished_chat_is_recorded_whole():
    exchange = governed(make_request(headers=CREDENTIALS))
    exchange.bytes_in = 88
    exchange.passed(ANSWER)

    record = exchange.finish(now=101.25)

    assert asdict(record) == {
        "time": "2023-11-14T22:13:20.250+00:00",
        "id": "flow-1",
        "client": "10.0.0.7:40112",
        "host": DASHSCOPE,
        "route": "default/route",
        "rule": "vip-route",
        "provider": "default/dashscope.aliyuncs.com",
        "operation": "chat",
        "request_model": "gpt-4o",
        "sent_model": "qwen-max",
        "response_model": "qwen-max-0125",
        "stream": False,
        "status": 200,
        "error": None,
        "prompt_tokens": 22,
        "completion_tokens": 7,
        "time_to_first_byte_seconds": 0.5,
        "duration_seconds": 1.25,
        "bytes_in": 88,
        "bytes_out": len(ANSWER),
    }
    assert record.as_dict() == asdict(record)


def test_an_exchange_that_nothing_is_known_of_is_recorded():
    record = begin().finish(now=100.0)

    known = {name: value for name, value in record.as_dict().items() if value is not None}
    assert known == {
        "time": "2023-11-14T22:13:20.250+00:00",
        "id": "flow-1",
        "client": "10.0.0.7:40112",
        "host": DASHSCOPE,
        "duration_seconds": 0.0,
        "bytes_in": 0,
        "bytes_out": 0,
    }


@given(st.lists(st.sampled_from(sorted(EVENTS)), max_size=12))
def test_any_order_of_events_ends_in_exactly_one_record(names):
    records = play(names)

    assert len(records) == 1
    assert json.loads(json.dumps(records[0].as_dict())) == records[0].as_dict()


@given(st.permutations(sorted(EVENTS)))
def test_any_order_of_all_events_ends_in_exactly_one_record(names):
    assert len(play(names)) == 1


@given(requests, st.sampled_from([*EVENTS, "answered"]))
def test_any_request_is_recorded_once(request, last):
    exchange = begin()
    exchange.decision = decide(request, make_snapshot(ROUTE, make_provider()), draw=0.0)

    records = [exchange.finish(now=101.0), EVENTS[last](exchange), exchange.finish(now=103.0)]

    assert records[0].error in (None, "no_rule_matched")
    assert records[1:] == [None, None]


def test_only_the_first_finish_counts():
    exchange = begin()

    first = exchange.finish(now=101.0, error="client_disconnected")
    second = exchange.finish(now=102.0)

    assert first.error == "client_disconnected"
    assert second is None


@pytest.mark.parametrize(
    ("texts", "error", "recorded"),
    [
        ((CHUNK, "[DONE]"), None, None),
        ((CHUNK,), None, "stream_incomplete"),
        ((), None, "stream_incomplete"),
        ((CHUNK, ERROR), None, "error_in_stream"),
        ((CHUNK, ERROR, "[DONE]"), None, "error_in_stream"),
        ((CHUNK,), "client_disconnected", "client_disconnected"),
        ((CHUNK, ERROR), "provider_failed", "provider_failed"),
        ((CHUNK, "[DONE]"), "client_disconnected", "client_disconnected"),
    ],
)
def test_a_stream_is_recorded_with_what_went_wrong(texts, error, recorded):
    exchange = governed(STREAMING, "text/event-stream")
    exchange.passed(json_lines(*texts))

    assert exchange.finish(now=101.0, error=error).error == recorded


@pytest.mark.parametrize(
    ("request_view", "content_type"),
    [(make_request(), "text/event-stream"), (STREAMING, "application/json"), (STREAMING, "text/html"), (STREAMING, "")],
)
def test_only_a_stream_that_was_asked_for_can_be_incomplete(request_view, content_type):
    assert governed(request_view, content_type).finish(now=101.0).error is None


def test_an_error_as_json_is_told_by_its_status():
    exchange = governed(STREAMING)
    exchange.answered(429, now=100.5)
    exchange.passed(ERROR.encode())

    record = exchange.finish(now=101.0)

    assert (record.status, record.error) == (429, None)


@pytest.mark.parametrize("error", [None, "client_disconnected"])
def test_a_rejection_is_recorded_with_its_code_and_place(error):
    exchange = begin()
    never = make_route(make_rule(matches=((make_condition(),),)))
    exchange.decision = decide(make_request(), make_snapshot(never), draw=0.0)
    exchange.answered(404, now=100.5)

    record = exchange.finish(now=101.0, error=error)

    assert (record.route, record.rule, record.provider) == ("default/route", None, None)
    assert record.error == (error or "no_rule_matched")


def test_a_refused_body_is_recorded_with_its_rule():
    request = make_request(body=None)
    exchange = begin()
    exchange.decision = plan(decide(request, make_snapshot(ROUTE), draw=0.0), request)

    record = exchange.finish(now=101.0)

    assert (record.route, record.rule, record.error) == ("default/route", "vip-route", "invalid_chat_body")


def test_a_provider_without_a_route_is_recorded_without_one():
    record = governed(make_request(), policy=PROVIDER).finish(now=101.0)

    assert (record.route, record.rule, record.provider) == (None, None, "default/dashscope.aliyuncs.com")


def test_names_that_are_not_ours_are_cut():
    exchange = governed(make_request(body={"messages": [], "model": "m" * 100_000}), policy=make_provider())
    exchange.passed(json.dumps({"model": "r" * 100_000}).encode())

    record = exchange.finish(now=101.0)

    assert (len(record.request_model), len(record.sent_model), len(record.response_model)) == (MAX_FOREIGN_TEXT,) * 3


def test_a_record_holds_no_key_header_or_message():
    exchange = governed(STREAMING, "text/event-stream")
    exchange.passed(json_lines(CHUNK, "[DONE]"))

    text = json.dumps(exchange.finish(now=101.0).as_dict(), ensure_ascii=False) + repr(exchange)

    assert KEY not in text
    assert CLIENT_KEY not in text
    assert "世界" not in text


def test_bytes_and_tokens_are_counted_however_the_answer_was_cut():
    exchange = governed(make_request())
    for byte in ANSWER:
        exchange.passed(bytes([byte]))

    record = exchange.finish(now=101.0)

    assert (record.bytes_out, record.prompt_tokens, record.completion_tokens) == (len(ANSWER), 22, 7)


def test_bytes_are_counted_without_a_meter():
    exchange = begin()
    exchange.passed(b"not found")

    assert exchange.finish(now=101.0).bytes_out == 9


def test_no_first_byte_gives_no_time_to_it():
    record = begin().finish(now=160.0, error="provider_unreachable")

    assert (record.time_to_first_byte_seconds, record.duration_seconds, record.status) == (None, 60.0, None)


def test_the_last_head_counts():
    exchange = begin()
    exchange.answered(103, now=100.1)
    exchange.answered(200, now=100.4)

    record = exchange.finish(now=101.0)

    assert (record.status, record.time_to_first_byte_seconds) == (200, 0.4)


@given(st.floats(0, 4e9), st.floats(0, 1e9), st.floats(0, 1e6))
def test_any_clock_gives_times(wall_time, began, took):
    record = Exchange("1", "c", "h", wall_time=wall_time, now=began).finish(now=began + took)

    assert record.time.endswith("+00:00")
    assert record.duration_seconds >= 0
