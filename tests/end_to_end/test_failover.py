"""What exchanges learn from one another: who is left alone for a while, and which connections can be used again."""

import json
import re

import pytest

from tests.end_to_end.callers import ask_http1
from tests.end_to_end.faults import ALL, ERROR, HALF, SSE, WHOLE, answer, error_of
from tests.scripted import Line, scripted
from tests.world import provider_document, sidestream_run, wait_for

WELL = answer(b"200 OK", WHOLE)
STREAM = answer(b"200 OK", ALL, content_type=SSE)
DOWN = answer(b"500 Internal Server Error", error_of("broken_down"))
BAD = answer(b"400 Bad Request", error_of("bad_request"))
LIMITED = answer(b"429 Too Many Requests", error_of("slow_down"), b"retry-after: 2")

SOON = {"consecutive5xxErrors": 2, "interval": "300s", "baseEjectionTime": "2s"}
NEVER = {"consecutive5xxErrors": 2, "interval": "300s", "baseEjectionTime": "300s"}
MOODY = {
    "flaky": SOON,
    "limited": NEVER | {"consecutive429Errors": 1},
    "lonely": NEVER,
    "strict": NEVER,
    "broken": NEVER,
    "closing": None,
    "spare": None,
}
"""Providers → when they are left alone. `spare` may be asked instead of any but those that have nobody else."""
WITHOUT_SPARE = ("lonely", "closing", "spare")


class Moody:
    """
    A provider that says what it is told to, time after time.

    `on_reuse`: what it says instead, and then closes, when a connection is used again; "reset" says nothing at all.
    """

    def __init__(self):
        self.says = WELL
        self.on_reuse = None
        self.connections = 0

    def __call__(self, line: Line, request: bytes) -> None:
        self.connections += 1
        line.send(self.says)
        while line.read_request():
            if self.on_reuse == "reset":
                line.reset()
                return
            line.send(self.says if self.on_reuse is None else self.on_reuse)
            if self.on_reuse is not None:
                return


@pytest.fixture(scope="module")
def providers():
    return {name: Moody() for name in MOODY}


@pytest.fixture(scope="module")
def proxy(shared_world, providers):
    def talk(line: Line, request: bytes) -> None:
        name = re.search(rb"host: (\w+)\.moody\.test", request, re.IGNORECASE)[1].decode()
        providers[name](line, request)

    policies = shared_world.policies("policies-of-failover")
    with scripted(talk, shared_world.authority.issue("*.moody.test")) as stage:
        documents = []
        for name, detection in MOODY.items():
            provider = json.loads(provider_document(f"{name}.moody.test", stage.port))
            provider["spec"] |= {"outlierDetection": detection} if detection else {}
            documents += [provider, route(name, [name] if name in WITHOUT_SPARE else [name, "spare"])]
        (policies / "moody.yaml").write_text("\n---\n".join(map(json.dumps, documents)))
        with sidestream_run(shared_world, policies=policies) as proxy:
            yield proxy


def route(name: str, backends: list[str]) -> dict:
    refs = [{"providerHost": f"{backend}.moody.test", "priority": tier} for tier, backend in enumerate(backends)]
    kind = {"apiVersion": "istio.alibabacloud.com/v1beta1", "kind": "LLMRoute", "metadata": {"name": name}}
    return kind | {"spec": {"host": f"{name}.routes.test", "rules": [{"backendRefs": refs}]}}


@pytest.fixture
def call(proxy):
    def call(name: str, *, stream: bool = False) -> tuple[str, list[str]]:
        """Make a call by a provider's route; return what the client saw, and the attempts that were made."""
        body = json.dumps({"messages": [], "stream": stream}).encode()
        before = len(proxy.records)
        seen = ask_http1(proxy, f"{name}.routes.test", body, heard=lambda: None)
        [record] = wait_for(lambda: proxy.records[before:])
        hosts = [one["provider"].removeprefix("default/").removesuffix("-moody-test") for one in record["attempts"]]
        return seen.told, [
            f"{host} {one['error'] or 'well'}" for host, one in zip(hosts, record["attempts"], strict=True)
        ]

    return call


def test_a_provider_that_fails_again_and_again_is_left_alone_and_asked_again_later(call, providers):
    providers["flaky"].says = DOWN
    spared = ("200 all good", ["flaky server-error", "spare well"])

    assert [call("flaky"), call("flaky")] == [spared, spared]
    assert call("flaky") == ("200 all good", ["spare well"])
    providers["flaky"].says = WELL
    assert wait_for(lambda: (got := call("flaky"))[1] == ["flaky well"] and got)[0] == "200 all good"


def test_a_provider_that_asks_to_be_left_alone_is_left_alone_as_long_as_it_asks(call, providers):
    providers["limited"].says = LIMITED

    assert call("limited") == ("200 all good", ["limited rate-limited", "spare well"])
    assert call("limited") == ("200 all good", ["spare well"])
    providers["limited"].says = WELL
    assert wait_for(lambda: call("limited")[1] == ["limited well"])


def test_a_provider_that_nobody_can_stand_in_for_is_asked_all_the_same(call, providers):
    providers["lonely"].says = DOWN

    assert [call("lonely") for _ in range(4)] == [("500 broken_down", ["lonely server-error"])] * 4


def test_answers_to_what_a_client_did_wrong_are_no_failures(call, providers):
    providers["strict"].says = BAD

    assert [call("strict") for _ in range(4)] == [("400 bad_request", ["strict well"])] * 4


def test_a_provider_whose_streams_end_in_errors_has_failed(call, providers):
    providers["broken"].says = answer(b"200 OK", HALF + ERROR, content_type=SSE)

    assert [call("broken", stream=True) for _ in range(2)] == [("200 half overloaded", ["broken stream-error"])] * 2
    assert call("broken") == ("200 all good", ["spare well"])


def test_a_success_makes_up_for_what_was_before(call, providers):
    for says in (DOWN, WELL, DOWN, WELL):
        providers["strict"].says = says
        assert call("strict")[1][0] == f"strict {'well' if says is WELL else 'server-error'}"


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("on_reuse", [b"", "reset"], ids=["closed", "reset"])
def test_a_connection_that_closes_just_when_it_is_used_again_is_no_failure(call, providers, on_reuse, stream):
    closing = providers["closing"]
    closing.says, closing.on_reuse = (STREAM if stream else WELL), None
    call("closing", stream=stream)  # there is a connection that can be used again
    closing.on_reuse = on_reuse
    before = closing.connections

    told = call("closing", stream=stream)

    assert told == ("200 all good DONE" if stream else "200 all good", ["closing well"])
    assert closing.connections == before + 1


def test_a_connection_that_breaks_within_an_answer_is_a_failure_though_it_was_used_before(call, providers):
    closing = providers["closing"]
    closing.says, closing.on_reuse = WELL, None
    call("closing")
    closing.on_reuse = WELL[:20]
    before = closing.connections

    assert call("closing") == ("502 provider_failed", ["closing reset"])
    assert closing.connections == before


def test_calls_one_after_another_share_a_connection(call, providers):
    spare = providers["spare"]
    before = spare.connections

    assert [call("spare") for _ in range(5)] == [("200 all good", ["spare well"])] * 5
    assert spare.connections <= before + 1
