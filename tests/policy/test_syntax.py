import json
import math
import string

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestream.policy.syntax import MAX_DEPTH, MAX_NUMBER_LENGTH, MAX_REPEATED, NotYaml, compose, parse

# Without what is no text, and without what PyYAML writes but cannot read again.
PRINTABLE = st.text(st.characters(exclude_categories=["C", "Z"]) | st.sampled_from(" \n"), max_size=8)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | PRINTABLE,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(PRINTABLE, inner, max_size=4),
    max_leaves=12,
)
YAMLISH = st.text(alphabet=string.ascii_letters[:4] + "01.-:,&*!|>'\"%@`#?[]{}<~ \t\n\\é", max_size=60)


def contents(text: str) -> list[object]:
    return [document.content for document in parse(text)]


@pytest.mark.parametrize(
    ("word", "meaning"),
    [
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("no", "no"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("TRUE", True),
        ("tRUE", "tRUE"),
        ("null", None),
        ("~", None),
        ("", None),
        ("nil", "nil"),
        ("0", 0),
        ("-17", -17),
        ("+1", 1),
        ("010", 10),
        ("0o17", 15),
        ("0xFF", 255),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1.", 1.0),
        ("1e3", 1000.0),
        ("-1.5E-3", -0.0015),
        (".inf", math.inf),
        ("-.Inf", -math.inf),
        ("2024-01-31", "2024-01-31"),
        ("1.2.3", "1.2.3"),
        ("50%", "50%"),
        ("==", "=="),
        ("'1'", "1"),
        ('"true"', "true"),
        ("!!str 1", "1"),
        ("!!int '1'", 1),
        ("!!float 1", 1.0),
        ("!!bool 'true'", True),
        ("!!null ''", None),
        ("!!binary aGk=", "aGk="),
        ("!!timestamp 2024-01-31", "2024-01-31"),
        ("!!map {a: 1}", {"a": 1}),
        ("!!seq [1]", [1]),
        ("! [1]", [1]),
        ("!!set {a, b}", {"a": None, "b": None}),
    ],
)
def test_a_word_means_what_yaml_1_2_says(word, meaning):
    (content,) = contents(f"a: {word}")

    assert content == {"a": meaning}
    assert type(content["a"]) is type(meaning)


def test_nan_is_a_number():
    ((value,),) = contents("[.NaN]")

    assert math.isnan(value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("!!int a", "'a' is no int"),
        ("!!int 1.5", "'1.5' is no int"),
        ("!!int true", "'true' is no int"),
        ("!!float a", "'a' is no float"),
        ("!!bool 1", "'1' is no bool"),
        ("!!null a", "'a' is no null"),
        ("!!python/name:os.system ''", "python/name:os.system is not known"),
        ("!!python/object/apply:os.system [ls]", "python/object/apply:os.system is not known"),
        ("!own {}", "!own is not known"),
        ("!<tag:example,2000:x> 1", "tag:example,2000:x is not known"),
    ],
)
def test_a_tag_that_does_not_fit_or_is_not_known_is_refused(text, reason):
    with pytest.raises(NotYaml, match=reason):
        contents(text)


def test_documents_are_told_apart():
    assert contents("a: 1\n---\n---\nb: 2\n...\n# nothing\n---\n- c\n") == [{"a": 1}, None, {"b": 2}, ["c"]]


@pytest.mark.parametrize("text", ["", "\n", "# only a comment\n", "   "])
def test_a_text_without_documents_has_none(text):
    assert contents(text) == []


def test_a_merge_lies_under_what_is_written():
    text = "base: &base {a: 1, b: 2}\nmore: &more {b: 3, c: 3}\nall: {b: 0, <<: [*base, *more], d: 4}\n"

    (content,) = contents(text)

    assert content["all"] == {"a": 1, "b": 0, "c": 3, "d": 4}


def test_a_quoted_merge_key_is_a_name():
    assert contents("{'<<': 1, a: <<}") == [{"<<": 1, "a": "<<"}]


