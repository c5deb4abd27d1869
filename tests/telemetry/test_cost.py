"""What exchanges cost, by the prices of a package; what is not known stays unknown."""

from dataclasses import replace

import pytest
from genai_prices import Usage, calc_price

from sidestream.core.exchange import Exchange
from sidestream.telemetry import cost
from sidestream.telemetry.cost import KEPT_SECONDS, CostError, Pricing

PLAIN = Exchange("1", "c", "h", wall_time=0.0, now=0.0).finish(now=1.0)


USUAL = {
    "provider_system": "openai",
    "sent_model": "gpt-4o",
    "prompt_tokens": 1200,
    "completion_tokens": 340,
    "usage_partial": False,
}


def record_of(**how):
    return replace(PLAIN, **USUAL | how)


def by_package(system, model, prompt, cached, completion):
    usage = Usage(input_tokens=prompt, cache_read_tokens=cached, output_tokens=completion)
    return pytest.approx(float(calc_price(usage, model, provider_id=system).total_price))


@pytest.mark.parametrize(("prompt", "cached", "completion"), [(1200, 0, 340), (1, 0, 0), (900_000, 300_000, 70_000)])
@pytest.mark.parametrize(
    ("system", "package", "model"),
    [
        ("openai", "openai", "gpt-4o"),
        ("deepseek", "deepseek", "deepseek-chat"),
        ("moonshot_ai", "moonshotai", "moonshot-v1-8k"),
        ("gcp.gemini", "google", "gemini-2.5-pro"),  # whose price has steps
    ],
)
def test_a_known_model_costs_what_the_package_says(system, package, model, prompt, cached, completion):
    tokens = {"prompt_tokens": prompt, "cached_tokens": cached, "completion_tokens": completion}

    priced = Pricing()(record_of(provider_system=system, sent_model=model, **tokens))

    assert priced.cost_usd == by_package(package, model, prompt, cached, completion)
    assert priced.cost_usd > 0


def test_the_model_that_answered_is_the_one_that_is_paid():
    priced = Pricing()(record_of(response_model="gpt-4o-mini"))

    assert priced.cost_usd == by_package("openai", "gpt-4o-mini", 1200, 0, 340)


def test_a_model_that_only_the_policy_knows_by_its_name_is_paid_by_that():
    assert Pricing()(record_of(response_model="some-build")).cost_usd == by_package("openai", "gpt-4o", 1200, 0, 340)


@pytest.mark.parametrize(
    "how",
    [
        {"sent_model": "my-own-model"},
        {"provider_system": "_OTHER"},
        {"provider_system": "dashscope", "sent_model": "qwen-max"},
        {"provider_system": None},
        {"sent_model": None},
        {"prompt_tokens": None},
        {"usage_partial": True},
        {"usage_partial": None},
    ],
    ids=str,
)
def test_what_is_not_known_costs_nothing_that_anybody_knows(how):
    pricing = Pricing()

    assert [pricing(record_of(**how)).cost_usd for _ in range(2)] == [None, None]


def test_a_price_is_looked_up_again_after_a_while(monkeypatch):
    asked, now = [], [0.0]
    monkeypatch.setattr(cost, "_formula", lambda *of: asked.append(of) or (lambda *_: 1.0))
    pricing = Pricing(clock=lambda: now[0])

    for moment in (0.0, KEPT_SECONDS - 1, KEPT_SECONDS + 1):
        now[0] = moment
        pricing(record_of())

    assert asked == [("openai", "gpt-4o")] * 2


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(cost, "find_spec", lambda name: None)

    with pytest.raises(CostError, match=r"install sidestream\[cost\]"):
        Pricing()
