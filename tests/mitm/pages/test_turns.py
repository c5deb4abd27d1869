import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidestream.mitm.pages.turns import Turn, answer_turns, request_turns

FIELDS = st.sampled_from(
    [
        "messages",
        "content",
        "role",
        "tool_calls",
        "function",
        "arguments",
        "type",
        "image_url",
        "url",
        "input",
        "prompt",
        "output",
        "choices",
        "message",
        "text",
        "error",
        "summary",
        "tools",
        "name",
        "data",
        "embedding",
    ],
)
WORDS = st.sampled_from(["message", "function_call", "image_url", "file", "data:image/png;base64,A", "https://x", "{"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | WORDS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(FIELDS, inner, max_size=3),
    max_leaves=10,
)


def test_a_chat_is_its_messages():
    body = {"messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi", "name": "ann"}]}

    assert request_turns(body) == [Turn("system", ("be brief",)), Turn("user", ("hi",), "ann")]


def test_a_tool_call_has_its_arguments_and_its_result_names_it():
    call = {"id": "call_1", "function": {"name": "weather", "arguments": '{"city":"Ulm"}'}}
    messages = [{"role": "assistant", "content": None, "tool_calls": [call]}]
    messages += [{"role": "tool", "tool_call_id": "call_1", "content": "rain"}]

    assert request_turns({"messages": messages}) == [
        Turn("assistant", ('→ weather  (call_1)\n{\n  "city": "Ulm"\n}',)),
        Turn("tool", ("rain",), "call_1"),
    ]


def test_arguments_that_have_not_all_come_stand_as_they_are():
    call = {"function": {"name": "weather", "arguments": '{"city":"U'}}

    (turn,) = answer_turns({"choices": [{"message": {"role": "assistant", "tool_calls": [call]}}]})

    assert turn.blocks == ('→ weather\n{"city":"U',)


@pytest.mark.parametrize(
    ("part", "shown"),
    [
        ({"type": "image_url", "image_url": {"url": "https://a.example/b.png"}}, "[image: https://a.example/b.png]"),
        (
            {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 400}},
            "[image: image/png, 300 bytes]",
        ),
        ({"type": "input_image", "image_url": "data:image/gif;base64,AAAA"}, "[image: image/gif, 3 bytes]"),
        ({"type": "input_audio", "input_audio": {"data": "A" * 40, "format": "wav"}}, "[sound: wav, 30 bytes]"),
        (
            {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}},
            "[file: a.pdf, application/pdf, 3 bytes]",
        ),
        ({"type": "input_file", "file_id": "file-1"}, "[file: file-1]"),
        ({"type": "hologram"}, "[hologram]"),
    ],
)
def test_what_is_no_text_has_a_placeholder(part, shown):
    (turn,) = request_turns({"messages": [{"role": "user", "content": [{"type": "text", "text": "look"}, part]}]})

    assert turn.blocks == ("look", shown)


def test_reasoning_and_refusals_are_told_apart_from_what_is_said():
    message = {"role": "assistant", "reasoning_content": "hm", "content": "no", "refusal": "can't"}

    (turn,) = answer_turns({"choices": [{"message": message, "finish_reason": "length"}]})

    assert turn == Turn("assistant", ("(thinks) hm", "no", "(refuses) can't"), "ended by length")


def test_several_choices_are_numbered():
    choices = [{"message": {"role": "assistant", "content": text}} for text in "ab"]

    assert [turn.label for turn in answer_turns({"choices": choices})] == ["choice 1", "choice 2"]


def test_the_responses_api_is_a_conversation_too():
    body = {"instructions": "be brief", "input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}]}
    body["input"] += [{"type": "function_call", "name": "f", "arguments": "{}", "call_id": "c"}]
    body["input"] += [{"type": "function_call_output", "call_id": "c", "output": "42"}]

    assert [(turn.role, turn.blocks[0]) for turn in request_turns(body)] == [
        ("system", "be brief"),
        ("user", "hi"),
        ("assistant", "→ f  (c)\n{}"),
        ("tool", "42"),
    ]


def test_prompts_and_texts_to_embed_are_what_the_user_says():
    assert request_turns({"prompt": "once"}) == [Turn("user", ("once",))]
    assert request_turns({"input": ["a", "b"]}) == [Turn("user", ("a", "b"))]
    assert request_turns({"input": [1, 2, 3]}) == [Turn("user", ("[3 tokens]",))]


def test_embeddings_are_counted_and_errors_told():
    assert answer_turns({"data": [{"embedding": [0.1]}]}) == [Turn("answer", ("[1 embedding]",))]
    assert answer_turns({"error": {"code": "rate", "message": "slow down"}}) == [Turn("error", ("rate: slow down",))]


def test_tools_that_are_offered_are_named():
    body = {"tools": [{"type": "function", "function": {"name": "f"}}, {"type": "web_search"}]}

    assert request_turns(body) == [Turn("tools", ("f, web_search",))]


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(FIELDS, VALUES, max_size=5))
def test_nothing_raises_and_all_is_text(body):
    turns = [*request_turns(body), *answer_turns(body)]

    assert all(isinstance(block, str) for turn in turns for block in (turn.role, turn.label, *turn.blocks))
