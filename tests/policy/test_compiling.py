import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestream.core.routing import decide
from sidestream.policy.problems import PolicyError, Severity, errors_in
from tests.policy.written import compiled, config, provider, request, route, rule, together

REFS = "backendRefs: [providerHost: api.alpha.example]"
ALPHA = provider(
    """
    host: api.alpha.example
    configs:
      defaultConfig: {openAIConfig: {model: small}}
      routeSpecificConfigs: {vip: {openAIConfig: {model: large}}}
    """
)
BETA = provider("host: api.beta.example", name="beta")
CHAT = route(
    """
    host: chat
    rules:
    - name: vip
      matches: [{headers: {user-type: {exact: subscriber}}}]
      backendRefs: [{providerHost: api.alpha.example}]
    - backendRefs: [{providerHost: api.alpha.example, weight: 1}, {providerHost: api.beta.example, weight: 3}]
    """
)
OTHER = route("host: other\nrules: [{backendRefs: [{providerHost: api.beta.example}]}]", name="other", namespace="apps")
GOOD = [ALPHA, BETA, CHAT, OTHER]
BAD = [
    provider("host: api.alpha.example\npath: /other", name="twin"),
    provider("host: api.third.example"),
    provider("host: https://api.fourth.example", name="fourth"),
    provider("host: api.fifth.example\nxyzzy: 1", name="fifth"),
    provider("host: api.sixth.example\nendpoint: {port: 0}", name="sixth").replace("v1beta1", "v1"),
    config("apiKey: ${UNSET}\nparameters: {model: m}", name="seventh"),
    route("host: chat\nrules: [{backendRefs: [{providerHost: nobody}]}]", name="twin"),
    route("host: chat\nrules: [{backendRefs: [{providerHost: api.fifth.example}]}]"),
    route(
        "host: ninth\nrules: [{name: vip, backendRefs: [{providerHost: api.fourth.example, weight: 0}]}]", name="ninth"
    ),
    route(
        "host: tenth\ngateways: [ingress]\nrules: [{backendRefs: [{providerHost: api.alpha.example}]}]", name="tenth"
    ),
    "apiVersion: v1\nkind: Service\n",
    "- a list\n",
]
REQUESTS = [
    request("chat"),
    request("chat", user_type="subscriber"),
    request("other"),
    request("other.apps"),
    request("api.alpha.example"),
    request("elsewhere"),
]


@st.composite
def spread(draw, pool):
    """Draw documents of `pool`, and two ways to put them into files."""
    chosen = draw(st.lists(st.sampled_from(pool), unique=True))
    ways = []
    for _ in range(2):
        order = draw(st.permutations(chosen))
        cuts = sorted(draw(st.lists(st.integers(0, len(order)), max_size=4)))
        files = [order[start:end] for start, end in zip([0, *cuts], [*cuts, len(order)], strict=True)]
        ways.append([together(*file) for file in files])
    return ways


def outcome(texts: list[str]):
    """Return all that compiling says of `texts`, but for the names of files and the lines."""
    compilation = compiled(*texts)
    said = sorted(
        (problem.severity, problem.document, problem.field, re.sub(r"\d+\.yaml", "FILE", problem.message))
        for problem in compilation.problems
    )
    if compilation.snapshot is None:
        return said, None, None, None
    snapshot = compilation.snapshot
    decisions = [decide(view, snapshot, draw=step / 8) for view in REQUESTS for step in range(8)]
    return said, snapshot.revision, sorted(snapshot.hosts), decisions


@settings(deadline=None)
@given(spread(GOOD + BAD))
def test_compiling_does_not_depend_on_order_and_files(ways):
    one, other = ways

    assert outcome(one) == outcome(other)


@settings(deadline=None, max_examples=30)
@given(spread(GOOD))
def test_decisions_do_not_depend_on_order_and_files(ways):
    one, other = ways

    assert outcome(one) == outcome(other)


def test_the_documents_of_the_properties_are_good_and_bad():
    assert compiled(*GOOD).problems == ()
    assert all(
        errors_in(compiled(*GOOD, text).problems) for text in BAD if "gateways" not in text and "Service" not in text
    )


def test_what_is_wrong_in_one_document_hides_nothing_in_another():
    texts = [
        "a: [",
        provider("host: 7", name="one"),
        provider("host: api.two.example\npath: v1", name="two"),
        config("apiKey: ${UNSET}", name="three"),
        rule("- backendRefs: [{providerHost: api.two.example}, {providerHost: nobody}]"),
        route("host: chat\nrules: [{name: '', backendRefs: []}]", name="five"),
        "kind: List\n",
        b"\xff",
    ]

    problems = compiled(*texts).problems

    assert [(problem.file, problem.field) for problem in problems] == [
        ("1.yaml", ""),
        ("2.yaml", "spec.host"),
        ("3.yaml", "spec.path"),
        ("4.yaml", "spec.configs.defaultConfig.openAIConfig.apiKey"),
        ("5.yaml", "spec.rules[0].backendRefs[1].providerHost"),
        ("6.yaml", "spec.rules[0].backendRefs"),
        ("6.yaml", "spec.rules[0].name"),
        ("7.yaml", "apiVersion"),
        ("8.yaml", ""),
    ]


