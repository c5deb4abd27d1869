"""`sidestream demo`: the main job, with stand-in providers."""

import argparse
import sys
import tempfile
from pathlib import Path

from sidestream.demo.play import play
from sidestream.demo.stage import StageError, loopback, transparent

REDIRECT = Path(__file__).parents[3] / "init-container" / "redirect.sh"


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `demo` to the command."""
    parser = commands.add_parser(
        "demo",
        help="see it work: a real proxy, real TLS, stand-in providers",
        description="Play the published scenarios with the real proxy and real TLS. The providers are stand-ins "
        "on this machine: no key, no cluster and no network are needed.",
    )
    parser.add_argument("--policies", required=True, metavar="DIR", help="the folder of the published policies")
    parser.add_argument(
        "--transparent",
        action="store_true",
        help="in network namespaces, redirected by the real iptables (Linux, root, a checkout)",
    )
    parser.set_defaults(run=_demo)


def _demo(options: argparse.Namespace) -> int:
    policies = Path(options.policies)
    with tempfile.TemporaryDirectory(prefix="sidestream-demo-") as temporary:
        folder = Path(temporary)
        try:
            stage = transparent(policies, folder, REDIRECT) if options.transparent else loopback(policies, folder)
            with stage as played:
                where = "redirected by iptables to" if options.transparent else "through"
                print(f"Plain HTTP calls, {where} a real proxy; real TLS to stand-in providers; policies: {policies}/")
                went_well = play(played)
        except StageError as e:
            print(e, file=sys.stderr)
            return 1
    print("\nAll as published." if went_well else "\nNot as published: see above.")
    return 0 if went_well else 1
