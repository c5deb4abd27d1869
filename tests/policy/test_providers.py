import json
from dataclasses import fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestream.core.secret import Secret
from sidestream.core.snapshot import Endpoint, OpenAIConfig, OutlierDetection, Provider
from sidestream.demo.certificates import Authority
from sidestream.policy.problems import Severity, errors_in
from sidestream.policy.providers import bare_host, meant_host
from tests.policy.written import compiled, config, provider, route, together

VIP = route("host: chat\nrules: [{name: vip, backendRefs: [{providerHost: api.alpha.example}]}]")


def compiled_provider(text: str, **how) -> Provider:
    snapshot = compiled(text, **how).require()
    found = snapshot.hosts["api.alpha.example"]
    assert isinstance(found, Provider)
    return found


def endpoint(spec: str, **how) -> Endpoint:
    return compiled_provider(provider(f"host: api.alpha.example\n{spec}"), **how).endpoint


def test_a_provider_needs_no_more_than_a_host():
    assert compiled_provider(provider()) == Provider(
        name="default/alpha",
        host="api.alpha.example",
        endpoint=Endpoint("api.alpha.example", 443, "api.alpha.example", True, "api.alpha.example", None),
        path="/v1/chat/completions",
        config=OpenAIConfig(),
    )


@pytest.mark.parametrize(
    "written", ["api.alpha.example", "API.Alpha.Example", "api.alpha.example.", "' api.alpha.example '"]
)
def test_a_host_is_compared_in_one_spelling(written):
    assert compiled_provider(provider(f"host: {written}")).host == "api.alpha.example"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        # Without an endpoint, or with its parts only: the provider's host.
        ("", ("api.alpha.example", 443, "api.alpha.example", True, "api.alpha.example")),
        ("{port: 8443}", ("api.alpha.example", 8443, "api.alpha.example", True, "api.alpha.example")),
        ("{tls: {mode: DISABLE}}", ("api.alpha.example", 80, "api.alpha.example", False, "")),
        # An address says where the provider is, not what it is called there.
        ("{host: 127.0.0.1}", ("127.0.0.1", 443, "api.alpha.example", True, "api.alpha.example")),
        ("{host: 127.0.0.1, port: 8443}", ("127.0.0.1", 8443, "api.alpha.example", True, "api.alpha.example")),
        ("{host: '::1', port: 8443}", ("::1", 8443, "api.alpha.example", True, "api.alpha.example")),
        ("{host: '[::1]'}", ("::1", 443, "api.alpha.example", True, "api.alpha.example")),
        # A name says both.
        ("{host: Edge.example.}", ("edge.example", 443, "edge.example", True, "edge.example")),
        ("{host: edge.example, port: 8443}", ("edge.example", 8443, "edge.example:8443", True, "edge.example")),
        ("{host: localhost, port: 11434, tls: {mode: DISABLE}}", ("localhost", 11434, "localhost:11434", False, "")),
        ("{host: localhost, port: 80, tls: {mode: DISABLE}}", ("localhost", 80, "localhost", False, "")),
        ("{host: localhost, port: 80}", ("localhost", 80, "localhost:80", True, "localhost")),
        # A name for TLS is for TLS only.
        ("{tls: {sni: Sni.example}}", ("api.alpha.example", 443, "api.alpha.example", True, "sni.example")),
        ("{host: edge.example, tls: {sni: sni.example}}", ("edge.example", 443, "edge.example", True, "sni.example")),
    ],
)
def test_an_endpoint_says_where_bytes_go_and_what_is_verified(written, expected):
    found = endpoint(f"endpoint: {written}" if written else "")

    assert (found.host, found.port, found.authority, found.tls, found.server_name) == expected


def test_a_ca_file_is_read_from_beside_the_document(tmp_path):
    authority = Authority.create(tmp_path / "ca")

    found = endpoint("endpoint: {tls: {caFile: ca/" + authority.ca_file.name + "}}", folder=tmp_path)

    assert found.ca_pem == authority.ca_file.read_text()


def test_a_ca_file_may_have_comments_in_any_language(tmp_path):
    authority = Authority.create(tmp_path / "ca")
    (tmp_path / "ca.crt").write_text(f"# Prüfstelle\n{authority.ca_file.read_text()}", encoding="utf-8")

    found = endpoint("endpoint: {tls: {caFile: ca.crt}}", folder=tmp_path)

    assert "BEGIN CERTIFICATE" in found.ca_pem


def test_tls_settings_without_tls_are_reported():
    compilation = compiled(provider("host: a.example\nendpoint: {tls: {mode: DISABLE, sni: b.example, caFile: none}}"))

    (problem,) = compilation.problems
    assert (problem.severity, problem.field) == (Severity.WARNING, "spec.endpoint.tls")
    assert "no effect" in problem.message
    assert compilation.require().hosts["a.example"].endpoint.server_name == ""


