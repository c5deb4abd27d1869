"""
The note that an injection leaves in a pod, of all that it added, and its undoing.

Injecting begins with taking out what the last injection put in, whichever version it was. The note is the pod's, so
it is believed only as far as names go that are ours.
"""

import copy
import functools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sidestream.inject.options import INIT_CONTAINER, SIDECAR, STATUS_ANNOTATION
from sidestream.inject.refusing import OUR_PREFIX
from sidestream.inject.shape import CONTAINER_LISTS, each_container

DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"
_OUR_FOLDER = "/etc/sidestream/"


@dataclass(frozen=True, slots=True)
class Added:
    """What was added. `environment`: container → variables."""

    version: str = ""
    volumes: tuple[str, ...] = ()
    environment: dict[str, list[str]] = field(default_factory=dict)
    default_container: bool = False

    def note(self) -> str:
        """Return it as the annotation holds it."""
        parts: dict[str, Any] = {"version": self.version, "volumes": list(self.volumes)}
        if self.environment:
            parts["environment"] = self.environment
        if self.default_container:
            parts["defaultContainer"] = True
        return json.dumps(parts, separators=(",", ":"))


def without_ours(pod: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of `pod`, which has a pod's shape, without what was injected."""
    pod = copy.deepcopy(pod)
    annotations = (pod.get("metadata") or {}).get("annotations") or {}
    if STATUS_ANNOTATION not in annotations:
        return pod
    noted = _read(annotations.pop(STATUS_ANNOTATION))
    if noted.default_container:
        annotations.pop(DEFAULT_CONTAINER, None)
    if not annotations:
        del pod["metadata"]["annotations"]
    spec = pod["spec"]
    for name in CONTAINER_LISTS:
        _keep(spec, name, lambda container: container["name"] not in (SIDECAR, INIT_CONTAINER))
    _keep(spec, "volumes", lambda volume: volume.get("name") not in noted.volumes)
    for _, container in each_container(pod):
        variables = frozenset(noted.environment.get(container["name"], []))
        _keep(container, "env", functools.partial(_is_own_variable, variables))
        _keep(container, "volumeMounts", lambda mount: mount.get("name") not in noted.volumes)
    return pod


def _is_own_variable(ours: frozenset[str], variable: dict[str, Any]) -> bool:
    """Tell whether a variable is the app's: also one that we set and that was changed since."""
    return variable.get("name") not in ours or _OUR_FOLDER not in str(variable.get("value"))


def _keep(part: dict[str, Any], name: str, is_theirs: Callable[[dict[str, Any]], bool]) -> None:
    """Keep what is theirs of a list; a list that held only ours goes, as it was not there before."""
    items = part.get(name) or []
    theirs = [item for item in items if is_theirs(item)]
    if len(theirs) == len(items):
        return
    part[name] = theirs
    if not theirs:
        del part[name]


def _read(note: str) -> Added:
    try:
        parts = json.loads(note)
    except ValueError:
        parts = None
    if not isinstance(parts, dict):
        parts = {}
    volumes, environment = parts.get("volumes"), parts.get("environment")
    return Added(
        volumes=tuple(name for name in _texts(volumes) if name.startswith(OUR_PREFIX)),
        environment={name: _texts(of) for name, of in environment.items()} if isinstance(environment, dict) else {},
        default_container=parts.get("defaultContainer") is True,
    )


def _texts(value: object) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
