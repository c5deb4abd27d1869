"""What the variables of OpenTelemetry mean."""

import pytest

from sidestream.demo.certificates import Authority
from sidestream.telemetry.otel import OtelError
from sidestream.telemetry.otel.settings import read

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


def test_without_variables_a_collector_on_this_host_gets_all():
    export = read({})

    assert [str(export.traces), str(export.metrics)] == [
        "http://localhost:4318/v1/traces",
        "http://localhost:4318/v1/metrics",
    ]
    assert (export.max_waiting, export.max_batch, export.delay_seconds, export.metrics_seconds) == (2048, 512, 5, 60)
    assert (export.traces.timeout_seconds, export.traces.is_compressed, export.is_delta) == (10, False, False)


@pytest.mark.parametrize(
    ("environment", "traces", "metrics"),
    [
        ({ENDPOINT: "http://c:4318"}, "http://c:4318/v1/traces", "http://c:4318/v1/metrics"),
        ({ENDPOINT: "http://c/base/"}, "http://c:80/base/v1/traces", "http://c:80/base/v1/metrics"),
        ({ENDPOINT: "https://c"}, "https://c:443/v1/traces", "https://c:443/v1/metrics"),
        ({ENDPOINT: "http://[::1]:1"}, "http://::1:1/v1/traces", "http://::1:1/v1/metrics"),
        ({ENDPOINT: " "}, "http://localhost:4318/v1/traces", "http://localhost:4318/v1/metrics"),
        (
            {ENDPOINT: "http://c", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://t:9/as-it-is?key=secret"},
            "http://t:9/as-it-is",
            "http://c:80/v1/metrics",
        ),
        ({"OTEL_TRACES_EXPORTER": "none"}, "None", "http://localhost:4318/v1/metrics"),
        ({"OTEL_METRICS_EXPORTER": "none"}, "http://localhost:4318/v1/traces", "None"),
        ({"OTEL_SDK_DISABLED": "true"}, "None", "None"),
    ],
)
def test_where_telemetry_goes(environment, traces, metrics):
    export = read(environment)

    assert (str(export.traces), str(export.metrics)) == (traces, metrics)


def test_a_query_is_sent_and_not_shown():
    target = read({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://t:9/p?key=secret"}).traces

    assert target.path == "/p?key=secret"
    assert "secret" not in str(target)


def test_headers_are_sent_and_not_shown():
    target = read({"OTEL_EXPORTER_OTLP_HEADERS": "Api-Key=se%20cret,x=1"}).traces

    assert target.headers == {"api-key": "se cret", "x": "1"}
    assert "cret" not in repr(target) + str(target)


def test_variables_of_one_kind_win():
    export = read({"OTEL_EXPORTER_OTLP_TIMEOUT": "1000", "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT": "2500"})

    assert (export.traces.timeout_seconds, export.metrics.timeout_seconds) == (1, 2.5)


def test_a_batch_is_no_larger_than_what_waits():
    assert read({"OTEL_BSP_MAX_QUEUE_SIZE": "10"}).max_batch == 10


@pytest.mark.parametrize(("preference", "is_delta"), [("delta", True), ("LowMemory", True), ("cumulative", False)])
def test_sums_may_begin_when_they_were_last_told(preference, is_delta):
    assert read({"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": preference}).is_delta is is_delta


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL: 'grpc' is not spoken here"),
        ({"OTEL_TRACES_EXPORTER": "jaeger"}, "OTEL_TRACES_EXPORTER: 'jaeger' is not to be had here"),
        ({"OTEL_EXPORTER_OTLP_COMPRESSION": "zstd"}, "OTEL_EXPORTER_OTLP_COMPRESSION: 'zstd' is not known here"),
        ({"OTEL_EXPORTER_OTLP_TIMEOUT": "soon"}, "OTEL_EXPORTER_OTLP_TIMEOUT: 'soon' is no number above 0"),
        ({"OTEL_BSP_SCHEDULE_DELAY": "0"}, "OTEL_BSP_SCHEDULE_DELAY: '0' is no number above 0"),
        ({"OTEL_METRIC_EXPORT_INTERVAL": "-1"}, "OTEL_METRIC_EXPORT_INTERVAL: '-1' is no number above 0"),
        ({ENDPOINT: "collector:4318"}, f"{ENDPOINT} is no address: write http://HOST:4318"),
        ({ENDPOINT: "http://"}, f"{ENDPOINT} is no address"),
        ({ENDPOINT: "http://c:port"}, f"{ENDPOINT} is no address"),
        ({ENDPOINT: "http://me:secret@c"}, f"{ENDPOINT} holds a name"),
        ({ENDPOINT: "https://c", "OTEL_EXPORTER_OTLP_CERTIFICATE": "/gone.crt"}, "OTEL_EXPORTER_OTLP_CERTIFICATE"),
    ],
)
def test_what_makes_no_sense_is_said(environment, said):
    with pytest.raises(OtelError) as raised:
        read(environment)

    assert str(raised.value).startswith(said)
    assert "secret" not in str(raised.value)


def test_a_collector_is_verified_and_knows_us_by_a_certificate(tmp_path):
    authority = Authority.create(tmp_path)
    own = authority.issue("client")

    target = read(
        {
            ENDPOINT: "https://c",
            "OTEL_EXPORTER_OTLP_CERTIFICATE": str(authority.ca_file),
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": str(own.cert_file),
            "OTEL_EXPORTER_OTLP_CLIENT_KEY": str(own.key_file),
        }
    ).traces

    assert target.tls.check_hostname
    assert len(target.tls.get_ca_certs()) == 1
