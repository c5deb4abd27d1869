"""Prompts and answers, as OpenTelemetry writes them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidestream.core.exchange import Content
from sidestream.telemetry.otel.messages import MAX_CHARACTERS, content_of
from sidestream.telemetry.redacting import Redactor
from tests.core.builders import json_lines, json_values

SECRET = "sk-abcdefghijklmnop"
ANSWER = {"choices": [{"message": {"role": "assistant", "content": "Hello."}, "finish_reason": "stop"}]}


def told(request, response=ANSWER, redact=str):
    bodies = (body if isinstance(body, bytes) else json.dumps(body).encode() for body in (request, response))
    return dict(content_of(Content(*bodies), redact))


def prompt(*messages, redact=str):
    return json.loads(told({"messages": list(messages)}, redact=redact)["gen_ai.input.messages"])


@pytest.mark.parametrize(
    ("message", "parts"),
    [
        ({"content": "hi"}, [{"type": "text", "content": "hi"}]),
        ({"content": ""}, [{"type": "text", "content": ""}]),
        ({"content": None}, []),
        (
            {
                "content": [
                    {"type": "text", "text": "what is it?"},
                    {"type": "image_url", "image_url": {"url": "data:x"}},
                ]
            },
            [{"type": "text", "content": "what is it?"}, {"type": "image_url"}],
        ),
        (
            {"role": "tool", "tool_call_id": "c-1", "content": "22"},
            [{"type": "tool_call_response", "id": "c-1", "response": "22"}],
        ),
        (
            {"content": None, "tool_calls": [{"id": "c-1", "function": {"name": "add", "arguments": "{}"}}]},
            [{"type": "tool_call", "id": "c-1", "name": "add", "arguments": "{}"}],
        ),
        (
            {"reasoning_content": "hm", "content": "hi"},
            [{"type": "reasoning", "content": "hm"}, {"type": "text", "content": "hi"}],
        ),
    ],
)
def test_a_message_becomes_parts(message, parts):
    role = message.get("role", "user")

    assert prompt({"role": role} | message) == [{"role": role, "parts": parts}]


def test_an_answer_says_why_it_ended():
    [message] = json.loads(told({"messages": [{}]})["gen_ai.output.messages"])

    assert message == {
        "role": "assistant",
        "parts": [{"type": "text", "content": "Hello."}],
        "finish_reason": "stop",
    }


def test_a_stream_is_put_together():
    pieces = [
        {"delta": {"role": "assistant", "content": "Hel"}},
        {"delta": {"content": "lo."}, "finish_reason": "stop"},
    ]
    stream = json_lines(*(json.dumps({"choices": [piece]}) for piece in pieces), "[DONE]")

    assert told({"messages": [{}]}, stream) == told({"messages": [{}]}, ANSWER)


def test_what_is_no_chat_stays_as_it_is():
    assert told({"input": "four"}, {"data": []}) == {
        "sidestream.request_body": '{"input": "four"}',
        "sidestream.response_body": '{"data": []}',
    }


def test_every_text_is_redacted_before_it_is_cut():
    call = {"id": SECRET, "function": {"name": SECRET, "arguments": SECRET}}
    long = "x" * (MAX_CHARACTERS - 300) + f" {SECRET}"
    messages = [{"role": SECRET, "content": SECRET, "tool_calls": [call]}, {"role": "user", "content": long}]

    attributes = told({"messages": messages}, b"x" * (MAX_CHARACTERS - 4) + f" {SECRET}".encode(), Redactor())

    assert "sk-" not in "".join(attributes.values())
    assert "[redacted]" in attributes["gen_ai.input.messages"]


def test_the_newest_messages_are_kept():
    messages = [{"role": "user", "content": f"{number} " + "x" * 1000} for number in range(50)]

    kept = prompt(*messages)

    assert kept[-1]["parts"][0]["content"].startswith("49 ")
    assert 10 < len(kept) < 17


@given(st.lists(json_values, max_size=3), json_values)
def test_whatever_was_said_is_written_within_bounds(messages, answer):
    attributes = told({"messages": messages}, answer)

    assert all(len(text) < 8 * MAX_CHARACTERS for text in attributes.values())
