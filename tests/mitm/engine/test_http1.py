"""The client's side of HTTP/1, fed without sockets: however it is cut, bad is refused and good is read."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy.options import Options
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http._base import ReceiveHttp
from mitmproxy.proxy.layers.http._events import RequestData, RequestEndOfMessage, RequestHeaders, RequestProtocolError
from mitmproxy.test import tflow

from sidestream.mitm.engine import http1
from sidestream.mitm.engine.http1 import MAX_HEAD_BYTES, GovernedHttp1Server, InvalidRequest
from tests.mitm.driver import Drive

KEY = b"sk-marker-http1"
HEAD = b"POST / HTTP/1.1\r\nhost: a.example\r\nauthorization: Bearer " + KEY + b"\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"


class Listening(Drive):
    """Collects the HTTP events that a connection reads out of bytes."""

    def _carry_out(self, command):
        if isinstance(command, ReceiveHttp):
            self.__dict__.setdefault("read", []).append(command.event)
        else:
            super()._carry_out(command)


def read(*parts, leave=False):
    """Return what happened when a client said `parts`: the drive, and the events read."""
    drive = Listening(GovernedHttp1Server(Context(tflow.tclient_conn(), Options()))).start()
    for part in parts:
        drive.say(part)
    if leave:
        drive.leave()
    return drive, drive.__dict__.get("read", [])


def body_of(happened):
    return b"".join(event.data for event in happened if isinstance(event, RequestData))


def kinds(happened):
    """Return the kinds of events in order, a body in several parts counting as one."""
    return [kind for kind, _ in itertools.groupby(map(type, happened))]


WHOLE = {
    "chunks": (CHUNKED + b"2\r\n{}\r\n0\r\n\r\n", b"{}"),
    "trailers": (CHUNKED + b"2\r\n{}\r\n0\r\nx-checksum: 1\r\nx-other: 2\r\n\r\n", b"{}"),
    "a length": (HEAD + b"content-length: 2\r\n\r\n{}", b"{}"),
    "no body": (HEAD + b"\r\n", b""),
}
BAD = {
    "no size": CHUNKED + b"size\r\n",
    "too long": CHUNKED + b"1\r\n{}\r\n0\r\n\r\n",
    "a negative length": HEAD + b"content-length: -1\r\n\r\n",
    "an unknown coding": HEAD + b"transfer-encoding: zip\r\n\r\n",
    "no colon": HEAD.replace(b": Bearer", b" Bearer") + b"\r\n",
    "no request line": b"authorization: Bearer " + KEY + b"\r\n\r\n",
}


@pytest.mark.parametrize(("content", "body"), WHOLE.values(), ids=WHOLE.keys())
@given(cuts=st.lists(st.integers(0, 200), max_size=5).map(sorted))
def test_a_good_request_is_read_however_it_is_cut(content, body, cuts):
    drive, happened = read(*(content[a:b] for a, b in itertools.pairwise([0, *cuts, len(content)]) if content[a:b]))

    assert kinds(happened) in (
        [RequestHeaders, RequestData, RequestEndOfMessage],
        [RequestHeaders, RequestEndOfMessage],
    )
    assert body_of(happened) == body
    assert drive.sent == {}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD.keys())
@given(cuts=st.lists(st.integers(0, 200), max_size=5).map(sorted))
def test_a_bad_request_is_refused_once_however_it_is_cut(content, cuts):
    drive, happened = read(*(content[a:b] for a, b in itertools.pairwise([0, *cuts, len(content)]) if content[a:b]))

    [answer] = drive.sent.values()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"connection: close" in head
    assert json.loads(body)["error"]["code"] == "invalid_request"
    assert drive.closed == [drive.client]
    assert [type(event) for event in happened if isinstance(event, RequestProtocolError)] in ([], [InvalidRequest])


@pytest.mark.parametrize("content", [*BAD.values(), HEAD, CHUNKED[:-3]])
def test_no_byte_of_the_client_is_logged_or_answered(content):
    drive, happened = read(content, leave=True)

    assert KEY not in b"".join(drive.sent.values())
    assert KEY.decode() not in str(drive.logged)
    assert KEY.decode() not in str([event.message for event in happened if isinstance(event, RequestProtocolError)])


def test_a_client_that_leaves_in_its_body_is_told_apart_from_one_that_is_wrong():
    _, happened = read(CHUNKED + b"2\r\n{", leave=True)

    assert [type(event) for event in happened if isinstance(event, RequestProtocolError)] == [RequestProtocolError]


def said(drive):
    """Return the status and the code of the only answer."""
    [answer] = drive.sent.values()
    assert answer.count(b"HTTP/1.1 ") == 1
    return int(answer[9:12]), json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"]


PADDING = b"x: " + b"x" * 1000 + b"\r\n"
TOO_LONG = PADDING * (MAX_HEAD_BYTES // len(PADDING) + 1)


@pytest.mark.parametrize(
    "parts",
    [[HEAD + TOO_LONG + b"\r\n"], [HEAD + TOO_LONG + b"\r\n", b"more"], [HEAD, *[PADDING] * 70, b"\r\n"]],
    ids=["at once", "and more", "bit by bit"],
)
def test_a_head_that_is_too_large_is_refused_and_counted_however_it_comes(parts, monkeypatch):
    refused = []
    monkeypatch.setattr(GovernedHttp1Server, "note_refusal", staticmethod(refused.append))

    drive, happened = read(*parts)

    assert said(drive) == (431, "head_too_large")
    assert refused == ["head_too_large"]
    assert happened == []
    assert drive.closed == [drive.client]


def test_a_body_counts_for_no_head():
    drive, happened = read(HEAD + b"content-length: 100000\r\n\r\n" + b"x" * 100_000)

    assert len(body_of(happened)) == 100_000
    assert drive.sent == {}


@pytest.mark.parametrize("endless", [b"2\r\n{}\r\n0\r\n" + TOO_LONG, b"2;" + TOO_LONG.replace(b"\r\n", b"")])
def test_the_framing_of_a_body_is_not_read_for_ever(endless):
    drive, happened = read(CHUNKED, endless)

    assert said(drive) == (400, "invalid_request")
    assert isinstance(happened[-1], InvalidRequest)
    assert drive.closed == [drive.client]


def test_what_is_said_before_the_answer_is_not_kept_without_a_bound(monkeypatch):
    monkeypatch.setattr(http1, "MAX_AHEAD_BYTES", 1000)

    kept, _ = read(HEAD + b"\r\n", HEAD + b"\r\n")
    drive, happened = read(HEAD + b"\r\n", HEAD, PADDING)

    assert kept.sent == {}
    assert said(drive) == (400, "invalid_request")
    assert isinstance(happened[-1], InvalidRequest)
    assert drive.closed == [drive.client]


@given(st.binary(max_size=300))
def test_whatever_a_client_says_is_no_failure(content):
    drive, _ = read(content, CHUNKED + content, leave=True)

    assert all(answer.startswith(b"HTTP/1.1 400 ") for answer in drive.sent.values())
