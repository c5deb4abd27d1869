import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidestream.core.body import read_object, write_object
from tests.core.builders import json_objects


@pytest.mark.parametrize(
    ("raw", "body"),
    [
        (b"{}", {}),
        (b' \r\n\t{"a": [1, 2.5, true, null, "\\u4f60"]} \n', {"a": [1, 2.5, True, None, "你"]}),
        ('{"é":"🌍"}'.encode(), {"é": "🌍"}),
        ('{"a":"é"}'.encode("utf-16"), {"a": "é"}),
        (b'\xef\xbb\xbf{"a":1}', {"a": 1}),
        (b'{"a":1,"a":2}', {"a": 2}),
        (b'{"a":123456789012345678901234567890}', {"a": 123456789012345678901234567890}),
        (b'{"a":"\\ud800"}', {"a": "\ud800"}),
        (b'{"a":[1e308,-0.0,1E-999]}', {"a": [1e308, -0.0, 0.0]}),
    ],
)
def test_an_object_is_read(raw, body):
    assert read_object(raw) == body


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" ",
        b"[]",
        b'[{"messages":[]}]',
        b"null",
        b"1",
        b'"{}"',
        b"{",
        b'{"a":}',
        b"{'a':1}",
        b'{"a":1,}',
        b'{"a":1e999}',
        b'{"a":[{"b":-1.5E+999}]}',
        b'{"a":1}{"b":2}',
        b'{"a":1} x',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":[-Infinity]}',
        b'{"a":"\xff"}',
        b'{"a":"\n"}',
        b"\x00",
        b"\x1f\x8b\x08\x00",
        b"messages=hello",
        b"[" * 1_000_000,
        b'{"a":' * 1_000_000,
        b'{"a":' + b"9" * 5000 + b"}",
    ],
    ids=range(26),
)
def test_anything_else_is_none(raw):
    assert read_object(raw) is None


@given(st.binary() | st.text("{}[]:,\"\\u0 \n1e.-'a", max_size=40).map(str.encode))
@example(b'{"\\ud800":1}')
def test_any_bytes_are_an_object_or_none(raw):
    body = read_object(raw)

    assert body is None or isinstance(body, dict)


@given(json_objects)
def test_what_is_written_is_read_with_the_same_values_types_and_order(body):
    assert repr(read_object(write_object(body))) == repr(body)


def test_text_is_written_as_utf_8_without_blanks():
    assert write_object({"a": ["世界", 1], "b": None}) == '{"a":["世界",1],"b":null}'.encode()


def test_half_a_surrogate_pair_is_written_escaped():
    assert write_object({"a": "世\ud800"}) == b'{"a":"\\u4e16\\ud800"}'


@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan")])
def test_a_number_without_a_json_form_is_not_written(number):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_object({"a": [number]})


@given(st.integers(1, 20).map(lambda power: 250 * power))
def test_what_is_nested_deeply_is_written_if_it_was_read(depth):
    body = read_object(b'{"a":' * depth + b"1" + b"}" * depth)

    assert body is None or read_object(write_object(body)) is not None