def test_problems_come_in_the_order_of_files_and_lines():
    problems = compiled(provider("host: a.example\nx: 1\ny: 2\nendpoint: {z: 3}"), provider("host: 7")).problems

    assert [(problem.file, problem.line) for problem in problems] == [
        ("1.yaml", 6),
        ("1.yaml", 7),
        ("1.yaml", 8),
        ("2.yaml", 5),
    ]


def test_both_of_two_documents_for_one_host_are_looked_at():
    problems = compiled(config("apiKey: ${A}", name="one"), config("apiKey: ${B}", name="two")).problems

    assert [(problem.file, problem.field.rpartition(".")[2]) for problem in problems] == [
        ("1.yaml", "apiKey"),
        ("2.yaml", "host"),
        ("2.yaml", "apiKey"),
    ]


def test_a_route_and_a_provider_may_have_one_name_and_one_host():
    text = route(f"host: api.alpha.example\nrules: [{{{REFS}}}]", name="alpha")

    snapshot = compiled(provider(), text).require()

    assert snapshot.hosts["api.alpha.example"].rules


def test_names_are_of_their_namespace():
    assert compiled(provider(), provider("host: b.example", namespace="apps")).problems == ()


def test_nothing_compiles_to_a_policy_that_governs_nothing():
    compilation = compiled()

    assert compilation.problems == ()
    assert dict(compilation.require().hosts) == {}


def test_problems_that_are_errors_leave_no_snapshot():
    compilation = compiled(provider("host: 7"))

    with pytest.raises(
        PolicyError, match=r"1\.yaml:5: error: LLMProvider default/alpha spec\.host: must be text"
    ) as raised:
        compilation.require()
    assert compilation.snapshot is None
    assert raised.value.problems == compilation.problems


def test_warnings_are_kept_with_the_snapshot():
    compilation = compiled(config("apiKey: sk-1"))

    assert [problem.severity for problem in compilation.problems] == [Severity.WARNING]
    assert compilation.require().governs("api.alpha.example")


@pytest.mark.parametrize(
    ("host", "names"),
    [
        ("chat", ["chat", "chat.apps", "chat.apps.svc", "chat.apps.svc.cluster.local"]),
        ("chat.example", ["chat.example"]),
        ("'::1'", ["::1"]),
    ],
)
def test_a_short_host_has_the_names_that_a_cluster_gives_it(host, names):
    text = route(f"host: {host}\nrules: [{{{REFS}}}]", namespace="apps")

    hosts = compiled(text, provider()).require().hosts

    assert sorted(hosts) == sorted([*names, "api.alpha.example"])
    assert len({id(hosts[name]) for name in names}) == 1


def test_a_document_for_a_longer_name_wins_over_that_of_a_cluster():
    own = provider("host: chat.apps", name="own")
    text = route(f"host: chat\nrules: [{{{REFS}}}]", namespace="apps")

    assert compiled(text, provider(), own).require().hosts["chat.apps"].name == "default/own"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("model: small", "model: tiny"),
        ("{vip: {", "{vop: {"),
        ("name: alpha", "name: omega"),
        ("host: api.beta.example", "host: api.beta.example\n  path: /v2/chat/completions"),
        ("exact: subscriber", "exact: member"),
        ("weight: 3", "weight: 4"),
        ("namespace: apps", "namespace: jobs"),
    ],
)
def test_another_policy_has_another_revision(old, new):
    changed = [text.replace(old, new) for text in GOOD]

    assert changed != GOOD
    assert compiled(*changed).require().revision != compiled(*GOOD).require().revision


@pytest.mark.parametrize(
    "same",
    [
        ALPHA + "status: {conditions: [{type: Accepted}]}\n",
        ALPHA.replace("{name: alpha,", "{name: alpha, resourceVersion: '7', labels: {a: b},"),
        ALPHA.replace("  host", "  # a comment\n  host"),
        ALPHA.replace(", namespace: default", ""),
    ],
)
def test_what_a_policy_does_not_depend_on_does_not_change_its_revision(same):
    assert same != ALPHA
    assert compiled(same, BETA, CHAT, OTHER).require().revision == compiled(*GOOD).require().revision


def test_a_revision_is_short_and_the_same_on_every_machine():
    assert compiled(*GOOD).require().revision == compiled(*GOOD).require().revision
    assert re.fullmatch(r"[0-9a-f]{12}", compiled(*GOOD).require().revision)
