"""
Host names as policies compare them.

Clients write the same host in many ways: upper case, with a port, with a trailing dot, as
Unicode. `normalise_host` gives one spelling, so that a policy matches all of them.

Source: RFC 9110, 7.2 (Host); RFC 3986, 3.2.2 (authority); RFC 3490 (IDNA, as Python has it).
"""

import ipaddress

MAX_HOST_LENGTH = 253
"""The longest host name, in characters (RFC 1035, 2.3.4). Longer text names no host."""

_NAME = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-._")


def normalise_host(authority: str) -> str:
    """
    Return the host that `authority` (`host`, `host:port`, `[v6]:port`) names, in one spelling.

    Lower case, without port and trailing dot, an international name as A-labels, an IPv6
    address compressed and without brackets. Text that names no host gives ``""``, which no
    policy can have.
    """
    text = authority.strip()
    if text.startswith("["):
        address, bracket, port = text[1:].partition("]")
        return _ipv6(address) if bracket and _is_port(port) else ""
    if text.count(":") > 1:
        return _ipv6(text)
    host, colon, port = text.partition(":")
    if len(host) > MAX_HOST_LENGTH + 1 or (colon and not _is_port(colon + port)):
        return ""
    host = host.lower()
    if not host.isascii():
        try:
            host = host.encode("idna").decode("ascii").lower()
        except UnicodeError:
            return ""
    host = host.removesuffix(".")  # only now: IDNA has other dots, too
    if len(host) > MAX_HOST_LENGTH or "" in host.split(".") or not _NAME.issuperset(host):
        return ""
    return host


def is_address(host: str) -> bool:
    """Tell whether a normalised host is an IP address and no name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def authority(host: str, port: int, *, default_port: int) -> str:
    """Return `host` and `port` as a Host header has them: no default port, IPv6 in brackets."""
    name = f"[{host}]" if ":" in host else host
    return name if port == default_port else f"{name}:{port}"


def _ipv6(text: str) -> str:
    if "%" in text:
        return ""  # a zone means something on one machine only, and may hold any text
    try:
        return str(ipaddress.IPv6Address(text))
    except ValueError:
        return ""


def _is_port(text: str) -> bool:
    digits = text.removeprefix(":")
    return text in ("", ":") or (text != digits and digits.isascii() and digits.isdigit())
