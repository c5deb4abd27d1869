"""Readings, made by hand."""

from sidestream.top.reading import Ended, Live, Reading

AT = {"route": "default/r", "rule": "none", "provider": "default/a"}
BY_AT = ("default/r", "", "default/a")


def make_reading(at=0.0, *, live=(), recent=(), **metrics):
    """Return a reading. `metrics`: name, without what all begin with → pairs of labels and value, or a value."""
    samples = {}
    for name, values in metrics.items():
        pairs = values if isinstance(values, list) else [({}, values)]
        samples[f"sidestream_{name}"] = {tuple(sorted(labels.items())): float(value) for labels, value in pairs}
    return Reading(at, samples, tuple(live), tuple(recent))


def exchanges(count, error="none", **labels):
    """Return a pair for `sidestream_exchanges_total`."""
    return (AT | {"status": "200", "error": error} | labels, count)


def make_live(provider="default/a", seconds=1.0, **fields):
    usual = {
        "client": "10.0.0.1:5",
        "host": "a.example",
        "route": "default/r",
        "rule": "",
        "model": "m",
        "status": None,
    }
    counts = {"is_stream": True, "attempts": 1, "bytes_out": 12_345, "events_out": 7}
    return Live(**(usual | counts | {"provider": provider, "seconds": seconds} | fields))


def make_ended(seconds=1.0, error="", **fields):
    usual = {"time": "2026-01-02T03:04:05.678+00:00", "host": "a.example", "route": "default/r", "rule": ""}
    return Ended(
        **(usual | {"provider": "default/a", "model": "m", "status": 200} | fields), error=error, seconds=seconds
    )
