"""A sink that never holds anybody up."""

import threading

from sidestream.core.exchange import Exchange
from sidestream.telemetry.background import InBackground


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
