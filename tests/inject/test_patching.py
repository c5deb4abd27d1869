"""Differences as JSON Patches."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidestream.inject.patching import difference
from tests.inject.patched import patched
from tests.inject.pods import EXAMPLES

_NAMED = st.fixed_dictionaries({"name": st.sampled_from("abcd")}, optional={"value": st.integers(0, 2)})
_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(0, 1), st.sampled_from(["", "a/b", "c~d"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(_NAMED, max_size=4),
        st.dictionaries(st.sampled_from(["a", "a/b", "~1", "name"]), inner, max_size=3),
    ),
)
_DOCUMENTS = st.fixed_dictionaries({"root": _VALUES})


@EXAMPLES
@given(_DOCUMENTS, _DOCUMENTS)
def test_a_difference_leads_from_one_value_to_the_other(old, new):
    result = patched(old, difference(old, new))

    assert repr(result) == repr(new) or result == new
    assert difference(result, new) == []


@EXAMPLES
@given(_DOCUMENTS)
def test_what_is_the_same_has_no_difference(value):
    assert difference(value, value) == []


@pytest.mark.parametrize(
    ("old", "new", "operations"),
    [
        ({"a": 1}, {"a": True}, [{"op": "replace", "path": "/a", "value": True}]),
        ({}, {"a/b~": 1}, [{"op": "add", "path": "/a~1b~0", "value": 1}]),
        ({"a": 1}, {}, [{"op": "remove", "path": "/a"}]),
        ([{"name": "x"}], [{"name": "y"}, {"name": "x"}], [{"op": "add", "path": "/0", "value": {"name": "y"}}]),
        ([{"name": "x"}, {"name": "y"}], [{"name": "y"}], [{"op": "remove", "path": "/0"}]),
        ([1], [1, 2], [{"op": "replace", "path": "", "value": [1, 2]}]),
    ],
    ids=["true-is-not-1", "names-are-escaped", "what-is-gone", "an-item-before", "an-item-gone", "items-without-names"],
)
def test_differences_name_as_little_as_they_can(old, new, operations):
    assert difference(old, new) == operations


def test_items_that_changed_places_are_written_anew():
    old, new = [{"name": "x"}, {"name": "y"}], [{"name": "y"}, {"name": "x"}]

    assert difference(old, new) == [{"op": "replace", "path": "", "value": new}]
