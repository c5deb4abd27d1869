"""No key is anywhere but on the wire to its provider: not the policy's, and not the client's own."""

import asyncio
import contextlib
import json
import socket
import ssl
import threading
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest
from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect

from sidestream.cli.main import main
from tests.scripted import scripted, sized
from tests.sdk_calls import CLIENT_KEY
from tests.wire import send
from tests.world import (
    DASHSCOPE_KEY,
    ENVIRONMENT,
    MOONSHOT_KEY,
    ROOT,
    Proxy,
    free_port,
    listens,
    mitmproxy_script,
    provider_document,
    sidestream_run,
    wait_for,
)

OTHER_KEY = "sk-marker-other-9e31"
MARKERS = (DASHSCOPE_KEY, MOONSHOT_KEY, OTHER_KEY, CLIENT_KEY)
PASSWORD = "open-sesame"

CREDENTIALS = {
    "Authorization": f"Bearer {CLIENT_KEY}",
    "Api-Key": CLIENT_KEY,
    "X-API-Key": CLIENT_KEY,
    "Proxy-Authorization": f"Basic {CLIENT_KEY}",
}
CHAT = {"messages": [{"role": "user", "content": "hi"}]}
HOST = "dashscope.aliyuncs.com"


def assert_no_key(what, text):
    found = [marker for marker in MARKERS if marker in str(text)]
    assert not found, f"{what} holds {found}"


@dataclass
class Front:
    """One way to run the addon, and where it could show something."""

    proxy: Proxy
    ca_file: Path
    files: list[Path]
    web: str | None = None
    answers: list[bytes] = field(default_factory=list)
    updates: list[str] = field(default_factory=list)

    def pages(self):
        """Return a client of mitmweb's pages."""
        headers = {"authorization": f"Bearer {PASSWORD}", "x-xsrftoken": "1", "cookie": "_mitmproxy_xsrf=1"}
        return httpx2.Client(base_url=self.web, headers=headers, timeout=20)

    def shown(self):
        """Yield all that can be looked at now: what, and its text."""
        yield "its output", self.proxy.said
        yield "its records", self.proxy.log.read_text()
        if self.web is None:
            return
        with self.pages() as pages:
            flows = pages.get("/flows").raise_for_status()
            yield "/flows", flows.text
            for path in ("/events", "/options", "/commands", "/state", "/flows/dump"):
                yield path, pages.get(path).raise_for_status().content.decode("latin-1")
            for flow in flows.json():
                for message in ("request", "response"):
                    if flow.get(message):
                        for view in ("content.data", "content/raw.json", "content/auto.json"):
                            path = f"/flows/{flow['id']}/{message}/{view}"
                            yield path, pages.get(path).content.decode("latin-1")


PASSWORD_AND_NO_BROWSER = ["--set", f"web_password={PASSWORD}", "--set", "web_open_browser=false"]
LOUD = ["-v", "--set", "termlog_verbosity=debug"]
INTERCEPT = ["--set", "sidestream_intercept_tls=true"]

FRONTS = {
    "run": (sidestream_run, ["--intercept-tls"], {}),
    "run-web": (sidestream_run, ["--intercept-tls", "--web", *PASSWORD_AND_NO_BROWSER], {}),
    "mitmdump": (mitmproxy_script, [*INTERCEPT, *LOUD, "--set", "flow_detail=4"], {}),
    "mitmweb": (mitmproxy_script, [*INTERCEPT, *LOUD, *PASSWORD_AND_NO_BROWSER], {"tool": "mitmweb"}),
}
"""Name → how it is started: with which flags, and what else."""


@pytest.fixture(scope="module", params=FRONTS)
def front(request, shared_world):
    """A front that has gone through everything, and still runs."""
    shared_world.clear()
    start, flags, how = FRONTS[request.param]
    policies = shared_world.policies(f"policies-of-{request.param}")
    files = [shared_world.folder / f"{request.param}.{ending}" for ending in ("flows", "har")]
    options = {"save_stream_file": files[0], "hardump": files[1]}
    web_port = free_port()
    if "web" in request.param:
        options["web_port"] = web_port
    flags = [*flags, *(part for name, value in options.items() for part in ("--set", f"{name}={value}"))]
    with bad_providers(shared_world, policies), start(shared_world, *flags, policies=policies, **how) as proxy:
        front = Front(proxy, shared_world.folder / "confdir/mitmproxy-ca-cert.pem", files)
        if "web" in request.param:
            front.web = f"http://127.0.0.1:{web_port}"
        with updates(front):
            exercise(front)
            yield front


