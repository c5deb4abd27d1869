"""What the tables hold after the script ran: real iptables, in a namespace of the test's own."""

import pytest

EVERYTHING = [
    "--intercept-tls=on",
    "--proxy-port=16001-16004",
    "--proxy-uid=4242",
    "--ports=80,8080",
    "--exclude-ports=22",
    "--include-cidrs=203.0.113.0/24,2001:db8::/32",
    "--exclude-cidrs=203.0.113.7,2001:db8:7::/48",
]

# Rules of somebody else, with counters, in the chains that we jump from and with our names in their comments.
FOREIGN = """\
*nat
:FOREIGN - [0:0]
[7:420] -A OUTPUT -p tcp -m tcp --dport 53 -m comment --comment "not our -j SIDESTREAM_QUIC" -j ACCEPT
[3:180] -A OUTPUT -m comment --comment SIDESTREAM_OUTPUT -j FOREIGN
[2:120] -A FOREIGN -p tcp -m tcp --dport 9 -j REDIRECT --to-ports 99
COMMIT
*filter
:FOREIGN - [0:0]
[5:300] -A OUTPUT -p udp -m udp --dport 443 -m owner --uid-owner 42 -j DROP
[1:60] -A OUTPUT -j FOREIGN
COMMIT
*mangle
[4:240] -A OUTPUT -p tcp -j MARK --set-xmark 0x1/0xffffffff
COMMIT
"""


def add_foreign_rules(namespace, backend):
    for program in ("iptables", "ip6tables"):
        namespace.restore(f"{program}-{backend}-restore", FOREIGN, "--counters")


def ours(saved):
    return [line for line in saved.splitlines() if "SIDESTREAM_" in line]


def applied(namespace, shell, *arguments):
    result = namespace.redirect(shell, *arguments)
    assert result.returncode == 0, result.stderr
    return result


@pytest.mark.parametrize("arguments", [[], EVERYTHING], ids=["defaults", "everything"])
def test_applied_twice_equals_once(namespace, backend, shell, arguments):
    add_foreign_rules(namespace, backend)
    applied(namespace, shell, "--backend", backend, *arguments)
    once = namespace.save(backend)

    applied(namespace, shell, "--backend", backend, *arguments)

    assert namespace.save(backend) == once


@pytest.mark.parametrize(("first", "then"), [([], EVERYTHING), (EVERYTHING, [])], ids=["to more", "to less"])
def test_applied_with_other_options_equals_only_those(namespace, backend, sh, first, then):
    applied(namespace, sh, "--backend", backend, *then)
    expected = ours(namespace.save(backend))
    applied(namespace, sh, "--cleanup")
    applied(namespace, sh, "--backend", backend, *first)

    applied(namespace, sh, "--backend", backend, *then)

    assert ours(namespace.save(backend)) == expected


def test_both_families_get_one_jump_to_each_chain(namespace, backend, sh):
    applied(namespace, sh, "--backend", backend, "--intercept-tls", "on")
    applied(namespace, sh, "--backend", backend, "--intercept-tls", "on")

    saved = namespace.save(backend)

    assert saved.count("-j SIDESTREAM_OUTPUT") == 2
    assert saved.count("-j SIDESTREAM_QUIC") == 2


def test_jumps_too_many_are_reduced_to_one(namespace, backend, sh):
    applied(namespace, sh, "--backend", backend)
    once = namespace.save(backend)
    for program in ("iptables", "ip6tables"):
        extra = "*nat\n-A OUTPUT -j SIDESTREAM_OUTPUT\n-A OUTPUT -p tcp -g SIDESTREAM_OUTPUT\nCOMMIT\n"
        namespace.restore(f"{program}-{backend}-restore", extra)

    applied(namespace, sh, "--backend", backend)

    assert namespace.save(backend) == once


@pytest.mark.parametrize("arguments", [[], EVERYTHING], ids=["defaults", "everything"])
def test_cleanup_restores_the_tables_to_the_byte(namespace, backend, shell, arguments):
    add_foreign_rules(namespace, backend)
    before = namespace.save(backend, "--counters")
    applied(namespace, shell, "--backend", backend, *arguments)

    cleaned = applied(namespace, shell, "--cleanup")

    assert namespace.save(backend, "--counters") == before
    assert cleaned.stdout == "redirect.sh: removed\n"


def test_foreign_rules_keep_their_places_and_counters_while_ours_come_and_change(namespace, backend, sh):
    add_foreign_rules(namespace, backend)
    before = namespace.save(backend, "--counters").splitlines()

    applied(namespace, sh, "--backend", backend, *EVERYTHING)
    applied(namespace, sh, "--backend", backend)

    after = namespace.save(backend, "--counters").splitlines()
    assert [line for line in after if not line.startswith(":SIDESTREAM_") and "sidestream/" not in line] == before


