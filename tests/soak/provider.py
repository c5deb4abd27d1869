"""
A stand-in provider as a process of its own, whose health changes at random.

    python -m tests.soak.provider --name alpha --cert FILE --key FILE --folder DIR --seed 1

It prints its port, then writes to `DIR/NAME.jsonl` one line per request (its tag, and the mood
it came in), per restart (all connections dropped), and per second (connections). It is well until
SIGUSR2, and after SIGUSR1 for good. It accepts `$SOAK_PROVIDER_KEY`, and notes where
`$SOAK_CLIENT_KEY` turns up.
"""

import argparse
import asyncio
import json
import logging
import os
import random
import signal
import time
from pathlib import Path

from sidestream.demo.certificates import Certificate
from sidestream.demo.standin import StandIn

MOODS = (
    "status=429 retry-after=1",
    "status=500",
    "status=503",
    "first-byte=0.3",
    "first-byte=3",
    "cut=0",
    "cut=2",
    "reset=1",
    "error-event=0",
    "error-event=1",
    "close=before",
    "close=reset",
)
"""What `x-standin` of a call is laid over, so what the call itself says still counts."""
WELL_SECONDS = (2.0, 12.0)
ILL_SECONDS = (0.3, 2.5)
RESTART_SHARE = 0.3
"""How many of the bad times begin with all connections dropped."""


class Moody:
    """A stand-in and its moods. `ill`: the share of changes that are for the worse."""

    def __init__(self, options, journal):
        self._journal = journal
        self._client_key = os.environ["SOAK_CLIENT_KEY"]
        self._rng = random.Random(options.seed)
        self._ill = options.ill
        self._mood = ""
        self._seen = 0
        self._name = options.name
        certificate = Certificate(options.cert, options.key)
        keys = [os.environ["SOAK_PROVIDER_KEY"]]
        self.standin = StandIn(options.name, certificate, api_keys=keys, on_request=self._note)

    def _note(self, request):
        self._seen += 1
        leaks = any(self._client_key in value for _, value in request.headers) or (
            self._client_key.encode() in request.body
        )
        self._write(tag=request.header("x-request-tag"), mood=self._mood, connection=request.connection, leaks=leaks)

    def _write(self, **fields):
        self._journal.write(json.dumps({"at": time.monotonic(), "provider": self._name, **fields}) + "\n")

    async def change(self):
        while True:
            await asyncio.sleep(self._rng.uniform(*WELL_SECONDS))
            if self._rng.random() > self._ill:
                continue
            self._mood = self._rng.choice(MOODS)
            self.standin.behave(self._mood)
            if self._rng.random() < RESTART_SHARE:
                self._write(restart=True)
                self.standin.hang_up()
            await asyncio.sleep(self._rng.uniform(*ILL_SECONDS))
            self.be_well()

    def be_well(self):
        self._mood = ""
        self.standin.behave()

    async def count(self):
        aborted = 0
        while True:
            aborted += self.standin.aborted
            self.standin.clear()  # it would remember every request
            self._write(open=self.standin.connections_open, aborted=aborted, seen=self._seen)
            await asyncio.sleep(1)


async def serve(moody):
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    counting, moods = asyncio.create_task(moody.count()), []

    def be_well_for_good():
        for changing in moods:
            changing.cancel()
        moody.be_well()

    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    loop.add_signal_handler(signal.SIGUSR1, be_well_for_good)
    loop.add_signal_handler(signal.SIGUSR2, lambda: moods.append(asyncio.create_task(moody.change())))
    await moody.standin.serve("127.0.0.1", 0, stopping, lambda: os.write(1, f"{moody.standin.port}\n".encode()))
    counting.cancel()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True)
    parser.add_argument("--cert", type=Path, required=True)
    parser.add_argument("--key", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--ill", type=float, required=True)
    options = parser.parse_args()
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of every client that left
    with (options.folder / f"{options.name}.jsonl").open("w", buffering=1) as journal:
        asyncio.run(serve(Moody(options, journal)))


if __name__ == "__main__":
    main()
