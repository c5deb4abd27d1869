import pytest

from sidestream.control.reconciling import Reconciler, WriteBundle, WriteStatus
from sidestream.sources.kubernetes.objects import NAMESPACES, PROVIDERS, ROUTES, SECRETS, Changed, Listed
from tests.control.cluster import MARKER, keyed, secret, stored, to

NOW = "2026-11-25T12:00:00Z"
LATER = "2026-11-25T13:00:00Z"


def listed(*documents: dict, secrets: tuple = (), routes: tuple = ()) -> Reconciler:
    reconciler = Reconciler()
    reconciler.leads = True
    reconciler.handle(Listed(PROVIDERS, documents))
    reconciler.handle(Listed(ROUTES, routes))
    reconciler.handle(Listed(SECRETS, secrets))
    reconciler.handle(Listed(NAMESPACES, ()))
    return reconciler


def done(reconciler: Reconciler, namespace: str = "default", now: str = NOW) -> list:
    """Plan, and take note that all of it was done. Return the steps."""
    steps = list(reconciler.plan(namespace, now=now).steps)
    for number, step in enumerate(steps):
        if isinstance(step, WriteBundle):
            reconciler.wrote(step.content | {"metadata": step.content["metadata"] | {"resourceVersion": f"w{number}"}})
        else:
            reconciler.said(step)
    return steps


def conditions(steps: list) -> dict:
    (step,) = (step for step in steps if isinstance(step, WriteStatus))
    return {condition["type"]: condition for condition in step.status["conditions"]}


def test_nothing_is_planned_before_everything_was_listed():
    reconciler = Reconciler()
    for resource in (PROVIDERS, ROUTES, SECRETS, NAMESPACES):
        assert not reconciler.ready
        reconciler.handle(Listed(resource, ()))

    assert reconciler.ready


def test_a_new_document_gets_a_bundle_and_a_status():
    reconciler = listed(stored(keyed()), secrets=(secret(),))

    bundle, status = done(reconciler)

    assert (bundle.name, bundle.version) == ("sidestream-policy", "")
    assert {kind: (c["status"], c["observedGeneration"]) for kind, c in conditions([status]).items()} == {
        "Accepted": ("True", 1),
        "ResolvedRefs": ("True", 1),
        "Programmed": ("True", 1),
    }


def test_what_is_right_takes_no_calls():
    reconciler = listed(stored(keyed()), secrets=(secret(),))
    done(reconciler)

    assert done(reconciler, now=LATER) == []


def test_after_a_restart_what_is_right_takes_no_calls():
    bundle, status = done(listed(stored(keyed()), secrets=(secret(),)))
    known = stored(keyed()) | {"status": status.status}

    assert done(listed(known, secrets=(secret(), bundle.content))) == []


def test_a_generation_is_told_of_once_though_its_echo_comes_late():
    reconciler = listed(stored(keyed()), secrets=(secret(),))
    _, status = done(reconciler)
    second = stored(keyed(key="apiKey: sk-2"), generation=2, version=5)

    reconciler.handle(Changed(PROVIDERS, second))
    steps = done(reconciler)
    reconciler.handle(Changed(PROVIDERS, stored(keyed(), version=4) | {"status": status.status}))
    reconciler.handle(Changed(PROVIDERS, second | {"status": conditions(steps)}))

    assert [type(step) for step in steps] == [WriteBundle, WriteStatus]
    assert [type(step) for step in done(reconciler)] == []


def test_who_does_not_lead_sees_what_the_leader_says():
    reconciler = listed(stored(keyed()), secrets=(secret(),))
    reconciler.leads = False
    bundle, status = reconciler.plan("default", now=NOW).steps

    reconciler.handle(Changed(PROVIDERS, stored(keyed(), version=2) | {"status": status.status}))

    assert reconciler.plan("default", now=LATER).steps == (bundle,)


def test_the_echo_of_a_bundle_is_no_news():
    reconciler = listed(stored(keyed()), secrets=(secret(),))
    bundle, _ = done(reconciler)
    reconciler.handle(
        Changed(SECRETS, bundle.content | {"metadata": bundle.content["metadata"] | {"resourceVersion": "w0"}})
    )

    assert reconciler.dirty == set()


