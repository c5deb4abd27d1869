"""
`sidestream inject`, scenario by scenario, against `goldens/`.

`SCENARIO.in.yaml` is what goes in; flags are on its first line. `SCENARIO.out.yaml` is what comes out, below what was
said besides. After an intended change, write the goldens again and read the difference:

    SIDESTREAM_TEST_UPDATE_GOLDENS=1 python -m pytest tests/inject/test_goldens.py
    git diff tests/inject/goldens
"""

import functools
import io
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from sidestream.cli import probing
from sidestream.cli.main import main, make_parser
from sidestream.inject.options import INIT_CONTAINER, SIDECAR, Options
from sidestream.inject.shape import each_container
from sidestream.inject.workloads import pods_in
from sidestream.policy.syntax import parse
from tests.init_container.network import SCRIPT

GOLDENS = Path(__file__).parent / "goldens"
SCENARIOS = sorted(path.name.removesuffix(".in.yaml") for path in GOLDENS.glob("*.in.yaml"))
IMAGES = ("--image=registry.example/sidestream:1.2.3", "--init-image=registry.example/sidestream-init:1.2.3")


def flags_of(scenario):
    first = (GOLDENS / f"{scenario}.in.yaml").read_text().partition("\n")[0]
    return shlex.split(first.partition("# flags:")[2])


def golden(scenario):
    return (GOLDENS / f"{scenario}.out.yaml").read_text()


@pytest.fixture(scope="module")
def containers():
    """Return every container of every pod in a golden that has the sidecar."""
    documents = [document.content for scenario in SCENARIOS for document in parse(golden(scenario))]
    pods = [found.pod for document in documents for found in pods_in(document, "default")]
    injected = [pod for pod in pods if "sidestream.dev/status" in (pod.get("metadata", {}).get("annotations") or {})]
    return [container for pod in injected for _, container in each_container(pod)]


@pytest.fixture
def inject(monkeypatch, capsys):
    """Run the command on a text as a scenario has it; return its status, what it wrote, and what it said besides."""

    monkeypatch.setattr("sidestream.cli.injecting.Options", functools.partial(Options, version="1.2.3"))

    def run(text, scenario):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        status = main(["inject", "-f", "-", *IMAGES, *flags_of(scenario)])
        return (status, *capsys.readouterr())

    return run


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_what_comes_out_of_a_scenario_is_its_golden(inject, scenario):
    status, out, said = inject((GOLDENS / f"{scenario}.in.yaml").read_text(), scenario)
    shown = "".join(f"# {line}\n" for line in (f"exit status {status}", *said.splitlines())) + out
    if os.environ.get("SIDESTREAM_TEST_UPDATE_GOLDENS"):
        (GOLDENS / f"{scenario}.out.yaml").write_text(shown)

    assert shown == golden(scenario)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_what_came_out_goes_in_again_unchanged(inject, scenario):
    text = golden(scenario)

    status, out, _ = inject(text, scenario)

    assert (status, out) == (0, text)


def test_every_golden_belongs_to_a_scenario():
    names = {re.sub(r"\.(in|out)\.yaml$", "", path.name) for path in GOLDENS.iterdir()}

    assert names == set(SCENARIOS)
    assert len(SCENARIOS) >= 60


def test_the_redirection_takes_what_the_init_containers_are_given(containers):
    given = {
        tuple((variable["name"], variable["value"]) for variable in container["env"])
        for container in containers
        if container["name"] == INIT_CONTAINER
    }

    done = [
        subprocess.run(["sh", SCRIPT, "--dry-run"], env=dict(env) | {"PATH": os.environ["PATH"]}, capture_output=True)
        for env in sorted(given)
    ]

    assert len(given) > 5
    assert [process.stderr for process in done if process.returncode] == []


def test_the_command_takes_what_the_sidecars_are_given(containers):
    given = {tuple(container["args"]) for container in containers if container["name"] == SIDECAR}

    parsed = [make_parser().parse_args(args) for args in sorted(given)]

    assert len(given) > 2
    assert {tuple(options.mode) for options in parsed} == {("transparent",)}


def test_probes_and_hooks_ask_what_can_be_asked(containers, monkeypatch):
    sidecars = [container for container in containers if container["name"] == SIDECAR]
    asked = [part for one in sidecars for name, part in one.items() if name.endswith("Probe")]
    asked += [hook for one in sidecars for hook in one["lifecycle"].values()]
    commands = {tuple(question["exec"]["command"]) for question in asked}
    monkeypatch.setattr(probing, "wait", lambda *_: None)

    assert len(commands) > 5
    assert {command[:3] for command in commands} == {("python", "-m", "sidestream.cli.probing")}
    assert {probing.main(command[3:]) for command in commands} == {0}


def test_only_the_sidecar_sees_policies_and_the_private_key(containers):
    seen = {
        (mount["name"], container["name"]) for container in containers for mount in container.get("volumeMounts", [])
    }

    private = {"sidestream-policies", "sidestream-home"}
    assert {container for volume, container in seen if volume in private} == {SIDECAR}
