import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestream.core.secret import Secret
from sidestream.policy.keys import FromEnvironment, Unavailable, make_secret, parse_api_key


@pytest.mark.parametrize("name", ["K", "_", "DASHSCOPE_API_KEY", "k9", "a" * 300])
def test_a_variable_stands_for_its_value(name):
    assert parse_api_key(f"${{{name}}}") == FromEnvironment(name)


@pytest.mark.parametrize("text", ["sk-1", "$K", "{K}", "$(K)", "sk$-1", "a" * 4000, "!~", "Bearer:x"])
def test_other_text_is_the_key_itself(text):
    assert parse_api_key(text) == Secret(text)


@pytest.mark.parametrize(
    "text",
    ["${", "${}", "${9}", "${A-B}", "${A B}", "${A}b", "a${A}", "${A}${B}", "${A:-b}", "${Ä}", "${A}\n", "${${A}}"],
)
def test_text_that_is_neither_is_refused(text):
    with pytest.raises(Unavailable, match="either a literal or exactly"):
        parse_api_key(text)


@pytest.mark.parametrize("text", ["sk-1", " sk-1", "sk-1\n", "\r\n\tsk-1\r\n", "\ufeff sk-1".strip("\ufeff")])
def test_space_around_a_key_is_none_of_it(text):
    assert make_secret(text) == Secret("sk-1")


@pytest.mark.parametrize("text", ["", " ", "\n", "\t\r\n"])
def test_a_key_is_not_empty(text):
    with pytest.raises(Unavailable, match="the key is empty"):
        make_secret(text)


@pytest.mark.parametrize("text", ["a b", "a\nb", "a\r\nb: c", "a\tb", "é", "a\x00", "a\x7f", "\udcff", "\ufeffsk-1"])
def test_a_key_holds_nothing_that_a_header_may_not(text):
    with pytest.raises(Unavailable, match="no header may hold"):
        make_secret(text)


@settings(deadline=None)
@given(st.text())
def test_any_text_is_a_key_for_a_header_or_refused_without_being_shown(text):
    try:
        key = make_secret(text).reveal()
    except Unavailable as e:
        assert len(text.strip()) < 8 or text.strip() not in str(e)
        return
    assert key.isascii()
    assert key.isprintable()
    assert " " not in key
    assert key == text.strip()
