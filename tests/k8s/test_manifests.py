"""What `k8s/` holds is what an API server takes, and no more than is needed."""

import functools
import json

import kubernetes_validate
import pytest

from sidestream.cli.main import make_parser
from sidestream.inject.deciding import wanted
from sidestream.inject.options import INJECT_LABEL
from sidestream.inject.problems import Refused
from sidestream.policy.documents import API_VERSION
from tests.k8s.rendering import FOLDERS, K8S, is_component, objects_of, pods_in, rendered, title_of, would_apply
from tests.policy.definitions import faults, schema_of
from tests.policy.test_published import MANIFESTS

BUILT = [folder for folder in FOLDERS if not is_component(folder)]
PROXIED = ["direct", "egress", "examples/egress"]
CONTROLLED = ["base", "overlays/local", "overlays/production"]
SYSTEM = {"kube-system", "kube-public", "kube-node-lease", "sidestream-system"}
VERSION = "0.1.0"


@functools.cache  # many are in several folders
def satisfies(text: str, version: str) -> bool:
    return bool(kubernetes_validate.validate(json.loads(text), version, strict=True))


def one(kind: str, name: str = "sidestream-controller", folder: str = "base") -> dict:
    (found,) = (content for content in objects_of(folder) if title_of(content) == f"{kind} {name}")
    return found


def webhooks() -> dict[str, dict]:
    configurations = [one("MutatingWebhookConfiguration"), one("ValidatingWebhookConfiguration")]
    return {webhook["name"]: webhook for found in configurations for webhook in found["webhooks"]}


@pytest.mark.parametrize("folder", BUILT)
def test_kubectl_builds_it(folder):
    assert rendered(folder)


@pytest.mark.parametrize("folder", BUILT)
def test_kubectl_would_apply_it(folder):
    assert len(would_apply(folder)) == len(objects_of(folder))
    assert all(line.endswith(" created") for line in would_apply(folder))


@pytest.mark.parametrize(
    ("folder", "version"),
    [(folder, version) for folder in BUILT for version in ("1.30" if folder == "guard" else "1.29", "1.37")],
)
def test_it_satisfies_kubernetes_schemas_without_unknown_fields(folder, version):
    for content in objects_of(folder):
        if content["apiVersion"] != API_VERSION:
            assert satisfies(json.dumps(content), version)


@pytest.mark.parametrize("folder", BUILT)
def test_its_policies_satisfy_the_resource_definitions(folder):
    policies = [content for content in objects_of(folder) if content["apiVersion"] == API_VERSION]

    assert [fault for content in policies for fault in faults(schema_of(content["kind"]), content)] == []


@pytest.mark.parametrize("path", sorted((K8S / "examples").glob("*/0*.yaml")), ids=lambda path: path.name)
def test_an_example_is_the_published_manifest_unchanged(path):
    assert path.read_bytes() == (MANIFESTS / path.name).read_bytes()


def test_every_published_manifest_is_an_example():
    assert {path.name for path in (K8S / "examples").glob("*/0*.yaml")} == {
        path.name for path in MANIFESTS.glob("*.yaml")
    }


@pytest.mark.parametrize("folder", BUILT)
def test_pods_are_hardened_as_the_restricted_standard_asks_but_for_what_redirects(folder):
    for title, pod in pods_in(folder):
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod), title
        assert all(
            set(volume) & {"emptyDir", "configMap", "secret", "downwardAPI"} for volume in pod.get("volumes", [])
        )
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            context = pod.get("securityContext", {}) | container["securityContext"]
            redirects = {"add": ["NET_ADMIN", "NET_RAW"]} if container["name"] == "sidestream-init" else {}
            assert context["runAsNonRoot"], title
            assert context["runAsUser"] > 0, title
            assert context["allowPrivilegeEscalation"] is False, title
            assert context["capabilities"] == {"drop": ["ALL"], **redirects}, title
            assert context["seccompProfile"] == {"type": "RuntimeDefault"}, title


