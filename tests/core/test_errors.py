import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidestream.core.errors import INTERNAL_ERROR, MAX_FOREIGN_TEXT, ClientError, cut


def test_an_error_has_the_shape_of_openai():
    error = ClientError(400, "invalid_chat_body", "the body is no chat", "messages")

    assert json.loads(error.body()) == {
        "error": {
            "message": "the body is no chat",
            "type": "sidestream_error",
            "param": "messages",
            "code": "invalid_chat_body",
        }
    }


def test_an_error_about_no_field_has_a_null_param():
    assert json.loads(INTERNAL_ERROR.body())["error"]["param"] is None


def test_our_own_bug_is_a_500_with_a_stable_code():
    assert (INTERNAL_ERROR.status, INTERNAL_ERROR.code) == (500, "internal_error")


@given(st.text(st.characters(categories=["L", "P", "Z", "C", "Cs"])))
def test_any_message_is_sent_as_ascii(message):
    body = ClientError(400, "x", message).body()

    assert body.isascii()
    assert json.loads(body)["error"]["message"] == message


@pytest.mark.parametrize("length", [0, 1, MAX_FOREIGN_TEXT - 1, MAX_FOREIGN_TEXT])
def test_text_that_fits_stays(length):
    assert cut("x" * length) == "x" * length


@pytest.mark.parametrize("length", [MAX_FOREIGN_TEXT + 1, 100_000])
def test_longer_text_is_cut_and_says_so(length):
    assert cut("x" * length) == "x" * (MAX_FOREIGN_TEXT - 1) + "…"


@given(st.text())
def test_cutting_twice_is_cutting_once(text):
    assert cut(cut(text)) == cut(text)
