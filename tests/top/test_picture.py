"""Figures as text."""

import pytest

from sidestream.top.figures import figures
from sidestream.top.picture import ORDERS, summary, tables, text
from tests.top.builders import AT, exchanges, make_ended, make_live, make_reading

BEFORE = make_reading(0.0, exchanges_total=[exchanges(10), exchanges(0, rule="vip")], retries_total=0)
AFTER = make_reading(
    4.0,
    exchanges_total=[exchanges(14), exchanges(2, "429", rule="vip"), exchanges(1, rule="old")],
    tokens_total=[(AT | {"type": "output"}, 90_000)],
    retries_total=2,
    attempts_total=[({"provider": "default/a", "outcome": "rate-limited"}, 2)],
    ejections_total=[({"provider": "default/a"}, 1)],
    ejected=[({"provider": "default/a"}, 1)],
    policy_info=[({"revision": "r-7"}, 1)],
    live=[make_live(rule="vip"), make_live(rule="vip", seconds=12.25)],
    recent=[make_ended(3.0, "429", rule="vip", status=429), make_ended(250.0)],
)
BOTH = figures(BEFORE, AFTER)


def test_the_summary_says_what_happens():
    assert summary(BOTH) == [
        "policy r-7 · rates over 4.0 s",
        "2 live · 1.75 calls/s · 0.50 errors/s (29%) · tokens/s 0 in, 22k out",
        "0.50 retries/s · ejections: 1 · 0 refused/s · 0 connections/s pass through",
    ]


def test_the_first_reading_says_that_rates_follow():
    lines = summary(figures(None, BEFORE))

    assert lines[0] == "policy - · first reading: rates follow"
    assert lines[1].startswith("0 live · - calls/s · - errors/s · ")


def test_what_is_wrong_inside_is_in_the_summary():
    shown = figures(None, make_reading(policy_problems=2, lost_records_total=3))

    assert "2 problems in newer documents · 3 records lost" in summary(shown)[0]


@pytest.mark.parametrize(
    ("order", "rules"),
    [
        ("calls", ["-", "vip", "old"]),
        ("errors", ["vip", "-", "old"]),
        ("tokens", ["-", "old", "vip"]),
        ("live", ["vip", "-", "old"]),
        ("p95", ["-", "vip", "old"]),
        ("name", ["-", "old", "vip"]),
    ],
)
def test_routes_stand_in_the_order_that_is_asked_for(order, rules):
    assert [row[1] for row in tables(BOTH, order)[0].rows] == rules
    assert order in ORDERS


def test_what_is_bad_news_is_known():
    routes, providers, _, failed = tables(BOTH, "calls")

    alarming = [
        table.is_alarming(column, row[column])
        for table in (routes, providers, failed)
        for row in table.rows
        for column in range(len(row))
    ]
    assert sum(alarming) == 1 + 2 + 1
    assert providers.is_alarming(4, "yes")
    assert not providers.is_alarming(4, "no")


PLAIN = """\
ROUTES
route      rule  provider   live  calls/s     errors/s  in tok/s  out tok/s     p50     p95  calls
default/r  -     default/a     0     1.00            0         0        22k   250 s   250 s     14
default/r  vip   default/a     2     0.50  0.50 (100%)         0          0  3.00 s  3.00 s      2
default/r  old   default/a     0     0.25            0         0          0       -       -      1

PROVIDERS
provider   live  attempts/s  failed/s  left alone  ejections  how they fail
default/a     2        0.50      0.50  yes                 1  rate-limited 0.50/s

UNDER WAY
host       rule  provider   model  kind    client      status  seconds  attempts  events  bytes
a.example  vip   default/a  m      stream  10.0.0.1:5       -     12.2         1       7    12k
a.example  vip   default/a  m      stream  10.0.0.1:5       -      1.0         1       7    12k

FAILED LAST
time      host       rule  provider   model  error  status  seconds
03:04:05  a.example  vip   default/a  m      429       429      3.0
"""


def test_as_plain_text_columns_stand_below_each_other():
    assert text(BOTH, "calls").partition("\n\n")[2] == PLAIN


def test_where_nothing_is_a_table_says_so():
    assert text(figures(None, make_reading()), "calls").count("(none)") == 4


def test_wide_characters_take_two_columns():
    shown = figures(None, make_reading(live=[make_live(host="模型"), make_live(host="a")]))

    lines = text(shown, "calls").splitlines()
    at = lines.index("UNDER WAY")
    assert [line[: line.index("default/a")].rstrip() for line in lines[at + 2 : at + 4]] == ["模型  -", "a     -"]
