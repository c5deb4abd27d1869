"""A provider to try Sidestream against: no account, no key, no network beyond loopback."""
