"""Requests that are odd, but good, through a real proxy: the provider gets an ordinary one."""

import gzip
import json
import socket
import subprocess

import pytest

from tests.end_to_end.bench import CHAT, CHUNK, KEY, chunked, request
from tests.wire import TIMEOUT_SECONDS, parse, read_to_the_end, send
from tests.world import DASHSCOPE_KEY

MEGABYTE = 1_000_000

ODD = {
    "50 MB": request(b'{"messages": ["' + b"a" * 50 * MEGABYTE + b'"]}'),
    "chunks": chunked(CHUNK + b"0\r\n\r\n"),
    "chunks with an extension": chunked(b"10;a=b\r\n" + CHAT + b"\r\n0\r\n\r\n"),
    "trailers": chunked(CHUNK + b"0\r\nx-checksum: 1\r\n\r\n"),
    "gzip": request(gzip.compress(CHAT), b"content-encoding: gzip"),
    "identity": request(CHAT, b"content-encoding: identity"),
    "HTTP/1.0": request(version="1.0"),
    "no content type": request(),
    "another content type": request(CHAT, b"content-type: text/plain"),
    "a form's content type": request(CHAT, b"content-type: application/x-www-form-urlencoded"),
    "a port": request(host="witness.test:8080"),
    "upper case": request(host="WITNESS.Test"),
    "a trailing dot": request(host="witness.test."),
    "all three": request(host="Witness.TEST.:80"),
    "blanks around the host": request(host="\t witness.test \t", target="/"),
    "only the target names the host": request(host="", target="http://witness.test/"),
    "the same host twice": request(CHAT, b"host: witness.test"),
    "the host twice, in two spellings": request(CHAT, b"host: Witness.test.:80"),
    "a long header": request(CHAT, b"x-long: " + b"a" * 60_000),
    "many headers": request(CHAT, *[b"x-many: a"] * 2000),
    "a byte order mark": request(b"\xef\xbb\xbf" + CHAT),
    "UTF-16": request('{"messages": []}'.encode("utf-16")),
    "white space around it": request(b"\n" + CHAT + b"\n"),
    "a lone surrogate": request(b'{"messages": ["\\ud800"]}'),
    "a field twice": request(b'{"messages": 1, "messages": []}'),
    "lines that end in LF": request().replace(b"\r\n", b"\n"),
    "an expectation that nobody knows": request(CHAT, b"expect: miracles"),
    "a query": request(target="http://{host}/v1/chat/completions?api-version=1"),
    "a header of the connection": request(CHAT, b"connection: close, x-hop", b"x-hop: 1", b"keep-alive: timeout=5"),
    "a header of the connection that is needed": request(
        CHAT, b"connection: authorization, host, content-length, content-type"
    ),
}


@pytest.mark.parametrize("content", ODD.values(), ids=ODD.keys())
def test_a_request_that_is_only_odd_is_made_an_ordinary_one(bench, content):
    with bench.proxy.recording() as records:
        [answer] = parse(send(bench.proxy.port, content))

    [received] = bench.witness.requests
    head, _, body = received.partition(b"\r\n\r\n")
    request_line, *lines = head.split(b"\r\n")
    headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(b":") for line in lines)]
    assert answer.status == 200
    assert request_line.startswith(b"POST /v1/chat/completions HTTP/1.")
    assert json.loads(body)["messages"] is not None
    assert headers.count((b"host", b"witness.test")) == 1
    assert [value for name, value in headers if name == b"content-length"] == [str(len(body)).encode()]
    assert dict(headers)[b"authorization"] == f"Bearer {KEY}".encode()
    assert dict(headers)[b"content-type"] == b"application/json"
    dropped = {b"transfer-encoding", b"content-encoding", b"connection", b"keep-alive", b"x-hop", b"x-checksum"}
    assert not dropped & dict(headers).keys()
    assert [(record["status"], record["error"]) for record in records] == [(200, None)]


def test_an_international_host_is_the_same_in_both_spellings(bench):
    for host in ("bücher.test", "xn--bcher-kva.test", "BÜCHER.test", "XN--BCHER-KVA.test:80"):
        [answer] = parse(send(bench.proxy.port, request(host=host, target="/")))

        assert answer.status == 200


def test_an_address_is_a_host_like_any_other(bench, world):
    with bench.proxy.recording() as records, socket.create_server(("::1", 0), family=socket.AF_INET6) as gone:
        host = f"[::1]:{gone.getsockname()[1]}"
        gone.close()
        [answer] = parse(send(bench.proxy.port, request(host=host)))

    assert answer.status == 502  # nobody is there
    assert records == []


def test_pipelined_requests_are_answered_in_their_order(bench):
    keep_alive = request().replace(b"connection: close\r\n", b"")
    bad = request(b"x").replace(b"connection: close\r\n", b"")

    answers = parse(send(bench.proxy.port, keep_alive + bad + keep_alive + request()))

    assert [answer.status for answer in answers] == [200, 400, 200, 200]
    assert len(bench.witness.requests) == 3


def test_what_follows_a_body_is_the_next_request(bench):
    keep_alive = request().replace(b"connection: close\r\n", b"")

    answers = parse(send(bench.proxy.port, keep_alive + b"and more\r\n\r\n"))

    assert [answer.status for answer in answers] == [200, 400]
    assert len(bench.witness.requests) == 1


def test_a_client_that_waits_to_be_told_to_go_on_is_told(bench):
    body = b'{"messages": ["' + b"a" * 2 * MEGABYTE + b'"]}'
    content = request(body, b"expect: 100-continue")

    with socket.create_connection(("127.0.0.1", bench.proxy.port), timeout=TIMEOUT_SECONDS) as client:
        client.sendall(content.removesuffix(body))
        go_on = client.recv(65536)
        client.sendall(body)
        [answer] = parse(read_to_the_end(client))

    assert go_on == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert answer.status == 200
    assert b"expect" not in bench.witness.requests[0].partition(b"\r\n\r\n")[0].lower()


def test_curl_waits_to_be_told_to_go_on(bench, tmp_path):
    file = tmp_path / "body"
    file.write_bytes(b'{"messages": ["' + b"a" * 2 * MEGABYTE + b'"]}')
    command = ["curl", "-sS", "-m", "20", "-x", bench.proxy.url, "-H", "expect: 100-continue", "-d", f"@{file}"]

    done = subprocess.run([*command, "http://witness.test/"], capture_output=True, check=True)

    assert b"chat.completion" in done.stdout


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "DELETE", "BREW"])
def test_another_method_on_the_path_of_chat_goes_on_as_it_came_without_a_key(world, proxy, method):
    content = request(b"", host="dashscope.aliyuncs.com", target="/v1/chat/completions", method=method, length="")

    [answer, *_] = parse(send(proxy.port, content))

    [received] = world.dashscope.requests
    assert (received.method, received.path) == (method, "/v1/chat/completions")
    assert received.header("authorization") is None
    assert DASHSCOPE_KEY not in str(received)
    assert answer.status == 401
