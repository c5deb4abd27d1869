import json
import logging

import pytest

from sidestream.control.reconciling import Reconciler
from sidestream.sources.folder import Folder
from sidestream.sources.watching import PolicyWatch
from tests.control.cluster import MARKER, keyed, secret, to
from tests.kubernetes.apiserver import Faults
from tests.kubernetes.clusters import controlling, governed, mount, pod, revision

SLEEP = "workloadSelector: {labels: {app: sleep}}"


def programmed(server, kind="LLMProvider", name="alpha", generation=1) -> bool:
    found = server.condition(kind, name, "Programmed")
    return found.get("status") == "True" and found.get("observedGeneration") == generation


def logged(caplog) -> str:
    """Everything that was logged, fields too."""
    return repr([vars(record) for record in caplog.records])


def key_in(server, bundle="sidestream-policy") -> set[str]:
    return {text.decode() for name, text in server.files(bundle).items() if name.startswith("key-")}


def test_what_is_created_changed_and_deleted_is_in_the_bundle(server, tmp_path):
    with controlling(server):
        server.apply(secret())
        server.apply(keyed())
        server.apply(to("chat", "api.alpha.example"))
        server.wait(lambda: programmed(server) and programmed(server, "LLMRoute", "chat"))
        created = governed(server, tmp_path)

        server.apply(to("talk", "api.alpha.example"))
        server.wait(lambda: programmed(server, "LLMRoute", "chat", generation=2))
        changed = governed(server, tmp_path)

        server.remove("LLMRoute", "chat")
        server.wait(lambda: "llmroute.chat.yaml" not in server.files())
        without_route = governed(server, tmp_path)

        server.remove("LLMProvider", "alpha")
        server.wait(lambda: not server.files())

    assert {"chat", "api.alpha.example"} <= created
    assert {"talk", "api.alpha.example"} <= changed
    assert "chat" not in changed
    assert without_route == {"api.alpha.example"}


def test_what_a_sidecar_has_in_force_follows_its_bundle(server, tmp_path):
    server.apply(keyed(key="apiKey: sk-a"))
    with controlling(server):
        server.wait(lambda: programmed(server))
        mount(server, tmp_path)
        sidecar = PolicyWatch(Folder(tmp_path, {}), {"app": "sleep"})
        server.apply(to("chat", "api.alpha.example"))
        server.wait(lambda: programmed(server, "LLMRoute", "chat"))
        mount(server, tmp_path)

        assert sidecar.refresh()
        assert sidecar.snapshot.governs("chat")


def test_a_status_is_written_once_per_generation(server):
    server.apply(secret())
    with controlling(server):
        for generation in range(1, 4):
            server.apply(keyed(key=f"model: m{generation}, apiKeyFrom: {{secretKeyRef: {{name: keys, key: alpha}}}}"))
            server.wait(lambda generation=generation: programmed(server, generation=generation))
            server.drop_watches()
            server.apply(secret(alpha=f"sk-{generation}"))
            server.wait(lambda generation=generation: key_in(server) == {f"sk-{generation}"})

    assert server.count("patch", "llmproviders/status") == 3


def test_after_a_restart_nothing_is_written(server):
    server.apply(secret())
    server.apply(keyed())
    with controlling(server):
        server.wait(lambda: programmed(server))
    before = server.counted()
    with controlling(server) as control:
        server.apply(keyed("api.beta.example", "apiKey: sk-b", name="beta"))
        server.wait(lambda: programmed(server, name="beta"))
        assert control.ready

    after = server.counted() - before
    assert (after["create secrets"], after["update secrets"], after["patch llmproviders/status"]) == (0, 1, 1)


def test_a_rotated_key_reaches_the_bundle(server):
    server.apply(secret())
    server.apply(keyed())
    with controlling(server):
        server.wait(lambda: key_in(server) == {MARKER})
        server.apply(secret(alpha="sk-rotated"))
        server.wait(lambda: key_in(server) == {"sk-rotated"})


def test_a_deleted_secret_keeps_the_last_good_key_and_says_so(server, caplog):
    server.apply(secret())
    server.apply(keyed())
    with controlling(server):
        server.wait(lambda: programmed(server))
        server.remove("Secret", "keys")
        resolved = server.wait(
            lambda: (found := server.condition("LLMProvider", "alpha", "ResolvedRefs"))["status"] == "False" and found
        )
        assert key_in(server) == {MARKER}
        assert programmed(server)

        server.apply(secret(alpha="sk-back"))
        server.wait(lambda: key_in(server) == {"sk-back"})
        server.wait(lambda: server.condition("LLMProvider", "alpha", "ResolvedRefs")["status"] == "True")

    assert resolved["reason"] == "LastGoodKey"
    (told,) = [record for record in caplog.records if "last good key" in record.getMessage()]
    assert told.levelname == "WARNING"
    assert "Secret 'keys'" in told.getMessage()


