"""Wrong options: each is named with what to do, all at once, before any rule is touched."""

import pytest

WRONG_PORT = "is not a port: ports are 1 to 65535"
WRONG_PROXY_PORT = "is not a port or a range of ports: ports are 1 to 65535"
WRONG_CIDR = "is not an address or a CIDR: write 10.0.0.0/8 or fd00::/8"
NO_VALUE = "has no value: write"
UNKNOWN = "there is no such option: see redirect.sh --help"
TAKEN = "is not to be redirected, it is the proxy's own: give the proxy another port, or redirect others"

# What is given, the option that the message names, what it says.
BAD = [
    (["--proxy-port", "0"], "--proxy-port", f"'0' {WRONG_PROXY_PORT}"),
    (["--proxy-port", "65536"], "--proxy-port", f"'65536' {WRONG_PROXY_PORT}"),
    (["--proxy-port", "http"], "--proxy-port", f"'http' {WRONG_PROXY_PORT}"),
    (["--proxy-port", "015001"], "--proxy-port", f"'015001' {WRONG_PROXY_PORT}"),
    (["--proxy-port", "15001-"], "--proxy-port", f"'15001-' {WRONG_PROXY_PORT}"),
    (["--proxy-port", "15001-15004-15008"], "--proxy-port", f"'15001-15004-15008' {WRONG_PROXY_PORT}"),
    (["--proxy-port", "15001,15002"], "--proxy-port", f"'15001,15002' {WRONG_PROXY_PORT}"),
    (["--proxy-port", ""], "--proxy-port", f"'' {WRONG_PROXY_PORT}"),
    (["--proxy-port", "15004-15001"], "--proxy-port", "is a range that runs backwards: write 15001-15004"),
    (["--proxy-port", "15001-15001"], "--proxy-port", "is a range of one port: write 15001"),
    (["--proxy-port", "80"], "--proxy-port", f"'80' {TAKEN}"),
    (["--proxy-port", "443", "--intercept-tls", "on"], "--proxy-port", f"'443' {TAKEN}"),
    (["--ports", "80,15001"], "--ports", f"'15001' {TAKEN}"),
    (["--proxy-port", "8000-8008", "--ports", "8004"], "--proxy-port", f"'8004' {TAKEN}"),
    (["--proxy-address", "egress"], "--proxy-address", "'egress' is no address: give the number, like 10.96.0.15"),
    (["--proxy-address", "$(EGRESS_HOST)"], "--proxy-address", "'$(EGRESS_HOST)' is no address"),
    (["--proxy-address", "10.96.0.15/32"], "--proxy-address", "'10.96.0.15/32' is no address"),
    (["--proxy-address", ""], "--proxy-address", "'' is no address"),
    (["--proxy-address", "127.0.0.1"], "--proxy-address", "127.0.0.1 is here: leave the option out"),
    (["--proxy-address", "::1"], "--proxy-address", "::1 is here: leave the option out"),
    (
        ["--proxy-address=10.0.0.1", "--proxy-uid=4242"],
        "--proxy-uid",
        "lets nobody through when the proxy is elsewhere",
    ),
    (["--proxy-address=10.0.0.1", "--proxy-port=1-2"], "--proxy-port", "a range is for a proxy that is here"),
    (["--proxy-uid", "root"], "--proxy-uid", "'root' is not a uid: give the number"),
    (["--proxy-uid", "-1"], "--proxy-uid", "'-1' is not a uid: give the number"),
    (["--proxy-uid", "4294967295"], "--proxy-uid", "'4294967295' is not a uid: give the number"),
    (["--proxy-uid", "99999999999999999999"], "--proxy-uid", "'99999999999999999999' is not a uid"),
    (["--proxy-uid", ""], "--proxy-uid", "'' is not a uid: give the number"),
    (["--proxy-uid", "0"], "--proxy-uid", "uid 0 would let every process of root bypass the proxy: run the proxy as"),
    (["--ports", "0"], "--ports", f"'0' {WRONG_PORT}"),
    (["--ports", "80,65536"], "--ports", f"'65536' {WRONG_PORT}"),
    (["--ports", "80,,443"], "--ports", f"'' {WRONG_PORT}"),
    (["--ports", "80,"], "--ports", f"'' {WRONG_PORT}"),
    (["--ports", "80, 443"], "--ports", f"' 443' {WRONG_PORT}"),
    (["--ports", "8000-8010"], "--ports", f"'8000-8010' {WRONG_PORT}"),
    (["--ports", "8000:8010"], "--ports", f"'8000:8010' {WRONG_PORT}"),
    (["--ports", "*"], "--ports", f"'*' {WRONG_PORT}"),
    (["--ports", ""], "--ports", "is empty: give a list, or leave the option out"),
    (["--ports", "80;reboot"], "--ports", f"'80;reboot' {WRONG_PORT}"),
    (["--ports", "$(reboot)"], "--ports", f"'$(reboot)' {WRONG_PORT}"),
    (["--ports", "80\n-A OUTPUT -j DROP"], "--ports", f"'80?-A OUTPUT -j DROP' {WRONG_PORT}"),
    (["--ports", "80\n"], "--ports", f"'80?' {WRONG_PORT}"),
    (["--exclude-ports", "ssh"], "--exclude-ports", f"'ssh' {WRONG_PORT}"),
    (["--exclude-ports="], "--exclude-ports", "is empty: give a list, or leave the option out"),
    (["--intercept-tls", "maybe"], "--intercept-tls", "'maybe' is neither on nor off"),
    (["--intercept-tls", ""], "--intercept-tls", "'' is neither on nor off"),
    (["--include-cidrs", "10.0.0.0/33"], "--include-cidrs", f"'10.0.0.0/33' {WRONG_CIDR}"),
    (["--include-cidrs", "10.0.0/8"], "--include-cidrs", f"'10.0.0/8' {WRONG_CIDR}"),
    (["--include-cidrs", "10.0.0.256"], "--include-cidrs", f"'10.0.0.256' {WRONG_CIDR}"),
    (["--include-cidrs", "010.0.0.1"], "--include-cidrs", f"'010.0.0.1' {WRONG_CIDR}"),
    (["--include-cidrs", "10.0.0.0/"], "--include-cidrs", f"'10.0.0.0/' {WRONG_CIDR}"),
    (["--include-cidrs", "10.0.0.0/8/8"], "--include-cidrs", f"'10.0.0.0/8/8' {WRONG_CIDR}"),
    (["--include-cidrs", "example.com"], "--include-cidrs", f"'example.com' {WRONG_CIDR}"),
    (["--include-cidrs", ""], "--include-cidrs", "is empty: give a list, or leave the option out"),
    (["--exclude-cidrs", "fd00::/129"], "--exclude-cidrs", f"'fd00::/129' {WRONG_CIDR}"),
    (["--exclude-cidrs", "fd00:::1"], "--exclude-cidrs", f"'fd00:::1' {WRONG_CIDR}"),
    (["--exclude-cidrs", "1::2::3"], "--exclude-cidrs", f"'1::2::3' {WRONG_CIDR}"),
    (["--exclude-cidrs", "1:2:3:4:5:6:7"], "--exclude-cidrs", f"'1:2:3:4:5:6:7' {WRONG_CIDR}"),
    (["--exclude-cidrs", "1:2:3:4:5:6:7:8:9"], "--exclude-cidrs", f"'1:2:3:4:5:6:7:8:9' {WRONG_CIDR}"),
    (["--exclude-cidrs", "1:2:3:4::5:6:7:8"], "--exclude-cidrs", f"'1:2:3:4::5:6:7:8' {WRONG_CIDR}"),
    (["--exclude-cidrs", "fd00::12345"], "--exclude-cidrs", f"'fd00::12345' {WRONG_CIDR}"),
    (["--exclude-cidrs", "fe80::1%eth0"], "--exclude-cidrs", f"'fe80::1%eth0' {WRONG_CIDR}"),
    (["--exclude-cidrs", ":"], "--exclude-cidrs", f"':' {WRONG_CIDR}"),
    (["--exclude-cidrs", "10.0.0.0/8\n-A x"], "--exclude-cidrs", f"'10.0.0.0/8?-A x' {WRONG_CIDR}"),
    (["--exclude-cidrs", "!10.0.0.0/8"], "--exclude-cidrs", f"'!10.0.0.0/8' {WRONG_CIDR}"),
    (["--backend", "nftables"], "--backend", "there is no back end 'nftables': use auto, nft or legacy"),
    (["--backend", ""], "--backend", "there is no back end '': use auto, nft or legacy"),
    (["--ports"], "--ports", f"{NO_VALUE} --ports VALUE"),
    (["--ports", "--dry-run"], "--ports", f"{NO_VALUE} --ports VALUE"),
    (["--ports", "80", "--ports", "81"], "--ports", "is given twice: give it once, lists separated by commas"),
    (["--cleanup=yes"], "--cleanup", "takes no value: leave '=yes' out"),
    (["--port", "80"], "'--port'", UNKNOWN),
    (["--port=80"], "'--port'", UNKNOWN),
    (["-p", "80"], "'-p'", UNKNOWN),
    (["cleanup"], "'cleanup'", "is not an option: every value follows its flag"),
]

