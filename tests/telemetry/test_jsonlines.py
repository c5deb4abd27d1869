"""Records as JSON lines."""

import io
import json

import pytest

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
