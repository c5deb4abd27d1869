"""
Bad requests through a real proxy.

Each gets a clear error in OpenAI's shape, and nothing of it goes any further: the witness, the
provider that it was meant for, sees not even a connection.
"""

import h2.events
import pytest

from tests.end_to_end.bench import CHAT, CHUNK, chunked, request
from tests.wire import H2, Answer, parse, send, tunnel

MEGABYTE = 1_000_000

BODIES = {
    "no JSON": b"hello",
    "half of it": CHAT[:-1],
    "more than it": CHAT + b"}",
    "an array": b"[1]",
    "text": b'"messages"',
    "null": b"null",
    "no messages": b'{"prompt": "hi"}',
    "nothing": b"",
    "white space": b" \r\n",
    "a form": b"messages=1",
    "NaN": b'{"messages": [], "n": NaN}',
    "Infinity": b'{"messages": [], "n": -Infinity}',
    "1e999": b'{"messages": [], "n": 1e999}',
    "an integer of 5000 digits": b'{"messages": [], "n": ' + b"9" * 5000 + b"}",
    "100,000 arrays in each other": b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "100,000 objects in each other": b'{"messages": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001,
    "not UTF-8": b'{"messages": ["\xe9"]}',
    "a line break in text": b'{"messages": ["a\nb"]}',
    "50 MB of nothing": b"x" * 50 * MEGABYTE,
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_a_body_that_is_no_chat_is_refused(bench, body):
    with bench.proxy.recording() as records:
        [answer] = parse(send(bench.proxy.port, request(body)))

    assert (answer.status, answer.error["code"]) == (400, "invalid_chat_body")
    assert answer.error["type"] == "sidestream_error"
    assert answer.error["param"] == "messages"
    assert answer.headers["content-type"] == "application/json"
    assert bench.witness.accepted == 0
    [record] = records
    assert (record["status"], record["error"], record["bytes_in"]) == (400, "invalid_chat_body", len(body))


REFUSED = {
    # Framing that could be read in two ways.
    "a negative length": (request(length=-5), 400, "invalid_request"),
    "a length that is no number": (request(length="16x"), 400, "invalid_request"),
    "a length with a sign": (request(length="+16"), 400, "invalid_request"),
    "two lengths": (request(CHAT, b"content-length: 17"), 400, "invalid_request"),
    "the same length twice": (request(CHAT, b"content-length: 16"), 400, "invalid_request"),
    "a length and chunks": (chunked(CHUNK + b"0\r\n\r\n", b"content-length: 16"), 400, "invalid_request"),
    "an unknown coding": (request(CHAT, b"transfer-encoding: zip"), 400, "invalid_request"),
    "chunks that are not last": (request(CHUNK, b"transfer-encoding: chunked, gzip"), 400, "invalid_request"),
    "two codings": (chunked(CHUNK + b"0\r\n\r\n", b"transfer-encoding: chunked"), 400, "invalid_request"),
    "chunks in HTTP/1.0": (
        request(CHUNK, b"transfer-encoding: chunked", version="1.0", length=""),
        400,
        "invalid_request",
    ),
    "a chunk without a size": (chunked(b"size\r\n" + CHAT), 400, "invalid_request"),
    "a chunk longer than its size": (chunked(b"5\r\n" + CHAT + b"\r\n0\r\n\r\n"), 400, "invalid_request"),
    "a second chunk without a size": (chunked(CHUNK + b"size\r\n"), 400, "invalid_request"),
    # Hosts that do not agree.
    "another host in the target": (request(target="http://other.test/"), 400, "ambiguous_host"),
    "a host that no policy names in the target": (request(target="http://127.0.0.1:1/"), 400, "ambiguous_host"),
    "two hosts": (request(CHAT, b"host: other.test"), 400, "ambiguous_host"),
    "a second host that no policy names": (request(CHAT, b"host: nobody.test"), 400, "ambiguous_host"),
    # Heads that would be other heads when they are written again.
    "a folded line": (request(CHAT, b"x-a: b\r\n x-b: c"), 400, "malformed_head"),
    "a bare CR": (request(CHAT, b"x-a: b\rx-b: c"), 400, "malformed_head"),
    "NUL": (request(CHAT, b"x-a: b\0"), 400, "malformed_head"),
    "a folded key": (request(CHAT, b"authorization:\r\n Bearer x"), 400, "malformed_head"),
    "control characters in the target": (request(target="http://{host}/v1/models/\x01"), 400, "malformed_head"),
    "a space in a name": (request(CHAT, b"x a: b"), 400, "invalid_request"),
    "a space before the colon": (request(CHAT, b"x-a : b"), 400, "invalid_request"),
    # Codings.
    "an unknown content coding": (request(CHAT, b"content-encoding: zip"), 415, "unsupported_content_encoding"),
    "gzip that is none": (request(CHAT, b"content-encoding: gzip"), 415, "unsupported_content_encoding"),
    "two content codings": (request(CHAT, b"content-encoding: gzip, gzip"), 415, "unsupported_content_encoding"),
}


@pytest.mark.parametrize(("content", "status", "code"), REFUSED.values(), ids=REFUSED.keys())
def test_a_request_that_could_be_read_in_two_ways_is_refused(bench, content, status, code):
    with bench.proxy.recording() as records:
        [answer] = parse(send(bench.proxy.port, content))

    assert (answer.status, answer.error["code"]) == (status, code)
    assert answer.error["type"] == "sidestream_error"
    assert answer.error["message"]
    assert answer.headers["content-type"] == "application/json"
    assert bench.witness.accepted == bench.other.accepted == 0
    assert [(record["status"], record["error"]) for record in records] == [(status, code)]


NO_HTTP = {
    "no colon": request(CHAT, b"x-a b"),
    "no name": request(CHAT, b": b"),
    "HTTP/0.9": b"GET /\r\n\r\n",
    "four words": b"GET / / HTTP/1.1\r\n\r\n",
    "another version": request(version="11"),
    "another scheme": request(target="ftp://witness.test/"),
    "bytes": b"\x00\x01\x02\r\n\r\n",
    "no host": request(host="", target="/"),
    "no host in HTTP/1.0": request(host="", target="/", version="1.0"),
    "the same host twice": request(CHAT, b"host: witness.test", target="/"),
    "several hosts in one line": request(host="witness.test, other.test", target="/"),
    "HTTP/2 without TLS": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a tunnel to nowhere": b"CONNECT witness.test HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("content", NO_HTTP.values(), ids=NO_HTTP.keys())
def test_what_is_no_request_is_refused(bench, content):
    [answer] = parse(send(bench.proxy.port, content))

    assert answer.status == 400
    assert bench.witness.accepted == bench.other.accepted == 0


@pytest.mark.parametrize("content", [request(length=100), request()[:-1], chunked(CHUNK), chunked(b"10\r\n{")])
def test_a_client_that_leaves_in_its_body_leaves_a_record_and_nothing_else(bench, content):
    with bench.proxy.recording() as records:
        assert send(bench.proxy.port, content, say_no_more=True) == b""

    assert [(record["status"], record["error"]) for record in records] == [(None, "client_disconnected")]
    assert bench.witness.accepted == 0


@pytest.mark.parametrize("content", [b"", b"PO", request()[:30]], ids=["at once", "in its first word", "in its head"])
def test_a_client_that_leaves_before_it_said_what_it_wants_leaves_nothing(bench, content):
    with bench.proxy.recording() as records:
        assert send(bench.proxy.port, content, say_no_more=True) == b""

    assert records == []
    assert bench.witness.accepted == 0


HEAD = {":method": "POST", ":scheme": "https", ":authority": "witness.test", ":path": "/"}
H2_REFUSED = {
    "a space in the path": (HEAD | {":path": "/v1/models/x HTTP/1.1"}, "malformed_head"),
    "a tab in the path": (HEAD | {":path": "/v1/models/\tx"}, "malformed_head"),
    "a request in the method": (HEAD | {":method": "GET /v1/models HTTP/1.1 POST"}, "malformed_head"),
    "another scheme": (HEAD | {":scheme": "ftp"}, "invalid_request"),
    "no messages": (HEAD | {"x-a": "b"}, "invalid_chat_body"),
}
H2_CUT_OFF = {
    "a line break in a value": HEAD | {"x-a": "b\r\nx-b: c"},
    "NUL in a value": HEAD | {"x-a": "b\0"},
    "upper case": HEAD | {"X-A": "b"},
    "a connection header": HEAD | {"connection": "close"},
    "chunks": HEAD | {"transfer-encoding": "chunked"},
    "another length": HEAD | {"content-length": "17"},
    "no host": {name: value for name, value in HEAD.items() if name != ":authority"},
    "two hosts": HEAD | {"host": "other.test"},
    "a line break in the path": HEAD | {":path": "/\r\nhost: other.test"},
}


@pytest.mark.parametrize(("headers", "code"), H2_REFUSED.values(), ids=H2_REFUSED.keys())
def test_a_bad_request_over_http2_is_refused(bench, proxy_ca, headers, code):
    with tunnel(bench.proxy, proxy_ca, "witness.test") as client:
        connection = H2(client)
        connection.send(1, headers.items(), b"{}")
        events = connection.read_until(h2.events.StreamEnded, stream=1)

    said = b"".join(event.data for event in events if isinstance(event, h2.events.DataReceived))
    assert Answer(400, body=said).error["code"] == code
    assert bench.witness.accepted == 0


@pytest.mark.parametrize("headers", H2_CUT_OFF.values(), ids=H2_CUT_OFF.keys())
def test_what_is_no_http2_ends_the_connection(bench, proxy_ca, headers):
    with tunnel(bench.proxy, proxy_ca, "witness.test") as client:
        connection = H2(client)
        connection.send(1, headers.items(), CHAT)
        events = connection.read_until(h2.events.StreamEnded, stream=1)

    assert isinstance(events[-1], h2.events.ConnectionTerminated)
    assert bench.witness.accepted == bench.other.accepted == 0


def test_after_all_this_an_ordinary_request_is_answered(bench):
    [answer] = parse(send(bench.proxy.port, request()))

    assert answer.status == 200
    assert "Traceback" not in bench.proxy.said
