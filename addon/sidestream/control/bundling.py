"""
From the documents and Secrets of a namespace to its bundles, and what is to be said of each document.

Pure: the same documents, Secrets and bundles before give the same bundles. An invalid document never
takes a valid one down:

- a document that has become invalid stays in force as the bundles have it, its last good version;
- of two that claim one host, the older one has it;
- a provider that was deleted while a route still needs it stays in force for that route;
- a key whose Secret is gone stays as the bundles have it.

What the bundles have is read from themselves, so this holds across restarts and changes of leader.
"""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

from sidestream.control.files import (
    KEY_PREFIX,
    Document,
    Files,
    file_of,
    files_for,
    key_file,
    read_back,
    rewritten,
)
from sidestream.control.selecting import Selection, bundle_name, selections, selector_of
from sidestream.policy.compiling import Compilation, compile_policy
from sidestream.policy.keys import FromFile, KeyReference, Unavailable, make_secret
from sidestream.policy.problems import Problem, errors_in
from sidestream.policy.providers import bare_host
from sidestream.sources.kubernetes.keys import FromSecrets, Secrets
from sidestream.sources.kubernetes.objects import NO_FOLDER, text_of, title_of

LAST_GOOD_FOLDER = Path("/sidestream-last-good")
"""Where documents read back from bundles stand: only they may name the files of keys beside them."""


class InForce(Enum):
    """Which version of a document the bundles have."""

    CURRENT = "current"
    LAST_GOOD = "last good"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Entry:
    """A document as the API server has it. `created`: its creationTimestamp, which sorts as text."""

    document: Document = field(repr=False)
    created: str = ""


