"""
The fault table: whatever a provider does, a client gets one whole answer or one clear error, and the record says why.

Each row of the tables is asked for by a rule with a second backend that is well, and by one without. All calls are
made at once, by `outcomes`; a test looks at one of them.
"""

import itertools
import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from sidestream.demo.certificates import Authority
from tests.end_to_end.callers import Seen, ask_http1, ask_http2
from tests.end_to_end.faults import BEFORE_TLS, DOMAIN, PLAYS, Received, Stage, make_stage, slug
from tests.world import Proxy, sidestream_run

AT_ONCE = 12
"""How many calls are under way at a time."""

MARKER = "sk-marker-fault-"
SHORT = {"connect": "1s", "firstByte": "1s", "streamIdle": "1s"}

WELL = {"stream": ("stream", "200 all good DONE"), "whole": ("JSON", "200 all good")}
"""The backend that is well, and what a client sees of it."""

# How the columns read. `attempt`: the status of the provider's answer, and the word for how it failed. `a client sees`:
# status, what was said, what it was told at the end, and whether the answer is broken off. `error`: the record's.

SPARED = """
what a provider does       asked   attempt           alone, it sees               alone, attempt    error
-------------------------  ------  ----------------  ---------------------------  ----------------  --------------------
refused                    any     connect-failure   502 provider_unreachable     connect-failure   provider_unreachable
black hole                 any     connect-failure   502 provider_unreachable     connect-failure   provider_unreachable
no such name               any     connect-failure   502 provider_unreachable     connect-failure   provider_unreachable
wrong certificate          any     connect-failure   502 provider_unreachable     connect-failure   provider_unreachable
unknown CA                 any     connect-failure   502 provider_unreachable     connect-failure   provider_unreachable
plain text                 any     connect-failure   502 provider_unreachable     connect-failure   provider_unreachable
plain HTTP                 any     connect-failure   502 provider_unreachable     connect-failure   provider_unreachable
closes before TLS          any     connect-failure   502 provider_unreachable     connect-failure   provider_unreachable
hangs before TLS           any     connect-failure   502 provider_unreachable     connect-failure   provider_unreachable

closes at once             any     reset             502 provider_failed          reset             provider_failed
resets at once             any     reset             502 provider_failed          reset             provider_failed
garbage                    any     reset             502 provider_failed          reset             provider_failed
half a head                any     reset             502 provider_failed          reset             provider_failed
a head without end         any     reset             502 provider_failed          reset             provider_failed
changes the protocol       any     reset             502 provider_failed          reset             provider_failed
only interim answers       any     reset             502 provider_failed          reset             provider_failed
two lengths                any     reset             502 provider_failed          reset             provider_failed
never answers              any     timeout           504 provider_timeout         timeout           provider_timeout
stalls in the head         any     timeout           504 provider_timeout         timeout           provider_timeout

429                        any     429 rate-limited  429 slow_down                429 rate-limited  -
429 for 7 s                any     429 rate-limited  429 retry-after:7 slow_down  429 rate-limited  -
408                        any     408 timeout       408 too_slow                 408 timeout       -
500                        any     500 server-error  500 broken_down              500 server-error  -
503 for 7 s                any     503 server-error  503 retry-after:7 busy       503 server-error  -
502 in HTML                any     502 server-error  502 text/html                502 server-error  -
500 that is cut            any     500 server-error  502 provider_failed          500 server-error  provider_failed

error event                stream  200 stream-error  200 overloaded               200 stream-error  error_in_stream
role, error event          stream  200 stream-error  200 overloaded               200 stream-error  error_in_stream
no events                  stream  200 stream-error  200                          200               stream_incomplete
only DONE                  stream  200 stream-error  200 DONE                     200               -
role, end                  stream  200 stream-error  200                          200               stream_incomplete
stalls before an event     stream  200 timeout       200 provider_timeout broken  200 timeout       provider_timeout
comments, stall            stream  200 timeout       200 provider_timeout broken  200 timeout       provider_timeout
comments for ever          stream  200 timeout       200 provider_timeout broken  200 timeout       provider_timeout
role, stall                stream  200 timeout       200 provider_timeout broken  200 timeout       provider_timeout
cut before an event        stream  200 reset         200 provider_failed broken   200 reset         provider_failed
role, cut                  stream  200 reset         200 provider_failed broken   200 reset         provider_failed
role, reset                stream  200 reset         200 provider_failed broken   200 reset         provider_failed
cut in the first event     stream  200 reset         200 provider_failed broken   200 reset         provider_failed
role, bad chunk            stream  200 reset         200 provider_failed broken   200 reset         provider_failed
role, cut, HTTP/1.0        stream  200 reset         200 provider_failed broken   200 reset         provider_failed
gzip that is none, stream  stream  200 reset         200 provider_failed broken   200 reset         provider_failed

JSON, cut                  whole   200 reset         502 provider_failed          200 reset         provider_failed
JSON, reset                whole   200 reset         502 provider_failed          200 reset         provider_failed
JSON, stall                whole   200 timeout       504 provider_timeout         200 timeout       provider_timeout
JSON, bad chunk            whole   200 reset         502 provider_failed          200 reset         provider_failed
JSON, cut, chunks          whole   200 reset         502 provider_failed          200 reset         provider_failed
JSON, cut, HTTP/1.0        whole   200 reset         502 provider_failed          200 reset         provider_failed
gzip that is none          whole   200 reset         502 provider_failed          200 reset         provider_failed
gzip that is half          whole   200 reset         502 provider_failed          200 reset         provider_failed
br that is half            whole   200 reset         502 provider_failed          200 reset         provider_failed
"""
"""Nothing had gone out: another provider answers instead."""

