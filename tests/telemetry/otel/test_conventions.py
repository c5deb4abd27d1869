"""The names are OpenTelemetry's."""

import importlib
import pkgutil

import opentelemetry.semconv._incubating.attributes as incubating
import opentelemetry.semconv.attributes as stable
import pytest
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics

from sidestream.telemetry.otel import conventions


def known_attributes():
    modules = [
        importlib.import_module(f"{package.__name__}.{found.name}")
        for package in (incubating, stable)
        for found in pkgutil.iter_modules(package.__path__)
    ]
    return {value for module in modules for name, value in vars(module).items() if name.isupper()}


OURS = {value for name, value in vars(conventions).items() if name.isupper() and isinstance(value, str)}


def test_every_attribute_is_in_the_conventions_or_says_that_it_is_ours():
    assert {name for name in OURS if not name.startswith("sidestream.")} <= known_attributes()


@pytest.mark.parametrize(("name", "unit"), conventions.METRICS.values())
def test_every_metric_is_in_the_conventions(name, unit):
    assert name in vars(gen_ai_metrics).values()
