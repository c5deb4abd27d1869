"""Kubernetes quantities."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidestream.inject.quantities import amount
from tests.inject.pods import EXAMPLES


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", 1),
        ("100m", Decimal("0.1")),
        ("0.5", Decimal("0.5")),
        (".5", Decimal("0.5")),
        ("5.", 5),
        ("128Mi", 128 * 1024**2),
        ("1Ei", 1024**6),
        ("1E", 10**18),
        ("1e3", 1000),
        ("1E3", 1000),
        ("12e-1", Decimal("1.2")),
        ("7k", 7000),
        ("0", 0),
    ],
)
def test_a_quantity_amounts_to_a_number(text, expected):
    assert amount(text) == expected


@pytest.mark.parametrize(
    "text", ["", "m", "-1", "+1", "1.2.3", "128MB", "1 Gi", "1K", "٣", "1e", "1e999", "9" * 33, "1\n"]
)
def test_what_is_no_quantity_is_told_apart(text):
    assert amount(text) is None


@EXAMPLES
@given(st.text())
def test_any_text_is_a_quantity_or_none(text):
    assert amount(text) is None or amount(text) >= 0
