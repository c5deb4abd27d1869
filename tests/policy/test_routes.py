import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidestream.core.routing import Reject, decide
from sidestream.core.snapshot import Retry, Route, Timeouts
from sidestream.policy.problems import Severity
from tests.policy.written import compiled, forwarded, provider, request, route, rule, together

ALPHA = provider()
BETA = provider("host: api.beta.example", name="beta")
REFS = "backendRefs: [providerHost: api.alpha.example]"


def chat(text: str) -> Route:
    found = compiled(together(text, ALPHA, BETA)).require().hosts["chat"]
    assert isinstance(found, Route)
    return found


def matches(condition: str, **asked) -> bool:
    """Tell whether a rule with the one match `condition` holds for the request `asked`."""
    snapshot = compiled(together(rule(f"- matches: [{condition}]\n  {REFS}"), ALPHA)).require()
    return not isinstance(decide(request(**asked), snapshot, draw=0), Reject)


@pytest.mark.parametrize(
    ("condition", "value", "holds"),
    [
        ("{exact: a}", "a", True),
        ("{exact: a}", "ab", False),
        ("{exact: a}", "A", False),
        ("{exact: a}", None, False),
        ("{exact: ''}", "", True),
        ("{exact: ''}", None, False),
        ("{prefix: ab}", "abc", True),
        ("{prefix: ab}", "ab", True),
        ("{prefix: ab}", "cab", False),
        ("{prefix: ab}", None, False),
        ("{regex: a.c}", "abc", True),
        ("{regex: a.c}", "xabc", False),
        ("{regex: a.c}", "abcx", False),
        ("{regex: 'a|b'}", "b", True),
        ("{regex: 'a|b'}", "ab", False),
        ("{regex: '(?i)ABC'}", "abc", True),
        ("{regex: 'a*'}", "", True),
        ("{regex: 'a*'}", None, False),
        ("{regex: '.*'}", "é", True),
        ("{present: true}", "", True),
        ("{present: true}", None, False),
        ("{present: false}", None, True),
        ("{present: false}", "a", False),
    ],
)
def test_a_condition_on_a_header_holds_for_its_values_only(condition, value, holds):
    headers = {} if value is None else {"x_y": value}

    assert matches(f"headers: {{X-Y: {condition}}}", **headers) is holds


@pytest.mark.parametrize(
    ("condition", "model", "holds"),
    [
        ("{exact: gpt-4o}", "gpt-4o", True),
        ("{prefix: gpt-}", "gpt-4o", True),
        ("{prefix: gpt-}", "qwen", False),
        ("{present: false}", None, True),
        ("{present: true}", 7, False),
    ],
)
def test_a_condition_on_the_model_looks_into_the_body(condition, model, holds):
    body = {"messages": []} if model is None else {"messages": [], "model": model}

    assert matches(f"model: {condition}", body=body) is holds


def test_a_condition_on_a_label_is_exact():
    assert matches("sourceLabels: {app: sleep}", labels={"app": "sleep", "v": "1"})
    assert not matches("sourceLabels: {app: sleep}", labels={"app": "sleeper"})
    assert not matches("sourceLabels: {app: sleep, v: '2'}", labels={"app": "sleep", "v": "1"})


def test_conditions_of_a_block_are_anded_and_blocks_are_ored():
    condition = "{headers: {a: {exact: '1'}, b: {exact: '1'}}}, {model: {exact: m}}"

    assert matches(condition, a="1", b="1")
    assert not matches(condition, a="1")
    assert matches(condition, body={"model": "m"})


@pytest.mark.parametrize("condition", ["", "{}", "{headers: {}}"])
def test_no_condition_always_holds(condition):
    assert matches(condition)


def test_a_pattern_of_a_user_takes_linear_time():
    condition = "headers: {x: {regex: '(a+)+(a+)+(a+)+b'}}"

    assert not matches(condition, x="a" * 100_000)


@given(st.text(max_size=20))
def test_a_regex_holds_for_any_text_without_raising(value):
    assert matches("headers: {x: {regex: '(?s).*'}}", x=value)


