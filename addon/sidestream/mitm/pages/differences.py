"""
What the policy changed: the request as the app sent it against the request as it went out.

Compared field by field, headers by name and a body by the fields of its object. What is as it was and long is
told in a word, so a long conversation costs no more than a short one.
"""

import json
from collections.abc import Iterator, Mapping

from sidestream.core.body import read_object
from sidestream.mitm.pages.seen import Before

MAX_SHOWN = 200
"""A field of a body that is as it was is shown up to this many characters."""


def difference(before: Before, method: str, url: str, headers: Mapping[str, str], body: bytes) -> list[str]:
    """
    Return the lines of both requests.

    What the app sent and nobody was sent begins with ``-``, what is new with ``+``, the rest with a space.
    `headers`: lower-case name → value.
    """
    return [
        "- as the app sent it",
        "+ as it went out",
        "",
        f"- {before.method} {before.host}{before.target}",
        f"+ {method} {url}",
        *_compared(before.headers, headers),
        "",
        *_body_lines(before.body, body),
    ]


def _compared(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[str]:
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) == new.get(name):
            yield f"  {name}: {old[name]}"
            continue
        if name in old:
            yield f"- {name}: {old[name]}"
        if name in new:
            yield f"+ {name}: {new[name]}"


def _body_lines(old: bytes, new: bytes) -> Iterator[str]:
    before, after = read_object(old), read_object(new)
    if before is None or after is None:
        yield f"  (a body of {len(new):,} bytes, as it was)" if old == new else f"- (a body of {len(old):,} bytes)"
        if old != new:
            yield f"+ (a body of {len(new):,} bytes)"
        return
    for name in sorted(before.keys() | after.keys()):
        if name in before and name in after and before[name] == after[name]:
            yield f"  {name}: {_brief(before[name])}"
            continue
        if name in before:
            yield from (f"- {line}" for line in _field(name, before[name]))
        if name in after:
            yield from (f"+ {line}" for line in _field(name, after[name]))


def _field(name: str, value: object) -> list[str]:
    return f"{name}: {json.dumps(value, ensure_ascii=False, indent=2)}".splitlines()


def _brief(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    if len(text) <= MAX_SHOWN:
        return text
    size = f"{len(value):,} entries" if isinstance(value, list | dict) else f"{len(text):,} characters"
    return f"({size}, as they were)"
