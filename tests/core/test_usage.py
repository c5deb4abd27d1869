import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sidestream.core.sse import MAX_EVENT_BYTES
from sidestream.core.usage import MAX_JSON_BYTES, Meter, Usage
from tests.core.builders import cut_at, fed, json_lines, json_values, pieces, places

CHAT = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "model": "qwen-max-2025-01-25",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "你好"}, "finish_reason": "stop"}],
    "usage": {
        "prompt_tokens": 22,
        "completion_tokens": 7,
        "total_tokens": 29,
        "prompt_tokens_details": {"cached_tokens": 16, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 4, "accepted_prediction_tokens": 0},
    },
}
RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "status": "completed",
    "error": None,
    "model": "gpt-4o-2024-08-06",
    "usage": {
        "input_tokens": 36,
        "input_tokens_details": {"cached_tokens": 3},
        "output_tokens": 87,
        "output_tokens_details": {"reasoning_tokens": 9},
        "total_tokens": 123,
    },
}
EMBEDDINGS = {
    "object": "list",
    "data": [],
    "model": "text-embedding-v3",
    "usage": {"prompt_tokens": 8, "total_tokens": 8},
}
CHUNK = '{"object":"chat.completion.chunk","model":"qwen-max","choices":[{"delta":{"content":"你好 🌍"}}],"usage":null}'
LAST_CHUNK = '{"model":"qwen-max","choices":[],"usage":{"prompt_tokens":22,"completion_tokens":7}}'
STREAM = json_lines(CHUNK, CHUNK, LAST_CHUNK, "[DONE]")
CREATED = '{"type":"response.created","response":{"model":"gpt-4o","status":"in_progress","usage":null}}'
DELTA = '{"type":"response.output_text.delta","delta":"hi"}'
COMPLETED = json.dumps({"type": "response.completed", "response": RESPONSE})
FAILED = '{"type":"response.failed","response":{"model":"gpt-4o","error":{"code":"server_error"},"usage":null}}'
ERROR = '{"error":{"message":"overloaded","type":"server_error","code":null}}'
OF_CHAT, OF_RESPONSE = Usage(22, 7, 16, 4), Usage(36, 87, 3, 9)
JSON, EVENT_STREAM = "application/json", "text/event-stream"
TEXTS = (CHUNK, LAST_CHUNK, "[DONE]", CREATED, DELTA, COMPLETED, FAILED, ERROR, "{", "[]", '"usage"', '{"usage":{}}')
streams = st.lists(st.sampled_from(TEXTS), max_size=5).map(lambda texts: json_lines(*texts))


def metered(*chunks, content_type=EVENT_STREAM, content_encoding=""):
    return fed(Meter(content_type, content_encoding), chunks)


def read(meter):
    """Return all that `meter` tells."""
    return meter.response_model, meter.usage, meter.complete, meter.error_seen


@pytest.mark.parametrize(
    ("answer", "model", "usage"),
    [
        (CHAT, "qwen-max-2025-01-25", OF_CHAT),
        (RESPONSE, "gpt-4o-2024-08-06", OF_RESPONSE),
        ({"usage": {"prompt_tokens": 9, "prompt_cache_hit_tokens": 4}}, None, Usage(9, None, 4)),
        ({"usage": {"prompt_tokens": 9, "cached_tokens": 5}}, None, Usage(9, None, 5)),
        ({"usage": {"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": "5"}}}, None, Usage(9)),
        (EMBEDDINGS, "text-embedding-v3", Usage(8, None)),
        ({"model": "x", "choices": []}, "x", Usage(None, None)),
        ({"model": "x", "usage": None}, "x", Usage(None, None)),
        ({"model": "x", "usage": {}}, "x", Usage(None, None)),
        ({"model": "x", "usage": []}, "x", Usage(None, None)),
        ({"object": "list", "data": [{"id": "qwen-max", "object": "model"}]}, None, Usage(None, None)),
        ({"usage": {"prompt_tokens": 0, "completion_tokens": 0}}, None, Usage(0, 0)),
        ({"usage": {"prompt_tokens": "7", "completion_tokens": 7.0}}, None, Usage(None, None)),
        ({"usage": {"prompt_tokens": True, "completion_tokens": -1}}, None, Usage(None, None)),
        ({"usage": {"prompt_tokens": None, "input_tokens": 5}}, None, Usage(5, None)),
        ({"model": ["x"]}, None, Usage(None, None)),
        ({"model": ""}, None, Usage(None, None)),
        ([CHAT], None, Usage(None, None)),
        ("usage", None, Usage(None, None)),
    ],
)
def test_a_json_answer_tells_its_model_and_usage(answer, model, usage):
    meter = metered(json.dumps(answer).encode(), content_type=JSON)

    assert read(meter) == (model, usage, None, False)


