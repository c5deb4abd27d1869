"""Connects the adapters, which do not know each other."""

import os
from pathlib import Path

from sidestream.mitm.addon import Sidestream
from sidestream.mitm.runtime import Runtime, Settings
from sidestream.sources.folder import Folder
from sidestream.sources.watching import PolicyWatch
from sidestream.telemetry.background import InBackground
from sidestream.telemetry.jsonlines import JsonLines
from sidestream.upstream.calling import PooledUpstream


def make_addon() -> Sidestream:
    """Return the addon, to be connected when its options are known."""
    return Sidestream(connect)


def connect(settings: Settings) -> Runtime:
    """
    Connect the addon to a folder of policies and a log of records.

    Raises:
        PolicyError: the policy does not compile.
        OSError: the log can't be opened.
    """
    source = PolicyWatch(Folder(Path(settings.policies), os.environ), settings.labels)
    upstream = PooledUpstream(settings.upstream_ca_pem)
    log = InBackground(JsonLines.to(settings.log))

    def close() -> None:
        upstream.close()
        log.close()

    return Runtime(source, (log,), upstream, close)
