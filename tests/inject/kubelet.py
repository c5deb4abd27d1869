"""
What a kubelet and its runtime make of a pod, as far as tests can: volumes, and containers one by one.

A container gets its own view of the file system (a root that holds this system's programs, this repository, and its
mounts), the pod's network, and exactly the environment, user, capabilities and limits that its pod and its image say.
There is no image, no seccomp filter and no cgroup. Volumes are folders; a Secret's is changed as kubelets do it.

Source: Kubernetes, "Volumes" and "Configure a Security Context"; setpriv(1), mount(8).
"""

import json
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.namespaces import PATH, ROOT, Namespace

IMAGES = ROOT / "init-container"
APP_UID = 1000
_SHARED = ("/usr", "/dev", "/proc", "/etc/alternatives", "/etc/ssl", "/etc/ld.so.cache")
_COPIED = ("/etc/passwd", "/etc/group", "/etc/hosts", "/etc/resolv.conf", "/etc/nsswitch.conf")
_LINKS = ("/bin", "/sbin", "/lib", "/lib64")


@dataclass(frozen=True)
class Image:
    """What an image says of its containers."""

    entrypoint: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    uid: int = APP_UID


def images() -> dict[str, Image]:
    """Return our images by their names: as the Dockerfiles have them, but with this system's programs."""
    text = (IMAGES / "sidecar.Dockerfile").read_text().replace("\\\n", " ")
    [declared] = [line.removeprefix("ENV ").split() for line in text.splitlines() if line.startswith("ENV HOME=")]
    own = dict(variable.split("=", 1) for variable in declared)
    [entrypoint] = re.findall(r"^ENTRYPOINT (.*)", text, flags=re.MULTILINE)
    path = f"{Path(sys.executable).parent}:{PATH}"
    return {
        "sidestream": Image(json.loads(entrypoint), own | {"PATH": path}),
        "sidestream-init": Image(["sh", str(IMAGES / "redirect.sh")], {"PATH": PATH}),
    }


