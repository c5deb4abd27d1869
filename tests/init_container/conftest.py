"""The redirect script under two shells, stand-ins for iptables, and namespaces to run the script in."""

import itertools
import os
import shutil
import subprocess

import pytest

from tests.init_container.network import PATH, SCRIPT, TIMEOUT_SECONDS, environment, fresh_namespace, fresh_pod

SHELLS = {"dash": ["dash"], "busybox": ["busybox", "sh"]}


@pytest.fixture(params=SHELLS)
def shell(request):
    """The command of each shell the script must run under."""
    command = SHELLS[request.param]
    if not shutil.which(command[0], path=PATH):
        pytest.skip(f"no {command[0]} here")
    return command


@pytest.fixture
def sh():
    """The command of one shell, for tests that are about the kernel and not about the shell."""
    return ["sh"]


class Stubs:
    """Programs to put first on the PATH."""

    def __init__(self, folder):
        self.folder = folder
        self.search_path = f"{folder}{os.pathsep}{PATH}"

    def write(self, name, text):
        program = self.folder / name
        program.write_text("#!/bin/sh\n" + text)
        program.chmod(0o755)

    def calls(self):
        log = self.folder / "calls"
        return log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def stubs(tmp_path):
    """`Stubs`, none yet."""
    folder = tmp_path / "stubs"
    folder.mkdir()
    return Stubs(folder)


@pytest.fixture
def no_iptables(stubs):
    """`Stubs` that only note their calls, in place of every program of iptables."""
    names = itertools.product(("iptables", "ip6tables"), ("", "-nft", "-legacy"), ("", "-save", "-restore"))
    for name in map("".join, names):
        stubs.write(name, f'echo "{name} $*" >>{stubs.folder}/calls\n')
    return stubs


@pytest.fixture
def redirect(no_iptables):
    """Run the script where the tests run, not in a namespace: it finds only stand-ins of iptables there."""

    def run(shell, *arguments, **variables):
        return subprocess.run(
            [*shell, SCRIPT, *arguments],
            env=environment(PATH=no_iptables.search_path, **variables),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )

    return run


@pytest.fixture
def plain_programs(tmp_path):
    """
    Make a PATH with nothing on it but what the script needs, and the script to use it with.

    Of iptables it has one back end's programs under their plain names, or none.
    """

    def make(backend):
        folder = tmp_path / "bin"
        folder.mkdir()
        links = {name: name for name in ("sh", "dash", "busybox", "ip", "cat", "cut", "grep", "sed", "sort", "tr")}
        if backend:
            names = itertools.product(("iptables", "ip6tables"), ("", "-save", "-restore"))
            links |= {f"{family}{verb}": f"{family}-{backend}{verb}" for family, verb in names}
        for link, program in links.items():
            if target := shutil.which(program, path=PATH):
                (folder / link).symlink_to(target)
        widens_path = "PATH=$PATH:/usr/sbin:/sbin\n"
        assert widens_path in SCRIPT.read_text()
        script = tmp_path / SCRIPT.name
        script.write_text(SCRIPT.read_text().replace(widens_path, ""))
        return folder, script

    return make


@pytest.fixture
def namespace():
    """A `Namespace` with nothing in it but loopback."""
    with fresh_namespace() as made:
        yield made


@pytest.fixture(params=["nft", "legacy"])
def backend(request, namespace):
    """Each back end of iptables that works here, asked in `namespace`."""
    probe = namespace.run("sh", "-c", f"iptables-{request.param}-save && ip6tables-{request.param}-save", check=False)
    if probe.returncode:
        pytest.skip(f"the {request.param} back end does not work here: {probe.stderr.strip()}")
    return request.param


@pytest.fixture
def pod():
    """A `Pod` without rules."""
    with fresh_pod() as made:
        yield made
