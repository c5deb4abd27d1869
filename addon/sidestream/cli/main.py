"""
The command `sidestream`.

Exit status: 0 good, 1 problems found, 2 wrong usage. Results go to standard output, what a
person is told besides to standard error.
"""

import argparse
import io
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from sidestream.cli import checking, controlling, demonstrating, explaining, injecting, running, watching

GOOD, PROBLEMS = 0, 1

FIRST_PROCESS = 1
"""The process of a container. A signal that nobody asked for does nothing to it: it would start when it is to end."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with `arguments` (default: the process's) and return its exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name of a file may be no text, a terminal no UTF-8
    if os.getpid() == FIRST_PROCESS:
        signal.signal(signal.SIGTERM, _end)
    parser = make_parser()
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has enough; Python would complain at exit
        return PROBLEMS


def _end(number: int, _: object) -> NoReturn:
    """End at once. The proxy and the controller end in order once they run."""
    sys.exit(128 + number)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command."""
    parser = argparse.ArgumentParser(
        prog="sidestream", description="Govern the LLM traffic of programs that do not know it is there."
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (running, demonstrating, checking, explaining, injecting, watching, controlling):
        module.add_commands(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
