"""`sidestream run`: the proxy."""

import argparse
import importlib.util
import logging
import os
import socket
import sys

from sidestream.cli import workers
from sidestream.mitm.runtime import GRACE_SECONDS

TRANSPARENT_PORT = 15001
"""Where redirected connections arrive: the default of init-container/redirect.sh."""
PROXY_PORT = 8080
LOG_LEVELS = ("debug", "info", "warning", "error")

_EPILOG = """\
modes:
  regular            an HTTP proxy that apps are told of (HTTP_PROXY); the default
  transparent        connections that init-container/redirect.sh redirects here
  reverse:URL        a server that stands for URL; its host is the policy's
  local:NAME         the connections of the local program NAME (Linux 6.8+, macOS)

examples:
  sidestream run --policies policies
  sidestream run --policies policies --mode transparent --log /var/log/sidestream.jsonl
  sidestream run --policies policies --mode reverse:http://demo-llm-server@127.0.0.1:9000 --web
  sidestream run --policies policies --mode transparent --workers 2     # at ports 15001 and 15002
"""


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `run` to the command."""
    parser = commands.add_parser(
        "run",
        help="run the proxy",
        description="Run the proxy until SIGTERM or SIGINT. Records go to standard output, logs to standard error.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    policies = parser.add_mutually_exclusive_group(required=True)
    policies.add_argument("--policies", metavar="DIR", help="folder (or file) of policies, watched")
    policies.add_argument(
        "--kubernetes", action="store_true", help="watch a namespace of the cluster instead (not with a control plane)"
    )
    parser.add_argument("--namespace", metavar="NS", help="which; default: that of the pod this runs in")
    parser.add_argument("--mode", action="append", metavar="MODE", help="how connections arrive; may be repeated")
    parser.add_argument(
        "--listen",
        type=_address,
        metavar="HOST:PORT",
        help=f"where to listen; default: port {PROXY_PORT} on loopback, or {TRANSPARENT_PORT} when transparent",
    )
    parser.add_argument(
        "--intercept-tls", action="store_true", help="govern HTTPS clients too (they must trust the CA in confdir)"
    )
    parser.add_argument("--upstream-ca", metavar="FILE", help="PEM file of CAs to trust besides the system's")
    parser.add_argument(
        "--trust-dir",
        metavar="DIR",
        help="where to write the CA for apps: ca.crt; ca-bundle.crt and .p12, with the system's",
    )
    parser.add_argument("--confdir", metavar="DIR", help="where the CA is kept; default: ~/.mitmproxy")
    parser.add_argument("--log", metavar="FILE", help="where records go; default: -, standard output; FILE,- for both")
    parser.add_argument(
        "--labels",
        metavar="NAME=VALUE,…",
        help="labels of the workload, for sourceLabels and selectors; or a file of Kubernetes' downward API",
    )
    parser.add_argument(
        "--admin",
        metavar="HOST:PORT",
        help="where metrics and health are to be read, or off; default: 127.0.0.1:15020, unless that is taken",
    )
    parser.add_argument(
        "--log-level", choices=LOG_LEVELS, help="which logs are told; default: $SIDESTREAM_LOG_LEVEL, or info"
    )
    parser.add_argument("--otel", action="store_true", help="send spans and metrics over OTLP, as OTEL_* variables say")
    parser.add_argument(
        "--grace",
        type=_seconds,
        metavar="SECONDS",
        help=f"how long what is under way may take after SIGTERM or SIGINT; default: {GRACE_SECONDS}",
    )
    parser.add_argument("--web", action="store_true", help="show the traffic on mitmweb's pages, on loopback")
    parser.add_argument(
        "--only-policy-hosts",
        action="store_true",
        help="refuse requests for other hosts (with modes regular and reverse, where others can reach the proxy)",
    )
    parser.add_argument(
        "--fail-open", action="store_true", help="on a bug of ours, send the request where it was going (not: 500)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="an option of mitmproxy; may be repeated"
    )
    parser.add_argument(
        "--workers",
        type=_at_least_one,
        default=1,
        metavar="N",
        help="run N processes, at the N ports from each mode's on",
    )
    parser.add_argument("--report-to", type=int, metavar="FD", help=argparse.SUPPRESS)  # given to workers
    parser.set_defaults(run=_run, parser=parser)


def _run(options: argparse.Namespace) -> int:
    _take_cluster(options)
    try:
        modes = listening_modes(options.mode or ["regular"], options.listen)
        if options.workers > 1:
            workers.check(modes, options.workers)
    except ValueError as e:
        options.parser.error(str(e))
    if options.workers > 1 and options.web:
        options.parser.error("--web shows the traffic of one process: it can't be had with --workers")
    sizes = [given for given in options.set if given.startswith("sidestream_log_max_size=")]
    if options.workers > 1 and (sizes or "SIDESTREAM_LOG_MAX_SIZE" in os.environ):
        options.parser.error("a file of records that several workers share can't be rotated by them: use logrotate")
    log_to_stderr(_log_level(options))
    if options.workers == 1:
        return _run_here(options, modes)

    def command(index: int, report_to: int, admin: str | None) -> list[str]:
        return workers.own_command(worker_arguments(options, workers.shifted(modes, index), report_to, admin))

    from sidestream.cli.admin import workers_admin  # noqa: PLC0415 as below

    with workers_admin(options.admin or os.environ.get("SIDESTREAM_ADMIN") or "auto", options.workers) as admin:
        try:
            return workers.run(command, options.workers, admin, grace_seconds=_grace_seconds(options))
        except ValueError as e:
            print(e, file=sys.stderr)
            return 1


def _take_cluster(options: argparse.Namespace) -> None:
    """Take the policies from the cluster, if that is asked for."""
    if options.namespace and not options.kubernetes:
        options.parser.error("--namespace is one of a cluster: it goes with --kubernetes")
    if options.kubernetes:
        if importlib.util.find_spec("kubernetes") is None:
            options.parser.error("--kubernetes needs the Kubernetes client: pip install 'sidestream[kubernetes]'")
        options.policies = f"kubernetes:{options.namespace or ''}"


def _grace_seconds(options: argparse.Namespace) -> int:
    """Return how long workers may take to end, as they understand it. What they refuse is theirs to say."""
    set_ones = [given.partition("=")[2] for given in options.set if given.startswith("sidestream_grace=")]
    given = [options.grace, *set_ones, os.environ.get("SIDESTREAM_GRACE")]
    return next((int(text) for text in given if text and text.isdecimal()), GRACE_SECONDS)


def worker_arguments(options: argparse.Namespace, modes: list[str], report_to: int, admin: str | None) -> list[str]:
    """Return the arguments of the command for a worker with `modes`: those that were given, one by one."""
    valued = {
        "--policies": [options.policies],
        "--mode": modes,
        "--upstream-ca": [options.upstream_ca],
        "--trust-dir": [options.trust_dir],
        "--log-level": [options.log_level],
        "--confdir": [options.confdir],
        "--log": [options.log],
        "--labels": [options.labels],
        "--admin": [admin or "off"],
        "--grace": [options.grace],
        "--set": options.set,
        "--report-to": [str(report_to)],
    }
    switches = {
        "--intercept-tls": options.intercept_tls,
        "--otel": options.otel,
        "--fail-open": options.fail_open,
        "--only-policy-hosts": options.only_policy_hosts,
    }
    given = [f"{flag}={value}" for flag, values in valued.items() for value in values if value]
    return ["run", *given, *(flag for flag, is_on in switches.items() if is_on)]


def _run_here(options: argparse.Namespace, modes: list[str]) -> int:
    # Here, because mitmproxy takes a second to import, which the other commands need not wait for.
    from sidestream.cli.wiring import make_addon  # noqa: PLC0415
    from sidestream.mitm.process import Process, ProcessError, UsageError, run  # noqa: PLC0415

    flags = {
        "sidestream_policies": options.policies,
        "sidestream_log": options.log,
        "sidestream_labels": options.labels,
        "sidestream_intercept_tls": options.intercept_tls,
        "sidestream_otel": options.otel,
        "sidestream_fail_open": options.fail_open,
        "sidestream_only_policy_hosts": options.only_policy_hosts,
        "sidestream_upstream_ca": options.upstream_ca,
        "sidestream_trust_dir": options.trust_dir,
        "sidestream_admin": options.admin or ("" if "SIDESTREAM_ADMIN" in os.environ else "auto"),
        "confdir": options.confdir,
    }
    # Without a flag, --set or the environment decides. A mode that names a port only would listen at all addresses.
    settings: dict[str, object] = {"listen_host": "127.0.0.1"} | {name: value for name, value in flags.items() if value}
    if options.grace is not None:
        settings["sidestream_grace"] = int(options.grace)
    if options.web:
        settings["web_open_browser"] = False
    parent = socket.socket(fileno=options.report_to) if options.report_to is not None else None
    try:
        run(Process(modes, settings, options.set, web=options.web, parent=parent), make_addon())
    except UsageError as e:
        options.parser.error(str(e))
    except ProcessError as e:
        print(e, file=sys.stderr)
        return 1
    return 0


def listening_modes(modes: list[str], listen: tuple[str, int] | None) -> list[str]:
    """
    Return `modes` as mitmproxy's mode specs, each with its address.

    Raises:
        ValueError: two modes would listen at the same address.
    """
    placed = []
    for mode in modes:
        if "@" in mode or mode.partition(":")[0] == "local":  # which listens nowhere
            placed.append(mode)
        elif listen is not None:
            host, port = listen
            placed.append(f"{mode}@{host}:{port}")
        elif mode == "transparent":
            # Redirected IPv6 connections arrive at ::1.
            placed += [f"{mode}@{host}:{TRANSPARENT_PORT}" for host in ("127.0.0.1", "::1") if _has_address(host)]
        else:
            placed.append(f"{mode}@127.0.0.1:{PROXY_PORT}")
    addresses = [mode.rpartition("@")[2] for mode in placed]
    twice = {address for address in addresses if addresses.count(address) > 1}
    if twice:
        raise ValueError(f"several modes would listen at {', '.join(twice)}: give each its own, like MODE@HOST:PORT")
    return placed


def log_to_stderr(level: str = "info") -> None:
    """Send logs from `level` on to standard error, one line each, with their fields."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    handler.setLevel(level.upper())  # some loggers have a level of their own
    logging.basicConfig(level=level.upper(), handlers=[handler])


class _Lines(logging.Formatter):
    """A readable line: time, level, event, then the fields that came as `extra`."""

    _own = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "client"}

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={value}" for name, value in vars(record).items() if name not in self._own)
        first, newline, rest = super().format(record).partition("\n")
        return first + fields + newline + rest


def _log_level(options: argparse.Namespace) -> str:
    level: str = options.log_level or os.environ.get("SIDESTREAM_LOG_LEVEL") or "info"
    if level not in LOG_LEVELS:
        options.parser.error(f"SIDESTREAM_LOG_LEVEL: {level!r} is no level: write one of {', '.join(LOG_LEVELS)}")
    return level


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isdecimal() and 0 < int(port) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r} is no HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _seconds(text: str) -> str:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return text


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of processes")
    return int(text)


def _has_address(host: str) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True
