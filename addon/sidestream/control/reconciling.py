"""
What the control plane knows of the cluster, and what is to be done about it.

Sans-io: it is told what was listed and what changed, and says which calls to make. Each namespace
is looked at by itself, when something in it changed.

Of Secrets it keeps those that a document names and the bundles, and forgets all others at once.
"""

import base64
import binascii
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sidestream.control.bundling import Bundle, Bundling, Entry, bundle
from sidestream.control.conditions import Status, says_the_same, status_for
from sidestream.control.files import named_secrets
from sidestream.control.selecting import (
    BUNDLE,
    Selector,
    bundle_for,
    bundle_name,
    is_bundle_name,
    parse_selection,
    selections,
    selector_of,
    written,
)
from sidestream.core.snapshot import Labels
from sidestream.sources.kubernetes.keys import Secrets
from sidestream.sources.kubernetes.objects import (
    NAMESPACES,
    PROVIDERS,
    ROUTES,
    SECRETS,
    TYPES_OF_NO_KEYS,
    Changed,
    Event,
    Key,
    Listed,
    Object,
    Resource,
    document_of,
    key_of,
    keys_of,
    title_of,
    version_of,
)

BUNDLE_LABELS = {"app.kubernetes.io/managed-by": "sidestream-controller", "sidestream.dev/bundle": "true"}
SELECTORS_ANNOTATION = "sidestream.dev/selectors"
"""Where a bundle notes the selectors that it is for."""

MAX_OWN_VERSIONS = 100
"""How many resourceVersions of our own writes are remembered, so that their echo is no news."""


@dataclass(frozen=True, slots=True)
class WriteBundle:
    """Create the Secret of a bundle, or replace the one that has `version`."""

    namespace: str
    name: str
    content: dict[str, Any] = field(repr=False)
    version: str = ""


@dataclass(frozen=True, slots=True)
class WriteStatus:
    """Write the status of a document."""

    resource: Resource
    namespace: str
    name: str
    status: Status


