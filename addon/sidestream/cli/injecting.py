"""`sidestream inject`: manifests with the sidecar in their pods."""

import argparse
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from sidestream.inject.annotations import overlaid
from sidestream.inject.component import component
from sidestream.inject.manifests import injected
from sidestream.inject.options import PREFIX, Options
from sidestream.inject.problems import Refused
from sidestream.inject.workloads import KINDS
from sidestream.policy.syntax import NotYaml

_EPILOG = """\
examples:
  sidestream inject -f deployment.yaml | kubectl apply -f -
  sidestream inject --component k8s/sidecar --default include-outbound-ports=80,8080
  kubectl get deployment sleep -o yaml | sidestream inject -f - | kubectl apply -f -
"""


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `inject` to the command."""
    parser = commands.add_parser(
        "inject",
        help="put the sidecar into Kubernetes manifests",
        description=f"Read manifests, put the sidecar into their pods ({', '.join(KINDS)}, List), and write them to "
        "standard output. What was injected before is replaced; other documents stay as they are. Pods with the label "
        "sidestream.dev/inject=false, on the host's network or in a namespace of the system are left alone. "
        "If a pod can't be injected, nothing is written.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = Options()
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("-f", "--filename", metavar="FILE", help="manifests; - for standard input")
    what.add_argument("--component", metavar="DIR", help="write a kustomize component that injects, instead")
    parser.add_argument("-n", "--namespace", default="default", metavar="NAME", help="of manifests that name none")
    parser.add_argument(
        "--policy-secret",
        default=default.policy_secret,
        metavar="NAME",
        help="Secret with the policies; default: %(default)s",
    )
    add_options(parser)
    parser.set_defaults(run=_run, parser=parser)


def add_options(parser: "argparse._ActionsContainer") -> None:
    """Add what `options_of` reads, all but the name of the Secret, which not everybody chooses."""
    default = Options()
    parser.add_argument("--image", default=default.image, help="of the sidecar; default: %(default)s")
    parser.add_argument("--init-image", default=default.init_image, metavar="IMAGE", help="default: %(default)s")
    parser.add_argument("--image-pull-policy", choices=("Always", "IfNotPresent", "Never"))
    parser.add_argument("--intercept-tls", action="store_true", help="govern HTTPS clients too")
    parser.add_argument(
        "--default",
        action="append",
        default=[],
        type=_default,
        metavar="NAME=VALUE",
        help="what is so where a pod has no annotation sidestream.dev/NAME, like log-level=debug; may be repeated",
    )
    parser.add_argument(
        "--no-native-sidecar",
        dest="native_sidecar",
        action="store_false",
        help="for clusters before Kubernetes 1.29: init containers are not governed, and Jobs can't be injected",
    )
    parser.add_argument(
        "--env",
        action="append",
        default=[],
        type=_variable,
        metavar="NAME=VALUE",
        help="a variable of the sidecar; may be repeated",
    )


def options_of(arguments: argparse.Namespace) -> Options:
    """
    Return how to inject, as the command was asked to.

    Raises:
        Refused: a default makes no sense.
    """
    asked = replace(
        Options(),
        image=arguments.image,
        init_image=arguments.init_image,
        image_pull_policy=arguments.image_pull_policy,
        policy_secret=getattr(arguments, "policy_secret", Options().policy_secret),
        native_sidecar=arguments.native_sidecar,
        intercept_tls=arguments.intercept_tls,
        environment=dict(arguments.env),
    )
    options, problems = overlaid(asked, dict(arguments.default))
    if problems:
        raise Refused(problems)
    return options


def _run(arguments: argparse.Namespace) -> int:
    try:
        options = options_of(arguments)
        if arguments.component is not None:
            return _write(Path(arguments.component), component(options))
    except Refused as e:
        arguments.parser.error(str(e))
    return _inject(arguments, options)


def _write(folder: Path, files: Mapping[str, str]) -> int:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as e:
        return _failed(str(folder), e.strerror or str(e))
    return 0


def _inject(arguments: argparse.Namespace, options: Options) -> int:
    name = "standard input" if arguments.filename == "-" else arguments.filename
    try:
        content = sys.stdin.buffer.read() if arguments.filename == "-" else Path(arguments.filename).read_bytes()
        done = injected(content.decode("utf-8-sig"), options, arguments.namespace)
    except OSError as e:
        return _failed(name, e.strerror or str(e))
    except UnicodeDecodeError as e:
        return _failed(name, f"not UTF-8 (byte {e.start}): save it as UTF-8")
    except NotYaml as e:
        return _failed(f"{name}:{e.line}", f"not YAML: {e.reason}")
    for line in (*done.skipped, *done.problems):
        print(f"{name}: {line}", file=sys.stderr)
    if done.problems:
        return 1
    sys.stdout.write(done.text)
    return 0


def _failed(place: str, reason: str) -> int:
    print(f"{place}: {reason}", file=sys.stderr)
    return 1


def _default(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is no NAME=VALUE")
    return PREFIX + name, value


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (equals and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name)):
        raise argparse.ArgumentTypeError(f"{text!r} is no NAME=VALUE")
    return name, value
