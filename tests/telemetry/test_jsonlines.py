"""Records as JSON lines."""

import io
import json
import os
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestream.core.exchange import Exchange, Record
from sidestream.telemetry.jsonlines import JsonLines


def make_record(host="dashscope.aliyuncs.com") -> Record:
    exchange = Exchange("id-1", "127.0.0.1:5", host, wall_time=0.0, now=1.0)
    record = exchange.finish(now=2.5)
    assert record is not None
    return record


def test_a_record_is_one_line_of_json_with_every_field():
    stream = io.StringIO()

    JsonLines(stream)(make_record())

    (line,) = stream.getvalue().splitlines()
    assert json.loads(line) == make_record().as_dict()


def test_each_line_is_there_at_once(tmp_path):
    path = tmp_path / "records.jsonl"
    sink = JsonLines.to(str(path))

    sink(make_record())

    assert len(path.read_text().splitlines()) == 1


def test_a_file_is_added_to(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text("an earlier line\n")

    JsonLines.to(str(path))(make_record())

    assert len(path.read_text().splitlines()) == 2


@pytest.mark.parametrize("host", ["模型.example", "line\nbreak", "lone \ud800 surrogate"])
def test_any_text_stays_on_its_line(tmp_path, host):
    path = tmp_path / "records.jsonl"

    JsonLines.to(str(path))(make_record(host))

    (line,) = path.read_text(encoding="utf-8").splitlines()
    assert set(json.loads(line)) == set(make_record().as_dict())


def test_what_cannot_be_written_is_counted_and_said_once(tmp_path, caplog):
    stream = (tmp_path / "records.jsonl").open("w")
    stream.close()
    sink = JsonLines(stream)

    sink(make_record())
    sink(make_record())

    assert sink.lost == 2
    assert len(caplog.records) == 1
    assert "records can't be written and are lost" in caplog.text


def test_a_file_that_cannot_be_opened_is_an_error_at_once(tmp_path):
    with pytest.raises(OSError, match="missing"):
        JsonLines.to(str(tmp_path / "missing" / "records.jsonl"))


class FullDisk(io.StringIO):
    """A stream that takes nothing while `full`."""

    full = True

    def write(self, text):
        if self.full:
            raise OSError(28, "No space left on device")
        return super().write(text)


@settings(deadline=None)
@given(st.text() | st.characters(categories=["Cs"]), st.sampled_from(["ascii", "latin-1", "utf-8", "utf-16"]))
def test_any_stream_takes_any_text_in_one_line_and_keeps_it(text, encoding):
    record = replace(make_record(), request_model=text, error=text)
    raw = io.BytesIO()
    sink = JsonLines(io.TextIOWrapper(raw, encoding=encoding))

    sink(record)

    (line,) = raw.getvalue().decode(encoding).splitlines()
    assert json.loads(line) == record.as_dict()
    assert sink.lost == 0


def test_two_sinks_may_share_a_file(tmp_path):
    path = tmp_path / "records.jsonl"
    sinks = [JsonLines.to(str(path)), JsonLines.to(str(path))]

    for number in range(6):
        sinks[number % 2](make_record(f"{number}.example"))

    hosts = [json.loads(line)["host"] for line in path.read_text().splitlines()]
    assert hosts == [f"{number}.example" for number in range(6)]


def test_a_dash_is_standard_output(capsys):
    JsonLines.to("-")(make_record("here.example"))

    assert json.loads(capsys.readouterr().out)["host"] == "here.example"


def test_a_process_without_standard_output_is_told_so(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)

    with pytest.raises(OSError, match="standard output is closed: name a file"):
        JsonLines.to("-")


def test_what_a_full_disk_loses_is_counted_and_later_records_are_written(caplog):
    stream = FullDisk()
    sink = JsonLines(stream)

    sink(make_record("lost.example"))
    stream.full = False
    sink(make_record("kept.example"))

    assert sink.lost == 1
    assert [json.loads(line)["host"] for line in stream.getvalue().splitlines()] == ["kept.example"]
    assert "No space left on device" in caplog.text


def test_a_reader_that_left_is_no_error(caplog):
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w")
    sink = JsonLines(stream)

    sink(make_record())

    assert sink.lost == 1
    assert "Broken pipe" in caplog.text
    with pytest.raises(BrokenPipeError):
        stream.close()
