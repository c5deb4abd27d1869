"""
A whole pod without a cluster: the redirection, the sidecar and an app, exactly as they were injected.

What only a cluster can show (images, seccomp, cgroups, the kubelet's own timing) is not rehearsed. How long a changed
Secret takes is shown by `python -m pytest --log-cli-level=INFO tests/inject/test_rehearsal.py -k reaches`.
"""

import contextlib
import json
import logging
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from sidestream.inject.manifests import injected
from sidestream.inject.options import ADMIN_PORT, INIT_CONTAINER, POLICY_FOLDER, SIDECAR, UID, Options
from sidestream.inject.workloads import pods_in
from sidestream.policy.syntax import parse
from tests.inject.kubelet import Kubelet, environment_of, status_of
from tests.namespaces import ROOT, Namespace, namespaces
from tests.transparent import pods
from tests.world import DASHSCOPE_KEY, wait_for

logger = logging.getLogger(__name__)

HOST = "dashscope.aliyuncs.com"
CALL = ("-d", '{"messages": [{"role": "user", "content": "hi"}]}')
MANIFEST = (ROOT / "k8s/examples/sleep/sleep.yaml").read_text()


@dataclass
class Rehearsed:
    namespace: Namespace
    kubelet: Kubelet
    outside: pods.Outside
    process: object
    output: Path

    def curl(self, *arguments):
        """Call somebody as the app does."""
        return self.kubelet.run("sleep", "curl", "-sS", "-m", "20", *arguments)

    def policy(self):
        """Read which policy is in force."""
        request = b"GET /policy HTTP/1.0\r\nHost: localhost\r\n\r\n"
        with self.namespace.entered(), socket.create_connection(("127.0.0.1", ADMIN_PORT), timeout=10) as client:
            client.sendall(request)
            return pods.read_all(client).decode()

    @property
    def said(self):
        return self.output.read_text()


def bundle(outside, model):
    """Return what the Secret of the policies holds: a provider, and the CA that it is verified by."""
    provider = {
        "apiVersion": "istio.alibabacloud.com/v1beta1",
        "kind": "LLMProvider",
        "metadata": {"name": "dashscope"},
        "spec": {
            "host": HOST,
            "workloadSelector": {"labels": {"app": "sleep"}},
            "endpoint": {
                "host": pods.DASHSCOPE,
                "tls": {"mode": "SIMPLE", "caFile": f"{POLICY_FOLDER}/ca.pem", "sni": HOST},
            },
            "configs": {"defaultConfig": {"openAIConfig": {"apiKey": DASHSCOPE_KEY, "model": model}}},
        },
    }
    return {"policy.yaml": json.dumps(provider), "ca.pem": outside.authority.ca_file.read_text()}


@pytest.fixture(scope="module")
def outside():
    with pods.outside() as outside:
        yield outside


@contextlib.contextmanager
def rehearsed(outside, folder, options, number):
    """Run the pod of the example until its sidecar is ready, as Kubernetes finds out."""
    manifest = injected(MANIFEST, options).text
    [template] = [found.pod for document in parse(manifest) for found in pods_in(document.content, "default")]
    template["metadata"] |= {"name": "sleep-1", "namespace": "default"}
    with namespaces(1) as [namespace]:
        pods.join(namespace, outside.namespace, number)
        namespace.write_hosts(pods.HOSTS)
        kubelet = Kubelet(namespace, template, {"sidestream-policy": bundle(outside, "qwen-1")}, folder)
        done = kubelet.run(INIT_CONTAINER)
        assert done.returncode == 0, done.stderr
        process = kubelet.start(SIDECAR, folder / "said.txt")
        made = Rehearsed(namespace, kubelet, outside, process, folder / "said.txt")
        try:
            wait_for(lambda: process.poll() is not None or pods.listens(process, "127.0.0.1", ADMIN_PORT), 60)
            assert process.poll() is None, made.said
            if options.native_sidecar:
                wait_for(lambda: kubelet.probe(SIDECAR, "startupProbe"), 20)
            else:
                assert kubelet.hook(SIDECAR, "postStart") == 0, made.said
            yield made
        finally:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def pod(outside, tmp_path_factory):
    with rehearsed(outside, tmp_path_factory.mktemp("pod"), Options(intercept_tls=True), 77) as pod:
        yield pod


