import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestream.policy.places import Text
from sidestream.policy.problems import errors_in
from sidestream.policy.reading import read_documents
from tests.policy.test_published import MANIFESTS
from tests.policy.written import NOWHERE, compiled, config, provider, route, together

SERVICE = "apiVersion: v1\nkind: Service\nmetadata: {name: chat}\nspec: {ports: [{port: 80}], type: ClusterIP}\n"
PUBLISHED = [path.read_bytes() for path in sorted(MANIFESTS.glob("*.yaml"))]
GOOD = [
    {
        "apiVersion": "istio.alibabacloud.com/v1beta1",
        "kind": "LLMProvider",
        "metadata": {"name": "alpha", "namespace": "default", "labels": {"a": "b"}},
        "spec": {
            "host": "api.alpha.example",
            "path": "/v1/chat/completions",
            "workloadSelector": {"labels": {"app": "sleep"}},
            "endpoint": {"host": "127.0.0.1", "port": 8443, "tls": {"mode": "SIMPLE", "sni": "a.example"}},
            "outlierDetection": {
                "consecutive5xxErrors": 3,
                "consecutive429Errors": 2,
                "interval": "10s",
                "baseEjectionTime": "30s",
                "maxEjectionTime": "5m",
            },
            "configs": {
                "defaultConfig": {
                    "openAIConfig": {
                        "model": "m",
                        "stream": True,
                        "apiKey": "sk-1",
                        "modelMapping": {"a": "b"},
                        "parameters": {"t": 0.5, "u": None},
                    }
                },
                "routeSpecificConfigs": {"vip": {"openAIConfig": {"apiKeyFrom": {"env": "K"}}}},
            },
        },
    },
    {
        "apiVersion": "istio.alibabacloud.com/v1beta1",
        "kind": "LLMRoute",
        "metadata": {"name": "chat"},
        "spec": {
            "host": "chat",
            "gateways": ["mesh"],
            "rules": [
                {
                    "name": "vip",
                    "matches": [
                        {
                            "headers": {"user-type": {"exact": "a"}, "x": {"regex": "a+"}},
                            "sourceLabels": {"app": "sleep"},
                            "model": {"prefix": "gpt"},
                        }
                    ],
                    "backendRefs": [{"providerHost": "api.alpha.example", "weight": 1, "priority": 0}],
                    "retry": {"attempts": 1, "on": ["reset"], "backoff": {"base": "1s", "max": "2s"}},
                    "timeouts": {"connect": "1s"},
                    "hashOn": {"header": "x-user"},
                }
            ],
        },
        "status": {"conditions": []},
    },
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def read(*texts: str):
    return read_documents([Text(f"{number}.yaml", NOWHERE, text.encode()) for number, text in enumerate(texts, 1)])


def places(value: object, path: tuple = ()) -> list[tuple]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else []
    return [path, *(found for key, part in inner for found in places(part, (*path, key)))]


def replaced(value: object, path: tuple, new: object) -> object:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


def test_many_documents_of_many_files_are_read():
    documents = read(
        together(provider(), "", route("host: chat\nrules: [{backendRefs: [providerHost: a]}]")), provider(name="beta")
    )

    assert documents.problems == []
    assert [located.document.metadata.name for located in documents.providers] == ["alpha", "beta"]
    assert [(located.source.text.name, located.source.index) for located in documents.providers] == [
        ("1.yaml", 0),
        ("2.yaml", 0),
    ]
    assert [(located.source.text.name, located.source.index) for located in documents.routes] == [("1.yaml", 2)]


@pytest.mark.parametrize(
    "foreign",
    [
        SERVICE,
        "apiVersion: apps/v1\nkind: Deployment\n",
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nspec: 7\n",
        "kind: Kustomization\nresources: [a.yaml]\n",
        "apiVersion: v1\nkind: Secret\ndata: {key: !!binary aGk=}\n",
        "apiVersion: v1\nkind: [a, b]\n",
    ],
)
def test_documents_of_other_apis_are_left_alone(foreign):
    documents = read(together(provider(), foreign))

    assert documents.problems == []
    assert len(documents.providers) == 1


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n---\n", "\ufeff"])
def test_a_file_may_hold_nothing(text):
    assert read(text).problems == []


def test_a_byte_order_mark_and_windows_line_ends_change_nothing():
    (here,) = read("\ufeff" + provider().replace("\n", "\r\n")).providers

    assert here.document == read(provider()).providers[0].document


def test_json_is_yaml():
    text = json.dumps(GOOD[0], indent=1)

    assert [located.document.spec.host for located in read(text).providers] == ["api.alpha.example"]


def test_the_word_on_is_a_key_of_a_retry():
    retry = "attempts: 1\n    on: [reset, timeout]"
    (located,) = read(route(f"host: chat\nrules:\n- backendRefs: [providerHost: a]\n  retry:\n    {retry}\n")).routes

    assert located.document.spec.rules[0].retry.on == ["reset", "timeout"]


def test_all_problems_of_a_document_are_reported_with_their_lines():
    text = provider("host: 7\npath: v1\nendpoint:\n  port: 0\n  tls: {mode: none}\nconfig: {}\n")

    problems = read(text).problems

    assert [(problem.line, problem.field) for problem in sorted(problems)] == [
        (5, "spec.host"),
        (6, "spec.path"),
        (8, "spec.endpoint.port"),
        (9, "spec.endpoint.tls.mode"),
        (10, "spec.config"),
    ]


def test_a_problem_in_a_later_document_has_the_line_of_the_file():
    text = "# first\n" + together(
        provider("host: é\npath: /é".replace("/é", "/e")), SERVICE, provider("host: 7", name="beta")
    )

    (problem,) = read(text).problems

    assert (problem.line, problem.document) == (text.splitlines().index("  host: 7") + 1, "LLMProvider default/beta")


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (provider("host: a.example\nxyzzy: 1"), "its shape"),
        (provider("host: a.example").replace("v1beta1", "v1"), "its version"),
        (provider("host: a.example").replace("istio.", "iistio."), "its group"),
        (provider("host: a.example").replace("kind: LLMProvider", "kind: LLMProvders"), "its kind"),
        (provider("host: a.example\nhost: a.example"), "a key twice"),
        (provider("host: a.example\npath: [1"), "a bracket"),
        (provider('"host" : \'a.example\'\npath: "x'), "a quote"),
        (provider("host: https://A.example:443/v1"), "its host"),
        (provider("host: a.example:443"), "its port"),
    ],
)
def test_what_refers_to_a_broken_provider_is_not_reported_as_well(broken, why):
    good = route("host: chat\nrules: [{backendRefs: [{providerHost: a.example}]}]")

    (problem,) = compiled(broken, good).problems

    assert problem.file == "1.yaml"


