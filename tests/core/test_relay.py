"""What of an answer goes on, and when: for streams that are cut anywhere, and for those with names."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sidestream.core.relay import MAX_HELD_BYTES, Relay
from sidestream.core.sse import MAX_COMMENT_BYTES, MAX_EVENT_BYTES
from sidestream.core.usage import MAX_JSON_BYTES, Meter, Usage
from tests.core.builders import cut_at, json_lines, pieces, places

STREAM, JSON = "text/event-stream", "application/json"


def chunk(**choice):
    return json.dumps({"object": "chat.completion.chunk", "model": "m-1", "choices": [{"index": 0} | choice]})


ROLE = chunk(delta={"role": "assistant", "content": ""}, finish_reason=None)
CONTENT = chunk(delta={"content": "hi, 世界"})
FINISH = chunk(delta={}, finish_reason="stop")
USAGE = '{"model":"m-1","choices":[],"usage":{"prompt_tokens":22,"completion_tokens":7}}'
ERROR = '{"error":{"message":"overloaded"}}'
DONE = "[DONE]"
COMMENT = b": keep-alive\n\n"
CREATED = '{"type":"response.created","response":{"model":"m-1"}}'


def make(manner="events", content_type=STREAM, content_encoding="", **fields):
    return Relay(manner, Meter(content_type, content_encoding), **fields)


def patient(**fields):
    return make(is_patient=True, **fields)


def fed(relay, *chunks):
    """Return what goes on of an answer of `chunks`, its end included."""
    return b"".join([*map(relay.feed, chunks), relay.end()])


# --- when a stream begins to go on ----------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        ROLE,
        chunk(delta={}),
        chunk(delta={"role": "assistant", "content": None}),
        chunk(delta={"content": "", "tool_calls": [], "reasoning_content": ""}),
        chunk(delta={"content": ""}, logprobs={"content": []}),
        chunk(delta=None),
        chunk(text=""),
        '{"choices":[]}',
        '{"choices":[],"prompt_filter_results":[{"prompt_index":0}]}',
        USAGE,
        DONE,
        CREATED,
        '{"type":"response.queued","response":{}}',
        '{"type":"response.in_progress","response":{}}',
    ],
)
def test_what_is_no_content_is_held_until_there_is_some(text):
    relay = patient()

    held = relay.feed(json_lines(text))
    has_begun_before = relay.has_begun
    passed = relay.feed(json_lines(CONTENT))

    assert (held, has_begun_before, relay.has_begun) == (b"", False, True)
    assert passed == json_lines(text, CONTENT)


@pytest.mark.parametrize(
    "text",
    [
        CONTENT,
        FINISH,
        chunk(delta={"role": "assistant", "content": "hi"}),
        chunk(delta={"content": None, "tool_calls": [{"index": 0, "function": {"name": "f"}}]}),
        chunk(delta={"function_call": {"name": "f"}}),
        chunk(delta={"reasoning_content": "hm"}),
        chunk(delta={"refusal": "no"}),
        chunk(delta={"something": {"new": 1}}),
        chunk(delta="hi"),
        chunk(text="hi"),
        chunk(message={"content": "hi"}),
        json.dumps({"choices": [{"delta": {}}, {"delta": {"content": "second"}}]}),
        '{"choices":["hi"]}',
        '{"choices":null}',
        '{"type":"response.output_text.delta","delta":"hi"}',
        '{"type":"response.completed","response":{}}',
        '{"no":"known shape"}',
        "[1]",
        "hi",
        "{",
        "[" * 100_000,
    ],
    ids=lambda text: text[:60],
)
def test_content_goes_on_with_all_that_was_held(text):
    relay = patient()
    before = relay.feed(COMMENT + json_lines(ROLE))

    passed = relay.feed(json_lines(text))

    assert (before, relay.has_begun, relay.failure) == (b"", True, None)
    assert passed == COMMENT + json_lines(ROLE, text)


def test_after_content_everything_goes_on_as_it_comes():
    relay = patient()
    relay.feed(json_lines(CONTENT))

    assert relay.feed(COMMENT) == COMMENT
    assert relay.feed(json_lines(ROLE)) == json_lines(ROLE)


def test_comments_are_held_too():
    relay = patient()

    assert relay.feed(COMMENT * 10) == b""
    assert not relay.has_begun


def test_no_more_is_held_than_its_bound():
    relay = patient()
    comments = (b": " + b"x" * 1021 + b"\n") * (MAX_HELD_BYTES // 1024 + MAX_COMMENT_BYTES // 1024)

    passed = relay.feed(comments)

    assert relay.has_begun
    assert comments.startswith(passed)
    assert len(passed) > MAX_HELD_BYTES


def test_an_event_that_is_too_large_to_be_read_goes_on():
    relay = patient()
    large = b"data: " + b"x" * MAX_EVENT_BYTES

    held, passed = relay.feed(json_lines(ROLE)), relay.feed(large)

    assert (held, passed) == (b"", json_lines(ROLE) + large)
    assert relay.feed(b"more") == b"more"
    assert relay.end() == b""


@pytest.mark.parametrize("texts", [(ROLE,), (DONE,), (ERROR,), (USAGE,)])
def test_where_nothing_may_follow_nothing_is_held(texts):
    relay = make()

    assert relay.has_begun
    assert relay.feed(json_lines(*texts)) == json_lines(*texts)
    assert relay.failure is None


# --- how a stream fails ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        ERROR,
        '{"error":"overloaded"}',
        '{"type":"error","message":"overloaded"}',
        '{"type":"response.failed","response":{"error":{}}}',
        '{"choices":[{"delta":{"content":"hi"}}],"error":{"message":"overloaded"}}',
    ],
)
@pytest.mark.parametrize("before", [(), (ROLE,), (CREATED,)])
def test_an_error_before_content_is_a_failure(error, before):
    relay = patient()

    passed = relay.feed(json_lines(*before, error))

    assert (passed, relay.has_begun) == (b"", False)
    assert (relay.failure.kind, relay.failure.status) == ("stream-error", None)
    assert "overloaded" not in relay.failure.message


def test_an_error_after_content_goes_on():
    relay = patient()

    passed = relay.feed(json_lines(CONTENT, ERROR))

    assert passed == json_lines(CONTENT, ERROR)
    assert relay.failure is None


def test_content_after_an_error_takes_nothing_back():
    relay = patient()

    passed = relay.feed(json_lines(ERROR, CONTENT))

    assert (passed, relay.has_begun) == (b"", False)
    assert relay.failure is not None


def test_a_failed_stream_can_still_go_on_whole():
    relay = patient()
    relay.feed(json_lines(ROLE, ERROR))

    assert relay.go_on() == json_lines(ROLE, ERROR)
    assert relay.feed(json_lines(DONE)) == json_lines(DONE)


@pytest.mark.parametrize("texts", [(), (ROLE,), (ROLE, USAGE, DONE), (DONE,)])
def test_a_stream_that_ends_without_content_is_a_failure(texts):
    relay = patient()

    assert fed(relay, json_lines(*texts)) == b""
    assert (relay.failure.kind, relay.failure.message) == ("stream-error", "the stream ended before any content")


def test_the_first_failure_is_the_one_that_is_told():
    relay = patient()

    fed(relay, json_lines(ERROR))

    assert relay.failure.message == "the stream began with an error event"


def test_a_stream_that_says_it_ended_by_content_is_none():
    relay = patient()

    assert fed(relay, json_lines(ROLE, FINISH, DONE)) == json_lines(ROLE, FINISH, DONE)
    assert relay.failure is None


# --- usage that nobody asked for ------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{}, {"is_patient": True}])
def test_the_event_that_only_tells_usage_is_dropped_where_nobody_asked_for_it(fields):
    relay = make(drops_usage=True, **fields)

    passed = fed(relay, json_lines(CONTENT, USAGE, DONE))

    assert passed == json_lines(CONTENT, DONE)
    assert relay.events == 2
    assert relay.meter.usage == Usage(22, 7)


def test_who_asked_for_it_gets_it():
    relay = make()

    assert fed(relay, json_lines(CONTENT, USAGE, DONE)) == json_lines(CONTENT, USAGE, DONE)
    assert relay.events == 3


@pytest.mark.parametrize(
    "text",
    [
        '{"choices":[{"index":0,"delta":{}}],"usage":{"prompt_tokens":22}}',
        '{"choices":[{"index":0,"delta":{"content":"\\"choices\\":[]"}}],"usage":{"prompt_tokens":22}}',
        '{"choices":[],"usage":null}',
        '{"choices":[]}',
        '{"choices":[],"prompt_filter_results":[]}',
        '{"x":{"choices":[]},"usage":{}}',
        '[{"choices":[],"usage":{}}]',
        '{"choices":[],"usage":{}',
        '"choices":[]',
    ],
)
def test_what_says_more_than_usage_is_not_dropped(text):
    assert fed(make(drops_usage=True), json_lines(text)) == json_lines(text)


def test_usage_is_found_however_it_is_written():
    spaced = '{ "usage" : { "prompt_tokens" : 22 } , "choices" : [ ] }'

    assert fed(make(drops_usage=True), json_lines(CONTENT, spaced)) == json_lines(CONTENT)


# --- other answers --------------------------------------------------------------------------------


def test_json_is_held_until_it_is_whole():
    relay = make("whole", JSON)
    answer = b'{"model": "m-1", "usage": {"prompt_tokens": 22, "completion_tokens": 7}}'

    held = b"".join(map(relay.feed, pieces(answer)))
    has_begun_before = relay.has_begun

    assert (held, has_begun_before) == (b"", False)
    assert relay.end() == answer
    assert (relay.has_begun, relay.failure, relay.meter.usage) == (True, None, Usage(22, 7))


def test_json_that_is_too_long_goes_on_as_it_comes():
    relay = make("whole", JSON)
    start = b" " * MAX_JSON_BYTES

    assert relay.feed(start) == b""
    assert relay.feed(b"{") == start + b"{"
    assert (relay.has_begun, relay.manner) == (True, "plain")
    assert relay.feed(b"}") == b"}"
    assert relay.end() == b""


@pytest.mark.parametrize("content_type", [STREAM, JSON, "audio/mpeg", ""])
def test_anything_else_goes_on_as_it_comes(content_type):
    relay = make("plain", content_type, is_patient=True, drops_usage=True)

    assert relay.has_begun
    assert list(map(relay.feed, pieces(json_lines(ERROR, USAGE), 7))) == pieces(json_lines(ERROR, USAGE), 7)
    assert relay.end() == b""
    assert relay.failure is None


@pytest.mark.parametrize("fields", [{}, {"is_patient": True, "drops_usage": True}])
def test_a_stream_whose_encoding_is_not_known_goes_on_as_it_comes(fields):
    relay = make(content_encoding="zstd", **fields)

    assert relay.has_begun
    assert relay.feed(b"\x28\xb5\x2f\xfd") == b"\x28\xb5\x2f\xfd"
    assert relay.end() == b""


def test_what_follows_the_last_event_goes_on_at_the_end():
    relay = make()

    assert relay.feed(json_lines(CONTENT) + b"data: [DO") == json_lines(CONTENT)
    assert relay.feed(b"NE]\n") == b""
    assert relay.end() == b"data: [DONE]\n"


# --- any stream -----------------------------------------------------------------------------------

BLOCKS = (
    *(json_lines(text) for text in (ROLE, CONTENT, FINISH, USAGE, ERROR, DONE, CREATED, "{", "[1]")),
    COMMENT,
    b"\n",
    b"event: x\nid: 1\ndata: 1\ndata: 2\n\n",
)
streams = st.tuples(st.lists(st.sampled_from(BLOCKS), max_size=8), st.sampled_from([b"", b"data: [DO", b": x\n"])).map(
    lambda parts: b"".join(parts[0]) + parts[1]
)
cut_streams = streams.flatmap(lambda stream: st.tuples(st.just(stream), places(stream)))


def outcome(relay, *chunks):
    """Return all that `relay` makes of `chunks`, what it still holds included."""
    passed = fed(relay, *chunks)
    return passed, relay.go_on(), relay.has_begun, relay.events, relay.failure


@settings(max_examples=300)
@given(cut_streams, st.booleans(), st.booleans())
@example((json_lines(ROLE, CONTENT, USAGE, DONE), list(range(1000))), True, True)
def test_no_cut_of_any_stream_changes_what_goes_on(stream_and_places, is_patient, drops_usage):
    stream, cuts = stream_and_places
    fields = {"is_patient": is_patient, "drops_usage": drops_usage}

    outcomes = [outcome(make(**fields), *chunks) for chunks in (cut_at(cuts, stream), [stream], pieces(stream))]

    assert outcomes[0] == outcomes[1] == outcomes[2]


@settings(max_examples=300)
@given(cut_streams, st.booleans())
def test_what_goes_on_is_what_came(stream_and_places, is_patient):
    stream, cuts = stream_and_places
    relay = make(is_patient=is_patient)

    passed = fed(relay, *cut_at(cuts, stream))

    if relay.failure is None:
        assert passed == stream
    else:
        assert passed == b""
        assert relay.go_on() == stream


@given(cut_streams)
def test_what_goes_on_is_what_came_without_the_events_that_are_dropped(stream_and_places):
    stream, cuts = stream_and_places

    assert fed(make(drops_usage=True), *cut_at(cuts, stream)) == stream.replace(json_lines(USAGE), b"")


@given(
    st.lists(st.binary(), max_size=5), st.sampled_from(["events", "whole", "plain"]), st.sampled_from([STREAM, JSON])
)
def test_whatever_bytes_come_they_all_go_on(chunks, manner, content_type):
    assert fed(make(manner, content_type), *chunks) == b"".join(chunks)


@given(st.lists(st.sampled_from(BLOCKS), max_size=8))
def test_before_anything_went_out_nothing_did(blocks):
    relay = patient(drops_usage=True)

    for block in blocks:
        passed = relay.feed(block)
        assert relay.has_begun or passed == b""
        assert relay.failure is None or passed == b""


@pytest.mark.parametrize("end", ["\r", "\r\n"])
def test_other_line_ends_are_kept(end):
    stream = json_lines(ROLE, CONTENT, DONE, end=end)

    assert fed(patient(), *pieces(stream)) == stream
