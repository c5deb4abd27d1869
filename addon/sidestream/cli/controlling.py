"""`sidestream controller`: the control plane of a cluster."""

import argparse
import asyncio
import importlib.util
import os
import socket
import sys

from sidestream.cli.injecting import add_options, options_of
from sidestream.cli.running import log_to_stderr
from sidestream.inject.problems import Refused

_HOME = "sidestream-system"
_PORT = 8443
_DRAIN_SECONDS = 5.0


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `controller` to the command."""
    parser = commands.add_parser(
        "controller",
        help="run the control plane of a Kubernetes cluster",
        description="Watch LLMProviders, LLMRoutes and the Secrets they name; write their status, and the bundles that "
        "sidecars mount; serve the webhooks that check policies and inject pods. Of several replicas one writes, all "
        "serve. Runs until SIGTERM or SIGINT; logs go to standard error.",
    )
    parser.add_argument("--namespace", default="", metavar="NS", help="look at this namespace only; default: all")
    parser.add_argument("--kubeconfig", metavar="FILE", help="default: the pod's own account, then ~/.kube/config")
    parser.add_argument("--port", type=int, default=_PORT, help="of the webhooks, over HTTPS; default: %(default)s")
    parser.add_argument("--host", metavar="HOST", help="where they listen; default: everywhere")
    parser.add_argument(
        "--drain",
        type=float,
        default=_DRAIN_SECONDS,
        metavar="SECONDS",
        help="how long webhooks are still served after SIGTERM, until nobody asks here; default: %(default)s",
    )
    add_options(parser.add_argument_group("how pods are injected"))
    parser.set_defaults(run=_run, parser=parser)


def _run(arguments: argparse.Namespace) -> int:
    if importlib.util.find_spec("kubernetes") is None:
        arguments.parser.error("it needs the Kubernetes client: pip install 'sidestream[kubernetes]'")
    try:
        injection = options_of(arguments)
    except Refused as e:
        arguments.parser.error(str(e))
    # Here, because the client takes a second to import, and is an extra.
    from sidestream.control.replica import Replica, Settings, run  # noqa: PLC0415
    from sidestream.sources.kubernetes.api import ApiError, connected, own_namespace  # noqa: PLC0415

    log_to_stderr()
    try:
        api = connected(arguments.kubeconfig)
    except ApiError as e:
        print(e, file=sys.stderr)
        return 1
    name = os.environ.get("POD_NAME") or socket.gethostname()
    settings = Settings(
        home=os.environ.get("POD_NAMESPACE") or own_namespace(_HOME),
        identity=f"{name}_{os.getpid()}",
        namespace=arguments.namespace,
        injection=injection,
        drain_seconds=arguments.drain,
    )
    try:
        return 0 if asyncio.run(run(Replica(api, settings), arguments.port, arguments.host)) else 1
    except OSError as e:
        print(f"the webhooks can't listen at port {arguments.port}: {e.strerror}", file=sys.stderr)
        return 1
