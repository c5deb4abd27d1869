import json

from hypothesis import given
from hypothesis import strategies as st

from sidestream.demo.received import Received, read_journal

REQUEST = Received(
    method="POST",
    path="/v1/chat/completions?a=b",
    headers=[("host", "h"), ("x-tag", "1"), ("x-tag", "2")],
    body=b'{"model": "m"}',
    at=12.5,
    server_name="h",
    connection=3,
)


@given(st.binary())
def test_any_body_survives_the_journal(body):
    request = Received("POST", "/", [], body, 1.0, None, 1)

    assert Received.from_line(request.to_line()) == request


def test_a_request_survives_the_journal():
    assert Received.from_line(REQUEST.to_line()) == REQUEST


def test_a_line_is_json_with_the_body_as_text():
    line = json.loads(REQUEST.to_line())

    assert line["body"] == '{"model": "m"}'
    assert "\n" not in REQUEST.to_line()


def test_an_unfinished_line_is_left_out(tmp_path):
    journal = tmp_path / "journal"
    journal.write_text(REQUEST.to_line() + "\n" + REQUEST.to_line()[:20])

    assert read_journal(journal) == [REQUEST]


def test_headers_are_found_in_any_case_and_joined():
    assert REQUEST.header("X-Tag") == "1, 2"
    assert REQUEST.header("authorization") is None


def test_the_body_is_decoded():
    assert REQUEST.json == {"model": "m"}
