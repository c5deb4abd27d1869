"""
The script as the init container's image runs it: not root, with file capabilities, privileges that cannot grow.

There is no container engine in the tests. Programs get the capabilities that the Dockerfile gives them, and
`LAUNCHER` starts the shell the way runc does.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.init_container.network import PATH, SCRIPT

DOCKERFILE = SCRIPT.with_name("Dockerfile")

NET_ADMIN, NET_RAW = 12, 13  # linux/capability.h

# Arguments: the capabilities that `securityContext.capabilities` leaves, comma-separated; the program; its arguments.
LAUNCHER = """\
import ctypes, os, sys

PR_SET_KEEPCAPS, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 8, 24, 38
LINUX_CAPABILITY_VERSION_3 = 0x20080522

libc = ctypes.CDLL(None, use_errno=True)
kept = {int(number) for number in sys.argv[1].split(",") if number}
for number in range(41):
    if number not in kept:
        libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0)
libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
header = (ctypes.c_uint32 * 2)(LINUX_CAPABILITY_VERSION_3, 0)
mask = sum(1 << number for number in kept)
sets = (ctypes.c_uint32 * 6)(mask, mask, 0, 0, 0, 0)  # effective, permitted, inheritable; then the upper halves
if libc.capset(header, sets):
    raise OSError(ctypes.get_errno(), "capset")
libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.fixture
def image():
    """A folder with the programs of the image, with the capabilities that the Dockerfile says."""
    sources = {"sh": "dash", "xtables-nft-multi": "iptables-nft", "xtables-legacy-multi": "iptables-legacy"}
    capabilities = re.findall(r"setcap (\S+) (\S+)", DOCKERFILE.read_text())
    if not shutil.which("setcap", path=PATH):
        pytest.skip("no setcap here")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)  # for uid 65534, to whom pytest's own folders are closed
        for wanted, path in capabilities:
            program = folder / Path(path).name
            source = shutil.which(sources[program.name], path=PATH)
            if not source:
                pytest.skip(f"no {sources[program.name]} here")
            shutil.copy(Path(source).resolve(), program)
            subprocess.run(["setcap", wanted, program], env={"PATH": PATH}, check=True)
        for backend in ("nft", "legacy"):
            for link in (
                f"{family}-{backend}{verb}"
                for family in ("iptables", "ip6tables")
                for verb in ("", "-save", "-restore")
            ):
                (folder / link).symlink_to(f"xtables-{backend}-multi")
        shutil.copy(SCRIPT, folder)
        (folder / "lock").touch(0o444)  # as on a read-only root: there, but not to be written
        yield folder


@pytest.fixture
def as_in_the_image(namespace, image):
    """Run the script in `namespace` as uid 65534 with these capabilities."""

    def run(capabilities, *arguments):
        kept = ",".join(map(str, capabilities))
        return namespace.run(
            *(sys.executable, "-c", LAUNCHER, kept, str(image / "sh"), str(image / "redirect.sh"), *arguments),
            check=False,
            PATH=f"{image}:{PATH}",
            XTABLES_LOCKFILE=str(image / "lock"),
        )

    return run


@pytest.mark.parametrize(
    ("capabilities", "backend_option", "used"),
    [
        ([NET_ADMIN, NET_RAW], "auto", "nft"),
        ([NET_ADMIN, NET_RAW], "nft", "nft"),
        ([NET_ADMIN, NET_RAW], "legacy", "legacy"),
        ([NET_ADMIN], "auto", "nft"),
        ([NET_ADMIN], "nft", "nft"),
    ],
)
def test_it_applies_and_cleans_up_without_root(namespace, as_in_the_image, capabilities, backend_option, used):
    applied = as_in_the_image(capabilities, "--backend", backend_option, "--intercept-tls", "on")
    saved = namespace.save(used)
    cleaned = as_in_the_image(capabilities, "--backend", backend_option, "--cleanup")

    assert applied.returncode == 0, applied.stderr
    assert f"applied and verified ({used}, IPv4 and IPv6)" in applied.stdout
    assert saved.count("-j SIDESTREAM_QUIC") == 2
    assert cleaned.returncode == 0, cleaned.stderr
    assert "SIDESTREAM" not in namespace.save(used)


@pytest.mark.parametrize(
    ("capabilities", "backend_option"),
    [([], "auto"), ([], "nft"), ([], "legacy"), ([NET_RAW], "nft"), ([NET_ADMIN], "legacy")],
)
@pytest.mark.parametrize("action", [[], ["--cleanup"]], ids=["apply", "cleanup"])
def test_without_the_capabilities_it_fails_and_names_them(
    namespace, as_in_the_image, capabilities, backend_option, action
):
    failed = as_in_the_image(capabilities, "--backend", backend_option, *action)

    assert failed.returncode == 1
    assert "The capability NET_ADMIN is missing (the legacy back end needs NET_RAW too)" in failed.stderr
    assert "securityContext.capabilities.add" in failed.stderr


def test_without_root_auto_finds_legacy_rules_that_are_in_use(namespace, as_in_the_image):
    namespace.restore("iptables-legacy-restore", "*nat\n-A OUTPUT -d 192.0.2.1 -j ACCEPT\nCOMMIT\n")

    applied = as_in_the_image([NET_ADMIN, NET_RAW])

    assert "applied and verified (legacy" in applied.stdout
