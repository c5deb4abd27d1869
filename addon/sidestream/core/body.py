"""
A request body as JSON, read strictly and written so that nothing else changes.

Source: RFC 8259. Python reads more than JSON (NaN, Infinity, and 1e999 as infinity); that is
refused here, since a provider would refuse it too.
"""

import json
import math
from typing import NoReturn

type Body = dict[str, object]
"""A JSON object: what every operation with a JSON body sends."""


def read_object(raw: bytes) -> Body | None:
    """Return the JSON object in `raw`, or ``None`` when it holds anything else."""
    try:
        value = json.loads(raw, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def write_object(body: Body) -> bytes:
    """
    Return `body` as JSON, with text as UTF-8.

    Raises:
        ValueError: a number has no JSON form.
    """
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # a lone surrogate, which JSON can only hold escaped
        return json.dumps(body, allow_nan=False, separators=(",", ":")).encode()


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse(text[:20])


def _refuse(constant: str) -> NoReturn:
    message = f"{constant} is not JSON"
    raise ValueError(message)
