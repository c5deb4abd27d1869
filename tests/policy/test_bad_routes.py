"""What is wrong with a route is reported with file, line, document, field, and what to do."""

import pytest

from sidestream.policy.documents import API_GROUP
from tests.policy.bad import ALPHA, Bad, bad, bad_match, bad_rule, check, named
from tests.policy.written import provider, route, rule, together

POOLS = "inference.networking.x-k8s.io"
REFS = "backendRefs: [providerHost: api.alpha.example]"

ROUTES = [
    bad("no rules", route("host: chat").replace("spec:", "spec: # here"), "spec.rules", "is required"),
    bad("an empty list of rules", route("host: chat\nrules: [] # here"), "spec.rules", "must not be empty"),
    bad("rules that are a mapping", route("host: chat\nrules: {a: 1} # here"), "spec.rules", "must be a list"),
    bad(
        "a host with a port",
        together(route(f"host: chat:80 # here\nrules: [{{{REFS}}}]"), ALPHA),
        "spec.host",
        "no host",
        "port",
    ),
    bad(
        "gateways as one word",
        together(route(f"host: chat\ngateways: mesh # here\nrules: [{{{REFS}}}]"), ALPHA),
        "spec.gateways",
        "must be a list",
    ),
    bad_rule("no backendRefs", "- name: a # here", ".backendRefs", "is required"),
    bad_rule("an empty list of backendRefs", "- backendRefs: [] # here", ".backendRefs", "must not be empty"),
    bad_rule(
        "a field with a typing error",
        "- backendrefs: [] # here\n  " + REFS,
        ".backendrefs",
        "did you mean 'backendRefs'?",
    ),
    bad_rule(
        "a backend without a host",
        "- backendRefs: [weight: 1] # here",
        ".backendRefs[0]",
        "exactly one of providerHost, backendRef must be given, found none",
    ),
    bad_rule(
        "a backend by host and as an object",
        "- backendRefs:\n  - {providerHost: api.alpha.example, backendRef: {name: a, port: 80}} # here",
        ".backendRefs[0]",
        "found providerHost and backendRef",
    ),
    bad_rule(
        "an object that is no backend",
        f"- backendRefs:\n  - backendRef: {{group: {POOLS}, kind: InferencePool, name: a}} # here",
        ".backendRefs[0].backendRef.kind",
        f"InferencePool of group '{POOLS}' is not known here",
        "Service of group ''",
    ),
    bad_rule(
        "a Service without a port",
        "- backendRefs:\n  - backendRef: {name: vllm} # here",
        ".backendRefs[0].backendRef.port",
        "is required for a Service",
    ),
    bad_rule(
        "a Service whose name is none",
        "- backendRefs:\n  - backendRef: {name: a/b, port: 80} # here",
        ".backendRefs[0].backendRef.name",
        "'a/b' is no name of a Service",
    ),
    bad_rule(
        "a provider by a wrong name",
        f"- backendRefs:\n  - backendRef: {{group: {API_GROUP}, kind: LLMProvider, name: alhpa}} # here",
        ".backendRefs[0].backendRef.name",
        "there is no LLMProvider 'default/alhpa'",
        "did you mean 'default/alpha'?",
    ),
    bad_rule(
        "a provider with a typing error",
        "- backendRefs:\n  - providerHost: api.alhpa.example # here",
        ".backendRefs[0].providerHost",
        "no LLMProvider has host 'api.alhpa.example'",
        "did you mean 'api.alpha.example'?",
    ),
    bad_rule(
        "a provider with a scheme",
        "- backendRefs:\n  - providerHost: https://api.alpha.example/v1 # here",
        ".backendRefs[0].providerHost",
        "no LLMProvider has host 'https://api.alpha.example/v1'",
        "did you mean 'api.alpha.example'?",
    ),
    bad_rule(
        "a provider that is like no other",
        "- backendRefs:\n  - providerHost: zzz # here",
        ".backendRefs[0].providerHost",
        "no LLMProvider has host 'zzz'",
    ),
    bad(
        "a rule of the same name",
        together(rule(f"- name: a\n  {REFS}\n- name: a # here\n  {REFS}"), ALPHA),
        "spec.rules[1].name",
        "'a' is the name of another rule",
        "rename",
    ),
    bad_rule("an empty name", f"- name: '' # here\n  {REFS}", ".name", "must not be empty"),
    bad_rule(
        "a header with a space",
        f"- matches: [headers: {{user type: {{exact: a}}}}] # here\n  {REFS}",
        ".matches[0].headers.user type",
        "no header name",
    ),
    bad_rule(
        "a header that is a number",
        f"- matches: [headers: {{7: {{exact: a}}}}] # here\n  {REFS}",
        ".matches[0].headers[7]",
        "must be text",
    ),
    bad_rule(
        "matches that are a mapping", f"- matches: {{headers: {{}}}} # here\n  {REFS}", ".matches", "must be a list"
    ),
    bad_rule(
        "a label that is a number",
        f"- matches: [sourceLabels: {{v: 2}}] # here\n  {REFS}",
        ".matches[0].sourceLabels.v",
        "must be text",
    ),
    bad_rule(
        "hashing on a header with a colon",
        f"- hashOn: {{header: 'x-user:'}} # here\n  {REFS}",
        ".hashOn.header",
        "no header name",
    ),
    bad_match("a number without quotes", "{exact: 1}", ".exact", "must be text", "put it in quotes"),
    bad_match("true without quotes", "{exact: true}", ".exact", "must be text", "put it in quotes"),
    bad_match("a word instead of a condition", "subscriber", "", "must be a mapping"),
    bad_match(
        "two conditions",
        "{exact: a, prefix: a}",
        "",
        "exactly one of exact, prefix, regex, present",
        "found exact and prefix",
    ),
    bad_match("no condition", "{}", "", "exactly one of", "found none"),
    bad_match("an unknown condition", "{prefx: a}", ".prefx", "unknown field", "did you mean 'prefix'?"),
    bad_match("an empty prefix", "{prefix: ''}", ".prefix", "must not be empty"),
    bad_match("an empty regex", "{regex: ''}", ".regex", "must not be empty"),
    bad_match("a backreference", "{regex: '(a)\\1'}", ".regex", "no RE2 expression", "invalid escape sequence"),
    bad_match("a lookahead", "{regex: 'a(?=b)'}", ".regex", "no RE2 expression", "(?="),
    bad_match("a bracket that never closes", "{regex: '[a'}", ".regex", "no RE2 expression", "missing ]"),
    bad_match("repetition without end", "{regex: '(a{1000}){1000}'}", ".regex", "no RE2 expression"),
    bad_match("presence as text", "{present: 'yes'}", ".present", "true or false"),
]

