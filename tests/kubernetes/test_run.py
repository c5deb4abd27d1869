"""`sidestream run --kubernetes`, as a process: policies and keys of a namespace, with real calls."""

import http.client
import json

from tests.control.cluster import keyed, secret
from tests.kubernetes.clusters import kubeconfig_of
from tests.world import BIN, DASHSCOPE_KEY, free_port, make_world, started

HOST = "dashscope.aliyuncs.com"


def ask(port: int) -> int:
    """Make a call through the proxy; return the status of its answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]})
    connection.request("POST", f"http://{HOST}/v1/chat/completions", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    response.read()
    connection.close()
    return response.status


def test_a_key_that_is_rotated_is_used_without_a_restart(server, tmp_path):
    with make_world(tmp_path) as world:
        port = free_port()
        endpoint = f"endpoint: {{host: 127.0.0.1, port: {world.dashscope.port}}}"
        server.apply(secret(alpha="sk-marker-wrong"))
        server.apply(keyed(HOST, more=endpoint))
        command = [str(BIN / "sidestream"), "run", "--kubernetes", "--namespace=default", f"--listen=127.0.0.1:{port}"]
        command += [f"--upstream-ca={world.ca_file}", f"--confdir={tmp_path / 'confdir'}", "--admin=off"]
        environment = {"KUBECONFIG": str(kubeconfig_of(server, tmp_path))}
        with started(command, tmp_path, port, environment=environment) as proxy:
            with_wrong_key = ask(port)
            server.apply(secret(alpha=DASHSCOPE_KEY))
            server.wait(lambda: ask(port) == 200)
            server.remove("Secret", "keys")
            proxy.wait_for_said("the last good one stays in force")
            without_secret = ask(port)

    assert (with_wrong_key, without_secret) == (401, 200)
    assert DASHSCOPE_KEY not in proxy.said
    assert "sk-marker-wrong" not in proxy.said
