"""
What the addon needs of the other adapters, and what it is told by its options.

The adapters do not know each other; the composition root connects them through this.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sidestream.core.exchange import Record
from sidestream.core.snapshot import Labels, Snapshot

type Sink = Callable[[Record], None]
"""Takes finished records."""


class PolicySource(Protocol):
    """Where the snapshot in force comes from."""

    @property
    def snapshot(self) -> Snapshot:
        """The snapshot in force now."""

    async def run(self) -> None:
        """Keep it up to date until cancelled."""


@dataclass(frozen=True, slots=True)
class Settings:
    """
    The addon's options as given.

    `policies`: a folder. `log`: a file, or ``-``. `labels`: of the workload. `upstream_ca_pem`:
    PEM text of CAs to trust for providers besides the system's.
    """

    policies: str = ""
    log: str = "-"
    labels: Labels = field(default_factory=dict)
    intercept_tls: bool = False
    fail_open: bool = False
    upstream_ca_pem: str = ""


@dataclass(frozen=True, slots=True)
class Runtime:
    """Everything that the addon is connected to."""

    source: PolicySource
    sinks: Sequence[Sink]


type Connect = Callable[[Settings], Runtime]
"""
Connects the addon to its surroundings.

Raises:
    ValueError: they can't be had; the message says all that is wrong.
"""
