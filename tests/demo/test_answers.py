import json

import pytest

from sidestream.demo.answers import Whole, answer
from sidestream.demo.behaviour import parse
from sidestream.demo.events import Streamed
from sidestream.demo.received import Received

TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {}}}]


def ask(body=None, *, path="/v1/chat/completions", method="POST", settings="", headers=(), api_keys=None):
    """Ask for chat with `body` laid over; bytes are sent as they are."""
    usual = {"model": "qwen-max", "messages": [{"role": "user", "content": "hello?"}]}
    sent = body if isinstance(body, bytes) else json.dumps(usual | (body or {})).encode()
    request = Received(method, path, list(headers), sent, 0.0, None, 1)
    return answer(request, parse(settings), name="dashscope", api_keys=api_keys, number=7, created=1000)


def decoded(whole):
    assert isinstance(whole, Whole)
    return json.loads(whole.body)


def payloads(streamed):
    assert isinstance(streamed, Streamed)
    events = b"".join(streamed.opening + streamed.content + streamed.closing).decode().split("\n\n")
    return [json.loads(event.removeprefix("data: ")) for event in events if event and "[DONE]" not in event]


def test_a_chat_answer_is_complete():
    assert decoded(ask(settings="reasoning=4 cached=1")) == {
        "id": "chatcmpl-standin-7",
        "object": "chat.completion",
        "created": 1000,
        "model": "qwen-max",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "hello from dashscope: model=qwen-max", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 2,
            "completion_tokens": 9,
            "total_tokens": 11,
            "prompt_tokens_details": {"cached_tokens": 1},
            "completion_tokens_details": {"reasoning_tokens": 4},
        },
    }


@pytest.mark.parametrize(
    "path", ["/chat/completions", "/compatible-mode/v1/chat/completions", "/v1/chat/completions?x=1"]
)
def test_chat_is_known_by_the_end_of_its_path(path):
    assert decoded(ask(path=path))["object"] == "chat.completion"


def test_the_tag_is_part_of_the_text():
    content = decoded(ask(headers=[("x-request-tag", "t-1")]))["choices"][0]["message"]["content"]

    assert content == "hello from dashscope: model=qwen-max tag=t-1"


@pytest.mark.parametrize("length", [1, 10, 36, 37, 500])
def test_the_text_is_as_long_as_asked(length):
    content = decoded(ask(settings=f"length={length}"))["choices"][0]["message"]["content"]

    assert len(content) == length


def test_usage_can_be_left_out():
    assert "usage" not in decoded(ask(settings="usage=never"))


def test_tokens_can_be_set():
    usage = decoded(ask(settings="prompt-tokens=100 completion-tokens=0"))["usage"]

    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (100, 0, 100)


def test_prompt_tokens_count_text_in_content_parts():
    parts = [{"type": "text", "text": "12345678"}, {"type": "image_url", "image_url": {"url": "data:..."}}]

    assert decoded(ask({"messages": [{"role": "user", "content": parts}]}))["usage"]["prompt_tokens"] == 2


@pytest.mark.parametrize("events", [0, 1, 5, 200])
def test_a_stream_has_the_events_asked_for(events):
    streamed = ask({"stream": True}, settings=f"events={events}")

    assert len(streamed.content) == events


@pytest.mark.parametrize("settings", ["", "length=100", "split=1", "events=3"])
def test_a_stream_says_what_the_whole_answer_says(settings):
    whole = decoded(ask(settings=settings))
    chunks = payloads(ask({"stream": True}, settings=settings))

    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)

    assert text == whole["choices"][0]["message"]["content"]


def test_a_stream_begins_with_the_role_and_ends_with_done():
    streamed = ask({"stream": True})

    assert payloads(streamed)[0]["choices"][0]["delta"]["role"] == "assistant"
    assert payloads(streamed)[-1]["choices"][0]["finish_reason"] == "stop"
    assert streamed.closing[-1] == b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("settings", "asked", "expected"),
    [
        ("", False, ["absent"]),
        ("", True, ["null", "reported alone"]),
        ("usage=always", False, ["null", "reported alone"]),
        ("usage=never", True, ["absent"]),
        ("usage=with-last", False, ["absent", "reported"]),
    ],
)
def test_usage_in_a_stream(settings, asked, expected):
    chunks = payloads(ask({"stream": True, "stream_options": {"include_usage": asked}}, settings=settings))

    seen = [
        "absent"
        if "usage" not in c
        else "null"
        if c["usage"] is None
        else "reported"
        if c["choices"]
        else "reported alone"
        for c in chunks
    ]

    assert list(dict.fromkeys(seen)) == expected
    assert seen[:-1] == [expected[0]] * (len(seen) - 1)


def test_an_error_event_ends_a_stream():
    streamed = ask({"stream": True}, settings="error-event=2")

    assert len(streamed.content) == 2
    assert [set(json.loads(event[6:])) for event in streamed.closing] == [{"error"}]


def test_an_error_event_without_a_stream_is_a_mistake():
    refused = ask(settings="error-event=2")

    assert refused.status == 400
    assert "stream: true" in decoded(refused)["error"]["message"]


