"""`sidestream validate` and `sidestream crds`, in this process."""

import json
import os
import subprocess
import sys

import pytest

from sidestream.cli.main import main
from sidestream.policy.resources import resource_definitions
from tests.policy.written import config, provider, together


@pytest.fixture
def validate(capsys):
    """Run `sidestream validate`; return its status, the lines of its output, and what it said besides."""

    def run(*arguments):
        status = main(["validate", *map(str, arguments)])
        out, err = capsys.readouterr()
        return status, out.splitlines(), err

    return run


def test_a_policy_that_only_has_warnings_is_good(tmp_path, validate):
    (tmp_path / "a.yaml").write_text(config("apiKey: sk-marker"))

    status, (line,), said = validate(tmp_path)

    assert status == 0
    assert line.startswith(f"{tmp_path}/a.yaml:9: warning: LLMProvider default/alpha spec.configs.defaultConfig.")
    assert said == f"{tmp_path}: good, governs 1 host\n"
    assert "sk-marker" not in line


def test_each_path_is_a_policy_of_its_own(tmp_path, validate):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "policy.yaml").write_text(provider())
    (tmp_path / "c.yaml").write_text("a: [")

    status, (line,), said = validate(tmp_path / "a", tmp_path / "b", tmp_path / "c.yaml")

    assert status == 1
    assert line.startswith(f"{tmp_path}/c.yaml:1: error: not YAML")
    assert said.splitlines() == [f"{tmp_path}/a: good, governs 1 host", f"{tmp_path}/b: good, governs 1 host"]


def test_a_folder_without_documents_is_good_with_a_warning(tmp_path, validate):
    status, (line,), said = validate(tmp_path)

    assert status == 0
    assert line == f"{tmp_path}: warning: holds no LLMProvider or LLMRoute: nothing is governed"
    assert said == f"{tmp_path}: good, governs 0 hosts\n"


def test_every_problem_is_one_line_whatever_documents_and_files_are_called(tmp_path, validate):
    (tmp_path / "line\nbreak.yaml").write_text(provider('host: a.example\n"x\\ny\\e[2J": 1'))
    (tmp_path / os.fsdecode(b"caf\xe9.yaml")).write_text("a: [")

    status, lines, _ = validate(tmp_path)

    assert status == 1
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)


def test_problems_as_json_have_all_their_parts(tmp_path, capsys):
    (tmp_path / "a.yaml").write_text(together(provider("host: 7"), config("apiKey: sk-marker", name="beta")))

    status = main(["validate", "--json", str(tmp_path)])

    error, warning = json.loads(capsys.readouterr().out)
    assert status == 1
    assert error == {
        "severity": "error",
        "file": str(tmp_path / "a.yaml"),
        "line": 5,
        "document": "LLMProvider default/alpha",
        "field": "spec.host",
        "message": "must be text; put it in quotes if it looks like a number or true/false",
    }
    assert (warning["severity"], warning["line"]) == ("warning", 15)


def test_no_problems_are_an_empty_list_of_json(tmp_path, capsys):
    (tmp_path / "a.yaml").write_text(provider())

    assert main(["validate", "--json", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_the_resource_definitions_are_printed_as_they_are(capsys):
    assert main(["crds"]) == 0
    assert capsys.readouterr().out == resource_definitions()


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_any_terminal_shows_any_name(tmp_path, encoding):
    path = tmp_path / os.fsdecode(b"caf\xe9-\xe6\xbc\xa2.yaml")
    path.write_text(provider("host: a.example\n漢: 1"), encoding="utf-8")
    flags = [[], ["--json"]]

    done = [
        subprocess.run(
            [sys.executable, "-m", "sidestream.cli.main", "validate", *flag, path],
            capture_output=True,
            env={**os.environ, "PYTHONIOENCODING": encoding},
        )
        for flag in flags
    ]

    assert [process.returncode for process in done] == [1, 1]
    assert [process.stderr for process in done] == [b"", b""]
    assert json.loads(done[1].stdout.decode(encoding))[0]["field"] == "spec.漢"


def test_a_reader_that_has_enough_is_no_error(tmp_path):
    (tmp_path / "a.yaml").write_text(together(*(provider("host: 7", name=f"n{number}") for number in range(2000))))
    command = f"{sys.executable} -m sidestream.cli.main validate {tmp_path} | head -n 1"

    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)

    assert done.stdout.startswith(f"{tmp_path}/a.yaml:5: error:")
    assert done.stderr == ""
