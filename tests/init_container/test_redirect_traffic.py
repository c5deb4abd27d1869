"""Where connections really go once the rules are applied: real rules, real sockets."""

import pytest

from tests.init_container.network import PROXY_PORTS, RECEIVE_BUFFER_BYTES

IPV4, OTHER_IPV4 = "203.0.113.10", "203.0.113.20"
IPV6, OTHER_IPV6 = "2001:db8::10", "2001:db8::20"

FIREWALL = """\
*filter
-A INPUT -i lo -j ACCEPT
-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A INPUT -p tcp -j DROP
COMMIT
"""

# Somebody else's proxy, a mesh's, for all that leaves the pod.
ANOTHER_PROXY = """\
*nat
-A OUTPUT ! -o lo -p tcp -j REDIRECT --to-ports 15004
COMMIT
"""


def add_rules(pod, document):
    for program in ("iptables-nft-restore", "ip6tables-nft-restore"):
        pod.inside.restore(program, document)


def proxied(address, port=80, by=15001):
    return f"proxy:{by}", (address, port)


def direct(address, port=80):
    return f"origin:{port}", (address, port)


@pytest.fixture(params=["nft", "legacy"])
def redirected(request, pod, sh):
    """Apply the rules with these arguments in a pod, and return the pod."""

    def apply(*arguments):
        applied = pod.inside.redirect(sh, "--backend", request.param, *arguments)
        if "does not work here" in applied.stderr:
            pytest.skip(applied.stderr)
        assert applied.returncode == 0, applied.stderr
        return pod

    return apply


def test_a_connection_to_a_redirected_port_reaches_the_proxy_which_learns_the_destination(redirected):
    pod = redirected()

    answers = [pod.connect(address, 80) for address in (IPV4, IPV6)]

    assert answers == [proxied(IPV4), proxied(IPV6)]


def test_a_connection_to_another_port_reaches_the_origin(redirected):
    pod = redirected()

    answers = [pod.connect(address, 443) for address in (IPV4, IPV6)]

    assert answers == [direct(IPV4, 443), direct(IPV6, 443)]


def test_a_connection_of_the_proxy_reaches_the_origin(redirected):
    pod = redirected()

    answers = [pod.connect(address, 80, uid=1337) for address in (IPV4, IPV6)]

    assert answers == [direct(IPV4), direct(IPV6)]


def test_where_the_proxy_has_another_uid_1337_is_redirected(redirected):
    pod = redirected("--proxy-uid", "4242")

    answers = [pod.connect(address, 80, uid=uid) for address in (IPV4, IPV6) for uid in (1337, 4242)]

    assert answers == [proxied(IPV4), direct(IPV4), proxied(IPV6), direct(IPV6)]


# The proxy's uid is known only while its socket is open. What leaves after that must go where the rest went.
@pytest.mark.parametrize("address", [IPV4, IPV6])
def test_what_the_proxy_sent_before_it_closed_arrives_in_full(redirected, address):
    pod = redirected()

    taken, arrived = pod.send_and_close(address, 80, 1_000_000, uid=1337)

    assert taken > 2 * RECEIVE_BUFFER_BYTES
    assert arrived == taken


def test_the_proxy_gets_answers_through_a_firewall_that_lets_nothing_else_in(redirected):
    pod = redirected()
    add_rules(pod, FIREWALL)

    answers = [pod.connect(address, 80, uid=1337) for address in (IPV4, IPV6)]

    assert answers == [direct(IPV4), direct(IPV6)]


def test_what_the_proxy_sends_is_redirected_where_others_redirect_it(redirected):
    pod = redirected()
    add_rules(pod, ANOTHER_PROXY)

    answers = [pod.connect(address, 80, uid=1337) for address in (IPV4, IPV6)]

    assert answers == [proxied(IPV4, by=15004), proxied(IPV6, by=15004)]


def test_what_the_pod_says_to_itself_is_not_redirected(redirected):
    own_addresses = ["127.0.0.1", "127.1.2.3", "::1", "10.99.0.1", "fd99::1"]
    pod = redirected()

    answers = [pod.connect(address, 80) for address in own_addresses]

    assert answers == [("application:80", (address, 80)) for address in own_addresses]


def test_an_excluded_port_wins_over_the_redirected_ones(redirected):
    pod = redirected("--ports", "80,8001", "--exclude-ports", "8001")

    answers = [pod.connect(address, port) for address in (IPV4, IPV6) for port in (80, 8001)]

    assert answers == [proxied(IPV4), direct(IPV4, 8001), proxied(IPV6), direct(IPV6, 8001)]


def test_an_excluded_cidr_is_not_redirected_and_others_are(redirected):
    pod = redirected("--exclude-cidrs", f"{IPV4},{IPV6}/128")

    answers = [pod.connect(address, 80) for address in (IPV4, OTHER_IPV4, IPV6, OTHER_IPV6)]

    assert answers == [direct(IPV4), proxied(OTHER_IPV4), direct(IPV6), proxied(OTHER_IPV6)]


