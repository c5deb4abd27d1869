"""
The objects of the Kubernetes API that matter here: where they are, and what they say.

An object is the JSON that the API server sent, decoded. Nothing of it is taken for granted
but what the API promises: a name, and a resourceVersion that is compared for being the same only.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sidestream.policy.documents import API_GROUP, API_VERSION
from sidestream.policy.places import Text

type Object = Mapping[str, Any]
"""An object of the API as decoded JSON."""

type Key = tuple[str, str]
"""Namespace and name."""

NO_FOLDER = Path("/sidestream-has-no-files-here")
"""Where documents of the API stand: in no folder, so that a file they name is in none either."""


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of object, and where the API has it. `group` is empty for the core API."""

    kind: str
    group: str
    version: str
    plural: str

    @property
    def api_version(self) -> str:
        """What objects call the API that they are of."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """Return the path of the collection, of one object, or of a part of it."""
        start = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        parts = [start]
        if namespace:
            parts += ["namespaces", quote(namespace, safe="")]
        parts += [part for part in (self.plural, quote(name, safe=""), subresource) if part]
        return "/".join(parts)


@dataclass(frozen=True, slots=True)
class Listed:
    """All objects of a resource that there are."""

    resource: Resource
    items: tuple[Object, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Changed:
    """An object that is new, was changed or was deleted."""

    resource: Resource
    content: Object = field(repr=False)
    deleted: bool = False


type Event = Listed | Changed


_VERSION = API_VERSION.partition("/")[2]

PROVIDERS = Resource("LLMProvider", API_GROUP, _VERSION, "llmproviders")
ROUTES = Resource("LLMRoute", API_GROUP, _VERSION, "llmroutes")
SECRETS = Resource("Secret", "", "v1", "secrets")
NAMESPACES = Resource("Namespace", "", "v1", "namespaces")
PODS = Resource("Pod", "", "v1", "pods")
LEASES = Resource("Lease", "coordination.k8s.io", "v1", "leases")
MUTATING = Resource(
    "MutatingWebhookConfiguration", "admissionregistration.k8s.io", "v1", "mutatingwebhookconfigurations"
)
VALIDATING = Resource(
    "ValidatingWebhookConfiguration", "admissionregistration.k8s.io", "v1", "validatingwebhookconfigurations"
)

TYPES_OF_NO_KEYS = (
    "kubernetes.io/service-account-token",
    "helm.sh/release.v1",
    "kubernetes.io/dockerconfigjson",
    "kubernetes.io/tls",
)
"""The types of Secrets that no policy may have: they are for other ends."""

NOT_KEYS = ",".join(f"type!={name}" for name in TYPES_OF_NO_KEYS)
"""The same as a field selector, so that they are not even looked at."""


def key_of(content: Object) -> Key:
    """Return the namespace and name of an object."""
    metadata = content["metadata"]
    return metadata.get("namespace") or "", metadata["name"]


def version_of(content: Object) -> str:
    """Return the resourceVersion of an object or a list."""
    return str((content.get("metadata") or {}).get("resourceVersion") or "")


def document_of(resource: Resource, content: Object) -> dict[str, Any]:
    """Return what a policy document says: without what the API server and others wrote to it."""
    namespace, name = key_of(content)
    metadata = {"name": name, "namespace": namespace}
    return {
        "apiVersion": content.get("apiVersion") or resource.api_version,
        "kind": content.get("kind") or resource.kind,
        "metadata": metadata,
        "spec": content.get("spec"),
    }


def title_of(document: Object) -> str:
    """Return what a document is called in problems: kind and namespace/name."""
    metadata = document["metadata"]
    return f"{document['kind']} {metadata['namespace']}/{metadata['name']}"


def text_of(document: Object, folder: Path = NO_FOLDER) -> Text:
    """Return a document as a text to compile, called by its title. JSON is YAML, and says exactly what it says."""
    return Text(title_of(document), folder, json.dumps(document).encode())


def keys_of(secret: Object) -> dict[str, str]:
    """Return the texts that a Secret holds: key → text. What is no text is left out."""
    texts = {}
    for name, encoded in (secret.get("data") or {}).items():
        try:
            texts[name] = base64.b64decode(encoded, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError, TypeError, ValueError):
            continue
    return texts
