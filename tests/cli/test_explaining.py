"""`sidestream explain`, in this process."""

import json

import pytest

from sidestream.cli.main import main
from tests.policy.written import config, provider, route, together

MARKER = "sk-marker-4f1c9a"
POLICY = together(
    provider(
        """
        host: api.alpha.example
        endpoint: {host: 127.0.0.1, port: 11434, tls: {mode: DISABLE}}
        configs:
          defaultConfig: {openAIConfig: {model: small, apiKey: '${K}', parameters: {temperature: 0}}}
          routeSpecificConfigs: {vip: {openAIConfig: {model: large}}}
        """
    ),
    provider("host: api.beta.example\nworkloadSelector: {labels: {app: sleep}}", name="beta"),
    route(
        """
        host: chat
        rules:
        - name: vip
          matches:
          - headers: {user-type: {exact: subscriber}, authorization: {prefix: Bearer}}
          - sourceLabels: {app: sleep}
            model: {regex: gpt-.*}
          backendRefs: [{providerHost: api.alpha.example}]
        - name: split
          matches: [{headers: {x-split: {present: true}}}]
          backendRefs:
          - {providerHost: api.alpha.example, weight: 75}
          - {providerHost: api.beta.example, weight: 25}
          - {providerHost: api.alpha.example, weight: 0}
        """
    ),
)


@pytest.fixture
def policies(tmp_path, monkeypatch):
    monkeypatch.setenv("K", MARKER)
    (tmp_path / "policy.yaml").write_text(POLICY)
    return tmp_path


@pytest.fixture
def explain(policies, capsys):
    """Run `sidestream explain` for the host `chat`; return its status and what it printed."""

    def run(*arguments, host="chat"):
        status = main(["explain", "--policies", str(policies), "--host", host, *arguments])
        out, err = capsys.readouterr()
        assert MARKER not in out + err
        return status, out

    return run


@pytest.fixture
def explained(explain):
    """Run it with `--json` and return the explanation."""

    def run(*arguments, **how):
        status, out = explain("--json", *arguments, **how)
        assert status == 0
        return json.loads(out)

    return run


def taken(explanation) -> list[str]:
    return [rule["name"] for rule in explanation["rules"] if rule["taken"]]


def test_a_label_is_one_of_the_workload(explained):
    body = '{"messages": [], "model": "gpt-4o"}'

    asleep = explained("--label", "app=sleep", "--label", "v=a=b", "--body", body)
    awake = explained("--label", "app=curl", "--body", body)

    assert (taken(asleep), asleep["decision"]) == (["vip"], "forward")
    assert (taken(awake), awake["decision"]) == ([], "reject")


def test_every_condition_is_explained(explained):
    explanation = explained("--header", "User-Type: subscriber", "--header", f"Authorization: Bearer {MARKER}")

    first, second = explanation["rules"][0]["matches"]
    assert [
        (condition["subject"], condition["wanted"], condition["found"], condition["holds"])
        for condition in first["conditions"]
    ] == [
        ("header user-type", "exact subscriber", "subscriber", True),
        ("header authorization", "prefix [redacted]", "[redacted]", True),
    ]
    assert [(condition["subject"], condition["found"]) for condition in second["conditions"]] == [
        ("sourceLabel app", None),
        ("model", None),
    ]


def test_a_header_that_is_given_twice_is_one_with_both_values(explained):
    arguments = [
        "--header",
        "user-type: subscriber",
        "--header",
        "user-type: free",
        "--header",
        "authorization: Bearer x",
    ]

    explanation = explained(*arguments)

    assert explanation["rules"][0]["matches"][0]["conditions"][0]["found"] == "subscriber, free"
    assert taken(explanation) == []


def test_shares_are_of_the_weights_and_backends_without_one_are_left_out(explained):
    explanation = explained("--header", "x-split: 1", "--label", "app=sleep")

    assert [(sent["provider"], sent["share"]) for sent in explanation["requests"]] == [
        ("default/alpha", 0.75),
        ("default/beta", 0.25),
    ]


def test_a_backend_for_other_workloads_is_left_out(explained):
    explanation = explained("--header", "x-split: 1")

    assert [(sent["provider"], sent["share"]) for sent in explanation["requests"]] == [("default/alpha", 1.0)]


