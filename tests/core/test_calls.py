from typing import get_args

import pytest

from sidestream.core.attempts import Failure
from sidestream.core.calls import Broken, Outgoing, broken_by
from sidestream.core.errors import client_error
from sidestream.core.snapshot import FailureKind

TOLD = {
    "connect-failure": ("provider_unreachable", 502),
    "timeout": ("provider_timeout", 504),
    "reset": ("provider_failed", 502),
    "stream-error": ("provider_failed", 502),
    "rate-limited": ("provider_failed", 502),
    "server-error": ("provider_failed", 502),
}


@pytest.mark.parametrize("kind", get_args(FailureKind.__value__))
def test_every_failure_is_told_to_the_client(kind):
    broken = broken_by(Failure(kind, "no connection within 5 s"))

    error = client_error(broken.fault, broken.message)

    assert broken == Broken(TOLD[kind][0], "no connection within 5 s")
    assert (error.code, error.status) == TOLD[kind]
    assert error.message.endswith("no connection within 5 s")


def test_what_a_client_sends_is_in_no_representation():
    outgoing = Outgoing(b"POST", b"/v1/chat/completions", [(b"x-token", b"sk-marker")], b"sk-marker")

    assert "sk-marker" not in f"{outgoing!r} {outgoing}"