@pytest.mark.parametrize("deleted", [True, False])
def test_a_bundle_that_someone_changed_or_deleted_is_put_right(deleted):
    reconciler = listed(stored(keyed()), secrets=(secret(),))
    bundle, _ = done(reconciler)
    meddled = bundle.content | {"metadata": bundle.content["metadata"] | {"resourceVersion": "9"}, "data": {}}

    reconciler.handle(Changed(SECRETS, meddled, deleted=deleted))
    (step,) = done(reconciler)

    assert step == WriteBundle("default", "sidestream-policy", bundle.content, "" if deleted else "9")


def test_a_rotated_key_changes_the_bundle_and_no_status():
    reconciler = listed(stored(keyed()), secrets=(secret(),))
    done(reconciler)

    reconciler.handle(Changed(SECRETS, secret(alpha="sk-rotated", version=2)))

    assert [type(step) for step in done(reconciler)] == [WriteBundle]


def test_a_deleted_secret_is_told_of_once_and_the_bundle_stays():
    reconciler = listed(stored(keyed()), secrets=(secret(),))
    done(reconciler)

    reconciler.handle(Changed(SECRETS, secret(), deleted=True))
    plan = reconciler.plan("default", now=LATER)

    assert list(plan.notices) == ["LLMProvider default/alpha"]
    assert "Secret 'keys'" in plan.notices["LLMProvider default/alpha"]
    resolved = conditions(plan.steps)["ResolvedRefs"]
    assert (resolved["status"], resolved["reason"], resolved["lastTransitionTime"]) == ("False", "LastGoodKey", LATER)
    assert conditions(plan.steps)["Accepted"]["lastTransitionTime"] == NOW
    assert reconciler.plan("default", now=LATER).notices == {}


def test_a_secret_that_nobody_names_is_forgotten_at_once():
    reconciler = listed(stored(keyed()), secrets=(secret(), secret("other", alpha="sk-marker-other")))
    reconciler.handle(Changed(SECRETS, secret("another", alpha="sk-marker-other")))

    assert "sk-marker-other" not in repr(vars(reconciler))
    assert secret("other", alpha="sk-marker-other")["data"]["alpha"] not in repr(vars(reconciler))


def test_a_secret_that_is_named_later_is_fetched_once():
    reconciler = listed(secrets=(secret(),))
    reconciler.handle(Changed(PROVIDERS, stored(keyed())))

    wanted = reconciler.unknown_secrets()
    reconciler.fetched(("default", "keys"), secret())

    assert wanted == [("default", "keys")]
    assert reconciler.unknown_secrets() == []
    assert [type(step) for step in done(reconciler)] == [WriteBundle, WriteStatus]


@pytest.mark.parametrize("kind", ["kubernetes.io/service-account-token", "kubernetes.io/tls"])
def test_a_secret_that_is_for_another_end_can_not_be_named(kind):
    reconciler = listed()
    reconciler.handle(Changed(PROVIDERS, stored(keyed())))

    reconciler.fetched(("default", "keys"), secret() | {"type": kind})

    assert reconciler.secrets("default") == {}
    assert reconciler.unknown_secrets() == []


def test_nothing_is_put_back_into_a_namespace_that_has_gone():
    reconciler = listed(stored(keyed()), secrets=(secret(),))
    bundle, _ = done(reconciler)

    reconciler.handle(Changed(SECRETS, bundle.content, deleted=True))
    reconciler.handle(Changed(PROVIDERS, stored(keyed()), deleted=True))

    assert done(reconciler) == []


def test_what_is_lost_with_all_secrets_is_put_back():
    reconciler = listed(stored(keyed()), secrets=(secret(),))
    bundle, _ = done(reconciler)

    reconciler.handle(Listed(SECRETS, ()))
    steps = done(reconciler)

    assert steps[0] == bundle


def test_listing_again_finds_what_was_deleted_meanwhile():
    reconciler = listed(stored(keyed()), stored(keyed("b.example", name="beta")), secrets=(secret(),))
    done(reconciler)

    reconciler.handle(Listed(PROVIDERS, (stored(keyed()),)))
    steps = done(reconciler)

    bundle = next(step for step in steps if isinstance(step, WriteBundle))
    assert [name for name in bundle.content["data"] if name.endswith(".yaml")] == ["llmprovider.alpha.yaml"]


