"""
Kubernetes quantities, as far as resources of containers need them.

Source: Kubernetes API conventions, `resource.Quantity`.
"""

import re
from decimal import Decimal

MAX_LENGTH = 32
"""The longest quantity that is read, in characters."""
_QUANTITY = re.compile(r"(?P<number>\d+(?:\.\d*)?|\.\d+)(?P<suffix>[KMGTPE]i|[numkMGTPE]|[eE][+-]?\d{1,2})?", re.ASCII)
_SUFFIXES = {
    **{
        suffix: Decimal(10) ** (3 * power)
        for power, suffix in enumerate(("n", "u", "m", "", "k", "M", "G", "T", "P", "E"), -3)
    },
    **{f"{suffix}i": Decimal(1024) ** power for power, suffix in enumerate("KMGTPE", 1)},
}


def amount(text: str) -> Decimal | None:
    """Return what `text` amounts to (cores, or bytes), or ``None`` if it is no quantity. It is never negative."""
    match = _QUANTITY.fullmatch(text) if len(text) <= MAX_LENGTH else None
    if match is None:
        return None
    suffix = match["suffix"] or ""
    if suffix[:1] in ("e", "E") and len(suffix) > 1 and suffix != "Ei":
        return Decimal(match["number"]).scaleb(int(suffix[1:]))
    return Decimal(match["number"]) * _SUFFIXES[suffix]
