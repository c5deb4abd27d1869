"""Asking a proxy how it is, as probes of a pod do."""

import http.server
import json
import threading

import pytest

from sidestream.cli import probing
from tests.world import free_port

PAGES = {"/healthz/live": (200, "alive\n"), "/healthz/ready": (200, "ready\n"), "/exchanges": (200, '{"live": []}')}


class Endpoint(http.server.BaseHTTPRequestHandler):
    """An admin endpoint that answers what it is told to; a list of answers one after the other."""

    def do_GET(self):
        answers = self.server.pages[self.path]
        status, text = answers.pop(0) if isinstance(answers, list) else answers
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endpoint) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def ask(server, capsys):
    """Ask an endpoint with `pages`; return the exit status and what was said."""

    def run(*arguments, pages=None):
        server.pages = PAGES | (pages or {})
        status = probing.main(arguments, admin=server.server_address)
        return status, capsys.readouterr().err

    return run


@pytest.mark.parametrize("state", ["live", "ready", "idle"])
def test_a_proxy_that_is_well_is_all_of_it(ask, state):
    assert ask(state) == (0, "")


def test_a_proxy_that_is_not_ready_says_why(ask):
    assert ask("ready", pages={"/healthz/ready": (503, "not ready: it is ending\n")}) == (
        1,
        "not ready: it is ending\n",
    )


def test_exchanges_under_way_are_counted(ask):
    live = json.dumps({"live": [{"id": "1"}, {"id": "2"}], "recent": []})

    assert ask("idle", pages={"/exchanges": (200, live)}) == (1, "exchanges under way: 2\n")


def test_it_waits_until_it_is_so(ask):
    busy, quiet = (200, '{"live": [{}]}'), (200, '{"live": []}')

    assert ask("idle", "--wait=20", pages={"/exchanges": [busy, busy, quiet]}) == (0, "")


def test_a_quiet_that_must_last_begins_anew_when_it_was_broken():
    reasons = iter([None, "busy", None, None, None, None, None])

    assert probing.wait(lambda: next(reasons), wait_seconds=20, for_seconds=0.3) is None
    assert next(reasons, "all were needed") != "busy"


def test_a_quiet_that_does_not_last_is_none():
    assert probing.wait(lambda: None, wait_seconds=0, for_seconds=60) == "it was so for less than 60 seconds"


@pytest.mark.parametrize("answer", ["", "[]", '{"live": 7}'])
def test_an_answer_that_can_not_be_read_is_no_yes(ask, answer):
    assert ask("idle", pages={"/exchanges": (200, answer)}) == (
        1,
        "the proxy does not answer: its answer can't be read\n",
    )


def test_a_proxy_that_is_not_there_is_none_of_it(capsys):
    status = probing.main(["live"], admin=("127.0.0.1", free_port()))

    assert status == 1
    assert "the proxy does not answer" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["well"], ["ready", "--wait=long"], ["ready", "--how=5"]])
def test_what_makes_no_sense_is_told_apart_from_no(capsys, arguments):
    assert probing.main(arguments) == 2
    assert "probing live|ready|idle" in capsys.readouterr().err