@contextlib.contextmanager
def bad_providers(world, policies):
    """Add providers to the policy that can't be trusted, or not be talked to."""
    certificate = world.authority.issue("somebody-else.test")
    with (
        scripted(lambda line, _: line.send(sized(b"{}")), certificate) as wrong_name,
        scripted(lambda *_: None, greeting=b"220 this is no TLS\r\n") as no_tls,
        scripted(repeat, world.authority.issue(*REPEATING)) as repeating,
    ):
        ports = {"wrong-name.test": wrong_name.port, "no-tls.test": no_tls.port, "gone.test": free_port()}
        ports |= dict.fromkeys(REPEATING, repeating.port)
        for host, port in ports.items():
            (policies / f"{host}.yaml").write_text(provider_document(host, port, key=OTHER_KEY))
        yield
        assert wrong_name.requests == no_tls.requests == []


REPEATING = {
    "in-json.test": (b"401 Unauthorized", b"application/json", b'{"error": {"message": "%s is no key"}}'),
    "in-html.test": (b"403 Forbidden", b"text/html", b"<p>%s is no key</p>"),
    "in-an-event.test": (b"200 OK", b"text/event-stream", b'data: {"error": {"message": "%s is no key"}}\n\n'),
    "in-json-that-is-well.test": (b"200 OK", b"application/json", b'{"error": {"message": "%s is no key"}}'),
}
"""Providers that repeat the key they were sent: host → status, content type, and in what."""


def repeat(line, request):
    fields = dict(field.split(b": ", 1) for field in request.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:])
    status, content_type, said = REPEATING[fields[b"Host"].decode()]
    body = said % fields[b"Authorization"]
    head = b"HTTP/1.1 %s\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n" % (status, content_type, len(body))
    line.send(head + body)


@contextlib.contextmanager
def updates(front):
    """Collect what mitmweb pushes to its pages, if it runs."""
    ready, done = threading.Event(), threading.Event()

    async def listen():
        headers = {"authorization": f"Bearer {PASSWORD}"}
        page = await websocket_connect(HTTPRequest(front.web.replace("http", "ws", 1) + "/updates", headers=headers))
        ready.set()
        while not done.is_set() and (message := await page.read_message()) is not None:
            front.updates.append(message)

    if front.web is None:
        yield
        return
    wait_for(lambda: listens(int(front.web.rpartition(":")[2])))
    listening = threading.Thread(target=lambda: asyncio.run(listen()), daemon=True)
    listening.start()
    assert ready.wait(20)
    yield
    done.set()


def exercise(front):
    """Make every kind of request, with every kind of credential, and have every kind of failure."""
    proxy = httpx2.Proxy(front.proxy.url, headers={"proxy-authorization": f"Basic {CLIENT_KEY}"})
    trust = ssl.create_default_context(cafile=front.ca_file)
    how = {"headers": CREDENTIALS, "timeout": 20, "verify": trust}
    with (
        httpx2.Client(proxy=front.proxy.url, **how) as http1,
        httpx2.Client(proxy=proxy, http2=True, http1=False, **how) as http2,
    ):
        for request in REQUESTS:
            front.answers.append(answer_of(http1, "http", *request))
            front.answers.append(answer_of(http2, "https", *request))
    for malformed in MALFORMED:
        front.answers.append(send(front.proxy.port, malformed, say_no_more=True))


def answer_of(client, scheme, method, host, path="/", *settings, **content):
    """Make a request; return all of the answer, or as much as there is of it."""
    headers = {"x-standin": settings[0]} if settings else {}
    url = f"{scheme}://{host}{path}"
    body = {"json": settings[1]} if len(settings) > 1 else {"json": CHAT} if method == "POST" else {}
    got = b""
    with client.stream(method, url, headers=headers, **body) as answer:
        got += str(answer.headers).encode()
        with contextlib.suppress(httpx2.RemoteProtocolError):
            for part in answer.iter_raw():
                got += part
    return got


STREAM = CHAT | {"stream": True}
REQUESTS = [
    ("POST", HOST),
    ("POST", "demo-llm-server", "/v1/chat/completions"),
    ("POST", "api.moonshot.cn"),
    ("POST", HOST, "/", "usage=always", STREAM),
    ("POST", HOST, "/", "error-event=1", STREAM),
    ("POST", HOST, "/", "cut=1", STREAM),
    ("POST", HOST, "/", "status=401"),
    ("POST", HOST, "/", "status=500"),
    ("POST", HOST, "/", "cut=1"),
    ("POST", HOST, "/", "close=reset"),
    ("POST", HOST, "/", "", {}),
    ("POST", HOST, "/v1/embeddings", "", {"model": "m", "input": "hi"}),
    ("GET", HOST, "/v1/models"),
    ("GET", HOST, "/v1/files"),
    ("PUT", HOST, "/v1/files/1"),
    ("BREW", HOST),
    ("POST", "wrong-name.test"),
    ("POST", "no-tls.test"),
    ("POST", "gone.test"),
    *(("POST", host) for host in REPEATING),
]
"""Method, host, path, settings of the stand-in, body."""

LINE = f"POST http://{HOST}/ HTTP/1.1\r\nhost: {HOST}\r\n".encode()
KEY = f"authorization: Bearer {CLIENT_KEY}\r\napi-key: {CLIENT_KEY}\r\n".encode()
BODY = b'content-length: 16\r\n\r\n{"messages": []}'

