"""
The sidecar as a kustomize component, for manifests that kustomize builds.

Its patches are what `injecting` adds to a pod of which nothing is known. So they hold what does not depend on the
pod: no annotation is read, nothing is refused, and apps are not told of the CA, whose names a patch would have to know.
kustomize puts the init containers of a patch before a pod's own, as injecting does.
"""

from typing import Any

import yaml

from sidestream.inject.injecting import inject
from sidestream.inject.options import INJECT_LABEL, Options
from sidestream.inject.problems import Refused
from sidestream.inject.workloads import POD_PATHS

_NOT_OPTED_OUT = f"{INJECT_LABEL}!=false"
_NAMES = ("pod.yaml", "workload.yaml", "cron-job.yaml")
"""Files of patches, by how deep the pod's template is in what makes the pod: in none, in a spec, in two."""


def component(options: Options) -> dict[str, str]:
    """
    Return the files of the component: name → text.

    Raises:
        Refused: the options need what a patch can't do.
    """
    if options.intercept_tls or not options.native_sidecar:
        message = "a component can neither tell apps of the CA nor hold them back: use the webhook or sidestream inject"
        raise Refused.because("intercept-tls, no-native-sidecar", message)
    files: dict[str, str] = {}
    patches = []
    for (group, kind), path in POD_PATHS.items():
        if group != "extensions":
            name = _NAMES[path.count("spec")]
            files.setdefault(name, _written(_patch(kind, group, path, options)))
            patches.append({"path": name, "target": {"kind": kind, "labelSelector": _NOT_OPTED_OUT}})
    kustomization = {"apiVersion": "kustomize.config.k8s.io/v1alpha1", "kind": "Component", "patches": patches}
    return {"kustomization.yaml": _written(kustomization), **files}


def _patch(kind: str, group: str, path: tuple[str, ...], options: Options) -> dict[str, Any]:
    """Return the difference to a pod of which nothing is known, as a strategic merge patch."""
    injected = inject({"spec": {"containers": [{"name": "app"}]}}, options)
    del injected["spec"]["containers"]
    part: dict[str, Any] = {"metadata": injected["metadata"], "spec": injected["spec"]}
    for name in reversed(path):
        part = {name: part}
    names = {"apiVersion": f"{group}/v1".removeprefix("/"), "kind": kind}
    metadata = {"name": "any", **part.pop("metadata", {})}
    return {**names, "metadata": metadata, **part}


class _Dumper(yaml.SafeDumper):
    """Writes everything out, without anchors."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 its signature
        return True


def _written(content: dict[str, Any]) -> str:
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=120)
