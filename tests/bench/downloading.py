"""
Load of one download: prints the bytes and seconds that it took as JSON.

Run as a program: ``python -m tests.bench.downloading HOST PORT BYTES [UID]``. With `UID` it becomes that user first.
"""

import encodings.idna  # noqa: F401  # sockets ask for it, when another user may no longer read it
import json
import os
import socket
import sys
import time

BUFFER_BYTES = 1024 * 1024
TIMEOUT_SECONDS = 60.0


def download(host: str, port: int, size: int) -> tuple[int, float]:
    """Get `size` bytes; return how many came after the head of a good answer, and in how many seconds."""
    buffer = bytearray(BUFFER_BYTES)
    begun = time.monotonic()
    with socket.create_connection((host, port), timeout=TIMEOUT_SECONDS) as connection:
        connection.sendall(f"GET /bulk/{size} HTTP/1.1\r\nHost: elsewhere.example\r\n\r\n".encode())
        read = connection.recv_into(buffer)
        head, end, rest = bytes(buffer[:read]).partition(b"\r\n\r\n")
        if not (end and head.startswith(b"HTTP/1.1 200 ")):
            raise SystemExit(f"not the answer that was asked for: {head[:200]!r}")
        got = len(rest)
        while got < size and (read := connection.recv_into(buffer)):
            got += read
    return got, time.monotonic() - begun


def main() -> None:
    host, port, size, *uid = sys.argv[1:]
    if uid:
        os.setuid(int(uid[0]))
    got, seconds = download(host, int(port), int(size))
    print(json.dumps({"bytes": got, "seconds": seconds}))


if __name__ == "__main__":
    main()
