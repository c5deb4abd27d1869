"""The controller may do what it does, and what it may do it does: its calls to a stand-in, against the roles."""

import pytest
import yaml

from tests.control.cluster import keyed, secret, to
from tests.k8s.rendering import objects_of
from tests.kubernetes.apiserver import running
from tests.kubernetes.clusters import pod, revision
from tests.kubernetes.test_replica import kubeconfig, replica, says

HOME = "sidestream-system"
CONTROLLER = "sidestream-controller"
# Fixtures of others are used under their names.
__all__ = ["kubeconfig"]


def granted():
    """Return (verb, plural or plural/subresource, namespace, name); an empty namespace or name: any."""
    found = set()
    for role in objects_of("base"):
        if role["kind"] in ("Role", "ClusterRole") and role["metadata"]["name"] == CONTROLLER:
            for rule in role["rules"]:
                found |= {
                    (verb, resource, role["metadata"].get("namespace", ""), name)
                    for verb in rule["verbs"]
                    for resource in rule["resources"]
                    for name in rule.get("resourceNames", [""])
                }
    return found


def allows(right, call):
    verb, what, namespace, name = right
    return (verb, what) == (call.verb, call.what) and namespace in ("", call.namespace) and name in ("", call.name)


@pytest.fixture(scope="module")
def server():
    with running() as server:
        for content in objects_of("base"):
            if content["kind"].endswith("WebhookConfiguration"):
                server.apply(content)
        yield server


@pytest.fixture
def calls(server, kubeconfig):
    """The calls of a controller that sees a bundle come, change and go."""

    def is_programmed(kind, name):
        return server.condition(kind, name, "Programmed").get("status") == "True"

    def is_trusted(kind):
        return all("caBundle" in hook["clientConfig"] for hook in server.get(kind, CONTROLLER, "")["webhooks"])

    selected = keyed(more="workloadSelector: {labels: {app: a}}")
    server.apply(yaml.safe_load("{apiVersion: v1, kind: Namespace, metadata: {name: default}}"))
    server.apply({"apiVersion": "v1", "kind": "Secret", "type": "Opaque", **secret()})
    server.apply(keyed("b.example", name="beta"))
    server.apply(selected)
    server.apply(to("chat", "b.example", name="chat"))
    server.apply(pod("one"))
    with replica(kubeconfig, "one") as process:
        server.wait(lambda: says(process, "webhooks are served"), seconds=60)
        server.wait(lambda: is_programmed("LLMProvider", "alpha") and is_programmed("LLMRoute", "chat"), seconds=30)
        server.wait(lambda: is_trusted("MutatingWebhookConfiguration") and is_trusted("ValidatingWebhookConfiguration"))
        server.wait(lambda: revision(server, "one"))
        server.apply(keyed("c.example", name="beta"))
        server.wait(lambda: server.count("update", "secrets"))
        server.remove("LLMProvider", "alpha")
        server.wait(lambda: server.count("delete", "secrets"), seconds=30)
        server.wait(lambda: server.count("update", "leases"), seconds=30)
    return list(server.calls)


def test_its_roles_are_what_it_needs_and_no_more(calls):
    rights = granted()

    assert [call for call in calls if not any(allows(right, call) for right in rights)] == []
    assert [right for right in sorted(rights) if not any(allows(right, call) for call in calls)] == []
