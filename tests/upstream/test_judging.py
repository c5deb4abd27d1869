"""What the head of an answer means."""

import email.utils
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidestream.core.operations import CHAT, OTHER
from sidestream.core.planning import Attempt, Plan
from sidestream.core.snapshot import Endpoint
from sidestream.upstream.connection import Answer
from sidestream.upstream.judging import MAX_RETRY_AFTER_SECONDS, failure_of, head_of, manner_of, retry_after_seconds


def answered(status=200, *, has_body=True, **fields):
    named = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in fields.items()]
    return Answer(status, b"", named, has_body)


def planned(operation=CHAT):
    attempt = Attempt(Endpoint("127.0.0.1", 443, "provider.test"), "/v1/chat/completions")
    return Plan(operation, attempt, "m-1", "m-1", stream=True)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(408, "timeout"), (429, "rate-limited"), (500, "server-error"), (503, "server-error"), (599, "server-error")],
)
def test_a_provider_that_cannot_answer_has_failed(status, kind):
    failure = failure_of(answered(status))

    assert (failure.kind, failure.status, failure.message) == (kind, status, f"it answered {status}")


@pytest.mark.parametrize("status", [200, 204, 302, 400, 401, 403, 404, 409, 422])
def test_anything_else_is_an_answer(status):
    assert failure_of(answered(status)) is None


def test_a_failure_says_when_to_come_back():
    assert [failure_of(answered(status, retry_after="7")).retry_after_seconds for status in (429, 503, 408)] == [
        7,
        7,
        None,
    ]


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("0", 0),
        ("7", 7),
        ("1.5", 1.5),
        (" 7 ", 7),
        ("99999999999", MAX_RETRY_AFTER_SECONDS),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("Wed, 21 Oct 2099 07:28:00 GMT", MAX_RETRY_AFTER_SECONDS),
        ("", None),
        ("soon", None),
        ("-1", None),
        ("7 seconds", None),
        ("7, 8", None),
        ("nan", None),
        ("1e999", MAX_RETRY_AFTER_SECONDS),
    ],
)
def test_retry_after_is_seconds_or_a_date_or_not_understood(written, seconds):
    assert retry_after_seconds(answered(retry_after=written)) == seconds


def test_a_date_is_as_far_away_as_it_is():
    in_a_minute = email.utils.formatdate(time.time() + 60, usegmt=True)

    assert 30 < retry_after_seconds(answered(retry_after=in_a_minute)) <= 60


@pytest.mark.parametrize(("written", "seconds"), [("250", 0.25), ("9" * 5000, MAX_RETRY_AFTER_SECONDS), ("x", 7)])
def test_milliseconds_go_first_where_they_are_understood(written, seconds):
    assert retry_after_seconds(answered(retry_after_ms=written, retry_after="7")) == seconds


@given(st.text(st.characters(max_codepoint=255)), st.text(st.characters(max_codepoint=255)))
def test_no_words_make_it_raise(seconds, milliseconds):
    found = retry_after_seconds(answered(retry_after=seconds, retry_after_ms=milliseconds))

    assert found is None or 0 <= found <= MAX_RETRY_AFTER_SECONDS


@pytest.mark.parametrize(
    ("operation", "answer", "manner"),
    [
        (CHAT, answered(content_type="text/event-stream; charset=utf-8"), "events"),
        (CHAT, answered(content_type="Text/Event-Stream"), "events"),
        (CHAT, answered(content_type="application/json"), "whole"),
        (CHAT, answered(content_type="text/html"), "plain"),
        (CHAT, answered(), "plain"),
        (CHAT, answered(500, content_type="text/event-stream"), "whole"),
        (CHAT, answered(401, content_type="text/plain"), "whole"),
        (OTHER, answered(401, content_type="text/plain"), "plain"),
        (CHAT, answered(content_type="application/json", has_body=False), "plain"),
        (CHAT, answered(content_type="text/event-stream", has_body=False), "plain"),
        (CHAT, answered(content_type="text/event-stream", content_encoding="gzip"), "events"),
        (CHAT, answered(content_type="text/event-stream", content_encoding="identity"), "events"),
        (CHAT, answered(content_type="text/event-stream", content_encoding="zstd"), "plain"),
        (CHAT, answered(content_type="application/json", content_encoding="gzip, br"), "plain"),
        (OTHER, answered(content_type="text/event-stream"), "plain"),
        (OTHER, answered(content_type="application/json"), "plain"),
    ],
)
def test_how_a_body_goes_on(operation, answer, manner):
    assert manner_of(planned(operation), answer) == manner


def test_a_client_gets_nothing_of_the_connection():
    answer = answered(connection="close", keep_alive="x", transfer_encoding="chunked", trailer="x", x_one="1")

    head = head_of(answer, is_decoded=False, is_as_it_came=True)

    assert (head.fields, head.length) == ([(b"x-one", b"1")], None)


@pytest.mark.parametrize(("is_decoded", "is_as_it_came"), [(True, True), (True, False), (False, False)])
def test_a_length_that_may_not_be_the_clients_is_not_told(is_decoded, is_as_it_came):
    answer = answered(content_length="5", content_encoding="gzip")

    head = head_of(answer, is_decoded=is_decoded, is_as_it_came=is_as_it_came)

    assert head.length is None
    assert ((b"content-encoding", b"gzip") in head.fields) != is_decoded


def test_a_body_that_goes_on_as_it_came_is_as_long():
    assert head_of(answered(content_length="5"), is_decoded=False, is_as_it_came=True).length == 5
