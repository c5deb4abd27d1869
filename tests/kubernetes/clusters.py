"""Connections to the stand-in, control planes that run on it, and pods that mount bundles."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from kubernetes import client

from sidestream.control.controlling import Controlling
from sidestream.sources.folder import Folder
from sidestream.sources.kubernetes.api import Api
from tests.kubernetes.apiserver import ApiServer


def api_of(server: ApiServer) -> Api:
    configuration = client.Configuration()
    configuration.host = server.url
    return Api(configuration)


def kubeconfig_of(server: ApiServer, folder: Path) -> Path:
    path = folder / "kubeconfig"
    path.write_text(
        f"apiVersion: v1\nkind: Config\nclusters: [{{name: c, cluster: {{server: '{server.url}'}}}}]\n"
        "contexts: [{name: c, context: {cluster: c, user: u}}]\ncurrent-context: c\n"
        "users: [{name: u, user: {token: t}}]\n"
    )
    return path


@contextlib.contextmanager
def controlling(server: ApiServer, *, leads: bool = True, rate: float = 10_000.0) -> Iterator[Controlling]:
    """A control plane that knows everything; it leads, unless it is told not to."""
    control = Controlling(api_of(server), rate=rate, backoff_seconds=(0.01, 0.05))
    control.start()
    if leads:
        control.lead(leads=True)
    try:
        server.wait(lambda: control.ready)
        yield control
    finally:
        control.stop()
    assert not control.alive


def pod(name: str, bundle: str = "sidestream-policy", *, namespace: str = "default", **labels: str) -> dict:
    """A pod with a sidecar that mounts `bundle`."""
    spec = {
        "containers": [{"name": "app", "image": "app"}],
        "volumes": [{"name": "cache", "emptyDir": {}}, {"name": "policies", "secret": {"secretName": bundle}}],
    }
    metadata = {"name": name, "namespace": namespace, "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": {"phase": "Running"}}


def revision(server: ApiServer, name: str) -> str | None:
    """What a pod was nudged with."""
    found = server.get("Pod", name) or {"metadata": {}}
    return (found["metadata"].get("annotations") or {}).get("sidestream.dev/policy-revision")


def mount(server: ApiServer, folder: Path, bundle: str = "sidestream-policy") -> None:
    """Put a bundle as it is now into a folder."""
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    for name, content in server.files(bundle).items():
        (folder / name).write_bytes(content)


def governed(
    server: ApiServer, folder: Path, bundle: str = "sidestream-policy", labels: dict | None = None
) -> set[str]:
    """The hosts that a sidecar governs which mounts a bundle as it is now."""
    mount(server, folder, bundle)
    return set(Folder(folder, {}).read().compilation.require().for_workload(labels or {}).hosts)
