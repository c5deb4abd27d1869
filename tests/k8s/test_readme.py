"""The steps of k8s/README.md do what it says: kubectl's part without a cluster, the calls with stand-in providers."""

import re
import shlex
import shutil

import pytest

from sidestream.demo.stage import loopback
from tests.k8s.rendering import K8S, REPOSITORY, would_apply

README = (K8S / "README.md").read_text()
CONSOLES = re.findall(r"^```console\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
STEPS = [
    (command, output.splitlines())
    for console in CONSOLES
    for command, output in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", console, re.MULTILINE)
]
APPLIED = [(command.split()[-1], output) for command, output in STEPS if command.startswith("kubectl apply -k ")]


@pytest.mark.parametrize(("folder", "output"), APPLIED, ids=[folder for folder, _ in APPLIED])
def test_apply_says_what_the_page_says(folder, output):
    said = [line.rpartition(" ")[0] for line in would_apply(folder.removeprefix("k8s/"))]

    assert [line.rpartition(" ")[0] for line in output] == said
    assert {line.rpartition(" ")[2] for line in output} <= {"created", "configured", "unchanged"}


def test_every_folder_that_a_command_names_is_there():
    named = {word for command, _ in STEPS for word in command.split() if word.startswith("k8s/")}

    assert named >= {"k8s/overlays/local", "k8s/examples/sleep"}
    assert [folder for folder in named if not (REPOSITORY / folder / "kustomization.yaml").exists()] == []


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """What the page's calls get, in its order, each under the policies applied so far."""
    folder = tmp_path_factory.mktemp("played")
    policies, calls, played = folder / "policies", [], []
    policies.mkdir()
    for command, output in [*STEPS, ("kubectl apply -k k8s/examples/", [])]:
        if command.startswith("kubectl apply -k k8s/examples/"):
            played += _play(calls, policies, folder)
            calls = []
            _apply(REPOSITORY / command.split()[-1], policies)
        elif "curl -s" in command:
            calls.append((command, output))
    return played


def _apply(example, policies):
    for path in example.glob("0*.yaml"):
        name = re.search(r"kind: (\w+)\nmetadata:\n  name: (\S+)", path.read_text())
        shutil.copy(path, policies / f"{'-'.join(name.groups())}.yaml")


def _play(calls, policies, folder):
    if not calls:
        return []
    stage_folder = folder / f"stage-{len(list(folder.iterdir()))}"
    stage_folder.mkdir()
    with loopback(policies, stage_folder) as stage:
        return [(_call(command, stage), output) for command, output in calls]


def _call(command, stage):
    words = shlex.split(command)
    inner = words[words.index("--") + 1 :]
    times = 1
    if inner[0] == "sh":
        times = int(re.search(r"seq (\d+)", inner[2])[1])
        inner = shlex.split(inner[2].split("do ", 1)[1].split(";")[0])
    headers = dict(inner[at + 1].split(": ", 1) for at, word in enumerate(inner) if word == "-H")
    body = inner[inner.index("-d") + 1].encode()
    (url,) = (word for word in inner if word.startswith("http://"))
    answers = [stage.call(url.removeprefix("http://"), headers, body).decode() for _ in range(times)]
    return [re.search(r'"model": ?"([^"]*)"', answer)[1] for answer in answers]


def test_each_call_gets_the_model_that_the_page_shows(played):
    single = [(models, output) for models, output in played if len(models) == 1]

    assert len(single) == 3
    for models, output in single:
        assert output == [f'"model":"{models[0]}"']


def test_calls_to_one_name_are_shared_by_the_models_that_the_page_shows(played):
    ((models, output),) = ((models, output) for models, output in played if len(models) > 1)

    shown = {re.search(r'"model":"([^"]*)"', line)[1]: int(line.split()[0]) for line in output}
    assert set(models) == set(shown)
    assert len(models) == sum(shown.values())
