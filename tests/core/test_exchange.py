import json
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidestream.core.errors import INTERNAL_ERROR, MAX_FOREIGN_TEXT
from sidestream.core.exchange import AttemptRecord, Exchange
from sidestream.core.planning import Plan, plan
from sidestream.core.routing import Forward, PassThrough, Reject, decide
from sidestream.core.tracing import SAMPLED, SpanContext, Trace
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
    pieces,
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


def attempted(exchange):
    if isinstance(exchange.decision, Forward):
        exchange.began_attempt(make_backend(PROVIDER), plan(Forward(make_backend(PROVIDER)), STREAMING), now=100.75)


def attempt_answered(exchange):
    attempted(exchange)
    if isinstance(exchange.decision, Forward):
        exchange.attempt_answered(200, Meter("text/event-stream"))


def pass_on(exchange, *chunks):
    """Let `chunks` of an answer be read and go on, as the two halves of the data plane do it."""
    for chunk in chunks:
        if exchange.meter is not None:
            exchange.meter.feed(chunk)
        exchange.passed(chunk)


def attempt_at(exchange, host, *, began, model="m-1"):
    """Begin an attempt at the provider of `host`, which is sent `model`."""
    backend = make_backend(make_provider(host, config=make_config(model=model)))
    exchange.began_attempt(backend, plan(Forward(backend), STREAMING), now=began)


EVENTS = {
    "decided": decided,
    "made plan": made_plan,
    "rejected": rejected,
    "passed through": passed_through,
    "metered": metered,
    "attempted": attempted,
    "attempt answered": attempt_answered,
    "attempt failed": lambda exchange: exchange.ended_attempt("timeout", now=101.5),
    "attempt succeeded": lambda exchange: exchange.ended_attempt(None, now=101.5),
    "answered": lambda exchange: exchange.answered(200, now=101.0),
    "passed": lambda exchange: pass_on(exchange, json_lines(CHUNK)),
    "passed nothing": lambda exchange: pass_on(exchange, b""),
    "passed the end": lambda exchange: pass_on(exchange, b"data: [DONE]\n\n"),
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
    pass_on(exchange, ANSWER)

    record = exchange.finish(now=101.25)

    assert record.as_dict() == {
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
        "response_id": None,
        "finish_reason": None,
        "server_address": DASHSCOPE,
        "server_port": 443,
        "provider_system": "dashscope",
        "prompt_tokens": 22,
        "completion_tokens": 7,
        "cached_tokens": None,
        "reasoning_tokens": None,
        "usage_partial": False,
        "cost_usd": None,
        "time_to_first_byte_seconds": 0.5,
        "time_to_first_event_seconds": None,
        "seconds_per_event": None,
        "duration_seconds": 1.25,
        "overhead_seconds": None,
        "bytes_in": 88,
        "bytes_out": len(ANSWER),
        "events_out": None,
        "attempts": [],
        "trace_id": None,
        "span_id": None,
        "parent_span_id": None,
    }


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
        "attempts": [],
    }


@given(st.lists(st.sampled_from(sorted(EVENTS)), max_size=12))
def test_any_order_of_events_ends_in_exactly_one_record(names):
    records = play(names)

    [record] = records
    assert json.loads(json.dumps(record.as_dict())) == record.as_dict()
    assert record.as_dict()["attempts"] == list(map(asdict, record.attempts))
    assert {attempt.error for attempt in record.attempts} <= {None, "timeout", "client_disconnected"}


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
        ((CHUNK, "[DONE]"), "client_disconnected", None),  # it has all of it, and does not wait for the end
        ((CHUNK, "[DONE]"), "provider_failed", "provider_failed"),
    ],
)
def test_a_stream_is_recorded_with_what_went_wrong(texts, error, recorded):
    exchange = governed(STREAMING, "text/event-stream")
    pass_on(exchange, json_lines(*texts))

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
    pass_on(exchange, ERROR.encode())

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
    pass_on(exchange, json.dumps({"model": "r" * 100_000}).encode())

    record = exchange.finish(now=101.0)

    assert (len(record.request_model), len(record.sent_model), len(record.response_model)) == (MAX_FOREIGN_TEXT,) * 3