@pytest.mark.parametrize("folder", BUILT)
def test_images_have_a_tag_and_ours_is_this_version(folder):
    containers = [
        container for _, pod in pods_in(folder) for container in [*pod.get("initContainers", []), *pod["containers"]]
    ]
    images = [container["image"] for container in containers]

    assert [image for image in images if ":" not in image or image.endswith(":latest")] == []
    assert {image.rpartition(":")[2] for image in images if "sidestream" in image} <= {VERSION}


@pytest.mark.parametrize("folder", CONTROLLED)
def test_the_controller_writes_nowhere_but_home(folder):
    (container,) = dict(pods_in(folder))["Deployment sidestream-controller"]["containers"]

    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/var/lib/sidestream"]


def test_two_replicas_stay_up_one_at_a_time():
    assert one("Deployment")["spec"]["replicas"] == 2
    assert one("Deployment")["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0}
    assert one("PodDisruptionBudget")["spec"]["minAvailable"] == 1


@pytest.mark.parametrize("folder", CONTROLLED)
def test_everything_selects_the_controllers_pods(folder):
    labels = one("Deployment", folder=folder)["spec"]["template"]["metadata"]["labels"]
    selectors = [
        content["spec"].get("selector", content["spec"].get("podSelector"))
        for content in objects_of(folder)
        if content["kind"] in ("Service", "PodDisruptionBudget", "NetworkPolicy", "Deployment")
    ]

    assert len(selectors) >= 3
    for selector in selectors:
        assert selector.get("matchLabels", selector).items() <= labels.items()


def test_on_one_machine_there_is_one_replica_that_may_be_evicted():
    (pod,) = (pod for _, pod in pods_in("overlays/local"))

    assert one("Deployment", folder="overlays/local")["spec"]["replicas"] == 1
    assert pod["containers"][0]["imagePullPolicy"] == "Never"
    assert "PodDisruptionBudget" not in {content["kind"] for content in objects_of("overlays/local")}


def test_no_role_has_a_wildcard():
    roles = [content for content in objects_of("base") if content["kind"] in ("Role", "ClusterRole")]

    assert roles
    assert "*" not in json.dumps([role["rules"] for role in roles])


@pytest.mark.parametrize("name", ["namespaces.inject", "pods.inject", "namespaces.validate", "others.validate"])
def test_a_webhook_never_asks_about_the_system(name):
    webhook = webhooks()[f"{name}.sidestream.dev"]
    excluded = [
        set(term["values"])
        for term in webhook["namespaceSelector"]["matchExpressions"]
        if (term["key"], term["operator"]) == ("kubernetes.io/metadata.name", "NotIn")
    ]

    assert excluded == [SYSTEM]


def test_webhooks_fail_closed_only_for_who_asked():
    asked = {"sidestream.dev/inject": "true"}
    policies = {name.removesuffix(".sidestream.dev"): webhook["failurePolicy"] for name, webhook in webhooks().items()}

    assert policies == {
        "namespaces.inject": "Fail",
        "pods.inject": "Fail",
        "namespaces.validate": "Fail",
        "others.validate": "Ignore",
    }
    for webhook in webhooks().values():
        selectors = [webhook["namespaceSelector"], webhook.get("objectSelector", {})]
        labelled = any(selector.get("matchLabels") == asked for selector in selectors)
        assert labelled == (webhook["failurePolicy"] == "Fail")


def test_a_pod_opts_out_of_its_namespace():
    opt_out = {"key": "sidestream.dev/inject", "operator": "NotIn", "values": ["false"]}

    assert webhooks()["namespaces.inject.sidestream.dev"]["objectSelector"] == {"matchExpressions": [opt_out]}


def selects(selector, labels):
    """Tell whether a label selector selects, as Kubernetes has it: what is absent is not in any list."""
    terms = [(term["key"], term["operator"], term["values"]) for term in selector.get("matchExpressions", [])]
    terms += [(name, "In", [value]) for name, value in selector.get("matchLabels", {}).items()]
    return all((labels.get(name) in values) == (operator == "In") for name, operator, values in terms)


@pytest.mark.parametrize("pod_label", [None, "true", "false", "yes"])
@pytest.mark.parametrize("namespace_label", [None, "true", "false"])
@pytest.mark.parametrize("namespace", ["default", "kube-system", "sidestream-system"])
def test_one_webhook_asks_about_exactly_those_pods_that_may_be_injected(namespace, namespace_label, pod_label):
    own, theirs = ({INJECT_LABEL: label} if label else {} for label in (pod_label, namespace_label))
    pod = {"metadata": {"labels": own}, "spec": {}}
    asking = [
        name
        for name, webhook in webhooks().items()
        if ".inject." in name
        and selects(webhook["namespaceSelector"], {**theirs, "kubernetes.io/metadata.name": namespace})
        and selects(webhook["objectSelector"], own)
    ]

    try:
        is_wanted = wanted(pod, namespace=namespace, namespace_labels=theirs).inject
    except Refused:
        is_wanted = namespace_label == "true"  # elsewhere nobody asks, and nobody guesses

    assert len(asking) == is_wanted


def test_webhooks_lead_to_the_controllers_service():
    service = one("Service")
    (port,) = service["spec"]["ports"]
    (container,) = dict(pods_in("base"))["Deployment sidestream-controller"]["containers"]
    targets = {name: webhook["clientConfig"]["service"] for name, webhook in webhooks().items()}

    assert port == {"name": "webhooks", "port": 443, "targetPort": container["ports"][0]["name"]}
    assert container["ports"] == [{"name": "webhooks", "containerPort": 8443}]
    for name, target in targets.items():
        assert target == {
            "name": service["metadata"]["name"],
            "namespace": service["metadata"]["namespace"],
            "path": "/inject" if ".inject." in name else "/validate",
        }


@pytest.mark.parametrize("folder", PROXIED)
def test_the_command_of_the_shared_proxy_is_one_that_sidestream_understands(folder):
    (container,) = dict(pods_in(folder))["Deployment sidestream-egress"]["containers"]

    options = make_parser().parse_args(container["args"])

    assert options.only_policy_hosts
    assert (options.mode, options.listen) == (["regular"], ("0.0.0.0", container["ports"][0]["containerPort"]))
    assert options.kubernetes or options.policies == container["volumeMounts"][0]["mountPath"]


@pytest.mark.parametrize("folder", PROXIED)
def test_only_the_shared_proxy_mounts_the_keys(folder):
    mounting = [title for title, pod in pods_in(folder) if "sidestream-policy" in json.dumps(pod)]

    assert mounting == ([] if folder == "direct" else ["Deployment sidestream-egress"])


def test_the_shared_proxy_lets_in_only_pods_that_go_through_it():
    policy = one("NetworkPolicy", "sidestream-egress", folder="examples/egress")
    app = one("Deployment", "sleep", folder="examples/egress")["spec"]["template"]["metadata"]["labels"]
    ((source,),) = (rule["from"] for rule in policy["spec"]["ingress"])

    assert source["podSelector"]["matchLabels"].items() <= app.items()
    assert set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"}
    assert app["sidestream.dev/inject"] == "false"


@pytest.mark.parametrize("folder", CONTROLLED)
def test_the_command_of_the_controller_is_one_that_sidestream_understands(folder):
    (container,) = dict(pods_in(folder))["Deployment sidestream-controller"]["containers"]

    options = make_parser().parse_args(container["args"])

    assert options.port == container["ports"][0]["containerPort"]
    # Pods get what the controller was pulled as.
    assert options.image == container["image"]
    assert options.init_image == container["image"].replace("sidestream:", "sidestream-init:")
