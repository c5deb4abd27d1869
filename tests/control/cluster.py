"""
Objects of a cluster as a test writes them, and bundles as a sidecar reads them.
"""

import base64
import copy
import json
from pathlib import Path

import yaml

from sidestream.control.bundling import Bundling, Entry, bundle
from sidestream.core.snapshot import Provider, Snapshot
from sidestream.sources.folder import Folder
from sidestream.sources.kubernetes.objects import PROVIDERS, ROUTES, Resource, document_of
from tests.policy.written import provider, route

MARKER = "sk-marker-cluster-5d20f7"
FROM_SECRET = "apiKeyFrom: {secretKeyRef: {name: keys, key: alpha}}"


def keyed(host: str = "api.alpha.example", key: str = FROM_SECRET, more: str = "", **names: str) -> dict:
    """An LLMProvider whose key is `key`; `more`: other fields of its spec."""
    return from_yaml(
        provider(f"host: {host}\n{more}\nconfigs: {{defaultConfig: {{openAIConfig: {{{key}}}}}}}", **names)
    )


def to(host: str, *providers: str, **names: str) -> dict:
    """An LLMRoute for `host` to the hosts of `providers`."""
    refs = ", ".join(f"{{providerHost: {provider}}}" for provider in providers)
    return from_yaml(route(f"host: {host}\nrules: [{{name: all, backendRefs: [{refs}]}}]", **names))


def from_yaml(text: str) -> dict:
    return yaml.safe_load(text)


def resource_of(document: dict) -> Resource:
    return {"LLMProvider": PROVIDERS, "LLMRoute": ROUTES}[document["kind"]]


def stored(document: dict, *, generation: int = 1, created: str = "2026-11-25T00:00:00Z", version: int = 1) -> dict:
    """A document as the API server sends it."""
    stored = copy.deepcopy(document)
    name = stored["metadata"]["name"]
    stored["metadata"] |= {
        "generation": generation,
        "creationTimestamp": created,
        "uid": f"uid-{name}",
        "resourceVersion": str(version),
    }
    return stored


def secret(name: str = "keys", *, namespace: str = "default", version: int = 1, **texts: str) -> dict:
    """A Secret as the API server sends it. Its default text is `alpha`, the marker."""
    texts = texts or {"alpha": MARKER}
    data = {key: base64.b64encode(text.encode()).decode() for key, text in texts.items()}
    metadata = {"name": name, "namespace": namespace, "resourceVersion": str(version)}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}


def bundled(
    *documents: dict, secrets: dict | None = None, before: Bundling | None = None, ages: tuple = ()
) -> Bundling:
    """Bundle documents of one namespace. `ages`: their creationTimestamps."""
    created = [*ages, *[""] * len(documents)]
    entries = [
        Entry(document_of(resource_of(document), document), when)
        for document, when in zip(documents, created, strict=False)
    ]
    secrets = {"keys": {"alpha": MARKER, "beta": "sk-beta"}} if secrets is None else secrets
    return bundle(entries, secrets, before.bundles if before else ())


def files(made: Bundling, name: str = "sidestream-policy") -> dict[str, bytes]:
    (found,) = (part for part in made.bundles if part.name == name)
    return dict(found.files)


def mounted(folder: Path, contents: dict[str, bytes], labels: dict | None = None) -> Snapshot:
    """What a sidecar with `labels` makes of a bundle that is mounted at `folder`."""
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return Folder(folder, {}).read().compilation.require().for_workload(labels or {})


def key_for(snapshot: Snapshot, host: str = "api.alpha.example") -> str | None:
    policy = snapshot.hosts[host]
    assert isinstance(policy, Provider)
    return policy.config.key and policy.config.key.reveal()


def everything(made: Bundling) -> str:
    """All that is told of a bundling, without the files."""
    return repr(made) + json.dumps({title: str(verdict) for title, verdict in made.verdicts.items()})