def test_a_record_holds_no_key_header_or_message():
    exchange = governed(STREAMING, "text/event-stream")
    pass_on(exchange, json_lines(CHUNK, "[DONE]"))

    text = json.dumps(exchange.finish(now=101.0).as_dict(), ensure_ascii=False) + repr(exchange)

    assert KEY not in text
    assert CLIENT_KEY not in text
    assert "世界" not in text


def test_bytes_and_tokens_are_counted_however_the_answer_was_cut():
    exchange = governed(make_request())
    pass_on(exchange, *pieces(ANSWER))

    record = exchange.finish(now=101.0)

    assert (record.bytes_out, record.prompt_tokens, record.completion_tokens) == (len(ANSWER), 22, 7)


def test_bytes_are_counted_without_a_meter():
    exchange = begin()
    exchange.passed(b"not found")

    assert exchange.finish(now=101.0).bytes_out == 9


def test_what_the_client_was_sent_is_not_what_the_provider_said():
    exchange = governed(STREAMING, "text/event-stream")
    exchange.meter.feed(json_lines(CHUNK, "[DONE]"))
    exchange.passed(b"data: [DONE]\n\n")
    exchange.events_out = 1

    record = exchange.finish(now=101.0)

    assert (record.response_model, record.bytes_out, record.events_out) == ("qwen-max-0125", 14, 1)


def test_events_are_timed_from_the_first_to_the_last():
    exchange = governed(STREAMING)

    for number, now in ((0, 100.5), (2, 101.0), (2, 101.5), (5, 103.0), (5, 104.0)):
        exchange.passed_events(number, now=now)

    record = exchange.finish(now=105.0)
    assert (record.events_out, record.time_to_first_event_seconds, record.seconds_per_event) == (5, 1.0, 0.5)


def test_overhead_is_what_neither_the_client_nor_a_provider_took():
    exchange = governed(STREAMING)
    exchange.received(now=101.0)
    attempt_at(exchange, "a.example", began=101.25)
    exchange.ended_attempt("reset", now=103.0)
    attempt_at(exchange, "b.example", began=103.5)
    exchange.ended_attempt(None, now=104.0)

    assert exchange.finish(now=104.25).overhead_seconds == 1.0


def test_a_stream_that_was_cut_has_the_tokens_until_then():
    exchange = governed(STREAMING, "text/event-stream")
    exchange.meter.feed(json_lines(CHUNK, CHUNK))

    record = exchange.finish(now=101.0, error="provider_failed")

    assert (record.prompt_tokens, record.completion_tokens, record.usage_partial) == (None, 2, True)


# --- attempts -------------------------------------------------------------------------------------


def test_every_attempt_is_recorded_in_order():
    exchange = governed(STREAMING)
    attempt_at(exchange, "a.example", began=100.0)
    exchange.ended_attempt("connect-failure", now=105.0)
    attempt_at(exchange, "b.example", began=105.25, model="m-2")
    exchange.attempt_answered(503, None)
    exchange.ended_attempt("server-error", now=106.0)
    attempt_at(exchange, "c.example", began=106.0)
    exchange.attempt_answered(200, None)
    exchange.ended_attempt(None, now=107.5)

    record = exchange.finish(now=108.0)

    assert record.attempts == (
        AttemptRecord("default/a.example", "m-1", None, "connect-failure", 5.0, 0.0, "a.example", 443, "_OTHER"),
        AttemptRecord("default/b.example", "m-2", 503, "server-error", 0.75, 5.25, "b.example", 443, "_OTHER"),
        AttemptRecord("default/c.example", "m-1", 200, None, 1.5, 6.0, "c.example", 443, "_OTHER"),
    )