GOOD = [
    ["--proxy-port", "1"],
    ["--proxy-port", "65534-65535"],
    ["--proxy-uid", "4294967294"],
    ["--ports", "1,65535"],
    ["--intercept-tls", "true"],
    ["--intercept-tls", "false"],
    ["--include-cidrs", "0.0.0.0/0,::/0"],
    ["--include-cidrs", "255.255.255.255/32,1.2.3.4/0"],
    ["--include-cidrs", "::,::1,1::,1:2:3:4:5:6:7::,::2:3:4:5:6:7:8,1:2:3:4:5:6:7:8,ABCD:ef01::/128"],
    ["--include-cidrs", "::ffff:10.0.0.1,64:ff9b::192.0.2.1/96,1:2:3:4:5:6:10.0.0.1"],
    ["--backend", "legacy"],
]


@pytest.mark.parametrize(("arguments", "option", "message"), BAD)
def test_a_wrong_option_is_named_and_nothing_is_touched(redirect, shell, no_iptables, arguments, option, message):
    refused = redirect(shell, *arguments)

    assert refused.returncode == 2
    assert refused.stdout == ""
    assert f"\n  {option}: " in refused.stderr
    assert message in refused.stderr
    assert no_iptables.calls() == []


@pytest.mark.parametrize("arguments", GOOD, ids=" ".join)
def test_the_edges_of_what_is_allowed_are_allowed(redirect, shell, arguments):
    accepted = redirect(shell, "--dry-run", *arguments)

    assert accepted.returncode == 0, accepted.stderr


