"""The thread that sends, and what becomes of what can't be sent."""

import ssl
import threading

import pytest
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from sidestream.core.tracing import SAMPLED, SpanContext, Trace
from sidestream.demo.certificates import Authority
from sidestream.telemetry.otel import exporting
from sidestream.telemetry.otel.exporting import Exporter
from sidestream.telemetry.otel.sending import send
from sidestream.telemetry.otel.settings import read
from tests.collector import attributes_of, collecting
from tests.scripted import scripted
from tests.telemetry.otel.recorded import record_of
from tests.world import free_port, wait_for

QUICK = {"OTEL_BSP_SCHEDULE_DELAY": "20"}
SLOW = {"OTEL_BSP_SCHEDULE_DELAY": "600000", "OTEL_METRICS_EXPORTER": "none"}


@pytest.fixture
def collector():
    with collecting() as collector:
        yield collector


@pytest.fixture
def make_exporter():
    made = []

    def make(url, environment=QUICK, **how):
        export = read({"OTEL_EXPORTER_OTLP_ENDPOINT": url} | environment)
        how = {"collect": list, "redact": str} | how
        made.append(Exporter(export, Resource(), InstrumentationScope(name="sidestream", version="1"), **how))
        return made[-1]

    yield make
    for exporter in made:
        exporter.close()


def ids_of(collector):
    return [attributes_of(span)["sidestream.id"] for span in collector.spans if span.name.startswith("chat")]


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_records_arrive_as_spans(collector, make_exporter, compression):
    exporter = make_exporter(collector.url, QUICK | {"OTEL_EXPORTER_OTLP_COMPRESSION": compression})

    for number in range(3):
        exporter(record_of(identifier=str(number)))

    wait_for(lambda: len(collector.spans) == 6)
    assert ids_of(collector) == ["0", "1", "2"]
    assert collector.headers[0]["content-type"] == "application/x-protobuf"
    assert collector.headers[0]["user-agent"] == "sidestream/1"


def test_what_waits_is_sent_at_the_end(collector, make_exporter):
    exporter = make_exporter(collector.url, SLOW)

    exporter(record_of(identifier="last"))
    exporter.close()

    assert ids_of(collector) == ["last"]


def test_many_are_sent_at_once_and_not_later(collector, make_exporter):
    exporter = make_exporter(collector.url, SLOW | {"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "3"})

    for number in range(3):
        exporter(record_of(identifier=str(number)))

    wait_for(lambda: ids_of(collector) == ["0", "1", "2"])


def test_what_a_collector_can_not_take_now_waits_and_the_oldest_go(collector, make_exporter, caplog):
    collector.status = 503
    exporter = make_exporter(collector.url, QUICK | {"OTEL_BSP_MAX_QUEUE_SIZE": "4", "OTEL_METRICS_EXPORTER": "none"})

    for number in range(10):
        exporter(record_of(identifier=str(number)))
    before = collector.asked
    wait_for(lambda: collector.asked >= before + 2)  # so that what is under way was taken after the last record came
    collector.status = 200
    wait_for(lambda: len(collector.spans) == 8)

    assert ids_of(collector) == ["6", "7", "8", "9"]
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "telemetry can't be sent; it will be tried again and again"
    ]


def test_what_a_collector_refuses_is_given_up(collector, make_exporter):
    collector.status = 400
    exporter = make_exporter(collector.url)
    exporter(record_of(identifier="refused"))
    wait_for(lambda: collector.asked)
    collector.status = 200

    exporter(record_of(identifier="later"))

    wait_for(lambda: "later" in ids_of(collector))
    assert ids_of(collector) == ["later"]


def test_a_collector_that_hangs_ends_nothing_late(make_exporter, monkeypatch):
    monkeypatch.setattr(exporting, "LAST_WORDS_SECONDS", 0.2)
    hangs = threading.Event()
    with scripted(lambda line, request: hangs.wait(20)) as collector:
        exporter = make_exporter(f"http://127.0.0.1:{collector.port}")
        exporter(record_of())
        wait_for(lambda: collector.requests)

        exporter.close()

        assert exporter._thread.is_alive()
        hangs.set()


def test_a_record_that_can_not_be_made_a_span_takes_no_other_with_it(collector, make_exporter, caplog):
    exporter = make_exporter(collector.url, SLOW)

    exporter(record_of(identifier="good"))
    exporter(record_of(trace=Trace(None, SpanContext("no hex", "no hex", SAMPLED))))
    exporter(record_of(identifier="fine"))
    exporter.close()

    assert ids_of(collector) == ["good", "fine"]
    assert "could not be made a span" in caplog.text


def test_what_fails_here_is_tried_again(collector, make_exporter, caplog):
    fails = threading.Event()

    def collect():
        if not fails.is_set():
            fails.set()
            raise RuntimeError("a bug of a metric")
        return []

    make_exporter(collector.url, QUICK | {"OTEL_METRIC_EXPORT_INTERVAL": "20"}, collect=collect)

    wait_for(lambda: collector.metric_requests)
    assert "telemetry could not be sent" in caplog.text


def test_a_collector_is_told_nothing_over_tls_unless_it_is_the_one(tmp_path):
    authority, stranger = Authority.create(tmp_path / "ca"), Authority.create(tmp_path / "other")
    with scripted(lambda line, request: line.send(b"HTTP/1.1 200 OK\r\n\r\n"), authority.issue("127.0.0.1")) as there:
        url = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"https://127.0.0.1:{there.port}"}
        known, unknown = (
            read(url | {"OTEL_EXPORTER_OTLP_CERTIFICATE": str(one.ca_file)}).traces for one in (authority, stranger)
        )
        outcomes = [send(target, b"x", agent="a", seconds=10) for target in (known, unknown)]

    assert outcomes[0].problem is None
    assert outcomes[1].problem is not None
    assert len(there.requests) == 1
    assert isinstance(known.tls, ssl.SSLContext)


def test_nobody_there_is_a_problem_that_may_pass():
    target = read({"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}"}).traces

    outcome = send(target, b"x", agent="a", seconds=10)

    assert (outcome.problem, outcome.may_retry) == ("Connection refused", True)