type Step = WriteBundle | WriteStatus


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done for a namespace, in this order, and what a person is to be told: document → message."""

    steps: tuple[Step, ...]
    notices: Mapping[str, str]


class Reconciler:
    """
    Knows the documents, the Secrets they name, the bundles, and which namespaces are injected.

    Not to be used by several threads at once. `only`: the one namespace that there is to it, which counts as injected.
    """

    def __init__(self, only: str = "") -> None:
        self.leads = False  # whether the statuses are ours to write: then what is seen of them is but an echo
        self.dirty: set[str] = set()
        self._listed: set[Resource] = {NAMESPACES} if only else set()
        self._injected: set[str] = {only} if only else set()
        self._documents: dict[str, dict[tuple[Resource, str], Object]] = defaultdict(dict)
        self._named: dict[str, set[str]] = {}
        self._secrets: dict[Key, Object | None] = {}
        self._bundles: dict[Key, Object] = {}
        self._lost: dict[Key, Object] = {}  # bundles that someone deleted: what was in them is still the last good
        self._own_versions: list[str] = []
        self._said: dict[tuple[Resource, str, str], Status | None] = {}
        self._noticed: dict[str, dict[str, str]] = {}

    @property
    def ready(self) -> bool:
        """Whether everything was listed once. Before, nothing can be planned."""
        return self._listed >= {PROVIDERS, ROUTES, SECRETS, NAMESPACES}

    @property
    def knows_documents(self) -> bool:
        """Whether documents were listed: from then on it is known which Secrets matter."""
        return self._listed >= {PROVIDERS, ROUTES}

    def handle(self, event: Event) -> None:
        """Take note of what was listed, or of what changed."""
        match event:
            case Listed(resource=resource, items=items):
                self._replace(resource, items)
                self._listed.add(resource)
            case Changed(resource=resource, content=content, deleted=deleted):
                if resource == SECRETS:
                    self._secret_changed(content, deleted=deleted)
                elif resource == NAMESPACES:
                    self._namespace_changed(content, deleted=deleted)
                else:
                    self._document_changed(resource, content, deleted=deleted)

    def unknown_secrets(self) -> list[Key]:
        """Return the Secrets that are named and were not when Secrets were listed: they are to be fetched."""
        if not self.ready:
            return []
        named = ((namespace, name) for namespace, names in self._named.items() for name in names)
        return sorted(key for key in named if key not in self._secrets)

    def fetched(self, key: Key, content: Object | None) -> None:
        """Take note of a Secret, or that there is none: what no list would have is none, however it is named."""
        is_there = content is not None and content.get("type") not in TYPES_OF_NO_KEYS
        self._secrets[key] = content if is_there else None
        self.dirty.add(key[0])

    def plan(self, namespace: str, *, now: str, unwritten: str = "") -> Plan:
        """
        Return what is to be done so that the bundles and statuses of a namespace are right.

        `now`: the time as RFC 3339 text. `unwritten`: why bundles can't be written, to be told.
        """
        self.dirty.discard(namespace)
        documents = self._documents.get(namespace, {})
        if not documents and namespace not in self._injected:
            # Nothing is to be put back where there is nothing in it; its namespace may have gone, too.
            self._lost = {key: content for key, content in self._lost.items() if key[0] != namespace}
            if not self._bundles_of(namespace):
                return Plan((), self._notices(namespace, {}))
        made = self._bundled(namespace)
        steps: list[Step] = []
        for part in made.bundles:
            was = self._bundles.get((namespace, part.name))
            secret = _secret(namespace, part)
            if was is None:
                steps.append(WriteBundle(namespace, part.name, secret))
            elif (was.get("data") or {}) != secret["data"]:
                steps.append(WriteBundle(namespace, part.name, secret, version_of(was)))
        for (resource, name), content in sorted(documents.items(), key=lambda item: (item[0][0].plural, item[0][1])):
            title = title_of(document_of(resource, content))
            said = self._said.get((resource, namespace, name))
            generation = int(content["metadata"].get("generation") or 0)
            status = status_for(made.verdicts[title], generation=generation, before=said, now=now, unwritten=unwritten)
            if not says_the_same(said, status):
                steps.append(WriteStatus(resource, namespace, name, status))
        kept = {title: "; ".join(v.kept_keys) for title, v in made.verdicts.items() if v.kept_keys}
        kept |= dict.fromkeys(made.kept_for_routes, "was deleted, but a route still needs it: it stays in force")
        return Plan(tuple(steps), self._notices(namespace, kept))

    def wrote(self, content: Object) -> None:
        """Take note of a bundle as it was just written, or as it was found to be."""
        self._bundles[key_of(content)] = content
        self._lost.pop(key_of(content), None)
        self._own_versions = [*self._own_versions[-MAX_OWN_VERSIONS:], version_of(content)]

    def said(self, step: WriteStatus) -> None:
        """Take note of a status that was written."""
        self._said[step.resource, step.namespace, step.name] = step.status

    def forget_bundle(self, key: Key) -> None:
        """Take note that a bundle is gone."""
        self._bundles.pop(key, None)
        self._lost.pop(key, None)
        self.dirty.add(key[0])

    def is_obsolete(self, key: Key) -> bool:
        """Tell whether a bundle is there only for pods that still mount it."""
        namespace, name = key
        wanted = {bundle_name(selection) for selection in selections(self._selectors(namespace))}
        if namespace not in self._documents and namespace not in self._injected:
            wanted.clear()
        return key in self._bundles and name not in wanted

    def mark_all(self) -> None:
        """Have every namespace looked at again."""
        self.dirty |= set(self._documents) | {namespace for namespace, _ in self._bundles} | self._injected

    def documents(self, namespace: str) -> list[Entry]:
        """Return the documents of a namespace."""
        entries = []
        for (resource, _), content in self._documents.get(namespace, {}).items():
            created = str(content["metadata"].get("creationTimestamp") or "")
            entries.append(Entry(document_of(resource, content), created))
        return entries

    def secrets(self, namespace: str) -> Secrets:
        """Return what is known of the Secrets that the documents of a namespace name."""
        names = self._named.get(namespace, set())
        found = {name: self._secrets.get((namespace, name)) for name in names}
        return {name: keys_of(content) for name, content in found.items() if content is not None}

    def bundle_for(self, namespace: str, labels: Labels) -> str:
        """Return the name of the bundle that a pod with `labels` mounts."""
        return bundle_for(self._selectors(namespace), labels) if namespace in self._documents else BUNDLE

    def _selectors(self, namespace: str) -> set[Selector]:
        return {selector for e in self.documents(namespace) if (selector := selector_of(e.document)) is not None}

    def _bundled(self, namespace: str) -> Bundling:
        return bundle(self.documents(namespace), self.secrets(namespace), self._bundles_of(namespace))

    def _bundles_of(self, namespace: str) -> list[Bundle]:
        found = []
        for (space, name), content in sorted((self._lost | self._bundles).items()):
            annotations = content["metadata"].get("annotations") or {}
            selection = parse_selection(annotations.get(SELECTORS_ANNOTATION, "[]"))
            if space == namespace and selection is not None:
                found.append(Bundle(name, selection, _files(content)))
        return found

    def _notices(self, namespace: str, kept: dict[str, str]) -> dict[str, str]:
        before = self._noticed.pop(namespace, {})
        if kept:
            self._noticed[namespace] = kept
        return {title: message for title, message in kept.items() if before.get(title) != message}

    def _replace(self, resource: Resource, items: Iterable[Object]) -> None:
        if resource == NAMESPACES:
            self._injected.clear()
            for item in items:
                self._namespace_changed(item, deleted=False)
            return
        if resource == SECRETS:
            present = {key_of(item): item for item in items}
            named = {(namespace, name) for namespace, names in self._named.items() for name in names}
            gone = (set(self._bundles) | set(self._secrets)) - set(present)
            for key in gone:
                self._secret_changed({"metadata": {"namespace": key[0], "name": key[1]}}, deleted=True)
            self._secrets |= dict.fromkeys(named - set(present))
            for item in present.values():
                self._secret_changed(item, deleted=False)
            return
        present = {key_of(item): item for item in items}
        known = [
            (namespace, name) for namespace, of in self._documents.items() for kind, name in of if kind == resource
        ]
        for key in known:
            if key not in present:
                self._document_changed(resource, {"metadata": {"namespace": key[0], "name": key[1]}}, deleted=True)
        for key, item in present.items():
            self._said[resource, *key] = item.get("status")
            self._document_changed(resource, item, deleted=False)

    def _document_changed(self, resource: Resource, content: Object, *, deleted: bool) -> None:
        namespace, name = key_of(content)
        place, documents = (resource, name), self._documents[namespace]
        was = documents.get(place)
        if deleted:
            documents.pop(place, None)
            self._said.pop((resource, namespace, name), None)
        else:
            documents[place] = content
            if not self.leads or was is None or _uid(was) != _uid(content):
                self._said[resource, namespace, name] = content.get("status")
            if was is not None and _is_same(resource, was, content):
                return  # but a status, most likely our own
        names = [named_secrets(document_of(kind, of)) for (kind, _), of in documents.items()]
        self._named[namespace] = set().union(*names)
        for key in [key for key in self._secrets if key[0] == namespace and key[1] not in self._named[namespace]]:
            del self._secrets[key]
        if not documents:
            del self._documents[namespace], self._named[namespace]
        self.dirty.add(namespace)

    def _namespace_changed(self, content: Object, *, deleted: bool) -> None:
        name = key_of(content)[1]
        # One that is coming to its end takes no new Secret.
        if deleted or content["metadata"].get("deletionTimestamp"):
            self._injected.discard(name)
        elif name not in self._injected:
            self._injected.add(name)
            self.dirty.add(name)

    def _secret_changed(self, content: Object, *, deleted: bool) -> None:
        key = key_of(content)
        namespace, name = key
        if version_of(content) in self._own_versions and not deleted:
            return
        if deleted and key in self._bundles:
            self._lost[key] = self._bundles.pop(key)
            self.dirty.add(namespace)
        elif is_ours(content) and not deleted:
            if (self._bundles.get(key) or {}).get("data") != content.get("data"):
                self.dirty.add(namespace)
            self._bundles[key] = content
            self._lost.pop(key, None)
        elif name in self._named.get(namespace, ()):
            was = self._secrets.get(key)
            self._secrets[key] = None if deleted else content
            if (was or {}).get("data") != (None if deleted else content.get("data")):
                self.dirty.add(namespace)


def is_ours(content: Object) -> bool:
    """Tell whether a Secret is a bundle."""
    labels = content["metadata"].get("labels") or {}
    return is_bundle_name(content["metadata"]["name"]) and all(
        labels.get(name) == value for name, value in BUNDLE_LABELS.items()
    )


def _secret(namespace: str, part: Bundle) -> dict[str, Any]:
    metadata = {
        "name": part.name,
        "namespace": namespace,
        "labels": BUNDLE_LABELS,
        "annotations": {SELECTORS_ANNOTATION: written(part.selection)},
    }
    data = {name: base64.b64encode(content).decode() for name, content in sorted(part.files.items())}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": data}


def _files(content: Object) -> dict[str, bytes]:
    files = {}
    for name, encoded in (content.get("data") or {}).items():
        try:
            files[name] = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError, TypeError):
            continue
    return files


def _uid(content: Object) -> object:
    return content["metadata"].get("uid")


def _is_same(resource: Resource, one: Object, other: Object) -> bool:
    """Tell whether two versions of a document are to be compiled, and told of, alike."""
    return (
        _uid(one) == _uid(other)
        and one["metadata"].get("generation") == other["metadata"].get("generation")
        and document_of(resource, one) == document_of(resource, other)
    )