@pytest.mark.parametrize("text", ["<<: 1", "<<: [1]", "<<: [{a: 1}, b]", "<<: a"])
def test_a_merge_of_no_mapping_is_refused(text):
    with pytest.raises(NotYaml, match="<< takes a mapping"):
        contents(text)


def test_an_alias_is_the_value_of_its_anchor():
    assert contents("{a: &x [1, &y two], b: *x, c: *y, *y : 3}") == [
        {"a": [1, "two"], "b": [1, "two"], "c": "two", "two": 3}
    ]


def test_anchors_end_with_their_document():
    with pytest.raises(NotYaml, match="refers to nothing"):
        contents("a: &x 1\n---\nb: *x\n")


@pytest.mark.parametrize("text", ["{? {a: 1} : b}", "? [a]\n: b", "a: &x [1]\n*x : 2"])
def test_only_names_are_keys(text):
    with pytest.raises(NotYaml, match="a key is a list or mapping"):
        contents(text)


def test_a_text_may_be_as_deep_as_the_limit_and_no_deeper():
    assert contents("[" * MAX_DEPTH + "]" * MAX_DEPTH)

    with pytest.raises(NotYaml, match=f"nested more than {MAX_DEPTH} deep"):
        contents("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))


@pytest.mark.parametrize("part", ["[", "{a: ", "- ", "? ", "- ? "])
def test_nesting_without_end_is_refused_and_does_not_exhaust_the_stack(part):
    with pytest.raises(NotYaml):
        contents(part * 200_000)


def test_aliases_that_would_fill_the_memory_are_refused():
    laughs = "".join(f"- &x{level} [{', '.join([f'*x{level - 1}'] * 10)}]\n" for level in range(1, 12))

    with pytest.raises(NotYaml, match=f"aliases repeat more than {MAX_REPEATED} values"):
        contents(f"- &x0 [lol]\n{laughs}")


def test_a_number_may_be_as_long_as_the_limit_and_no_longer():
    digits = "9" * MAX_NUMBER_LENGTH

    assert contents(f"[{digits}]") == [[int(digits)]]
    with pytest.raises(NotYaml, match="a number of that length"):
        contents(f"[{digits}9]")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: \x07\n", 2),
        ("é: 1\r\nb: 2\r\nc: \x07\r\n", 3),
        ("a: [", 1),
        ("a: [\n\n\n", 3),
        ("a: 1\na: 2", 2),
        ("", 0),
    ],
)
def test_what_is_wrong_is_said_with_its_line(text, line):
    found = 0
    try:
        contents(text)
    except NotYaml as e:
        found = e.line

    assert found == line


def test_a_byte_order_mark_is_no_part_of_a_text():
    assert contents("\ufeffa: 1") == [{"a": 1}]


@settings(deadline=None)
@given(st.lists(JSON, min_size=1, max_size=3))
def test_json_is_read_as_it_is(values):
    text = "\n---\n".join(json.dumps(value, ensure_ascii=False) for value in values)

    assert contents(text) == values


@settings(deadline=None)
@given(st.lists(JSON, min_size=1, max_size=3))
def test_what_yaml_writes_is_read_as_it_was(values):
    text = yaml.safe_dump_all(values, allow_unicode=True, default_style='"')

    assert contents(text) == values


@settings(deadline=None, max_examples=30)
@given(st.lists(st.dictionaries(PRINTABLE, JSON, min_size=1), min_size=1, max_size=3))
def test_the_span_of_a_document_is_a_text_of_that_document(values):
    text = "# first\n" + "\n---\n".join(json.dumps(value, indent=1, ensure_ascii=False) for value in values)

    parts = [(text[document.start : document.end], document) for document in parse(text)]

    assert [contents(part) for part, _ in parts] == [[value] for value in values]
    assert [text.count("\n", 0, document.start) for _, document in parts] == [document.line for _, document in parts]


@settings(deadline=None)
@given(st.text() | YAMLISH)
def test_any_text_is_read_or_refused_and_what_is_read_can_be_composed(text):
    try:
        documents = list(parse(text))
    except NotYaml as e:
        assert e.reason
        assert 0 <= e.line <= len(text.splitlines()) + 1
        return
    for document in documents:
        if document.content is not None:
            compose(text[document.start : document.end])
