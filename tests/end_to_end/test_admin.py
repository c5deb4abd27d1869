"""The admin endpoint of a real proxy: health, metrics, the policy and the exchanges, of one process and of several."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.world import BIN, DASHSCOPE_KEY, ENVIRONMENT, MOONSHOT_KEY, free_port, sidestream_run, wait_for

HOST = "dashscope.aliyuncs.com"
CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
PAGES = ["/metrics", "/healthz/live", "/healthz/ready", "/policy", "/exchanges"]


class Admin:
    """Reads an admin endpoint."""

    def __init__(self, port):
        self.url = f"http://127.0.0.1:{port}"

    def get(self, path, **headers):
        return httpx2.get(self.url + path, headers=headers, trust_env=False, timeout=20)

    def samples(self, name):
        """Return the samples `name`: labels → value."""
        families = text_string_to_metric_families(self.get("/metrics").text)
        found = [sample for family in families for sample in family.samples if sample.name == name]
        return {tuple(sorted(sample.labels.items())): sample.value for sample in found}

    def total(self, name, **labels):
        return sum(value for found, value in self.samples(name).items() if labels.items() <= dict(found).items())


@pytest.fixture(scope="module")
def served(shared_world):
    port = free_port()
    with sidestream_run(
        shared_world,
        f"--admin=127.0.0.1:{port}",
        "--set=sidestream_asm_names=true",
        policies=shared_world.policies("policies-of-admin"),
    ) as proxy:
        yield proxy, Admin(port)


@pytest.fixture
def admin(world, served):
    return served[1]


def call(proxy, settings="", host=HOST, body=CHAT, path="/"):
    headers = {"x-standin": settings} if settings else {}
    with httpx2.Client(proxy=proxy.url, timeout=20) as client:
        return client.post(f"http://{host}{path}", content=json.dumps(body), headers=headers)


def test_it_is_alive_and_ready(admin):
    assert (admin.get("/healthz/live").text, admin.get("/healthz/ready").text) == ("alive\n", "ready\n")


def test_an_answer_is_counted(served, admin):
    proxy, _ = served
    before = admin.total("sidestream_exchanges_total")

    call(proxy, "prompt-tokens=70 completion-tokens=31 cached=64 reasoning=8")

    wait_for(lambda: admin.total("sidestream_exchanges_total") == before + 1)
    by = {"route": "default/dashscope-route", "provider": "default/dashscope-qwen", "model": "qwen1.5-72b-chat"}
    for kind, tokens in {"input": 70, "output": 31, "cached": 64, "reasoning": 8}.items():
        assert admin.total("sidestream_tokens_total", type=kind, **by) >= tokens
    gen_ai = {
        "gen_ai_operation_name": "chat",
        "gen_ai_provider_name": "dashscope",
        "gen_ai_request_model": "qwen1.5-72b-chat",
        "server_address": "127.0.0.1",
    }
    assert admin.total("gen_ai_client_token_usage_sum", gen_ai_token_type="input", **gen_ai) >= 70
    assert admin.total("gen_ai_client_operation_duration_seconds_count", error_type="", **gen_ai) >= 1
    assert admin.total("asm_llm_proxy_prompt_tokens_total", destination_service=HOST) >= 70
    assert admin.total("sidestream_attempts_total", outcome="success") >= 1
    assert admin.total("sidestream_overhead_seconds_count") >= 1


def test_a_stream_is_timed(served, admin):
    call(served[0], "events=4", body=CHAT | {"stream": True})

    wait_for(lambda: admin.total("gen_ai_client_operation_time_to_first_chunk_seconds_count"))
    assert admin.total("gen_ai_client_operation_time_per_output_chunk_seconds_count") >= 1


def test_a_failure_is_counted_by_its_kind(served, admin):
    call(served[0], "status=429")

    wait_for(lambda: admin.total("sidestream_attempts_total", outcome="rate-limited"))
    assert admin.total("sidestream_exchanges_total", status="429", error="429") >= 1
    assert admin.total("gen_ai_client_operation_duration_seconds_count", error_type="429") >= 1


def test_an_exchange_is_shown_while_it_runs_and_after(world, served, admin):
    proxy, _ = served
    thread = threading.Thread(target=call, args=(proxy, "events=20 gap=0.05"), kwargs={"body": CHAT | {"stream": True}})
    thread.start()
    [live] = wait_for(lambda: [one for one in admin.get("/exchanges").json()["live"] if one["events_out"]])

    assert (live["host"], live["provider"], live["stream"]) == (HOST, "default/dashscope-qwen", True)
    assert live["attempts"] == admin.total("sidestream_live_exchanges") == 1
    thread.join()
    wait_for(lambda: not admin.get("/exchanges").json()["live"])
    recent = wait_for(lambda: [one for one in admin.get("/exchanges").json()["recent"] if one["id"] == live["id"]])
    logged = proxy.wait_for_record(lambda record: record["id"] == live["id"])
    assert {name: logged[name] for name in recent[0]} == recent[0]


def test_the_policy_in_force_is_shown(served, admin):
    shown = admin.get("/policy").json()

    assert shown["problems"] == []
    assert {HOST, "api.moonshot.cn", "demo-llm-server"} <= set(shown["hosts"])
    [info] = admin.samples("sidestream_policy_info")
    assert dict(info)["revision"] == shown["revision"]


def test_no_page_shows_a_key(served, admin):
    known = {one["id"] for one in admin.get("/exchanges").json()["recent"]}
    call(served[0], "status=401")
    call(served[0], host="api.moonshot.cn")
    wait_for(lambda: len({one["id"] for one in admin.get("/exchanges").json()["recent"]} - known) == 2)

    text = "".join(admin.get(path).text for path in PAGES)
    assert "[redacted]" in text
    assert DASHSCOPE_KEY not in text
    assert MOONSHOT_KEY not in text


def test_a_page_that_is_not_there_says_which_are(admin):
    answer = admin.get("/nothing")

    assert answer.status_code == 404
    assert "/healthz/ready" in answer.text


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "evil.example:15020"])
def test_a_name_that_was_pointed_here_gets_nothing(admin, host):
    assert [admin.get(path, host=host).status_code for path in PAGES] == [403] * 5


def test_nothing_can_be_changed(admin):
    assert [httpx2.post(admin.url + path, trust_env=False).status_code for path in PAGES] == [405] * 5


def test_a_body_that_nobody_asked_for_is_not_taken(admin):
    address = admin.url.removeprefix("http://127.0.0.1:")
    with socket.create_connection(("127.0.0.1", int(address)), timeout=20) as client:
        client.sendall(b"POST /policy HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 50000000\r\n\r\n")
        answered = client.recv(4096)

    assert answered.startswith(b"HTTP/1.1 400 ")


def test_the_metrics_are_well_written(admin):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not here (Debian: prometheus)")

    checked = subprocess.run(
        [promtool, "check", "metrics"], input=admin.get("/metrics").content, capture_output=True, check=False
    )

    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_an_address_that_is_taken_is_refused(shared_world):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        policies = shared_world.policies("policies-of-taken")
        command = [str(BIN / "sidestream"), "run", f"--policies={policies}", f"--listen=127.0.0.1:{free_port()}"]
        command += [f"--admin=127.0.0.1:{port}", f"--confdir={shared_world.folder / 'confdir'}", "--log=/dev/null"]
        ended = subprocess.run(
            command, env=os.environ | ENVIRONMENT, capture_output=True, text=True, check=False, timeout=60
        )

    assert ended.returncode == 1
    assert f"the admin endpoint can't listen at 127.0.0.1:{port}: Address already in use; name another" in ended.stderr


def test_the_sum_of_workers_outlives_one(world, shared_world):
    port = free_port()
    admin = Admin(port)
    flags = ["--workers=2", f"--admin=127.0.0.1:{port}"]
    policies = shared_world.policies("policies-of-workers-admin")
    # Two ports that stand together, where the system gives none to anybody else.
    first = 20_000 + 2 * (os.getpid() % 4000)
    with sidestream_run(shared_world, *flags, policies=policies, port=first) as proxy:
        wait_for(lambda: admin.get("/healthz/ready").status_code == 200, 30)
        for _ in range(3):
            call(proxy)
        wait_for(lambda: admin.total("sidestream_exchanges_total") == 3)

        assert len(admin.get("/exchanges").json()["recent"]) == 3
        assert admin.get("/policy").json()["problems"] == []
        assert set(admin.samples("sidestream_policy_info").values()) == {1}
        worker = int(re.search(r"a worker runs worker=0 pid=(\d+)", proxy.said)[1])
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: admin.get("/healthz/ready").text == "not ready: 1 of 2 workers are\n")
        assert admin.total("sidestream_exchanges_total") == 3
        wait_for(lambda: admin.get("/healthz/ready").status_code == 200, 30)
        call(proxy)
        wait_for(lambda: admin.total("sidestream_exchanges_total") == 4)
        assert proxy.stop() == 0
