import base64
import json

import pytest

from sidestream.control.admission import NoReview, injected, validated
from sidestream.control.bundling import Entry
from sidestream.inject.options import Options
from sidestream.policy.compiling import compile_policy
from sidestream.sources.kubernetes.keys import FromSecrets
from sidestream.sources.kubernetes.objects import document_of, text_of
from tests.control.cluster import MARKER, keyed, resource_of, to

POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"generateName": "sleep-", "labels": {"app": "sleep"}},
    "spec": {"containers": [{"name": "app", "image": "app"}]},
}


def review(content: dict, **request) -> dict:
    request = {"uid": "1234", "namespace": "default", "operation": "CREATE", "object": content} | request
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}


def known(*documents: dict, secrets: dict | None = None):
    entries = [Entry(document_of(resource_of(document), document)) for document in documents]
    return lambda namespace: (entries, secrets or {}) if namespace == "default" else ([], {})


def answered(content: dict, *others: dict, secrets: dict | None = None) -> dict:
    answer = validated(review(content), known(*others, secrets=secrets))
    assert (answer["apiVersion"], answer["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    assert answer["response"]["uid"] == "1234"
    return answer["response"]


def test_a_good_document_may_be_written():
    response = answered(keyed(), secrets={"keys": {"alpha": MARKER}})

    assert response == {"uid": "1234", "allowed": True}


@pytest.mark.parametrize(
    "document",
    [
        keyed(more="hosst: 1"),
        keyed("https://api.alpha.example"),
        keyed(more="outlierDetection: {baseEjectionTime: 10s, maxEjectionTime: 1s}"),
        keyed(key="apiKey: 'a${B}'"),
        to("chat", "nowhere.example") | {"spec": {"host": "chat", "rules": []}},
    ],
)
def test_a_document_that_does_not_compile_is_refused_in_the_words_of_validate(document):
    response = answered(document)
    texts = [text_of(document_of(resource_of(document), document))]
    problems = compile_policy(texts, FromSecrets({"keys": {"alpha": MARKER}})).problems

    assert not response["allowed"]
    assert response["status"]["message"] == "\n".join(f"{p.document} {p.field}: {p.message}" for p in problems)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (keyed(), "there is no Secret 'keys' in this namespace"),
        (to("chat", "nowhere.example"), "no LLMProvider has host 'nowhere.example'"),
    ],
)
def test_what_may_come_later_is_a_warning(document, said):
    response = answered(document)

    assert response["allowed"]
    assert [said in warning for warning in response["warnings"]] == [True]


def test_a_host_that_another_document_has_is_refused_whatever_their_names():
    for name in ("aaa", "zzz"):
        response = answered(keyed(name=name), keyed(name="mmm"))

        assert "host 'api.alpha.example' is that of LLMProvider default/mmm" in response["status"]["message"]


def test_a_document_may_replace_itself():
    assert answered(keyed(), keyed(), secrets={"keys": {"alpha": MARKER}})["allowed"]


def test_what_is_wrong_elsewhere_is_nobody_elses_fault():
    response = answered(keyed(key="apiKeyFrom: {env: A}"), keyed("b.example", more="hosst: 1", name="beta"))

    assert response["allowed"]


def test_a_document_that_says_the_same_may_lose_its_finalizers_however_wrong_it_is():
    wrong = keyed(more="hosst: 1")
    before = wrong | {"metadata": wrong["metadata"] | {"finalizers": ["foregroundDeletion"]}}

    said = [
        validated(review(wrong, operation="UPDATE", oldObject=old), known())["response"]["allowed"]
        for old in (before, keyed(), None)
    ]

    assert said == [True, False, False]


def test_a_literal_key_is_never_told():
    response = answered(keyed(key=f"apiKey: '{MARKER} {MARKER}'"))

    assert not response["allowed"]
    assert MARKER not in json.dumps(response)


@pytest.mark.parametrize(
    "content", [None, [], {}, {"apiVersion": "admission.k8s.io/v1"}, review({}), {**review(POD), "apiVersion": "v1"}]
)
def test_what_is_no_review_is_not_answered(content):
    for answer in (lambda: validated(content, known()), lambda: injected(content, Options(), lambda *_: "")):
        with pytest.raises(NoReview):
            answer()


def operations(pod: dict, bundle: str = "sidestream-policy-abc") -> list[dict] | None:
    asked = []

    def bundle_for(namespace, labels):
        asked.append((namespace, labels))
        return bundle

    response = injected(review(pod), Options(), bundle_for)["response"]
    assert response["allowed"]
    if "patch" not in response:
        return None
    assert asked == [("default", pod["metadata"].get("labels", {}))]
    assert response["patchType"] == "JSONPatch"
    return json.loads(base64.b64decode(response["patch"]))


def test_a_pod_gets_the_bundle_for_its_labels():
    assert "sidestream-policy-abc" in json.dumps(operations(POD))


@pytest.mark.parametrize(
    "pod",
    [
        POD | {"metadata": {"labels": {"sidestream.dev/inject": "false"}}},
        POD | {"spec": POD["spec"] | {"hostNetwork": True}},
    ],
)
def test_a_pod_that_is_not_to_be_injected_is_let_through_unchanged(pod):
    assert operations(pod) is None


def test_a_pod_that_can_not_be_injected_is_refused_with_every_reason():
    pod = POD | {"metadata": {"annotations": {"sidestream.dev/log-level": "loud"}}}

    response = injected(review(pod), Options(), lambda *_: "sidestream-policy")["response"]

    assert not response["allowed"]
    assert "sidestream.dev/log-level" in response["status"]["message"]