@dataclass(frozen=True, slots=True)
class Bundle:
    """The files that sidecars of a selection mount."""

    name: str
    selection: Selection
    files: Mapping[str, bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Verdict:
    """
    What is to be said of a document.

    `problems` are its own, `unresolved` those of what it refers to. `kept_keys`: why keys that can't be had stay as
    they were. `bundle`: the name of one that has all of it.
    """

    in_force: InForce
    problems: tuple[Problem, ...] = ()
    unresolved: tuple[Problem, ...] = ()
    kept_keys: tuple[str, ...] = ()
    bundle: str = ""


@dataclass(frozen=True, slots=True)
class Bundling:
    """What came of a namespace. `verdicts`: title of a document → what is to be said of it."""

    bundles: tuple[Bundle, ...]
    verdicts: Mapping[str, Verdict]
    kept_for_routes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Chosen:
    document: Document
    created: str
    state: InForce


def bundle(entries: Iterable[Entry], secrets: Secrets, before: Iterable[Bundle] = ()) -> Bundling:
    """
    Bundle the documents of one namespace.

    `secrets`: those of the namespace that its documents name. `before`: the bundles that are there.
    """
    before = tuple(before)
    keys = _Keys(secrets, _keys_in(before))
    documents_before = {title_of(document): document for part in before for document in read_back(part.files)}
    choosing = _Choosing(entries, keys, documents_before)
    choosing.run()
    return _made(choosing, keys, before)


class _Keys:
    """Fetches keys from Secrets, and those that can't be had from the bundles before."""

    def __init__(self, secrets: Secrets, before: Mapping[str, str]) -> None:
        self._secrets = FromSecrets(secrets)
        self._before = before
        self._files = {key_file(name, key): text for name, keys in secrets.items() for key, text in keys.items()}
        self.kept: dict[str, str] = {}  # file → why its key is the one before
        self.refused: set[str] = set()  # why others can't be had

    def key(self, reference: KeyReference) -> str:
        file = file_of(reference)
        was = self._before.get(file)
        if isinstance(reference, FromFile) and reference.path.parent != LAST_GOOD_FOLDER:
            was = None  # a document of a user may not name our files
        try:
            return make_secret(self._text(reference, file)).reveal()
        except Unavailable as e:
            if was is None:
                self.refused.add(str(e))
                raise
            if not isinstance(reference, FromFile):
                self.kept[file] = f"{e}; the last good key stays in force"
            return was

    def _text(self, reference: KeyReference, file: str) -> str:
        # A version that was read back names the file only, but its Secret may have another key by now.
        if isinstance(reference, FromFile) and reference.path.parent == LAST_GOOD_FOLDER and file in self._files:
            return self._files[file]
        return self._secrets.key(reference)

    def ca(self, path: Path) -> str:
        try:
            return self._secrets.ca(path)
        except Unavailable as e:
            self.refused.add(str(e))
            raise

    def is_reference(self, problem: Problem) -> bool:
        """Tell whether what is wrong is what a document refers to, not the document."""
        return problem.message in self.refused or problem.field.endswith((".providerHost", ".backendRef.name"))


class _Choosing:
    """Chooses, document by document, the version that makes a policy together with the others."""

    def __init__(self, entries: Iterable[Entry], keys: _Keys, before: Mapping[str, Document]) -> None:
        self.keys = keys
        self.before = before
        self.problems: dict[str, tuple[Problem, ...]] = {}
        self.warnings: dict[str, tuple[Problem, ...]] = {}
        self.chosen = {title_of(e.document): _Chosen(e.document, e.created, InForce.CURRENT) for e in entries}
        self.titles = tuple(self.chosen)
        self.selectors = {found for one in self.chosen.values() if (found := selector_of(one.document)) is not None}
        self.kept_for_routes: list[str] = []

    def run(self) -> None:
        """Choose until what is chosen compiles."""
        while True:
            second = _second_of_a_host(self.chosen)
            first = {title: one for title, one in self.chosen.items() if title not in second}
            compilation = self._compile(first)
            faults = _by_document(errors_in(compilation.problems)) or second
            if not faults:
                break
            for title, problems in faults.items():
                self._replace(title, problems)
        self.warnings = _by_document(compilation.problems)

    def _compile(self, chosen: Mapping[str, _Chosen]) -> Compilation:
        texts = (
            text_of(one.document, LAST_GOOD_FOLDER if one.state is InForce.LAST_GOOD else NO_FOLDER)
            for one in chosen.values()
        )
        return compile_policy(list(texts), self.keys)

    def _replace(self, title: str, problems: tuple[Problem, ...]) -> None:
        self.problems.setdefault(title, problems)
        if title not in self.titles:
            del self.chosen[title]  # a provider kept for a route, but it can't be
        elif not self._keep_providers_of(self.chosen[title].document):
            was = self.before.get(title)
            if self.chosen[title].state is InForce.CURRENT and was is not None:
                self.chosen[title] = replace(self.chosen[title], document=was, state=InForce.LAST_GOOD)
            else:
                del self.chosen[title]

    def _keep_providers_of(self, route: Document) -> bool:
        """Keep deleted providers that `route` needs. Return whether there were any."""
        hosts, titles = _providers_of(route)
        hosts -= {host_of(one.document) for one in self.chosen.values() if one.document["kind"] == "LLMProvider"}
        kept = [
            (title, document)
            for title, document in self.before.items()
            if title not in self.titles
            and title not in self.kept_for_routes
            and document["kind"] == "LLMProvider"
            and (host_of(document) in hosts or title in titles)
        ]
        for title, document in kept:
            self.chosen[title] = _Chosen(document, "~", InForce.LAST_GOOD)  # the youngest
            self.kept_for_routes.append(title)
        return bool(kept)


def host_of(document: Document) -> str:
    """Return the host that a document claims, ``""`` when it is none."""
    spec = document.get("spec")
    host = spec.get("host") if isinstance(spec, dict) else None
    return bare_host(host) if isinstance(host, str) else ""


def _made(choosing: _Choosing, keys: _Keys, before: Sequence[Bundle]) -> Bundling:
    documents: list[tuple[Document, Files]] = []
    verdicts = {
        title: _verdict(InForce.NONE, choosing, title) for title in choosing.titles if title not in choosing.chosen
    }
    # A pod is given its bundle by what documents say, in force or not: that one has to be there.
    selectors = set(choosing.selectors)
    for title, one in sorted(choosing.chosen.items()):
        document, sources = rewritten(one.document, LAST_GOOD_FOLDER)
        files = {
            file: (source if isinstance(source, str) else keys.key(source).strip()).encode()
            for file, source in sources.items()
        }
        documents.append((document, files))
        if (selector := selector_of(document)) is not None:
            selectors.add(selector)
        if title in choosing.titles:
            verdicts[title] = replace(
                _verdict(one.state, choosing, title),
                kept_keys=tuple(keys.kept[file] for file in files if file in keys.kept),
                bundle=bundle_name(frozenset([selector] if selector else [])),
            )
    # Pods keep what they mount: a bundle that is there is kept up, though no selector asks for it any more.
    wanted = dict.fromkeys([*selections(selectors), *(part.selection for part in before)])
    bundles = (Bundle(bundle_name(selection), selection, files_for(selection, documents)) for selection in wanted)
    kept = tuple(title for title in choosing.kept_for_routes if title in choosing.chosen)
    return Bundling(tuple(bundles), verdicts, kept)


def _verdict(state: InForce, choosing: _Choosing, title: str) -> Verdict:
    problems = choosing.problems.get(title) or choosing.warnings.get(title, ())
    unresolved = tuple(problem for problem in problems if choosing.keys.is_reference(problem))
    return Verdict(state, tuple(problem for problem in problems if problem not in unresolved), unresolved)


def _second_of_a_host(chosen: Mapping[str, _Chosen]) -> dict[str, tuple[Problem, ...]]:
    """Return the documents whose host an older one has, each with its problem."""
    first: dict[tuple[str, str], str] = {}
    second: dict[str, tuple[Problem, ...]] = {}
    for title, one in sorted(chosen.items(), key=lambda item: (item[1].created, item[0])):
        host = host_of(one.document)
        owner = first.setdefault((one.document["kind"], host), title) if host else title
        if owner != title:
            message = f"host {host!r} is that of {owner}, which is older: keep one of them"
            second[title] = (Problem(title, 1, title, "spec.host", message),)
    return second


def _by_document(problems: Iterable[Problem]) -> dict[str, tuple[Problem, ...]]:
    found: dict[str, tuple[Problem, ...]] = {}
    for problem in problems:
        found[problem.file] = (*found.get(problem.file, ()), problem)
    return found


def _keys_in(bundles: Iterable[Bundle]) -> dict[str, str]:
    """Return the keys that bundles hold: file → text. What can be none is not ours."""
    found = {}
    for name, content in (item for part in bundles for item in part.files.items()):
        if name.startswith(KEY_PREFIX):
            with contextlib.suppress(UnicodeDecodeError, Unavailable):
                found[name] = make_secret(content.decode()).reveal()
    return found


def _providers_of(document: Document) -> tuple[set[str], set[str]]:
    """Return the hosts and the titles of the providers that a document, valid or not, refers to."""
    hosts, titles = set(), set()
    spec = document.get("spec")
    rules = spec.get("rules") if document["kind"] == "LLMRoute" and isinstance(spec, dict) else None
    for rule in rules if isinstance(rules, list) else []:
        refs = rule.get("backendRefs") if isinstance(rule, dict) else None
        for ref in refs if isinstance(refs, list) else []:
            host, named = (ref.get("providerHost"), ref.get("backendRef")) if isinstance(ref, dict) else (None, None)
            if isinstance(host, str):
                hosts.add(bare_host(host))
            if isinstance(named, dict) and named.get("kind") == "LLMProvider":
                namespace = named.get("namespace") or document["metadata"]["namespace"]
                titles.add(f"LLMProvider {namespace}/{named.get('name')}")
    return hosts, titles
