from dataclasses import replace

import pytest
from mitmproxy import flowfilter
from mitmproxy.test import tflow
from mitmproxy.utils.emoji import emoji

from sidestream.core.exchange import AttemptRecord, Exchange
from sidestream.mitm.pages import noting

PLAIN = replace(
    Exchange("1", "127.0.0.1:5", "a.example", wall_time=0.0, now=0.0).finish(now=0.42),
    route="default/a-route",
    rule="vip-route",
    provider="default/dashscope",
    sent_model="qwen-turbo",
    status=200,
    operation="chat",
    prompt_tokens=12,
    completion_tokens=130,
    usage_partial=False,
)
ATTEMPT = AttemptRecord("default/b", "m", 429, "rate-limited", 0.1)


@pytest.mark.parametrize(
    ("how", "comment"),
    [
        ({}, "vip-route → dashscope qwen-turbo · 12→130 tok · 0.42 s"),
        ({"rule": None}, "a-route → dashscope qwen-turbo · 12→130 tok · 0.42 s"),
        ({"rule": None, "route": None}, "dashscope qwen-turbo · 12→130 tok · 0.42 s"),
        ({"operation": "embeddings", "usage_partial": None}, "vip-route → dashscope qwen-turbo · embeddings · 0.42 s"),
        ({"attempts": (ATTEMPT, ATTEMPT)}, "vip-route → dashscope qwen-turbo · 12→130 tok · 2 attempts · 0.42 s"),
        ({"status": 429}, "vip-route → dashscope qwen-turbo · 12→130 tok · 0.42 s · 429"),
        (
            {"usage_partial": True, "prompt_tokens": None, "error": "provider_failed"},
            "vip-route → dashscope qwen-turbo · ?→130 tok so far · 0.42 s · 200 provider_failed",
        ),
        (
            {"provider": None, "sent_model": None, "usage_partial": None, "status": 404, "error": "no_rule_matched"},
            "vip-route · 0.42 s · 404 no_rule_matched",
        ),
        ({"sent_model": "a\nb\x1b"}, "vip-route → dashscope a?b? · 12→130 tok · 0.42 s"),
    ],
)
def test_a_comment_tells_a_call_in_a_line(how, comment):
    assert noting.finished(replace(PLAIN, **how)) == comment


@pytest.mark.parametrize(
    ("how", "marker"),
    [
        ({}, noting.GOVERNED),
        ({"status": 500}, noting.FAILED),
        ({"error": "client_disconnected"}, noting.FAILED),
        ({"provider": None, "status": 404}, noting.REFUSED),
    ],
)
def test_a_marker_tells_how_it_ended(how, marker):
    assert noting.marker(replace(PLAIN, **how)) == marker
    assert marker in emoji


@pytest.mark.parametrize(
    "expression",
    [
        '~meta "sidestream.route: default/a-route"',
        '~meta "sidestream.rule: vip"',
        "~meta sidestream.provider:.*dashscope",
        "~meta sidestream.model:.qwen-turbo$",
        "~meta sidestream.host:.a.example & ! ~meta sidestream.error",
    ],
)
def test_flows_can_be_filtered(expression):
    flow = tflow.tflow()
    other = tflow.tflow()
    other.metadata = noting.words_finished(
        replace(PLAIN, route="default/b-route", rule=None, provider="default/b", sent_model="m", error="killed")
    )

    flow.metadata = noting.words_finished(PLAIN)

    assert flowfilter.match(expression, flow)
    assert not flowfilter.match(expression, other)