def test_the_first_rule_that_matches_wins():
    text = rule(f"- name: a\n  matches: [headers: {{x: {{exact: a}}}}]\n  {REFS}\n- name: b\n  {REFS}")
    snapshot = compiled(together(text, ALPHA)).require()

    names = [forwarded(view, snapshot).rule.name for view in (request(x="a"), request(x="b"))]

    assert names == ["a", "b"]


@pytest.mark.parametrize(
    "written", ["api.beta.example", "API.Beta.example", "api.beta.example.", "api.beta.example:443"]
)
def test_a_backend_names_its_provider_in_any_spelling(written):
    (backend,) = chat(rule(f"- backendRefs: [providerHost: {written}]")).rules[0].backends

    assert backend.provider.name == "default/beta"


@pytest.mark.parametrize(
    ("refs", "weights"),
    [
        ("[{providerHost: api.alpha.example}]", [1]),
        ("[{providerHost: api.alpha.example}, {providerHost: api.beta.example}]", [1, 1]),
        ("[{providerHost: api.alpha.example, weight: 3}, {providerHost: api.beta.example, weight: 0}]", [3, 0]),
        ("[{providerHost: api.alpha.example, weight: 1000000}]", [1000000]),
        ("[{providerHost: api.alpha.example, weight: 1}, {providerHost: api.alpha.example, weight: 2}]", [1, 2]),
    ],
)
def test_weights_are_as_written_or_equal(refs, weights):
    assert [backend.weight for backend in chat(rule(f"- backendRefs: {refs}")).rules[0].backends] == weights


def test_a_rule_without_more_has_the_defaults():
    (plain,) = chat(rule(f"- {REFS}")).rules

    assert (plain.name, plain.matches, plain.retry, plain.timeouts, plain.hash_on_header) == (
        None,
        (),
        None,
        Timeouts(),
        None,
    )


def test_what_a_rule_says_is_compiled():
    (full,) = chat(
        rule(
            f"""
            - name: full
              hashOn: {{header: X-User}}
              retry: {{attempts: 2, on: [reset, timeout], backoff: {{base: 100ms, max: 1m}}}}
              timeouts: {{connect: 1s, firstByte: 2s, streamIdle: 3s, request: 1m30s}}
              {REFS}
            """
        )
    ).rules

    assert full.hash_on_header == "x-user"
    assert full.retry == Retry(2, ("reset", "timeout"), 0.1, 60.0)
    assert full.timeouts == Timeouts(1.0, 2.0, 3.0, 90.0)


def test_a_rules_name_gives_its_backends_their_configuration():
    vip = provider(
        """
        host: api.alpha.example
        configs:
          defaultConfig: {openAIConfig: {model: small}}
          routeSpecificConfigs: {vip: {openAIConfig: {model: large}}}
        """
    )
    text = rule(f"- name: vip\n  matches: [headers: {{x: {{exact: a}}}}]\n  {REFS}\n- {REFS}")
    snapshot = compiled(together(text, vip)).require()

    models = [forwarded(view, snapshot).backend.config.model for view in (request(x="a"), request())]

    assert models == ["large", "small"]


WARNINGS = [
    (f"- name: a # here\n  {REFS}\n- name: b\n  {REFS}", "spec.rules[0]", "the rules after it are never used"),
    (
        f"- matches: [headers: {{x: {{exact: a}}}}]\n  {REFS}\n- matches: [{{}}] # here\n  {REFS}\n- {REFS}",
        "spec.rules[1]",
        "the rules after it are never used",
    ),
]


@pytest.mark.parametrize(("yaml", "field", "words"), WARNINGS, ids=["all", "empty block"])
def test_what_has_no_effect_is_a_warning(yaml, field, words):
    text = together(rule(yaml), ALPHA, BETA)

    compilation = compiled(text)

    (line,) = (number for number, written in enumerate(text.splitlines(), 1) if "# here" in written)
    (problem,) = compilation.problems
    assert (problem.severity, problem.line, problem.field) == (Severity.WARNING, line, field)
    assert words in problem.message
    assert compilation.snapshot is not None


