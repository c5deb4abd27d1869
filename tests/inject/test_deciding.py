"""Whether a pod is injected at all."""

import pytest

from sidestream.inject.deciding import SYSTEM_NAMESPACES, wanted
from sidestream.inject.options import INJECT_LABEL
from sidestream.inject.problems import Refused
from tests.inject.pods import pod

ON, OFF, NOT_SAID = {INJECT_LABEL: "true"}, {INJECT_LABEL: "false"}, {}


@pytest.mark.parametrize(
    ("own", "of_namespace", "inject"),
    [
        (NOT_SAID, NOT_SAID, False),
        (NOT_SAID, ON, True),
        (NOT_SAID, OFF, False),
        (ON, NOT_SAID, True),
        (ON, OFF, True),
        (OFF, ON, False),
        (OFF, NOT_SAID, False),
    ],
)
def test_the_pods_label_has_the_last_word_then_the_namespaces(own, of_namespace, inject):
    decision = wanted(pod(labels=own), namespace="shop", namespace_labels=of_namespace)

    assert decision.inject is inject
    assert ("pod's" if own else "namespace's" if of_namespace else "neither") in decision.reason


@pytest.mark.parametrize("namespace", sorted(SYSTEM_NAMESPACES))
def test_nothing_is_injected_in_a_namespace_of_the_system(namespace):
    decision = wanted(pod(labels=ON), namespace=namespace, namespace_labels=ON)

    assert not decision.inject
    assert namespace in decision.reason


@pytest.mark.parametrize(
    "spec", [{"hostNetwork": True}, {"os": {"name": "windows"}}, {"nodeSelector": {"kubernetes.io/os": "windows"}}]
)
def test_a_pod_that_can_not_be_redirected_is_left_alone(spec):
    assert not wanted(pod(labels=ON, **spec), namespace="shop", namespace_labels=ON).inject


def test_a_label_that_says_neither_is_refused():
    with pytest.raises(Refused, match=r"metadata\.labels\[sidestream\.dev/inject\]: 'yes' is neither true nor false"):
        wanted(pod(labels={INJECT_LABEL: "yes"}), namespace="shop", namespace_labels=ON)


def test_a_namespaces_label_that_says_neither_is_no_yes():
    decision = wanted(pod(), namespace="shop", namespace_labels={INJECT_LABEL: "yes"})

    assert (decision.inject, "yes" in decision.reason) == (False, True)
