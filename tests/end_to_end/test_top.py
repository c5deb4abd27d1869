"""`sidestream top` of a real proxy whose providers fail."""

import contextlib
import json
import os
import pty
import subprocess
import sys
import threading

import httpx2
import pytest

from sidestream.top.asking import Endpoint
from sidestream.top.figures import figures
from tests.world import BIN, DASHSCOPE_KEY, ENVIRONMENT, free_port, listens, provider_document, sidestream_run, wait_for

COMMAND = str(BIN / "sidestream")
HOST = "dashscope.aliyuncs.com"
FRAGILE = "fragile.test"
WITHOUT_TEXTUAL = "import sys; sys.modules['textual'] = None; from sidestream.cli.main import main; sys.exit(main())"
CHAT = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture(scope="module")
def watched(shared_world):
    """A proxy, and its admin endpoint. One of its providers is ejected by its first failure."""
    port = free_port()
    policies = shared_world.policies("policies-of-top")
    there = {"key": DASHSCOPE_KEY, "tls": {"mode": "SIMPLE", "sni": HOST}}
    document = json.loads(provider_document(FRAGILE, shared_world.dashscope.port, **there))
    document["spec"]["outlierDetection"] = {"consecutive5xxErrors": 1, "baseEjectionTime": "60s"}
    (policies / "fragile.yaml").write_text(json.dumps(document))
    with sidestream_run(shared_world, f"--admin=127.0.0.1:{port}", policies=policies) as proxy:
        wait_for(lambda: listens(port), 30)
        yield proxy, Endpoint("127.0.0.1", port)


def call(proxy, settings="", host=HOST):
    with httpx2.Client(proxy=proxy.url, timeout=20) as client:
        client.post(f"http://{host}/", content=json.dumps(CHAT), headers={"x-standin": settings})


def top(*arguments, environment=ENVIRONMENT):
    return subprocess.run(
        [COMMAND, "top", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )


def test_rates_tokens_failures_and_ejections_are_those_of_the_calls(world, watched):
    proxy, endpoint = watched
    before = endpoint.read()

    for _ in range(3):
        call(proxy, "prompt-tokens=10 completion-tokens=20")
    call(proxy, "status=429")
    call(proxy, "status=500", host=FRAGILE)

    def counted():
        shown = figures(before, endpoint.read())
        last = [one for one in shown.providers if one.provider == "default/fragile-test" and one.failures]
        return shown if last and len(shown.failed) == 2 else None  # records are counted one after another

    after = wait_for(counted, 30)
    assert after.traffic.calls_rate * after.seconds == pytest.approx(5)
    assert after.traffic.errors_rate * after.seconds == pytest.approx(2)
    assert after.traffic.input_rate * after.seconds == pytest.approx(30)
    assert after.traffic.output_rate * after.seconds == pytest.approx(60)
    [route] = [one for one in after.routes if one.route == "default/dashscope-route"]
    assert (route.provider, route.traffic.calls) == ("default/dashscope-qwen", 4)
    providers = {one.provider: one for one in after.providers}
    failures = [outcome for outcome, _ in providers["default/dashscope-qwen"].failures]
    assert failures == ["rate-limited"]
    fragile = providers["default/fragile-test"]
    assert (fragile.ejections, fragile.ejected_by) == (1, 1)
    assert [one.error for one in after.failed] == ["500", "429"]


def test_an_exchange_is_shown_while_it_runs(world, watched):
    proxy, endpoint = watched
    asked = {"json": CHAT | {"stream": True}, "headers": {"x-standin": "events=1000 gap=0.05"}}
    with httpx2.Client(proxy=proxy.url, timeout=20) as client, client.stream("POST", f"http://{HOST}/", **asked):
        [live] = wait_for(lambda: [one for one in figures(None, endpoint.read()).live if one.events_out > 1], 30)

    assert (live.host, live.provider, live.is_stream, live.status) == (HOST, "default/dashscope-qwen", True, 200)


def test_one_picture_is_printed_for_a_pipe(world, watched):
    _, endpoint = watched

    done = top("--admin", endpoint.name, "--interval", "0.1")

    assert (done.returncode, done.stderr) == (0, "")
    heads = ["ROUTES", "PROVIDERS", "UNDER WAY", "FAILED LAST"]
    assert [line for line in done.stdout.splitlines() if line.isupper()] == heads
    assert "rates over " in done.stdout
    assert DASHSCOPE_KEY not in done.stdout


def test_the_environment_names_the_endpoint(world, watched):
    _, endpoint = watched

    assert top("--once", "--interval=0.1", environment={"SIDESTREAM_ADMIN": endpoint.name}).returncode == 0


def test_without_an_endpoint_it_says_so_and_ends():
    done = top("--once", f"--admin=127.0.0.1:{free_port()}")

    assert (done.returncode, done.stdout) == (1, "")
    assert "is `sidestream run` there" in done.stderr
    assert "Traceback" not in done.stderr


def test_in_a_terminal_it_is_a_view_until_q(world, watched):
    pytest.importorskip("textual", reason="Textual is not here (sidestream[top])")
    _, endpoint = watched
    with terminal([COMMAND, "top", f"--admin={endpoint.name}"]) as (process, shown, keys):
        wait_for(lambda: b"dashscope-qwen" in shown(), 30)
        os.write(keys, b"q")

        assert process.wait(60) == 0


def test_without_textual_the_view_says_what_to_install(world, watched):
    _, endpoint = watched
    with terminal([sys.executable, "-c", WITHOUT_TEXTUAL, "top", f"--admin={endpoint.name}"]) as (process, shown, _):
        assert process.wait(60) == 1
        wait_for(lambda: b"pip install 'sidestream[top]'" in shown(), 30)


@contextlib.contextmanager
def terminal(command):
    """Run `command` in a terminal of its own; gives it, what it wrote so far, and where its keys are pressed."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "160", "LINES": "50"}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    written = bytearray()

    def read():
        with contextlib.suppress(OSError):  # what Linux says at its end
            while chunk := os.read(ours, 65536):
                written.extend(chunk)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield process, lambda: bytes(written), ours
    finally:
        process.kill()
        process.wait()
        reader.join()
        os.close(ours)
