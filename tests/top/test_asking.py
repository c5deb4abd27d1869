"""An admin endpoint is asked over HTTP."""

import contextlib
import http.server
import threading

import pytest

from sidestream.top.asking import Endpoint, NoAnswer
from tests.world import free_port

METRICS = b"sidestream_retries_total 3\n"
EXCHANGES = b'{"live": [], "recent": []}'
PAGES = {"/metrics": (200, METRICS), "/exchanges": (200, EXCHANGES)}


@contextlib.contextmanager
def serving(pages, port=0):
    """Serve `pages`: path → status and body. Gives the endpoint and the Host headers that came."""
    hosts = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            hosts.append(self.headers["host"])
            status, body = pages.get(self.path, (404, b""))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield Endpoint("127.0.0.1", server.server_port), hosts
        finally:
            server.shutdown()
            thread.join()


def test_both_pages_make_a_reading():
    with serving(PAGES) as (endpoint, hosts):
        reading = endpoint.read()

    assert reading.samples == {"sidestream_retries_total": {(): 3.0}}
    assert hosts == ["localhost", "localhost"]  # no other name is answered


def test_where_nobody_listens_it_says_so_and_what_to_do():
    port = free_port()

    with pytest.raises(NoAnswer) as raised:
        Endpoint("127.0.0.1", port).read()

    assert str(raised.value) == (
        f"no admin endpoint at 127.0.0.1:{port} (Connection refused): is `sidestream run` there, and --admin the same?"
    )


@pytest.mark.parametrize("name", ["nobody.invalid", "no..name", "a" * 70])
def test_a_name_that_nobody_knows_is_told(name):
    with pytest.raises(NoAnswer) as raised:
        Endpoint(name, 1).read()

    assert str(raised.value).startswith(f"no admin endpoint at {name}:1 (")


@pytest.mark.parametrize(
    ("pages", "message"),
    [
        ({}, "/metrics is answered with 404"),
        (PAGES | {"/exchanges": (503, b"")}, "/exchanges is answered with 503"),
        (PAGES | {"/metrics": (200, b"go_goroutines 7\n")}, "it has no metrics of Sidestream's"),
        (PAGES | {"/exchanges": (200, b"<html>\x1b[2J")}, "what it answers is none of Sidestream's"),
    ],
)
def test_somebody_else_who_answers_is_told_from_the_endpoint(pages, message):
    with serving(pages) as (endpoint, _), pytest.raises(NoAnswer) as raised:
        endpoint.read()

    assert str(raised.value) == f"{endpoint.name} is no admin endpoint of Sidestream: {message}"


def test_one_that_went_away_is_read_again_when_it_is_back():
    with serving(PAGES) as (endpoint, _):
        endpoint.read()
    with pytest.raises(NoAnswer):
        endpoint.read()

    with serving(PAGES, int(endpoint.name.rpartition(":")[2])):
        assert endpoint.read().samples
