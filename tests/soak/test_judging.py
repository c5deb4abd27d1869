import dataclasses
import json

import pytest

from sidestream.demo import answers
from sidestream.demo.received import Received
from tests.soak.asking import CHAT, RESPONSES, Ask
from tests.soak.judging import judge
from tests.soak.speaking import Answer

BODY = {"model": "tag-1", "messages": [{"role": "user", "content": "hi"}]}
WHOLE = Ask("tag-1", "soak.test", CHAT, BODY, "events=4")
STREAM = dataclasses.replace(WHOLE, body=BODY | {"stream": True})
ERROR_EVENT = b'data: {"error": {"message": "broken off", "type": "server_error", "code": null}}\n\n'


def told(ask, name="beta", tag="tag-1"):
    """What a client gets of what the stand-in `name` says to `ask`: a list of events, or one body."""
    sent = ask.body | ({"model": f"{name}-model"} if ask.path == CHAT else {})
    if ask.path == CHAT and sent.get("stream"):
        sent["stream_options"] = {"include_usage": True}
    request = Received("POST", ask.path, [("x-request-tag", tag)], json.dumps(sent).encode(), 0.0, None, 1)
    answer = answers.answer(request, ask.behaviour, name=name, api_keys=None, number=7, created=1700000000)
    if isinstance(answer, answers.Whole):
        return answer.body
    events = [*answer.opening, *answer.content, *answer.closing]
    return [event for event in events if ask.path != CHAT or b'"choices": []' not in event]


def got(body, **differently):
    said = {"end": "complete", "status": 200, "headers": {"x-request-tag": "tag-1"}}
    return Answer(body=body, **said | differently)


def test_a_whole_answer_is_complete():
    assert judge(WHOLE, got(told(WHOLE))).kind == "complete"


@pytest.mark.parametrize("settings", ["events=4", "events=4 comments=1 crlf=1", "events=1 usage=always"])
def test_a_whole_stream_is_complete(settings):
    ask = dataclasses.replace(STREAM, settings=settings)

    assert judge(ask, got(b"".join(told(ask)))).kind == "complete"


def test_a_stream_of_the_responses_api_ends_without_done():
    ask = dataclasses.replace(STREAM, path=RESPONSES, body={"model": "tag-1", "input": "hi", "stream": True})

    assert judge(ask, got(b"".join(told(ask)))).kind == "complete"


def test_a_stream_that_was_cut_is_incomplete():
    assert judge(STREAM, got(b"".join(told(STREAM)[:3]), end="cut")).kind == "incomplete"


@pytest.mark.parametrize("end", ["complete", "cut"])
def test_a_stream_that_ends_with_an_error_is_incomplete(end):
    assert judge(STREAM, got(b"".join(told(STREAM)[:3]) + ERROR_EVENT, end=end)).kind == "incomplete"


SPOILT = {
    "ends as if complete": lambda events: events[:3],
    "ends as if complete, but for [DONE]": lambda events: events[:-1],
    "[DONE] too early": lambda events: [*events[:3], events[-1]],
    "an event is lost": lambda events: events[:2] + events[3:],
    "an event is doubled": lambda events: [*events[:3], events[2], *events[3:]],
    "events are swapped": lambda events: [events[0], events[2], events[1], *events[3:]],
    "two attempts in one": lambda events: events[:2] + told(STREAM, "alpha"),
    "another provider goes on": lambda events: events[:3] + told(STREAM, "alpha")[3:],
    "another call's": lambda events: told(STREAM, tag="tag-2"),
    "more after the end": lambda events: [*events, b"data: x"],
    "nothing": lambda events: [],
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_a_spoilt_stream_is_an_offence(spoil):
    assert judge(STREAM, got(b"".join(spoil(told(STREAM))))).kind == "offence"


def test_a_cut_stream_with_done_is_an_offence():
    events = told(STREAM)

    assert judge(STREAM, got(b"".join([*events[:3], events[-1]]), end="cut")).kind == "offence"


ODD = {
    "another call's answer": got(told(WHOLE, tag="tag-2")),
    "another call's headers": got(told(WHOLE), headers={"x-request-tag": "tag-2"}),
    "half a body": got(told(WHOLE)[:50]),
    "bytes after the answer": got(told(WHOLE), excess=b"HTTP/1.1 200 OK\r\n"),
    "no answer": Answer(),
    "no HTTP": got(b"", end="bad-framing"),
    "an error that says nothing": got(b"<h1>Bad gateway</h1>", status=502),
    "the provider's key is missing": got(answers.error(401, "no key").body, status=401),
}


@pytest.mark.parametrize("answer", ODD.values(), ids=ODD)
def test_an_odd_answer_is_an_offence(answer):
    assert judge(WHOLE, answer).kind == "offence"


def test_a_clear_error_is_an_error():
    assert judge(WHOLE, got(answers.error(503, "later").body, status=503)).kind == "error"


def test_what_a_client_got_before_it_left_must_be_right_too():
    assert judge(STREAM, got(told(STREAM)[0], end="left")).kind == "left"
    assert judge(STREAM, got(told(STREAM)[2], end="left")).kind == "offence"
