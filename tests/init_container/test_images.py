"""The images, built where there is an engine to build them."""

import shutil
import subprocess

import pytest

from tests.init_container.network import SCRIPT

FOLDER = SCRIPT.parent
ENGINES = ("docker", "podman", "buildah")


@pytest.fixture(scope="module")
def engine():
    """A container engine that answers."""
    found = [name for name in ENGINES if shutil.which(name)]
    for name in found:
        if subprocess.run([name, "info"], capture_output=True, timeout=30).returncode == 0:
            return name
    pytest.skip(f"no container engine answers here: {', '.join(found) or 'none'} of {', '.join(ENGINES)} found")


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("dockerfile", "name", "greeting"),
    [("Dockerfile", "sidestream-init", "redirect.sh"), ("sidecar.Dockerfile", "sidestream", "Govern the LLM traffic")],
)
def test_an_image_is_built_and_its_program_starts(engine, dockerfile, name, greeting):
    build = [engine, "build", "--file", FOLDER / dockerfile, "--tag", f"{name}:test", FOLDER.parent]
    subprocess.run(build, check=True, capture_output=True)

    if engine == "buildah":
        pytest.skip("built; buildah alone does not run images")
    said = subprocess.run([engine, "run", "--rm", f"{name}:test", "--help"], capture_output=True, text=True)

    assert said.returncode == 0, said.stderr
    assert greeting in said.stdout
