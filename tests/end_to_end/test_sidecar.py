"""A proxy with what an injected sidecar is given: labels from a file, trust for apps, probes, a level of logs."""

import stat
import subprocess
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.serialization.pkcs12 import load_pkcs12
from cryptography.x509 import load_pem_x509_certificates

from sidestream.cli import probing
from tests.world import DASHSCOPE_KEY, free_port, provider_document, sidestream_run, wait_for

MESSAGES = '{"messages": []}'


@pytest.fixture(scope="module")
def sidecar(shared_world):
    folder = shared_world.folder / "sidecar"
    (folder / "trust").mkdir(parents=True)
    (folder / "labels").write_text('app="sleep"\nexample.com/tier="back.end"\n')
    policies = shared_world.policies("policies-of-sidecar")
    for host, label in (("ours.test", "sleep"), ("theirs.test", "other")):
        tls = {"mode": "SIMPLE", "sni": "dashscope.aliyuncs.com"}
        document = provider_document(host, shared_world.dashscope.port, key=DASHSCOPE_KEY, tls=tls)
        selector = f'"workloadSelector": {{"labels": {{"app": "{label}"}}}}, "host"'
        (policies / f"{host}.yaml").write_text(document.replace('"host"', selector, 1))
    port = free_port()
    flags = [f"--labels={folder / 'labels'}", f"--trust-dir={folder / 'trust'}", "--intercept-tls"]
    with sidestream_run(
        shared_world, *flags, f"--admin=127.0.0.1:{port}", "--log-level=warning", policies=policies
    ) as proxy:
        admin = ("127.0.0.1", port)
        wait_for(lambda: probing.main(["ready"], admin=admin) == 0)
        yield SimpleNamespace(proxy=proxy, admin=admin, trust=folder / "trust")


def curl(sidecar, url, *arguments, **environment):
    command = ["curl", "-sS", "-m", "20", "-x", sidecar.proxy.url, *arguments, url]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("name", ["ca.crt", "ca-bundle.crt"])
def test_an_app_trusts_the_proxy_by_a_variable_and_a_file(world, sidecar, name):
    done = curl(sidecar, "https://dashscope.aliyuncs.com/", "-d", MESSAGES, SSL_CERT_FILE=str(sidecar.trust / name))

    [received] = world.dashscope.requests
    assert "hello from dashscope" in done.stdout, done.stderr
    assert received.header("authorization") == f"Bearer {DASHSCOPE_KEY}"


def test_the_bundle_holds_the_systems_cas_those_given_besides_and_ours(world, sidecar):
    bundle = (sidecar.trust / "ca-bundle.crt").read_text()

    assert (sidecar.trust / "ca.crt").read_text() in bundle
    assert world.ca_file.read_text() in bundle
    assert bundle.count("BEGIN CERTIFICATE") > 20


def test_apps_can_read_the_files_and_no_private_key_is_among_them(sidecar):
    files = sorted(sidecar.trust.iterdir())

    assert [path.name for path in files] == ["ca-bundle.crt", "ca-bundle.p12", "ca.crt"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o644}
    assert not [path for path in files if b"PRIVATE" in path.read_bytes()]


def test_javas_keystore_holds_certificates_alone_and_ours_is_the_last(sidecar):
    keystore = load_pkcs12((sidecar.trust / "ca-bundle.p12").read_bytes(), b"changeit")

    [ours] = load_pem_x509_certificates((sidecar.trust / "ca.crt").read_bytes())
    assert keystore.key is None
    assert len(keystore.additional_certs) > 20
    assert keystore.additional_certs[-1].certificate == ours


def test_labels_of_a_file_select_what_governs_the_workload(sidecar):
    answers = [curl(sidecar, f"http://{host}/", "-d", MESSAGES) for host in ("ours.test", "theirs.test")]

    assert ["hello from dashscope" in answer.stdout for answer in answers] == [True, False]


@pytest.mark.parametrize("state", ["live", "ready", "idle"])
def test_a_probe_finds_it_well(sidecar, state):
    assert probing.main([state], admin=sidecar.admin) == 0


def test_logs_below_the_level_are_not_told(sidecar):
    assert " INFO " not in sidecar.proxy.said
