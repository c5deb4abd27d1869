"""
The addon: its options, its life, and the hooks it is made of.

It works the same under stock `mitmdump -s`, `mitmweb -s` and `sidestream run`.
"""

import asyncio
import logging

from mitmproxy import ctx, exceptions
from mitmproxy.addonmanager import Loader
from mitmproxy.addons.view import View

from sidestream.mitm import options
from sidestream.mitm.confining import Confining
from sidestream.mitm.connections import ConnectionHooks
from sidestream.mitm.current import Current
from sidestream.mitm.engine.checks import quicken_checks
from sidestream.mitm.engine.clients import ForgiveProbes
from sidestream.mitm.engine.dispatch import TableAddonManager
from sidestream.mitm.engine.onboarding import QuickOnboarding
from sidestream.mitm.requests import RequestHooks
from sidestream.mitm.runtime import Connect, Runtime
from sidestream.mitm.web import Retention

logger = logging.getLogger(__name__)

FORCED_OPTIONS = {
    "connection_strategy": "lazy",  # eager would dial the original address before a policy is asked
    "block_global": False,  # would refuse pods that have public addresses
    "upstream_cert": False,  # would copy names from a certificate of the original address
    "tcp_timeout": 86_400,  # in seconds; ten minutes would cut idle connections that are none of ours
}
"""Options of mitmproxy that Sidestream does not work without, and their values."""

UNSAFE_OPTIONS = {
    "proxy_debug": "it would print keys",
    "stream_large_bodies": "it would send large requests on before a policy was asked",
}
"""Options that are refused → why."""


class Sidestream:
    """The mitmproxy addon. `connect` makes its surroundings from its options."""

    name = "sidestream"

    def __init__(self, connect: Connect) -> None:
        self.current = Current()
        self._requests = RequestHooks(self.current)
        self._connections = ConnectionHooks(self.current, self._requests)
        self.addons: list[object] = [
            self._connections,
            Confining(self.current),
            self._requests,
            Retention(self.current),
        ]
        self._connect = connect
        self._watching: asyncio.Task[None] | None = None

    def load(self, loader: Loader) -> None:
        """Declare the options."""
        # Its lines for every connection quote what clients sent, keys and all.
        logging.getLogger("mitmproxy.proxy.server").setLevel(logging.WARNING)
        ForgiveProbes.install()
        TableAddonManager.specialise(loader.master.addons)
        QuickOnboarding.specialise(loader.master.addons)
        if isinstance(view := loader.master.addons.get("view"), View):
            from sidestream.mitm.pages.addon import Pages  # noqa: PLC0415 not for those who show no pages

            self.addons.append(Pages(self.current, self._requests, view))
        quicken_checks()
        options.declare(loader)

    def configure(self, updated: set[str]) -> None:
        """Take the options as they are now. What does not work is refused, and changes nothing."""
        for name, reason in UNSAFE_OPTIONS.items():
            if getattr(ctx.options, name):
                raise exceptions.OptionsError(f"Sidestream does not run with {name}: {reason}")
        if not updated & options.ALL and self.current.runtime is not None:
            return
        settings = options.read(ctx.options)
        if settings == self.current.settings or not settings.policies:
            return  # `running` says that there are none: raising here would hide why others were refused
        try:
            runtime = self._connect(settings)
        except (ValueError, OSError) as e:
            raise exceptions.OptionsError(str(e)) from e
        previous, self.current.settings, self.current.runtime = self.current.runtime, settings, runtime
        if previous is not None:
            self._close(previous)
        if self._watching is not None:
            self._open(runtime)
            self._watch()

    def running(self) -> None:
        """Start to watch the policy."""
        ctx.options.update(**FORCED_OPTIONS)
        if self.current.runtime is None:
            name = options.POLICIES
            logger.error("no policies: give their folder (--set %s=DIR, or %s)", name, name.upper())
        else:
            self._open(self.current.runtime)
        self._watch()

    def done(self) -> None:
        """Stop to watch the policy."""
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None
        if self.current.runtime is not None:
            for watcher in self.current.runtime.watchers:
                watcher.close()
            self.current.runtime.upstream.close()

    def not_ready(self) -> str | None:
        """Return why no traffic should come yet, or any more; ``None``: it is ready."""
        if self.current.runtime is None:
            return "no policy is loaded"
        return None if self.is_running and not self.current.is_ending else "it is ending"

    @property
    def is_running(self) -> bool:
        """Tell whether it takes part in mitmproxy's life: it was started, and has not stopped."""
        return self._watching is not None

    def live_count(self) -> int:
        """Return how many exchanges are under way."""
        return self._requests.live_count()

    def live(self) -> list[dict[str, object]]:
        """Return what is known of the exchanges under way, oldest first."""
        return self._requests.live()

    def ejections(self) -> dict[str, tuple[int, bool]]:
        """Return providers that were ejected: name → how often, and whether they are left alone now."""
        return self._requests.ejections()

    def cut_off(self) -> None:
        """Take note that the proxy ends whatever is under way."""
        self._requests.cut_off()

    def ended_counts(self) -> tuple[int, int]:
        """Return how many exchanges came to an end of their own since the start, and how many the proxy ended."""
        return self._requests.ended_counts()

    def counts(self) -> dict[str, int]:
        """Return what happened since the start: name → how often. The names are a closed set."""
        upstream = self.current.runtime.upstream.counts() if self.current.runtime is not None else {}
        return self._connections.counts() | self._requests.counts() | upstream

    def _open(self, runtime: Runtime) -> None:
        for watcher in runtime.watchers:
            try:
                watcher.open(self)
            except ValueError as e:
                logger.error("%s", e)  # noqa: TRY400 while it starts, an error ends the process

    def _close(self, runtime: Runtime) -> None:
        for watcher in runtime.watchers:
            watcher.close()
        runtime.close()

    def _watch(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
        if self.current.runtime is not None:
            self._watching = asyncio.get_running_loop().create_task(self.current.runtime.source.run())