def test_cleanup_is_fine_when_there_is_nothing(namespace, backend, sh):
    add_foreign_rules(namespace, backend)
    before = namespace.save(backend, "--counters")

    cleaned = applied(namespace, sh, "--cleanup")

    assert namespace.save(backend, "--counters") == before
    assert cleaned.stdout == "redirect.sh: there was nothing to remove\n"


def test_cleanup_leaves_an_untouched_namespace_untouched(namespace, backend, sh):
    cleaned = applied(namespace, sh, "--cleanup")

    assert namespace.save("nft") == namespace.save("legacy") == ""
    assert cleaned.stdout == "redirect.sh: there was nothing to remove\n"


def test_cleanup_of_one_backend_leaves_the_other_alone(namespace, backend, sh):
    other = {"nft": "legacy", "legacy": "nft"}[backend]
    applied(namespace, sh, "--backend", backend)
    before = namespace.save(backend)

    applied(namespace, sh, "--cleanup", "--backend", other)

    assert namespace.save(backend) == before


def test_the_summary_says_what_was_applied(namespace, sh):
    result = applied(namespace, sh, *EVERYTHING)

    assert result.stdout == (
        "redirect.sh: applied and verified (nft, IPv4 and IPv6)\n"
        "  redirected   TCP to ports 80,8080,443 -> 16001-16004\n"
        "  only to      203.0.113.0/24,2001:db8::/32\n"
        "  never        from uid 4242, to loopback, to ports 22, to 203.0.113.7,2001:db8:7::/48\n"
        "  rejected     UDP to port 443 (QUIC), where TCP would be redirected\n"
    )


def test_the_summary_says_when_nothing_of_a_family_is_included(namespace, sh):
    result = applied(namespace, sh, "--include-cidrs", "203.0.113.0/24")

    assert "  nothing      over IPv6: none of it is included\n" in result.stdout


def test_auto_takes_nft_where_nothing_is_in_use(namespace, backend, sh):
    result = applied(namespace, sh)

    assert "applied and verified (nft" in result.stdout


@pytest.mark.parametrize("program", ["iptables", "ip6tables"])
def test_auto_takes_legacy_where_legacy_rules_are_in_use(namespace, sh, program):
    namespace.restore(f"{program}-legacy-restore", "*mangle\n-A OUTPUT -p tcp -j MARK --set-mark 1\nCOMMIT\n")

    result = applied(namespace, sh)

    assert "applied and verified (legacy" in result.stdout


def test_auto_takes_legacy_where_nft_does_not_work(namespace, sh, stubs):
    stubs.write("iptables-nft", "echo 'iptables: Failed to initialize nft: Protocol not supported' >&2; exit 1\n")

    result = namespace.redirect(sh, PATH=stubs.search_path)

    assert "applied and verified (legacy" in result.stdout


def test_auto_stays_with_the_backend_of_an_earlier_run(namespace, backend, sh):
    applied(namespace, sh, "--backend", backend)

    result = applied(namespace, sh)

    assert f"applied and verified ({backend}" in result.stdout


def test_applying_with_one_backend_removes_the_rules_of_the_other(namespace, backend, sh):
    other = {"nft": "legacy", "legacy": "nft"}[backend]
    applied(namespace, sh, "--backend", other, "--intercept-tls", "on")

    applied(namespace, sh, "--backend", backend)

    assert "SIDESTREAM" not in namespace.save(other)
    assert "SIDESTREAM" in namespace.save(backend)


@pytest.mark.parametrize("backend_option", ["auto", "the one"])
def test_programs_under_plain_names_are_used_for_the_backend_they_are_of(
    namespace, backend, sh, plain_programs, backend_option
):
    folder, script = plain_programs(backend)
    choice = {"auto": "auto", "the one": backend}[backend_option]

    result = namespace.run(*sh, str(script), "--backend", choice, PATH=str(folder), check=False)

    assert f"applied and verified ({backend}, IPv4 and IPv6)" in result.stdout
    assert namespace.save(backend).count("-j SIDESTREAM_OUTPUT") == 2


def test_dry_run_changes_nothing(namespace, backend, shell):
    applied(namespace, shell, "--backend", backend)
    before = namespace.save(backend)

    namespace.redirect(shell, "--dry-run", "--backend", backend, *EVERYTHING)
    namespace.redirect(shell, "--dry-run", "--cleanup", "--backend", backend)

    assert namespace.save(backend) == before


def test_a_namespace_without_any_address_gets_both_families(namespace, backend, sh):
    result = applied(namespace, sh, "--backend", backend)

    assert f"({backend}, IPv4 and IPv6)" in result.stdout