def test_an_answer_tells_its_id_and_how_it_ended():
    meter = metered(json.dumps(CHAT).encode(), content_type=JSON)

    assert (meter.response_id, meter.finish_reason) == ("chatcmpl-1", "stop")


def test_a_stream_tells_its_id_how_it_ended_and_how_many_pieces_it_had():
    role = '{"id":"c-1","model":"m","choices":[{"delta":{"role":"assistant","content":""}}]}'
    call = '{"id":"c-1","choices":[{"delta":{"tool_calls":[{"function":{"arguments":"{"}}]},"finish_reason":null}]}'
    last = '{"id":"c-1","choices":[{"delta":{},"finish_reason":"tool_calls"}]}'

    meter = metered(json_lines(role, call, call, last, "[DONE]"))

    assert (meter.response_id, meter.finish_reason, meter.pieces) == ("c-1", "tool_calls", 2)


@pytest.mark.parametrize(
    "content_type", [JSON, "application/json; charset=utf-8", "Application/JSON", "application/x+json"]
)
def test_any_json_type_is_read(content_type):
    assert metered(json.dumps(CHAT).encode(), content_type=content_type).usage == OF_CHAT


@pytest.mark.parametrize("content_type", [EVENT_STREAM, "text/event-stream;charset=UTF-8", " Text/Event-Stream ; x=y"])
def test_any_event_stream_type_is_read(content_type):
    assert metered(STREAM, content_type=content_type).usage == Usage(22, 7)


@pytest.mark.parametrize("content_type", ["", "text/plain", "text/html", "audio/mpeg", "application/jsonp", ";"])
@pytest.mark.parametrize("answer", [STREAM, json.dumps(CHAT).encode()], ids=["stream", "json"])
def test_other_types_are_not_read(content_type, answer):
    assert read(metered(answer, content_type=content_type)) == (None, Usage(), None, False)


@pytest.mark.parametrize("content_type", [JSON, EVENT_STREAM])
@pytest.mark.parametrize("content_encoding", ["gzip", "br", "identity, gzip"])
def test_an_encoded_answer_is_not_read(content_type, content_encoding):
    meter = metered(STREAM, content_type=content_type, content_encoding=content_encoding)

    assert read(meter) == (None, Usage(), None, False)


