import asyncio
import contextlib
import datetime as dt
import json
import logging
import ssl
import threading

import pytest
from tornado.netutil import bind_sockets

from sidestream.control.certificates import CA_LIFETIME, LIFETIME
from sidestream.control.serving import Certificate
from sidestream.control.webhooks import Answering, webhooks
from sidestream.inject.options import Options
from tests.control.cluster import MARKER, keyed, to
from tests.kubernetes.apiserver import Refused, asked
from tests.kubernetes.clusters import api_of, controlling

NOW = dt.datetime.now(dt.UTC)
NAMESPACE = "sidestream-system"
SERVICE = {"name": "sidestream-controller", "namespace": NAMESPACE}
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "sleep", "namespace": "default", "labels": {"app": "sleep"}},
    "spec": {"containers": [{"name": "app", "image": "app"}]},
}


def configuration(kind: str, path: str, resources: list[str]) -> dict:
    hook = {
        "name": f"{path}.sidestream.dev",
        "clientConfig": {"service": SERVICE | {"path": f"/{path}"}},
        "rules": [{"resources": resources, "operations": ["CREATE", "UPDATE"]}],
    }
    return {"kind": kind, "apiVersion": "v1", "metadata": {"name": "sidestream-controller"}, "webhooks": [hook]}


def trusted(server, kind: str = "MutatingWebhookConfiguration") -> str:
    (hook,) = server.get(kind, "sidestream-controller", "")["webhooks"]
    return hook["clientConfig"].get("caBundle", "")


def install(server) -> None:
    server.apply(configuration("MutatingWebhookConfiguration", "inject", ["pods"]))
    server.apply(configuration("ValidatingWebhookConfiguration", "validate", ["llmproviders", "llmroutes"]))


@contextlib.contextmanager
def serving(answering: Answering, context: ssl.SSLContext):
    """Webhooks that are served from a thread of their own. Gives their address."""
    sockets = bind_sockets(0, "127.0.0.1")
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def main():
        running = webhooks(answering, context)
        running.add_sockets(sockets)
        await stop.wait()
        running.stop()
        await running.close_all_connections()

    thread = threading.Thread(target=lambda: loop.run_until_complete(main()))
    thread.start()
    try:
        yield f"https://127.0.0.1:{sockets[0].getsockname()[1]}"
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


@pytest.fixture
def installed(server):
    """A stand-in that asks the webhooks of a control plane."""
    install(server)
    with controlling(server) as control:
        certificate = Certificate(api_of(server), NAMESPACE)
        certificate.refresh(NOW)
        health = (lambda: control.ready, lambda: control.ready, lambda: control.alive)
        answering = Answering(control.known, control.bundle_for, Options(), *health)
        with serving(answering, certificate.context) as address:
            server.tie_webhooks_to = address
            server.certificate, server.control = certificate, control
            yield server


def test_what_does_not_compile_is_refused_by_the_server(installed, api):
    broken = keyed(more="hosst: 1")

    with pytest.raises(Exception, match=r"spec.hosst: unknown field \(did you mean 'host'\?\)"):
        api_create(api, broken)

    assert installed.get("LLMProvider", "alpha") is None


def test_documents_may_come_in_any_order(installed, api):
    api_create(api, to("chat", "api.alpha.example"))
    api_create(api, keyed(key="apiKey: sk-a"))

    installed.wait(lambda: installed.condition("LLMRoute", "chat", "Programmed").get("status") == "True")


def test_a_pod_is_injected_with_the_bundle_for_its_labels(installed, api):
    api_create(api, keyed(key="apiKey: sk-a", more="workloadSelector: {labels: {app: sleep}}"))
    bundle = installed.wait(
        lambda: (name := installed.control.bundle_for("default", {"app": "sleep"})) != "sidestream-policy" and name
    )

    api_create(api, POD)
    pod = installed.get("Pod", "sleep")

    names = [container["name"] for container in pod["spec"]["initContainers"]]
    assert names == ["sidestream-init", "sidestream"]
    assert bundle in json.dumps(pod["spec"]["volumes"])
    assert installed.wait(lambda: installed.files(bundle))


