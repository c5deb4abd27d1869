"""
What keeps a pod from being injected: what would undo what injection is for.

That is: an app that the redirection lets through, an app that could read the sidecar's keys, and names or ports
that are the sidecar's.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sidestream.inject.options import ADMIN_PORT, INIT_CONTAINER, PROXY_PORT, SIDECAR, TRUST_FOLDER, UID, Options
from sidestream.inject.problems import PodProblem
from sidestream.inject.shape import each_container, part, parts

OUR_PREFIX = "sidestream-"
"""What the names of our volumes begin with, and of Secrets with policies (those of other pods, too) or their keys."""

type _Found = Iterator[tuple[str, str]]
"""Paths and what is wrong there."""


def pod_problems(pod: Mapping[str, Any], options: Options) -> list[PodProblem]:
    """Return why `pod`, which has a pod's shape and nothing of ours, can't be injected."""
    found = [*_identity(pod), *_sight(pod, options), *_names(pod), *_ports(pod), *_trust(pod, options)]
    return [PodProblem(path, message) for path, message in [*found, *_end(pod, options)]]


def _identity(pod: Mapping[str, Any]) -> _Found:
    message = f"{UID} is the sidecar's user, whose traffic is not redirected: choose another"
    for path, whose in (("spec", pod["spec"]), *each_container(pod)):
        if part(whose, "securityContext").get("runAsUser") == UID:
            yield f"{path}.securityContext.runAsUser", message


def _sight(pod: Mapping[str, Any], options: Options) -> _Found:
    spec = pod["spec"]
    if spec.get("hostNetwork"):
        yield "spec.hostNetwork", "the network is the host's, not the pod's to redirect: leave it out"
    for name in ("hostPID", "shareProcessNamespace"):
        if spec.get(name):
            yield f"spec.{name}", "the app's processes would see the sidecar's, and could read its keys: leave it out"
    for index, volume in enumerate(parts(spec, "volumes")):
        secrets = [part(source, "secret") for source in (volume, *parts(part(volume, "projected"), "sources"))]
        named = [secret.get("secretName") or secret.get("name") for secret in secrets]
        yield from _keys(f"spec.volumes[{index}]", named, options)
    for path, container in each_container(pod):
        for index, variable in enumerate(parts(container, "env")):
            named = [part(part(variable, "valueFrom"), "secretKeyRef").get("name")]
            yield from _keys(f"{path}.env[{index}]", named, options)
        for index, variables in enumerate(parts(container, "envFrom")):
            yield from _keys(f"{path}.envFrom[{index}]", [part(variables, "secretRef").get("name")], options)


def _keys(path: str, named: Iterable[object], options: Options) -> _Found:
    for name in named:
        if name == options.policy_secret or str(name).startswith(OUR_PREFIX):
            yield path, f"the Secret {name} holds keys that apps are not to read: leave it out"


def _names(pod: Mapping[str, Any]) -> _Found:
    for path, container in each_container(pod):
        if container["name"] in (SIDECAR, INIT_CONTAINER):
            yield f"{path}.name", f"{container['name']} is the name of a container of ours: choose another"
        for index, mount in enumerate(parts(container, "volumeMounts")):
            # The API server looks whether a pod has what it mounts only after the webhook, which adds it.
            if str(mount.get("name")).startswith(OUR_PREFIX):
                message = f"the volume {mount['name']} is not for apps, it may hold keys: leave it out"
                yield f"{path}.volumeMounts[{index}].name", message
    for index, volume in enumerate(parts(pod["spec"], "volumes")):
        if str(volume.get("name")).startswith(OUR_PREFIX):
            yield f"spec.volumes[{index}].name", f"names that begin with {OUR_PREFIX} are ours: choose another"


def _ports(pod: Mapping[str, Any]) -> _Found:
    for path, container in each_container(pod):
        for index, port in enumerate(parts(container, "ports")):
            if port.get("containerPort") in (PROXY_PORT, ADMIN_PORT):
                taken = f"{port['containerPort']} is a port of the sidecar's: listen at another"
                yield f"{path}.ports[{index}].containerPort", taken


def _trust(pod: Mapping[str, Any], options: Options) -> _Found:
    if not options.intercept_tls:
        return
    for path, container in each_container(pod):
        for index, mount in enumerate(parts(container, "volumeMounts")):
            if str(mount.get("mountPath")).rstrip("/") == TRUST_FOLDER:
                yield f"{path}.volumeMounts[{index}].mountPath", f"{TRUST_FOLDER} is ours: choose another"


def _end(pod: Mapping[str, Any], options: Options) -> _Found:
    restarts = pod["spec"].get("restartPolicy") or "Always"
    if not options.native_sidecar and restarts != "Always":
        message = "the pod is to end, but a sidecar that is none of Kubernetes' own would not"
        yield "spec.restartPolicy", message