def test_a_key_that_comes_after_its_document_is_waited_for(server):
    server.apply(keyed())
    with controlling(server):
        server.wait(lambda: server.condition("LLMProvider", "alpha", "Programmed").get("status") == "False")
        server.apply(secret())
        server.wait(lambda: programmed(server))


def test_a_secret_that_was_there_before_its_document_is_fetched(server):
    server.apply(secret())
    with controlling(server):
        server.apply(keyed())
        server.wait(lambda: programmed(server))

    assert server.count("get", "secrets") == 1


def test_an_invalid_document_takes_no_valid_one_down(server, tmp_path):
    server.apply(keyed(key="apiKey: sk-a"))
    server.apply(keyed("api.beta.example", "apiKey: sk-b", name="beta"))
    with controlling(server):
        server.wait(lambda: programmed(server) and programmed(server, name="beta"))
        broken = keyed(key="apiKey: sk-a")
        broken["spec"]["hosst"] = 1
        server.apply(broken)
        accepted = server.wait(
            lambda: (found := server.condition("LLMProvider", "alpha", "Accepted"))["status"] == "False" and found
        )

        assert governed(server, tmp_path) == {"api.alpha.example", "api.beta.example"}
        assert accepted["message"] == "spec.hosst: unknown field (did you mean 'host'?)"
        assert server.condition("LLMProvider", "alpha", "Programmed")["reason"] == "LastGood"
        assert programmed(server, name="beta")


def test_a_pod_of_an_injected_namespace_can_start_before_there_are_policies(server):
    server.apply({"kind": "Namespace", "metadata": {"name": "default", "labels": {"sidestream.dev/inject": "true"}}})
    server.apply({"kind": "Namespace", "metadata": {"name": "other"}})
    with controlling(server):
        server.wait(lambda: server.get("Secret", "sidestream-policy"))

    assert server.get("Secret", "sidestream-policy", "other") is None


def test_pods_are_nudged_when_their_bundle_changed(server):
    server.apply(pod("here"))
    server.apply(pod("elsewhere", namespace="other"))
    server.apply(pod("without", "some-secret"))
    server.apply(pod("over") | {"status": {"phase": "Succeeded"}})
    server.apply(keyed(key="apiKey: sk-a"))
    with controlling(server):
        first = server.wait(lambda: revision(server, "here"))
        server.apply(keyed(key="apiKey: sk-b"))
        second = server.wait(lambda: (found := revision(server, "here")) != first and found)

    assert second == server.get("Secret", "sidestream-policy")["metadata"]["resourceVersion"]
    assert server.count("patch", "pods") == 2


def test_no_call_but_the_nudge_grows_with_the_number_of_pods(server):
    counted = []
    for pods in (1, 20):
        for number in range(pods):
            server.apply(pod(f"pod-{number}"))
        server.calls.clear()
        with controlling(server):
            server.apply(keyed(key=f"apiKey: sk-{pods}"))
            server.wait(lambda pods=pods: server.count("patch", "pods") == pods)
        counted.append({call: number for call, number in server.counted().items() if call.split()[0] != "watch"})
        server.remove("LLMProvider", "alpha")
        server.remove("Secret", "sidestream-policy")

    assert counted[0] | {"patch pods": 20} == counted[1]


def test_the_bundle_of_a_selector_is_deleted_when_nobody_asks_for_it_and_no_pod_mounts_it(server, caplog):
    server.apply(keyed(key="apiKey: sk-a", more=SLEEP))
    with controlling(server) as control:
        server.wait(lambda: programmed(server))
        name = control.bundle_for("default", {"app": "sleep"})
        server.apply(pod("sleep", name, app="sleep"))
        server.apply(keyed(key="apiKey: sk-b"))
        server.wait(lambda: key_in(server, name) == {"sk-b"})
        server.wait(lambda: "restart them" in caplog.text)

        server.remove("Pod", "sleep")
        server.apply(keyed(key="apiKey: sk-c"))
        server.wait(lambda: server.get("Secret", name) is None)
        server.wait(lambda: key_in(server) == {"sk-c"})


@pytest.mark.parametrize("fault", ["conflicts", "errors", "broken_lines", "refused_watches", "empty_watches"])
def test_what_goes_wrong_is_done_again(server, fault, monkeypatch):
    monkeypatch.setattr("sidestream.control.controlling.RETRY_SECONDS", (0.01, 0.05))
    server.apply(secret())
    server.apply(keyed())
    with controlling(server):
        server.wait(lambda: programmed(server))
        server.faults = Faults(**{fault: 3})
        server.drop_watches()
        server.apply(secret(alpha="sk-rotated"))
        server.apply(keyed("api.other.example"))
        server.wait(lambda: programmed(server, generation=2) and key_in(server) == {"sk-rotated"})