@pytest.mark.parametrize(
    "yaml",
    [
        f"- retry: {{attempts: 1}}\n  {REFS}",
        f"- timeouts: {{request: 1s}}\n  {REFS}",
        f"- hashOn: {{header: x-user}}\n  {REFS}",
        "- backendRefs:\n  - providerHost: api.alpha.example\n  - {providerHost: api.beta.example, priority: 1}",
    ],
    ids=["retry", "timeouts", "hashOn", "priority"],
)
def test_what_is_acted_on_is_no_problem(yaml):
    assert compiled(together(rule(yaml), ALPHA, BETA)).problems == ()


def test_tiers_are_as_written():
    refs = "[{providerHost: api.alpha.example}, {providerHost: api.beta.example, priority: 7}]"

    assert [backend.priority for backend in chat(rule(f"- backendRefs: {refs}")).rules[0].backends] == [0, 7]


@pytest.mark.parametrize("written", ["", "{}", "{connect: 5s}"])
def test_timeouts_that_are_not_written_only_end_what_will_never_end(written):
    (found,) = chat(rule(f"- timeouts: {written}\n  {REFS}")).rules

    assert found.timeouts == Timeouts(
        connect_seconds=5.0, first_byte_seconds=600.0, stream_idle_seconds=600.0, request_seconds=3600.0
    )


def test_a_last_rule_that_always_matches_is_as_it_should_be():
    text = rule(f"- matches: [headers: {{x: {{exact: a}}}}]\n  {REFS}\n- {REFS}")

    assert compiled(together(text, ALPHA)).problems == ()


@pytest.mark.parametrize(
    ("gateways", "used", "warning"),
    [
        ("[mesh]", True, None),
        ("[]", True, None),
        ("null", True, None),
        ("[mesh, ingress]", True, "not applicable here: ingress; the route is used for mesh"),
        ("[ingress, egress]", False, "mesh is not among them, so the route is not used"),
    ],
)
def test_a_route_is_for_the_mesh(gateways, used, warning):
    text = route(f"host: chat\ngateways: {gateways}\nrules: [{{{REFS}}}]")

    compilation = compiled(together(text, ALPHA))

    assert ("chat" in compilation.require().hosts) is used
    assert [
        problem.message for problem in compilation.problems if warning is None or warning not in problem.message
    ] == []
    assert [(problem.line, problem.field, problem.severity) for problem in compilation.problems] == (
        [] if warning is None else [(6, "spec.gateways", Severity.WARNING)]
    )


def test_a_route_of_another_gateway_leaves_its_host_to_one_of_the_mesh():
    elsewhere = route(f"host: chat\ngateways: [ingress]\nrules: [{{{REFS}}}]", name="elsewhere")
    here = route(f"host: chat\nrules: [{{{REFS}}}]", name="here")

    for texts in ([elsewhere, here, ALPHA], [here, elsewhere, ALPHA]):
        assert compiled(*texts).require().hosts["chat"].name == "default/here"


def test_all_problems_of_a_route_are_reported():
    text = rule(
        """
        - name: a
          matches: [{headers: {x: {regex: '('}}}, {model: {regex: '['}}]
          backendRefs: [{providerHost: nobody}, {providerHost: api.alpha.example, weight: 0}]
        - name: a
          backendRefs: [{providerHost: nowhere, weight: 0}]
        """
    )

    problems = compiled(together(text, ALPHA)).problems

    assert [problem.field for problem in problems] == [
        "spec.rules[0].matches[0].headers.x.regex",
        "spec.rules[0].matches[1].model.regex",
        "spec.rules[0].backendRefs[0].providerHost",
        "spec.rules[0].backendRefs[0].weight",
        "spec.rules[1].name",
        "spec.rules[1].backendRefs",
        "spec.rules[1].backendRefs[0].providerHost",
    ]
