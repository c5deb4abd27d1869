import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidestream.demo.behaviour import SETTINGS, Behaviour, SettingsError, parse


@pytest.mark.parametrize("text", ["", "  ", ",", " , "])
def test_nothing_asked_is_good_health(text):
    assert parse(text) == Behaviour()


@pytest.mark.parametrize(
    "text", ["status=429,retry-after=2", "status=429 retry-after=2", " status=429 , retry-after=2,"]
)
def test_commas_and_spaces_part_settings(text):
    assert parse(text) == Behaviour(status=429, retry_after="2")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("first-byte=0.5 gap=2", Behaviour(first_byte_seconds=0.5, gap_seconds=2.0)),
        ("events=50", Behaviour(events=50)),
        ("cut=3", Behaviour(ending="cut", ending_after=3)),
        ("reset=0", Behaviour(ending="reset", ending_after=0)),
        ("stall=1", Behaviour(ending="stall", ending_after=1)),
        ("error-event=2", Behaviour(ending="error-event", ending_after=2)),
        ("close=before", Behaviour(close="before")),
        ("comments=1 gzip=1 crlf=1 split=1", Behaviour(comments=True, gzip=True, crlf=True, split=True)),
        ("usage=with-last", Behaviour(usage="with-last")),
        ("connection=drop length=9", Behaviour(connection="drop", length=9)),
        (
            "prompt-tokens=1 completion-tokens=2 cached=3 reasoning=4",
            Behaviour(prompt_tokens=1, completion_tokens=2, cached_tokens=3, reasoning_tokens=4),
        ),
    ],
)
def test_every_setting_is_obeyed(text, expected):
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("stats=500", "unknown setting 'stats'"),
        ("status", "status: needs a value"),
        ("status=700", "status: 200 or 400 to 599 expected, got '700'"),
        ("events=-1", "events: a whole number of at least 0 expected, got '-1'"),
        ("events=²", "events: a whole number"),
        ("length=0", "length: a whole number of at least 1"),
        ("gap=nan", "gap: seconds expected"),
        ("retry-after=soon", "retry-after: seconds expected"),
        ("gzip=yes", "gzip: 0 or 1 expected"),
        ("usage=sometimes", "usage: one of asked, always, never, with-last expected"),
        ("cut=1 stall=2", "stall: ending was already set"),
        ("events=1 events=2", "events: events was already set"),
    ],
)
def test_a_mistake_is_named(text, problem):
    with pytest.raises(SettingsError) as raised:
        parse(text)

    assert problem in str(raised.value)


def test_all_mistakes_are_named_at_once():
    with pytest.raises(SettingsError) as raised:
        parse("foo=1 gzip=2 bar")

    assert len(raised.value.problems) == 3


def test_settings_are_laid_over_a_base_one_by_one():
    base = parse("status=503 retry-after=1 cut=3")

    assert parse("status=200 stall=1", base) == Behaviour(retry_after="1", ending="stall", ending_after=1)


@given(st.text() | st.from_regex(r"([a-z-]+=[a-z0-9.]+[ ,]?)+"))
def test_any_text_is_obeyed_or_refused(text):
    with contextlib.suppress(SettingsError):
        assert isinstance(parse(text), Behaviour)


@given(st.sampled_from(sorted(SETTINGS)), st.text())
def test_any_value_is_obeyed_or_refused(name, value):
    with contextlib.suppress(SettingsError):
        assert isinstance(parse(f"{name}={value}"), Behaviour)
