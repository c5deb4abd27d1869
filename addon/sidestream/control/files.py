"""
Documents as the files of a bundle.

A bundle is mounted as a folder that a sidecar reads like any other: a file for each document, and
one for each key, which the documents name with `apiKeyFrom.file`. No document in a bundle holds a key.

A provider that is for other workloads stays as a *stub*: without keys, and with a label in its selector
that no workload has. So whatever refers to it compiles as ever, and is left out for this workload.
"""

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sidestream.control.selecting import Selection, selector_of
from sidestream.policy.keys import FromEnvironment, FromFile, FromSecret, Unavailable, parse_api_key
from sidestream.sources.kubernetes.keys import ENVIRONMENT_SECRET, secret_and_key

STUB_LABEL = "sidestream.dev/not-in-this-bundle"
"""The label of a stub's selector. No workload has it."""

KEY_PREFIX = "key-"
"""What the names of files with keys start with."""

type Document = dict[str, Any]
type Files = dict[str, bytes]
"""The files of a bundle: name → content."""


def key_file(*reference: str) -> str:
    """Return the name of the file for a key, made of what refers to it and never of the key."""
    return KEY_PREFIX + hashlib.sha256(json.dumps(reference).encode()).hexdigest()[:16]


def file_of(reference: FromSecret | FromEnvironment | FromFile) -> str:
    """Return the name of the file that has the key of `reference`."""
    if isinstance(reference, FromFile):
        return reference.path.name
    return key_file(*secret_and_key(reference))


def document_file(document: Document) -> str:
    """Return the name of the file of a document."""
    name = f"{document['kind'].lower()}.{document['metadata']['name']}"
    if len(name) > 200:  # a key of a Secret has 253 characters at most
        name = f"{name[:180]}.{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return f"{name}.yaml"


def rewritten(
    document: Document, folder: Path
) -> tuple[Document, dict[str, FromSecret | FromEnvironment | FromFile | str]]:
    """
    Return `document` with every key replaced by the file it is in, and what is in these files.

    What is in a file is a reference, or the text of a literal key. The document must be a valid one; one that names
    files was rewritten before, and its files are in `folder`.
    """
    document = copy.deepcopy(document)
    namespace, name = document["metadata"]["namespace"], document["metadata"]["name"]
    files: dict[str, FromSecret | FromEnvironment | FromFile | str] = {}
    for place, config in _configs(document):
        literal, reference = config.pop("apiKey", None), config.pop("apiKeyFrom", None)
        if literal is not None:
            parsed = _parsed(literal)
            file = file_of(parsed) if isinstance(parsed, FromEnvironment) else key_file("literal", name, place)
            files[file] = parsed
        elif reference is not None:
            source = _reference(namespace, reference, folder)
            file = file_of(source)
            files[file] = source
        else:
            continue
        config["apiKeyFrom"] = {"file": file}
    return document, files


def stub(document: Document) -> Document:
    """Return a provider as it stands in bundles for workloads that it does not select."""
    document = copy.deepcopy(document)
    for _, config in _configs(document):
        config.pop("apiKey", None)
        config.pop("apiKeyFrom", None)
    document["spec"]["workloadSelector"]["labels"][STUB_LABEL] = "true"
    return document


def named_secrets(document: Document) -> set[str]:
    """Return the names of the Secrets that a document, valid or not, names."""
    names = set()
    for _, config in _configs(document):
        reference = config.get("apiKeyFrom")
        secret = reference.get("secretKeyRef") if isinstance(reference, dict) else None
        if isinstance(secret, dict) and isinstance(secret.get("name"), str):
            names.add(secret["name"])
        elif "${" in str(config.get("apiKey")) or (isinstance(reference, dict) and "env" in reference):
            names.add(ENVIRONMENT_SECRET)
    return names


def files_for(selection: Selection, documents: Sequence[tuple[Document, Files]]) -> Files:
    """
    Return the files of the bundle for `selection`.

    `documents`: valid ones, rewritten, each with its files of keys.
    """
    files: Files = {}
    for document, keys in documents:
        selector = selector_of(document)
        if selector is None or selector in selection:
            files[document_file(document)] = _written(document)
            files.update(keys)
        else:
            files[document_file(document)] = _written(stub(document))
    return files


def read_back(files: Mapping[str, bytes]) -> list[Document]:
    """Return the documents of a bundle's files, without stubs. What is none of ours is left out."""
    documents = []
    for name, content in files.items():
        if name.startswith(KEY_PREFIX):
            continue
        try:
            document = json.loads(content)
            is_stub = STUB_LABEL in dict(selector_of(document) or ())
            if not is_stub and document["metadata"]["namespace"] and document_file(document) == name:
                documents.append(document)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            continue
    return documents


def _written(document: Document) -> bytes:
    return json.dumps(document, sort_keys=True).encode()


def _parsed(literal: str) -> FromEnvironment | str:
    try:
        parsed = parse_api_key(literal)
    except Unavailable:  # compiling says so
        return literal
    return parsed if isinstance(parsed, FromEnvironment) else literal.strip()


def _reference(namespace: str, written: Mapping[str, Any], folder: Path) -> FromSecret | FromEnvironment | FromFile:
    if (secret := written.get("secretKeyRef")) is not None:
        return FromSecret(namespace, secret["name"], secret["key"])
    if (env := written.get("env")) is not None:
        return FromEnvironment(env)
    return FromFile(folder / written["file"])


def _configs(document: Document) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the configurations of a document, valid or not, that may hold a key, each with its place."""
    configs = _mapping(_mapping(document.get("spec")).get("configs"))
    places = {"default": configs.get("defaultConfig")}
    places |= {f"rule {name}": config for name, config in _mapping(configs.get("routeSpecificConfigs")).items()}
    for place, config in places.items():
        if isinstance(part := _mapping(config).get("openAIConfig"), dict):
            yield place, part


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
