import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestream.control.bundling import Bundle, Bundling, InForce
from sidestream.control.files import STUB_LABEL, key_file
from sidestream.control.selecting import bundle_for, selector_of
from tests.control.cluster import MARKER, bundled, everything, files, from_yaml, key_for, keyed, mounted, to
from tests.policy.written import provider, route

ALPHA = "LLMProvider default/alpha"
CHAT = "LLMRoute default/chat"
SLEEP = "workloadSelector: {labels: {app: sleep}}"


def broken(**names: str) -> dict:
    return from_yaml(provider("host: api.alpha.example\nhosst: 1", **names))


def test_a_sidecar_reads_a_bundle_as_a_folder(tmp_path):
    made = bundled(keyed(), to("chat", "api.alpha.example"))

    snapshot = mounted(tmp_path, files(made))

    assert set(snapshot.hosts) >= {"api.alpha.example", "chat"}
    assert key_for(snapshot) == MARKER
    assert {verdict.in_force for verdict in made.verdicts.values()} == {InForce.CURRENT}


@pytest.mark.parametrize(
    ("key", "secrets"),
    [
        ("apiKeyFrom: {secretKeyRef: {name: keys, key: alpha}}", {"keys": {"alpha": MARKER}}),
        ("apiKeyFrom: {secretKeyRef: {name: keys, key: alpha}}", {"keys": {"alpha": f"{MARKER}\n"}}),
        ("apiKeyFrom: {env: ALPHA}", {"sidestream-keys": {"ALPHA": MARKER}}),
        ("apiKey: '${ALPHA}'", {"sidestream-keys": {"ALPHA": MARKER}}),
        (f"apiKey: {MARKER}", {}),
    ],
)
def test_a_key_is_in_a_file_of_its_own_and_nowhere_else(tmp_path, key, secrets):
    made = bundled(keyed(key=key), secrets=secrets)

    contents = files(made)

    assert key_for(mounted(tmp_path, contents)) == MARKER
    assert [name.partition("-")[0] for name, text in contents.items() if MARKER.encode() in text] == ["key"]
    assert MARKER not in everything(made)


def test_a_rule_has_its_own_key(tmp_path):
    configs = (
        "configs: {defaultConfig: {openAIConfig: {apiKeyFrom: {secretKeyRef: {name: keys, key: alpha}}}},"
        " routeSpecificConfigs: {all: {openAIConfig: {apiKeyFrom: {secretKeyRef: {name: keys, key: beta}}}}}}"
    )
    document = from_yaml(provider(f"host: api.alpha.example\n{configs}"))

    snapshot = mounted(tmp_path, files(bundled(document, to("chat", "api.alpha.example"))))

    assert snapshot.hosts["chat"].rules[0].backends[0].config.key.reveal() == "sk-beta"


def test_the_key_of_a_selected_workload_is_only_in_its_bundle(tmp_path):
    made = bundled(keyed(more=SLEEP), keyed("api.beta.example", "apiKey: sk-all", name="beta"))

    everyone, selected = made.bundles

    assert MARKER.encode() not in b"".join(everyone.files.values())
    assert MARKER.encode() in b"".join(selected.files.values())
    assert set(mounted(tmp_path, dict(everyone.files), {"app": "sleep"}).hosts) == {"api.beta.example"}
    for_sleep = mounted(tmp_path, dict(selected.files), {"app": "sleep"})
    assert set(for_sleep.hosts) == {"api.alpha.example", "api.beta.example"}


def test_a_route_to_a_provider_of_others_still_compiles_for_everyone(tmp_path):
    made = bundled(
        keyed(more=SLEEP), keyed("api.beta.example", name="beta"), to("chat", "api.alpha.example", "api.beta.example")
    )

    snapshot = mounted(tmp_path, files(made), {"app": "other"})

    assert [backend.provider.host for backend in snapshot.hosts["chat"].rules[0].backends] == ["api.beta.example"]


def test_an_invalid_document_takes_no_valid_one_down(tmp_path):
    made = bundled(broken(), keyed("api.beta.example", name="beta"))

    assert set(mounted(tmp_path, files(made)).hosts) == {"api.beta.example"}
    assert made.verdicts[ALPHA].in_force is InForce.NONE
    (problem,) = made.verdicts[ALPHA].problems
    assert (problem.field, problem.message) == ("spec.hosst", "unknown field (did you mean 'host'?)")


