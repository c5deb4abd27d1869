"""
What the webhooks answer: from an AdmissionReview to another. Pure.

A document that does not compile is refused, in the words of `sidestream validate`. What it refers to may come later,
since nobody says in which order things are applied: that is a warning here, and the status tells when it is there.

Source: Kubernetes, "Dynamic Admission Control", `admission.k8s.io/v1`.
"""

import base64
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from sidestream.control.bundling import Entry, host_of
from sidestream.core.errors import cut
from sidestream.core.snapshot import Labels
from sidestream.inject.deciding import wanted
from sidestream.inject.injecting import patch
from sidestream.inject.options import INJECT_LABEL, Options
from sidestream.inject.problems import Refused
from sidestream.policy.compiling import compile_policy
from sidestream.policy.problems import Problem, Severity
from sidestream.sources.kubernetes.keys import FromSecrets, Secrets
from sidestream.sources.kubernetes.objects import PROVIDERS, ROUTES, document_of, text_of, title_of

API_VERSION = "admission.k8s.io/v1"

type Known = Callable[[str], tuple[list[Entry], Secrets]]
"""The documents of a namespace and the Secrets that they name."""

_RESOURCES = {resource.kind: resource for resource in (PROVIDERS, ROUTES)}
_UNPROCESSABLE = 422


class NoReview(ValueError):
    """What was sent is no AdmissionReview that can be answered."""


def validated(review: object, known: Known) -> dict[str, Any]:
    """
    Answer whether a document may be written.

    Raises:
        NoReview: there is none in `review`.
    """
    request = _request(review)
    content = request["object"]
    resource = _RESOURCES.get(str(content.get("kind")))
    before = request.get("oldObject")
    # What says the same as before is no worse: to refuse it would keep finalizers, and so the document, from going.
    if resource is None or (isinstance(before, dict) and before.get("spec") == content.get("spec")):
        return _answer(request, allowed=True)
    namespace = str(request.get("namespace") or "default")
    document = document_of(resource, {**content, "metadata": {**content["metadata"], "namespace": namespace}})
    entries, secrets = known(namespace)
    title, host = title_of(document), host_of(document)
    others = [entry.document for entry in entries if title_of(entry.document) != title]
    rivals = [other for other in others if host and (other["kind"], host_of(other)) == (document["kind"], host)]
    texts = [text_of(document), *(text_of(other) for other in others if other not in rivals)]
    compilation = compile_policy(texts, FromSecrets(secrets), missing_key=Severity.WARNING)
    problems = [problem for problem in compilation.problems if problem.file == title]
    # Who comes later is at fault here; compiling would blame one of the two by name.
    for rival in rivals:
        message = f"host {host!r} is that of {title_of(rival)}: keep one of them"
        problems.append(Problem(title, 1, title, "spec.host", message))
    errors = [problem for problem in problems if _refuses(problem)]
    warnings = [problem for problem in problems if not _refuses(problem)]
    message = "\n".join(_said(problem) for problem in errors)
    return _answer(request, allowed=not errors, message=message, warnings=map(_said, warnings))


def injected(review: object, options: Options, bundle_for: Callable[[str, Labels], str]) -> dict[str, Any]:
    """
    Answer how a pod is to be changed.

    `bundle_for`: which bundle a pod of a namespace mounts, by its labels. The API server has looked at the labels
    of the namespace already: that of the pod has the last word.

    Raises:
        NoReview: there is no pod in `review`.
    """
    request = _request(review)
    pod = request["object"]
    namespace = str(request.get("namespace") or "default")
    try:
        if not wanted(pod, namespace=namespace, namespace_labels={INJECT_LABEL: "true"}).inject:
            return _answer(request, allowed=True)
        metadata = pod.get("metadata") or {}
        bundle = bundle_for(namespace, metadata.get("labels") or {})
        operations = patch(pod, replace(options, policy_secret=bundle))
    except Refused as e:
        return _answer(request, allowed=False, message=str(e))
    return _answer(request, allowed=True, operations=operations)


def _request(review: object) -> dict[str, Any]:
    request = review.get("request") if isinstance(review, dict) else None
    if not isinstance(review, dict) or review.get("apiVersion") != API_VERSION or not isinstance(request, dict):
        raise NoReview(f"only an AdmissionReview of {API_VERSION} with a request is answered")
    content = request.get("object")
    if "uid" not in request or not isinstance(content, dict) or not isinstance(content.get("metadata"), dict):
        raise NoReview("the request has no uid, or no object")
    return request


def _answer(
    request: Mapping[str, Any],
    *,
    allowed: bool,
    message: str = "",
    warnings: Iterable[str] = (),
    operations: object = None,
) -> dict[str, Any]:
    response: dict[str, Any] = {"uid": request["uid"], "allowed": allowed}
    if message:
        response["status"] = {"code": _UNPROCESSABLE, "message": message}
    if told := list(warnings):
        response["warnings"] = told
    if operations:
        response |= {"patchType": "JSONPatch", "patch": base64.b64encode(json.dumps(operations).encode()).decode()}
    return {"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response}


def _refuses(problem: Problem) -> bool:
    may_come_later = problem.field.endswith((".providerHost", ".backendRef.name"))
    return problem.severity is Severity.ERROR and not may_come_later


def _said(problem: Problem) -> str:
    return cut(f"{problem.document} {problem.field}: {problem.message}")
