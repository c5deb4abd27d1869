"""
What the addon needs of the other adapters, and what it is told by its options.

The adapters do not know each other; the composition root connects them through this.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sidestream.core.calls import Upstream
from sidestream.core.exchange import Record
from sidestream.core.snapshot import Labels, Snapshot
from sidestream.core.tracing import BeginSpan

OFF = "off"
AUTOMATIC = "auto"
"""Values of `Settings.admin` besides an address: no endpoint, and the usual address if nobody has it."""

GRACE_SECONDS = 25
"""How long what is under way may take when the process is to end: Kubernetes waits for 30 seconds."""

type Sink = Callable[[Record], None]
"""Takes finished records."""


class PolicySource(Protocol):
    """Where the snapshot in force comes from."""

    @property
    def snapshot(self) -> Snapshot:
        """The snapshot in force now."""

    async def run(self) -> None:
        """Keep it up to date until cancelled."""


class Inside(Protocol):
    """What the addon tells of itself, from any thread."""

    def counts(self) -> dict[str, int]:
        """Return what happened since the start: name → how often. The names are a closed set."""

    def ejections(self) -> dict[str, tuple[int, bool]]:
        """Return providers that were ejected: name → how often, and whether they are left alone now."""

    def live_count(self) -> int:
        """Return how many exchanges are under way."""

    def live(self) -> list[dict[str, object]]:
        """Return what is known of the exchanges under way, oldest first."""

    def not_ready(self) -> str | None:
        """Return why no traffic should come yet, or any more; ``None``: it is ready."""


class Watcher(Protocol):
    """Somebody who looks at the addon while it runs."""

    def open(self, inside: Inside) -> None:
        """
        Begin to look.

        Raises:
            ValueError: it can't; the message says why.
        """

    def close(self) -> None:
        """Stop."""


@dataclass(frozen=True, slots=True)
class Settings:
    """
    The addon's options as given.

    `policies`: a folder, or kubernetes:NAMESPACE. `labels`: of the workload. `upstream_ca_pem`: PEM text of CAs to
    trust for providers besides the system's. `trust_dir`: where to write what apps are to trust, made of the CA in
    `confdir`.

    `max_body_bytes`: of a request that is held, `max_head_bytes`: of any request that is read, `max_exchanges`: under
    way at a time. `max_connections`, `web_max_flows`, `web_max_bytes`: 0 for no limit. `admin`: HOST:PORT of the admin
    endpoint, or a word. `otel`: spans and metrics go to OpenTelemetry's collector.

    `grace_seconds`: how long what is under way may take when the process is to end.

    `log`: files, or ``-``, parted by commas. `log_sample`: the share of records that is written, besides failures.
    `log_max_bytes`: how large a file may become before it is rotated, 0 for any; `log_keep`: rotated files.
    `log_content`: with bodies, less what is known to be secret or matches `log_redact`.
    """

    policies: str = ""
    log: str = "-"
    labels: Labels = field(default_factory=dict)
    intercept_tls: bool = False
    fail_open: bool = False
    only_policy_hosts: bool = False
    upstream_ca_pem: str = ""
    trust_dir: str = ""
    confdir: str = ""
    max_body_bytes: int = 64 * 1024 * 1024
    max_head_bytes: int = 64 * 1024
    max_exchanges: int = 1000
    max_connections: int = 0
    web_max_flows: int = 0
    web_max_bytes: int = 0
    grace_seconds: int = GRACE_SECONDS
    admin: str = OFF
    asm_names: bool = False
    cost: bool = False
    otel: bool = False
    log_format: str = "json"
    log_sample: float = 1.0
    log_max_bytes: int = 0
    log_keep: int = 5
    log_content: bool = False
    log_redact: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Runtime:
    """
    Everything that the addon is connected to. `close` gives up what another runtime does not need.

    `begin_span`: what makes an exchange part of a trace; ``None``: nobody traces.
    """

    source: PolicySource
    sinks: Sequence[Sink]
    upstream: Upstream
    close: Callable[[], None] = lambda: None
    watchers: Sequence[Watcher] = ()
    begin_span: BeginSpan | None = None


type Connect = Callable[[Settings], Runtime]
"""
Connects the addon to its surroundings.

Raises:
    ValueError: they can't be had; the message says all that is wrong.
"""
