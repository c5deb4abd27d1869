"""
Metrics for Prometheus.

OpenTelemetry's GenAI client metrics in their Prometheus spelling, and our own under `sidestream_`. They are
counted from records, in the thread that writes them; what the data plane counts itself is read when
somebody scrapes. Labels are from closed sets (see `names`).

Source: OpenTelemetry semantic conventions, "Generative AI metrics" (names, buckets).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sidestream.core.exchange import Record
from sidestream.core.snapshot import Snapshot
from sidestream.telemetry.names import NONE, Models, error_of, providers_of, status_of

disable_created_metrics()  # type: ignore[no-untyped-call]  # a third more series, of which nobody makes use

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

TOKEN_BUCKETS = tuple(4.0**power for power in range(14))
SECONDS_BUCKETS = tuple(0.01 * 2.0**power for power in range(17))
OVERHEAD_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)

COUNTS = {
    "connections_accepted": ("sidestream_client_connections", "Connections of clients that were taken.", {}),
    "connections_refused": ("sidestream_client_connections_refused", "Connections of clients that were refused.", {}),
    "connections_passed_through": (
        "sidestream_passthrough_connections",
        "Connections that no policy names, which went on untouched.",
        {},
    ),
    "passed_through_bytes_sent": (
        "sidestream_passthrough_bytes",
        "Bytes of connections that no policy names.",
        {"direction": "sent"},
    ),
    "passed_through_bytes_received": (
        "sidestream_passthrough_bytes",
        "Bytes of connections that no policy names.",
        {"direction": "received"},
    ),
    "refused_body_too_large": ("sidestream_limit_refusals", "Requests beyond a limit.", {"limit": "body"}),
    "refused_head_too_large": ("sidestream_limit_refusals", "Requests beyond a limit.", {"limit": "head"}),
    "refused_too_many_exchanges": ("sidestream_limit_refusals", "Requests beyond a limit.", {"limit": "exchanges"}),
    "retries": ("sidestream_retries", "Attempts that followed a failed one.", {}),
    "retries_refused": ("sidestream_retries_refused", "Retries that the retry budget did not allow.", {}),
    "provider_connections_opened": ("sidestream_provider_connections", "Connections to providers.", {}),
    "provider_connections_reused": ("sidestream_provider_connections_reused", "Times one was used again.", {}),
    **{
        f"llm_{outcome}": (
            "sidestream_llm_connections",
            "Redirected connections to hosts that look like LLM providers, by what became of them.",
            {"outcome": outcome},
        )
        for outcome in ("governed", "unknown_host", "no_interception", "pinned")
    },
}
"""Count of the data plane → name, help and labels of its metric."""


class Watched(Protocol):
    """What metrics read when they are scraped."""

    def counts(self) -> Mapping[str, int]:
        """Return counts of the data plane, by name."""

    def ejections(self) -> Mapping[str, tuple[int, bool]]:
        """Return providers that were ejected: name → how often, and whether they are left alone now."""

    def live_count(self) -> int:
        """Return how many exchanges are under way."""


class Policy(Protocol):
    """What metrics read of the policy."""

    @property
    def snapshot(self) -> Snapshot:
        """The snapshot in force."""

    @property
    def failures(self) -> int:
        """How many reloads failed."""

    @property
    def problem_count(self) -> int:
        """How many problems the newest documents have."""


class _Series[M: (Counter, Histogram)](dict[tuple[object, ...], M]):
    """The series of `metric`, by the values of its labels. The metric itself looks one up for longer than it counts."""

    def __init__(self, metric: M) -> None:
        super().__init__()
        self._metric: M = metric

    def __missing__(self, labels: tuple[object, ...]) -> M:
        series: M = self._metric.labels(*labels)
        self[labels] = series
        return series


class Metrics:
    """A sink that counts records. `lost`: how many records were lost on the way to the sinks."""

    def __init__(self, policy: Policy, lost: Callable[[], int], *, asm_names: bool = False) -> None:
        self._models = Models(lambda: policy.snapshot)
        self._registry = registry = CollectorRegistry(auto_describe=False)
        gen_ai = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model", "gen_ai_response_model")
        server = ("server_address", "server_port")

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> _Series[Histogram]:
            return _Series(Histogram(name, text, labels, buckets=buckets, registry=registry))

        def counter(name: str, text: str, *labels: str) -> _Series[Counter]:
            return _Series(Counter(name, text, labels, registry=registry))

        self._usage = histogram(
            "gen_ai_client_token_usage", "Tokens of an answer.", TOKEN_BUCKETS, *gen_ai, *server, "gen_ai_token_type"
        )
        self._duration = histogram(
            "gen_ai_client_operation_duration_seconds",
            "Time from request to the end of the answer.",
            SECONDS_BUCKETS,
            *(*gen_ai, *server, "error_type"),
        )
        self._first_chunk = histogram(
            "gen_ai_client_operation_time_to_first_chunk_seconds",
            "Time from request to the first event of a stream.",
            SECONDS_BUCKETS,
            *(*gen_ai, *server),
        )
        self._per_chunk = histogram(
            "gen_ai_client_operation_time_per_output_chunk_seconds",
            "Time between events of a stream, on average of each.",
            SECONDS_BUCKETS,
            *(*gen_ai, *server),
        )
        self._exchanges = counter(
            "sidestream_exchanges",
            "Governed exchanges that are over.",
            *("route", "rule", "provider", "status", "error"),
        )
        self._attempts = counter("sidestream_attempts", "Requests to providers.", "provider", "outcome")
        self._tokens = counter(
            "sidestream_tokens",
            "Tokens, those of a cache and of reasoning also within input and output.",
            *("route", "rule", "provider", "model", "type"),
        )
        self._cost = counter("sidestream_cost_usd", "Cost by public prices.", "route", "rule", "provider", "model")
        self._unpriced = counter(
            "sidestream_unpriced_exchanges", "Answers with tokens whose price is not known.", "provider", "model"
        )
        self._overhead = Histogram(
            "sidestream_overhead_seconds",
            "Time of an exchange that the proxy took itself.",
            buckets=OVERHEAD_BUCKETS,
            registry=registry,
        )
        self._asm = _Asm(registry) if asm_names else None
        self._read = _Read(policy, lost)
        registry.register(self._read)

    def watch(self, watched: Watched) -> None:
        """Read from `watched` whenever somebody scrapes."""
        self._read.watched = watched

    def collect(self) -> Iterable[Metric]:
        """Return all metrics."""
        return self._registry.collect()

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def __call__(self, record: Record) -> None:
        """Count `record`."""
        by = (record.route or NONE, record.rule or NONE, record.provider or NONE)
        error = error_of(record.error, record.status)
        self._exchanges[*by, status_of(record.status), error or NONE].inc()
        for attempt in record.attempts:
            self._attempts[attempt.provider, attempt.error or "success"].inc()
        if record.overhead_seconds is not None:
            self._overhead.observe(record.overhead_seconds)
        if record.server_address is None:
            return  # it was never sent on
        model = self._models.named(record.sent_model)
        self._count_gen_ai(record, model, error)
        self._count_tokens(record, (*by, model))
        if self._asm is not None:
            self._asm.count(record, model)

    def _count_gen_ai(self, record: Record, model: str, error: str) -> None:
        answered = self._models.answered(record.response_model, record.sent_model)
        system = record.provider_system or NONE
        at = (record.operation or NONE, system, model, answered, record.server_address, record.server_port)
        self._duration[*at, error].observe(record.duration_seconds)
        if record.time_to_first_event_seconds is not None:
            self._first_chunk[at].observe(record.time_to_first_event_seconds)
        if record.seconds_per_event is not None:
            self._per_chunk[at].observe(record.seconds_per_event)
        if record.usage_partial:
            return  # no count of the provider
        if record.prompt_tokens is not None:
            self._usage[*at, "input"].observe(record.prompt_tokens)
        if record.completion_tokens is not None:
            self._usage[*at, "output"].observe(record.completion_tokens)

    def _count_tokens(self, record: Record, by: tuple[str, str, str, str]) -> None:
        counted = {
            "input": record.prompt_tokens,
            "output": record.completion_tokens,
            "cached": record.cached_tokens,
            "reasoning": record.reasoning_tokens,
        }
        for kind, tokens in counted.items():
            if tokens:
                self._tokens[*by, kind].inc(tokens)
        if record.cost_usd is not None:
            self._cost[by].inc(record.cost_usd)
        elif record.usage_partial is not None:
            self._unpriced[by[2:]].inc()


class _Asm:
    """Tokens under the names that Alibaba Cloud Service Mesh gives them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ("destination_service", "model")
        prompt = Counter("asm_llm_proxy_prompt_tokens", "Tokens of prompts.", labels, registry=registry)
        completion = Counter("asm_llm_proxy_completion_tokens", "Tokens of answers.", labels, registry=registry)
        self._prompt, self._completion = _Series(prompt), _Series(completion)

    def count(self, record: Record, model: str) -> None:
        """Count the tokens of `record`, whose host a policy names."""
        self._prompt[record.host, model].inc(record.prompt_tokens or 0)
        self._completion[record.host, model].inc(record.completion_tokens or 0)


