"""The commands, as the command bar runs them."""

import gzip
import json

import pytest
from mitmproxy import exceptions

from sidestream.core.calls import Broken, End, Head
from sidestream.core.secret import Secret
from sidestream.core.snapshot import Endpoint, OpenAIConfig, Provider
from tests.mitm.driver import finish
from tests.mitm.pages.showing import CHAT, CLIENT_KEY, EVENT
from tests.mitm.test_requests import HOST, KEY, PROVIDER, FixedSource, make_flow

OTHER_KEY = "sk-marker-of-the-other"
OTHER = Provider(
    "default/moonshot",
    "api.moonshot.cn",
    Endpoint("api.moonshot.cn", 443, "api.moonshot.cn", server_name="api.moonshot.cn"),
    "/v1/chat/completions",
    OpenAIConfig(model="moonshot-v1-8k", key=Secret(OTHER_KEY)),
    rule_configs={"vip-route": OpenAIConfig(model="moonshot-v1-128k", key=Secret(OTHER_KEY))},
)
HEAD = Head(200, b"OK", ((b"content-type", b"text/event-stream"),), None)


class Source(FixedSource):
    """A source that can be looked at. `newer`: what is found then."""

    newer = None
    found = ()

    def refresh(self):
        if self.newer is None:
            return False
        self.snapshot, self.newer = self.newer, None
        return True

    def problems(self):
        return self.found


@pytest.fixture
def source(shown):
    runtime = shown.requests._current.runtime
    source = Source(PROVIDER, OTHER)
    object.__setattr__(runtime, "source", source)
    return source


@pytest.fixture
def run(shown, source):
    """Run a command of the bar."""
    return shown.commands.execute


@pytest.fixture
def ended(shown, source):
    """A call that has ended."""
    flow = shown.come(make_flow(body=CHAT, authorization=f"Bearer {CLIENT_KEY}"))
    shown.begin_answer(flow, EVENT % b"qwen", b"data: [DONE]\n\n")
    shown.end(flow)
    flow.live = False
    return flow


def caller(shown):
    return shown.requests.upstream().callers[-1]


def deliver(shown, *parts):
    caller(shown).exchange.attempt_answered(200, None)
    finish(caller(shown).deliver(parts))


def test_explain_tells_the_decision(run, ended):
    said = run(f"sidestream.explain @{ended.id}")

    assert "names this host, and no route does" in said
    assert "← it went here" in said


def test_explain_of_what_no_policy_governs_says_so(run, shown):
    other = shown.come(make_flow("other.example"))

    assert "nothing is known" in run(f"sidestream.explain @{other.id}")


def test_policy_shows_no_key(run, source):
    source.found = ("there is something wrong",)

    said = json.loads(run("sidestream.policy"))

    assert sorted(said["hosts"]) == ["api.moonshot.cn", HOST]
    assert said["problems"] == ["there is something wrong"]
    assert not any(key in str(said) for key in (KEY, OTHER_KEY))


def test_reload_says_what_is_in_force_and_what_is_wrong(run, source):
    before = run("sidestream.reload")
    source.newer, source.found = FixedSource(OTHER).snapshot, ("a warning",)

    assert before == "policy revision test is in force, as before"
    assert run("sidestream.reload").splitlines() == ["policy revision test is in force, new", "a warning"]
    assert list(source.snapshot.hosts) == ["api.moonshot.cn"]


def test_a_source_that_can_not_be_looked_at_says_so(run, shown):
    object.__setattr__(shown.requests._current.runtime, "source", FixedSource(PROVIDER))

    with pytest.raises(exceptions.CommandError, match="by itself"):
        run("sidestream.reload")


@pytest.mark.parametrize("name", ["default/moonshot", "moonshot", "api.moonshot.cn"])
def test_a_request_is_sent_again_as_the_app_sent_it_to_another_provider(run, shown, ended, name):
    said = run(f"sidestream.replay-with @{ended.id} {name}")

    attempt, outgoing = shown.requests.upstream().outgoing[-1]
    assert said == "sent again to default/moonshot: 1"
    assert attempt.endpoint.host == "api.moonshot.cn"
    assert attempt.key == Secret(OTHER_KEY)
    assert json.loads(outgoing.body)["model"] == "moonshot-v1-8k"
    assert json.loads(outgoing.body)["messages"] == json.loads(CHAT)["messages"]
    assert CLIENT_KEY not in repr(outgoing.fields)
    assert OTHER_KEY not in repr(outgoing.fields)


