"""The script as a text: what a shell must make of it."""

import os
import shutil
import subprocess

import pytest

from tests.init_container.network import SCRIPT


def test_shellcheck_has_no_complaint():
    if not shutil.which("shellcheck"):
        pytest.skip("no shellcheck here")

    checked = subprocess.run(
        ["shellcheck", "--shell=sh", "--norc", SCRIPT], capture_output=True, text=True, check=False
    )

    assert checked.stdout == ""
    assert checked.returncode == 0


def test_every_shell_can_parse_it(shell):
    parsed = subprocess.run([*shell, "-n", SCRIPT], capture_output=True, text=True, check=False)

    assert parsed.stderr == ""


def test_it_is_executable():
    assert os.access(SCRIPT, os.X_OK)