RULES = [
    *(
        bad_rule(
            f"a weight that is {name}",
            f"- backendRefs: [{{providerHost: api.alpha.example, weight: {weight}}}] # here",
            ".backendRefs[0].weight",
            *words,
        )
        for name, weight, words in [
            ("text", "'50'", ("whole number", "without quotes")),
            ("a share", "0.5", ("whole number",)),
            ("a percentage", "50%", ("whole number",)),
            ("true", "true", ("whole number",)),
            ("negative", "-1", ("greater than or equal to 0",)),
            ("huge", "1000001", ("less than or equal to 1000000",)),
        ]
    ),
    bad_rule(
        "no weight for anybody",
        "- backendRefs: # here\n" + 2 * "  - {providerHost: api.alpha.example, weight: 0}\n",
        ".backendRefs",
        "all weights are 0",
        "give one a weight",
    ),
    bad_rule(
        "no weight for a single backend",
        "- backendRefs: [{providerHost: api.alpha.example, weight: 0}] # here",
        ".backendRefs",
        "all weights are 0",
    ),
    bad_rule(
        "no weight for a tier",
        "- backendRefs: # here\n  - {providerHost: api.alpha.example, weight: 1}\n"
        "  - {providerHost: api.alpha.example, weight: 0, priority: 1}",
        ".backendRefs",
        "all weights of priority 1 are 0",
    ),
    bad_rule(
        "a weight that is missing",
        "- backendRefs:\n  - {providerHost: api.alpha.example, weight: 1}\n  - providerHost: api.alpha.example # here",
        ".backendRefs[1].weight",
        "is missing",
        "every backend a weight, or none",
    ),
    bad_rule(
        "a negative priority",
        "- backendRefs: [{providerHost: api.alpha.example, priority: -1}] # here",
        ".backendRefs[0].priority",
        "greater than or equal to 0",
    ),
    bad_rule("a retry without a number", f"- retry: {{}} # here\n  {REFS}", ".retry.attempts", "is required"),
    bad_rule(
        "a retry of too many",
        f"- retry: {{attempts: 11}} # here\n  {REFS}",
        ".retry.attempts",
        "less than or equal to 10",
    ),
    bad_rule(
        "a retry on nothing known",
        f"- retry: {{attempts: 1, on: [5xx]}} # here\n  {REFS}",
        ".retry.on[0]",
        "'connect-failure'",
    ),
    *(
        bad_rule(
            f"a duration of {written}",
            f"- timeouts: {{request: {written}}} # here\n  {REFS}",
            ".timeouts.request",
            words,
        )
        for written, words in [
            ("60", "a number and a unit"),
            ("'60'", "a number and a unit"),
            ("1 s", "a number and a unit"),
            ("-1s", "a number and a unit"),
            ("1d", "a number and a unit"),
            ("s", "a number and a unit"),
            ("''", "a number and a unit"),
            ("1s2", "a number and a unit"),
            ("[1s]", "a number and a unit"),
            ("0s", "longer than nothing"),
            ("0ms", "longer than nothing"),
        ]
    ),
    bad_rule(
        "a time-out that there is not", f"- timeouts: {{idle: 1s}} # here\n  {REFS}", ".timeouts.idle", "unknown field"
    ),
]

TWINS = [
    bad(
        "two providers for a host",
        together(provider(), provider("host: API.alpha.example. # here", name="beta")),
        "spec.host",
        "'api.alpha.example' is that of LLMProvider default/alpha in 1.yaml",
        "keep one",
        document="LLMProvider default/beta",
    ),
    bad(
        "two routes for a host",
        together(
            route(f"host: chat\nrules: [{{{REFS}}}]"),
            route(f"host: chat # here\nrules: [{{{REFS}}}]", name="other"),
            ALPHA,
        ),
        "spec.host",
        "'chat' is that of LLMRoute default/chat in 1.yaml",
        document="LLMRoute default/other",
    ),
    bad(
        "two providers of one name",
        together(provider(), provider("host: b.example").replace("alpha, namespace: default}", "alpha} # here")),
        "metadata.name",
        "another document in 1.yaml has this name",
        "rename or remove one",
    ),
]


@pytest.mark.parametrize("case", [*ROUTES, *RULES, *TWINS], ids=named)
def test_one_error_is_reported_once_at_its_place_with_what_to_do(case: Bad):
    check(case)