def test_plain_http_of_the_app_is_governed(pod):
    done = pod.curl(f"http://{HOST}", *CALL)

    assert "hello from dashscope" in done.stdout, done.stderr
    assert pod.outside.dashscope.requests[-1].header("authorization") == f"Bearer {DASHSCOPE_KEY}"


def test_https_of_the_app_is_governed_by_the_variables_that_were_injected(pod):
    done = pod.curl(f"https://{HOST}/v1/chat/completions", *CALL)

    assert "hello from dashscope" in done.stdout, done.stderr


def test_pythons_tls_trusts_the_sidecar_as_well(pod):
    read = f"import urllib.request as u; print(u.urlopen('https://{HOST}/v1/models').status)"

    done = pod.kubelet.run("sleep", "python3", "-c", read)

    assert done.stdout == "200\n", done.stderr


def test_the_sidecar_is_who_it_was_injected_as(pod):
    status = status_of(pod.process)

    assert {*status["Uid"].split(), *status["Gid"].split()} == {str(UID)}
    assert (int(status["CapEff"], 16), int(status["CapBnd"], 16), status["NoNewPrivs"]) == (0, 0, "1")
    assert {"POD_NAME", "POD_NAMESPACE", "HOME"} <= environment_of(pod.process).keys()


def test_the_app_finds_neither_policies_nor_private_keys(pod):
    found = pod.kubelet.run("sleep", "find", "/etc/sidestream", "/var/lib", "-type", "f")

    trust = Path("/etc/sidestream/trust")
    assert {Path(path) for path in found.stdout.split()} == {
        trust / name for name in ("ca-bundle.crt", "ca-bundle.p12", "ca.crt")
    }


def test_the_app_can_not_change_what_it_trusts(pod):
    done = pod.kubelet.run("sleep", "touch", "/etc/sidestream/trust/ca.crt")

    assert done.returncode != 0


@pytest.mark.parametrize("probe", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_probes_find_the_sidecar_well(pod, probe):
    assert pod.kubelet.probe(SIDECAR, probe)


def test_a_policy_that_changed_reaches_the_running_pod(pod):
    began = time.monotonic()
    pod.kubelet.change_secret("sidestream-policy", bundle(pod.outside, "qwen-2"))
    wait_for(lambda: "qwen-2" in pod.policy(), 20)
    logger.info("a changed Secret was in force %.2f s after its files had changed", time.monotonic() - began)

    assert "qwen-2" in pod.curl(f"http://{HOST}", *CALL).stdout


def test_a_restarted_init_container_leaves_the_same_rules(pod):
    again = pod.kubelet.run(INIT_CONTAINER)

    assert again.returncode == 0, again.stderr
    assert "hello from dashscope" in pod.curl(f"http://{HOST}", *CALL).stdout


def test_the_key_is_nowhere_in_what_the_sidecar_says(pod):
    assert '"status":200' in pod.said
    assert DASHSCOPE_KEY not in pod.said


def test_a_sidecar_that_is_idle_ends_at_once_and_well(pod):
    waited = pod.kubelet.hook(SIDECAR, "preStop")
    pod.process.send_signal(signal.SIGTERM)

    assert (waited, pod.process.wait(30)) == (0, 0)
    assert " INFO ended exchanges_finished_at_end=0 exchanges_cut=0 " in pod.said


def test_without_the_sidecar_a_call_goes_nowhere(pod):
    before = len(pod.outside.dashscope.requests)
    pod.process.kill()
    pod.process.wait()

    done = pod.curl(f"http://{HOST}", *CALL)

    assert (done.returncode, done.stdout) == (7, ""), done.stderr  # curl: it could not connect
    assert len(pod.outside.dashscope.requests) == before


def test_without_native_sidecars_an_app_that_starts_after_the_hook_is_governed(outside, tmp_path):
    with rehearsed(outside, tmp_path, Options(native_sidecar=False), 78) as pod:
        done = pod.curl(f"http://{HOST}", *CALL)

    assert "hello from dashscope" in done.stdout, done.stderr