@pytest.mark.parametrize("content_encoding", ["", "identity", "Identity"])
def test_no_encoding_is_read(content_encoding):
    assert metered(STREAM, content_encoding=content_encoding).usage == Usage(22, 7)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ((CHUNK, CHUNK, LAST_CHUNK, "[DONE]"), ("qwen-max", Usage(22, 7), True, False)),
        ((CHUNK, CHUNK, "[DONE]"), ("qwen-max", Usage(), True, False)),
        ((CHUNK, CHUNK), ("qwen-max", Usage(), False, False)),
        ((CHUNK, LAST_CHUNK), ("qwen-max", Usage(22, 7), False, False)),
        (("[DONE]",), (None, Usage(), True, False)),
        ((), (None, Usage(), False, False)),
        ((CHUNK, ERROR), ("qwen-max", Usage(), False, True)),
        ((CHUNK, ERROR, "[DONE]"), ("qwen-max", Usage(), True, True)),
        ((CHUNK, '{"error":null}', "[DONE]"), ("qwen-max", Usage(), True, False)),
        ((CHUNK, '{"error":"cut"}'), ("qwen-max", Usage(), False, True)),
        ((CHUNK, "not json", "[1]", "[DONE]"), ("qwen-max", Usage(), True, False)),
        ((LAST_CHUNK, CHUNK, "[DONE]"), ("qwen-max", Usage(22, 7), True, False)),
        (
            ('{"model":"","choices":[]}', '{"model":"late","choices":[]}', "[DONE]"),
            ("late", Usage(), True, False),
        ),
        (
            ('{"usage":{"prompt_tokens":5,"completion_tokens":1}}', LAST_CHUNK, "[DONE]"),
            ("qwen-max", Usage(22, 7), True, False),
        ),
    ],
)
def test_a_chat_stream_tells_its_model_usage_and_end(texts, expected):
    assert read(metered(json_lines(*texts))) == expected


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ((CREATED, DELTA, COMPLETED), ("gpt-4o-2024-08-06", OF_RESPONSE, True, False)),
        ((CREATED, DELTA), ("gpt-4o", Usage(), False, False)),
        ((CREATED, FAILED), ("gpt-4o", Usage(), True, True)),
        ((CREATED, '{"type":"error","code":"server_error","message":"x"}'), ("gpt-4o", Usage(), False, True)),
        ((CREATED, '{"type":"response.completed","response":{"id":"resp_1"}}'), ("gpt-4o", Usage(), True, False)),
        (
            (
                CREATED,
                '{"type": "response.incomplete", "response": {"usage": {"input_tokens": 3, "output_tokens": 4}}}',
            ),
            ("gpt-4o", Usage(3, 4), True, False),
        ),
    ],
)
def test_a_stream_of_the_responses_api_tells_its_model_usage_and_end(texts, expected):
    assert read(metered(json_lines(*texts))) == expected


@pytest.mark.parametrize(
    "chunk",
    [
        '{"choices":[{"delta":{},"finish_reason":"stop","usage":{"prompt_tokens":19,"completion_tokens":13}}]}',
        '{"usage":null,"choices":[null,{"usage":{"prompt_tokens":19,"completion_tokens":13}}]}',
    ],
)
def test_usage_within_a_choice_counts(chunk):
    # Moonshot's place for it, in streams.
    meter = metered(json_lines('{"model":"moonshot-v1-8k","choices":[{"index":0,"delta":{}}]}', chunk, "[DONE]"))

    assert read(meter) == ("moonshot-v1-8k", Usage(19, 13), True, False)


def test_usage_of_the_whole_wins_over_that_of_a_choice():
    both = {"choices": [{"usage": {"prompt_tokens": 1}}], "usage": {"prompt_tokens": 2, "completion_tokens": 3}}

    assert metered(json.dumps(both).encode(), content_type=JSON).usage == Usage(2, 3)


@pytest.mark.parametrize("count", ["-1", "true", "1.5", '"7"', "9007199254740993", "1" + "0" * 400])
def test_a_count_that_can_not_be_one_is_not_known(count):
    # What is beyond a float would end the metrics and the cost of its exchange.
    answer = f'{{"usage": {{"prompt_tokens": {count}, "completion_tokens": 7}}}}'

    assert metered(answer.encode(), content_type=JSON).usage == Usage(None, 7)


def test_a_usage_that_says_nothing_takes_nothing_back():
    assert metered(json_lines(LAST_CHUNK, '{"usage":{}}', "[DONE]")).usage == Usage(22, 7)


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_every_line_end_is_one(end):
    stream = json_lines(CHUNK, LAST_CHUNK, "[DONE]", end=end)

    assert read(metered(stream)) == read(metered(*pieces(stream))) == ("qwen-max", Usage(22, 7), True, False)


def test_a_byte_order_mark_changes_nothing():
    assert read(metered(b"\xef\xbb\xbf" + STREAM)) == read(metered(STREAM))


