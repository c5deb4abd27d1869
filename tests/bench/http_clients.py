"""
What a call to a provider costs in HTTP clients that could be taken for it: aiohttp, httpcore, and our own connections.

One kept-alive connection over TLS to a stand-in in a process of its own; interleaved rounds; CPU time of this process.

Run as a program: ``make bench-clients``.
"""

import argparse
import asyncio
import contextlib
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import aiohttp
import httpcore

from sidestream.core.calls import Outgoing
from sidestream.core.snapshot import Endpoint
from sidestream.demo.certificates import Authority
from sidestream.upstream.pool import Pool
from sidestream.upstream.wire import head_bytes

NAME = "provider.test"
PATH = "/v1/chat/completions"
BODY = b'{"model": "m-1", "messages": [{"role": "user", "content": "%s"}]}' % (b"a" * 950)
HEADERS = {"Host": NAME, "Content-Type": "application/json", "Authorization": "Bearer sk-bench"}

type Call = Callable[[], Awaitable[int]]
"""Makes one call; returns the status."""


@contextlib.contextmanager
def provider(folder: Path) -> Iterator[tuple[int, Path]]:
    """Run a stand-in; give its port, and the CA that it is trusted by."""
    authority = Authority.create(folder)
    certificate = authority.issue(NAME)
    command = [sys.executable, "-m", "sidestream.demo.standin"]
    command += ["--cert", str(certificate.cert_file), "--key", str(certificate.key_file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline().rpartition(":")[2]), authority.ca_file
        process.terminate()


@contextlib.asynccontextmanager
async def clients(port: int, ca_pem: str) -> AsyncIterator[dict[str, Call]]:
    """Give a call by client."""
    trust = ssl.create_default_context(cadata=ca_pem)
    endpoint = Endpoint("127.0.0.1", port, NAME, tls=True, server_name=NAME, ca_pem=ca_pem)
    outgoing = Outgoing(b"POST", PATH.encode(), [(n.encode(), v.encode()) for n, v in HEADERS.items()], BODY)
    url, own = f"https://127.0.0.1:{port}{PATH}", Pool()
    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust))
    pool = httpcore.AsyncConnectionPool(ssl_context=trust)

    async def by_aiohttp() -> int:
        async with session.post(url, data=BODY, headers=HEADERS, server_hostname=NAME) as answer:
            await answer.read()
            return answer.status

    async def by_httpcore() -> int:
        extensions = {"sni_hostname": NAME}
        return (await pool.request("POST", url, content=BODY, headers=HEADERS, extensions=extensions)).status

    async def by_ours() -> int:
        connection = own.idle(endpoint) or await own.open(endpoint)
        connection.send(head_bytes(outgoing, None), BODY, is_head_only=False)
        status = (await connection.answer()).status
        while await connection.read():
            pass
        own.release(connection)
        return status

    async with session, pool:
        yield {"aiohttp": by_aiohttp, "httpcore": by_httpcore, "ours": by_ours}
        own.close()


async def measure(port: int, ca_pem: str, calls: int, rounds: int) -> dict[str, list[float]]:
    """Return CPU milliseconds per call, by client and round. The first round is not counted."""
    taken: dict[str, list[float]] = {}
    async with clients(port, ca_pem) as callers:
        for _ in range(rounds + 1):
            for name, call in callers.items():
                began = time.process_time()
                statuses = {await call() for _ in range(calls)}
                taken.setdefault(name, []).append((time.process_time() - began) / calls * 1000)
                assert statuses == {200}, f"{name}: {statuses}"
    return {name: rounds_of_one[1:] for name, rounds_of_one in taken.items()}


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="make bench-clients", description=main.__doc__)
    parser.add_argument("--calls", type=int, default=500, help="of each client in each round")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, provider(Path(folder)) as (port, ca_file):
        taken = asyncio.run(measure(port, ca_file.read_text(), options.calls, options.rounds))
    for name, rounds in taken.items():
        middle, least, most = statistics.median(rounds), min(rounds), max(rounds)
        print(f"{name:10} {middle:.3f} ms CPU a call (median; {least:.3f} to {most:.3f})")


if __name__ == "__main__":
    main()
