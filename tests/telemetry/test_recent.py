"""The last records, to be looked at."""

from dataclasses import replace

from sidestream.core.exchange import Content, Exchange
from sidestream.telemetry.recent import Recent


def make_record(identifier):
    record = Exchange(identifier, "127.0.0.1:5", "demo", wall_time=0.0, now=1.0).finish(now=2.0)
    assert record is not None
    return record


def test_the_newest_are_kept_and_told_first():
    recent = Recent(2)

    for identifier in "123":
        recent(make_record(identifier))

    assert [told["id"] for told in recent.newest_first()] == ["3", "2"]


def test_bodies_are_not_kept():
    recent = Recent()

    recent(replace(make_record("1"), content=Content(b"a prompt", b"an answer")))

    assert [record.content for record in recent._records] == [None]
