"""Who talks to the API server may do what it does, and does what it may: calls to a stand-in, against the roles."""

import os
import subprocess

import pytest
import yaml

from tests.control.cluster import keyed, secret, to
from tests.k8s.rendering import objects_of, pods_in
from tests.kubernetes.apiserver import running
from tests.kubernetes.clusters import pod, revision
from tests.kubernetes.test_replica import COMMAND, kubeconfig, replica, says
from tests.world import free_port

NAMESPACE = "default"
CONTROLLER = "sidestream-controller"
# Fixtures of others are used under their names.
__all__ = ["kubeconfig"]


def granted(folder, subject):
    """Return (verb, plural or plural/subresource, namespace, name); an empty namespace or name: any."""
    found = set()
    for role in objects_of(folder):
        if role["kind"] in ("Role", "ClusterRole") and role["metadata"]["name"] == subject:
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
        for kind in ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"):
            server.wait(lambda kind=kind: is_trusted(kind), seconds=30)
        server.wait(lambda: revision(server, "one"), seconds=30)
        server.apply(keyed("c.example", name="beta"))
        server.wait(lambda: server.count("update", "secrets"), seconds=30)
        server.remove("LLMProvider", "alpha")
        server.wait(lambda: server.count("delete", "secrets"), seconds=30)
        server.wait(lambda: server.count("update", "leases"), seconds=30)
    return list(server.calls)


def unused_and_missing(rights, calls):
    missing = [call for call in calls if not any(allows(right, call) for right in rights)]
    return [right for right in sorted(rights) if not any(allows(right, call) for call in calls)], missing


def test_the_roles_of_the_controller_are_what_it_needs_and_no_more(calls):
    assert unused_and_missing(granted("base", CONTROLLER), calls) == ([], [])


def test_the_role_of_a_proxy_without_a_controller_is_what_it_needs_and_no_more(kubeconfig, server, tmp_path):
    [container] = dict(pods_in("direct"))["Deployment sidestream-egress"]["containers"]
    arguments = [word for word in container["args"] if not word.startswith(("--listen=", "--admin="))]
    before = len(server.calls)
    output = (tmp_path / "said.txt").open("wb")
    process = subprocess.Popen(
        [COMMAND, *arguments, f"--listen=127.0.0.1:{free_port()}", "--admin=off", f"--namespace={NAMESPACE}"],
        env={**os.environ, "KUBECONFIG": str(kubeconfig), "HOME": str(tmp_path)},
        stdout=output,
        stderr=output,
    )
    try:
        watched = {"llmproviders", "llmroutes", "secrets"}
        server.wait(
            lambda: {call.what for call in server.calls[before:] if call.verb == "watch"} == watched, seconds=60
        )
    finally:
        process.kill()
        process.wait()

    assert unused_and_missing(granted("direct", "sidestream-egress"), server.calls[before:]) == ([], [])
    assert {call.namespace for call in server.calls[before:]} == {NAMESPACE}
