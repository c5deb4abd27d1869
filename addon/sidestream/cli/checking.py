"""`sidestream validate` and `sidestream crds`: policies without a proxy."""

import argparse
import json
import os
import sys
from pathlib import Path

from sidestream.policy.problems import Problem, Severity, errors_in
from sidestream.policy.resources import resource_definitions
from sidestream.sources.folder import Folder


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `validate` and `crds` to the command."""
    validate = commands.add_parser(
        "validate",
        help="check policies",
        description="Check policies and print every problem as file:line, document, field, what to do. "
        "Keys and CA files are looked for where they are named; that they are not there is a warning here, "
        "since documents may be checked elsewhere than they are used.",
    )
    validate.add_argument("paths", nargs="+", metavar="PATH", help="folder or file; each is a policy of its own")
    validate.add_argument("--json", action="store_true", help="print the problems as JSON")
    validate.set_defaults(run=_validate)

    crds = commands.add_parser(
        "crds",
        help="print the Kubernetes resource definitions",
        description="Print the CustomResourceDefinitions of LLMProvider and LLMRoute as YAML.",
    )
    crds.set_defaults(run=_crds)


def _validate(options: argparse.Namespace) -> int:
    problems: list[Problem] = []
    summaries = []
    for path in options.paths:
        compilation = Folder(Path(path), os.environ).read(missing_key=Severity.WARNING).compilation
        problems += compilation.problems
        if compilation.snapshot is not None:
            hosts = len(compilation.snapshot.hosts)
            summaries.append(f"{path}: good, governs {hosts} host{'s' * (hosts != 1)}")
    if options.json:
        print(json.dumps([problem.as_dict() for problem in problems], indent=2))
    else:
        for problem in problems:
            print(problem)
        for summary in summaries:
            print(summary, file=sys.stderr)
    return 1 if errors_in(problems) else 0


def _crds(_: argparse.Namespace) -> int:
    print(resource_definitions(), end="")
    return 0
