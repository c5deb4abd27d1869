"""
Whether a value is made as a pod is, as far as injection reads it.

A manifest can hold anything, where an API server has looked already. A flag that is no flag is complained of, not
guessed at: `hostNetwork: "true"` must not be taken for either.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from sidestream.core.errors import cut
from sidestream.inject.problems import PodProblem

CONTAINER_LISTS = ("initContainers", "containers")
_LISTS_OF_CONTAINERS = ("env", "envFrom", "volumeMounts", "ports")
_FLAGS = ("hostNetwork", "hostPID", "shareProcessNamespace")


def shape_problems(pod: Mapping[str, Any]) -> list[PodProblem]:
    """Return where `pod` is not made as a pod is."""
    metadata, spec = pod.get("metadata"), pod.get("spec")
    problems = list(_metadata(metadata if metadata is not None else {}))
    return problems + list(_spec(spec) if isinstance(spec, dict) else [PodProblem("spec", "is required, a mapping")])


def each_container(pod: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every container of `pod`, whose shape is good, with its path."""
    for name in CONTAINER_LISTS:
        for index, container in enumerate(pod["spec"].get(name) or []):
            yield f"spec.{name}[{index}]", container


def part(whole: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a mapping in `whole`, empty if there is something else."""
    value = whole.get(name)
    return value if isinstance(value, Mapping) else {}


def parts(whole: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """Return a list of mappings in `whole`; what is something else counts as an empty one, so that places stay."""
    value = whole.get(name)
    return [item if isinstance(item, Mapping) else {} for item in value] if isinstance(value, list) else []


def _metadata(metadata: object) -> Iterator[PodProblem]:
    if not isinstance(metadata, dict):
        yield PodProblem("metadata", "must be a mapping")
        return
    for name in ("labels", "annotations"):
        texts = metadata.get(name) or {}
        if not isinstance(texts, dict):
            yield PodProblem(f"metadata.{name}", "must be a mapping")
            continue
        for key, text in texts.items():
            if not (isinstance(key, str) and isinstance(text, str)):
                yield PodProblem(f"metadata.{name}[{cut(str(key))}]", "must be text: put it in quotes")


def _spec(spec: Mapping[str, Any]) -> Iterator[PodProblem]:
    for name in _FLAGS:
        if not isinstance(spec.get(name), bool | None):
            yield PodProblem(f"spec.{name}", "must be true or false, without quotes")
    grace = spec.get("terminationGracePeriodSeconds")
    if not isinstance(grace, int | None):
        yield PodProblem("spec.terminationGracePeriodSeconds", "must be a number, without quotes")
    if not spec.get("containers"):
        yield PodProblem("spec.containers", "is required, a list of at least one container")
    yield from _context("spec", spec)
    yield from _list("spec", spec, "volumes")
    for name in CONTAINER_LISTS:
        yield from _list("spec", spec, name)
        containers = spec.get(name)
        for index, container in enumerate(containers if isinstance(containers, list) else []):
            if isinstance(container, dict):
                yield from _container(f"spec.{name}[{index}]", container)


def _container(path: str, container: Mapping[str, Any]) -> Iterator[PodProblem]:
    if not isinstance(container.get("name"), str):
        yield PodProblem(f"{path}.name", "is required, as text")
    yield from _context(path, container)
    for name in _LISTS_OF_CONTAINERS:
        yield from _list(path, container, name)


def _context(path: str, part: Mapping[str, Any]) -> Iterator[PodProblem]:
    context = part.get("securityContext") or {}
    if not isinstance(context, dict):
        yield PodProblem(f"{path}.securityContext", "must be a mapping")
    elif not isinstance(context.get("runAsUser"), int | None):
        yield PodProblem(f"{path}.securityContext.runAsUser", "must be a number, without quotes")


def _list(path: str, part: Mapping[str, Any], name: str) -> Iterator[PodProblem]:
    items = part.get(name)
    if not isinstance(items, list | None) or not all(isinstance(item, dict) for item in items or []):
        yield PodProblem(f"{path}.{name}", "must be a list of mappings")
