"""The only package that imports mitmproxy. A hook is a few lines: view → decide → plan → apply."""
