"""
Injection: from a pod and options to a pod with the sidecar in it.

Where the cluster knows native sidecars, the order is: redirect, sidecar, the pod's own init containers, apps; each
waits for the one before it, so that nobody's connections are redirected while nobody listens, and init containers are
governed, too. Elsewhere a sidecar can't run before init containers end: the redirection comes after them, and the
sidecar is the first of the containers, which Kubernetes starts one after the other.

An app's container is changed only where TLS is intercepted: `env` and `volumeMounts` get what `trust` says.
"""

from typing import Any

from sidestream.inject import annotations, containers
from sidestream.inject.options import STATUS_ANNOTATION, Options
from sidestream.inject.patching import Operation, difference
from sidestream.inject.problems import Refused
from sidestream.inject.refusing import pod_problems
from sidestream.inject.shape import CONTAINER_LISTS, shape_problems
from sidestream.inject.status import DEFAULT_CONTAINER, Added, without_ours
from sidestream.inject.trust import trusting


def inject(pod: dict[str, Any], options: Options) -> dict[str, Any]:
    """
    Return `pod` (a Pod or a pod template) with the sidecar in it. What was injected before is replaced.

    Raises:
        Refused: it can't be injected; all reasons are named.
    """
    if problems := shape_problems(pod):
        raise Refused(problems)
    injected = without_ours(pod)
    noted = dict((injected.get("metadata") or {}).get("annotations") or {})
    options, problems = annotations.overlaid(options, noted)
    problems += pod_problems(injected, options)
    if problems:
        raise Refused(problems)
    spec = injected["spec"]
    environment = _trust(spec, options)
    added = containers.volumes(options)
    spec["volumes"] = [*(spec.get("volumes") or []), *added]
    is_first_of_apps = not options.native_sidecar and DEFAULT_CONTAINER not in noted
    if is_first_of_apps:
        noted[DEFAULT_CONTAINER] = spec["containers"][0]["name"]
    _place(spec, options)
    names = tuple(volume["name"] for volume in added)
    noted[STATUS_ANNOTATION] = Added(options.version, names, environment, is_first_of_apps).note()
    injected["metadata"] = (injected.get("metadata") or {}) | {"annotations": noted}
    return injected


def patch(pod: dict[str, Any], options: Options) -> list[Operation]:
    """
    Return what `inject` changes, as operations of JSON Patch (RFC 6902).

    Raises:
        Refused: the pod can't be injected; all reasons are named.
    """
    return difference(pod, inject(pod, options))


def _trust(spec: dict[str, Any], options: Options) -> dict[str, list[str]]:
    """Let the apps trust our CA; return which variables that has set in which container."""
    set_variables = {}
    if options.intercept_tls:
        for name in CONTAINER_LISTS if options.native_sidecar else ("containers",):
            for index, container in enumerate(spec.get(name) or []):
                spec[name][index], variables = trusting(container)
                if variables:
                    set_variables[container["name"]] = variables
    return set_variables


def _place(spec: dict[str, Any], options: Options) -> None:
    init = containers.init_container(options)
    sidecar = containers.sidecar(options, spec.get("terminationGracePeriodSeconds"))
    own = spec.get("initContainers") or []
    if options.native_sidecar:
        spec["initContainers"] = [init, sidecar, *own]
    else:
        spec["initContainers"] = [*own, init]
        spec["containers"] = [sidecar, *spec["containers"]]
