"""
A namespace of a cluster as a source of policy, for setups without a control plane.

The same shape as a folder: read it, and ask whether it changed. What does not compile never replaces what does,
as ever, and all documents are one policy: one that is wrong keeps the others from being loaded.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sidestream.policy.compiling import Compilation, compile_policy
from sidestream.policy.keys import FromEnvironment, KeyReference
from sidestream.policy.problems import Problem, Severity, errors_in
from sidestream.sources.kubernetes.api import Api
from sidestream.sources.kubernetes.keys import FromSecrets
from sidestream.sources.kubernetes.objects import (
    NOT_KEYS,
    PROVIDERS,
    ROUTES,
    SECRETS,
    Changed,
    Event,
    Listed,
    Object,
    Resource,
    document_of,
    key_of,
    keys_of,
    text_of,
)
from sidestream.sources.kubernetes.watching import BACKOFF_SECONDS, Wanted, Watching

SYNC_SECONDS = 30.0
"""How long the first lists may take until reading says that the API can't be had."""

_WANTED = {PROVIDERS: "", ROUTES: "", SECRETS: NOT_KEYS}


@dataclass(frozen=True, slots=True)
class Reading:
    """What was compiled, and how many changes there had been then."""

    compilation: Compilation
    changes: int


class Cluster:
    """The documents and Secrets of one namespace. `environment`: where `${NAME}` is looked up first."""

    def __init__(
        self,
        api: Api,
        namespace: str,
        environment: Mapping[str, str],
        backoff_seconds: tuple[float, float] = BACKOFF_SECONDS,
    ) -> None:
        self.namespace = namespace
        self._environment = environment
        self._objects: dict[Resource, dict[str, object]] = {}
        self._changes = 0
        self._told = threading.Condition()
        self._watching = [
            Watching(api, Wanted(resource, namespace, fields), self._take_in, backoff_seconds)
            for resource, fields in _WANTED.items()
        ]
        for watching in self._watching:
            watching.start()

    def close(self) -> None:
        """Stop watching."""
        for watching in self._watching:
            watching.stop()

    def read(self, *, missing_key: Severity = Severity.ERROR) -> Reading:
        """Compile what there is now; the first time, wait until all is listed."""
        with self._told:
            listed = self._told.wait_for(lambda: len(self._objects) == len(_WANTED), SYNC_SECONDS)
            objects = {resource: dict(of) for resource, of in self._objects.items()}
            changes = self._changes
        if not listed:
            message = f"the Kubernetes API told nothing of it within {SYNC_SECONDS:.0f} s: see the log"
            return Reading(Compilation(None, (self._problem(message),)), changes)
        documents = [*objects[PROVIDERS].values(), *objects[ROUTES].values()]
        secrets = {name: keys for name, keys in objects[SECRETS].items() if isinstance(keys, dict)}
        texts = [text_of(document) for document in documents if isinstance(document, dict)]
        compilation = compile_policy(texts, _Keys(self._environment, secrets), missing_key=missing_key)
        if not documents:
            warning = self._problem("holds no LLMProvider or LLMRoute: nothing is governed", Severity.WARNING)
            compilation = Compilation(compilation.snapshot, (warning, *compilation.problems))
        assert compilation.snapshot is not None or errors_in(compilation.problems), "there is a policy, or a reason"
        return Reading(compilation, changes)

    def changed_since(self, reading: Reading) -> bool:
        """Tell whether a document or a Secret is not what it was."""
        with self._told:
            return self._changes != reading.changes

    def _take_in(self, event: Event) -> None:
        with self._told:
            match event:
                case Listed(resource=resource, items=items):
                    new = {key_of(item)[1]: _what_counts(resource, item) for item in items}
                case Changed(resource=resource, content=content, deleted=deleted):
                    new = dict(self._objects.get(resource, {}))
                    new.pop(key_of(content)[1], None)
                    if not deleted:
                        new[key_of(content)[1]] = _what_counts(resource, content)
            if new != self._objects.get(resource):
                self._objects[resource] = new
                self._changes += 1
                self._told.notify_all()

    def _problem(self, message: str, severity: Severity = Severity.ERROR) -> Problem:
        return Problem(f"kubernetes:{self.namespace}", 0, "", "", message, severity)


class _Keys:
    """Fetches keys from Secrets, and what stands for the environment from ours first."""

    def __init__(self, environment: Mapping[str, str], secrets: Mapping[str, Mapping[str, str]]) -> None:
        self._environment = environment
        self._secrets = FromSecrets(secrets)

    def key(self, reference: KeyReference) -> str:
        if isinstance(reference, FromEnvironment) and reference.name in self._environment:
            return self._environment[reference.name]
        return self._secrets.key(reference)

    def ca(self, path: Path) -> str:
        return self._secrets.ca(path)


def _what_counts(resource: Resource, content: Object) -> object:
    return keys_of(content) if resource == SECRETS else document_of(resource, content)