TOLD = """
what a provider does        asked   attempt           a client sees                     error
--------------------------  ------  ----------------  --------------------------------  -----------------
half, cut                   stream  200 reset         200 half provider_failed broken   provider_failed
half, reset                 stream  200 reset         200 half provider_failed broken   provider_failed
half, stall                 stream  200 timeout       200 half provider_timeout broken  provider_timeout
half, comments, stall       stream  200 timeout       200 half provider_timeout broken  provider_timeout
half, error event           stream  200 stream-error  200 half overloaded               error_in_stream
half, cut in an event       stream  200 reset         200 half provider_failed broken   provider_failed
half, end                   stream  200 reset         200 half provider_failed broken   provider_failed
all but DONE, end           stream  200               200 all good                      -
half, bad chunk             stream  200 reset         200 half provider_failed broken   provider_failed
half, cut, HTTP/1.0         stream  200 reset         200 half provider_failed broken   provider_failed
half, not gzip any more     stream  200 reset         200 half provider_failed broken   provider_failed
half, short of its length   stream  200 reset         200 half provider_failed broken   provider_failed
all, cut                    stream  200 reset         200 all good DONE broken          provider_failed

400                         any     400               400 bad_request                   -
401                         any     401               401 bad_key                       -
404                         any     404               404 no_such_model                 -
redirect                    any     302               302                               -

stream                      stream  200               200 all good DONE                 -
stream, byte by byte        stream  200               200 all good DONE                 -
stream, CRLF and comments   stream  200               200 all good DONE                 -
stream of known length      stream  200               200 all good DONE                 -
stream, hints               stream  200               200 all good DONE                 -
stream, trailers            stream  200               200 all good DONE                 -
stream, gzip                stream  200               200 all good DONE                 -
stream, br                  stream  200               200 all good DONE                 -
stream, zstd                stream  200               200 zstd:22                       -
stream, HTTP/1.0            stream  200               200 all good DONE                 -
stream, closes              stream  200               200 all good DONE                 -
JSON                        any     200               200 all good                      -
JSON, chunks                whole   200               200 all good                      -
JSON, hints                 whole   200               200 all good                      -
JSON, trailers              whole   200               200 all good                      -
JSON, gzip                  whole   200               200 all good                      -
JSON, br                    whole   200               200 all good                      -
JSON, HTTP/1.0              whole   200               200 all good                      -
JSON, more than its length  whole   200               200 all good                      -
"""
"""It is an answer, or content had gone out: it is the client's, whoever else could answer."""

RULES = """
asked in turn                retry                 asked   attempts                             it sees
---------------------------  --------------------  ------  -----------------------------------  --------------------------------
refused > garbage > 408      2                     any     connect-failure, reset, 408 timeout  408 too_slow
429 > refused                1                     any     429 rate-limited, connect-failure    502 provider_unreachable
500 > never answers          1                     any     500 server-error, timeout            504 provider_timeout
never answers > 503 for 7 s  1                     any     timeout, 503 server-error            503 retry-after:7 busy
500 > 500 that is cut        1                     any     500 server-error, 500 server-error   502 provider_failed
refused > 400                1                     any     connect-failure, 400                 400 bad_request
role, cut > error event      1                     stream  200 reset, 200 stream-error          200 overloaded

refused > garbage > JSON     -                     whole   connect-failure, reset, 200          200 all good
429 > refused > JSON         1                     whole   429 rate-limited, connect-failure    502 provider_unreachable
500 > JSON                   0                     whole   500 server-error                     500 broken_down
500                          1                     whole   500 server-error, 500 server-error   500 broken_down
503 for 7 s                  2                     whole   503 server-error                     503 retry-after:7 busy
JSON, stall > never answers  2 within 1900ms       whole   200 timeout, timeout                 504 provider_timeout
half, comments for ever      - within 1500ms       stream  200 timeout                          200 half provider_timeout broken

500 > JSON                   1 on reset,timeout    whole   500 server-error                     500 broken_down
500 > JSON                   1 on server-error     whole   500 server-error, 200                200 all good
refused > JSON               1 on connect-failure  whole   connect-failure, 200                 200 all good
JSON, cut > JSON             1 on timeout          whole   200 reset                            502 provider_failed
role, error event > stream   1 on reset            stream  200 stream-error                     200 overloaded
no events > stream           1 on reset            stream  200 stream-error                     502 provider_failed
only DONE > stream           1 on reset            stream  200 stream-error                     200 DONE
role, stall > stream         1 on reset            stream  200 timeout                          504 provider_timeout
role, cut > stream           1 on timeout          stream  200 reset                            502 provider_failed
"""  # noqa: E501 it is a table
"""What a rule says of it: who may be asked, how often, and after which failures."""