class Kubelet:
    """Runs `pod` in `namespace`. `secrets`: name → file → text. `folder`: for what belongs to the pod."""

    def __init__(self, namespace: Namespace, pod: dict[str, Any], secrets: dict[str, dict[str, str]], folder: Path):
        self._namespace = namespace
        self._pod = pod
        self._folder = folder
        self._images = images()
        self._volumes = {volume["name"]: folder / "volumes" / volume["name"] for volume in pod["spec"]["volumes"]}
        for volume in pod["spec"]["volumes"]:
            path = self._volumes[volume["name"]]
            path.mkdir(parents=True)
            path.chmod(0o777 if "emptyDir" in volume else 0o755)
            if "secret" in volume:
                self._write(path, secrets[volume["secret"]["secretName"]], volume["secret"]["defaultMode"])
            if "downwardAPI" in volume:
                lines = "".join(f'{name}="{value}"\n' for name, value in sorted(pod["metadata"]["labels"].items()))
                self._write(path, {"labels": lines}, volume["downwardAPI"]["defaultMode"])

    def container(self, name: str) -> dict[str, Any]:
        """Return a container, or init container, of the pod."""
        spec = self._pod["spec"]
        return next(one for one in [*spec["initContainers"], *spec["containers"]] if one["name"] == name)

    def change_secret(self, name: str, files: dict[str, str]) -> None:
        """Let a Secret hold `files`, as its volumes show it: at once."""
        for volume in self._pod["spec"]["volumes"]:
            if volume.get("secret", {}).get("secretName") == name:
                self._write(self._volumes[volume["name"]], files, volume["secret"]["defaultMode"])

    def run(self, name: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run `command` in a container to its end (none: the container's own)."""
        return subprocess.run(self._inside(name, command), capture_output=True, text=True, timeout=60)

    def start(self, name: str, output: Path) -> subprocess.Popen:
        """Start a container."""
        with output.open("wb") as stream:
            return subprocess.Popen(
                self._inside(name, ()), stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT
            )

    def probe(self, name: str, probe: str) -> bool:
        """Ask a probe of a container once."""
        return self.run(name, *self.container(name)[probe]["exec"]["command"]).returncode == 0

    def hook(self, name: str, hook: str) -> int:
        """Run a hook of a container; return its exit status."""
        return self.run(name, *self.container(name)["lifecycle"][hook]["exec"]["command"]).returncode

    def _write(self, volume: Path, files: dict[str, str], mode: int) -> None:
        """Write a volume's files into a folder of their own, and point the one link above them there."""
        number = len(list(volume.glob("..2*")))
        fresh = volume / f"..2026_{number}"
        fresh.mkdir(mode=0o755)
        for name, text in files.items():
            (fresh / name).write_text(text)
            (fresh / name).chmod(mode)
            if not (volume / name).is_symlink():
                (volume / name).symlink_to(f"..data/{name}")
        (volume / "..data_tmp").symlink_to(fresh.name)
        (volume / "..data_tmp").replace(volume / "..data")

    def _inside(self, name: str, command: tuple[str, ...]) -> list[str]:
        container = self.container(name)
        image = self._images.get(container["image"].partition(":")[0], Image([]))
        own = [*container.get("command", image.entrypoint), *container.get("args", [])]
        context = container.get("securityContext", {})
        root = self._folder / f"root-of-{name}"
        root.mkdir(exist_ok=True)
        environment = image.environment | {one["name"]: self._value(one) for one in container.get("env", [])}
        variables = [f"{name}={value}" for name, value in ({"PATH": PATH} | environment).items()]
        script = [
            *self._view(root, container),
            shlex.join(["exec", "chroot", str(root), *_as(context, image)]) + ' "$@"',
        ]
        argv = ["env", "-i", "-C", environment.get("HOME", "/"), *variables, *(command or own)]
        return self._namespace.command("sh", "-euc", "\n".join(script), "sh", *argv)

    def _view(self, root: Path, container: dict[str, Any]) -> list[str]:
        """Return the commands that make what a container sees below `root`, in a view of one's own."""
        lines = [
            f"mount -t tmpfs -o mode=755 tmpfs {root}",
            f"mkdir -p {root}/etc {root}/run {root}/var/run {root}/tmp",
        ]
        lines.append(f"install -m 444 /dev/null {root}/run/xtables.lock")
        lines += [f"cp -L {path} {root}{path}" for path in _COPIED]
        lines += [f"ln -s usr{path} {root}{path}" for path in _LINKS if Path(path).is_symlink()]
        programs = [str(path) for path in (ROOT, Path(sys.prefix), Path(sys.base_prefix)) if path.parts[1] != "usr"]
        for path in (*_SHARED, *programs):
            kind = "mkdir -p" if Path(path).is_dir() else "touch"
            lines += [f"{kind} {root}{path}", f"mount --rbind {path} {root}{path}"]
        for mount in container.get("volumeMounts", []):
            place = f"{root}{mount['mountPath']}"
            lines += [f"mkdir -p {place}", f"mount --bind {self._volumes[mount['name']]} {place}"]
            lines += [f"mount -o remount,bind,ro {place}"] if mount.get("readOnly") else []
        if container.get("securityContext", {}).get("readOnlyRootFilesystem"):
            lines.append(f"mount -o remount,ro {root}")
        return lines

    def _value(self, variable: dict[str, Any]) -> str:
        if "value" in variable:
            return variable["value"]
        part: Any = self._pod
        for name in variable["valueFrom"]["fieldRef"]["fieldPath"].split("."):
            part = part[name]
        return part


def _as(context: dict[str, Any], image: Image) -> list[str]:
    """Return the prefix that makes a command the user, with the rights, that a security context says."""
    uid = context.get("runAsUser", image.uid)
    kept = "".join(f",+{name.lower()}" for name in context.get("capabilities", {}).get("add", []))
    flags = [
        f"--reuid={uid}",
        f"--regid={context.get('runAsGroup', uid)}",
        "--clear-groups",
        f"--bounding-set=-all{kept}",
    ]
    # Our init image gives its programs file capabilities; here there are none, so the shell hands them on.
    flags += [f"--inh-caps=-all{kept}", f"--ambient-caps=-all{kept}"]
    return ["setpriv", *flags, *(["--no-new-privs"] if context.get("allowPrivilegeEscalation") is False else []), "--"]


def environment_of(process: subprocess.Popen) -> dict[str, str]:
    """Return the environment that a process was started with."""
    content = Path(f"/proc/{process.pid}/environ").read_text()
    return dict(variable.split("=", 1) for variable in content.split("\0") if variable)


def status_of(process: subprocess.Popen) -> dict[str, str]:
    """Return what the kernel says of a process: name → text."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return {name: text.strip() for name, _, text in (line.partition(":") for line in lines)}
