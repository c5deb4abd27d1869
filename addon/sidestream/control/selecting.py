"""
Which bundles a namespace has, and which of them a pod mounts.

A bundle is for those pods that exactly the selectors of a *selection* select: it has the keys of
their providers, and of those that are for every workload. A pod mounts one, chosen when it is
injected; the one without selectors is `sidestream-policy`.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping

from sidestream.core.snapshot import Labels

BUNDLE = "sidestream-policy"
"""The bundle of pods that no selector selects, and what the names of the others start with."""

MAX_SELECTIONS = 64
"""How many bundles a namespace may have. Past it, selectors that overlap get none together."""

type Selector = tuple[tuple[str, str], ...]
"""The labels of a `workloadSelector`, sorted."""

type Selection = frozenset[Selector]
"""Selectors that together select some pod."""

EVERY_WORKLOAD: Selection = frozenset()


def selector_of(document: Mapping[str, object]) -> Selector | None:
    """Return the selector of a policy document, ``None`` when it is for every workload or has none that can be read."""
    spec = document.get("spec")
    written = spec.get("workloadSelector") if isinstance(spec, dict) else None
    labels = written.get("labels") if isinstance(written, dict) else None
    if not isinstance(labels, dict) or not labels:
        return None  # no label to have: every workload has them all
    return tuple(sorted((str(name), str(value)) for name, value in labels.items()))


def selects(selector: Selector, labels: Labels) -> bool:
    """Tell whether a workload with `labels` is selected."""
    return all(labels.get(name) == value for name, value in selector)


def selection_for(selectors: Iterable[Selector], labels: Labels) -> Selection:
    """Return which of `selectors` select a workload with `labels`."""
    return frozenset(selector for selector in selectors if selects(selector, labels))


def selections(selectors: Iterable[Selector]) -> list[Selection]:
    """
    Return every selection that some pod could have, in an order that is always the same.

    Single selectors come first; of those that can hold for one pod at once every union follows, up to
    `MAX_SELECTIONS`.
    """
    ordered = sorted(set(selectors))
    wanted = [dict(selector) for selector in ordered]
    found = dict.fromkeys([EVERY_WORKLOAD, *(selection_for(ordered, labels) for labels in wanted)])
    waiting = list(wanted)
    while waiting and len(found) < MAX_SELECTIONS:
        labels = waiting.pop(0)
        for more in wanted:
            if _agree(labels, more) and (selection := selection_for(ordered, labels | more)) not in found:
                found[selection] = None
                waiting.append(labels | more)
    return list(found)


def bundle_for(selectors: Iterable[Selector], labels: Labels) -> str:
    """Return the name of the bundle that a pod with `labels` mounts, where these selectors are in force."""
    selectors = list(selectors)
    wanted = selection_for(selectors, labels)
    # Past the limit there may be none for exactly this pod: then one that has most of its keys, and none of others'.
    fitting = [selection for selection in selections(selectors) if selection <= wanted]
    return bundle_name(max(fitting, key=len))


def bundle_name(selection: Selection) -> str:
    """Return the name of the bundle for a selection."""
    if not selection:
        return BUNDLE
    return f"{BUNDLE}-{hashlib.sha256(written(selection).encode()).hexdigest()[:10]}"


def is_bundle_name(name: str) -> bool:
    """Tell whether a Secret of that name would be a bundle."""
    return name == BUNDLE or name.startswith(f"{BUNDLE}-")


def written(selection: Selection) -> str:
    """Return a selection as it is noted at its bundle."""
    return json.dumps([dict(selector) for selector in sorted(selection)], separators=(",", ":"))


def parse_selection(text: str) -> Selection | None:
    """Return the selection that `text` notes, ``None`` if it notes none."""
    try:
        return frozenset(tuple(sorted((str(n), str(v)) for n, v in labels.items())) for labels in json.loads(text))
    except (ValueError, TypeError, AttributeError):
        return None


def _agree(one: Labels, other: Labels) -> bool:
    return all(one.get(name, value) == value for name, value in other.items())
