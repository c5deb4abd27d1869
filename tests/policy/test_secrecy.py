"""A key that stands in a policy, a variable or a file shows nowhere."""

import logging
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestream.core.planning import plan
from sidestream.policy.places import Text
from sidestream.policy.problems import PolicyError, Severity
from sidestream.policy.reading import read_documents
from sidestream.sources.folder import Folder
from sidestream.sources.watching import PolicyWatch
from tests.policy.written import compiled, config, forwarded, provider, request, route, together

MARKER = "sk-marker-4f1c9a"
VIP = route("host: chat\nrules: [{name: vip, backendRefs: [{providerHost: api.alpha.example}]}]")
FIELDS = {
    "literal": "apiKey: {key}",
    "variable": "apiKey: ${{K}}",
    "env": "apiKeyFrom: {{env: K}}",
    "file": "apiKeyFrom: {{file: key}}",
}
FAULTS = [
    "",
    "\npath: v1",
    "\nxyzzy: 1",
    "\nhost: twice.example",
    "\nendpoint: {tls: {caFile: nowhere}}",
    "\n\t",
    "\nx: [",
    "\nx: \x07",
]


def text_with(field: str, key: str, *, rule_specific: bool, fault: str = "") -> str:
    written = FIELDS[field].format(key=key)
    place = "routeSpecificConfigs:\n    vip:\n" if rule_specific else "defaultConfig:\n"
    indent = "    " if rule_specific else "  "
    spec = f"host: api.alpha.example\nconfigs:\n  {place}{indent}  openAIConfig:\n{indent}    {written}{fault}"
    return together(VIP, provider(spec))


@pytest.mark.parametrize("rule_specific", [False, True])
@pytest.mark.parametrize("field", FIELDS)
def test_a_key_is_in_the_plan_and_in_no_representation(tmp_path, field, rule_specific):
    (tmp_path / "key").write_text(f"{MARKER}\n")
    text = text_with(field, MARKER, rule_specific=rule_specific)

    compilation = compiled(text, environment={"K": MARKER}, folder=tmp_path)
    snapshot = compilation.require()
    forward = forwarded(request("chat"), snapshot)
    planned = plan(forward, request("chat"))

    shown = [compilation, snapshot, forward, planned, snapshot.for_workload({}), *snapshot.hosts.values()]
    assert planned.attempt.key.reveal() == MARKER
    assert [thing for thing in shown if MARKER in f"{thing!r} {thing}"] == []
    assert [problem for problem in compilation.problems if MARKER in f"{problem!r} {problem} {problem.as_dict()}"] == []


@pytest.mark.parametrize("field", FIELDS)
def test_a_key_can_be_saved_by_nobody(tmp_path, field):
    (tmp_path / "key").write_text(MARKER)
    snapshot = compiled(config(FIELDS[field].format(key=MARKER)), environment={"K": MARKER}, folder=tmp_path).require()

    with pytest.raises(TypeError):
        pickle.dumps(snapshot.hosts["api.alpha.example"].config)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("field", FIELDS)
def test_a_policy_with_a_fault_shows_no_key(tmp_path, field, fault):
    (tmp_path / "key").write_text(MARKER)
    (tmp_path / "policy.yaml").write_text(text_with(field, MARKER, rule_specific=False, fault=fault))

    compilation = Folder(tmp_path / "policy.yaml", {"K": MARKER}).read().compilation

    assert MARKER not in f"{compilation!r} {[str(problem) for problem in compilation.problems]}"
    if compilation.snapshot is None:
        with pytest.raises(PolicyError) as raised:
            compilation.require()
        assert MARKER not in f"{raised.value} {raised.value!r}"


@pytest.mark.parametrize("key", [f"{MARKER} x", f"{MARKER}\nx: y", f"{MARKER}é", f"${{{MARKER}", f"{MARKER}${{K}}"])
def test_a_key_that_is_refused_is_not_shown(tmp_path, key):
    (tmp_path / "key").write_text(key)
    literal = key.replace("\n", "\\n")
    texts = [
        config(f'apiKey: "{literal}"'),
        config("apiKey: ${K}"),
        config("apiKeyFrom: {env: K}"),
        config("apiKeyFrom: {file: key}"),
    ]

    problems = [
        problem for text in texts for problem in compiled(text, environment={"K": key}, folder=tmp_path).problems
    ]

    assert problems
    assert [problem for problem in problems if MARKER in str(problem)] == []


def test_documents_as_read_show_no_key():
    read = read_documents([Text("1.yaml", "", config(f"apiKey: {MARKER}").encode())])

    assert read.providers[0].document.spec.configs.default_config.open_ai_config.api_key == MARKER
    assert MARKER not in f"{read!r} {read} {read.providers[0]!r} {read.providers[0].document!r}"


def test_a_watch_logs_no_key(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    policy = tmp_path / "policy.yaml"
    policy.write_text(config(f"apiKey: {MARKER}"))

    watch = PolicyWatch(Folder(tmp_path, {}), {})
    policy.write_text(config(f"apiKey: {MARKER}\nxyzzy: 1"))
    watch.refresh()

    assert watch.status.failures == 1
    assert len(caplog.records) >= 4
    assert MARKER not in caplog.text
    assert MARKER not in repr([vars(record) for record in caplog.records])
    assert MARKER not in f"{watch.status!r} {watch.snapshot!r}"


def revision(text: str, key: str, folder) -> str:
    (folder / "key").write_text(key)
    return compiled(text, environment={"K": key}, folder=folder).require().revision


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("keys")


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(sorted(FIELDS)),
    st.booleans(),
    *[st.text("abcXYZ0189-_", min_size=1).map("sk-".__add__)] * 2,
)
def test_a_revision_does_not_depend_on_a_key(folder, field, rule_specific, one, other):
    texts = [text_with(field, key, rule_specific=rule_specific) for key in (one, other)]

    assert revision(texts[0], one, folder) == revision(texts[1], other, folder)


def test_a_missing_key_is_reported_without_what_is_there():
    compilation = compiled(config("apiKey: ${K}"), environment={"OTHER": MARKER}, missing_key=Severity.WARNING)

    assert MARKER not in repr(compilation)