def test_lines_can_end_in_crlf():
    streamed = ask({"stream": True}, settings="crlf=1")

    assert all(event.endswith(b"\r\n\r\n") for event in streamed.content)
    assert all(event.count(b"\n") == event.count(b"\r\n") for event in streamed.content)


def test_offered_tools_are_called():
    choice = decoded(ask({"tools": TOOLS}))["choices"][0]
    [call] = choice["message"]["tool_calls"]

    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert call["function"]["name"] == "get_weather"
    assert json.loads(call["function"]["arguments"])["text"].startswith("hello from dashscope")


@pytest.mark.parametrize("events", [1, 5, 300])
def test_a_streamed_tool_call_comes_in_pieces(events):
    streamed = ask({"tools": TOOLS, "stream": True}, settings=f"events={events}")
    deltas = [chunk["choices"][0]["delta"] for chunk in payloads(streamed)]
    calls = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]

    assert calls[0]["function"] == {"name": "get_weather", "arguments": ""}
    assert all(set(call) == {"index", "function"} for call in calls[1:])
    assert len(calls) == 1 + events
    assert json.loads("".join(call["function"]["arguments"] for call in calls))


@pytest.mark.parametrize(
    "body",
    [
        {"tools": TOOLS, "tool_choice": "none"},
        {"tools": TOOLS, "messages": [{"role": "tool", "tool_call_id": "call_standin_1", "content": "sunny"}]},
        {"tools": []},
    ],
)
def test_no_tool_is_called_when_declined_answered_or_absent(body):
    assert decoded(ask(body))["choices"][0]["finish_reason"] == "stop"


def test_embeddings_are_the_same_in_both_encodings():
    path = "/v1/embeddings"
    texts = {"input": ["four", "five"], "messages": None}

    floats = decoded(ask(texts, path=path))
    packed = decoded(ask(texts | {"encoding_format": "base64"}, path=path))

    assert [len(entry["embedding"]) for entry in floats["data"]] == [8, 8]
    assert [type(entry["embedding"]) for entry in packed["data"]] == [str, str]
    assert floats["usage"] == packed["usage"] == {"prompt_tokens": 2, "total_tokens": 2}


@pytest.mark.parametrize(("value", "count"), [("text", 1), ([1, 2, 3], 1), ([[1], [2]], 2), (["a"], 1)])
def test_embeddings_take_texts_and_tokens(value, count):
    assert len(decoded(ask({"input": value}, path="/v1/embeddings"))["data"]) == count


def test_models_are_listed():
    listed = decoded(ask(path="/v1/models", method="GET"))

    assert [model["id"] for model in listed["data"]] == ["dashscope-large", "dashscope-small"]


@pytest.mark.parametrize(
    ("path", "parameter", "kind"),
    [("/v1/completions", "prompt", "text_completion"), ("/v1/responses", "input", "response")],
)
def test_other_operations_answer(path, parameter, kind):
    assert decoded(ask({parameter: "hi"}, path=path))["object"] == kind


@pytest.mark.parametrize(
    ("asked", "status", "message"),
    [
        ({"path": "/v1/chats"}, 404, "Invalid URL (POST /v1/chats)"),
        ({"path": "/"}, 404, "Invalid URL (POST /)"),
        ({"method": "GET"}, 405, "Not allowed to GET"),
        ({"path": "/v1/models"}, 405, "Not allowed to POST"),
        ({"body": b"{"}, 400, "could not parse the JSON body"),
        ({"body": b"[" * 100_000}, 400, "could not parse the JSON body"),
        ({"body": b"\xff"}, 400, "could not parse the JSON body"),
        ({"body": b"[]"}, 400, "could not parse the JSON body"),
        ({"body": b'{"messages": []}'}, 400, "you must provide a model parameter"),
        ({"body": b'{"model": ""}'}, 400, "you must provide a model parameter"),
        ({"body": b'{"model": "m"}'}, 400, "Missing required parameter: 'messages'"),
        ({"settings": "status=503"}, 503, "dashscope was asked to answer 503"),
        ({"api_keys": {"k"}}, 401, "You didn't provide an API key"),
        ({"api_keys": {"k"}, "headers": [("authorization", "Bearer x")]}, 401, "Incorrect API key"),
        ({"api_keys": {"k"}, "headers": [("authorization", "Basic k")]}, 401, "Incorrect API key"),
        ({"api_keys": {"k"}, "settings": "status=500"}, 401, "You didn't provide an API key"),
    ],
)
def test_a_bad_request_gets_an_openai_error(asked, status, message):
    refused = ask(**asked)

    assert refused.status == status
    assert message in decoded(refused)["error"]["message"]
    assert set(decoded(refused)["error"]) == {"message", "type", "param", "code"}


def test_half_a_character_in_a_request_does_not_spoil_the_answer():
    body = b'{"model": "m\\ud800", "messages": []}'

    assert decoded(ask(body))["model"] == "m?"


def test_a_refused_key_is_not_repeated():
    refused = ask(api_keys={"k"}, headers=[("authorization", "Bearer sk-secret")])

    assert b"sk-secret" not in refused.body


def test_an_accepted_key_is_answered():
    assert ask(api_keys={"k"}, headers=[("authorization", "Bearer k")]).status == 200


def test_a_rate_limit_says_when_to_come_back():
    assert ask(settings="status=429 retry-after=2").headers == (("retry-after", "2"),)
