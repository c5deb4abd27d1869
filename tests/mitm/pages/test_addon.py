"""The pages' addon, beside mitmproxy's view and our hooks of requests."""

import gc
import json
import weakref

import pytest
from mitmproxy.addons.view import View
from mitmproxy.test import taddons

from sidestream.mitm.addon import Sidestream
from sidestream.mitm.pages import noting
from sidestream.mitm.pages.addon import Pages
from tests.mitm.pages.showing import CHAT, CLIENT_KEY, EVENT
from tests.mitm.test_requests import HOST, KEY, make_flow


def test_a_call_is_a_conversation_with_what_it_took_and_why(shown):
    flow = shown.come(make_flow(body=CHAT))
    shown.begin_answer(flow, EVENT % b"qwen", b"data: [DONE]\n\n")
    shown.end(flow)

    page = shown.page(flow)

    assert page.view_name == "LLM chat"
    for text in ("who are you?", "I am qwen", "answer    200", "names this host, and no route does", "← it went here"):
        assert text in page.text
    assert "who are you?" in shown.page(flow, "request").text


def test_an_answer_is_shown_while_it_comes(shown):
    flow = shown.come(make_flow(body=CHAT))
    shown.begin_answer(flow, EVENT % b"q")
    shown.pages.show_live()

    begun = shown.page(flow).text
    flow.response.stream(EVENT % b" and wen")
    shown.pages.show_live()
    grown = shown.page(flow).text
    before = len(shown.updated)
    shown.pages.show_live()  # nothing has come meanwhile

    assert "I am q\n" in begun
    assert "I am qI am  and wen\n" in grown
    assert "the answer is under way" in grown
    assert (before, len(shown.updated)) == (2, 2)


def test_a_diff_shows_what_the_policy_changed(shown):
    flow = shown.come(make_flow(body=CHAT, authorization=f"Bearer {CLIENT_KEY}"))

    lines = shown.page(flow, "request", "LLM diff").text.splitlines()

    assert f"- POST {HOST}/" in lines
    assert f"+ POST https://{HOST}/v1/chat/completions" in lines
    assert '+ model: "qwen-turbo"' in lines
    assert "- authorization: [redacted]" in lines
    assert "+ authorization: Bearer [redacted]" in lines


def test_no_page_holds_a_key(shown):
    flow = shown.come(make_flow(body=CHAT, authorization=f"Bearer {CLIENT_KEY}", api_key=CLIENT_KEY))
    shown.begin_answer(flow, EVENT % b"qwen")
    shown.end(flow)

    pages = [shown.page(flow, part, name).text for part in ("request", "response") for name in ("LLM chat", "LLM diff")]

    kept = [*pages, flow.get_state(), shown.pages.store.get(flow.id), shown.pages.store.get(flow.id).before.headers]
    assert not any(key in repr(each) for key in (KEY, CLIENT_KEY) for each in kept)


def test_a_flow_has_a_comment_a_marker_and_words_to_filter_by(shown):
    flow = shown.come(make_flow(body=CHAT))
    begun = flow.comment
    shown.begin_answer(flow, EVENT % b"qwen", b"data: [DONE]\n\n")
    shown.end(flow)

    assert begun == "dashscope qwen-turbo · …"
    assert flow.comment.startswith("dashscope qwen-turbo · ")
    assert flow.comment.endswith(" s")
    assert flow.marked == noting.GOVERNED
    assert flow.metadata["sidestream.provider"] == "default/dashscope"
    assert flow.metadata["sidestream.model"] == "qwen-turbo"


def test_a_name_is_not_noted_at_any_length(shown):
    body = json.dumps({"model": "m" * 100_000, "messages": []}).encode()

    flow = shown.come(make_flow(body=body))

    assert max(map(len, flow.metadata.values())) < 300


def test_what_somebody_wrote_or_marked_stays(shown):
    flow = shown.come(make_flow(body=CHAT))
    flow.comment, flow.marked = "look at this", ":star:"
    shown.begin_answer(flow, EVENT % b"qwen")
    shown.end(flow)

    assert (flow.comment, flow.marked) == ("look at this", ":star:")


def test_a_client_that_leaves_ends_it(shown):
    flow = shown.come(make_flow(body=CHAT))
    shown.begin_answer(flow, EVENT % b"qwen")

    shown.requests.client_disconnected(flow.client_conn)
    shown.pages.client_disconnected(flow.client_conn)

    assert flow.comment.endswith("client_disconnected")
    assert shown.pages._live == {}


@pytest.mark.parametrize("ending", ["ends", "leaves"])
def test_nothing_of_an_exchange_stays_with_its_flow(shown, ending):
    flow = shown.come(make_flow(body=CHAT, authorization=f"Bearer {CLIENT_KEY}"))
    shown.begin_answer(flow, EVENT % b"qwen")
    opened = weakref.ref(shown.requests.opened(flow).exchange)

    if ending == "ends":
        shown.end(flow)
    else:
        shown.requests.client_disconnected(flow.client_conn)
        shown.pages.client_disconnected(flow.client_conn)
    shown.requests.upstream().callers.clear()
    gc.collect()

    assert flow in shown.view
    assert opened() is None


def test_what_no_policy_governs_is_not_touched(shown):
    flow = shown.come(make_flow("other.example", body=CHAT))

    assert (flow.comment, flow.marked, flow.metadata, len(shown.pages.store)) == ("", "", {}, 0)
    assert shown.page(flow, "request").view_name == "LLM chat"


def test_what_is_no_conversation_is_shown_as_ever(shown):
    flow = shown.come(make_flow("other.example", body=b'{"a": 1}', content_type="application/json"))

    assert shown.page(flow, "request").view_name == "JSON"


def test_what_is_removed_from_the_view_is_forgotten(shown):
    first, second = shown.come(make_flow(body=CHAT)), shown.come(make_flow(body=CHAT))

    shown.view.remove([first])
    left = [flow_id for flow_id, _ in shown.pages.store]
    shown.view.clear()

    assert left == [second.id]
    assert len(shown.pages.store) == 0


def test_a_bug_in_it_harms_no_request(shown, monkeypatch, caplog):
    monkeypatch.setattr(noting, "begun", lambda _: 1 / 0)

    flow = shown.come(make_flow(body=CHAT))

    assert shown.requests.attempt_of(flow) is not None
    assert "a flow could not be noted" in caplog.text


def test_without_a_view_there_are_no_pages():
    with taddons.context() as context:
        addon = Sidestream(lambda _: None)

        context.master.addons.add(addon)

        assert not any(isinstance(part, Pages) for part in addon.addons)


def test_where_there_is_a_view_there_are_pages():
    with taddons.context(View()) as context:
        addon = Sidestream(lambda _: None)

        context.master.addons.add(addon)

        assert any(isinstance(part, Pages) for part in addon.addons)
