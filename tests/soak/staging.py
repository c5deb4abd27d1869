"""The stage: a CA, three providers in processes of their own, policies, and a real `sidestream run`."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sidestream.demo.certificates import Authority
from tests.soak.asking import DEAD_FIRST, DIRECT, MISTRUSTED_FIRST, ROUTED
from tests.world import BIN, ROOT, Proxy, free_port, provider_document, started

ILLNESS = {"alpha": 0.5, "beta": 0.4, "gamma": 0.15}
"""Provider → how often a change of its health is for the worse. The fallback is the healthiest."""

RULE = {
    "retry": {"attempts": 3, "backoff": {"base": "20ms", "max": "100ms"}},
    "timeouts": {"connect": "1s", "firstByte": "2s", "streamIdle": "2s", "request": "10s"},
}
WEIGHTED = [
    {"providerHost": "alpha.test", "weight": 70},
    {"providerHost": "beta.test", "weight": 30},
]
LAST = {"providerHost": "gamma.test", "weight": 1, "priority": 1}


@dataclass
class Stage:
    """All that runs. `keys`: the provider's and the client's; neither may turn up anywhere."""

    proxy: Proxy
    providers: dict[str, subprocess.Popen]
    ports: frozenset[int]
    folder: Path
    inside: Path
    keys: tuple[str, str] = field(repr=False)

    def be_moody(self):
        """Let the providers fail at random; before that, they are well."""
        for process in self.providers.values():
            process.send_signal(signal.SIGUSR2)

    def be_well(self):
        """Let the providers be well from now on."""
        for process in self.providers.values():
            process.send_signal(signal.SIGUSR1)

    def journal(self) -> list[dict]:
        """Read what the providers wrote down."""
        lines = []
        for name in self.providers:
            text = (self.folder / f"{name}.jsonl").read_text()
            lines += [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return lines


@contextlib.contextmanager
def staged(folder: Path, seed: int, flags: Sequence[str] = ()) -> Iterator[Stage]:
    """Put all in place in `folder`; stop it at the end. `flags`: more of them for `sidestream run`."""
    keys = tuple(f"sk-marker-soak-{who}-{secrets.token_hex(8)}" for who in ("provider", "client"))
    environment = {
        "SOAK_PROVIDER_KEY": keys[0],
        "SOAK_CLIENT_KEY": keys[1],
        "SOAK_INSIDE": str(folder / "inside.jsonl"),
    }
    authority = Authority.create(folder / "ca")
    with contextlib.ExitStack() as stack:
        providers, ports = {}, {}
        for number, name in enumerate(ILLNESS):
            providers[name], ports[name] = stack.enter_context(
                _provider(name, authority, folder, seed + number, environment)
            )
        policies = _policies(folder, ports)
        port = free_port()
        command = [str(BIN / "sidestream"), "run", "--policies", str(policies), "--listen", f"127.0.0.1:{port}"]
        command += ["--upstream-ca", str(authority.ca_file), "--confdir", str(folder / "confdir")]
        command += ["--log", str(folder / f"records-{port}.jsonl")]
        # A copy: the proxy loads a script again when it changes.
        inside_script = shutil.copy(Path(__file__).with_name("inside.py"), folder)
        command += ["--set", f"scripts={inside_script}"]
        inside = {name: value for name, value in environment.items() if name != "SOAK_CLIENT_KEY"}
        proxy = stack.enter_context(started([*command, *flags], folder, port, environment=inside))
        yield Stage(proxy, providers, frozenset(ports.values()), folder, folder / "inside.jsonl", keys)


@contextlib.contextmanager
def _provider(name, authority, folder, seed, environment):
    certificate = authority.issue(f"{name}.test")
    command = [sys.executable, "-m", "tests.soak.provider", "--name", name, "--folder", str(folder)]
    command += ["--cert", str(certificate.cert_file), "--key", str(certificate.key_file)]
    command += ["--seed", str(seed), "--ill", str(ILLNESS[name])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | environment, cwd=ROOT) as process:
        try:
            yield process, int(process.stdout.readline())
        finally:
            process.terminate()


def _policies(folder, ports):
    policies = folder / "policies"
    policies.mkdir()
    key = "${SOAK_PROVIDER_KEY}"
    for name, port in ports.items():
        document = provider_document(f"{name}.test", port, key=key, model=f"{name}-model")
        (policies / f"{name}.yaml").write_text(document)
    # Nobody listens for the one, and the other has a certificate for another name.
    (policies / "dead.yaml").write_text(provider_document("dead.test", free_port(), key=key))
    (policies / "mistrusted.yaml").write_text(provider_document("mistrusted.test", ports["beta"], key=key))
    assert DIRECT == "alpha.test", "the provider without a route is one of them"
    for host, backends in {
        ROUTED: WEIGHTED,
        DEAD_FIRST: [{"providerHost": "dead.test", "weight": 1}],
        MISTRUSTED_FIRST: [{"providerHost": "mistrusted.test", "weight": 1}],
    }.items():
        rule = RULE | {"name": "only", "backendRefs": [*backends, LAST]}
        kind = {"apiVersion": "istio.alibabacloud.com/v1beta1", "kind": "LLMRoute"}
        route = kind | {"metadata": {"name": host.replace(".", "-")}, "spec": {"host": host, "rules": [rule]}}
        (policies / f"{host}.route.yaml").write_text(json.dumps(route))
    return policies
