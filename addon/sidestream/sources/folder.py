"""
A folder of YAML files as a source of policy.

Every `*.yaml` and `*.yml` below the folder counts, in subfolders too; hidden names do not
(a ConfigMap volume keeps its copies in them and shows links). Keys come from the environment
and from files; a Secret of Kubernetes can't be had here.

Changes are found by looking: names, links, sizes, times. A notification would miss what a
ConfigMap does, which swaps one link above all files.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from sidestream.policy.compiling import Compilation, compile_policy
from sidestream.policy.keys import FromEnvironment, FromFile, FromSecret, KeyReference, Unavailable
from sidestream.policy.places import Text
from sidestream.policy.problems import Problem, Severity, errors_in

MAX_REREADS = 5
"""How often a folder is read again when it changes while it is read."""

type Stamp = tuple[int, int, int]
"""
What tells that a file changed: inode, size in bytes, time of change in nanoseconds. Zeros: not there.

The time is that of the inode: a file that became readable changed, too.
"""

NOT_THERE: Stamp = (0, 0, 0)


class FilesAndEnvironment:
    """
    Fetches keys from the environment and from files, and CAs from files.

    `stamps` tells what each file that was asked for was like just before it was read.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self.stamps: dict[Path, Stamp] = {}

    def key(self, reference: KeyReference) -> str:
        """Return the text of a key."""
        match reference:
            case FromEnvironment(name=name):
                value = self._environment.get(name)
                if value is None:
                    raise Unavailable(f"the environment variable {name} is not set: set it where Sidestream runs")
                return value
            case FromFile(path=path):
                return self._read_text(path)
            case FromSecret(name=name, key=key):
                raise Unavailable(
                    f"key {key!r} of the Secret {name!r} can't be read from a folder: use file or env in apiKeyFrom"
                )

    def ca(self, path: Path) -> str:
        """Return the PEM text of a CA file whose certificates can be loaded."""
        text = self._read_text(path)
        try:
            x509.load_pem_x509_certificates(text.encode())
        except ValueError as e:
            raise Unavailable(f"{path} holds no CA certificate in PEM that can be used") from e
        return text

    def _read_text(self, path: Path) -> str:
        self.stamps[path] = _stamp(path)
        try:
            return path.read_text(encoding="utf-8")
        except OSError as e:
            raise Unavailable(f"{path} can't be read: {e.strerror}") from e
        except UnicodeDecodeError as e:
            raise Unavailable(f"{path} is not UTF-8 text") from e
        except ValueError as e:
            raise Unavailable(f"{str(path)!r} can't be the name of a file") from e


@dataclass(frozen=True, slots=True)
class Reading:
    """What was compiled, and what the documents and the files they refer to were like then."""

    compilation: Compilation
    documents: Mapping[Path, Stamp]
    references: Mapping[Path, Stamp]


class Folder:
    """One folder (or one file) of policy documents."""

    def __init__(self, path: Path, environment: Mapping[str, str]) -> None:
        self.path = path
        self._environment = environment

    def read(self, *, missing_key: Severity = Severity.ERROR) -> Reading:
        """Read and compile what is there now."""
        for _ in range(MAX_REREADS):
            documents = self._stamps()
            texts, problems = _texts(documents)
            if self._stamps() == documents:
                break  # nothing changed meanwhile, so the texts belong together
        if not os.path.exists(self.path):  # noqa: PTH110 unlike Path's, it never raises
            problems.append(_problem(self.path, "no such file or folder"))
        resolver = FilesAndEnvironment(self._environment)
        compilation = compile_policy(texts, resolver, missing_key=missing_key)
        if not problems and not compilation.problems and not compilation.require().hosts:
            message = "holds no LLMProvider or LLMRoute: nothing is governed"
            problems.append(_problem(self.path, message, Severity.WARNING))
        snapshot = None if errors_in(problems) else compilation.snapshot
        return Reading(Compilation(snapshot, (*problems, *compilation.problems)), documents, resolver.stamps)

    def changed_since(self, reading: Reading) -> bool:
        """Tell whether a document, or a file that one refers to, is not what it was."""
        references = {path: _stamp(path) for path in reading.references}
        return self._stamps() != reading.documents or references != reading.references

    def _stamps(self) -> dict[Path, Stamp]:
        if _is_folder(self.path):
            return {path: _stamp(path) for path in sorted(_documents_below(self.path, seen=set()))}
        stamp = _stamp(self.path)
        return {self.path: stamp} if stamp != NOT_THERE else {}


def _texts(paths: Iterable[Path]) -> tuple[list[Text], list[Problem]]:
    texts, problems = [], []
    for path in paths:
        try:
            texts.append(Text(str(path), path.parent, path.read_bytes()))
        except FileNotFoundError:
            if path.is_symlink():
                problems.append(_problem(path, "a link that leads nowhere, left out", Severity.WARNING))
            # Otherwise it went away in between: the stamps tell.
        except OSError as e:
            problems.append(_problem(path, f"can't be read: {e.strerror}"))
    return texts, problems


def _problem(path: Path, message: str, severity: Severity = Severity.ERROR) -> Problem:
    return Problem(str(path), 0, "", "", message, severity)


def _documents_below(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
    """Yield the documents below `folder`. A folder that can't be listed stands for those in it."""
    try:
        status = folder.stat()
        names = sorted(os.listdir(folder))  # noqa: PTH208 names are what is asked for
    except FileNotFoundError:
        return
    except OSError:
        yield folder
        return
    if (status.st_dev, status.st_ino) in seen:
        return  # a link that leads back up
    seen.add((status.st_dev, status.st_ino))
    for path in (folder / name for name in names if not name.startswith(".")):
        if _is_folder(path):
            yield from _documents_below(path, seen)
        elif path.name.endswith((".yaml", ".yml")):
            yield path


def _is_folder(path: Path) -> bool:
    return os.path.isdir(path)  # noqa: PTH112 unlike Path's, it never raises


def _stamp(path: Path) -> Stamp:
    try:
        status = path.stat()
    except (OSError, ValueError):
        return NOT_THERE
    return status.st_ino, status.st_size, status.st_ctime_ns
