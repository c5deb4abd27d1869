"""
Whether the records tell the truth, and whether what failed had a reason: pure, from values.

Every call is compared with its record, and every failure with what the providers wrote down.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.soak.asking import DEAD_FIRST, DIRECT, MISTRUSTED_FIRST, Ask, is_faulty
from tests.soak.judging import STABLE_WORD, Verdict

MAX_ATTEMPTS = 5
"""How often a call may reach providers: once, as often as the policy retries, and once for a stale connection."""

AROUND_SECONDS = 0.5
"""How near to a call a restart of a provider counts as a reason for it to fail."""


@dataclass(frozen=True, slots=True)
class Done:
    """
    A finished call, as far as it is needed later. `number` draws the call again.

    `code`: of Sidestream's own error. `bytes_in`, `bytes_out`: body bytes sent and received.
    """

    number: int
    tag: str
    host: str
    settings: str
    streams: bool
    sdk: bool
    verdict: Verdict
    status: int | None = None
    code: str | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    leave: str = ""
    address: str = ""
    began: float = 0.0
    ended: float = 0.0

    @classmethod
    def of(cls, number: int, ask: Ask, verdict: Verdict, **seen) -> "Done":
        leave = f"{ask.leave.when} {ask.leave.how}" if ask.leave else ""
        return cls(number, ask.tag, ask.host, ask.settings, ask.streams, ask.sdk, verdict, leave=leave, **seen)


type Offence = tuple[str, str]
"""Tag of a call, and what should not be."""


def check_records(calls: Sequence[Done], records: Sequence[dict]) -> Iterator[Offence]:
    """Compare calls with records, one to one."""
    by_tag, nameless = defaultdict(list), Counter()
    for record in records:
        if record["request_model"] is None:
            nameless[record["client"]] += 1
        else:
            by_tag[record["request_model"]].append(record)
    unfinished, maybe = Counter(), Counter()
    for call in calls:
        of_call = by_tag.pop(call.tag, [])
        if call.leave.startswith("body") or (call.leave == "sent reset" and not of_call):
            unfinished[call.address] += 1
            # The reset may overtake the request, or half of it.
            maybe[call.address] += call.leave.endswith("reset")
        elif len(of_call) != 1:
            yield call.tag, f"{len(of_call)} records of one call"
        elif complaint := _untruth(call, of_call[0]):
            yield call.tag, complaint
    for tag in by_tag:
        yield tag, "a record of a call that nobody made"
    for address in unfinished | nameless:
        count, most = nameless[address], unfinished[address]
        if not most - maybe[address] <= count <= most:
            yield address, f"{count} records of {most} calls without a whole body, from {address}"


def check_words(records: Sequence[dict]) -> Iterator[Offence]:
    """Look for records that say of themselves that the product failed."""
    for record in records:
        if record["error"] == "internal_error":
            yield record["request_model"] or record["client"], "internal_error, says the record"


def _untruth(call, record):
    """Return the first thing that is not as the client saw it."""
    error, kind = record["error"], call.verdict.kind
    # What a provider compresses though it was asked not to is not read, so an error in it is not seen.
    is_read = "gzip" not in call.settings
    is_whole = not call.sdk and kind in {"complete", "error"}
    is_seen = is_whole or (not call.sdk and kind == "incomplete")
    found = {
        f"error is no stable word: {error!r}": error is not None and not STABLE_WORD.fullmatch(error),
        f"stream: {record['stream']}": record["stream"] != call.streams,
        f"the answer was complete, its record says {error}": kind == "complete" and error is not None,
        "the answer was not complete, its record says nothing of it": kind == "incomplete"
        and error is None
        and is_read,
        f"the client was told {call.code}, the record says {error}": call.code not in {None, error},
        f"the client saw {call.status}, the record says {record['status']}": is_seen
        and record["status"] != call.status,
        f"the client sent {call.bytes_in} bytes, the record says {record['bytes_in']}": is_seen
        and record["bytes_in"] != call.bytes_in,
        f"the client got {call.bytes_out} bytes, the record says {record['bytes_out']}": is_whole
        and record["bytes_out"] != call.bytes_out,
    }
    return next((complaint for complaint, is_so in found.items() if is_so), "")


@dataclass(frozen=True, slots=True)
class Acted:
    """What the product acts on; probed before the load begins."""

    fallback: bool
    timeouts: bool


def check_reasons(
    calls: Sequence[Done],
    attempts: Mapping[str, Sequence[dict]],
    acted: Acted,
    *,
    restarts: Sequence[float] = (),
    starved: Sequence[tuple[float, float]] = (),
) -> Iterator[Offence]:
    """
    Look for failures without a reason, and for calls that went out too often.

    `attempts`: tag → lines of the providers' journals. `restarts`: when all connections were dropped.
    `starved`: when the proxy did not get the CPU, from and to; then it may be late.
    """
    dropped: dict[str, bool] = {}
    for call in sorted(calls, key=lambda c: c.began):
        tried = attempts.get(call.tag, ())
        if len(tried) > MAX_ATTEMPTS:
            yield call.tag, f"reached providers {len(tried)} times"
        if any(line["leaks"] for line in tried):
            yield call.tag, "the client's key reached a provider"
        moods = [line["mood"] for line in tried]
        after_drop = dropped.get(call.address, False)
        if call.address:
            dropped[call.address] = "connection=drop" in call.settings
        is_stalled = any("stall" in settings for settings in (call.settings, *moods))
        is_starved = any(call.began < to and since < call.ended for since, to in starved)
        is_timed = acted.timeouts and call.host != DIRECT  # a provider without a route has none but the defaults
        if call.verdict.kind == "gave up" and (is_timed or not is_stalled) and not is_starved:
            yield call.tag, "no answer in time"
        if call.verdict.kind not in {"error", "incomplete"}:
            continue
        if any(map(is_faulty, (call.settings, *moods))):
            continue
        if not acted.fallback and call.host in {DEAD_FIRST, MISTRUSTED_FIRST}:
            continue
        if any(call.began - AROUND_SECONDS < at < call.ended + AROUND_SECONDS for at in restarts):
            continue
        said = call.code or call.status or call.verdict.kind
        why = ", on a connection whose provider had just gone" if after_drop else ""
        yield call.tag, f"failed ({said}), though its provider was well{why}"


def is_log_of_failure(line: str) -> bool:
    """Tell whether a line of the proxy's log says that something of ours broke."""
    return bool(re.search(r"\b(ERROR|CRITICAL)\b|Traceback|crashed|never retrieved|never awaited", line))
