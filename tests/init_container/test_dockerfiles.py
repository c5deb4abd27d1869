"""What the images promise, read off the Dockerfiles; they are built only where there is a container engine."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.init_container.network import SCRIPT

FOLDER = SCRIPT.parent
REPOSITORY = FOLDER.parent
INIT = FOLDER / "Dockerfile"
SIDECAR = FOLDER / "sidecar.Dockerfile"


def instructions(dockerfile):
    """Return (instruction, arguments) pairs, comments dropped and continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", dockerfile.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def arguments_of(dockerfile, instruction):
    return [arguments for name, arguments in instructions(dockerfile) if name == instruction]


def default_of(variable):
    """Return an option's default in redirect.sh."""
    return re.search(rf"\$\{{{variable}-([^}}]+)\}}", SCRIPT.read_text())[1]


@pytest.mark.parametrize("dockerfile", [INIT, SIDECAR], ids=lambda path: path.name)
def test_every_base_image_has_a_tag_and_none_is_latest(dockerfile):
    images = [arguments.split()[0] for arguments in arguments_of(dockerfile, "FROM")]

    assert images
    assert [image for image in images if not re.fullmatch(r"[a-z/]+:(?!latest)[a-z0-9.-]+", image)] == []


@pytest.mark.parametrize("dockerfile", [INIT, SIDECAR], ids=lambda path: path.name)
def test_everything_that_is_copied_is_in_the_repository_and_let_into_the_context(dockerfile):
    copies = [arguments.split()[:-1] for arguments in arguments_of(dockerfile, "COPY") if "--from=" not in arguments]
    sources = [source for copy in copies for source in copy]
    let_in = dockerfile.with_name(f"{dockerfile.name}.dockerignore").read_text().splitlines()

    assert sources
    assert [source for source in sources if not (REPOSITORY / source).exists()] == []
    assert let_in[0] == "*"
    assert sorted(line.removeprefix("!") for line in let_in if line.startswith("!")) == sorted(sources)


@pytest.mark.parametrize(("dockerfile", "user"), [(INIT, "65534:65534"), (SIDECAR, "1337:1337")])
def test_the_last_user_is_a_number_and_not_root(dockerfile, user):
    users = arguments_of(dockerfile, "USER")

    assert users == [user]


def test_the_sidecar_runs_as_the_uid_that_the_redirection_lets_through():
    [user] = arguments_of(SIDECAR, "USER")

    assert user.split(":")[0] == default_of("SIDESTREAM_PROXY_UID")


def test_the_init_container_starts_the_script_in_the_shell_that_has_capabilities():
    [entrypoint] = arguments_of(INIT, "ENTRYPOINT")
    shell, script = json.loads(entrypoint)

    assert f"setcap cap_net_admin,cap_net_raw+p {shell} " in INIT.read_text()
    assert f"COPY init-container/redirect.sh {script}\n" in INIT.read_text()


def test_the_sidecar_installs_only_what_is_locked():
    commands = [part for run in arguments_of(SIDECAR, "RUN") for part in run.split("&&") if "/bin/pip " in part]
    from_index = [command for command in commands if "install" in command and "--no-index" not in command]
    rest = [command for command in commands if command not in from_index]

    assert [command.split()[1:] for command in from_index] == [
        f"install --require-hashes --no-deps --only-binary :all: --requirement .locks/{lock}.txt".split()
        for lock in ("image", "test")
    ]
    assert [command.split()[1] for command in rest] == ["wheel", "install", "check"]


def test_the_sidecar_runs_the_python_that_the_project_is_developed_on():
    [preferred, *_] = (REPOSITORY / ".python-version").read_text().split()

    assert {arguments.split()[0] for arguments in arguments_of(SIDECAR, "FROM")} == {
        f"python:{preferred}-slim-bookworm"
    }


def test_the_sidecar_writes_below_its_home_only():
    [environment] = [arguments for arguments in arguments_of(SIDECAR, "ENV") if "HOME=" in arguments]

    assert environment.split() == [
        "HOME=/var/lib/sidestream",
        "TMPDIR=/var/lib/sidestream",
        "PATH=/opt/sidestream/bin:$PATH",
        "PYTHONDONTWRITEBYTECODE=1",
        "PYTHONUNBUFFERED=1",
    ]


def test_the_command_of_the_sidecar_is_one_that_sidestream_understands():
    from sidestream.cli.main import make_parser

    [entrypoint] = arguments_of(SIDECAR, "ENTRYPOINT")
    [command] = arguments_of(SIDECAR, "CMD")

    options = make_parser().parse_args(json.loads(command))

    assert json.loads(entrypoint) == ["sidestream"]
    assert options.mode == ["transparent"]
    assert options.policies == "/etc/sidestream/policies"


@pytest.mark.parametrize("dockerfile", [INIT, SIDECAR], ids=lambda path: path.name)
def test_hadolint_has_no_complaint(dockerfile):
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if not hadolint:
        pytest.skip("no hadolint here: its package has none for this system")

    linted = subprocess.run([hadolint, dockerfile], capture_output=True, text=True, check=False)

    assert linted.stdout == ""
    assert linted.returncode == 0


@pytest.mark.timeout(900)
@pytest.mark.parametrize("dockerfile", [INIT, SIDECAR], ids=lambda path: path.name)
def test_the_image_is_built_where_there_is_an_engine(dockerfile):
    engines = [engine for engine in ("docker", "podman") if shutil.which(engine)]
    working = [
        engine
        for engine in engines
        if subprocess.run([engine, "info"], capture_output=True, check=False).returncode == 0
    ]
    if not working:
        pytest.skip("no container engine works here: neither docker nor podman")

    built = subprocess.run(
        [working[0], "build", "--quiet", "--file", dockerfile, FOLDER.parent],
        capture_output=True,
        text=True,
        check=False,
    )

    assert built.returncode == 0, built.stderr
