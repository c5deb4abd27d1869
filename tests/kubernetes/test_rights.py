"""What the control plane does is what `k8s/base/rbac.yaml` lets it do."""

from pathlib import Path

import pytest
import yaml

from sidestream.control.electing import LEASE, Electing
from sidestream.control.serving import Certificate
from tests.control.cluster import keyed, secret, to
from tests.kubernetes.clusters import api_of, controlling, pod, revision
from tests.kubernetes.test_electing import PATIENT
from tests.kubernetes.test_webhooks import NAMESPACE, NOW, install

MANIFEST = Path(__file__).parents[2] / "k8s" / "base" / "rbac.yaml"


@pytest.fixture(scope="module")
def allowed() -> set[tuple[str, str]]:
    """The verbs and the resources of the roles of the controller."""
    documents = list(yaml.safe_load_all(MANIFEST.read_text()))
    roles = [one for one in documents if one["kind"].endswith("Role") and one["metadata"]["name"] == LEASE]
    rules = [rule for role in roles for rule in role["rules"]]
    return {(verb, resource) for rule in rules for verb in rule["verbs"] for resource in rule["resources"]}


def test_the_control_plane_does_nothing_that_it_may_not(server, allowed):
    install(server)
    server.apply(secret())
    server.apply(pod("here"))
    server.apply({"kind": "Namespace", "metadata": {"name": "default", "labels": {"sidestream.dev/inject": "true"}}})
    with controlling(server, leads=False) as control:
        electing = Electing(api_of(server), (NAMESPACE, LEASE), "one", lambda leads: control.lead(leads=leads), PATIENT)
        electing.start()
        server.apply(keyed(more="workloadSelector: {labels: {app: sleep}}"))
        server.apply(to("chat", "api.alpha.example"))
        server.wait(lambda: len([call for call in server.calls if call.verb == "create"]) == 3)  # a lease, two bundles
        server.apply(secret(alpha="sk-rotated"))
        server.wait(lambda: revision(server, "here"))
        server.remove("LLMProvider", "alpha")
        server.remove("LLMRoute", "chat")
        server.wait(lambda: server.count("delete", "secrets"))
        Certificate(api_of(server), NAMESPACE).refresh(NOW)
        electing.stop()

    done = {(call.verb, call.what) for call in server.calls}
    assert {("delete", "secrets"), ("update", "leases"), ("patch", "pods")} <= done
    assert done <= allowed
