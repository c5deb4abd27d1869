import pytest

from sidestream.cli.wiring import connect
from sidestream.core.snapshot import Provider
from sidestream.mitm.runtime import Settings
from sidestream.policy.problems import PolicyError
from sidestream.sources.kubernetes import cluster as source
from sidestream.sources.kubernetes.cluster import Cluster
from sidestream.sources.watching import PolicyWatch
from tests.control.cluster import MARKER, keyed, secret, to
from tests.kubernetes.clusters import api_of, kubeconfig_of


@pytest.fixture
def cluster(server):
    cluster = Cluster(api_of(server), "default", {"FROM_ENVIRONMENT": "sk-env"}, backoff_seconds=(0.01, 0.05))
    yield cluster
    cluster.close()


def key_of(watch: PolicyWatch, host: str = "api.alpha.example") -> str | None:
    policy = watch.snapshot.hosts.get(host)
    return policy.config.key.reveal() if isinstance(policy, Provider) else None


def test_documents_and_keys_of_a_namespace_are_a_policy(server, cluster):
    server.apply(secret())
    server.apply(keyed())
    server.apply(to("chat", "api.alpha.example"))
    server.apply(keyed("b.example", "apiKey: '${FROM_ENVIRONMENT}'", name="beta"))
    server.apply(keyed("elsewhere.example", "apiKey: sk", namespace="other"))
    watch = server.wait(lambda: governing(cluster, "chat", "b.example"))

    assert (key_of(watch), key_of(watch, "b.example")) == (MARKER, "sk-env")
    assert not watch.snapshot.governs("elsewhere.example")


def governing(cluster: Cluster, *hosts: str) -> PolicyWatch | None:
    """The policy, once it governs `hosts`."""
    try:
        watch = PolicyWatch(cluster, {})
    except PolicyError:
        return None
    return watch if all(watch.snapshot.governs(host) for host in hosts) else None


def test_changes_are_in_force_and_what_breaks_is_not(server, cluster, caplog):
    server.apply(secret())
    server.apply(keyed())
    watch = server.wait(lambda: governing(cluster, "api.alpha.example"))

    server.apply(secret(alpha="sk-rotated"))
    server.wait(lambda: watch.refresh() and key_of(watch) == "sk-rotated")
    server.remove("Secret", "keys")
    server.wait(lambda: (watch.refresh(), watch.status.failures)[1])
    kept = key_of(watch)
    server.apply(secret(alpha="sk-back"))
    server.wait(lambda: watch.refresh() and key_of(watch) == "sk-back")

    assert kept == "sk-rotated"
    assert "there is no Secret 'keys'" in caplog.text


def test_a_status_is_no_change(server, cluster):
    server.apply(keyed(key="apiKey: sk-a"))
    server.wait(lambda: governing(cluster, "api.alpha.example"))
    before = cluster.read()

    api_of(server).patch(source.PROVIDERS, ("default", "alpha"), {"status": {"x": 1}}, subresource="status")
    server.apply(keyed("b.example", "apiKey: sk-b", name="beta"))
    server.wait(lambda: cluster.changed_since(before))

    assert cluster.read().changes == before.changes + 1


def test_an_api_that_can_not_be_had_is_a_problem(server, monkeypatch):
    monkeypatch.setattr(source, "SYNC_SECONDS", 0.1)
    server.faults.errors = 1000
    cluster = Cluster(api_of(server), "default", {})

    with pytest.raises(PolicyError, match="kubernetes:default: error: the Kubernetes API told nothing"):
        PolicyWatch(cluster, {})

    cluster.close()


def test_a_proxy_is_connected_to_the_cluster_of_its_kubeconfig(server, tmp_path, monkeypatch):
    kubeconfig = kubeconfig_of(server, tmp_path)
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(kubeconfig))
    server.apply(keyed(key="apiKey: sk-a"))

    runtime = connect(Settings(policies="kubernetes:default", log="-"))
    runtime.close()

    assert runtime.source.snapshot.governs("api.alpha.example")


def test_without_a_cluster_a_proxy_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "nothing"))

    with pytest.raises(ValueError, match="no cluster is configured"):
        connect(Settings(policies="kubernetes:", log="-"))
