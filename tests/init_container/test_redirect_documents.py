"""
What `--dry-run` prints, scenario by scenario, against `goldens/`.

After an intended change, write the goldens again and read the difference:

    SIDESTREAM_TEST_UPDATE_GOLDENS=1 python -m pytest tests/init_container/test_redirect_documents.py
    git diff tests/init_container/goldens
"""

import os
import re
from pathlib import Path

import pytest

GOLDENS = Path(__file__).parent / "goldens"

EVERYTHING = {
    "--proxy-port": "16001-16004",
    "--proxy-uid": "4242",
    "--ports": "80,8080",
    "--intercept-tls": "on",
    "--exclude-ports": "22,3306",
    "--include-cidrs": "203.0.113.0/24,2001:db8::/32",
    "--exclude-cidrs": "203.0.113.7,2001:db8:7::/48",
}

SCENARIOS = {
    "defaults": [],
    "everything": [argument for option in EVERYTHING.items() for argument in option],
    "intercept-tls": ["--intercept-tls=on"],
    "port-443-named-without-tls": ["--ports=80,443"],
    "port-443-excluded": ["--intercept-tls=on", "--exclude-ports=443"],
    "one-other-port": ["--ports=8000"],
    "sixteen-ports-take-two-rules": ["--ports=" + ",".join(map(str, range(8001, 8017)))],
    "excluded-ports": ["--exclude-ports=22,3306,5432"],
    "proxy-port-range": ["--proxy-port=15001-15004"],
    "other-uid": ["--proxy-uid=4242"],
    "excluded-cidrs-of-both-families": ["--intercept-tls=on", "--exclude-cidrs=10.0.0.0/8,fd00::/8,192.168.0.1"],
    "included-cidrs-of-both-families": ["--intercept-tls=on", "--include-cidrs=203.0.113.0/24,2001:db8::/32"],
    "included-cidrs-of-ipv4-only": ["--intercept-tls=on", "--include-cidrs=203.0.113.0/24"],
    "proxy-elsewhere": ["--proxy-address=10.96.0.15"],
    "proxy-elsewhere-over-ipv6": ["--proxy-address=fd00::15", "--proxy-port=16001"],
    "proxy-elsewhere-for-what-is-included": [
        "--proxy-address=10.96.0.15",
        "--ports=80,443",
        "--exclude-ports=22",
        "--include-cidrs=203.0.113.0/24,2001:db8::/32",
        "--exclude-cidrs=203.0.113.7,2001:db8:7::/48",
    ],
    "cleanup": ["--cleanup"],
    "cleanup-after-proxy-elsewhere": ["--cleanup", "--proxy-address=10.96.0.15"],
    "cleanup-after-intercept-tls": ["--cleanup", "--intercept-tls=on"],
}


def golden(scenario):
    return (GOLDENS / f"{scenario}.txt").read_text()


def update_golden_if_asked_to(scenario, text):
    if os.environ.get("SIDESTREAM_TEST_UPDATE_GOLDENS"):
        (GOLDENS / f"{scenario}.txt").write_text(text)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_documents_of_a_scenario_are_its_golden(redirect, shell, scenario):
    printed = redirect(shell, "--dry-run", *SCENARIOS[scenario])
    update_golden_if_asked_to(scenario, printed.stdout)

    assert printed.returncode == 0, printed.stderr
    assert printed.stdout == golden(scenario)


def test_every_golden_belongs_to_a_scenario():
    names = {path.stem for path in GOLDENS.iterdir()}

    assert names == set(SCENARIOS)


def test_options_from_the_environment_give_the_documents_of_the_flags(redirect, shell):
    variables = {f"SIDESTREAM_{flag.strip('-').replace('-', '_').upper()}": value for flag, value in EVERYTHING.items()}

    printed = redirect(shell, "--dry-run", **variables)

    assert printed.stdout == golden("everything")


def test_a_flag_wins_over_its_variable_even_over_a_wrong_one(redirect, shell):
    printed = redirect(shell, "--dry-run", "--ports", "8000", SIDESTREAM_PORTS="nonsense")

    assert printed.stdout == golden("one-other-port")


def test_every_rule_has_a_comment(redirect, sh):
    printed = redirect(sh, "--dry-run", *SCENARIOS["everything"])

    rules = [line for line in printed.stdout.splitlines() if line.startswith(("-A", "-I"))]

    assert rules
    assert [rule for rule in rules if not re.search(r'--comment "sidestream/[a-z-]+" -j', rule)] == []


@pytest.mark.parametrize("scenario", [name for name in SCENARIOS if not name.startswith("cleanup")])
def test_iptables_accepts_the_documents_of_a_scenario(namespace, backend, scenario):
    _, ipv4, ipv6 = re.split(r"# IPv[46]:.*\n", golden(scenario))

    namespace.restore(f"iptables-{backend}-restore", ipv4, "--test")
    namespace.restore(f"ip6tables-{backend}-restore", ipv6, "--test")

    assert "SIDESTREAM" not in namespace.save(backend)


def test_dry_run_asks_no_iptables(redirect, shell, no_iptables):
    printed = redirect(shell, "--dry-run")

    assert printed.returncode == 0, printed.stderr
    assert no_iptables.calls() == []
