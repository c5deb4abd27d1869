"""The bytes of a request: the key is there and nowhere else, and nothing breaks the head."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidestream.core.calls import Outgoing
from sidestream.core.secret import Secret
from sidestream.upstream.wire import head_bytes, without_key

KEY = Secret("sk-marker-wire-31c7")


def outgoing(*fields, method=b"POST", target=b"/v1/chat/completions", body=b"{}"):
    return Outgoing(method, target, [(b"Host", b"provider.test"), *fields], body)


def lines(*fields, key=None, **how):
    head = head_bytes(outgoing(*fields, **how), key)
    assert head.endswith(b"\r\n\r\n")
    return head.removesuffix(b"\r\n\r\n").split(b"\r\n")


def test_a_request_is_its_fields_its_key_and_its_length():
    assert lines((b"X-One", b"1"), key=KEY) == [
        b"POST /v1/chat/completions HTTP/1.1",
        b"Host: provider.test",
        b"X-One: 1",
        b"Authorization: Bearer sk-marker-wire-31c7",
        b"Content-Length: 2",
    ]


def test_the_key_replaces_every_credential_there_is():
    written = lines((b"Authorization", b"Bearer theirs"), (b"AUTHORIZATION", b"Basic x"), key=KEY)

    assert [line for line in written if b"uthorization" in line.lower()] == [
        b"Authorization: Bearer sk-marker-wire-31c7"
    ]


def test_without_a_key_there_is_none():
    assert not any(b"authorization" in line.lower() for line in lines())


def test_what_a_provider_says_is_without_the_key():
    said = KEY.reveal().encode()

    assert without_key(b"%s is no key, %s!" % (said, said), KEY) == b"[redacted] is no key, [redacted]!"
    assert without_key(said, None) == said


def test_a_word_that_stands_for_a_key_is_left_alone():
    assert without_key(b"EMPTY", Secret("EMPTY")) == b"EMPTY"


def test_what_goes_on_the_wire_shows_no_key_of_itself():
    assert "sk-marker" not in repr(outgoing()) + repr(KEY)


@pytest.mark.parametrize(
    "name",
    [b"Connection", b"Keep-Alive", b"Proxy-Connection", b"TE", b"Trailer", b"Transfer-Encoding", b"Upgrade", b"Expect"],
)
def test_what_is_between_a_client_and_us_ends_here(name):
    assert lines((name, b"x-other")) == lines()


def test_what_a_client_names_in_connection_ends_here():
    written = lines((b"Connection", b"close, X-One ,x-two"), (b"X-One", b"1"), (b"x-TWO", b"2"), (b"X-Three", b"3"))

    assert written == lines((b"X-Three", b"3"))


def test_naming_what_a_request_needs_takes_nothing_off_it():
    fields = [(b"Content-Type", b"application/json"), (b"Accept-Encoding", b"identity")]
    named = b"host, content-type, accept-encoding, authorization, content-length"

    assert lines((b"Connection", named), *fields, key=KEY) == lines(*fields, key=KEY)


@pytest.mark.parametrize("method", [b"POST", b"PUT", b"PATCH", b"QUERY"])
def test_a_method_that_sends_a_body_says_that_there_is_none(method):
    assert lines(method=method, body=b"")[-1] == b"Content-Length: 0"


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"DELETE", b"OPTIONS"])
def test_another_says_nothing_of_it(method):
    assert lines(method=method, body=b"") == [b"%s /v1/chat/completions HTTP/1.1" % method, b"Host: provider.test"]


def test_the_length_is_of_the_body_whatever_was_said():
    written = lines((b"content-length", b"99"), (b"Content-Length", b"1"), method=b"DELETE", body=b"abc")

    assert written[2:] == [b"Content-Length: 3"]


@pytest.mark.parametrize("broken", [b"a\r\nX-Two: 2", b"a\nb", b"a\rb", b"a\0b"])
@pytest.mark.parametrize("where", ["name", "value", "target", "method", "key"])
def test_a_line_break_is_refused_and_the_message_holds_neither_it_nor_the_key(broken, where):
    fields = [(broken, b"1")] if where == "name" else [(b"X-One", broken)] if where == "value" else []
    how = {where: broken} if where in ("target", "method") else {}
    key = Secret("sk-marker-" + broken.decode()) if where == "key" else KEY

    with pytest.raises(ValueError) as refused:
        head_bytes(outgoing(*fields, **how), key)

    assert "sk-marker" not in str(refused.value)
    assert broken.decode() not in str(refused.value)


@given(st.lists(st.tuples(st.binary(min_size=1), st.binary())))
def test_no_field_adds_a_line(fields):
    try:
        written = lines(*fields, key=KEY)
    except ValueError:
        return
    assert len(written) <= 4 + len(fields)
    assert written.count(b"Authorization: Bearer sk-marker-wire-31c7") == 1
