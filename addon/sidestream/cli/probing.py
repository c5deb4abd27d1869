"""
Asks a running proxy how it is, through its admin endpoint: for probes and hooks of a pod.

    python -m sidestream.cli.probing live|ready|idle [--wait SECONDS] [--for SECONDS]

Exit status 0: it is so. Kubernetes starts this every few seconds in every pod, so it imports next to nothing.
"""

import socket
import sys
import time
from collections.abc import Callable, Sequence

ADMIN = ("127.0.0.1", 15020)
TIMEOUT_SECONDS = 4
"""For one question: less than a probe's timeout."""
PAUSE_SECONDS = 0.2
MAX_ANSWER_BYTES = 64 * 1024 * 1024


class NoAnswer(Exception):
    """The proxy did not answer as it should; the message says how."""


def main(arguments: Sequence[str], *, admin: tuple[str, int] = ADMIN) -> int:
    """Ask once, or until it is so; return the exit status."""
    state, *flags = arguments or [""]
    seconds = {"--wait": 0.0, "--for": 0.0}
    try:
        ask = _QUESTIONS[state]
        for flag in flags:
            name, _, number = flag.partition("=")
            seconds[name] = max(float(number), seconds[name])
    except (KeyError, ValueError):
        print(__doc__, file=sys.stderr)
        return 2
    reason = wait(lambda: ask(admin), seconds["--wait"], seconds["--for"])
    if reason is None:
        return 0
    print(reason, file=sys.stderr)
    return 1


def wait(ask: Callable[[], str | None], wait_seconds: float, for_seconds: float) -> str | None:
    """Ask until there has been no reason against it `for_seconds` long, or return the last after `wait_seconds`."""
    start = time.monotonic()
    since: float | None = None
    while True:
        try:
            reason = ask()
        except (OSError, NoAnswer) as e:
            reason = f"the proxy does not answer: {e}"
        now = time.monotonic()
        since = None if reason is not None else now if since is None else since
        if since is not None and now - since >= for_seconds:
            return None
        if now - start >= wait_seconds:
            return reason or f"it was so for less than {for_seconds:g} seconds"
        time.sleep(PAUSE_SECONDS)


def _live(admin: tuple[str, int]) -> str | None:
    status, body = _get("/healthz/live", admin)
    return None if status == 200 else body.decode("utf-8", "replace").strip()


def _ready(admin: tuple[str, int]) -> str | None:
    status, body = _get("/healthz/ready", admin)
    return None if status == 200 else body.decode("utf-8", "replace").strip()


def _idle(admin: tuple[str, int]) -> str | None:
    import json  # noqa: PLC0415 the other questions do without

    try:
        under_way = len(json.loads(_get("/exchanges", admin)[1])["live"])
    except (ValueError, KeyError, TypeError) as e:
        raise NoAnswer("its answer can't be read") from e
    return f"exchanges under way: {under_way}" if under_way else None


_QUESTIONS = {"live": _live, "ready": _ready, "idle": _idle}


def _get(path: str, admin: tuple[str, int]) -> tuple[int, bytes]:
    """Return status and body of a page. urllib would take longer to import than the question takes."""
    host, port = admin
    with socket.create_connection(admin, TIMEOUT_SECONDS) as connection:
        connection.sendall(f"GET {path} HTTP/1.0\r\nHost: {host}:{port}\r\n\r\n".encode())
        answer = bytearray()
        while len(answer) <= MAX_ANSWER_BYTES and (part := connection.recv(65536)):
            answer += part
    head, _, body = bytes(answer).partition(b"\r\n\r\n")
    words = head.split(maxsplit=2)
    if len(words) < 2 or not words[1].isdigit():
        raise NoAnswer("its answer is no HTTP")
    return int(words[1]), body


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
