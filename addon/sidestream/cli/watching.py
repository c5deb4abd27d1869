"""`sidestream top`: what a running proxy does, in a terminal."""

import argparse
import os
import sys
import time

from sidestream.top.asking import Endpoint, NoAnswer
from sidestream.top.figures import figures
from sidestream.top.picture import ORDERS, text
from sidestream.top.reading import Reading

ADMIN_ADDRESS = "127.0.0.1:15020"
"""Where `sidestream run` has its admin endpoint, unless it is told otherwise."""
LEAST_INTERVAL_SECONDS = 0.1


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `top` to the command."""
    parser = commands.add_parser(
        "top",
        help="watch a running proxy: calls, tokens, errors and ejections",
        description="Show what a running proxy does, from its admin endpoint: exchanges under way, rates, tokens, "
        "errors and ejections, by route and provider. Where standard output is no terminal: once, as plain text.",
        epilog="keys: q quit, p pause, r read now, s and S sort, tab and arrows scroll",
    )
    named = os.environ.get("SIDESTREAM_ADMIN", "")
    parser.add_argument(
        "--admin",
        type=_address,
        default=named if named not in ("", "off", "auto") else ADMIN_ADDRESS,
        metavar="HOST:PORT",
        help=f"the admin endpoint; default: $SIDESTREAM_ADMIN, or {ADMIN_ADDRESS}",
    )
    parser.add_argument(
        "--interval", type=_seconds, default=2.0, metavar="SECONDS", help="between two readings; default: 2"
    )
    parser.add_argument("--sort", choices=list(ORDERS), default="calls", help="what comes first; default: calls")
    parser.add_argument("--once", action="store_true", help="read twice, print one picture as plain text, and end")
    parser.set_defaults(run=_top)


def _top(options: argparse.Namespace) -> int:
    endpoint = Endpoint(*options.admin)
    try:
        first = endpoint.read()
        if options.once or not sys.stdout.isatty():
            time.sleep(options.interval)
            print(text(figures(first, endpoint.read()), options.sort), end="")
            return 0
    except NoAnswer as e:
        print(e, file=sys.stderr)
        return 1
    return _watch(endpoint, first, options)


def _watch(endpoint: Endpoint, first: Reading, options: argparse.Namespace) -> int:
    try:
        from sidestream.top.app import Top  # noqa: PLC0415 an extra, which the rest does without
    except ModuleNotFoundError as e:
        if e.name is None or e.name.partition(".")[0] not in ("textual", "rich"):
            raise
        print("the view needs Textual: pip install 'sidestream[top]'; or --once, which does without", file=sys.stderr)
        return 1
    Top(endpoint.read, endpoint.name, interval=options.interval, first=first, order=options.sort).run()
    return 0


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not (host and port.isdecimal() and 0 < int(port) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r} is no HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not LEAST_INTERVAL_SECONDS <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r}: between {LEAST_INTERVAL_SECONDS} and 3600 seconds")
    return seconds
