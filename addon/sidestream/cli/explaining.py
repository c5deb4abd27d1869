"""`sidestream explain`: what would happen to a request, and why."""

import argparse
import json
import os
import sys
from pathlib import Path

from sidestream.core.body import read_object
from sidestream.core.explain import explain
from sidestream.core.explained import lines_of
from sidestream.core.hosts import normalise_host
from sidestream.core.routing import RequestView
from sidestream.policy.problems import Severity, errors_in
from sidestream.sources.folder import Folder


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `explain` to the command."""
    parser = commands.add_parser(
        "explain",
        help="show what would happen to a request, and why",
        description="Show the decision, each rule's verdict, and the request as it would be sent, key redacted.",
    )
    parser.add_argument("--policies", required=True, metavar="DIR", help="folder (or file) of policies")
    parser.add_argument("--host", required=True, help="the host that the app calls")
    parser.add_argument("--header", action="append", default=[], type=_header, metavar="K:V", help="may be repeated")
    parser.add_argument("--body", default='{"messages": []}', metavar="JSON|@FILE", help="default: an empty chat call")
    parser.add_argument("--method", default="POST")
    parser.add_argument("--path", default="/", help="path and query that the app calls; default: /")
    parser.add_argument("--label", action="append", default=[], type=_label, metavar="K=V", help="of the workload")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    parser.set_defaults(run=_explain, parser=parser)


def _explain(options: argparse.Namespace) -> int:
    compilation = Folder(Path(options.policies), os.environ).read(missing_key=Severity.WARNING).compilation
    if compilation.snapshot is None:
        for problem in errors_in(compilation.problems):
            print(problem, file=sys.stderr)
        return 1
    labels = dict(options.label)
    request = RequestView(
        method=options.method.upper(),
        host=normalise_host(options.host),
        target=options.path,
        headers=_headers(options.header),
        body=read_object(_body(options)),
        labels=labels,
    )
    explanation = explain(request, compilation.snapshot.for_workload(labels))
    if options.json:
        print(json.dumps(explanation.as_dict(), indent=2))
    else:
        print("\n".join(lines_of(explanation)))
    return 0


def _headers(written: list[tuple[str, str]]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in written:
        headers[name] = f"{headers[name]}, {value}" if name in headers else value  # as several of one name count
    return {"content-type": "application/json", **headers}


def _body(options: argparse.Namespace) -> bytes:
    text: str = options.body
    if not text.startswith("@"):
        return text.encode("utf-8", "surrogateescape")
    path = Path(text[1:])
    if not path.is_file():
        options.parser.error(f"--body: there is no file {path}")
    return path.read_bytes()


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not (colon and name.strip()):
        raise argparse.ArgumentTypeError(f"{text!r} is no header: write NAME: VALUE")
    return name.strip().lower(), value.strip()


def _label(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (equals and name):
        raise argparse.ArgumentTypeError(f"{text!r} is no label: write NAME=VALUE")
    return name, value