@dataclass(frozen=True)
class Case:
    """One call: whom its rule asks in turn, and what has to come of it."""

    name: str
    plays: tuple[str, ...]
    asked: str
    attempts: tuple[str, ...]
    sees: str
    error: str | None
    retry: str = "-"


def rows(table: str, columns: int) -> list[list[str]]:
    """Take a table apart; its second line says how wide the columns are."""
    _, _, ruler, *lines = table.split("\n")
    starts = [0, *(at + 1 for at in range(1, len(ruler) - 1) if ruler[at] == " " and ruler[at + 1] == "-"), None]
    cells = [[line[a:b].strip() for a, b in itertools.pairwise(starts)] for line in lines if line.strip()]
    assert all(len(row) == columns and all(row) for row in cells), cells
    return cells


def forms(asked: str) -> list[str]:
    return ["stream", "whole"] if asked == "any" else [asked]


def word(error: str) -> str | None:
    return None if error == "-" else error


def told(sees: str) -> str | None:
    """Return the record's error, which a client is told of, too; that of an event is the provider's own."""
    if "overloaded" in sees:
        return "error_in_stream"
    return next((said for said in sees.split() if said.startswith("provider_")), None)


ONE_MORE = "1"

WITH_ANOTHER = [
    Case(f"{what}, {form}, with another", (what, WELL[form][0]), form, (attempt, "200"), WELL[form][1], None, ONE_MORE)
    for what, asked, attempt, *_ in rows(SPARED, 6)
    for form in forms(asked)
] + [
    Case(f"{what}, {form}, with another", (what, WELL[form][0]), form, (attempt,), sees, word(error), ONE_MORE)
    for what, asked, attempt, sees, error in rows(TOLD, 5)
    for form in forms(asked)
]
ALONE = [
    Case(f"{what}, {form}, alone", (what,), form, (attempt,), sees, word(error))
    for what, asked, attempt, sees, error in [
        *([what, asked, attempt, sees, error] for what, asked, _, sees, attempt, error in rows(SPARED, 6)),
        *rows(TOLD, 5),
    ]
    for form in forms(asked)
]
RULED = [
    Case(
        f"{plays}, {retry}, {form}",
        tuple(plays.split(" > ")),
        form,
        tuple(attempts.split(", ")),
        sees,
        told(sees),
        retry,
    )
    for plays, retry, asked, attempts, sees in rows(RULES, 5)
    for form in forms(asked)
]
CASES = [*WITH_ANOTHER, *ALONE, *RULED]
CALLS = [(case, 1) for case in CASES] + [(case, 2) for case in [*ALONE, *RULED]]
"""Who asks is of no account to what is asked next, so it is over HTTP/2 only where an answer may end in any way."""


@dataclass(frozen=True)
class Outcome:
    seen: Seen
    records: list[dict]
    received: list[Received]


def write_provider(stage: Stage, play: str) -> dict:
    host = f"{slug(play)}.{DOMAIN}"
    config = {"apiKey": MARKER + slug(play), "model": f"model-{slug(play)}"}
    spec = {"host": host, "path": f"/{slug(play)}/v1/chat/completions", "endpoint": stage.endpoint(play)}
    return document("LLMProvider", slug(play), spec | {"configs": {"defaultConfig": {"openAIConfig": config}}})


def write_route(case: Case) -> dict:
    backends = [{"providerHost": f"{slug(play)}.{DOMAIN}", "priority": tier} for tier, play in enumerate(case.plays)]
    attempts, on, within = re.fullmatch(r"(-|\d+)(?: on (\S+))?(?: within (\S+))?", case.retry).groups()
    rule = {"name": "only", "backendRefs": backends}
    if attempts != "-":
        rule["retry"] = {"attempts": int(attempts)} | ({"on": on.split(",")} if on else {})
    if any(word in play for play in case.plays for word in ("stall", "black hole", "hangs", "ever")):
        rule["timeouts"] = SHORT | {"request": within or "20s"}
    return document("LLMRoute", f"case-{CASES.index(case)}", {"host": host_of(case), "rules": [rule]})


