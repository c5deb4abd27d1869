"""When rules cannot be applied: what was there before is there after, and the message says what to do."""

import shutil
import tempfile
from pathlib import Path

import pytest

from tests.init_container.network import PATH, SCRIPT

# Stand-ins for `ip6tables-nft-restore` and the like. REAL is replaced by the real one.
FAILS = "cat >/dev/null; echo 'line 9 failed: No such file or directory' >&2; exit 1\n"
FAILS_IN_EARNEST = f'case "$*" in *--test*) exec REAL "$@" ;; esac; {FAILS}'
FAILS_AT_THE_SECOND_TABLE = f"""\
case "$*" in *--test*) exec REAL "$@" ;; esac
document=$(cat)
case $document in
*"-I OUTPUT 1 -p udp"*) printf '%s\\n' "$document" | sed '/^\\*filter/,$d' | REAL "$@"; {FAILS} ;;
esac
printf '%s\\n' "$document" | REAL "$@"
"""
DOES_NOTHING = "cat >/dev/null\n"


def real(name):
    return shutil.which(name, path=PATH)


def rules(saved):
    """Return chains of ours and rules of anyone, without the built-in chains: those stay once a table was used."""
    return [line for line in saved.splitlines() if line.startswith((":SIDESTREAM", "-A"))]


@pytest.fixture
def broken(namespace, backend, stubs, sh):
    """Run the script with one of iptables' programs replaced."""

    def run(program, text, *arguments):
        name = program.replace("BACKEND", backend)
        stubs.write(name, text.replace("REAL", real(name)))
        return namespace.redirect(sh, "--backend", backend, *arguments, PATH=stubs.search_path)

    return run


# What breaks how, and what is said of it.
BREAKAGES = {
    "IPv4 is refused": ("iptables-BACKEND-restore", FAILS, "the rules for IPv4 would not be accepted. Nothing was"),
    "IPv6 is refused": ("ip6tables-BACKEND-restore", FAILS, "the rules for IPv6 would not be accepted. Nothing was"),
    "IPv4 fails half-way": (
        "iptables-BACKEND-restore",
        FAILS_AT_THE_SECOND_TABLE,
        "for IPv4 were not accepted. What was",
    ),
    "IPv6 fails half-way": (
        "ip6tables-BACKEND-restore",
        FAILS_AT_THE_SECOND_TABLE,
        "for IPv6 were not accepted. What was",
    ),
    "IPv6 fails after IPv4": ("ip6tables-BACKEND-restore", FAILS_IN_EARNEST, "for IPv6 were not accepted. What was"),
    "IPv6 only seems to work": ("ip6tables-BACKEND-restore", DOES_NOTHING, "for IPv6 were accepted but are not there"),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_a_failure_leaves_earlier_rules_as_they_were(namespace, backend, sh, broken, breakage):
    program, text, message = BREAKAGES[breakage]
    namespace.redirect(sh, "--backend", backend, "--ports=8080", "--exclude-cidrs=10.0.0.0/8,fd00::/8")
    before = rules(namespace.save(backend))

    failed = broken(program, text, "--intercept-tls", "on")

    assert failed.returncode == 1
    assert message in failed.stderr
    assert failed.stdout == ""
    assert rules(namespace.save(backend)) == before


@pytest.mark.parametrize("breakage", ["IPv4 fails half-way", "IPv6 fails after IPv4", "IPv6 only seems to work"])
def test_a_failure_of_the_first_run_leaves_nothing(namespace, backend, broken, breakage):
    program, text, message = BREAKAGES[breakage]

    failed = broken(program, text, "--intercept-tls", "on")

    assert failed.returncode == 1
    assert message in failed.stderr
    assert rules(namespace.save(backend)) == []


def test_what_iptables_said_is_passed_on(broken):
    failed = broken("ip6tables-BACKEND-restore", FAILS)

    assert "  line 9 failed: No such file or directory\n" in failed.stderr
    assert "load the modules on the node, or give the other --backend" in failed.stderr


IP6TABLES_DOES_NOT_WORK = 'echo "can\'t initialize ip6tables table: Table does not exist" >&2; exit 3\n'


def test_without_ip6tables_and_without_an_ipv6_address_ipv4_is_redirected_and_it_says_so(namespace, backend, broken):
    applied = broken("ip6tables-BACKEND", IP6TABLES_DOES_NOT_WORK)

    assert applied.returncode == 0, applied.stderr
    assert "IPv6 is not available here" in applied.stdout
    assert f"applied and verified ({backend}, IPv4)" in applied.stdout
    assert namespace.save(backend).count("-j SIDESTREAM_OUTPUT") == 1


def test_without_ip6tables_but_with_an_ipv6_address_it_refuses(namespace, backend, broken):
    namespace.ip("link add eth0 type veth peer name peer", "address add fd99::1/64 dev eth0 nodad", "link set eth0 up")

    failed = broken("ip6tables-BACKEND", IP6TABLES_DOES_NOT_WORK)

    assert failed.returncode == 1
    assert "there is an IPv6 address: traffic over it would bypass the proxy" in failed.stderr
    assert "Table does not exist" in failed.stderr
    assert "SIDESTREAM" not in namespace.save(backend)


@pytest.mark.parametrize("action", [[], ["--cleanup"]], ids=["apply", "cleanup"])
@pytest.mark.parametrize("backend_option", [[], ["--backend=nft"], ["--backend=legacy"]], ids=["auto", "nft", "legacy"])
def test_without_iptables_it_says_what_to_install(namespace, shell, plain_programs, action, backend_option):
    folder, script = plain_programs(backend=None)

    failed = namespace.run(*shell, str(script), *action, *backend_option, PATH=str(folder), check=False)

    assert failed.returncode == 1
    assert "not installed" in failed.stderr
    assert "Install iptables (Debian: iptables; Alpine: iptables and iptables-legacy)" in failed.stderr


NOT_ROOT = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


@pytest.fixture(scope="module")
def public_script():
    """The script where everybody may read it: a checkout may be in a folder that is its owner's alone."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield shutil.copy(SCRIPT, folder)


@pytest.mark.parametrize("action", [[], ["--cleanup"]], ids=["apply", "cleanup"])
@pytest.mark.parametrize("backend_option", ["auto", "nft"])
def test_without_rights_it_names_the_capability(namespace, shell, public_script, backend_option, action):
    failed = namespace.run(*NOT_ROOT, *shell, public_script, "--backend", backend_option, *action, check=False)

    assert failed.returncode == 1
    assert "The capability NET_ADMIN is missing" in failed.stderr


def test_without_a_lock_file_it_says_which_folder_to_mount(namespace, sh):
    failed = namespace.redirect(sh, "--backend=legacy", XTABLES_LOCKFILE="/proc/no/such/folder/lock")

    assert failed.returncode == 1
    assert "mount a writable /run (an emptyDir), or use --backend nft" in failed.stderr