@given(places(STREAM))
@example(list(range(len(STREAM))))
def test_cutting_a_stream_changes_nothing(cuts):
    assert read(metered(*cut_at(cuts, STREAM))) == ("qwen-max", Usage(22, 7), True, False)


@settings(max_examples=300)
@given(streams.flatmap(lambda stream: st.tuples(st.just(stream), places(stream))))
def test_no_cut_of_any_stream_changes_what_it_tells(stream_and_places):
    stream, cuts = stream_and_places

    assert read(metered(*cut_at(cuts, stream))) == read(metered(stream)) == read(metered(*pieces(stream)))


@given(places(json.dumps(CHAT)))
def test_cutting_a_json_answer_changes_nothing(cuts):
    meter = metered(*cut_at(cuts, json.dumps(CHAT).encode()), content_type=JSON)

    assert read(meter) == ("qwen-max-2025-01-25", OF_CHAT, None, False)


@given(st.integers(0, len(STREAM) - 1))
def test_a_cut_stream_is_never_complete(end):
    assert metered(STREAM[:end]).complete is False


@given(st.sampled_from([JSON, EVENT_STREAM, "", "x"]), st.lists(st.binary(), max_size=4))
def test_no_bytes_make_it_raise(content_type, chunks):
    meter = metered(*chunks, content_type=content_type)

    assert meter.usage == Usage()
    assert meter.error_seen is False


@given(
    st.sampled_from([JSON, EVENT_STREAM]),
    st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["response.completed", "response.failed", "error"]) | json_values,
            "model": json_values,
            "error": json_values,
            "usage": json_values | st.fixed_dictionaries({"prompt_tokens": json_values, "output_tokens": json_values}),
            "choices": json_values | st.lists(st.fixed_dictionaries({"usage": json_values})),
            "response": json_values | st.fixed_dictionaries({"model": json_values, "error": json_values}),
        },
    ),
)
def test_any_object_tells_only_what_has_the_right_type(content_type, answer):
    text = json.dumps(answer)
    meter = metered(json_lines(text) if content_type == EVENT_STREAM else text.encode(), content_type=content_type)

    counts = (meter.usage.prompt_tokens, meter.usage.completion_tokens)
    assert all(count is None or (type(count) is int and count >= 0) for count in counts)
    assert meter.response_model is None or (isinstance(meter.response_model, str) and meter.response_model)
    assert (meter.complete is None) is (content_type == JSON)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"usage":' * 50_000,
        b'{"usage":{"prompt_tokens":' + b"9" * 5000 + b"}}",
        b'{"usage":{"prompt_tokens":NaN}}',
        b'{"usage":{"prompt_tokens":1e999}}',
    ],
    ids=["empty", "cut", "no text", "deep list", "deep object", "huge number", "NaN", "infinity"],
)
def test_hostile_json_tells_nothing(text):
    assert metered(text, content_type=JSON).usage == Usage()
    assert metered(b"data: " + text + b"\n\n").usage == Usage()


def test_finishing_twice_is_finishing_once():
    meter = metered(json.dumps(CHAT).encode(), content_type=JSON)
    before = read(meter)

    meter.finish()
    meter.feed(json.dumps(EMBEDDINGS).encode())
    meter.finish()

    assert read(meter) == before


@pytest.mark.parametrize("size", [100_000, 2 * MAX_JSON_BYTES])
@pytest.mark.parametrize(("more", "usage"), [(0, OF_CHAT), (1, Usage())])
def test_a_json_answer_is_metered_up_to_its_bound_however_it_was_cut(size, more, usage):
    text = json.dumps(CHAT).encode()
    answer = text + b" " * (MAX_JSON_BYTES - len(text) + more)

    assert metered(*pieces(answer, size), content_type=JSON).usage == usage


def test_after_an_event_that_is_too_large_it_is_not_known_whether_the_stream_ended():
    large = b"data: " + b"x" * MAX_EVENT_BYTES + b"\n\n"

    meter = metered(json_lines(CHUNK, LAST_CHUNK), large, json_lines("[DONE]"))

    assert read(meter) == ("qwen-max", Usage(22, 7), None, False)
