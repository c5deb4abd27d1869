import pytest

from sidestream.core.planning import plan
from sidestream.core.snapshot import Endpoint, Provider
from sidestream.policy.documents import API_GROUP
from tests.policy.written import compiled, forwarded, provider, request, route, rule, together

ALPHA = provider("host: api.alpha.example\nconfigs: {defaultConfig: {openAIConfig: {model: m, apiKey: sk-1}}}")


def backend(ref: str, *others: str, namespace: str = "default") -> Provider:
    text = route(f"host: chat\nrules: [{{backendRefs: [backendRef: {ref}]}}]", namespace=namespace)
    return compiled(text, *others).require().hosts["chat"].rules[0].backends[0].provider


def test_an_llmprovider_may_be_named_instead_of_its_host():
    ref = f"{{group: {API_GROUP}, kind: LLMProvider, name: alpha}}"

    assert backend(ref, ALPHA) is not None
    assert backend(ref, ALPHA).host == "api.alpha.example"


def test_a_name_is_looked_for_in_the_namespace_of_the_route_unless_it_says_another():
    there = provider("host: there.example", namespace="team")
    ref = f"group: {API_GROUP}, kind: LLMProvider, name: alpha"

    assert backend(f"{{{ref}}}", ALPHA, there, namespace="team").host == "there.example"
    assert backend(f"{{{ref}, namespace: default}}", ALPHA, there, namespace="team").host == "api.alpha.example"


@pytest.mark.parametrize(
    ("ref", "endpoint"),
    [
        ("{name: vllm, port: 80}", Endpoint("vllm.team.svc", 80, "vllm.team.svc", tls=False)),
        ("{kind: Service, name: vllm, port: 8000}", Endpoint("vllm.team.svc", 8000, "vllm.team.svc:8000", tls=False)),
        ("{name: vllm, namespace: ml, port: 1}", Endpoint("vllm.ml.svc", 1, "vllm.ml.svc:1", tls=False)),
    ],
)
def test_a_service_is_called_in_plain_http_by_its_name_in_the_cluster(ref, endpoint):
    assert backend(ref, namespace="team").endpoint == endpoint


def test_what_goes_to_a_service_keeps_its_model_and_has_no_key():
    snapshot = compiled(rule("- backendRefs: [backendRef: {name: vllm, port: 8000}]")).require()
    view = request(body={"messages": [], "model": "llama"}, authorization="Bearer sk-client")

    planned = plan(forwarded(view, snapshot), view)

    assert planned.sent_model == "llama"
    assert planned.attempt.target == "/v1/chat/completions"
    assert planned.attempt.key is None
    assert "sk-client" not in repr(planned)


def test_ports_of_a_service_are_different_providers():
    snapshot = compiled(
        rule("- backendRefs: [{backendRef: {name: vllm, port: 1}}, {backendRef: {name: vllm, port: 2}}]")
    ).require()

    assert [used.provider.name for used in snapshot.hosts["chat"].rules[0].backends] == [
        "default/vllm:1",
        "default/vllm:2",
    ]


def test_a_service_governs_no_host_of_its_own():
    snapshot = compiled(rule("- backendRefs: [backendRef: {name: vllm, port: 80}]")).require()

    assert not snapshot.governs("vllm.default.svc")


def test_a_provider_with_problems_of_its_own_is_not_reported_as_missing():
    broken = provider("host: 7")
    text = rule(f"- backendRefs: [backendRef: {{group: {API_GROUP}, kind: LLMProvider, name: alpha}}]")

    problems = compiled(together(text, broken)).problems

    assert [(problem.document, problem.field) for problem in problems] == [("LLMProvider default/alpha", "spec.host")]
