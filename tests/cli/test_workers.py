"""`sidestream run --workers`: real processes, which serve, count, die and end."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sidestream.cli import workers
from sidestream.cli.main import make_parser
from sidestream.cli.running import worker_arguments
from tests.scripted import EVENT_STREAM, LAST_CHUNK, chunk, scripted
from tests.world import listens, provider_document, wait_for

COMMAND = str(Path(sys.executable).parent / "sidestream")
HOST = "provider.test"


@pytest.mark.parametrize(
    ("mode", "there"),
    [
        ("regular@127.0.0.1:8080", "regular@127.0.0.1:8082"),
        ("transparent@::1:15001", "transparent@::1:15003"),
        ("reverse:http://demo@9000", "reverse:http://demo@9002"),
    ],
)
def test_each_worker_listens_at_ports_of_its_own(mode, there):
    assert workers.shifted([mode], 2) == [there]


@pytest.mark.parametrize(
    ("modes", "number", "said"),
    [
        (["local:curl"], 2, "listens at no port"),
        (["regular@127.0.0.1:65535"], 2, "no port 65536"),
        (["regular@127.0.0.1:8080", "regular@127.0.0.1:8081"], 2, "127.0.0.1:8081"),
    ],
)
def test_ports_that_cannot_be_are_refused(modes, number, said):
    with pytest.raises(ValueError, match=said):
        workers.check(modes, number)


def test_a_worker_is_given_all_that_was_given():
    given = ["--policies", "-p", "--upstream-ca", "ca", "--confdir", "conf", "--log", "log", "--labels", "a=b"]
    given += [
        "--intercept-tls",
        "--fail-open",
        "--only-policy-hosts",
        "--set",
        "x=1",
        "--set",
        "y=2",
        "--listen",
        "127.0.0.1:1",
        "--admin",
        "127.0.0.1:2",
    ]
    given = [f"{given[0]}={given[1]}", *given[2:]]
    parser = make_parser()
    options = parser.parse_args(["run", *given])

    worker = parser.parse_args(worker_arguments(options, ["regular@127.0.0.1:1"], 7, "unix:x"))

    changed = {name for name in vars(options) if getattr(options, name) != getattr(worker, name)}
    assert changed == {"mode", "listen", "report_to", "admin"}
    assert (worker.mode, worker.report_to, worker.admin) == (["regular@127.0.0.1:1"], 7, "unix:x")


def test_pages_cannot_be_had_with_workers():
    done = subprocess.run(
        [COMMAND, "run", "--policies", "policies", "--workers", "2", "--web"], capture_output=True, text=True
    )

    assert done.returncode == 2
    assert "--web" in done.stderr.splitlines()[-1]


# --- real ones -------------------------------------------------------------------------------------


class Parent:
    """The command with two workers, in a group of processes of its own."""

    def __init__(self, folder, port, *flags, provider_port=9, **endpoint):
        self.port, self.log, self.output = port, folder / "records.jsonl", folder / "said.txt"
        policies = folder / "policies"
        policies.mkdir()
        (policies / "provider.yaml").write_text(provider_document(HOST, provider_port, **endpoint))
        command = [COMMAND, "run", "--policies", str(policies), "--listen", f"127.0.0.1:{port}", "--workers", "2"]
        command += ["--confdir", str(folder / "confdir"), "--log", str(self.log), *flags]
        with self.output.open("wb") as stream:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, process_group=0
            )

    @property
    def said(self):
        return self.output.read_text()

    @property
    def workers(self):
        return [
            int(pid) for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        ]

    def wait_until_up(self, times=2):
        """Wait until a worker has come up so many times, the first ones included."""
        wait_for(lambda: self.process.poll() is not None or self.said.count("a worker runs") >= times, 60)
        assert self.process.poll() is None, self.said
        return self

    def ask(self, index):
        """Make a request of worker `index` that it refuses."""
        with socket.create_connection(("127.0.0.1", self.port + index), timeout=20) as client:
            head = f"POST http://{HOST}/ HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            client.sendall(head.encode())
            answer = b"".join(iter(lambda: client.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 400")

    def totals(self):
        """Ask for the totals and return the number of accepted connections."""
        before = self.said.count(" totals ")
        self.process.send_signal(signal.SIGUSR1)
        wait_for(lambda: self.said.count(" totals ") > before)
        return self.last_totals()

    def last_totals(self, name="connections_accepted"):
        *_, line = (line for line in self.said.splitlines() if " totals " in line)
        fields = dict(field.split("=") for field in line.split() if "=" in field)
        return int(fields[name])


def two_free_ports():
    """Return the first of two, below those that the system gives to clients."""
    while True:
        port = random.randrange(20_000, 32_000)
        with contextlib.suppress(OSError), contextlib.ExitStack() as both:
            for each in (port, port + 1):
                both.enter_context(socket.create_server(("127.0.0.1", each)))
            return port


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    made = Parent(tmp_path_factory.mktemp("workers"), two_free_ports())
    try:
        yield made.wait_until_up()
        asked, pids = made.totals(), made.workers
        made.ask(0)
        made.process.send_signal(signal.SIGTERM)
        assert made.process.wait(30) == 0
        assert not any(map(is_running, pids))
        assert made.last_totals() > asked
    finally:
        made.process.kill()


def test_both_serve_and_write_whole_lines_to_one_log(parent):
    for index in (0, 1, 0, 1):
        parent.ask(index)

    records = wait_for(lambda: len(lines := parent.log.read_text().splitlines()) >= 4 and lines)
    assert {json.loads(line)["host"] for line in records} == {HOST}


def test_totals_are_the_sum_of_what_workers_counted(parent):
    before = wait_for(parent.totals)
    parent.ask(0)
    parent.ask(1)

    assert wait_for(lambda: parent.totals() >= before + 2)


def test_a_worker_that_dies_is_started_again_and_what_it_counted_stays(parent):
    parent.ask(1)
    counted = wait_for(lambda: parent.totals() >= 1 and parent.totals())
    killed = parent.workers[-1]

    os.kill(killed, signal.SIGKILL)

    wait_for(
        lambda: f"a worker has ended; it will be started again worker=1 status=-{signal.SIGKILL.value}" in parent.said
    )
    parent.wait_until_up(times=3)
    parent.ask(1)
    assert killed not in parent.workers
    assert parent.totals() >= counted


def begin_to_read(port):
    client = socket.create_connection(("127.0.0.1", port), timeout=20)
    body = b'{"messages": [], "stream": true}'
    head = f"POST http://{HOST}/ HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {len(body)}\r\n\r\n"
    client.sendall(head.encode() + body)
    assert client.recv(12) == b"HTTP/1.1 200"
    return client


def test_workers_finish_what_is_under_way_when_the_terminal_interrupts_all_of_them(tmp_path):
    go = threading.Event()

    def provide(line, _):
        line.send(EVENT_STREAM + chunk(b'data: {"choices": [{"delta": {"content": "hi"}}]}\n\n'))
        assert go.wait(20)
        line.send(chunk(b"data: [DONE]\n\n") + LAST_CHUNK)

    with scripted(provide) as provider:
        flags = ("--grace", "60")
        parent = Parent(tmp_path, two_free_ports(), *flags, provider_port=provider.port, tls={"mode": "DISABLE"})
        clients = [begin_to_read(port) for port in (parent.wait_until_up().port, parent.port + 1)]
        os.killpg(parent.process.pid, signal.SIGINT)
        wait_for(lambda: not any(map(listens, (parent.port, parent.port + 1))))
        assert len(parent.workers) == 2
        go.set()
        answers = [b"".join(iter(lambda client=client: client.recv(65536), b"")) for client in clients]

        assert parent.process.wait(30) == 0
    assert [answer.endswith(b"data: [DONE]\n\n\r\n" + LAST_CHUNK) for answer in answers] == [True, True]
    assert parent.last_totals("exchanges_finished_at_end") == 2
    assert parent.last_totals("exchanges_cut") == 0


def test_no_worker_is_left_when_the_parent_is_killed(tmp_path):
    parent = Parent(tmp_path, two_free_ports()).wait_until_up()
    pids = parent.workers

    parent.process.kill()
    parent.process.wait()

    assert len(pids) == 2
    wait_for(lambda: not any(map(is_running, pids)), 30)


def test_workers_that_cannot_start_end_the_command(tmp_path):
    port = two_free_ports()
    with socket.create_server(("127.0.0.1", port + 1)):
        parent = Parent(tmp_path, port)

        assert parent.process.wait(60) == 1
    assert "address already in use" in parent.said


@pytest.mark.parametrize(
    ("flags", "environment", "said"),
    [
        (["--set", "sidestream_log_max_size=1m"], {}, "use logrotate"),
        ([], {"SIDESTREAM_LOG_MAX_SIZE": "1m"}, "use logrotate"),
        (["--admin", "here"], {}, "'here' is no HOST:PORT"),
        ([], {"SIDESTREAM_ADMIN": "127.0.0.1:0"}, "'127.0.0.1:0' is no HOST:PORT"),
    ],
)
def test_what_workers_cannot_do_is_refused(flags, environment, said):
    command = [COMMAND, "run", "--policies", "policies", "--workers", "2", *flags]

    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=60)

    assert done.returncode != 0
    assert said in done.stderr.splitlines()[-1]