def test_a_document_that_became_invalid_stays_as_it_was(tmp_path):
    before = bundled(keyed(), to("chat", "api.alpha.example"))

    made = bundled(broken(), to("chat", "api.alpha.example"), before=before)

    assert key_for(mounted(tmp_path, files(made))) == MARKER
    assert made.verdicts[ALPHA].in_force is InForce.LAST_GOOD
    assert made.verdicts[CHAT].in_force is InForce.CURRENT


def test_the_last_good_version_outlives_further_changes_and_rotated_keys(tmp_path):
    before = bundled(keyed())
    for _ in range(3):
        before = bundled(broken(), secrets={}, before=before)

    assert key_for(mounted(tmp_path, files(before))) == MARKER


def test_a_rotated_key_reaches_a_last_good_version_too(tmp_path):
    before = bundled(keyed())
    broken_now = keyed(more="hosst: 1")

    made = bundled(broken_now, secrets={"keys": {"alpha": "sk-rotated"}}, before=before)
    without = bundled(broken_now, secrets={"keys": {"alpha": "two words"}}, before=made)

    assert made.verdicts[ALPHA].in_force is InForce.LAST_GOOD
    assert key_for(mounted(tmp_path, files(made))) == "sk-rotated"
    assert key_for(mounted(tmp_path, files(without))) == "sk-rotated"


def test_of_two_documents_with_one_host_the_older_has_it(tmp_path):
    made = bundled(
        keyed(name="alpha", key="apiKey: sk-young"),
        keyed(name="omega", key="apiKey: sk-old"),
        ages=("2026-02", "2026-01"),
    )

    assert key_for(mounted(tmp_path, files(made))) == "sk-old"
    (problem,) = made.verdicts[ALPHA].problems
    assert problem.message == (
        "host 'api.alpha.example' is that of LLMProvider default/omega, which is older: keep one of them"
    )


def test_a_host_of_an_older_invalid_document_is_free():
    made = bundled(broken(name="old"), keyed(), ages=("2026-01", "2026-02"))

    assert made.verdicts[ALPHA].in_force is InForce.CURRENT


def test_a_deleted_key_stays_and_says_so(tmp_path):
    before = bundled(keyed())

    made = bundled(keyed(), secrets={}, before=before)

    assert key_for(mounted(tmp_path, files(made))) == MARKER
    assert made.verdicts[ALPHA].in_force is InForce.CURRENT
    assert made.verdicts[ALPHA].kept_keys == (
        "there is no Secret 'keys' in this namespace: create it with the key 'alpha'; the last good key stays in force",
    )


def test_a_rotated_key_is_the_new_one(tmp_path):
    before = bundled(keyed())

    made = bundled(keyed(), secrets={"keys": {"alpha": "sk-rotated"}}, before=before)

    assert key_for(mounted(tmp_path, files(made))) == "sk-rotated"


def test_a_document_whose_key_was_never_there_waits_for_it():
    made = bundled(keyed(), keyed("api.beta.example", "apiKey: sk-b", name="beta"), secrets={})

    assert made.verdicts[ALPHA].in_force is InForce.NONE
    assert [problem.field for problem in made.verdicts[ALPHA].unresolved] == [
        "spec.configs.defaultConfig.openAIConfig.apiKeyFrom"
    ]
    assert made.verdicts["LLMProvider default/beta"].in_force is InForce.CURRENT


def test_a_document_may_not_name_the_files_of_a_bundle():
    before = bundled(keyed())
    (file,) = (name for name in files(before) if name.startswith("key-"))

    made = bundled(keyed("api.beta.example", f"apiKeyFrom: {{file: {file}}}", name="beta"), before=before)

    assert made.verdicts["LLMProvider default/beta"].in_force is InForce.NONE


def test_a_deleted_provider_stays_while_a_route_needs_it(tmp_path):
    before = bundled(keyed(), to("chat", "api.alpha.example"))

    made = bundled(to("chat", "api.alpha.example"), before=before)
    after = bundled(before=made)

    assert mounted(tmp_path, files(made)).governs("chat")
    assert made.kept_for_routes == (ALPHA,)
    assert [problem.field for problem in made.verdicts[CHAT].unresolved] == [
        "spec.rules[0].backendRefs[0].providerHost"
    ]
    assert files(after) == {}


