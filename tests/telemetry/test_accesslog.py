"""The access log: its outputs, and what becomes of records that can't be written."""

import io
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestream.core.exchange import Exchange, Record
from sidestream.telemetry.accesslog import AccessLog, LogFile, Sampled, output_to
from sidestream.telemetry.formats import JsonLine


def make_log(output):
    return AccessLog(output, JsonLine())


def tell(log, *records):
    for record in records:
        log(record)
    log.flush()


def make_record(host="dashscope.aliyuncs.com") -> Record:
    exchange = Exchange("id-1", "127.0.0.1:5", host, wall_time=0.0, now=1.0)
    record = exchange.finish(now=2.5)
    assert record is not None
    return record


def test_a_record_is_one_line_of_json_with_every_field():
    stream = io.StringIO()

    tell(make_log(stream), make_record())

    (line,) = stream.getvalue().splitlines()
    assert json.loads(line) == make_record().as_dict()


def test_a_line_is_there_when_it_was_flushed(tmp_path):
    path = tmp_path / "records.jsonl"
    sink = make_log(output_to(str(path)))

    tell(sink, make_record())

    assert len(path.read_text().splitlines()) == 1


def test_a_file_is_added_to(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text("an earlier line\n")

    tell(make_log(output_to(str(path))), make_record())

    assert len(path.read_text().splitlines()) == 2


@pytest.mark.parametrize("host", ["模型.example", "line\nbreak", "lone \ud800 surrogate"])
def test_any_text_stays_on_its_line(tmp_path, host):
    path = tmp_path / "records.jsonl"

    tell(make_log(output_to(str(path))), make_record(host))

    (line,) = path.read_text(encoding="utf-8").splitlines()
    assert set(json.loads(line)) == set(make_record().as_dict())


def test_what_cannot_be_written_is_counted_and_said_once(tmp_path, caplog):
    stream = (tmp_path / "records.jsonl").open("w")
    stream.close()
    sink = make_log(stream)

    tell(sink, make_record(), make_record())

    assert sink.lost == 2
    assert len(caplog.records) == 1
    assert "records can't be written and are lost" in caplog.text


def test_a_file_that_cannot_be_opened_is_an_error_at_once(tmp_path):
    with pytest.raises(OSError, match="missing"):
        output_to(str(tmp_path / "missing" / "records.jsonl"))


class FullDisk(io.StringIO):
    """A stream that takes nothing while `full`."""

    full = True

    def write(self, text):
        if self.full:
            raise OSError(28, "No space left on device")
        return super().write(text)


def refuse(_):
    raise OSError(24, "Too many open files")


@settings(deadline=None)
@given(st.text() | st.characters(categories=["Cs"]), st.sampled_from(["ascii", "latin-1", "utf-8", "utf-16"]))
def test_any_stream_takes_any_text_in_one_line_and_keeps_it(text, encoding):
    record = replace(make_record(), request_model=text, error=text)
    raw = io.BytesIO()
    sink = make_log(io.TextIOWrapper(raw, encoding=encoding))

    tell(sink, record)

    (line,) = raw.getvalue().decode(encoding).splitlines()
    assert json.loads(line) == record.as_dict()
    assert sink.lost == 0


def test_two_sinks_may_share_a_file(tmp_path):
    path = tmp_path / "records.jsonl"
    sinks = [make_log(output_to(str(path))), make_log(output_to(str(path)))]

    for number in range(6):
        tell(sinks[number % 2], make_record(f"{number}.example"))

    hosts = [json.loads(line)["host"] for line in path.read_text().splitlines()]
    assert hosts == [f"{number}.example" for number in range(6)]


class Pieces(io.StringIO):
    """Keeps what was let out together."""

    def __init__(self):
        super().__init__()
        self.pieces = []

    def flush(self):
        self.pieces.append(self.getvalue())
        self.seek(0)
        self.truncate()


def test_lines_are_let_out_together_as_far_as_a_pipe_takes_them_in_one_piece():
    output = Pieces()

    tell(make_log(output), *(make_record("x" * 1000) for _ in range(5)), make_record("x" * 5000), make_record())

    assert [piece.count("\n") for piece in output.pieces] == [2, 2, 1, 1, 1]
    assert all(len(piece) <= 4096 for piece in output.pieces if piece.count("\n") > 1)


@pytest.mark.parametrize(("make", "pieces"), [(Path.touch, 1), (os.mkfifo, 5)], ids=["a file", "a pipe"])
def test_how_much_is_let_out_together_depends_on_what_it_is(tmp_path, monkeypatch, make, pieces):
    path = tmp_path / "records"
    make(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    sink = make_log(output_to(str(path)))
    flushed = []
    monkeypatch.setattr(LogFile, "flush", lambda output: (flushed.append(1), output._file.flush()))

    tell(sink, *(make_record("x" * 1000) for _ in range(10)))

    assert len(flushed) == pieces
    assert os.read(reader, 65536).count(b"\n") == 10
    os.close(reader)


def test_a_dash_is_standard_output(capsys):
    tell(make_log(output_to("-")), make_record("here.example"))

    assert json.loads(capsys.readouterr().out)["host"] == "here.example"


def test_a_process_without_standard_output_is_told_so(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)

    with pytest.raises(OSError, match="standard output is closed: name a file"):
        output_to("-")


def test_what_a_full_disk_loses_is_counted_and_later_records_are_written(caplog):
    stream = FullDisk()
    sink = make_log(stream)

    tell(sink, make_record("lost.example"))
    stream.full = False
    tell(sink, make_record("kept.example"))

    assert sink.lost == 1
    assert [json.loads(line)["host"] for line in stream.getvalue().splitlines()] == ["kept.example"]
    assert "No space left on device" in caplog.text


def test_a_reader_that_left_is_no_error(caplog):
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w")
    sink = make_log(stream)

    tell(sink, make_record())

    assert sink.lost == 1
    assert "Broken pipe" in caplog.text
    with pytest.raises(BrokenPipeError):
        stream.close()


def test_a_file_that_was_moved_away_is_made_anew(tmp_path):
    path = tmp_path / "records.jsonl"
    sink = make_log(output_to(str(path)))
    tell(sink, make_record("one.example"))
    path.rename(tmp_path / "moved.jsonl")

    tell(sink, make_record("two.example"))

    assert "one.example" in (tmp_path / "moved.jsonl").read_text()
    assert "two.example" in path.read_text()


@pytest.mark.parametrize("lines_together", [1, 2, 3, 7])
def test_a_file_that_is_full_is_rotated(tmp_path, lines_together):
    path = tmp_path / "records.jsonl"
    output = LogFile(path, max_bytes=100, keep=2)

    for number in range(7):
        output.write(f"{number}" * 39 + "\n")
        if (number + 1) % lines_together == 0:
            output.flush()
    output.flush()

    files = {each.name: each.read_text().split() for each in tmp_path.iterdir()}
    kept = {name: [line[0] for line in lines] for name, lines in files.items()}
    assert kept == {"records.jsonl": ["6"], "records.jsonl.1": ["4", "5"], "records.jsonl.2": ["2", "3"]}


def test_a_file_that_is_full_is_begun_again_where_none_is_kept(tmp_path):
    path = tmp_path / "records.jsonl"
    output = LogFile(path, max_bytes=100, keep=0)

    for number in range(3):
        output.write(f"{number}" * 60 + "\n")
        output.flush()

    assert [each.read_text()[0] for each in tmp_path.iterdir()] == ["2"]


def test_a_disk_that_is_full_while_a_file_is_rotated_costs_no_older_file(tmp_path, monkeypatch):
    path = tmp_path / "records.jsonl"
    sink = AccessLog(LogFile(path, max_bytes=1, keep=3), lambda record: record.host)
    tell(sink, *map(make_record, "abcd"))
    before = {each.name: each.read_text() for each in tmp_path.iterdir()}
    monkeypatch.setattr(LogFile, "_open", refuse)

    tell(sink, *map(make_record, "efgh"))
    monkeypatch.undo()
    tell(sink, make_record("i"))

    kept = "".join(path.with_name(name).read_text() for name in sorted(before, reverse=True))
    assert before == {
        "records.jsonl": "d\n",
        "records.jsonl.1": "c\n",
        "records.jsonl.2": "b\n",
        "records.jsonl.3": "a\n",
    }
    assert kept.split() == ["b", "c", "d", "i"]
    assert sink.lost == 4


def test_a_file_that_could_not_be_opened_again_is_once_that_works(tmp_path, monkeypatch):
    path = tmp_path / "records.jsonl"
    sink = AccessLog(LogFile(path), lambda record: record.host)
    path.rename(tmp_path / "moved.jsonl")
    monkeypatch.setattr(LogFile, "_open", refuse)

    tell(sink, make_record("a"))
    monkeypatch.undo()
    tell(sink, make_record("b"))

    assert (sink.lost, path.read_text()) == (1, "b\n")


def test_a_line_that_is_longer_than_a_file_may_be_is_written_whole(tmp_path):
    output = LogFile(tmp_path / "records.jsonl", max_bytes=10, keep=1)

    output.write("x" * 50 + "\n")
    output.flush()

    assert (tmp_path / "records.jsonl").read_text() == "x" * 50 + "\n"


def test_a_share_of_the_records_is_written_the_same_for_every_output():
    kept, again = [], []
    records = [replace(make_record(), id=str(number), status=200) for number in range(2000)]

    for sink in (Sampled(0.25, kept.append), Sampled(0.25, again.append)):
        for record in records:
            sink(record)

    assert kept == again
    assert 400 < len(kept) < 600


@pytest.mark.parametrize("how", [{"status": 429}, {"error": "provider_failed"}, {"status": None}], ids=str)
def test_failures_are_always_written(how):
    kept = []
    sink = Sampled(0.0, kept.append)

    sink(replace(make_record(), **({"status": 200} | how)))
    sink(replace(make_record(), status=200))

    assert len(kept) == 1
