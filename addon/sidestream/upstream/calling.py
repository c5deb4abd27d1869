"""
One call: attempts until there is an answer, and the answer as it comes.

`core.attempts` says what comes next, `core.deadlines` when it has taken too long, `core.relay`
what of an answer may go on; here is the waiting and the sending.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace

from sidestream.core.attempts import Failure, Try
from sidestream.core.calls import Broken, Caller, End, Head, Part, broken_by, last_parts
from sidestream.core.deadlines import Deadlines
from sidestream.core.operations import OTHER
from sidestream.core.relay import Relay
from sidestream.core.usage import Meter
from sidestream.upstream.connection import Answer, AttemptFailed, Connection
from sidestream.upstream.encodings import BadEncoding, Decoding, decoding_of
from sidestream.upstream.judging import failure_of, head_of, manner_of
from sidestream.upstream.pool import Pool
from sidestream.upstream.wire import head_bytes, without_key

logger = logging.getLogger(__name__)


class PooledUpstream:
    """The upstream half: calls over pooled connections. `extra_ca_pem`: CAs to trust besides the system's."""

    def __init__(self, extra_ca_pem: str = "") -> None:
        self.pool = Pool(extra_ca_pem)
        self._calls: set[asyncio.Task[None]] = set()

    def call(self, caller: Caller) -> asyncio.Task[None]:
        """Begin to get an answer for `caller`."""
        task = asyncio.get_running_loop().create_task(_run(self.pool, caller))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        return task

    def counts(self) -> dict[str, int]:
        """Return how many connections were opened, and how often one was used again."""
        return {"provider_connections_opened": self.pool.opened, "provider_connections_reused": self.pool.reused}

    def close(self) -> None:
        """Close the connections that nobody uses."""
        self.pool.close()


async def _run(pool: Pool, caller: Caller) -> None:
    try:
        step: Try | None = caller.first
        may_try_afresh = True
        while step is not None:
            if step.after_seconds:
                await asyncio.sleep(step.after_seconds)
            attempt = _Attempt(pool, caller, step, may_try_afresh=may_try_afresh)
            try:
                step = await attempt.run()
            finally:
                attempt.close()
            may_try_afresh = attempt.may_try_afresh
    except asyncio.CancelledError:
        caller.attempts.abandoned()
        raise
    except Exception:
        logger.exception("a call failed for a bug of ours")
        caller.attempts.abandoned()
        await caller.deliver([Broken("internal_error", "")])


