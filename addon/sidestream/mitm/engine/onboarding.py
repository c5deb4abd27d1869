"""
mitmproxy's page at mitm.it, asked only for what is meant for it.

Its hook is a coroutine, so every request would wait for a task that finds nothing to do.
"""

from collections.abc import Coroutine

from mitmproxy import ctx, http
from mitmproxy.addonmanager import AddonManager
from mitmproxy.addons.onboarding import Onboarding


class QuickOnboarding(Onboarding):
    """mitmproxy's own, which is done at once with what is not meant for it."""

    @classmethod
    def specialise(cls, addons: AddonManager) -> None:
        """Turn the stock addon into this one, where it is there."""
        if type(onboarding := addons.get("onboarding")) is Onboarding:
            onboarding.__class__ = cls

    def request(self, f: http.HTTPFlow) -> Coroutine[None, None, None] | None:  # type: ignore[override]
        """Answer `f`, if it is for the page."""
        return super().request(f) if ctx.options.onboarding and self.should_serve(f) else None
