"""
Where the pods are in a manifest.

Whatever makes pods holds a pod template somewhere; a List holds manifests. Kinds of other API groups are none of
these, whatever they are called.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sidestream.core.errors import cut

_TEMPLATE = ("spec", "template")
_APPS = frozenset({"apps", "extensions"})
POD_PATHS: dict[tuple[str, str], tuple[str, ...]] = {
    ("", "Pod"): (),
    ("", "ReplicationController"): _TEMPLATE,
    **{(group, kind): _TEMPLATE for group in _APPS for kind in ("Deployment", "ReplicaSet", "DaemonSet")},
    ("apps", "StatefulSet"): _TEMPLATE,
    ("batch", "Job"): _TEMPLATE,
    ("batch", "CronJob"): ("spec", "jobTemplate", *_TEMPLATE),
}
"""API group and kind → where its pod template is."""
MAX_NESTED_LISTS = 10
KINDS = tuple(dict.fromkeys(kind for _, kind in POD_PATHS))


@dataclass(frozen=True, slots=True)
class PodOf:
    """A pod, or the template of one: `title` names what makes it, `path` leads to it, `place` is that path as text."""

    title: str
    namespace: str
    path: tuple[str | int, ...]
    pod: object

    @property
    def place(self) -> str:
        """The path, as it stands before the path of a field of the pod; empty for a pod itself."""
        parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.path]
        return "".join(parts).removeprefix(".")


def pods_in(document: object, default_namespace: str, depth: int = MAX_NESTED_LISTS) -> Iterator[PodOf]:
    """Yield every pod and pod template of `document`, in order."""
    if not isinstance(document, Mapping):
        return
    kind, group = document.get("kind"), str(document.get("apiVersion")).rpartition("/")[0]
    if kind == "List" and group == "" and depth:
        items = document.get("items")
        for index, item in enumerate(items if isinstance(items, list) else []):
            for found in pods_in(item, default_namespace, depth - 1):
                yield PodOf(found.title, found.namespace, ("items", index, *found.path), found.pod)
        return
    path = POD_PATHS.get((group, str(kind)))
    if path is None:
        return
    metadata = document.get("metadata")
    metadata = metadata if isinstance(metadata, Mapping) else {}
    namespace = str(metadata.get("namespace") or default_namespace)
    name = metadata.get("name") or metadata.get("generateName") or "?"
    part: Any = document
    for key in path:
        part = part.get(key) if isinstance(part, Mapping) else None
    yield PodOf(cut(f"{kind} {namespace}/{name}"), namespace, path, part)
