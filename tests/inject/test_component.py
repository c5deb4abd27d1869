"""
The kustomize component in `k8s/components/sidecar`: what injecting makes, as patches.

After an intended change, write it again and read the difference:

    sidestream inject --component k8s/components/sidecar
"""

import subprocess

import pytest
import yaml

from sidestream.cli.main import main
from sidestream.inject.component import component
from sidestream.inject.injecting import inject, patch
from sidestream.inject.options import Options
from sidestream.inject.problems import Refused
from sidestream.inject.workloads import pods_in
from tests.inject.test_goldens import GOLDENS
from tests.k8s.rendering import K8S, kubectl

FOLDER = K8S / "components/sidecar"
SCENARIOS = {
    "pod": "Pod",
    "deployment": "Deployment",
    "stateful-set": "StatefulSet",
    "daemon-set": "DaemonSet",
    "replica-set": "ReplicaSet",
    "job": "Job",
    "cron-job": "CronJob",
    "replication-controller": "ReplicationController",
    "own-init-containers": "Pod",
    "own-native-sidecar": "Pod",
    "own-volumes": "Pod",
    "annotations-of-others-stay": "Pod",
    "label-false": "Pod",
}


def document_of(scenario):
    document = yaml.safe_load((GOLDENS / f"{scenario}.in.yaml").read_text())
    document["metadata"]["name"] = scenario
    return document


def pod_of(document):
    (found,) = pods_in(document, "default")
    return found.pod


def in_order_of_names(pod):
    """Return a pod whose volumes, of which the order tells nothing, are in order of their names."""
    volumes = sorted(pod["spec"].get("volumes", []), key=lambda volume: volume["name"])
    return pod | {"spec": pod["spec"] | {"volumes": volumes}}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Return what kustomize makes of every scenario with the component: name → document."""
    folder = tmp_path_factory.mktemp("built")
    for scenario in SCENARIOS:
        (folder / f"{scenario}.yaml").write_text(yaml.safe_dump(document_of(scenario)))
    (folder / "sidecar").mkdir()
    for name, text in component(Options()).items():
        (folder / "sidecar" / name).write_text(text)
    kustomization = {"resources": [f"{scenario}.yaml" for scenario in SCENARIOS], "components": ["sidecar"]}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    done = subprocess.run([kubectl(), "kustomize", folder], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return {document["metadata"]["name"]: document for document in yaml.safe_load_all(done.stdout)}


def test_the_component_is_what_the_command_writes():
    assert {path.name: path.read_text() for path in FOLDER.iterdir()} == component(Options())


@pytest.mark.parametrize("scenario", [name for name in SCENARIOS if name != "label-false"])
def test_kustomize_makes_of_a_workload_what_injecting_makes(built, scenario):
    injected = inject(pod_of(document_of(scenario)), Options())

    assert built[scenario]["kind"] == SCENARIOS[scenario]
    assert in_order_of_names(pod_of(built[scenario])) == in_order_of_names(injected)


def test_a_workload_whose_label_is_against_it_is_left_alone(built):
    assert built["label-false"] == document_of("label-false")


def test_a_webhook_finds_nothing_to_do_in_what_the_component_made(built):
    assert patch(pod_of(built["deployment"]), Options()) == []


def test_options_of_the_command_are_in_the_component(tmp_path):
    flags = ["--image=registry.example/sidestream:7", "--default=include-outbound-ports=80,8080"]

    status = main(["inject", "--component", str(tmp_path / "new/sidecar"), *flags])

    expected = component(Options(image="registry.example/sidestream:7", include_ports=(80, 8080)))
    assert status == 0
    assert {path.name: path.read_text() for path in (tmp_path / "new/sidecar").iterdir()} == expected


@pytest.mark.parametrize("options", [Options(intercept_tls=True), Options(native_sidecar=False)])
def test_what_a_patch_can_not_do_is_refused(options):
    with pytest.raises(Refused, match="use the webhook or sidestream inject"):
        component(options)
