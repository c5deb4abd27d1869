"""
The shared proxy, rehearsed without a cluster: what k8s/examples/egress asks for, in network namespaces.

An app's pod with the rules that the init container's script makes of the rendered environment, a proxy's pod with the
rendered arguments and user, and a node between them that gives the Service its address, as kube-proxy does.
"""

import contextlib
import json
import os
import socket
from types import SimpleNamespace

import pytest

from tests.k8s.rendering import K8S, objects_of, title_of
from tests.namespaces import as_user, namespaces
from tests.transparent import pods
from tests.world import BIN, DASHSCOPE_KEY, ENVIRONMENT, MOONSHOT_KEY, Proxy, wait_for

CLUSTER_IP = "10.96.0.15"
PORT = 15001
BODY = '{"messages": [{"role": "user", "content": "hi"}]}'


def deployment(name):
    (found,) = (content for content in objects_of("examples/egress") if title_of(content) == f"Deployment {name}")
    return found["spec"]["template"]["spec"]


def environment_of(container):
    """Return the container's environment, with what Kubernetes expands of the Service."""
    return {
        variable["name"]: variable["value"].replace("$(SIDESTREAM_EGRESS_SERVICE_HOST)", CLUSTER_IP)
        for variable in container["env"]
    }


@pytest.fixture(scope="module")
def cluster():
    with pods.outside() as node, namespaces(2) as (app, proxy), contextlib.ExitStack() as stack:
        pods.join(app, node.namespace, 1)
        address = pods.join(proxy, node.namespace, 2)
        for namespace in (app, proxy):
            # The virtual name is a Service that selects the proxy.
            namespace.write_hosts({**pods.HOSTS, "demo-llm-server": CLUSTER_IP})
        node.namespace.run("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
        for port in (PORT, 80):
            service = ["-d", CLUSTER_IP, "-p", "tcp", "--dport", str(port)]
            target = ["-j", "DNAT", "--to-destination", f"{address}:{PORT}"]
            node.namespace.run("iptables", "-t", "nat", "-A", "PREROUTING", *service, *target)
        running = stack.enter_context(_proxy(proxy, node))
        [init] = deployment("sleep")["initContainers"]
        variables = [f"{name}={value}" for name, value in environment_of(init).items()]
        said = app.run("env", *variables, "sh", str(pods.REDIRECT)).stdout

        def curl(*arguments):
            done = app.run("curl", "-sS", "-m", "20", *arguments, user=as_user(pods.APP_UID), check=False)
            return SimpleNamespace(status=done.returncode, text=done.stdout, error=done.stderr)

        yield SimpleNamespace(node=node, app=app, proxy=running, curl=curl, rules=said)


@contextlib.contextmanager
def _proxy(namespace, node):
    [container] = deployment("sidestream-egress")["containers"]
    folder = node.folder / "egress"
    policies, home = folder / "policies", folder / "home"
    policies.mkdir(parents=True)
    home.mkdir()
    uid = deployment("sidestream-egress")["securityContext"]["runAsUser"]
    os.chown(home, uid, uid)
    for path in [*(K8S / "examples/2-tiers").glob("0*.yaml"), *(K8S / "examples/3-split").glob("0*.yaml")]:
        (policies / path.name).write_bytes(path.read_bytes())
    arguments = [given.replace("/etc/sidestream/policies", str(policies)) for given in container["args"]]
    log = home / "records.jsonl"
    command = [str(BIN / "sidestream"), *arguments, "--upstream-ca", str(node.authority.ca_file), "--log", str(log)]
    output = folder / "said.txt"
    inside = namespace.command(*command, user=as_user(uid))
    with pods.running(inside, output, {**ENVIRONMENT, "HOME": str(home)}) as process:
        wait_for(lambda: pods.listens(process, "0.0.0.0", PORT), 60)
        yield Proxy(process, PORT, log, output)


def model_of(answer):
    return json.loads(answer.text)["model"]


def test_a_call_that_knows_nothing_gets_the_operators_model(cluster):
    answer = cluster.curl("http://dashscope.aliyuncs.com", "-d", BODY)

    assert model_of(answer) == "qwen1.5-72b-chat"
    assert cluster.node.dashscope.requests[-1].path == "/compatible-mode/v1/chat/completions"


def test_rules_look_at_headers_as_ever(cluster):
    assert (
        model_of(cluster.curl("http://dashscope.aliyuncs.com", "-H", "user-type: subscriber", "-d", BODY))
        == "qwen-turbo"
    )


def test_a_name_that_only_a_route_knows_is_a_service_that_leads_to_the_proxy(cluster):
    (service,) = (
        content for content in objects_of("examples/egress") if title_of(content) == "Service demo-llm-server"
    )

    assert service["spec"]["selector"] == {"app.kubernetes.io/name": "sidestream-egress"}
    assert service["spec"]["ports"][0]["targetPort"] == "proxy"
    assert model_of(cluster.curl("http://demo-llm-server", "-d", BODY)) in {"qwen1.5-72b-chat", "moonshot-v1-8k"}


def test_the_proxy_serves_no_other_host_and_goes_nowhere_for_it(cluster):
    with cluster.node.listen(80) as origin:
        answer = cluster.curl("http://other.example/", "-w", "%{http_code}")
        origin.setblocking(False)
        with pytest.raises(BlockingIOError):
            origin.accept()

    assert '"code": "host_not_governed"' in answer.text
    assert answer.text.endswith("421")


@pytest.mark.parametrize("address", [pods.ORIGIN, pods.ORIGIN_IPV6])
def test_other_ports_are_left_alone(cluster, address):
    with cluster.node.listen(8080, address) as origin, cluster.app.entered(pods.APP_UID):
        client = socket.create_connection((address, 8080), timeout=10)
        taken, _ = origin.accept()
        with client, taken:
            assert taken.getsockname()[0] == address


def test_nothing_goes_round_it_over_ipv6(cluster):
    refused = pytest.raises(ConnectionRefusedError)
    with cluster.node.listen(80, pods.ORIGIN_IPV6), cluster.app.entered(pods.APP_UID), refused:
        socket.create_connection((pods.ORIGIN_IPV6, 80), timeout=10)


def test_no_user_of_the_pod_is_exempt_not_even_one_with_the_proxys_uid(cluster):
    done = cluster.app.run(
        *("curl", "-sS", "-m", "20", "http://dashscope.aliyuncs.com", "-d", BODY), user=as_user(pods.PROXY_UID)
    )

    assert json.loads(done.stdout)["model"] == "qwen1.5-72b-chat"


def test_the_pod_of_the_app_has_neither_policy_nor_key():
    pod = deployment("sleep")

    assert "volumes" not in pod
    assert [container["name"] for container in pod["containers"]] == ["sleep"]
    assert not {DASHSCOPE_KEY, MOONSHOT_KEY} & {
        variable["value"] for container in pod["initContainers"] for variable in container["env"]
    }


def test_a_pod_does_not_start_before_the_service_is_there(cluster):
    [init] = deployment("sleep")["initContainers"]
    (address,) = (variable["value"] for variable in init["env"] if variable["name"] == "SIDESTREAM_PROXY_ADDRESS")

    done = cluster.app.run("env", f"SIDESTREAM_PROXY_ADDRESS={address}", "sh", str(pods.REDIRECT), check=False)

    assert done.returncode == 2
    assert "is no address" in done.stderr