def test_namespaces_are_apart():
    there = keyed(namespace="there")
    reconciler = listed(stored(keyed()), stored(there), secrets=(secret(), secret(namespace="there")))
    done(reconciler)
    done(reconciler, "there")

    reconciler.handle(Changed(SECRETS, secret(namespace="there", alpha="sk-rotated", version=2)))

    assert reconciler.dirty == {"there"}


def test_when_the_last_document_is_gone_the_bundle_is_empty():
    reconciler = listed(stored(keyed()), secrets=(secret(),))
    done(reconciler)

    reconciler.handle(Changed(PROVIDERS, stored(keyed()), deleted=True))
    (step,) = done(reconciler)

    assert step.content["data"] == {}
    assert done(reconciler) == []


def test_a_namespace_that_is_injected_has_a_bundle_though_it_be_empty():
    reconciler = listed()
    namespace = {"metadata": {"name": "default", "labels": {"sidestream.dev/inject": "true"}}}

    reconciler.handle(Changed(NAMESPACES, namespace))
    (step,) = done(reconciler)
    reconciler.handle(Changed(NAMESPACES, namespace))

    assert (step.name, step.content["data"]) == ("sidestream-policy", {})
    assert not reconciler.is_obsolete(("default", "sidestream-policy"))
    assert reconciler.dirty == set()
    reconciler.handle(Changed(NAMESPACES, namespace, deleted=True))
    assert reconciler.is_obsolete(("default", "sidestream-policy"))


def test_a_namespace_that_comes_to_its_end_gets_no_bundle():
    reconciler = listed()

    reconciler.handle(Changed(NAMESPACES, {"metadata": {"name": "default", "deletionTimestamp": NOW}}))

    assert done(reconciler) == []


def test_the_only_namespace_of_a_control_plane_counts_as_injected():
    reconciler = Reconciler("default")
    for resource in (PROVIDERS, ROUTES, SECRETS):
        reconciler.handle(Listed(resource, ()))

    assert reconciler.ready
    assert [step.name for step in done(reconciler)] == ["sidestream-policy"]


def test_a_pod_is_told_the_bundle_for_its_labels():
    selected = keyed(more="workloadSelector: {labels: {app: sleep}}")
    reconciler = listed(stored(selected), secrets=(secret(),))

    names = {step.name for step in done(reconciler) if isinstance(step, WriteBundle)}
    of_sleep = reconciler.bundle_for("default", {"app": "sleep", "x": "y"})

    assert names == {"sidestream-policy", of_sleep}
    assert reconciler.bundle_for("default", {"app": "curl"}) == "sidestream-policy"
    assert reconciler.bundle_for("elsewhere", {"app": "sleep"}) == "sidestream-policy"


@pytest.mark.parametrize(
    ("document", "kind", "reason", "said"),
    [
        (keyed(more="hosst: 1"), "Accepted", "Invalid", "spec.hosst: unknown field (did you mean 'host'?)"),
        (keyed(key="apiKeyFrom: {secretKeyRef: {name: gone, key: k}}"), "ResolvedRefs", "RefNotFound", "'gone'"),
        (keyed(key="apiKeyFrom: {file: key}"), "ResolvedRefs", "RefNotFound", "use secretKeyRef"),
        (keyed(key="apiKey: 'a${B}'"), "Accepted", "Invalid", "a key is either a literal or exactly ${NAME}"),
        (keyed(key="apiKeyFrom: {secretKeyRef: {name: keys, key: bad}}"), "ResolvedRefs", "RefNotFound", "no header"),
    ],
)
def test_a_status_says_what_is_wrong_and_never_a_key(document, kind, reason, said):
    reconciler = listed(stored(document), secrets=(secret(alpha=MARKER, bad=f"two words {MARKER}"),))

    plan = reconciler.plan("default", now=NOW)
    found = conditions(plan.steps)

    assert (found[kind]["status"], found[kind]["reason"]) == ("False", reason)
    assert said in found[kind]["message"]
    assert (found["Programmed"]["status"], found["Programmed"]["reason"]) == ("False", "NotInForce")
    assert MARKER not in repr(plan) + repr(found)


def test_a_route_to_no_provider_says_so():
    reconciler = listed(routes=(stored(to("chat", "nowhere.example")),))

    found = conditions(list(reconciler.plan("default", now=NOW).steps))

    assert found["Accepted"]["status"] == "True"
    assert found["ResolvedRefs"]["message"] == (
        "spec.rules[0].backendRefs[0].providerHost: no LLMProvider has host 'nowhere.example'"
    )