def test_a_body_that_was_decoded_is_not_said_to_be_encoded(run, shown, source):
    body = gzip.compress(b'{"input": "hi", "model": "m"}')
    flow = make_flow(body=body, content_encoding="gzip")
    flow.request.path = "/v1/embeddings"
    shown.come(flow).live = False

    run(f"sidestream.replay-with @{flow.id} moonshot")

    _, outgoing = shown.requests.upstream().outgoing[-1]
    assert json.loads(outgoing.body) == {"input": "hi", "model": "m"}
    assert b"content-encoding" not in {name.lower() for name, _ in outgoing.fields}


def test_the_answer_is_shown_in_a_flow_of_its_own(run, shown, ended):
    run(f"sidestream.replay-with @{ended.id} moonshot")
    flow = caller(shown).flow
    deliver(shown, HEAD, EVENT % b"kimi")
    shown.pages.show_live()
    begun = shown.page(flow).text
    deliver(shown, b"data: [DONE]\n\n", End.END)

    assert flow in shown.view
    assert flow.metadata["sidestream.replay_of"] == ended.id
    assert "I am kimi" in begun
    assert "the answer is under way" in begun
    assert "sent again to default/moonshot, by hand" in shown.page(flow).text
    assert flow.comment.startswith("moonshot moonshot-v1-8k · ")
    assert "I am qwen" in shown.page(ended).text


def test_it_is_recorded_as_a_call(run, shown, ended):
    before = shown.requests.counts()["exchanges"]
    run(f"sidestream.replay-with @{ended.id} moonshot")
    deliver(shown, HEAD, End.END)

    record = caller(shown).opened.record
    assert shown.requests.counts()["exchanges"] == before + 1
    assert (record.provider, record.status, record.host) == ("default/moonshot", 200, HOST)


def test_what_breaks_off_says_so(run, shown, ended):
    run(f"sidestream.replay-with @{ended.id} moonshot")
    finish(caller(shown).deliver([Broken("provider_unreachable", "nobody is there")]))

    flow = caller(shown).flow
    assert flow.error.msg == "nobody is there"
    assert flow.comment.endswith("provider_unreachable")
    assert shown.pages._live == {}


def test_the_config_is_that_of_the_rule_it_came_by(run, shown, ended):
    ended.metadata["sidestream.rule"] = "vip-route"

    run(f"sidestream.replay-with @{ended.id} moonshot")

    assert json.loads(shown.requests.upstream().outgoing[-1][1].body)["model"] == "moonshot-v1-128k"


def test_no_key_is_on_the_pages_of_what_was_sent_again(run, shown, ended):
    run(f"sidestream.replay-with @{ended.id} moonshot")
    deliver(shown, HEAD, EVENT % b"kimi", End.END)

    flow = caller(shown).flow
    kept = [flow.get_state(), shown.page(flow, "request", "LLM diff").text, shown.page(flow, "request").text]
    assert not any(key in repr(each) for key in (KEY, OTHER_KEY, CLIENT_KEY) for each in kept)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("nobody", "no provider is named 'nobody'; there are: default/dashscope, default/moonshot"),
        ("''", "no provider is named ''"),
    ],
)
def test_a_provider_that_there_is_not_is_refused(run, ended, given, reason):
    with pytest.raises(exceptions.CommandError) as refused:
        run(f"sidestream.replay-with @{ended.id} {given}")

    assert reason in str(refused.value)


def test_what_is_no_chat_is_refused(run, shown, source):
    flow = shown.come(make_flow(body=b"no chat"))
    flow.live = False

    with pytest.raises(exceptions.CommandError, match="messages"):
        run(f"sidestream.replay-with @{flow.id} moonshot")


def test_what_is_no_operation_of_openais_is_refused(run, shown, source):
    flow = make_flow(body=b"{}")
    flow.request.path = "/orders"
    shown.come(flow).live = False

    with pytest.raises(exceptions.CommandError, match="only OpenAI's operations"):
        run(f"sidestream.replay-with @{flow.id} moonshot")


def test_what_is_under_way_or_too_much_is_refused(run, shown, source):
    for _ in range(25):
        shown.come(make_flow(body=CHAT)).live = False
    live = shown.come(make_flow(body=CHAT))
    live.live = True

    for flows in ("@all", f"@{live.id}", "~marked"):
        with pytest.raises(exceptions.CommandError, match="name 1 to 20 flows"):
            run(f"sidestream.replay-with {flows} moonshot")