def test_the_request_is_shown_as_sent(explained):
    (sent,) = explained(
        "--header", "x-split: 1", "--header", "x-api-key: k", "--body", '{"messages": [], "temperature": 1}'
    )["requests"]

    assert sent["connect_to"] == "127.0.0.1:11434"
    assert sent["tls"] is False
    assert sent["headers"]["authorization"] == "Bearer [redacted]"
    assert "x-api-key" not in sent["headers"]
    assert sent["body"] == {"messages": [], "model": "small", "temperature": 0}


def test_another_operation_is_asked_for_by_method_and_path(explained):
    (sent,) = explained("--method", "get", "--path", "/v1/models?limit=1", host="api.alpha.example")["requests"]

    assert (sent["method"], sent["target"], sent["operation"]) == ("GET", "/v1/models?limit=1", "models")


def test_no_rule_is_a_404(explained):
    explanation = explained()

    assert (explanation["decision"], explanation["requests"]) == ("reject", [])
    assert "404 no_rule_matched" in explanation["reason"]
    assert [rule["holds"] for rule in explanation["rules"]] == [False, False]


@pytest.mark.parametrize("host", ["CHAT", "chat.", "chat:80", "chat.default.svc.cluster.local"])
def test_a_host_may_be_written_as_clients_do(explained, host):
    assert explained("--header", "x-split: 1", host=host)["decision"] == "forward"


@pytest.mark.parametrize("host", ["elsewhere", "", "https://chat", "a b"])
def test_a_host_of_no_policy_passes_through(explain, host):
    status, out = explain(host=host)

    assert status == 0
    assert "pass-through" in out
    assert "it goes where it was going, untouched" in out


def test_text_is_readable(explain):
    status, out = explain("--header", "x-split: 1", "--label", "app=sleep")

    assert status == 0
    assert out.splitlines()[0].startswith("chat: forward, policy revision ")
    for line in [
        "  rule 1 vip: does not match",
        "    ✗ header user-type exact subscriber: it is absent",
        "    ✗ model regex gpt-.*: it is absent",
        "  rule 2 split: taken",
        "    ✓ header x-split present true: it is '1'",
        "  75% to default/alpha (api.alpha.example), chat",
        "    connect to 127.0.0.1:11434 without TLS",
        "    POST /v1/chat/completions HTTP/1.1",
        "    authorization: Bearer [redacted]",
        "  25% to default/beta (api.beta.example), chat",
        "    connect to api.beta.example:443 with verified TLS",
    ]:
        assert line in out.splitlines()


def test_a_body_may_hold_any_json(explained):
    body = '{"messages": ["\\ud800", "é漢"], "model": "\\u2028"}'

    (sent,) = explained("--header", "x-split: 1", "--body", body)["requests"]

    assert sent["body"]["messages"] == ["\ud800", "é漢"]


@pytest.mark.parametrize("body", ["", "[]", "nonsense", '{"model": "m"}', '{"messages": [1e999]}'])
def test_a_body_that_is_no_chat_is_explained_as_the_error_that_a_client_gets(explained, body):
    (sent,) = explained("--header", "x-split: 1", "--body", body)["requests"]

    assert sent["rejected"].startswith("400 invalid_chat_body")


def test_a_body_from_a_file_is_taken_as_it_is(explained, tmp_path):
    path = tmp_path / "body.json"
    path.write_text('{"messages": ["é"]}', encoding="utf-8")

    (sent,) = explained("--header", "x-split: 1", "--body", f"@{path}")["requests"]

    assert sent["body"]["messages"] == ["é"]


def test_a_missing_key_hides_nothing(explained, monkeypatch):
    monkeypatch.delenv("K")

    (sent,) = explained("--header", "x-split: 1")["requests"]

    assert sent["headers"]["authorization"] == "Bearer [redacted]"


def test_a_policy_that_does_not_compile_is_not_explained(tmp_path, capsys):
    (tmp_path / "a.yaml").write_text(together(config(f"apiKey: {MARKER}"), provider("host: 7", name="beta")))

    status = main(["explain", "--policies", str(tmp_path), "--host", "chat"])

    out, err = capsys.readouterr()
    assert (status, out) == (1, "")
    assert err.startswith(f"{tmp_path}/a.yaml:15: error: LLMProvider default/beta spec.host")
    assert MARKER not in err