def test_all_wrong_options_are_named_at_once_with_where_they_come_from(redirect, shell):
    refused = redirect(
        shell, "--proxy-port=0", "--nonsense", SIDESTREAM_PORTS="http", SIDESTREAM_EXCLUDE_CIDRS="1.2.3.4/99,::x"
    )

    assert refused.returncode == 2
    assert refused.stderr.splitlines() == [
        "redirect.sh: these options are wrong, nothing was changed:",
        f"  '--nonsense': {UNKNOWN}",
        f"  --proxy-port: '0' {WRONG_PROXY_PORT}, like 15001 or 15001-15004",
        f"  SIDESTREAM_PORTS: 'http' {WRONG_PORT}, like 80,8080",
        f"  SIDESTREAM_EXCLUDE_CIDRS: '1.2.3.4/99' {WRONG_CIDR}",
        f"  SIDESTREAM_EXCLUDE_CIDRS: '::x' {WRONG_CIDR}",
    ]


@pytest.mark.parametrize(
    "variable",
    [
        "SIDESTREAM_PROXY_PORT",
        "SIDESTREAM_PROXY_UID",
        "SIDESTREAM_PORTS",
        "SIDESTREAM_INTERCEPT_TLS",
        "SIDESTREAM_EXCLUDE_PORTS",
        "SIDESTREAM_INCLUDE_CIDRS",
        "SIDESTREAM_EXCLUDE_CIDRS",
        "SIDESTREAM_IPTABLES_BACKEND",
    ],
)
@pytest.mark.parametrize("value", ["", "$(reboot)", "`reboot`", "80\nreboot", "a b", "'; reboot; '"])
def test_a_variable_is_checked_like_its_flag(redirect, shell, no_iptables, variable, value):
    refused = redirect(shell, **{variable: value})

    assert refused.returncode == 2
    assert f"\n  {variable}: " in refused.stderr
    assert no_iptables.calls() == []


def test_a_long_value_is_cut_and_control_characters_are_not_echoed(redirect, shell):
    refused = redirect(shell, "--ports", "\x1b[31m" + "9" * 10_000)

    assert "'?[31m999" in refused.stderr
    assert len(refused.stderr) < 1_000


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["--ports", "80", "--help"]])
def test_help_names_every_option_and_exit_status(redirect, shell, arguments):
    helped = redirect(shell, *arguments)

    assert helped.returncode == 0
    assert helped.stderr == ""
    for word in ("--proxy-port", "SIDESTREAM_IPTABLES_BACKEND", "--cleanup", "--dry-run", "Exit status: 0"):
        assert word in helped.stdout
