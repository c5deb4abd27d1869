"""
An API server that knows which kinds there are, and has no objects.

`kubectl apply --dry-run=client` asks a server only for that: what it is to make of a kind, and
whether the object is there already. It shows nothing of validation or admission.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CLUSTER_WIDE = {
    "Namespace",
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "MutatingWebhookConfiguration",
    "ValidatingWebhookConfiguration",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
}
KINDS = {
    "v1": ["ConfigMap", "Namespace", "Pod", "Secret", "Service", "ServiceAccount"],
    "apps/v1": ["Deployment"],
    "policy/v1": ["PodDisruptionBudget"],
    "networking.k8s.io/v1": ["NetworkPolicy"],
    "rbac.authorization.k8s.io/v1": ["Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"],
    "apiextensions.k8s.io/v1": ["CustomResourceDefinition"],
    "admissionregistration.k8s.io/v1": [
        "MutatingWebhookConfiguration",
        "ValidatingWebhookConfiguration",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
    ],
    "istio.alibabacloud.com/v1beta1": ["LLMProvider", "LLMRoute"],
}


@contextmanager
def discovery() -> Iterator[str]:
    """Serve discovery on loopback, and yield its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        found = _answer(self.path.partition("?")[0])
        missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
        body = json.dumps(missing if found is None else found).encode()
        self.send_response(404 if found is None else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def _answer(path: str) -> dict[str, Any] | None:
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(name) for name in KINDS if "/" in name]}
    version = path.removeprefix("/apis/").removeprefix("/api/")
    return _resources(version) if version in KINDS and version != path else None


def _group(version: str) -> dict[str, Any]:
    group, _, name = version.partition("/")
    served = {"groupVersion": version, "version": name}
    return {"name": group, "versions": [served], "preferredVersion": served}


def _resources(version: str) -> dict[str, Any]:
    resources = [
        {
            "name": f"{kind.lower()}s" if not kind.endswith("y") else f"{kind.lower()[:-1]}ies",
            "singularName": kind.lower(),
            "kind": kind,
            "namespaced": kind not in CLUSTER_WIDE,
            "verbs": ["create", "get", "list", "patch", "watch"],
        }
        for kind in KINDS[version]
    ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources}
