from sidestream.core.explain import explain
from sidestream.mitm.pages.seen import Before, Seen, Store, before_of, explained
from tests.core.builders import (
    CLIENT_KEY,
    CREDENTIALS,
    make_backend,
    make_condition,
    make_provider,
    make_request,
    make_route,
    make_rule,
    make_snapshot,
)

SNAPSHOT = make_snapshot(
    make_route(
        make_rule(name="vip", matches=((make_condition("model", "", "prefix", "gpt-4"),),)),
        make_rule(make_backend(), make_backend(make_provider("b.example"))),
    )
)


def seen(size):
    return Seen(Before("POST", "a.example", "/", {}, b"x" * size), None)


def test_an_explanation_is_the_same_without_what_is_said():
    for model in ("gpt-4o", "other"):
        view = make_request(body={"model": model, "messages": [{"role": "user", "content": "hi"}] * 9, "stream": True})

        full, kept = explain(view, SNAPSHOT), explained(view, SNAPSHOT)

        assert (kept.decision, kept.reason, kept.rules) == (full.decision, full.reason, full.rules)
        assert [(each.share, each.provider, each.sent_model, each.target) for each in kept.requests] == [
            (each.share, each.provider, each.sent_model, each.target) for each in full.requests
        ]
        assert [each.body for each in kept.requests] == [None] * len(full.requests)


def test_a_chat_without_messages_is_explained_as_refused():
    assert "invalid_chat_body" in explained(make_request(body={"model": "other"}), SNAPSHOT).requests[0].rejected


def test_credentials_are_not_kept():
    before = before_of(make_request(headers=CREDENTIALS | {"x-tag": "1"}), b"{}")

    assert CLIENT_KEY not in str(before.headers)
    assert before.headers["x-tag"] == "1"


def test_the_oldest_go_when_there_are_too_many():
    store = Store()

    for number in range(5):
        store.put(str(number), seen(0), limit=3)

    assert [flow_id for flow_id, _ in store] == ["2", "3", "4"]


def test_the_oldest_go_when_they_are_too_large_together():
    store = Store(max_bytes=100)

    for number in range(5):
        store.put(str(number), seen(40), limit=10)
    store.forget("4")
    store.put("5", seen(60), limit=10)

    assert [flow_id for flow_id, _ in store] == ["3", "5"]


def test_one_that_is_too_large_is_not_kept():
    store = Store(max_bytes=100)

    store.put("1", seen(101), limit=10)
    store.put("2", seen(100), limit=10)

    assert store.get("1") is None
    assert store.get("2") is not None


def test_what_is_put_again_counts_once():
    store = Store(max_bytes=100)

    for _ in range(5):
        store.put("1", seen(60), limit=10)

    assert len(store) == 1