class _Read(Collector):
    """What is read when somebody scrapes."""

    def __init__(self, policy: Policy, lost: Callable[[], int]) -> None:
        self.watched: Watched | None = None
        self._policy = policy
        self._lost = lost

    def collect(self) -> Iterator[Metric]:
        counted = self.watched.counts() if self.watched is not None else {}
        families: dict[str, CounterMetricFamily] = {}
        for count, (name, text, labels) in COUNTS.items():
            family = families.setdefault(name, CounterMetricFamily(name, text, labels=tuple(labels)))
            family.add_metric(tuple(labels.values()), counted.get(count, 0))
        yield from families.values()
        yield from self._ejections()
        yield CounterMetricFamily("sidestream_lost_records", "Records that could not be kept.", value=self._lost())
        failures = self._policy.failures
        yield CounterMetricFamily("sidestream_policy_reload_failures", "Reloads that failed.", value=failures)
        problems = self._policy.problem_count
        yield GaugeMetricFamily("sidestream_policy_problems", "Problems of the newest documents.", value=problems)
        info = GaugeMetricFamily("sidestream_policy_info", "The policy in force.", labels=("revision",))
        info.add_metric((self._policy.snapshot.revision,), 1)
        yield info
        live = self.watched.live_count() if self.watched is not None else 0
        yield GaugeMetricFamily("sidestream_live_exchanges", "Exchanges under way.", value=live)

    def _ejections(self) -> Iterator[Metric]:
        """Tell of every provider, so that the first ejection is seen as an increase."""
        counted = self.watched.ejections() if self.watched is not None else {}
        text = "Times that a provider was left alone after failures."
        ejections = CounterMetricFamily("sidestream_ejections", text, labels=("provider",))
        text = "Whether a provider is left alone now; of several workers, by how many."
        ejected = GaugeMetricFamily("sidestream_ejected", text, labels=("provider",))
        for name, provider in sorted(providers_of(self._policy.snapshot).items()):
            count, is_ejected = counted.get(name, (0, False))
            ejections.add_metric((name,), count)
            ejected.add_metric((name,), is_ejected and provider.outlier_detection is not None)
        yield ejections
        yield ejected
