"""The load: calls that begin at random moments, over connections that are kept or not."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Callable

from tests.soak import sdk
from tests.soak.asking import Ask, draw
from tests.soak.judging import Verdict, judge
from tests.soak.recording import Done
from tests.soak.speaking import Answer, Line

MAX_RESTING = 40
"""How many idle connections are kept."""
SHOWN_BYTES = 4000
"""How much of either end of an offending answer's body is kept."""
SHOWN_CHARACTERS = 400
"""How much of its request's body is kept: `drawn` makes all of it again."""


class Load:
    """
    Makes calls through the proxy at `port`, at most `most` at a time.

    `done` is what came of each, `evidence` what is known of offences.
    """

    def __init__(self, port: int, *, seed: int, most: int, keys: tuple[str, str]) -> None:
        self.done: list[Done] = []
        self.evidence: dict[str, dict] = {}
        self.counts: Counter[str] = Counter()
        self._port, self._seed, self._most = port, seed, most
        self._provider_key, self._client_key = keys
        self._rng = random.Random(seed)
        self._resting: list[Line] = []
        self._sdk = sdk.make_client(port, self._client_key)
        self._under_way: set[asyncio.Task] = set()

    @property
    def under_way(self) -> int:
        return len(self._under_way)

    def drawn(self, number: int) -> Ask:
        """Draw call `number`: the same one each time."""
        return draw(random.Random(f"{self._seed}/{number}"), f"soak-{self._seed}-{number}")

    async def run(self, rate: float, until: Callable[[], bool]) -> None:
        """Begin `rate` calls per second, evenly at random, until `until()`; then wait for their ends."""
        number, due = 0, time.monotonic()
        while not until():
            due += self._rng.expovariate(rate)
            if (ahead := due - time.monotonic()) > 0:
                await asyncio.sleep(ahead)
            if len(self._under_way) >= self._most:
                self.counts["waited for a place"] += 1
                await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
                due = time.monotonic()
            number += 1
            task = asyncio.create_task(self.make(self.drawn(number), number))
            self._under_way.add(task)
            task.add_done_callback(self._ended)
        if self._under_way:
            await asyncio.wait(self._under_way)

    def _ended(self, task):
        self._under_way.discard(task)
        if task.exception() is not None:
            self.counts["failures of the soak itself"] += 1
            self.evidence.setdefault("the soak itself", {"complaint": repr(task.exception())})

    async def make(self, ask: Ask, number: int = 0) -> Verdict:
        """Make one call, judge it and keep what came of it."""
        answer, code = Answer(began=time.monotonic()), None
        if ask.sdk:
            verdict = await sdk.call(self._sdk, ask)
            answer.ended = time.monotonic()
        else:
            answer, verdict = await self._over_a_line(ask)
            code = _own_code(answer)
        if verdict.kind == "offence":
            self.offend(ask, answer, verdict.complaint)
        self.counts[verdict.kind] += 1
        self.counts["calls through the SDK"] += ask.sdk
        self.done.append(
            Done.of(
                number,
                ask,
                verdict,
                status=answer.status,
                code=code,
                bytes_in=len(ask.content),
                bytes_out=len(answer.body),
                address=answer.address,
                began=answer.began,
                ended=answer.ended,
            )
        )
        return verdict

    async def _over_a_line(self, ask):
        try:
            line = await self._line(ask)
        except OSError as e:
            answer = Answer(problem=f"the proxy takes no connection: {e!r}")
            return answer, Verdict("offence", answer.problem)
        answer = await line.call(ask, self._client_key)
        shown = repr(answer)
        if self._provider_key in shown or self._client_key in shown:
            verdict = Verdict("offence", "a key is in the answer")
        else:
            try:
                verdict = judge(ask, answer)
            except (ValueError, KeyError, TypeError, AttributeError) as e:
                verdict = Verdict("offence", f"the answer can't be read: {e!r}")
        if line.is_open and len(self._resting) < MAX_RESTING and verdict.kind != "offence":
            line.rest()
            self._resting.append(line)
        else:
            line.close()
        return answer, verdict

    async def _line(self, ask):
        while self._resting and not ask.fresh:
            line = self._resting.pop(self._rng.randrange(len(self._resting)))
            came = await line.wake()
            if came is None:
                self.counts["calls over kept connections"] += 1
                return line
            line.close()
            self.counts["kept connections that the proxy closed"] += 1
            if came:
                self.offend(ask, Answer(excess=came), f"bytes before the call, on a kept connection: {came[:200]!r}")
        return await Line.open(self._port)

    async def leave(self) -> None:
        """Close every connection."""
        for line in self._resting:
            await line.wake()
            line.close()
        self._resting.clear()
        await self._sdk.close()

    def offend(self, ask: Ask, answer: Answer | None, complaint: str) -> None:
        """Keep all that is known of a call that went wrong: the first ones in full, but no key."""
        seen = {}
        if answer is not None:
            body = answer.body
            shown = body if len(body) <= 2 * SHOWN_BYTES else body[:SHOWN_BYTES] + b"[...]" + body[-SHOWN_BYTES:]
            seen = {
                "end": answer.end,
                "status": answer.status,
                "headers": answer.headers,
                "body": shown.decode("utf-8", "backslashreplace"),
                "problem": answer.problem,
                "reused": answer.reused,
                "client": answer.address,
                "seconds": round(answer.ended - answer.began, 3),
            }
        content = ask.content.decode()
        call = {
            "host": ask.host,
            "path": ask.path,
            "x-standin": ask.settings,
            "chunked": ask.chunked,
            "leave": str(ask.leave),
            "body": content
            if len(content) <= SHOWN_CHARACTERS
            else f"{content[:SHOWN_CHARACTERS]}[... {len(content)}]",
        }
        told = {"complaint": complaint, "call": call, "answer": seen}
        text = json.dumps(told)
        for key in (self._provider_key, self._client_key):
            text = text.replace(key, "[redacted]")
        self.evidence.setdefault(ask.tag, json.loads(text))


def _own_code(answer):
    """Return the code of an error that Sidestream made, if it is one."""
    try:
        error = json.loads(answer.body)["error"]
        return error["code"] if error["type"] == "sidestream_error" else None
    except (ValueError, KeyError, TypeError):
        return None
