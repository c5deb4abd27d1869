"""The command, as a user runs it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sidestream.cli.main import main
from sidestream.cli.running import listening_modes

COMMAND = str(Path(sys.executable).parent / "sidestream")
KEYS = {"DASHSCOPE_API_KEY": "sk-marker-cli", "MOONSHOT_API_KEY": "sk-marker-cli"}
BROKEN = """\
apiVersion: istio.alibabacloud.com/v1beta1
kind: LLMRoute
metadata: {name: broken}
spec:
  host: demo
  rules:
  - backendRefs:
    - providerHost: nobody.example
    - {providerhost: typo.example, weight: many}
"""


def sidestream(*arguments, environment=KEYS):
    return subprocess.run(
        [COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
    )


def status_of(*arguments):
    """Run the command in this process, which takes a second less, and return its exit status."""
    try:
        return main(arguments)
    except SystemExit as e:
        return e.code


@pytest.fixture
def broken(tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text(BROKEN)
    return path


@pytest.mark.parametrize("command", [[], ["run"], ["demo"], ["validate"], ["explain"], ["crds"], ["top"], ["inject"]])
def test_every_command_tells_how_it_is_used(command, capsys):
    status = status_of(*command, "--help")

    assert status == 0
    assert capsys.readouterr().out.startswith("usage: sidestream")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["run"],
        ["validate"],
        ["explain", "--policies", "policies"],
        ["explain", "--policies", "policies", "--host", "a", "--header", "no-colon"],
        ["explain", "--policies", "policies", "--host", "a", "--label", "no-equals"],
        ["explain", "--policies", "policies", "--host", "a", "--body", "@no-such-file"],
        ["top", "--admin", "nowhere"],
        ["top", "--interval", "0"],
        ["top", "--sort", "luck"],
    ],
)
def test_wrong_usage_is_said_and_ends_with_2(arguments, capsys):
    status = status_of(*arguments)

    assert status == 2
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--listen", "nowhere"],
        ["--listen", ":8080"],
        ["--mode", "sideways"],
        ["--mode", "regular", "--mode", "reverse:http://demo"],
        ["--set", "no_such_option=1"],
        ["--set", "proxy_debug=true"],
    ],
)
def test_a_proxy_that_makes_no_sense_does_not_start(arguments):
    done = sidestream("run", "--policies", "policies", *arguments)

    assert done.returncode == 2
    assert "error:" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_good_policy_is_valid():
    done = sidestream("validate", "policies")

    assert (done.returncode, done.stdout) == (0, "")
    assert "policies: good, governs 6 hosts" in done.stderr


def test_every_problem_has_its_file_line_document_and_field(broken):
    done = sidestream("validate", broken)

    assert done.returncode == 1
    ref = f"{broken}:9: error: LLMRoute default/broken spec.rules[0].backendRefs[1]"
    assert done.stdout.splitlines() == [
        f"{ref}.providerhost: unknown field (did you mean 'providerHost'?)",
        f"{ref}.weight: must be a whole number, without quotes",
    ]


def test_problems_can_be_had_as_json(broken):
    done = sidestream("validate", "--json", broken)

    assert done.returncode == 1
    assert {problem["line"] for problem in json.loads(done.stdout)} == {9}


def test_a_key_that_is_not_there_is_a_warning_to_validate():
    done = sidestream("validate", "policies/04-llmprovider-moonshot.yaml", environment={"MOONSHOT_API_KEY": ""})

    assert done.returncode == 0
    assert "warning" in done.stdout


def test_a_folder_that_is_not_there_is_a_problem(tmp_path):
    done = sidestream("validate", tmp_path / "missing")

    assert done.returncode == 1
    assert "missing" in done.stdout


def test_run_refuses_a_policy_with_all_its_problems(broken):
    done = sidestream("run", "--policies", broken)

    assert done.returncode == 1
    assert done.stderr.count(f"{broken}:9: error:") == 2
    assert "Traceback" not in done.stderr


def test_run_refuses_a_ca_file_that_is_none(tmp_path):
    done = sidestream("run", "--policies", "policies", "--upstream-ca", tmp_path / "missing.pem")

    assert done.returncode == 1
    assert "missing.pem" in done.stderr


def explain(*arguments):
    done = sidestream("explain", "--policies", "policies", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_an_explanation_says_which_rule_was_taken_and_why():
    explanation = explain("--host", "dashscope.aliyuncs.com", "--header", "user-type: subscriber")

    assert [(rule["name"], rule["taken"]) for rule in explanation["rules"]] == [("vip-route", True), (None, False)]
    assert explanation["rules"][0]["matches"][0]["conditions"] == [
        {"subject": "header user-type", "wanted": "exact subscriber", "found": "subscriber", "holds": True}
    ]


def test_an_explanation_shows_the_request_as_sent_with_the_key_redacted():
    explanation = explain("--host", "dashscope.aliyuncs.com", "--body", '{"messages": [], "model": "mine"}')

    (request,) = explanation["requests"]
    assert request["target"] == "/compatible-mode/v1/chat/completions"
    assert request["headers"]["authorization"] == "Bearer [redacted]"
    assert request["body"] == {"messages": [], "model": "qwen1.5-72b-chat"}


def test_an_explanation_gives_each_backend_its_share():
    explanation = explain("--host", "DEMO-llm-server:80")

    assert [(request["provider_host"], request["share"]) for request in explanation["requests"]] == [
        ("dashscope.aliyuncs.com", 0.5),
        ("api.moonshot.cn", 0.5),
    ]


def test_a_body_can_come_from_a_file(tmp_path):
    path = tmp_path / "body.json"
    path.write_text('{"messages": [{"role": "user", "content": "from a file"}]}')

    explanation = explain("--host", "api.moonshot.cn", "--body", f"@{path}")

    assert explanation["requests"][0]["body"]["messages"][0]["content"] == "from a file"


def test_a_host_that_no_policy_names_passes_through():
    explanation = explain("--host", "other.example")

    assert (explanation["decision"], explanation["requests"]) == ("pass-through", [])


def test_a_refusal_is_explained_too():
    explanation = explain("--host", "api.moonshot.cn", "--body", "nonsense")

    assert explanation["requests"][0]["rejected"].startswith("400 invalid_chat_body")


def test_an_explanation_reads_well():
    done = sidestream("explain", "--policies", "policies", "--host", "dashscope.aliyuncs.com")

    assert "✗ header user-type exact subscriber: it is absent" in done.stdout
    assert "rule 2 (no name): taken" in done.stdout
    assert "connect to dashscope.aliyuncs.com:443 with verified TLS" in done.stdout
    assert "sk-marker-cli" not in done.stdout + done.stderr


def test_explain_refuses_a_policy_with_problems(broken):
    done = sidestream("explain", "--policies", broken, "--host", "demo")

    assert done.returncode == 1
    assert "error:" in done.stderr


def test_the_resource_definitions_are_yaml_documents():
    done = sidestream("crds")

    kinds = [document["spec"]["names"]["kind"] for document in yaml.safe_load_all(done.stdout)]
    assert (done.returncode, kinds) == (0, ["LLMProvider", "LLMRoute"])


def test_the_bench_measures_a_small_policy():
    arguments = ["--providers", "5", "--calls", "100", "--rounds", "1"]
    done = subprocess.run([sys.executable, "-m", "sidestream.cli.bench", *arguments], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert "5 providers, 5 routes, 50 rules" in done.stdout


@pytest.mark.parametrize(
    ("modes", "listen", "placed"),
    [
        (["regular"], None, ["regular@127.0.0.1:8080"]),
        (["regular"], ("0.0.0.0", 3128), ["regular@0.0.0.0:3128"]),
        (["regular"], ("::1", 3128), ["regular@::1:3128"]),
        (
            ["reverse:http://demo@127.0.0.1:9000", "regular"],
            None,
            ["reverse:http://demo@127.0.0.1:9000", "regular@127.0.0.1:8080"],
        ),
        (["local:curl", "regular"], None, ["local:curl", "regular@127.0.0.1:8080"]),
        (["transparent"], ("127.0.0.1", 15001), ["transparent@127.0.0.1:15001"]),
    ],
)
def test_every_mode_gets_an_address_on_loopback_unless_told_otherwise(modes, listen, placed):
    assert listening_modes(modes, listen) == placed


def test_a_transparent_proxy_listens_for_both_families():
    assert listening_modes(["transparent"], None)[0] == "transparent@127.0.0.1:15001"


def test_two_modes_at_one_address_are_refused():
    with pytest.raises(ValueError, match=r"127\.0\.0\.1:8080"):
        listening_modes(["regular", "reverse:http://demo"], None)


def test_the_first_process_of_a_container_can_be_ended_before_it_runs(monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(os, "getpid", lambda: 1)
    try:
        with pytest.raises(SystemExit):
            main(["--help"])

        with pytest.raises(SystemExit) as ended:
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)

    assert ended.value.code == 143
