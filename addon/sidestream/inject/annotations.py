"""
What a pod asks for itself: annotations under `sidestream.dev/`.

A value that makes no sense is refused, and so is a name that nobody knows: it is most likely a known one with a slip
in it, and would be lost silently. Ports and CIDRs are what init-container/redirect.sh takes.
"""

import difflib
import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from sidestream.core.errors import cut
from sidestream.inject.options import INJECT_LABEL, LOG_LEVELS, PREFIX, PROXY_PORT, STATUS_ANNOTATION, Options
from sidestream.inject.problems import PodProblem
from sidestream.inject.quantities import amount

_READ_ELSEWHERE = frozenset({STATUS_ANNOTATION, f"{PREFIX}policy-revision"})


def overlaid(options: Options, annotations: Mapping[str, str]) -> tuple[Options, list[PodProblem]]:
    """Return `options` under what `annotations` say, and what is wrong with these."""
    problems = []
    for name, text in annotations.items():
        if not name.startswith(PREFIX) or name in _READ_ELSEWHERE:
            continue
        try:
            options = _overlay(options, name.removeprefix(PREFIX), text)
        except ValueError as e:
            problems.append(PodProblem(place(name), str(e)))
    return options, problems + _contradictions(options)


def place(annotation: str) -> str:
    """Return the path of an annotation in a pod."""
    return f"metadata.annotations[{cut(annotation)}]"


def _overlay(options: Options, name: str, text: str) -> Options:
    if name in _READ:
        field, read = _READ[name]
        return replace(options, **{field: read(text)})
    if name in _RESOURCES:
        if amount(text) is None:
            raise ValueError(f"{_shown(text)} is no quantity: write one like {_RESOURCES[name]}")
        return replace(options, resources=replace(options.resources, **{name.replace("-", "_"): text}))
    if PREFIX + name == INJECT_LABEL:
        raise ValueError("is a label, no annotation: write it under metadata.labels")
    close = difflib.get_close_matches(name, [*_READ, *_RESOURCES], n=1, cutoff=0.6)
    raise ValueError("there is no such annotation" + (f" (did you mean {PREFIX}{close[0]}?)" if close else ""))


def _ports(text: str) -> tuple[int, ...]:
    return tuple(map(int, _list(text, _is_port, "port", "ports are 1 to 65535, like 80,8080")))


def _cidrs(text: str) -> tuple[str, ...]:
    return _list(text, _is_cidr, "address or CIDR", "write 10.0.0.0/8 or fd00::/8")


def _is_port(text: str) -> bool:
    return _is_number(text) and 1 <= int(text) <= 65535


def _is_cidr(text: str) -> bool:
    address, slash, length = text.partition("/")
    longest = _bits(address)
    return longest is not None and (not slash or (_is_number(length) and int(length) <= longest))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and str(int(text[:6])) == text


def _bits(address: str) -> int | None:
    """Return how many bits `address` has; ``None``: it is none, or one that is of an interface."""
    try:
        return None if "%" in address else ipaddress.ip_address(address).max_prefixlen
    except ValueError:
        return None


def _list(text: str, is_item: Callable[[str], bool], name: str, instead: str) -> tuple[str, ...]:
    """Return the items of a list, each once."""
    if not text.strip():
        raise ValueError("is empty: give a list, or leave it out")
    items = dict.fromkeys(item.strip() for item in text.split(","))
    if wrong := [item for item in items if not is_item(item)]:
        raise ValueError(f"no {name}: {cut(', '.join(map(repr, wrong)))}; {instead}")
    return tuple(items)


def _is_on(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(f"{_shown(text)} is neither true nor false")
    return text == "true"


def _log_level(text: str) -> str:
    if text not in LOG_LEVELS:
        raise ValueError(f"{_shown(text)} is no level: write {', '.join(LOG_LEVELS[:-1])} or {LOG_LEVELS[-1]}")
    return text


_READ: dict[str, tuple[str, Callable[[str], Any]]] = {
    "include-outbound-ports": ("include_ports", _ports),
    "exclude-outbound-ports": ("exclude_ports", _ports),
    "include-outbound-cidrs": ("include_cidrs", _cidrs),
    "exclude-outbound-cidrs": ("exclude_cidrs", _cidrs),
    "intercept-tls": ("intercept_tls", _is_on),
    "log-level": ("log_level", _log_level),
}
"""Annotation → field of the options, and what reads it."""
_RESOURCES = {"cpu-request": "100m", "cpu-limit": "2", "memory-request": "128Mi", "memory-limit": "1Gi"}
"""Annotation → an example."""


def _contradictions(options: Options) -> list[PodProblem]:
    problems = []
    if PROXY_PORT in options.include_ports:
        problems.append(
            PodProblem(place(f"{PREFIX}include-outbound-ports"), f"{PROXY_PORT} is the proxy's own: leave it out")
        )
    asked = options.resources
    for resource, request, limit in (
        ("cpu", asked.cpu_request, asked.cpu_limit),
        ("memory", asked.memory_request, asked.memory_limit),
    ):
        least, most = amount(request or ""), amount(limit or "")
        if least is not None and most is not None and least > most:
            message = f"{limit} is less than the request, {request}: set {PREFIX}{resource}-request, too"
            problems.append(PodProblem(place(f"{PREFIX}{resource}-limit"), message))
    return problems


def _shown(text: str) -> str:
    return repr(cut(text))
