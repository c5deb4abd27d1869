"""
Whether a pod is to be injected at all, and why (not).

The pod's own label has the last word, then the namespace's. Nothing of ours stands in the way of the system:
pods on the host's network share it with others, and system namespaces are what a cluster runs on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sidestream.core.errors import cut
from sidestream.inject.options import INJECT_LABEL
from sidestream.inject.problems import Refused
from sidestream.inject.shape import part

SYSTEM_NAMESPACES = frozenset({"kube-system", "kube-public", "kube-node-lease", "sidestream-system"})
_MIRROR_ANNOTATION = "kubernetes.io/config.mirror"


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether to inject, and the reason, to be read after “injected: ” or “not injected: ”."""

    inject: bool
    reason: str


def wanted(pod: Mapping[str, Any], *, namespace: str, namespace_labels: Mapping[str, str]) -> Decision:
    """
    Decide whether `pod` (a Pod or a pod template), of `namespace`, is to be injected.

    Raises:
        Refused: its label is neither true nor false; to guess could leave it ungoverned.
    """
    if never := _never(pod, namespace):
        return Decision(inject=False, reason=never)
    own = part(part(pod, "metadata"), "labels").get(INJECT_LABEL)
    if own is not None:
        if own not in ("true", "false"):
            message = f"{cut(repr(own))} is neither true nor false, as text"
            raise Refused.because(f"metadata.labels[{INJECT_LABEL}]", message)
        return Decision(inject=own == "true", reason=f"the pod's label {INJECT_LABEL} is {own}")
    theirs = namespace_labels.get(INJECT_LABEL)
    if theirs is None:
        return Decision(inject=False, reason=f"neither pod nor namespace has the label {INJECT_LABEL}")
    return Decision(inject=theirs == "true", reason=f"the namespace's label {INJECT_LABEL} is {cut(str(theirs))}")


def _never(pod: Mapping[str, Any], namespace: str) -> str | None:
    """Return why `pod` can't be asked to be injected, whatever labels say."""
    spec = part(pod, "spec")
    if namespace in SYSTEM_NAMESPACES:
        return f"{namespace} is a namespace of the system"
    if spec.get("hostNetwork") is True:
        return "the pod is on its host's network, which is not the pod's to redirect"
    if _MIRROR_ANNOTATION in part(part(pod, "metadata"), "annotations"):
        return "the pod mirrors a static one, which is not to be changed"
    return "the pod runs on Windows" if _is_windows(spec) else None


def _is_windows(spec: Mapping[str, Any]) -> bool:
    named = part(spec, "os").get("name") or part(spec, "nodeSelector").get("kubernetes.io/os")
    return named == "windows"
