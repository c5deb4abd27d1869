"""What the guard lets the controller do, and what not: its policies, evaluated."""

import cel
import pytest

from tests.k8s.rendering import objects_of

CONTROLLER = "system:serviceaccount:sidestream-system:sidestream-controller"
POD = {"metadata": {"labels": {"app": "a"}, "annotations": {}}, "spec": {"containers": [{"image": "app:1"}]}}
NUDGED = {**POD, "metadata": {**POD["metadata"], "annotations": {"sidestream.dev/policy-revision": "7"}}}


def policy(resource):
    (found,) = (
        content["spec"]
        for content in objects_of("guard")
        if content["metadata"]["name"] == f"sidestream-controller-{resource}" and "validations" in content["spec"]
    )
    return found


def allows(resource, *, user=CONTROLLER, **variables):
    variables["request"] = {"userInfo": {"username": user}, **variables.get("request", {})}
    found = policy(resource)
    if not all(cel.evaluate(condition["expression"], variables) for condition in found["matchConditions"]):
        return True
    return all(cel.evaluate(validation["expression"], variables) for validation in found["validations"])


def test_a_pod_may_be_nudged():
    assert allows("pods", oldObject=POD, object=NUDGED)
    assert allows("pods", oldObject={**POD, "metadata": {}}, object={**NUDGED, "metadata": {"annotations": {}}})


@pytest.mark.parametrize(
    "changed",
    [
        {**POD, "spec": {"containers": [{"image": "evil:1"}]}},
        {**POD, "metadata": {"labels": {"app": "b"}}},
        {**POD, "metadata": {}},
    ],
)
def test_nothing_else_of_a_pod_may_be_changed_but_by_others(changed):
    assert not allows("pods", oldObject=POD, object=changed)
    assert allows("pods", oldObject=POD, object=changed, user="system:serviceaccount:default:deployer")


@pytest.mark.parametrize(
    ("namespace", "name", "allowed"),
    [
        ("default", "sidestream-policy", True),
        ("default", "sidestream-policy-0123456789", True),
        ("sidestream-system", "sidestream-controller-tls", True),
        ("default", "sidestream-controller-tls", False),
        ("default", "sidestream-keys", False),
        ("kube-system", "bootstrap-token-abc", False),
    ],
)
def test_only_bundles_and_the_certificate_may_be_written(namespace, name, allowed):
    assert allows("secrets", request={"namespace": namespace, "name": name}) is allowed


def test_every_policy_is_bound_and_denies():
    bindings = [content["spec"] for content in objects_of("guard") if "validationActions" in content["spec"]]

    assert [binding["policyName"] for binding in bindings] == [
        "sidestream-controller-pods",
        "sidestream-controller-secrets",
    ]
    assert all(binding["validationActions"] == ["Deny"] for binding in bindings)
