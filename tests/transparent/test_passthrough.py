"""What no policy names passes untouched: the same as without redirection, byte for byte."""

import os
import select
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import pytest

from tests.transparent import pods
from tests.transparent.conversation import (
    CLIENT_ENDS,
    CLIENT_RESETS,
    SERVER_ENDS,
    SERVER_RESETS,
    Silence,
    byte_by_byte,
    client,
    client_at_last,
    converse,
    server,
    server_at_last,
)
from tests.transparent.tls import client_hello, der, echoing
from tests.world import wait_for

HTTP, HTTPS, MYSQL = 80, 443, 3306
HEAD = b"GET / HTTP/1.1\r\nHost: other.example\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

HTTP_CONVERSATIONS = {
    "keep-alive": [client(HEAD), server(OK), client(HEAD), server(OK), client(HEAD), server(OK)],
    "header names in any case and order, repeated, empty, with odd bytes": [
        client(
            b"GET /%7e?a=1&a=2#f HTTP/1.1\r\nx-B: 2\r\nX-b:1\r\nhOST: Other.Example\r\nX-Empty:\r\n"
            b"X-Latin: \xe9\xff\r\nX-Spaces: \t a  b \t\r\ncOOKIE: a=1\r\nCookie: b=2\r\n\r\n"
        ),
        server(
            b"HTTP/1.1 200 \xe9tat\r\nx-a: 1\r\nX-A:2\r\nSet-Cookie: a\r\nSet-Cookie: b\r\ncontent-length:0\r\n\r\n"
        ),
    ],
    "chunks with extensions and trailers": [
        client(b"POST / HTTP/1.1\r\nHost: other.example\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"),
        client(b'3;name="v"\r\nabc\r\n', b"0002\r\nde\r\n", b"0\r\nX-Sum: 5\r\n\r\n"),
        server(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        server(b"1\r\nx\r\n", b"A\r\n0123456789\r\n", b"0\r\nX-Sum: 11\r\n\r\n"),
    ],
    "HTTP/1.0, ended by closing": [
        client(b"GET / HTTP/1.0\r\n\r\n"),
        server_at_last(b"HTTP/1.0 200 OK\r\n\r\n", b"until the end"),
    ],
    "pipelined": [client(HEAD + HEAD + HEAD), server(OK), server(OK + OK)],
    "HEAD": [client(HEAD.replace(b"GET", b"HEAD")), server(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")],
    "interim answers": [
        client(b"PUT / HTTP/1.1\r\nHost: other.example\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"),
        server(b"HTTP/1.1 100 Continue\r\n\r\n"),
        client(b"hi"),
        server(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", OK),
    ],
    "an upgrade": [
        client(b"GET / HTTP/1.1\r\nHost: other.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"),
        server(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"),
        server(b"\x81\x02hi"),
        client(b"\x81\x82\0\0\0\0hi"),
    ],
    "HTTP/2 without TLS": [
        client(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\0\0\0\x04\0\0\0\0\0"),
        server(b"\0\0\0\x04\0\0\0\0\0"),
    ],
    "a method of its own": [client(b"PROPFIND / HTTP/1.1\r\nHost: other.example\r\n\r\n"), server(OK)],
    "an absolute target": [client(b"GET http://other.example/ HTTP/1.1\r\nHost: other.example\r\n\r\n"), server(OK)],
    "no host at all": [client(b"GET / HTTP/1.1\r\n\r\n"), server(b"HTTP/1.1 400 Bad Request\r\n\r\n")],
    "bare line feeds": [client(b"GET / HTTP/1.1\nHost: other.example\n\n"), server(OK)],
    "empty lines first": [client(b"\r\n\r\n" + HEAD), server(OK)],
    "the head in three pieces": [client(HEAD[:7], HEAD[7:20], HEAD[20:]), server(OK)],
    "the head byte by byte": [client(*byte_by_byte(HEAD)), server(OK)],
    "a head too long to wait for": [client(b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000), server(OK)],
    "both lengths at once": [
        client(
            b"POST / HTTP/1.1\r\nHost: other.example\r\nContent-Length: 5\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        ),
        server(OK),
    ],
    "a policy's host in the path and the body": [
        client(
            b"POST /dashscope.aliyuncs.com HTTP/1.1\r\nHost: other.example\r\nX-Host: dashscope.aliyuncs.com\r\n"
            b"Content-Length: 30\r\n\r\nHost: dashscope.aliyuncs.com\r\n"
        ),
        server(OK),
    ],
    "an answer before the request is complete": [
        client(b"POST / HTTP/1.1\r\nHost: other.example\r\nContent-Length: 100\r\n\r\n", b"some"),
        server(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
        SERVER_ENDS,
        client(b"more"),
    ],
}

OTHER_CONVERSATIONS = {
    "binary": [client(bytes(range(256))), server(bytes(range(255, -1, -1)))],
    "binary, byte by byte": [client(*byte_by_byte(b"\x00\x01\xff\x7f")), server(*byte_by_byte(b"\x01\x00"))],
    "a single byte": [client(b"\0"), server(b"\0")],
    "text like HTTP": [client(b"GET key\r\n"), server(b"$-1\r\n"), client(b"PUT a b\r\n"), server(b"+OK\r\n")],
    "Redis inline": [
        client(b"SET key GET\r\n"),
        server(b"+OK\r\n"),
        client(b"GET key\r\nGET key\r\n"),
        server(b"$3\r\nGET\r\n" * 2),
    ],
    "Redis": [
        client(b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n"),
        server(b"$-1\r\n"),
        client(b"*1\r\n$4\r\nPING\r\n"),
        server(b"+PONG\r\n"),
    ],
    "memcached": [
        client(b"get key\r\n"),
        server(b"VALUE key 0 2\r\nhi\r\nEND\r\n"),
        client(b"set key 0 0 9\r\n", b"GET / HTT\r\n"),
        server(b"STORED\r\n"),
        client(b"stats\r\n"),
        server(b"STAT pid 1\r\n", b"STAT uptime 2\r\nEND\r\n"),
        client(b"quit\r\n"),
        SERVER_ENDS,
    ],
    "SMTP": [
        server(b"220-mail.example ESMTP\r\n", b"220 ready\r\n"),
        client(b"EHLO app.example\r\n"),
        server(b"250-mail.example\r\n250 PIPELINING\r\n"),
        client(b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n"),
        server(b"250 ok\r\n250 ok\r\n354 go on\r\n"),
        client(b"Subject: GET / HTTP/1.1\r\nHost: dashscope.aliyuncs.com\r\n\r\nhi\r\n.\r\n"),
        server(b"250 queued\r\n"),
        client(b"QUIT\r\n"),
        server_at_last(b"221 bye\r\n"),
    ],
    "MySQL": [
        server(b"\x4a\0\0\0\x0a8.0.36\0\x08\0\0\0" + bytes(62)),
        client(b"\x20\0\0\x01\x85\xa6\xff\x01" + bytes(28)),
        server(b"\x07\0\0\x02\0\0\0\x02\0\0\0"),
        client(b"\x09\0\0\0\x03SELECT 1"),
        server(b"\x01\0\0\x01\x01"),
        client(b"\x01\0\0\0\x01"),
        SERVER_ENDS,
    ],
    "a letter that HTTP may begin with": [client(b"P"), server(b"well?"), client(b"Q"), server(b"so")],
    "text like HTTP, byte by byte": [client(*byte_by_byte(b"GET key\r\n")), server(b"$-1\r\n")],
    "text unlike HTTP": [client(b"PING\r\n"), server(b"+PONG\r\n"), client(b"HELO x\r\n"), server(b"250 x\r\n")],
    "another method in small letters": [client(b"get key\r\n"), server(b"END\r\n")],
    "a greeting": [server(b"5.7.0\0"), client(b"\x01login"), server(b"\0ok")],
    "a greeting after a second": [Silence(1.0), server(b"220 ready\r\n"), client(b"EHLO x\r\n"), server(b"250 x\r\n")],
    "a greeting, byte by byte": [server(*byte_by_byte(b"SSH-2.0-x\r\n")), client(b"SSH-2.0-y\r\n"), server(b"\0\0")],
    "a greeting, then a request like HTTP": [server(b"hello\r\n"), client(HEAD), server(OK)],
    "a greeting, then half of a head": [server(b"hello\r\n"), client(b"GET / HT"), server(b"what?")],
    "a long silence before the client speaks": [Silence(0.5), client(HEAD), server(OK)],
    "a long silence before a client speaks that is not HTTP": [Silence(0.5), client(b"PING\r\n"), server(b"+PONG\r\n")],
    "a long silence in the middle": [client(b"PING\r\n"), Silence(2.0), server(b"+PONG\r\n"), client(b"PING\r\n")],
    "both at a time": [client(b"\0a"), server(b"b"), client(b"c"), client(b"d"), server(b"e"), server(b"f")],
}

ENDINGS = {
    "the client ends, then reads all": [client(HEAD), CLIENT_ENDS, server(OK), server(b"more"), SERVER_ENDS],
    "the client ends right after its request": [client_at_last(HEAD), server(OK)],
    "the client ends right after its words": [client_at_last(b"\x01" * 5), server(b"5 bytes")],
    "the client ends in the middle of a head": [client_at_last(b"GET / HTTP/1.1\r\nHost: oth"), server(b"what?")],
    "the client ends in the middle of a line": [client_at_last(b"POS"), server(b"what?")],
    "the client ends in the middle of a head, later": [Silence(0.5), client_at_last(HEAD[:9]), server(b"what?")],
    "the client ends after an empty line": [client_at_last(b"\r\n"), server(b"what?")],
    "the client ends without a word": [CLIENT_ENDS, server(b"it is noon\r\n")],
    "the client ends without a word, later": [Silence(0.5), CLIENT_ENDS, server(b"it is noon\r\n")],
    "the server ends, then hears all": [
        client(HEAD),
        server(OK),
        SERVER_ENDS,
        client(b"bye"),
        client(b"!"),
        CLIENT_ENDS,
    ],
    "the server ends without a word": [SERVER_ENDS, client(b"hello?")],
    "the server ends after its greeting": [server_at_last(b"full\r\n"), client(b"oh")],
    "both end without a word": [SERVER_ENDS, CLIENT_ENDS],
}

RESETS = {
    "the server breaks off": [client(HEAD), server(b"HTTP/1.0 200 OK\r\n\r\nhal"), SERVER_RESETS],
    "the server breaks off after its greeting": [server(b"220 ready\r\n"), SERVER_RESETS],
    "the server breaks off without a word": [client(b"PING\r\n"), SERVER_RESETS],
    "the server breaks off when the client has ended": [client(HEAD), CLIENT_ENDS, SERVER_RESETS],
    "the client breaks off": [client(HEAD), server(OK), CLIENT_RESETS],
    "the client breaks off without an answer": [client(HEAD), CLIENT_RESETS],
    "the client breaks off when it was greeted": [server(b"220 ready\r\n"), CLIENT_RESETS],
    "the client breaks off when the server has ended": [client(HEAD), server_at_last(OK), CLIENT_RESETS],
}

HELLO = client_hello("other.example")

TLS_CONVERSATIONS = {
    "another host": [client(HELLO), server(b"\x16\x03\x03 to begin with")],
    "another host, byte by byte": [client(*byte_by_byte(HELLO[:40]), HELLO[40:]), server(b"\x15\x03\x03")],
    "a policy's host": [client(client_hello("dashscope.aliyuncs.com")), server(b"\x16\x03\x03")],
    "no name": [client(client_hello(None)), server(b"\x16\x03\x03")],
    "what only begins like TLS": [client(b"\x16\x03\x01\xff\xff\x07\0"), server(b"what?")],
    "a silence first": [Silence(0.5), client(HELLO), server(b"\x16\x03\x03")],
    "an end right after": [client_at_last(HELLO), server(b"\x15\x03\x03")],
    "no TLS at all": [client(b"\0\0"), server(b"\x01")],
    "a request in the clear": [client(HEAD), server(OK)],
}

_ALL = HTTP_CONVERSATIONS | OTHER_CONVERSATIONS | ENDINGS | RESETS | TLS_CONVERSATIONS
OVER_IPV6 = {
    name: _ALL[name]
    for name in (
        "keep-alive",
        "HTTP/1.0, ended by closing",
        "interim answers",
        "HTTP/2 without TLS",
        "SMTP",
        "Redis inline",
        "another host",
        "the client ends, then reads all",
        "the server ends, then hears all",
        "the server breaks off",
        "the client breaks off",
    )
}


@pytest.fixture(scope="module")
def shared_pod(shared_outside):
    """A pod of whose traffic more is redirected than policies need, with TLS left alone."""
    with pods.pod(shared_outside, "--ports", f"{HTTP},{HTTPS},{MYSQL}") as pod:
        yield pod


def cases(*tables: dict) -> list:
    return [pytest.param(steps, id=name) for table in tables for name, steps in table.items()]


def tls(client: socket.socket, outside: pods.Outside, server_name: str | None) -> ssl.SSLSocket:
    """Establish TLS as a client that trusts only the CA outside."""
    context = ssl.create_default_context(cafile=str(outside.authority.ca_file))
    context.check_hostname = server_name is not None
    return context.wrap_socket(client, server_hostname=server_name)


def receive(connection: socket.socket, count: int) -> bytes:
    """Read `count` bytes."""
    parts = bytearray()
    while len(parts) < count and (part := connection.recv(min(1 << 16, count - len(parts)))):
        parts += part
    return bytes(parts)


def fill(connection: socket.socket, most: int) -> int:
    """Send until nobody takes any more for a moment, or `most` bytes are sent; return how many were."""
    sent = 0
    while sent < most and select.select([], [connection], [], 0.5)[1]:
        sent += connection.send(bytes(1 << 16))
    return sent


@pytest.mark.parametrize("steps", cases(HTTP_CONVERSATIONS))
def test_http_to_another_host_is_as_without_redirection(outside, pod, steps):
    with outside.listen(HTTP) as origin:
        direct = converse(pod, origin, steps, uid=pods.PROXY_UID)
        redirected = converse(pod, origin, steps, uid=pods.APP_UID)

    assert redirected == direct


@pytest.mark.parametrize("steps", cases(OTHER_CONVERSATIONS, ENDINGS, RESETS))
def test_what_is_no_http_is_as_without_redirection(outside, pod, steps):
    with outside.listen(MYSQL) as origin:
        direct = converse(pod, origin, steps, uid=pods.PROXY_UID)
        redirected = converse(pod, origin, steps, uid=pods.APP_UID)

    assert redirected == direct


@pytest.mark.parametrize("steps", cases(OVER_IPV6))
def test_ipv6_is_as_without_redirection(outside, pod, steps):
    with outside.listen(MYSQL, pods.ORIGIN_IPV6) as origin:
        direct = converse(pod, origin, steps, uid=pods.PROXY_UID)
        redirected = converse(pod, origin, steps, uid=pods.APP_UID)

    assert redirected == direct


@pytest.mark.parametrize("steps", cases(TLS_CONVERSATIONS))
def test_tls_is_not_touched_whomever_it_names(outside, pod, steps):
    with outside.listen(HTTPS) as origin:
        direct = converse(pod, origin, steps, uid=pods.PROXY_UID)
        redirected = converse(pod, origin, steps, uid=pods.APP_UID)

    assert redirected == direct


@pytest.mark.parametrize("server_name", ["other.example", "dashscope.aliyuncs.com", None])
def test_tls_is_with_the_server_itself(outside, pod, server_name):
    certificate = outside.authority.issue("other.example", "dashscope.aliyuncs.com")

    with (
        outside.listen(HTTPS) as origin,
        echoing(origin, certificate) as echo,
        tls(pod.connect(pods.ORIGIN, HTTPS), outside, server_name) as client,
    ):
        client.sendall(b"hello")
        answer = client.recv(100)
        presented = client.getpeercert(binary_form=True)
        named = echo.result()

    assert (answer, named) == (b"hello", server_name)
    assert presented == der(certificate)


def test_a_policys_host_over_tls_gets_what_the_app_sent(outside, pod):
    ca = str(outside.authority.ca_file)
    answer = pod.curl("--cacert", ca, "https://dashscope.aliyuncs.com/v1/models", "-H", "Authorization: Bearer own")

    [received] = outside.dashscope.requests
    assert "invalid_api_key" in answer.stdout
    assert (received.path, received.header("authorization")) == ("/v1/models", "Bearer own")
    assert pod.recorded() == []


def test_ten_megabytes_go_each_way_at_the_same_time(outside, pod):
    upwards, downwards = os.urandom(10_000_000), os.urandom(10_000_000)

    with outside.listen(MYSQL) as origin, pod.connect(pods.ORIGIN, MYSQL) as near:
        near.sendall(b"\0")
        with origin.accept()[0] as far, ThreadPoolExecutor() as threads:
            up, down = threads.submit(receive, far, len(upwards) + 1), threads.submit(receive, near, len(downwards))
            for sent in [threads.submit(near.sendall, upwards), threads.submit(far.sendall, downwards)]:
                sent.result()
            arrived = [sha256(up.result()[1:]).digest(), sha256(down.result()).digest()]

    assert arrived == [sha256(upwards).digest(), sha256(downwards).digest()]


def test_a_reader_that_is_slow_slows_the_server_down(outside, pod):
    with outside.listen(MYSQL) as origin, pod.connect(pods.ORIGIN, MYSQL) as near:
        near.sendall(b"\0")
        with origin.accept()[0] as far:
            far.setblocking(False)
            sent = fill(far, most=100_000_000)

    assert sent < 50_000_000


@pytest.mark.parametrize("words", [HEAD, b"PING\r\n", b""], ids=["HTTP", "something else", "nothing at all"])
@pytest.mark.parametrize("address", [pods.REFUSING, pods.ORIGIN_IPV6])
def test_a_refused_connection_is_reset(pod, address, words):
    with pytest.raises(ConnectionRefusedError):
        pod.connect(address, MYSQL, uid=pods.PROXY_UID)
    redirected = pod.connect(address, MYSQL)
    redirected.sendall(words)
    if not words:
        redirected.shutdown(socket.SHUT_WR)

    assert pods.reading_ends(redirected) == "reset"


@pytest.mark.parametrize("words", [HEAD, b"PING\r\n"], ids=["HTTP", "something else"])
def test_a_connection_to_an_unreachable_host_is_reset(pod, words):
    with pytest.raises(OSError, match="No route to host"):
        pod.connect(pods.UNREACHABLE, MYSQL, uid=pods.PROXY_UID)
    redirected = pod.connect(pods.UNREACHABLE, MYSQL)
    redirected.sendall(words)

    assert pods.reading_ends(redirected) == "reset"


def test_curl_says_that_a_refused_connection_failed(pod):
    direct = pod.curl(f"http://{pods.REFUSING}", uid=pods.PROXY_UID, check=False)
    redirected = pod.curl(f"http://{pods.REFUSING}", check=False)

    assert (direct.returncode, redirected.returncode) == (7, 56)
    assert "Connection reset by peer" in redirected.stderr


@pytest.mark.parametrize(
    ("words", "is_last"),
    [(b"PING\r\n", False), (b"PING\r\n", True), (HEAD, False), (HEAD, True), (b"GET / HT", True), (b"", True)],
    ids=["words", "last words", "a request", "the last request", "half a request at last", "only the end"],
)
def test_a_server_that_is_slow_to_accept_hears_all_that_was_said_meanwhile(outside, pod, words, is_last):
    with outside.listen(MYSQL) as origin, outside.silenced(pods.ORIGIN, MYSQL) as speak_again:
        near = pod.connect(pods.ORIGIN, MYSQL)
        wait_for(lambda: pod.dialling_from(MYSQL))
        pod.send_in_pieces(near, [words])
        if is_last:
            near.shutdown(socket.SHUT_WR)
        speak_again()
        with origin.accept()[0] as far:
            heard = pods.read_all(far) if is_last else receive(far, len(words))
            far.sendall(b"answer")
            far.shutdown(socket.SHUT_WR)
            answer = pods.read_all(near)

    assert (heard, answer) == (words, b"answer")
