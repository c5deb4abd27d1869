import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidestream.core.joining import join
from sidestream.demo.answers import OPERATIONS
from sidestream.demo.behaviour import Behaviour
from sidestream.demo.turn import Turn as DemoTurn
from sidestream.mitm.pages.turns import answer_turns

TOOLS = [{"type": "function", "function": {"name": "weather"}}]


def answers(path, **body):
    """The same answer, whole and as a stream."""
    turn = DemoTurn("standin", 1, 0, {"model": "m", **body}, None, Behaviour(events=7, split=True))
    operation = OPERATIONS[path]
    streamed = operation.stream(turn)
    return json.loads(operation.whole(turn).body), b"".join(streamed.opening + streamed.content + streamed.closing)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/chat/completions", {"messages": []}),
        ("/chat/completions", {"messages": [], "tools": TOOLS}),
        ("/completions", {"prompt": "hi"}),
        ("/responses", {"input": "hi"}),
    ],
)
def test_a_stream_says_what_the_whole_answer_does(path, body):
    whole, stream = answers(path, **body)

    assert answer_turns(join(stream)) == answer_turns(whole) != []


@pytest.mark.parametrize("path", ["/chat/completions", "/responses"])
def test_any_beginning_says_the_beginning(path):
    whole, stream = answers(path, messages=[], input="hi")
    (said,) = answer_turns(whole)

    beginnings = [answer_turns(join(stream[:length])) for length in range(len(stream))]

    assert all(said.blocks[0].startswith(turn.blocks[0]) for turns in beginnings for turn in turns)
    assert sum(1 for turns in beginnings if turns) > len(stream) / 4


def test_arguments_of_several_calls_are_kept_apart():
    pieces = [(0, "f", '{"a"'), (1, "g", "{"), (0, "", ":1}"), (1, "", "}")]
    calls = [{"index": i, "function": {"name": name, "arguments": text}} for i, name, text in pieces]
    events = [{"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]} for call in calls]
    stream = "".join(f"data: {json.dumps(event)}\n\n" for event in events).encode()

    (turn,) = answer_turns(join(stream))

    assert turn.blocks == ('→ f\n{\n  "a": 1\n}', "→ g\n{}")


def test_a_call_of_the_responses_api_is_joined_while_it_comes():
    item = {"type": "function_call", "name": "f", "call_id": "c", "arguments": ""}
    events = [{"type": "response.output_item.added", "output_index": 0, "item": item}]
    events += [{"type": "response.function_call_arguments.delta", "output_index": 0, "delta": text} for text in "{}"]
    stream = "".join(f"data: {json.dumps(event)}\n\n" for event in events).encode()

    (turn,) = answer_turns(join(stream))

    assert turn.blocks == ("→ f  (c)\n{}",)


def test_an_error_in_a_stream_is_told():
    (turn,) = answer_turns(join(b'data: {"error": {"message": "no more", "code": "quota"}}\n\n'))

    assert (turn.role, turn.blocks) == ("error", ("quota: no more",))


FIELDS = st.sampled_from(
    [
        "choices",
        "delta",
        "content",
        "index",
        "tool_calls",
        "function",
        "arguments",
        "name",
        "text",
        "finish_reason",
        "type",
        "response",
        "output",
        "item",
        "output_index",
        "content_index",
        "error",
    ],
)
VALUES = st.recursive(
    st.none() | st.integers(-1, 2000) | st.sampled_from(["x", "response.output_text.delta", "response.completed"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(FIELDS, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.dictionaries(FIELDS, VALUES, max_size=5), max_size=3))
def test_no_events_make_it_raise(events):
    answer_turns(join("".join(f"data: {json.dumps(event)}\n\n" for event in events).encode()))


@given(st.binary())
def test_no_bytes_make_it_raise(stream):
    answer_turns(join(stream))