def test_a_certificate_that_was_renewed_is_served_without_a_restart(installed):
    before = trusted(installed)
    for later in (LIFETIME * 0.7, CA_LIFETIME * 0.7):
        served = certificate_of(installed)
        # Served under the clock of now: only what is renewed changes.
        installed.certificate.refresh(NOW + later)
        assert certificate_of(installed) != served
    assert trusted(installed) != before
    assert trusted(installed) == trusted(installed, "ValidatingWebhookConfiguration")


def test_replicas_share_one_certificate_and_write_it_once(server):
    install(server)
    certificates = [Certificate(api_of(server), NAMESPACE) for _ in range(3)]
    threads = [threading.Thread(target=one.refresh, args=(NOW,)) for one in certificates]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in certificates:
        one.refresh(NOW)

    served = {one._served.certificate for one in certificates}
    assert len(served) == 1
    assert server.get("Secret", "sidestream-controller-tls", NAMESPACE)["type"] == "kubernetes.io/tls"


def test_a_ca_that_someone_took_out_is_put_back(server):
    install(server)
    certificate = Certificate(api_of(server), NAMESPACE)
    certificate.refresh(NOW)
    before = trusted(server)

    install(server)
    assert not trusted(server)
    certificate.refresh(NOW)

    assert trusted(server) == before


def test_without_webhooks_there_is_a_certificate_all_the_same(server):
    certificate = Certificate(api_of(server), NAMESPACE)

    certificate.refresh(NOW)

    assert certificate.is_served


def test_health_is_told(installed):
    for path in ("live", "ready"):
        assert get(installed, f"/healthz/{path}") == (200, "ok\n")
    installed.control.stop()
    assert get(installed, "/healthz/live") == (503, "not ready\n")


def test_a_webhook_that_fails_says_nothing_of_what_was_sent(server, caplog):
    caplog.set_level(logging.DEBUG)

    def stumble(namespace):
        raise RuntimeError(MARKER)

    certificate = Certificate(api_of(server), NAMESPACE)
    certificate.refresh(NOW)
    answering = Answering(stumble, lambda *_: "", Options(), lambda: False, lambda: True, lambda: True)
    with serving(answering, certificate.context) as address:
        for body in (keyed(key=f"apiKey: {MARKER}"), None):
            review = {"apiVersion": "admission.k8s.io/v1", "request": {"uid": "1", "object": body}}
            with pytest.raises(Refused) as refused:
                asked(address, SERVICE | {"path": "/validate"}, certificate._served.ca_bundle.decode(), review)
            assert MARKER not in str(refused.value)

    assert MARKER not in repr([vars(record) for record in caplog.records])
    assert [record.error for record in caplog.records if record.levelname == "ERROR"] == ["RuntimeError"]


def test_no_pod_is_injected_before_every_policy_is_known(server):
    certificate = Certificate(api_of(server), NAMESPACE)
    certificate.refresh(NOW)
    answering = Answering(lambda _: ([], {}), lambda *_: "", Options(), lambda: False, lambda: True, lambda: True)
    review = {"apiVersion": "admission.k8s.io/v1", "request": {"uid": "1", "object": POD}}

    with (
        serving(answering, certificate.context) as address,
        pytest.raises(Refused, match="503"),
    ):
        asked(address, SERVICE | {"path": "/inject"}, certificate._served.ca_bundle.decode(), review)


def api_create(api, document: dict) -> None:
    from sidestream.sources.kubernetes.objects import PODS, PROVIDERS, ROUTES

    resource = {one.kind: one for one in (PODS, PROVIDERS, ROUTES)}[document["kind"]]
    api.create(resource, document)


def certificate_of(server) -> str:
    port = int(server.tie_webhooks_to.rpartition(":")[2])
    return ssl.get_server_certificate(("127.0.0.1", port))


def get(server, path: str) -> tuple[int, str]:
    import http.client

    port = int(server.tie_webhooks_to.rpartition(":")[2])
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=ssl._create_unverified_context())
    connection.request("GET", path)
    response = connection.getresponse()
    try:
        return response.status, response.read().decode()
    finally:
        connection.close()