class _Attempt:
    """One attempt of one call."""

    _connection: Connection
    _relay: Relay
    _head: Head

    def __init__(self, pool: Pool, caller: Caller, step: Try, *, may_try_afresh: bool) -> None:
        self.may_try_afresh = may_try_afresh
        self._pool = pool
        self._caller = caller
        self._plan = caller.plan(step)
        self._decoding: Decoding | None = None
        self._rest = b""
        self._timeout = asyncio.timeout(None)
        self._has_connection = self._has_answer = self._has_sent_head = False
        now = time.monotonic()
        self._deadlines = self._deadlines_from(now)
        caller.exchange.began_attempt(step.backend, self._plan, now=now)

    async def run(self) -> Try | None:
        """Run to its end; return what comes next, if this did not give the client its answer."""
        attempts, exchange = self._caller.attempts, self._caller.exchange
        failure = await self._within_time(self._get_answer)
        now = time.monotonic()
        if failure is None:
            flaw = self._relay.flaw
            if flaw is None:
                attempts.succeeded(now=now)
            else:
                attempts.committed()
                attempts.failed(flaw, now=now, draw=0.0)
            exchange.ended_attempt(flaw.kind if flaw is not None else None, now=now)
            await self._finish()
            return None
        if self._deadlines.is_paused:
            attempts.abandoned()  # the client was too slow, which says nothing about a provider
        following = attempts.failed(failure, now=now, draw=random.random())  # noqa: S311 it spreads load
        exchange.ended_attempt(failure.kind, now=now)
        if following is None:
            await self._tell(failure)
        return following

    def close(self) -> None:
        """Give up the connection, unless it was given back or all of its answer is here, which is not wanted."""
        if not self._has_connection:
            return
        if self._connection.is_complete:
            self._give_back()
        else:
            self._has_connection = False
            self._connection.abort()

    async def _within_time(self, act: Callable[[], Awaitable[Failure | None]]) -> Failure | None:
        try:
            async with asyncio.timeout(None) as self._timeout:
                self._look_again()
                return await act()
        except TimeoutError:
            return self._deadlines.missed(time.monotonic()) or Failure("timeout", "it took too long")
        except AttemptFailed as e:
            return e.failure
        except BadEncoding as e:
            return Failure("reset", str(e))

    def _deadlines_from(self, now: float) -> Deadlines:
        return Deadlines(self._caller.attempts.timeouts, now=now, last=self._caller.attempts.deadline)

    def _look_again(self) -> None:
        self._timeout.reschedule(self._deadlines.next)  # asyncio's clock is the monotonic one

    async def _get_answer(self) -> Failure | None:
        answer = await self._ask()
        self._begin(answer)
        failure = failure_of(answer)
        if failure is None and self._relay.has_begun:
            await self._deliver()
        return failure or await self._pass_body()

    async def _ask(self) -> Answer:
        attempt = self._plan.attempt
        outgoing = self._caller.outgoing(self._plan)
        head = head_bytes(outgoing, attempt.key)
        # Where a used connection dies in silence, nobody can tell whether the request was taken.
        reused = None if self._caller.attempts.only_unsent else self._pool.idle(attempt.endpoint)
        while True:
            self._connection = reused or await self._pool.open(attempt.endpoint)
            self._has_connection = True
            self._deadlines.connected(time.monotonic())
            self._look_again()
            self._connection.send(head, outgoing.body, is_head_only=outgoing.method == b"HEAD")
            try:
                return await self._connection.answer()
            except AttemptFailed as e:
                # A provider may close an unused connection just when it is used. That is no failure of it. But it
                # may also have got the request, so this is done once.
                if reused is None or not e.is_silent or not self.may_try_afresh:
                    raise
            self.may_try_afresh = False
            self.close()
            reused = None
            self._deadlines = self._deadlines_from(time.monotonic())
            self._look_again()

    def _begin(self, answer: Answer) -> None:
        """Look at the head of the answer."""
        is_read = self._plan.operation is not OTHER
        manner, encoding = manner_of(self._plan, answer), answer.get(b"content-encoding")
        self._decoding = decoding_of(encoding) if is_read and encoding and answer.has_body else None
        is_decoded = self._decoding is not None
        meter = Meter(answer.get(b"content-type") if is_read else "", "" if is_decoded else encoding)
        self._relay = Relay(
            manner, meter, is_patient=self._caller.attempts.may_go_on, drops_usage=self._plan.adds_usage
        )
        self._head = head_of(answer, is_decoded=is_decoded, is_as_it_came=manner == "plain")
        self._has_answer = True
        self._caller.exchange.attempt_answered(answer.status, meter)
        if manner != "events":
            self._heard()

    async def _pass_body(self) -> Failure | None:
        """Pass the body on as it comes, all but its end."""
        relay, is_empty = self._relay, True
        while chunk := await self._connection.read():
            is_empty = False
            for piece in self._decoded(chunk):
                await self._pass(relay.feed(piece))
            if relay.failure is not None:
                return relay.failure
            if relay.events or relay.manner != "events":
                self._heard()
        if relay.is_midway or (self._connection.is_until_end and relay.is_cut):
            return Failure("reset", "the answer is cut off")
        if self._decoding is not None and not self._decoding.is_whole and not is_empty:
            return Failure("reset", "the compressed answer is cut off")
        self._give_back()
        self._rest = self._cleared(relay.end())
        return relay.failure

    def _decoded(self, chunk: bytes) -> Iterable[bytes]:
        if self._decoding is None:
            return (chunk,)
        return self._decoding.feed(chunk)

    def _heard(self) -> None:
        self._deadlines.heard(time.monotonic())
        self._look_again()

    async def _pass(self, passing: bytes) -> None:
        """Send on what may be, after the head."""
        if not passing:
            return
        await self._deliver(self._cleared(passing))
        if self._caller.is_congested:
            self._deadlines.pause()
            self._look_again()
            await self._caller.relief()
            self._deadlines.resume(time.monotonic())
            self._look_again()

    def _cleared(self, passing: bytes) -> bytes:
        is_error = self._head.status >= 400 or self._relay.meter.error_seen
        return without_key(passing, self._plan.attempt.key) if is_error else passing

    async def _deliver(self, *parts: Part) -> None:
        if self._relay.manner == "events":
            self._caller.exchange.passed_events(self._relay.events, now=time.monotonic())
        if self._has_sent_head:
            await self._caller.deliver(parts)
        else:
            self._has_sent_head = True
            self._caller.attempts.committed()
            await self._caller.deliver((self._head, *parts))

    def _give_back(self) -> None:
        self._has_connection = False
        self._pool.release(self._connection)

    async def _finish(self) -> None:
        """Send the end of an answer that is complete."""
        if not self._has_sent_head and self._relay.manner != "events" and self._head.length is None:
            self._head = replace(self._head, length=len(self._rest))
        await (self._deliver(self._rest, End.END) if self._rest else self._deliver(End.END))

    async def _tell(self, failure: Failure) -> None:
        """Tell the client of `failure`, in the provider's own words if it has any."""
        if failure.status is not None:
            another = await self._within_time(self._pass_body)
        elif self._has_answer and self._relay.failure is not None and self._relay.events:
            another = await self._within_time(self._show)
        else:
            another = failure
        if another is None:
            await self._finish()
            return
        # A client that has seen [DONE] has all it waited for.
        in_stream = self._has_sent_head and self._relay.meter.complete is False
        await self._caller.deliver(last_parts(broken_by(another), in_stream=in_stream))

    async def _show(self) -> Failure | None:
        """Pass on the rest of a stream that failed before content, as the provider meant it."""
        self._relay.failure = None
        await self._pass(self._relay.go_on())
        return await self._pass_body() if self._has_connection else None
