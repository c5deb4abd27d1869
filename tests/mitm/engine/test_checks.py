"""Messages are checked as mitmproxy checks them, only faster."""

import dataclasses

import pytest
from mitmproxy.http import Headers, MessageData, RequestData, ResponseData

from sidestream.mitm.engine.checks import quicken_checks

HEAD = {"http_version": b"HTTP/1.1", "headers": Headers(), "content": b"", "trailers": None}
TIMES = {"timestamp_start": 1.0, "timestamp_end": None}
REQUEST = {"host": "a", "port": 1, "method": b"GET", "scheme": b"http", "authority": b"", "path": b"/"}
GOOD = {RequestData: HEAD | TIMES | REQUEST, ResponseData: HEAD | TIMES | {"status_code": 200, "reason": b"OK"}}
VALUES = [None, b"bytes", "text", 1, 1.5, True, Headers(), [], (b"a",)]
CASES = [(kind, name, value) for kind, fields in GOOD.items() for name in fields for value in VALUES]


@pytest.fixture
def stock(monkeypatch):
    """mitmproxy's own check; ours is in its place."""
    own = getattr(MessageData.__post_init__, "stock", MessageData.__post_init__)
    monkeypatch.setattr(MessageData, "__post_init__", own)
    quicken_checks()
    assert MessageData.__post_init__ is not own
    return own


def verdict(check):
    try:
        check()
    except TypeError as e:
        return str(e)
    return "good"


def test_the_verdict_is_mitmproxys(stock):
    differing = []
    for kind, name, value in CASES:
        message = kind(**GOOD[kind])
        setattr(message, name, value)
        if verdict(lambda message=message: stock(message)) != verdict(message.__post_init__):
            differing.append((kind, name, value))

    assert differing == []


@pytest.mark.parametrize("kind", GOOD)
def test_what_is_made_is_checked(stock, kind):
    with pytest.raises(TypeError, match="for headers"):
        kind(**GOOD[kind] | {"headers": []})


def test_another_kind_of_message_is_checked_by_mitmproxy(stock):
    @dataclasses.dataclass
    class Other(MessageData):
        number: int

    assert Other(**HEAD, **TIMES, number=1).number == 1
    with pytest.raises(TypeError, match="for number"):
        Other(**HEAD, **TIMES, number="one")


def test_it_is_installed_once(stock):
    first = MessageData.__post_init__

    quicken_checks()

    assert MessageData.__post_init__ is first
