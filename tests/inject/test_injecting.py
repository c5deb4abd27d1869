"""What injecting promises of any pod."""

import copy

import pytest
from hypothesis import given

from sidestream.inject.deciding import wanted
from sidestream.inject.injecting import inject, patch
from sidestream.inject.options import INIT_CONTAINER, SIDECAR, STATUS_ANNOTATION, TRUST_FOLDER, Options
from sidestream.inject.problems import Refused
from sidestream.inject.trust import VARIABLES
from tests.inject import pods
from tests.inject.patched import patched
from tests.inject.pods import EXAMPLES, pod

OURS = (INIT_CONTAINER, SIDECAR)


def containers_of(whole, list_name):
    return [container for container in whole["spec"].get(list_name) or [] if container["name"] not in OURS]


def all_containers(whole):
    return [container for name in ("initContainers", "containers") for container in containers_of(whole, name)]


def without_empty_lists(whole):
    """Return a pod whose lists that hold nothing are not there, which is the same to Kubernetes."""
    spec = {name: value for name, value in whole["spec"].items() if value != []}
    for list_name in ("initContainers", "containers"):
        containers = spec.get(list_name, [])
        spec |= {list_name: [{name: value for name, value in one.items() if value != []} for one in containers]}
    return whole | {"spec": spec}


@EXAMPLES
@given(pods.pods(), pods.options)
def test_injecting_twice_is_injecting_once(original, options):
    once = inject(original, options)

    assert inject(once, options) == once
    assert patch(once, options) == []


@EXAMPLES
@given(pods.pods(), pods.options, pods.options)
def test_what_another_version_injected_is_replaced(original, before, now):
    again = inject(inject(original, before), now)

    assert without_empty_lists(again) == without_empty_lists(inject(original, now))


@EXAMPLES
@given(pods.pods(), pods.options)
def test_the_pod_that_is_given_stays_as_it_is(original, options):
    kept = copy.deepcopy(original)

    inject(original, options)

    assert original == kept


@EXAMPLES
@given(pods.pods(), pods.options)
def test_the_patch_makes_the_injected_pod(original, options):
    assert patched(original, patch(original, options)) == inject(original, options)


@EXAMPLES
@given(pods.pods(), pods.options)
def test_of_an_apps_container_only_variables_and_a_mount_are_added_to(original, options):
    injected = inject(original, options)

    before, after = all_containers(original), all_containers(injected)
    changed = {"env", "volumeMounts"} if options.intercept_tls else set()
    assert [set(one) - changed for one in before] == [set(one) - changed for one in after]
    for old, new in zip(before, after, strict=True):
        assert all(new[name] == value for name, value in old.items() if name not in changed)
        own = old.get("env", [])
        added = new.get("env", [])[len(own) :]
        assert new.get("env", [])[: len(own)] == own
        assert {variable["name"]: variable["value"] for variable in added}.items() <= VARIABLES.items()
        assert not {variable["name"] for variable in added} & {variable["name"] for variable in own}
        mounts = old.get("volumeMounts", [])
        assert new.get("volumeMounts", [])[: len(mounts)] == mounts
        assert {(mount["mountPath"], mount["readOnly"]) for mount in new.get("volumeMounts", [])[len(mounts) :]} <= {
            (TRUST_FOLDER, True)
        }


@EXAMPLES
@given(pods.pods(), pods.options)
def test_what_is_no_container_of_ours_keeps_its_place_and_value(original, options):
    injected = inject(original, options)

    own_volumes = original["spec"].get("volumes") or []
    rest = set(original["spec"]) - {"containers", "initContainers", "volumes"}
    names = [[one["name"] for one in containers_of(whole, "containers")] for whole in (original, injected)]
    noted = injected["metadata"]["annotations"]
    before = (original.get("metadata") or {}).get("annotations") or {}
    assert names[0] == names[1]
    assert injected["spec"]["volumes"][: len(own_volumes)] == own_volumes
    assert all(injected["spec"][name] == original["spec"][name] for name in rest)
    assert before.items() <= noted.items()
    assert (injected["metadata"].get("labels")) == (original.get("metadata") or {}).get("labels")


@EXAMPLES
@given(pods.anything_like_a_pod(), pods.options)
def test_whatever_is_given_is_injected_or_refused(value, options):
    try:
        wanted(value, namespace="default", namespace_labels={})
        assert STATUS_ANNOTATION in inject(value, options)["metadata"]["annotations"]
    except Refused as e:
        assert e.problems
        assert all(problem.field and problem.message for problem in e.problems)


def test_the_redirection_and_the_sidecar_stand_before_all_other_containers():
    injected = inject(pod(initContainers=[{"name": "migrate"}, {"name": "logs", "restartPolicy": "Always"}]), Options())

    assert [one["name"] for one in injected["spec"]["initContainers"]] == [INIT_CONTAINER, SIDECAR, "migrate", "logs"]
    assert injected["spec"]["initContainers"][1]["restartPolicy"] == "Always"


def test_without_native_sidecars_nobody_is_redirected_before_the_sidecar_listens():
    injected = inject(pod(initContainers=[{"name": "migrate"}]), Options(native_sidecar=False))

    assert [one["name"] for one in injected["spec"]["initContainers"]] == ["migrate", INIT_CONTAINER]
    assert [one["name"] for one in injected["spec"]["containers"]] == [SIDECAR, "app"]
    assert "ready" in injected["spec"]["containers"][0]["lifecycle"]["postStart"]["exec"]["command"]


def test_a_note_that_someone_forged_takes_out_nothing_of_theirs():
    forged = '{"volumes":["data","sidestream-x"],"environment":{"app":["PATH","SSL_CERT_FILE"]},"version":7}'
    own = {
        "name": "app",
        "env": [{"name": "PATH", "value": "/bin"}, {"name": "SSL_CERT_FILE", "value": "/own.crt"}],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    original = pod(own, volumes=[{"name": "data", "emptyDir": {}}])
    original["metadata"]["annotations"][STATUS_ANNOTATION] = forged

    injected = inject(original, Options())

    assert all_containers(injected) == [own]
    assert injected["spec"]["volumes"][0] == {"name": "data", "emptyDir": {}}


@pytest.mark.parametrize("note", ["", "{", "[]", '{"volumes": 7, "environment": []}', '{"environment": {"app": 7}}'])
def test_a_note_that_can_not_be_read_is_written_anew(note):
    original = pod()
    original["metadata"]["annotations"][STATUS_ANNOTATION] = note

    injected = inject(original, Options())

    assert injected == inject(pod(), Options())


def test_a_variable_that_was_changed_since_it_was_set_is_the_apps():
    injected = inject(pod(), Options(intercept_tls=True))
    [app] = all_containers(injected)
    app["env"][0]["value"] = "/own.crt"

    [again] = all_containers(inject(injected, Options(intercept_tls=True)))

    assert again["env"][0] == {"name": "SSL_CERT_FILE", "value": "/own.crt"}
    assert [one["name"] for one in again["env"]] == list(VARIABLES)


def test_a_pod_on_its_hosts_network_is_refused_by_whoever_asks():
    with pytest.raises(Refused, match=r"spec\.hostNetwork"):
        inject(pod(hostNetwork=True), Options())
