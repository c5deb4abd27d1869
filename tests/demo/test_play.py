"""The demo, as a newcomer runs it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sidestream.demo.stage import StageError, check_transparent, made_up_keys, read_documents

COMMAND = [str(Path(sys.executable).parent / "sidestream"), "demo", "--policies"]
REDIRECT = Path("init-container/redirect.sh")


def missing_for_transparent() -> str:
    try:
        check_transparent(REDIRECT)
    except StageError as e:
        return str(e)
    return ""


def test_the_demo_plays_the_published_scenarios_on_one_screen():
    done = subprocess.run([*COMMAND, "policies"], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert "All as published." in done.stdout
    assert '"model":"qwen-turbo"' in done.stdout
    assert len(done.stdout.splitlines()) <= 40


@pytest.mark.skipif(bool(missing_for_transparent()), reason=missing_for_transparent() or "all is here")
def test_the_transparent_demo_plays_them_with_real_redirection():
    done = subprocess.run([*COMMAND, "policies", "--transparent"], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert "redirected by iptables" in done.stdout
    assert "All as published." in done.stdout


def test_the_demo_says_what_it_needs(tmp_path):
    done = subprocess.run([*COMMAND, str(tmp_path)], capture_output=True, text=True)

    assert done.returncode == 1
    assert "holds no LLMProvider or LLMRoute" in done.stderr


def test_real_keys_of_the_environment_are_not_used(monkeypatch):
    monkeypatch.setitem(os.environ, "DASHSCOPE_API_KEY", "sk-real")

    keys = made_up_keys(read_documents(Path("policies")))

    assert keys["DASHSCOPE_API_KEY"] != "sk-real"
