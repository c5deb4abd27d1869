"""The controller as a process, on the stand-in: two replicas, as the manifests run them."""

import asyncio
import base64
import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sidestream.cli.main import main
from sidestream.control.replica import Replica, Settings, run
from sidestream.control.serving import Certificate
from tests.control.cluster import keyed
from tests.kubernetes.apiserver import asked
from tests.kubernetes.clusters import api_of, kubeconfig_of
from tests.kubernetes.test_webhooks import POD, SERVICE, install, trusted

COMMAND = str(Path(sys.executable).parent / "sidestream")


@pytest.fixture
def kubeconfig(server, tmp_path):
    return kubeconfig_of(server, tmp_path)


@contextlib.contextmanager
def replica(kubeconfig: Path, name: str, *arguments: str):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [COMMAND, "controller", f"--kubeconfig={kubeconfig}", f"--port={port}", "--host=127.0.0.1", "--drain=0"]
    log = kubeconfig.with_name(f"{name}.log")
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [*command, *arguments],
            stderr=stderr,
            env={**os.environ, "POD_NAME": name, "POD_NAMESPACE": "sidestream-system"},
        )
        process.log, process.address = log, f"https://127.0.0.1:{port}"
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def says(process, text: str) -> bool:
    assert process.poll() is None, process.log.read_text()
    return text in process.log.read_text()


def test_two_replicas_serve_and_one_writes(server, kubeconfig):
    install(server)
    server.apply(keyed(key="apiKey: sk-a"))
    with replica(kubeconfig, "one") as one, replica(kubeconfig, "two", "--image=mirror/sidestream:1") as two:
        server.wait(lambda: says(one, "webhooks are served") and says(two, "webhooks are served"), seconds=60)
        server.wait(lambda: server.condition("LLMProvider", "alpha", "Programmed").get("status") == "True", seconds=30)
        holder = server.get("Lease", "sidestream-controller", "sidestream-system")["spec"]["holderIdentity"]
        leader = one if holder.startswith("one") else two
        review = {
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "request": {"uid": "1", "object": POD},
        }
        pem = ca_of(server)
        answers = [asked(process.address, SERVICE | {"path": "/inject"}, pem, review) for process in (one, two)]

        leader.send_signal(signal.SIGTERM)
        status = leader.wait(timeout=30)
        server.apply(keyed("b.example", "apiKey: sk-b", name="beta"))
        server.wait(lambda: server.condition("LLMProvider", "beta", "Programmed").get("status") == "True", seconds=30)

    assert [answer["response"]["allowed"] for answer in answers] == [True, True]
    assert status == 0
    assert server.count("create", "secrets") in (2, 3)  # the bundle, and the certificate, which both may have tried
    assert "sk-a" not in one.log.read_text() + two.log.read_text()
    patches = [base64.b64decode(answer["response"]["patch"]).decode() for answer in answers]
    assert ["mirror/sidestream:1" in patch for patch in patches] == [False, True]


def ca_of(server) -> str:
    return base64.b64decode(trusted(server)).decode()


def test_who_can_not_look_after_its_certificate_ends_and_is_started_again(server, monkeypatch):
    def refresh(self, now):
        raise ValueError("no certificate")

    monkeypatch.setattr(Certificate, "refresh", refresh)
    replica = Replica(api_of(server), Settings("sidestream-system", "one", drain_seconds=0))

    with pytest.raises(ValueError, match="no certificate"):
        asyncio.run(asyncio.wait_for(run(replica, 0, "127.0.0.1"), 20))


def test_who_stands_for_election_no_more_ends_and_is_started_again(server, monkeypatch):
    install(server)
    monkeypatch.setattr("threading.excepthook", lambda _: None)
    replica = Replica(api_of(server), Settings("sidestream-system", "one", drain_seconds=0))
    monkeypatch.setattr(replica.election, "_hold", lambda: 1 / 0)

    was_asked_to = asyncio.run(asyncio.wait_for(run(replica, 0, "127.0.0.1"), 20))

    assert not was_asked_to


def test_who_ends_in_order_is_alive_until_then(server):
    replica = Replica(api_of(server), Settings("sidestream-system", "one"))
    replica.election.start()

    replica.election.stop()

    assert replica.election.alive


def test_without_a_cluster_it_says_so_and_ends(tmp_path, capsys):
    assert main(["controller", f"--kubeconfig={tmp_path / 'nothing'}"]) == 1
    assert "no cluster is configured" in capsys.readouterr().err


def test_an_annotation_that_makes_no_sense_is_refused_at_the_start(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["controller", "--default=log-level=loud"])

    assert "log-level" in capsys.readouterr().err