def test_a_path_may_have_a_query():
    text = provider("host: api.alpha.example\npath: /openai/chat/completions?api-version=2024-10-21")

    assert compiled_provider(text).path == "/openai/chat/completions?api-version=2024-10-21"


def test_a_selector_holds_its_labels():
    text = provider("host: api.alpha.example\nworkloadSelector: {labels: {app: sleep}}")

    assert dict(compiled_provider(text).selector) == {"app": "sleep"}


@pytest.mark.parametrize("yaml", ["apiKey: ${K}", "apiKeyFrom: {env: K}", "apiKeyFrom: {file: key}", "apiKey: sk-1"])
def test_a_key_comes_from_where_the_document_says(tmp_path, yaml):
    (tmp_path / "key").write_text("sk-1\n")

    found = compiled_provider(config(yaml), environment={"K": "sk-1"}, folder=tmp_path)

    assert found.config.key == Secret("sk-1")


def test_a_literal_key_is_accepted_with_a_warning():
    (problem,) = compiled(config("apiKey: sk-1")).problems

    assert (problem.severity, problem.line) == (Severity.WARNING, 9)
    assert problem.field == "spec.configs.defaultConfig.openAIConfig.apiKey"
    assert "is a literal" in problem.message
    assert "${NAME} or apiKeyFrom" in problem.message


def test_a_key_in_a_path_is_accepted_with_a_warning():
    (problem,) = compiled(provider("host: api.alpha.example\npath: /v1/chat/completions?api-key=sk-1")).problems

    assert (problem.severity, problem.field) == (Severity.WARNING, "spec.path")
    assert "use apiKey or apiKeyFrom" in problem.message
    assert "sk-1" not in str(problem)


@pytest.mark.parametrize(
    ("yaml", "kept"),
    [
        ("apiKey: ${UNSET}", True),
        ("apiKeyFrom: {file: nowhere}", True),
        ("apiKeyFrom: {secretKeyRef: {name: a, key: b}}", True),
    ],
)
def test_where_policies_are_only_checked_a_missing_key_is_a_warning(yaml, kept):
    compilation = compiled(config(yaml), missing_key=Severity.WARNING)

    assert [problem.severity for problem in compilation.problems] == [Severity.WARNING]
    assert (compilation.require().hosts["api.alpha.example"].config.key is not None) is kept


def test_where_policies_are_only_checked_a_missing_ca_file_is_a_warning():
    text = provider("host: api.alpha.example\nendpoint: {tls: {caFile: nowhere}}")

    compilation = compiled(text, missing_key=Severity.WARNING)

    assert [problem.severity for problem in compilation.problems] == [Severity.WARNING]
    assert compilation.snapshot is not None


def test_a_mapping_of_models_under_a_model_is_reported():
    (problem,) = compiled(config("model: a\nmodelMapping: {b: c}")).problems

    assert (problem.severity, problem.line) == (Severity.WARNING, 10)
    assert problem.field == "spec.configs.defaultConfig.openAIConfig.modelMapping"
    assert "has no effect: the model is always 'a'" in problem.message


def test_a_mapping_of_models_under_the_default_model_is_reported():
    text = provider(
        """
        host: api.alpha.example
        configs:
          defaultConfig: {openAIConfig: {model: a}}
          routeSpecificConfigs:
            vip: {openAIConfig: {modelMapping: {b: c}}}
        """
    )

    (problem,) = compiled(together(text, VIP)).problems

    assert problem.field == "spec.configs.routeSpecificConfigs.vip.openAIConfig.modelMapping"
    assert (problem.line, problem.severity) == (9, Severity.WARNING)


def test_a_configuration_for_a_rule_that_there_is_not_is_reported():
    text = provider("host: api.alpha.example\nconfigs:\n  routeSpecificConfigs:\n    vpi: {openAIConfig: {model: a}}\n")

    (problem,) = compiled(together(text, VIP)).problems

    assert (problem.severity, problem.line) == (Severity.WARNING, 8)
    assert problem.field == "spec.configs.routeSpecificConfigs.vpi"
    assert "no rule of any route is named 'vpi'" in problem.message


def test_a_configuration_is_not_reported_as_unused_while_a_document_is_broken():
    text = provider("host: api.alpha.example\nconfigs:\n  routeSpecificConfigs:\n    vip: {openAIConfig: {model: a}}\n")
    broken = VIP.replace("host: chat", "host: 7")

    problems = compiled(text, broken).problems

    assert [problem.file for problem in problems] == ["2.yaml"]


