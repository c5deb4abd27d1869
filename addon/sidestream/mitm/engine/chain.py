"""The order of mitmproxy's addons."""

from mitmproxy.addonmanager import AddonManager


def put_first(addons: AddonManager, addon: object) -> None:
    """
    Add `addon` before all others.

    mitmweb's view shows a request in the hook it comes in; what is to be redacted must be so by then.
    """
    addons.add(addon)
    addons.chain.remove(addon)
    addons.chain.insert(0, addon)
