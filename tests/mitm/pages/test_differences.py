import json

from sidestream.mitm.pages.differences import difference
from sidestream.mitm.pages.seen import Before

HEADERS = {"host": "a.example", "x-tag": "1"}
SENT = {"host": "b.example", "authorization": "Bearer [redacted]", "x-tag": "1"}


def differ(old, new, headers=HEADERS, sent=SENT):
    before = Before("POST", "a.example", "/v1/chat/completions", headers, old)
    return difference(before, "POST", "https://b.example/chat", sent, new)


def test_it_tells_what_went_and_what_is_new_and_what_stayed():
    lines = differ(b'{"model": "a", "stream": true}', b'{"stream":true,"model":"b"}')

    assert lines[3:] == [
        "- POST a.example/v1/chat/completions",
        "+ POST https://b.example/chat",
        "+ authorization: Bearer [redacted]",
        "- host: a.example",
        "+ host: b.example",
        "  x-tag: 1",
        "",
        '- model: "a"',
        '+ model: "b"',
        "  stream: true",
    ]


def test_a_long_conversation_that_stayed_is_told_in_a_word():
    messages = [{"role": "user", "content": "hi"}] * 1000
    old, new = {"messages": messages}, {"messages": messages, "model": "m"}

    lines = differ(json.dumps(old).encode(), json.dumps(new).encode())

    assert lines[-2:] == ["  messages: (1,000 entries, as they were)", '+ model: "m"']


def test_a_body_that_is_no_object_is_told_by_its_length():
    assert differ(b"abc", b"abc")[-1] == "  (a body of 3 bytes, as it was)"
    assert differ(b"abc", b"{}")[-2:] == ["- (a body of 3 bytes)", "+ (a body of 2 bytes)"]