def test_an_override_may_take_its_key_from_elsewhere():
    text = provider(
        """
        host: api.alpha.example
        configs:
          defaultConfig: {openAIConfig: {apiKey: '${A}'}}
          routeSpecificConfigs:
            vip: {openAIConfig: {apiKeyFrom: {env: B}}}
        """
    )

    found = compiled_provider(together(text, VIP), environment={"A": "sk-a", "B": "sk-b"})

    assert found.config.key == Secret("sk-a")
    assert found.config_for("vip").key == Secret("sk-b")
    assert found.config_for("other").key == found.config_for(None).key == Secret("sk-a")


WRITTEN = st.fixed_dictionaries(
    {},
    optional={
        "model": st.sampled_from(["a", "b"]),
        "stream": st.booleans(),
        "apiKey": st.sampled_from(["sk-a", "sk-b"]),
        "modelMapping": st.sampled_from([{}, {"a": "b"}, {"*": "c"}]),
        "parameters": st.sampled_from([{}, {"t": 0}, {"u": None}, {"t": 0.5, "u": "x"}]),
    },
)
FIELDS = {
    "model": "model",
    "stream": "stream",
    "apiKey": "key",
    "modelMapping": "model_mapping",
    "parameters": "parameters",
}


@settings(deadline=None)
@given(WRITTEN, WRITTEN)
def test_every_field_that_an_override_leaves_out_is_the_defaults(default, override):
    configs = {"defaultConfig": {"openAIConfig": default}, "routeSpecificConfigs": {"vip": {"openAIConfig": override}}}
    text = provider(f"host: api.alpha.example\nconfigs: {json.dumps(configs)}")

    found = compiled_provider(together(text, VIP))
    alone = compiled_provider(
        provider(f"host: api.alpha.example\nconfigs: {json.dumps({'defaultConfig': {'openAIConfig': override}})}")
    )

    assert {field.name for field in fields(OpenAIConfig)} == set(FIELDS.values())
    for written, name in FIELDS.items():
        source = alone if written in override else found
        assert getattr(found.config_for("vip"), name) == getattr(source.config, name)


@pytest.mark.parametrize(
    ("written", "bare", "meant"),
    [
        ("a.example", "a.example", "a.example"),
        ("A.example.", "a.example", "a.example"),
        ("::1", "::1", "::1"),
        ("[::1]", "::1", "::1"),
        ("[::1]:80", "", "::1"),
        ("a.example:80", "", "a.example"),
        ("a.example:", "", "a.example"),
        ("https://a.example", "", "a.example"),
        ("https://a.example:443/v1", "", "a.example"),
        ("a.example/v1", "", "a.example"),
        ("a b", "", ""),
        ("", "", ""),
    ],
)
def test_a_host_of_a_document_is_a_host_and_no_more(written, bare, meant):
    assert (bare_host(written), meant_host(written)) == (bare, meant)


@given(st.text())
def test_any_text_is_a_host_or_none(written):
    assert bare_host(bare_host(written)) == bare_host(written)
    assert meant_host(written) == "" or bare_host(meant_host(written)) == meant_host(written)


def test_all_problems_of_a_provider_are_reported():
    text = config("apiKey: ${A}\nparameters: {model: m, stream: true}\nmodelMapping: {a: b}\nmodel: c").replace(
        "configs:", "endpoint: {tls: {sni: 'a b', caFile: nowhere}}\n  configs:"
    )

    compilation = compiled(text)

    assert [problem.field.rpartition(".")[2] for problem in compilation.problems] == [
        "caFile", "sni", "apiKey", "model", "stream", "modelMapping",
    ]  # fmt: skip
    assert len(errors_in(compilation.problems)) == 5


# --- outlier detection ----------------------------------------------------------------------------


def outlier_detection(written):
    return compiled_provider(provider(f"host: api.alpha.example\noutlierDetection: {written}")).outlier_detection


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("null", None),
        ("{}", OutlierDetection(5, None, 10.0, 30.0, 300.0)),
        ("{consecutive5xxErrors: 1, consecutive429Errors: 2}", OutlierDetection(1, 2, 10.0, 30.0, 300.0)),
        (
            "{interval: 500ms, baseEjectionTime: 1m, maxEjectionTime: 1h30m}",
            OutlierDetection(5, None, 0.5, 60.0, 5400.0),
        ),
        ("{baseEjectionTime: 10s, maxEjectionTime: 10s}", OutlierDetection(5, None, 10.0, 10.0, 10.0)),
    ],
)
def test_outlier_detection_is_compiled_where_it_is_written(written, expected):
    assert outlier_detection(written) == expected


def test_what_is_not_written_is_as_the_data_plane_has_it():
    assert outlier_detection("{}") == OutlierDetection()
