import re

from hypothesis import given, settings
from hypothesis import strategies as st

from sidestream.control.selecting import (
    BUNDLE,
    EVERY_WORKLOAD,
    bundle_for,
    bundle_name,
    parse_selection,
    selection_for,
    selections,
    selects,
    written,
)

SLEEP = (("app", "sleep"),)
CURL = (("app", "curl"),)
BATCH = (("tier", "batch"),)

LABELS = st.dictionaries(st.sampled_from(["app", "tier", "zone"]), st.sampled_from("ab"))
SELECTORS = st.lists(LABELS.filter(bool).map(lambda labels: tuple(sorted(labels.items()))), max_size=6)


def test_without_selectors_there_is_one_bundle():
    assert selections([]) == [EVERY_WORKLOAD]
    assert bundle_name(EVERY_WORKLOAD) == BUNDLE


def test_selectors_that_no_pod_can_meet_at_once_have_no_bundle_together():
    found = selections([SLEEP, CURL, BATCH])

    assert set(found) == {
        EVERY_WORKLOAD,
        frozenset([SLEEP]),
        frozenset([CURL]),
        frozenset([BATCH]),
        frozenset([SLEEP, BATCH]),
        frozenset([CURL, BATCH]),
    }


def test_every_single_selector_has_a_bundle_however_many_there_are():
    many = [(("app", str(number)),) for number in range(200)]

    assert len(selections(many)) == 201


def test_a_pod_past_the_limit_gets_a_bundle_that_has_no_keys_of_others():
    many = [((str(number), "yes"),) for number in range(12)]
    labels = dict.fromkeys(map(str, range(12)), "yes")

    assert bundle_for(many, labels) in {bundle_name(selection) for selection in selections(many)}


@given(SELECTORS, LABELS)
@settings(max_examples=50)
def test_every_pod_has_exactly_its_bundle(selectors, labels):
    wanted = selection_for(selectors, labels)

    assert wanted in selections(selectors)
    assert bundle_for(selectors, labels) == bundle_name(wanted)
    assert all(selects(selector, labels) for selector in wanted)


@given(SELECTORS)
@settings(max_examples=50)
def test_a_selection_is_noted_and_read_back(selectors):
    for selection in selections(selectors):
        assert parse_selection(written(selection)) == selection
        assert re.fullmatch("[a-z0-9-]{1,63}", bundle_name(selection))


def test_what_is_no_selection_is_none():
    assert [parse_selection(text) for text in ("", "1", "[1]", '{"a": 1}')] == [None] * 4
