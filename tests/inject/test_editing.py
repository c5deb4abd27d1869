"""YAML that is changed in places."""

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sidestream.inject.editing import edited
from sidestream.inject.patching import difference
from sidestream.policy.syntax import parse
from tests.inject.pods import EXAMPLES

_TEXT = st.one_of(
    st.text(
        st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"], exclude_characters="\ufeff\ufffe\uffff"),
        max_size=6,
    ),
    st.sampled_from(
        [
            *(
                "on",
                "yes",
                "~",
                "null",
                "true",
                "0x1f",
                "0o17",
                "017",
                "1e3",
                "1_000",
                "12:30",
                "2024-01-01",
                "- a",
                "a: b",
            ),
            *(
                "# a",
                "a #b",
                " a",
                "a ",
                "",
                "=",
                "<<",
                "*a",
                "&a",
                "!a",
                "%a",
                "@a",
                "`a",
                "|",
                ">",
                "?",
                "line\nline\n",
            ),
        ]
    ),
)
_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(10**20), 10**20), _TEXT),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(st.fixed_dictionaries({"name": st.sampled_from("abc"), "value": inner}), max_size=3),
        st.dictionaries(_TEXT.filter(lambda text: text != "<<"), inner, max_size=3),
    ),
    max_leaves=10,
)
_DOCUMENTS = st.dictionaries(_TEXT.filter(lambda text: text != "<<"), _VALUES, min_size=1, max_size=3)


def read(text):
    [document] = parse(text)
    return document.content


def written(value, **how):
    """Write a value so that any reader of YAML reads it."""
    return yaml.dump(value, Dumper=Quoting, sort_keys=False, **how)


class Quoting(yaml.SafeDumper):
    """Puts all text in quotes."""


Quoting.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, "|" if text == "line\nline\n" else '"'),
)


@EXAMPLES
@given(_DOCUMENTS, _DOCUMENTS, st.sampled_from([True, False, None]))
def test_what_is_read_after_an_edit_is_the_value_that_was_meant(old, new, flow):
    text = written(old, default_flow_style=flow, allow_unicode=True)

    assert read(edited(text, difference(old, new))) == new


@EXAMPLES
@given(_DOCUMENTS, _DOCUMENTS)
def test_json_stays_json(old, new):
    text = json.dumps(old, ensure_ascii=False)

    assert json.loads(edited(text, difference(old, new))) == new


def test_a_time_of_day_stays_text():
    after = edited("a: 12:30:45\nb: {c: 12:30:45}\n", [{"op": "add", "path": "/d", "value": "12:30:45"}])

    assert read(after) == {"a": "12:30:45", "b": {"c": "12:30:45"}, "d": "12:30:45"}


@pytest.mark.parametrize(
    "value",
    ["0644", "0o644", "yes", "Off", "~", "1e3", "1_000", "2024-01-01", "'1'", '"on"', "1.50", "0x1F", "+1"],
)
def test_what_is_not_edited_stays_as_it_was_written(value):
    text = f"kept: {value}\nlist:\n- {value}\n- {{a: {value}}}\nchanged: 1\n"

    after = edited(text, [{"op": "replace", "path": "/changed", "value": 2}])

    assert after == text.replace("changed: 1", "changed: 2")


def test_a_change_of_what_an_alias_repeats_shows_at_one_place():
    text = "a: &x {one: 1}\nb: *x\nc:\n  <<: *x\n  two: 2\n"

    after = edited(text, [{"op": "replace", "path": "/b/one", "value": 5}, {"op": "remove", "path": "/c/one"}])

    assert read(after) == {"a": {"one": 1}, "b": {"one": 5}, "c": {"two": 2}}


def test_what_was_empty_is_written_line_by_line():
    after = edited(
        "list: []\nmapping: {}\n", [{"op": "add", "path": f"/{name}", "value": value} for name, value in ADDED]
    )

    assert after == "list:\n- a\nmapping:\n  b: c\n"


ADDED = [("list/0", "a"), ("mapping/b", "c")]