def test_a_deleted_provider_that_a_route_names_stays_too(tmp_path):
    named = "{group: istio.alibabacloud.com, kind: LLMProvider, name: alpha}"
    by_name = from_yaml(route(f"host: chat\nrules: [{{backendRefs: [{{backendRef: {named}}}]}}]"))
    before = bundled(keyed(), by_name)

    made = bundled(by_name, before=before)

    assert key_for(mounted(tmp_path, files(made))) == MARKER
    assert [problem.field for problem in made.verdicts[CHAT].unresolved] == [
        "spec.rules[0].backendRefs[0].backendRef.name"
    ]


def test_the_bundle_of_a_selector_that_is_gone_is_kept_up():
    before = bundled(keyed(more=SLEEP))

    made = bundled(keyed(), before=before)

    assert [part.name for part in made.bundles] == [part.name for part in before.bundles]
    assert made.bundles[0].files == made.bundles[1].files


def test_pods_that_a_document_selects_have_their_bundle_though_it_is_not_in_force():
    waiting = keyed(more=SLEEP, key="apiKeyFrom: {secretKeyRef: {name: gone, key: k}}")

    made = bundled(waiting, keyed("api.beta.example", name="beta"))

    assert made.verdicts[ALPHA].in_force is InForce.NONE
    name = bundle_for([selector_of(waiting)], {"app": "sleep"})
    assert "llmprovider.beta.yaml" in files(made, name)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("llmprovider.x.yaml", b'{"metadata": {"name": "x"}}'),
        ("llmprovider.x.yaml", b'{"kind": "LLMProvider", "metadata": {"name": "x"}}'),
        ("llmprovider.x.yaml", b'{"kind": 1, "metadata": {"name": "x", "namespace": "default"}}'),
        ("llmprovider.x.yaml", b"[" * 100_000),
        (key_file("keys", "alpha"), b"\xff"),
        (key_file("keys", "alpha"), b"two\nlines"),
    ],
)
def test_what_someone_else_wrote_into_a_bundle_is_put_right(name, content):
    before = bundled(keyed("api.beta.example", name="beta"))
    meddled = Bundle("sidestream-policy", frozenset(), before.bundles[0].files | {name: content})

    made = bundled(
        keyed(),
        keyed("api.beta.example", "apiKey: sk-b", name="beta"),
        secrets={},
        before=Bundling((meddled,), {}),
    )

    assert made.verdicts["LLMProvider default/beta"].in_force is InForce.CURRENT
    assert files(made).get(name) != content


def test_a_stub_label_of_a_user_leaves_nobody_out_but_that_provider():
    document = keyed(more=f"workloadSelector: {{labels: {{{STUB_LABEL}: 'true'}}}}")

    made = bundled(document, keyed("api.beta.example", name="beta"))

    assert made.verdicts["LLMProvider default/beta"].in_force is InForce.CURRENT


DOCUMENTS = [
    keyed(),
    broken(),
    keyed(key="apiKey: sk-lit"),
    keyed(more=SLEEP),
    keyed("api.beta.example", name="beta"),
    keyed("api.alpha.example", name="beta"),
    to("chat", "api.alpha.example"),
    to("chat", "api.beta.example"),
    to("chat", "api.gone.example"),
]
SECRETS = [{}, {"keys": {"alpha": MARKER}}, {"keys": {"alpha": "two words"}}]
STATES = st.lists(
    st.tuples(
        st.lists(st.sampled_from(DOCUMENTS), max_size=4, unique_by=lambda d: (d["kind"], d["metadata"]["name"])),
        st.sampled_from(SECRETS),
    ),
    min_size=1,
    max_size=4,
)


@given(STATES)
@settings(max_examples=25, deadline=None)
def test_whatever_happens_every_bundle_compiles(tmp_path_factory, states):
    made = None
    for documents, secrets in states:
        made = bundled(*documents, secrets=secrets, before=made)
        again = bundled(*documents, secrets=secrets, before=made)

        assert {part.name: part.files for part in again.bundles} == {part.name: part.files for part in made.bundles}
        assert again.verdicts == made.verdicts
        for part in made.bundles:
            labels = {name: value for selector in part.selection for name, value in selector}
            mounted(tmp_path_factory.getbasetemp() / "any", dict(part.files), labels)


@given(st.permutations([keyed(), broken(name="broken"), keyed("api.beta.example", name="beta"), DOCUMENTS[6]]))
@settings(max_examples=20, deadline=None)
def test_the_order_of_documents_changes_nothing(documents):
    assert bundled(*documents).bundles == bundled(keyed(), broken(name="broken"), DOCUMENTS[4], DOCUMENTS[6]).bundles
