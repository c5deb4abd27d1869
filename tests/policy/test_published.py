"""The published manifests, unchanged, load and behave as written."""

from pathlib import Path

import pytest

from sidestream.core.planning import plan
from sidestream.core.routing import PassThrough, decide
from sidestream.core.snapshot import Snapshot
from sidestream.sources.folder import Folder
from tests.policy.written import compiled, forwarded, request

MANIFESTS = Path(__file__).parent / "manifests"
POLICIES = Path(__file__).parents[2] / "policies"
ENVIRONMENT = {"DASHSCOPE_API_KEY": "sk-dashscope", "MOONSHOT_API_KEY": "sk-moonshot"}


def published(*numbers: str) -> Snapshot:
    texts = [path.read_bytes() for number in numbers for path in MANIFESTS.glob(f"{number}-*.yaml")]
    assert len(texts) == len(numbers)
    compilation = compiled(*texts, environment=ENVIRONMENT)
    assert compilation.problems == ()
    return compilation.require()


def sent(snapshot: Snapshot, *, draw: float = 0.0, host: str = "dashscope.aliyuncs.com", **headers: str):
    view = request(host, **headers)
    return plan(forwarded(view, snapshot, draw=draw), view)


def test_the_default_model_is_for_everyone():
    snapshot = published("01", "02")

    plans = [sent(snapshot), sent(snapshot, user_type="subscriber"), sent(snapshot, user_type="free")]

    assert [planned.sent_model for planned in plans] == ["qwen1.5-72b-chat"] * 3


def test_a_provider_without_a_route_is_governed_too():
    planned = sent(published("01"))

    assert planned.sent_model == "qwen1.5-72b-chat"
    assert planned.attempt.target == "/compatible-mode/v1/chat/completions"
    assert planned.attempt.key.reveal() == "sk-dashscope"


@pytest.mark.parametrize(
    ("user_type", "model"),
    [
        ("subscriber", "qwen-turbo"),
        ("free", "qwen1.5-72b-chat"),
        ("subscribers", "qwen1.5-72b-chat"),
        ("Subscriber", "qwen1.5-72b-chat"),
        ("", "qwen1.5-72b-chat"),
    ],
)
def test_a_subscriber_gets_the_model_of_the_vip_route(user_type, model):
    planned = sent(published("02", "03"), user_type=user_type)

    assert planned.sent_model == model
    assert planned.attempt.key.reveal() == "sk-dashscope"
    assert planned.attempt.target == "/compatible-mode/v1/chat/completions"


def test_half_of_the_requests_migrate():
    snapshot = published("02", "03", "04", "05", "06")

    hosts = [sent(snapshot, draw=step / 1000, host="demo-llm-server").attempt.endpoint.host for step in range(1000)]

    assert (hosts.count("dashscope.aliyuncs.com"), hosts.count("api.moonshot.cn")) == (500, 500)


@pytest.mark.parametrize(
    ("draw", "host", "target", "model", "key", "stream"),
    [
        (
            0.0,
            "dashscope.aliyuncs.com",
            "/compatible-mode/v1/chat/completions",
            "qwen1.5-72b-chat",
            "sk-dashscope",
            None,
        ),
        (0.99, "api.moonshot.cn", "/v1/chat/completions", "moonshot-v1-8k", "sk-moonshot", False),
    ],
)
def test_each_provider_gets_its_own_model_path_key_and_tls(draw, host, target, model, key, stream):
    snapshot = published("02", "03", "04", "05", "06")
    view = request("demo-llm-server")

    forward = forwarded(view, snapshot, draw=draw)
    attempt = plan(forward, view).attempt

    assert (attempt.endpoint.host, attempt.endpoint.port, attempt.endpoint.authority) == (host, 443, host)
    assert (attempt.endpoint.tls, attempt.endpoint.server_name, attempt.endpoint.ca_pem) == (True, host, None)
    assert (attempt.target, forward.backend.config.model, attempt.key.reveal()) == (target, model, key)
    assert forward.backend.config.stream is stream
    assert (forward.route.name, forward.rule.name) == ("default/demo-llm-server", "migrate-rule")


def test_the_service_document_is_left_alone():
    snapshot = published("02", "03", "04", "05", "06")

    assert decide(request("demo-llm-server.kube-system"), snapshot, draw=0) == PassThrough()
    assert sorted(snapshot.hosts) == [
        "api.moonshot.cn",
        "dashscope.aliyuncs.com",
        "demo-llm-server",
        "demo-llm-server.default",
        "demo-llm-server.default.svc",
        "demo-llm-server.default.svc.cluster.local",
    ]


def test_the_first_provider_and_its_successor_are_one_document():
    texts = [path.read_bytes() for path in sorted(MANIFESTS.glob("0[123]-*.yaml"))]

    compilation = compiled(*texts, environment=ENVIRONMENT)

    assert [(problem.file, problem.line, problem.field) for problem in compilation.problems] == [
        ("3.yaml", 4, "metadata.name"),
        ("3.yaml", 6, "spec.host"),
    ]


@pytest.mark.parametrize("path", sorted(MANIFESTS.glob("0[2-6]-*.yaml")), ids=lambda path: path.name)
def test_the_policies_of_this_repository_are_the_published_ones(path):
    assert (POLICIES / path.name).read_bytes() == path.read_bytes()


def test_the_policies_of_this_repository_compile():
    compilation = Folder(POLICIES, ENVIRONMENT).read().compilation

    assert compilation.problems == ()
    assert sent(compilation.require(), user_type="subscriber").sent_model == "qwen-turbo"
