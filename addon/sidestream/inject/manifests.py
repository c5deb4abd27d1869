"""
Manifests with pods, as text: YAML in, YAML out.

A document in which nothing is injected stays as it was written, comments too.
"""

from dataclasses import dataclass

from sidestream.inject.deciding import wanted
from sidestream.inject.editing import edited
from sidestream.inject.injecting import patch
from sidestream.inject.options import INJECT_LABEL, Options
from sidestream.inject.patching import Operation, pointer
from sidestream.inject.problems import Refused
from sidestream.inject.workloads import PodOf, pods_in
from sidestream.policy.syntax import parse


@dataclass(frozen=True, slots=True)
class Injected:
    """A text after injection. `skipped`: what was left as it is, with the reason. `problems`: what was refused."""

    text: str
    skipped: tuple[str, ...]
    problems: tuple[str, ...]


def injected(text: str, options: Options, namespace: str = "default") -> Injected:
    """
    Return `text` with every pod of it injected that has no label against it. `namespace`: of what names none.

    Raises:
        NotYaml: the text can't be read.
    """
    documents = list(parse(text))
    if not documents:
        return Injected(text, (), ())
    starts = [document.start if index else 0 for index, document in enumerate(documents)]
    ends = [*starts[1:], len(text)]
    parts, skipped, problems = [], [], []
    for document, start, end in zip(documents, starts, ends, strict=True):
        part = text[start:end]
        operations = []
        for found in pods_in(document.content, namespace):
            try:
                decision = wanted(_pod(found), namespace=found.namespace, namespace_labels={INJECT_LABEL: "true"})
                if decision.inject:
                    operations += _moved(patch(_pod(found), options), found.path)
                else:
                    skipped.append(f"{found.title}: not injected: {decision.reason}")
            except Refused as e:
                problems += [
                    f"{found.title} {_field(found, problem.field)}: {problem.message}" for problem in e.problems
                ]
        parts.append(_rewritten(part, operations) if operations else part)
    return Injected("".join(parts), tuple(skipped), tuple(problems))


def _pod(found: PodOf) -> dict[str, object]:
    if not isinstance(found.pod, dict):
        raise Refused.because("", "is required, a mapping: the pod")
    return found.pod


def _field(found: PodOf, field: str) -> str:
    return ".".join(filter(None, (found.place, field)))


def _moved(operations: list[Operation], path: tuple[str | int, ...]) -> list[Operation]:
    root = ""
    for part in path:
        root = pointer(root, part)
    return [operation | {"path": root + operation["path"]} for operation in operations]


def _rewritten(part: str, operations: list[Operation]) -> str:
    return "---\n" * part.startswith("---") + edited(part, operations)
