"""Injected pods are what an API server takes."""

import json

import kubernetes_validate
import pytest

from sidestream.inject.options import STATUS_ANNOTATION
from sidestream.inject.workloads import pods_in
from sidestream.policy.syntax import parse
from tests.inject.test_goldens import SCENARIOS, golden

OTHER_YAML = "modes-words-and-numbers-stay"
"""A scenario whose words and numbers are an API server's only as YAML 1.1 reads them."""


def injected_pods():
    """Return every pod of a golden that has the sidecar, once."""
    documents = [
        document.content for scenario in SCENARIOS if scenario != OTHER_YAML for document in parse(golden(scenario))
    ]
    found = [one.pod for document in documents for one in pods_in(document, "default")]
    injected = [pod for pod in found if STATUS_ANNOTATION in (pod.get("metadata", {}).get("annotations") or {})]
    specs = {json.dumps({"spec": pod["spec"]}, sort_keys=True) for pod in injected}
    return [json.loads(spec) for spec in sorted(specs)]


@pytest.mark.parametrize("version", ["1.29", "1.37"])
def test_injected_pods_satisfy_kubernetes_schemas_without_unknown_fields(version):
    pods = injected_pods()

    assert len(pods) > 30
    assert kubernetes_validate.validate({"apiVersion": "v1", "kind": "PodList", "items": pods}, version, strict=True)
