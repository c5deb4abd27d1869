"""
Checking the types of requests and answers, quickly.

mitmproxy checks every field of each request and answer that it makes or copies, by taking its
annotations apart each time: a tenth of what a request costs. Here they are taken apart once. What
does not pass is left to mitmproxy, which says what is wrong.
"""

import dataclasses
import typing
from types import NoneType, UnionType

from mitmproxy.http import MessageData, RequestData, ResponseData

type Allowed = tuple[tuple[str, tuple[type, ...]], ...]


def quicken_checks() -> None:
    """Let mitmproxy check its messages so. Without checks (`python -O`) there is nothing to do."""
    stock = vars(MessageData).get("__post_init__")
    if stock is None or hasattr(stock, "stock"):
        return
    allowed: dict[type[MessageData], Allowed] = {kind: _allowed(kind) for kind in (RequestData, ResponseData)}

    def check(message: MessageData) -> None:
        for name, types in allowed.get(type(message), _NOTHING):
            if not isinstance(getattr(message, name), types):
                stock(message)
                return

    check.stock = stock
    MessageData.__post_init__ = check  # type: ignore[method-assign]


_NOTHING: Allowed = (("http_version", ()),)
"""What is allowed of a kind of message that is not known."""


def _allowed(kind: type[MessageData]) -> Allowed:
    return tuple((field.name, _types(field.type)) for field in dataclasses.fields(kind))


def _types(annotation: typing.Any) -> tuple[type, ...]:
    if typing.get_origin(annotation) in (UnionType, typing.Union):
        return tuple(each for part in typing.get_args(annotation) for each in _types(part))
    return (float, int) if annotation is float else (NoneType,) if annotation is None else (annotation,)