def test_an_included_cidr_is_redirected_and_others_are_not(redirected):
    pod = redirected("--include-cidrs", f"{IPV4},{IPV6}/128")

    answers = [pod.connect(address, 80) for address in (IPV4, OTHER_IPV4, IPV6, OTHER_IPV6)]

    assert answers == [proxied(IPV4), direct(OTHER_IPV4), proxied(IPV6), direct(OTHER_IPV6)]


def test_an_excluded_cidr_wins_over_an_included_one(redirected):
    pod = redirected("--include-cidrs", "203.0.113.0/24", "--exclude-cidrs", OTHER_IPV4)

    answers = [pod.connect(address, 80) for address in (IPV4, OTHER_IPV4)]

    assert answers == [proxied(IPV4), direct(OTHER_IPV4)]


def test_with_included_cidrs_of_ipv4_only_nothing_is_redirected_over_ipv6(redirected):
    pod = redirected("--include-cidrs", "0.0.0.0/0")

    answers = [pod.connect(address, 80) for address in (IPV4, IPV6)]

    assert answers == [proxied(IPV4), direct(IPV6)]


def test_each_of_more_ports_than_a_rule_takes_is_redirected(redirected):
    ports = list(range(8001, 8019))
    pod = redirected("--ports", ",".join(map(str, ports)))

    answers = [pod.connect(IPV4, port) for port in ports]

    assert answers == [proxied(IPV4, port) for port in ports]


@pytest.mark.parametrize("address", [IPV4, IPV6])
def test_connections_spread_over_a_range_of_proxy_ports(redirected, address):
    pod = redirected("--proxy-port", "15001-15004")

    answers = {pod.connect(address, 80) for _ in range(200)}

    assert answers == {proxied(address, by=port) for port in PROXY_PORTS}


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_connection_to_a_port_of_the_range_stays_with_it(redirected, address):
    pod = redirected("--proxy-port", "15001-15004")

    answers = [pod.connect(address, port) for port in PROXY_PORTS]

    assert answers == [proxied(address, port, by=port) for port in PROXY_PORTS]


@pytest.mark.parametrize("address", [IPV4, IPV6])
def test_the_proxy_is_let_through_where_it_has_a_range(redirected, address):
    pod = redirected("--proxy-port", "15001-15004")

    assert pod.connect(address, 80, uid=1337) == direct(address)


def test_with_tls_interception_port_443_is_redirected_too(redirected):
    pod = redirected("--intercept-tls", "on")

    answers = [pod.connect(address, port) for address in (IPV4, IPV6) for port in (80, 443)]

    assert answers == [proxied(IPV4, 80), proxied(IPV4, 443), proxied(IPV6, 80), proxied(IPV6, 443)]


REFUSED = "ConnectionRefusedError"  # what an ICMP "port unreachable" makes of the socket

# Arguments, the sender's uid, what becomes of its datagrams to UDP port 443 over IPv4 and over IPv6.
QUIC = {
    "passes without TLS interception": ([], 0, ["arrived", "arrived"]),
    "is rejected with TLS interception": (["--intercept-tls=on"], 0, [REFUSED, REFUSED]),
    "is rejected where port 443 is named": (["--ports=443"], 0, [REFUSED, REFUSED]),
    "passes from the proxy": (["--intercept-tls=on"], 1337, ["arrived", "arrived"]),
    "passes where port 443 is excluded": (["--intercept-tls=on", "--exclude-ports=443"], 0, ["arrived", "arrived"]),
    "passes to an excluded CIDR": (["--intercept-tls=on", f"--exclude-cidrs={IPV4}"], 0, ["arrived", REFUSED]),
    "passes to what is not included": (["--intercept-tls=on", f"--include-cidrs={IPV4}"], 0, [REFUSED, "arrived"]),
}


@pytest.mark.parametrize(("arguments", "uid", "outcomes"), QUIC.values(), ids=QUIC)
def test_quic(redirected, arguments, uid, outcomes):
    pod = redirected(*arguments)

    seen = [pod.send_datagram(address, 443, uid=uid) for address in (IPV4, IPV6)]

    assert seen == outcomes


def test_after_cleanup_everything_reaches_the_origin(redirected, sh):
    pod = redirected("--intercept-tls", "on")

    cleaned = pod.inside.redirect(sh, "--cleanup")

    assert cleaned.returncode == 0, cleaned.stderr
    assert [pod.connect(address, 443) for address in (IPV4, IPV6)] == [direct(IPV4, 443), direct(IPV6, 443)]
    assert [pod.send_datagram(address, 443) for address in (IPV4, IPV6)] == ["arrived", "arrived"]


def test_a_rule_that_was_there_first_does_not_let_traffic_bypass_the_proxy(redirected, pod):
    add_rules(pod, "*nat\n-A OUTPUT -p tcp -j ACCEPT\nCOMMIT\n")

    redirected()

    assert pod.connect(IPV4, 80) == proxied(IPV4)
    assert pod.connect(IPV6, 80) == proxied(IPV6)