def test_a_broken_route_makes_no_unknown_provider_known():
    broken = route("host: beta\nrules: []", name="other")
    good = route("host: chat\nrules: [{backendRefs: [{providerHost: beta}]}]")

    problems = compiled(broken, good).problems

    assert [problem.file for problem in problems] == ["1.yaml", "2.yaml"]


def test_a_literal_key_in_the_wrong_place_is_not_repeated():
    texts = [
        config("apikey: sk-marker"),
        config("apiKey: [sk-marker]"),
        config("apiKey: {sk-marker: 1}").replace("sk-marker: 1", "value: sk-marker"),
        config("apiKeyFrom: sk-marker"),
        config("apiKey: 'sk-marker ${K}'"),
        config('apiKey: "sk-marker\\n"x'),
        config("apiKey: sk-marker é"),
    ]

    problems = [str(problem) for text in texts for problem in compiled(text).problems]

    assert len(problems) >= len(texts)
    assert [problem for problem in problems if "sk-marker" in problem] == []


@settings(deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=3))
def test_any_bytes_are_documents_or_problems(contents):
    compilation = compiled(*contents)

    assert (compilation.snapshot is None) == bool(errors_in(compilation.problems))
    assert [problem for problem in compilation.problems if not str(problem).isprintable()] == []


@settings(deadline=None)
@given(st.sampled_from(PUBLISHED), st.data())
def test_a_manifest_with_any_bytes_changed_gives_documents_or_problems(manifest, data):
    changed = bytearray(manifest)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(changed)))
        end = data.draw(st.integers(start, min(start + 8, len(changed))))
        changed[start:end] = data.draw(
            st.binary(max_size=6) | st.sampled_from([b"\n", b" ", b"\t", b": ", b"- ", b"&a ", b"*a", b"{"])
        )

    for problem in compiled(bytes(changed)).problems:
        assert 0 <= problem.line <= changed.count(b"\n") + 1


@settings(deadline=None)
@given(JSON)
def test_any_json_is_a_document_or_a_problem(value):
    compiled(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))


@settings(deadline=None, max_examples=300)
@given(st.sampled_from([(document, path) for document in GOOD for path in places(document)]), JSON)
def test_a_document_with_anything_in_any_place_compiles_or_has_problems(place, value):
    document, path = place
    changed = json.dumps(replaced(document, path, value), ensure_ascii=False).encode("utf-8", "replace")
    others = [json.dumps(other).encode() for other in GOOD if other is not document]

    compilation = compiled(changed, *others, environment={"K": "sk-2"})

    assert (compilation.snapshot is None) == bool(errors_in(compilation.problems))


def test_the_documents_of_the_property_compile():
    compilation = compiled(*(json.dumps(document) for document in GOOD), environment={"K": "sk-2"})

    assert sorted(compilation.require().hosts) == [
        "api.alpha.example",
        "chat",
        "chat.default",
        "chat.default.svc",
        "chat.default.svc.cluster.local",
    ]


def test_what_stands_before_a_fault_of_syntax_is_read_and_looked_at():
    text = together(provider(), provider("host: 7", name="beta"), "a: [\n", provider("host: c.example", name="gamma"))

    documents = read(text)

    assert [located.document.metadata.name for located in documents.providers] == ["alpha"]
    assert [(problem.document, problem.field) for problem in documents.problems] == [
        ("LLMProvider default/beta", "spec.host"),
        ("", ""),
    ]
    assert "c.example" in documents.broken_hosts