def test_a_bug_in_one_namespace_holds_up_no_other_and_quotes_nothing(server, monkeypatch, caplog):
    monkeypatch.setattr("sidestream.control.controlling.RETRY_SECONDS", (0.01, 0.05))
    plan = Reconciler.plan

    def stumble(self, namespace, **how):
        if namespace == "a-first":
            raise RuntimeError(MARKER)
        return plan(self, namespace, **how)

    monkeypatch.setattr(Reconciler, "plan", stumble)
    server.apply(keyed(key="apiKey: sk-a", namespace="a-first"))
    server.apply(keyed(key="apiKey: sk-a"))
    with controlling(server):
        server.wait(lambda: programmed(server))
        monkeypatch.undo()
        server.wait(lambda: server.condition("LLMProvider", "alpha", "Programmed", "a-first").get("status") == "True")

    assert MARKER not in logged(caplog)
    assert "a namespace could not be planned" in caplog.text


def test_a_control_plane_that_is_told_no_more_is_not_alive(server, monkeypatch):
    with controlling(server) as control:
        assert control.alive
        monkeypatch.setattr(control._first[0], "_follow", lambda _: 1 / 0)
        monkeypatch.setattr("threading.excepthook", lambda _: None)
        server.drop_watches()
        server.wait(lambda: not control.alive)


def test_a_bundle_that_someone_deleted_is_put_back(server):
    server.apply(keyed(key="apiKey: sk-a"))
    with controlling(server):
        server.wait(lambda: programmed(server))
        server.remove("Secret", "sidestream-policy")
        server.wait(lambda: key_in(server) == {"sk-a"})


def test_a_secret_of_somebody_else_is_not_overwritten(server, caplog, monkeypatch):
    monkeypatch.setattr("sidestream.control.controlling.RETRY_SECONDS", (0.01, 0.05))
    theirs = secret("sidestream-policy", alpha="theirs")
    server.apply(theirs)
    server.apply(keyed(key="apiKey: sk-a"))
    with controlling(server):
        server.wait(lambda: server.condition("LLMProvider", "alpha", "Programmed").get("reason") == "NotWritten")
        told = server.condition("LLMProvider", "alpha", "Programmed")["message"]
        kept = server.get("Secret", "sidestream-policy")["data"]
        server.remove("Secret", "sidestream-policy")
        server.wait(lambda: programmed(server))

    assert told.startswith("the bundle can't be written: the Secret default/sidestream-policy is not Sidestream's")
    assert kept == theirs["data"]
    assert "is not Sidestream's" in logged(caplog)


def test_who_does_not_lead_writes_nothing_and_knows_everything(server):
    server.apply(keyed(key="apiKey: sk-a", more=SLEEP))
    with controlling(server, leads=False) as control:
        control.lead(leads=False)
        server.apply(keyed("api.beta.example", "apiKey: sk-b", name="beta"))
        server.wait(lambda: len(control.known("default")[0]) == 2)

        assert {call.verb for call in server.calls} == {"list", "watch"}
        assert control.bundle_for("default", {"app": "sleep"}) != "sidestream-policy"


def test_when_the_leader_changes_the_next_one_goes_on_and_repeats_nothing(server):
    server.apply(keyed(key="apiKey: sk-a"))
    with controlling(server) as first, controlling(server, leads=False) as second:
        server.wait(lambda: programmed(server))
        server.wait(lambda: any(second._reconciler._said.values()))  # it has seen the first one's status
        first.lead(leads=False)
        before = server.counted()
        server.apply(keyed("api.beta.example", "apiKey: sk-b", name="beta"))
        second.lead(leads=True)
        server.wait(lambda: programmed(server, name="beta"))
        after = server.counted() - before

    assert (after["update secrets"], after["patch llmproviders/status"]) == (1, 1)


def test_no_key_is_told_anywhere(server, caplog):
    caplog.set_level(logging.DEBUG)
    server.apply(secret(alpha=MARKER, bad=f"two words {MARKER}"))
    server.apply(keyed())
    server.apply(keyed("b.example", "apiKeyFrom: {secretKeyRef: {name: keys, key: bad}}", name="bad"))
    server.apply(keyed("c.example", f"apiKey: {MARKER}", name="literal"))
    server.apply(pod("here"))
    server.faults.errors = 4
    with controlling(server):
        server.wait(lambda: programmed(server) and programmed(server, name="literal") and revision(server, "here"))
        server.remove("Secret", "keys")
        server.wait(lambda: server.condition("LLMProvider", "alpha", "ResolvedRefs")["status"] == "False")

    sent = [call.body for call in server.calls if call.what != "secrets"]
    statuses = [server.get("LLMProvider", name)["status"] for name in ("alpha", "bad", "literal")]
    for form in (MARKER, secret()["data"]["alpha"]):
        assert form not in logged(caplog)
        assert form not in json.dumps([sent, statuses])