def test_the_record_is_of_the_last_attempt():
    exchange = governed(STREAMING)
    for host, model in (("a.example", "m-1"), ("b.example", "m-2")):
        attempt_at(exchange, host, began=100.0, model=model)
        exchange.ended_attempt("reset", now=101.0)

    record = exchange.finish(now=102.0)

    assert (record.provider, record.sent_model, record.route, record.rule) == (
        "default/b.example",
        "m-2",
        "default/route",
        "vip-route",
    )


def test_nothing_that_a_failed_attempt_said_is_told_of_the_next():
    exchange = governed(STREAMING)
    attempt_at(exchange, "a.example", began=100.0)
    exchange.attempt_answered(200, Meter("text/event-stream"))
    exchange.meter.feed(json_lines(CHUNK, ERROR))
    exchange.events_out = 2
    exchange.ended_attempt("stream-error", now=101.0)
    attempt_at(exchange, "b.example", began=101.0)

    record = exchange.finish(now=102.0, error="provider_unreachable")

    assert (record.response_model, record.events_out, record.error) == (None, None, "provider_unreachable")


def test_an_attempt_under_way_ends_with_its_exchange():
    exchange = governed(STREAMING)
    attempt_at(exchange, "a.example", began=100.0)

    record = exchange.finish(now=104.0, error="client_disconnected")

    assert [(one.error, one.duration_seconds) for one in record.attempts] == [("client_disconnected", 4.0)]


CLIENTS_SPAN = SpanContext("ab" * 16, "cd" * 8, SAMPLED)


@pytest.mark.parametrize(
    ("trace", "told"),
    [
        (Trace(None, None), (None, None, None)),
        (Trace(CLIENTS_SPAN, None), ("ab" * 16, None, "cd" * 8)),
        (Trace(CLIENTS_SPAN, CLIENTS_SPAN.below(7)), ("ab" * 16, "0000000000000007", "cd" * 8)),
        (Trace(None, CLIENTS_SPAN), ("ab" * 16, "cd" * 8, None)),
    ],
    ids=["none", "the client's only", "both", "ours only"],
)
def test_a_record_says_where_it_stands_in_its_trace(trace, told):
    exchange = begin()
    exchange.trace = trace

    record = exchange.finish(now=101.0)

    assert (record.trace_id, record.span_id, record.parent_span_id) == told


def test_a_record_with_its_price_is_the_same_record():
    record = begin().finish(now=101.0)

    assert record.priced(0.25) == replace(record, cost_usd=0.25)


def test_every_attempt_has_its_own_span():
    exchange = governed(STREAMING)
    backend = make_backend(PROVIDER)
    for number in (1, 2):
        exchange.began_attempt(backend, plan(Forward(backend), STREAMING, CLIENTS_SPAN.below(number)), now=101.0)
        exchange.ended_attempt("reset", now=101.0)

    record = exchange.finish(now=102.0)

    assert [attempt.span_id[-1] for attempt in record.attempts] == ["1", "2"]


def test_an_attempt_ends_once():
    exchange = governed(STREAMING)
    attempt_at(exchange, "a.example", began=100.0)

    exchange.ended_attempt("reset", now=101.0)
    exchange.ended_attempt(None, now=102.0)

    assert [attempt.error for attempt in exchange.finish(now=103.0).attempts] == ["reset"]


def test_only_what_is_forwarded_is_attempted():
    exchange = begin()
    exchange.decision = Reject(INTERNAL_ERROR)

    with pytest.raises(AssertionError):
        attempt_at(exchange, "a.example", began=100.0)


def test_the_model_of_an_attempt_is_cut():
    exchange = governed(STREAMING)
    attempt_at(exchange, "a.example", began=100.0, model="m" * 100_000)

    assert len(exchange.finish(now=101.0).attempts[0].sent_model) == MAX_FOREIGN_TEXT


# --- times ----------------------------------------------------------------------------------------


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
