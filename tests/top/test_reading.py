"""What the admin endpoint says is taken apart, and does nothing to a terminal."""

import json
import math

import pytest

from sidestream.top.reading import MAX_TEXT, ReadingError, plain, read

METRICS = """\
# TYPE sidestream_exchanges_total counter
sidestream_exchanges_total{route="default/r",rule="none"} 3.0
# TYPE gen_ai_client_token_usage histogram
gen_ai_client_token_usage_bucket{le="+Inf"} 9
"""
LIVE = {"id": "1", "client": "10.0.0.1:5", "host": "a", "route": None, "rule": None, "provider": None} | {
    "sent_model": None,
    "stream": None,
    "status": None,
    "seconds": 0.5,
    "attempts": 0,
    "bytes_out": 0,
    "events_out": None,
}
ENDED = {"time": "2026-01-02T03:04:05.678+00:00", "host": "a", "route": "default/r", "rule": None, "provider": "p"} | {
    "sent_model": "m",
    "status": 200,
    "error": None,
    "duration_seconds": 1.5,
}
EVIL = "\x1b[2J[red]x[/]\r\n\x9b31m\u202e\ud800"


def page(live=(), recent=()):
    return json.dumps({"live": list(live), "recent": list(recent)})


def test_a_reading_holds_the_metrics_of_ours_alone():
    reading = read(METRICS, page(), at=7.0)

    assert reading.samples == {"sidestream_exchanges_total": {(("route", "default/r"), ("rule", "none")): 3.0}}
    assert reading.at == 7.0


def test_what_is_not_known_yet_is_empty():
    [live] = read(METRICS, page(live=[LIVE]), at=0.0).live

    assert (live.route, live.provider, live.model, live.is_stream, live.status, live.events_out) == (
        *("", "", ""),
        *(False, None, 0),
    )


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({}, ""),
        ({"error": "killed"}, "killed"),
        ({"status": 429}, "429"),
        ({"status": None, "error": "reset"}, "reset"),
    ],
)
def test_a_failure_is_told_by_its_word_or_its_status(fields, error):
    [ended] = read(METRICS, page(recent=[ENDED | fields]), at=0.0).recent

    assert ended.error == error


@pytest.mark.parametrize("field", ["client", "host", "route", "rule", "provider", "sent_model"])
def test_no_field_of_an_exchange_reaches_a_terminal_with_control_characters(field):
    [live] = read(METRICS, page(live=[LIVE | {field: EVIL}]), at=0.0).live

    assert "?[2J[red]x[/]???31m??" in repr(live)


@pytest.mark.parametrize("field", ["time", "host", "route", "rule", "provider", "sent_model", "error"])
def test_no_field_of_a_record_does(field):
    [ended] = read(METRICS, page(recent=[ENDED | {field: EVIL}]), at=0.0).recent

    assert "?[2J[red]x[/]???31m??" in repr(ended)


def test_no_label_does():
    text = 'sidestream_policy_info{revision="\x1b]0;x\\n"} 1\n'

    assert read(text, page(), at=0.0).samples["sidestream_policy_info"] == {(("revision", "?]0;x?"),): 1.0}


def test_labels_that_became_alike_count_together():
    text = 'sidestream_ejected{provider="\x01"} 1\nsidestream_ejected{provider="\x02"} 2\n'

    assert read(text, page(), at=0.0).samples["sidestream_ejected"] == {(("provider", "?"),): 3.0}


def test_long_names_are_cut():
    assert plain("a" * 1000) == "a" * (MAX_TEXT - 1) + "…"


@pytest.mark.parametrize(
    ("metrics", "exchanges"),
    [
        ("<html>", page()),
        ("", page()),
        ("process_cpu_seconds_total 1\n", page()),
        (METRICS, "<html>"),
        (METRICS, "[]"),
        (METRICS, "{}"),
        (METRICS, "[" * 100_000),
        (METRICS, page(live=[7])),
        (METRICS, page(live=[LIVE | {"seconds": "soon"}])),
        (METRICS, page(recent=[ENDED | {"status": {}}])),
        (METRICS, page(live=[LIVE | {"attempts": math.inf}])),
        ("sidestream_retries_total NaN\n", page()),
        ("sidestream_retries_total +Inf\n", page()),
    ],
)
def test_other_pages_are_refused(metrics, exchanges):
    with pytest.raises(ReadingError):
        read(metrics, exchanges, at=0.0)
