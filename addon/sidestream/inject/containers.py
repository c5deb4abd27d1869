"""
The containers that are added, and their volumes.

The policies, keys among them, are mounted into the sidecar alone, and its home, with the CA's private key, is a
volume of its own. Both containers hold an empty folder where Kubernetes would put the token of the pod's service
account: it is not theirs.

The admin endpoint listens on loopback, where the kubelet's own probes can't reach it: to let them, every pod of the
cluster could read what goes on. So the probes are commands.
"""

from typing import Any

from sidestream.inject.options import (
    ADMIN_PORT,
    HOME,
    INIT_CONTAINER,
    INIT_UID,
    POD_FOLDER,
    POLICY_FOLDER,
    PROXY_PORT,
    SIDECAR,
    TRUST_FOLDER,
    UID,
    Options,
)
from sidestream.inject.trust import TRUST_VOLUME

POLICY_VOLUME, HOME_VOLUME, POD_VOLUME = "sidestream-policies", "sidestream-home", "sidestream-pod"
NO_TOKEN_VOLUME = "sidestream-no-token"  # noqa: S105 there is none in it
_TOKEN_FOLDER = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105 where Kubernetes mounts it
_READABLE = 0o444
"""Secrets and the like are root's, and the sidecar is not; nobody else has them mounted."""

START_SECONDS = 120
"""How long the sidecar may take until it is ready."""
GRACE_SECONDS = 30
"""How long a pod has to end unless it says otherwise: Kubernetes' default."""
LEFT_SECONDS = 5
"""How much of that is left when waiting for exchanges to end is over."""
LAST_SECONDS = 3
"""How much of that the proxy waits once it is told to end, so that it can still say and record what it cuts off."""
QUIET_SECONDS = 5
"""How long nothing may go on until a sidecar that is told to end at the same time as the app takes it for gone."""

_HARDENED = {
    "allowPrivilegeEscalation": False,
    "privileged": False,
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def volumes(options: Options) -> list[dict[str, Any]]:
    """Return the volumes that are added to a pod."""
    labels = {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}
    added: list[dict[str, Any]] = [
        {"name": POLICY_VOLUME, "secret": {"secretName": options.policy_secret, "defaultMode": _READABLE}},
        {"name": POD_VOLUME, "downwardAPI": {"items": [labels], "defaultMode": _READABLE}},
        {"name": HOME_VOLUME, "emptyDir": {}},
        {"name": NO_TOKEN_VOLUME, "emptyDir": {}},
    ]
    return [*added, {"name": TRUST_VOLUME, "emptyDir": {}}] if options.intercept_tls else added


def init_container(options: Options) -> dict[str, Any]:
    """Return the container that redirects the pod's connections. It ends before any other of the pod's starts."""
    lists = {
        "SIDESTREAM_PORTS": options.include_ports,
        "SIDESTREAM_EXCLUDE_PORTS": options.exclude_ports,
        "SIDESTREAM_INCLUDE_CIDRS": options.include_cidrs,
        "SIDESTREAM_EXCLUDE_CIDRS": options.exclude_cidrs,
    }
    # Said although they are the defaults: Kubernetes would say SIDESTREAM_PROXY_PORT for a Service "sidestream-proxy".
    said = {"SIDESTREAM_PROXY_PORT": str(PROXY_PORT), "SIDESTREAM_PROXY_UID": str(UID)}
    said |= {name: ",".join(map(str, items)) for name, items in lists.items() if items}
    if options.intercept_tls:
        said["SIDESTREAM_INTERCEPT_TLS"] = "on"
    return {
        "name": INIT_CONTAINER,
        **_image(options.init_image, options),
        "env": [{"name": name, "value": value} for name, value in said.items()],
        "resources": _resources(options),
        "securityContext": {
            **_HARDENED,
            "runAsUser": INIT_UID,
            "runAsGroup": INIT_UID,
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [_NO_TOKEN],
    }


def sidecar(options: Options, grace_seconds: int | None) -> dict[str, Any]:
    """Return the proxy. `grace_seconds`: how long the pod has to end, if it says so."""
    args = ["run", "--mode=transparent", f"--policies={POLICY_FOLDER}", f"--labels={POD_FOLDER}/labels"]
    args += [f"--admin=127.0.0.1:{ADMIN_PORT}", f"--log-level={options.log_level}", f"--grace={LAST_SECONDS}"]
    mounts = [
        {"name": POLICY_VOLUME, "mountPath": POLICY_FOLDER, "readOnly": True},
        {"name": POD_VOLUME, "mountPath": POD_FOLDER, "readOnly": True},
        {"name": HOME_VOLUME, "mountPath": HOME},
    ]
    if options.intercept_tls:
        args += ["--intercept-tls", f"--trust-dir={TRUST_FOLDER}"]
        mounts.append({"name": TRUST_VOLUME, "mountPath": TRUST_FOLDER})
    container = {
        "name": SIDECAR,
        **_image(options.image, options),
        "args": args,
        "env": [
            _from_pod("POD_NAME", "metadata.name"),
            _from_pod("POD_NAMESPACE", "metadata.namespace"),
            *({"name": name, "value": value} for name, value in options.environment.items()),
        ],
        "resources": _resources(options),
        "securityContext": {
            **_HARDENED,
            "runAsUser": UID,
            "runAsGroup": UID,
            "capabilities": {"drop": ["ALL"]},
        },
        "startupProbe": _probe("ready", period=1, failures=START_SECONDS),
        "readinessProbe": _probe("ready", period=10, failures=3),
        "livenessProbe": _probe("live", period=20, failures=3),
        "lifecycle": _lifecycle(options, GRACE_SECONDS if grace_seconds is None else grace_seconds),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [*mounts, _NO_TOKEN],
    }
    if options.native_sidecar:
        return container | {"restartPolicy": "Always"}
    del container["startupProbe"]  # containers after it wait for `postStart`
    return container


_NO_TOKEN = {"name": NO_TOKEN_VOLUME, "mountPath": _TOKEN_FOLDER, "readOnly": True}


def _image(name: str, options: Options) -> dict[str, Any]:
    policy = options.image_pull_policy
    return {"image": name} | ({"imagePullPolicy": policy} if policy is not None else {})


def _resources(options: Options) -> dict[str, Any]:
    """Return the resources: the same for both, so that a pod's quality of service is not lost to the init container."""
    asked = options.resources
    requests = {"cpu": asked.cpu_request, "memory": asked.memory_request}
    limits = {"cpu": asked.cpu_limit, "memory": asked.memory_limit}
    said = {"requests": requests, "limits": limits}
    parts = {name: {resource: text for resource, text in part.items() if text} for name, part in said.items()}
    return {name: part for name, part in parts.items() if part}


def _from_pod(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def _lifecycle(options: Options, grace_seconds: int) -> dict[str, Any]:
    hooks = {}
    if not options.native_sidecar:
        hooks["postStart"] = {"exec": {"command": _ask("ready", f"--wait={START_SECONDS}")}}
    # A native sidecar is told to end when the app has ended, another one at the same time as the app.
    quiet = [] if options.native_sidecar else [f"--for={QUIET_SECONDS}"]
    wait = max(grace_seconds - LEFT_SECONDS, 0)
    hooks["preStop"] = {"exec": {"command": _ask("idle", *quiet, f"--wait={wait}")}}
    return hooks


def _probe(state: str, *, period: int, failures: int) -> dict[str, Any]:
    return {
        "exec": {"command": _ask(state)},
        "periodSeconds": period,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def _ask(state: str, *flags: str) -> list[str]:
    return ["python", "-m", "sidestream.cli.probing", state, *flags]
