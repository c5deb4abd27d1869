"""Manifests as kubectl renders them, and what tests look for in them."""

import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.k8s.discovery import discovery

REPOSITORY = Path(__file__).parents[2]
K8S = REPOSITORY / "k8s"
FOLDERS = sorted(path.parent.relative_to(K8S).as_posix() for path in K8S.rglob("kustomization.yaml"))
"""All folders that kustomize builds, components left out: they are parts of other builds."""


@functools.cache
def kubectl() -> str:
    """Return the path of a kubectl, or skip the test."""
    found = shutil.which("kubectl", path=f"{REPOSITORY / '.venv-kubectl' / 'bin'}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip("no kubectl here: .make/kubectl has one for Linux on x86-64")
    return found


def is_component(folder: str) -> bool:
    return "kind: Component" in (K8S / folder / "kustomization.yaml").read_text()


@functools.cache
def rendered(folder: str) -> str:
    """Return what `kubectl kustomize` makes of a folder below `k8s`."""
    done = subprocess.run([kubectl(), "kustomize", K8S / folder], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@functools.cache
def would_apply(folder: str) -> list[str]:
    """Return what `kubectl apply` would say of a folder below `k8s`, with nothing in the cluster yet."""
    with discovery() as url, tempfile.TemporaryDirectory() as home:
        command = [kubectl(), f"--server={url}", "--kubeconfig=/dev/null", "apply", "--dry-run=client"]
        command += ["--validate=false", "-k", str(K8S / folder)]
        done = subprocess.run(command, capture_output=True, text=True, env={"HOME": home})
    assert (done.returncode, done.stderr) == (0, "")
    return [line.removesuffix(" (dry run)") for line in done.stdout.splitlines()]


@functools.cache
def objects_of(folder: str) -> list[dict[str, Any]]:
    """Return what a folder asks for. Nobody changes it."""
    return list(yaml.load_all(rendered(folder), Loader=yaml.CSafeLoader))


def title_of(content: dict[str, Any]) -> str:
    return f"{content['kind']} {content['metadata']['name']}"


def pods_in(folder: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the spec of every pod that a folder asks for, with the title of what asks."""
    for content in objects_of(folder):
        if content["kind"] in ("Deployment", "DaemonSet", "StatefulSet", "Job"):
            yield title_of(content), content["spec"]["template"]["spec"]