def document(kind: str, name: str, spec: dict) -> dict:
    return {"apiVersion": "istio.alibabacloud.com/v1beta1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def host_of(case: Case) -> str:
    return f"case-{CASES.index(case)}.routes.test"


@pytest.fixture(scope="module")
def stage(shared_world):
    with make_stage(shared_world.authority, Authority.create(shared_world.folder / "nobodys-ca")) as stage:
        yield stage


@pytest.fixture(scope="module")
def proxy(shared_world, stage):
    policies = shared_world.policies("policies-of-faults")
    documents = [write_provider(stage, play) for play in (*PLAYS, *BEFORE_TLS)] + list(map(write_route, CASES))
    (policies / "faults.yaml").write_text("\n---\n".join(map(json.dumps, documents)))
    with sidestream_run(shared_world, "--intercept-tls", policies=policies) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def outcomes(proxy: Proxy, stage: Stage, shared_world):
    """Make every call, by HTTP version; return what came of each."""
    proxy_ca = shared_world.folder / "confdir/mitmproxy-ca-cert.pem"

    def call(case: Case, version: int) -> Seen:
        tag = f"{case.name}, HTTP/{version}"
        body = json.dumps({"messages": [{"role": "user", "content": tag}], "stream": case.asked == "stream"}).encode()
        heard = stage.heard[tag].set
        if version == 1:
            return ask_http1(proxy, host_of(case), body, heard)
        return ask_http2(proxy, proxy_ca, host_of(case), body, heard)

    with proxy.recording() as records, ThreadPoolExecutor(AT_ONCE) as pool:
        seen = list(pool.map(lambda one: call(*one), CALLS))
    outcomes = {}
    for (case, version), what in zip(CALLS, seen, strict=True):
        # Ports come again, with so many calls; a host is of one case only.
        mine = [one for one in records if (one["host"], one["client"]) == (host_of(case), what.client)]
        received = [one for one in stage.received if one.tag == f"{case.name}, HTTP/{version}"]
        outcomes[case.name, version] = Outcome(what, mine, received)
    return outcomes


TOKENS = {"all good": (3, 5, False), "half": (None, 1, True)}
"""What a client heard → the tokens of its record: all, or the pieces until then, and whether that is all."""


@pytest.mark.parametrize(("case", "version"), CALLS, ids=[f"{case.name}, HTTP/{version}" for case, version in CALLS])
def test_a_client_gets_one_answer_or_one_error_and_the_record_says_why(outcomes, case, version):
    outcome = outcomes[case.name, version]

    [record] = outcome.records
    attempts = [" ".join(str(word) for word in (one["status"], one["error"]) if word) for one in record["attempts"]]
    asked = [one["provider"] for one in record["attempts"]]
    assert outcome.seen.told == case.sees
    assert attempts == list(case.attempts)
    assert asked == [f"default/{slug(play)}" for play in itertools.islice(itertools.cycle(case.plays), len(asked))]
    assert (record["status"], record["error"]) == (outcome.seen.status, case.error)
    assert record["provider"] == asked[-1]
    assert record["bytes_out"] == len(outcome.seen.body)
    assert record["events_out"] == (len(outcome.seen.events) if outcome.seen.is_stream else None)
    tokens = (record["prompt_tokens"], record["completion_tokens"], record["usage_partial"])
    assert tokens == next((known for said, known in TOKENS.items() if said in outcome.seen.told), (None, None, None))
    assert_each_provider_got_its_own(outcome.received, record["attempts"])


def assert_each_provider_got_its_own(received: list[Received], attempts: list[dict]) -> None:
    """Every attempt whose connection was there is one request, with the provider's own key, model and path."""
    arrived = [one for one in attempts if one["error"] != "connect-failure"]
    names = [one["provider"].removeprefix("default/") for one in arrived]
    assert received == [
        Received(name, f"{name}.{DOMAIN}", f"Bearer {MARKER}{name}", f"model-{name}", received[0].tag) for name in names
    ]
    assert [one["sent_model"] for one in arrived] == [one.model for one in received]


def test_no_key_is_anywhere_but_in_what_providers_got(outcomes, proxy, stage):
    told = [outcome.seen.body.decode("latin-1") + repr(outcome.seen.headers) for outcome in outcomes.values()]

    assert all(MARKER in one.key for one in stage.received)
    assert not any(MARKER in text for text in [*told, proxy.said, proxy.log.read_text()])
    assert proxy.is_alive