MALFORMED = [
    LINE + KEY.replace(b":", b" ") + BODY,
    LINE + KEY.replace(b": ", b":\r\n ") + BODY,
    LINE + KEY.replace(b": ", b": \r") + BODY,
    LINE + KEY + b"content-length: -5\r\n\r\n",
    LINE + KEY + b"content-encoding: br2\r\n" + BODY,
    LINE + KEY + b"transfer-encoding: chunked\r\n\r\nno size\r\n",
    LINE + KEY + b"transfer-encoding: chunked\r\n" + BODY,
    LINE + KEY + b"host: api.moonshot.cn\r\n" + BODY,
    LINE + KEY * 2 + b"connection: close, authorization\r\n" + BODY,
    LINE + KEY,
    LINE + KEY + b"content-length: 99\r\n\r\n{",
    KEY + b"\r\n\r\n",
]
"""What is no good request, or breaks off."""


def test_no_key_is_shown(front):
    for what, text in front.shown():
        assert_no_key(what, text)


def test_no_key_is_in_an_answer(front):
    assert len(front.answers) == 2 * len(REQUESTS) + len(MALFORMED)
    for answer in front.answers:
        assert_no_key("an answer", answer)


def test_the_policys_keys_reached_their_providers_and_the_clients_never_did(front, shared_world):
    standins = (shared_world.dashscope, shared_world.moonshot)
    keys = {(standin.name, request.header("authorization")) for standin in standins for request in standin.requests}

    # Without a key: what is no operation that we know.
    assert keys == {
        ("dashscope", f"Bearer {DASHSCOPE_KEY}"),
        ("moonshot", f"Bearer {MOONSHOT_KEY}"),
        ("dashscope", None),
    }
    for standin in standins:
        assert CLIENT_KEY not in str(standin.requests)


def test_no_key_is_shown_while_a_request_is_under_way(front, world):
    with socket.create_connection(("127.0.0.1", front.proxy.port), timeout=20) as client:
        client.sendall(LINE + KEY + b"x-standin: first-byte=60\r\n" + BODY)
        world.dashscope.wait_for(lambda standin: standin.requests)

        shown = dict(front.shown())

    for what, text in shown.items():
        assert_no_key(what, text)
    assert front.web is None or any(not flow.get("response") for flow in json.loads(shown["/flows"]))


@pytest.mark.parametrize("front", ["run-web", "mitmweb"], indirect=True)
def test_proxy_debug_cannot_be_turned_on_later(front):
    with front.pages() as pages:
        answer = pages.put("/options", json={"proxy_debug": True})

        assert answer.status_code == 400
        assert "it would print keys" in answer.text
        assert pages.get("/options").json()["proxy_debug"]["value"] is False


def test_no_key_is_in_what_pages_are_pushed_or_in_what_is_saved(front):
    if front.web is not None:
        wait_for(lambda: any('"flows/update"' in message for message in front.updates))
    front.proxy.stop()

    for message in front.updates:
        assert_no_key("an update of the pages", message)
    for file in front.files:
        saved = file.read_bytes()
        assert HOST.encode() in saved
        assert_no_key(file.name, saved)
    assert_no_key("its output, at the end", front.proxy.said)


def test_credentials_of_a_client_are_not_for_the_provider_of_a_call_we_do_not_know(world, proxy):
    with httpx2.Client(proxy=proxy.url, headers=CREDENTIALS, timeout=20) as client:
        for path in ("/v1/files", "/v2/chat", "/v1/models/../files", "/favicon.ico", "/v1/chat/completions"):
            client.get(f"http://{HOST}{path}")

    assert len(world.dashscope.requests) == 5
    for request in world.dashscope.requests:
        assert CLIENT_KEY not in str(request)
        assert DASHSCOPE_KEY not in str(request)


@pytest.mark.parametrize("arguments", [[], ["--json"]], ids=["text", "json"])
def test_explain_shows_no_key(monkeypatch, capsys, arguments):
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    headers = [part for name, value in CREDENTIALS.items() for part in ("--header", f"{name}: {value}")]

    assert main(["explain", "--policies", str(ROOT / "policies"), "--host", HOST, *headers, *arguments]) == 0

    shown = capsys.readouterr()
    assert "Bearer [redacted]" in shown.out
    assert_no_key("explain", shown)


@pytest.mark.parametrize("start", [sidestream_run, mitmproxy_script])
def test_proxy_debug_is_refused(shared_world, start):
    policies = shared_world.policies("policies-of-debug")

    assert "does not run with proxy_debug" in reason_to_stop(
        start(shared_world, "--set", "proxy_debug=true", policies=policies)
    )


def reason_to_stop(starting):
    """Return what a proxy said that does not run: at once, or as soon as it is told by its addon."""
    try:
        with starting as proxy:
            assert proxy.process.wait(20) != 0
            return proxy.said
    except RuntimeError as e:
        return str(e)
