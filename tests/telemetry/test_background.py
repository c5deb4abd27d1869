"""A sink that never holds anybody up."""

import threading
from dataclasses import replace

import pytest

from sidestream.core.exchange import Content, Exchange
from sidestream.telemetry import background
from sidestream.telemetry.background import InBackground
from tests.world import wait_for


def make_record(identifier):
    record = Exchange(identifier, "127.0.0.1:5", "demo", wall_time=0.0, now=1.0).finish(now=2.0)
    assert record is not None
    return record


def test_records_are_written_in_their_order():
    written = []
    sink = InBackground(written.append)

    sink(make_record("1"))
    sink(make_record("2"))
    sink.close()

    assert [record.id for record in written] == ["1", "2"]


def test_a_writer_that_is_stuck_holds_nobody_up():
    free = threading.Event()
    sink = InBackground(lambda _: free.wait(60), max_waiting=2)

    for number in range(10):
        sink(make_record(str(number)))
    lost = sink.lost
    free.set()
    sink.close()

    assert lost >= 7


def test_bodies_that_wait_take_no_more_than_they_may():
    free = threading.Event()
    sink = InBackground(lambda _: free.wait(60), max_bytes=25)

    for number in range(4):
        sink(replace(make_record(str(number)), content=Content(b"01234", b"56789")))
    sink(make_record("without"))
    lost = sink.lost
    free.set()
    sink.close()

    assert lost == 2


def test_there_is_room_again_for_bodies_when_others_were_written():
    written = []
    sink = InBackground(written.append, max_bytes=10)

    for number in range(3):
        sink(replace(make_record(str(number)), content=Content(b"01234", b"56789")))
        wait_for(lambda: sink._bytes_written == sink._bytes_taken)
    sink.close()

    assert (len(written), sink.lost) == (3, 0)


def test_what_was_written_is_flushed_also_while_more_comes():
    flushed = []
    sink = InBackground(lambda record: record.id == "1" and sink(make_record("2")), lambda: flushed.append("flushed"))

    sink(make_record("1"))
    wait_for(lambda: len(flushed) == 2)
    sink.close()

    assert not sink._waiting


def test_more_is_gathered_at_a_time_when_there_is_much(monkeypatch):
    monkeypatch.setattr(background, "GATHERING_SECONDS_WHEN_BUSY", 3600)
    written, free = [], threading.Event()
    sink = InBackground(lambda record: (written.append(record), free.wait(60)))

    sink(make_record("first"))
    wait_for(lambda: written)
    for number in range(background.MANY):
        sink(make_record(str(number)))
    free.set()
    wait_for(lambda: len(written) == background.MANY + 1)
    sink(make_record("one more"))
    with pytest.raises(TimeoutError):
        wait_for(lambda: len(written) > background.MANY + 1, timeout=5 * background.GATHERING_SECONDS)
    sink.close()

    assert len(written) == background.MANY + 2


def test_the_end_does_not_wait_for_more_to_gather(monkeypatch):
    monkeypatch.setattr(background, "GATHERING_SECONDS", 3600)
    written = []
    sink = InBackground(written.append)

    sink(make_record("1"))
    sink.close()

    assert len(written) == 1


def test_what_cannot_be_flushed_does_not_stop_the_next(caplog):
    written = []
    sink = InBackground(written.append, lambda: 1 / 0)

    for number in range(2):
        sink(make_record(str(number)))
        wait_for(lambda number=number: caplog.text.count("could not be flushed") > number)
    sink.close()

    assert len(written) == 2


def test_what_is_lost_is_said_once(caplog):
    free = threading.Event()
    sink = InBackground(lambda _: free.wait(60), max_waiting=1)

    for number in range(10):
        sink(make_record(str(number)))
    free.set()
    sink.close()

    assert [record.message for record in caplog.records] == ["records are written too slowly; some are lost"]


def test_a_record_that_cannot_be_written_does_not_stop_the_next(caplog):
    written = []

    def write(record):
        if record.id == "1":
            raise RuntimeError("a bug of a sink")
        written.append(record.id)

    sink = InBackground(write)
    sink(make_record("1"))
    sink(make_record("2"))
    sink.close()

    assert written == ["2"]
    assert "could not be written" in caplog.text
