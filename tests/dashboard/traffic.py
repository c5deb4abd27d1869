"""
A busy minute or two in a pod: apps that call, and providers that are not always well.

Every app is a thread whose sockets are the pod's. What it does is drawn from a seed, so that two runs are alike.
"""

import contextlib
import math
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2

from sidestream.demo.standin import StandIn, running
from tests.transparent.pods import DASHSCOPE, DEAD, MOONSHOT, ORIGIN, Outside, Pod

OPENAI, DEEPSEEK = "203.0.113.60", "203.0.113.70"
POLICIES = f"""\
apiVersion: istio.alibabacloud.com/v1beta1
kind: LLMProvider
metadata: {{name: openai}}
spec:
  host: api.openai.com
  endpoint: {{host: {OPENAI}, port: 443}}
  outlierDetection: {{consecutive5xxErrors: 5, baseEjectionTime: 8s}}
  configs: {{defaultConfig: {{openAIConfig: {{model: gpt-4o-mini, apiKey: made-up}}}}}}
---
apiVersion: istio.alibabacloud.com/v1beta1
kind: LLMProvider
metadata: {{name: deepseek}}
spec:
  host: api.deepseek.com
  endpoint: {{host: {DEEPSEEK}, port: 443}}
  outlierDetection: {{consecutive5xxErrors: 5, consecutive429Errors: 8, baseEjectionTime: 4s}}
  configs: {{defaultConfig: {{openAIConfig: {{model: deepseek-chat, apiKey: made-up}}}}}}
---
apiVersion: istio.alibabacloud.com/v1beta1
kind: LLMRoute
metadata: {{name: assistant}}
spec:
  host: assistant
  rules:
  - name: shared
    backendRefs:
    - {{providerHost: api.openai.com, weight: 70}}
    - {{providerHost: api.deepseek.com, weight: 30}}
    retry: {{attempts: 2, backoff: {{base: 20ms, max: 100ms}}}}
"""
BROKEN = "kind: LLMRoute\nspec: {host: nobody}\n"

PHASES = [
    (0.00, "", ""),
    (0.20, "status=503", ""),
    (0.40, "", ""),
    (0.50, "first-byte=0.6", ""),
    (0.65, "", "status=429 retry-after=1"),
    (0.78, "", ""),
]
"""From which part of the time on → how the two providers are."""


class Providers:
    """The providers of `POLICIES`, which are well until told otherwise."""

    def __init__(self, openai: StandIn, deepseek: StandIn) -> None:
        self._standins = (openai, deepseek)

    def be(self, *settings: str) -> None:
        for standin, how in zip(self._standins, settings, strict=True):
            standin.behave(how)


@contextlib.contextmanager
def providers(outside: Outside) -> Iterator[Providers]:
    """Run the providers outside."""
    with contextlib.ExitStack() as stack, outside.namespace.entered():
        outside.namespace.ip(*(f"address add {address} dev lo" for address in (OPENAI, DEEPSEEK)))
        made = [
            stack.enter_context(running(outside.authority.issue(host), name=host, host=address, port=443))
            for host, address in (("api.openai.com", OPENAI), ("api.deepseek.com", DEEPSEEK))
        ]
        yield Providers(*made)


def play(outside: Outside, pod: Pod, seconds: float) -> None:
    """Let apps call for so long."""
    stop = threading.Event()
    apps = [_assistant] * 3 + [_subscriber, _shared_host, _embeddings, _leaving, _uploading, _others]
    with providers(outside) as those, _origin(outside, stop), ThreadPoolExecutor(len(apps)) as threads:
        (pod.policies / "assistant.yaml").write_text(POLICIES)
        running_apps = [threads.submit(_run, app, pod, stop, number) for number, app in enumerate(apps)]
        try:
            _direct(those, pod.policies / "broken.yaml", seconds)
        finally:
            stop.set()
        for app in running_apps:
            app.result()


def _direct(those: Providers, broken: Path, seconds: float) -> None:
    begun = time.monotonic()
    for (_, *settings), until in zip(PHASES, [*(share for share, *_ in PHASES[1:]), 1.0], strict=True):
        those.be(*settings)
        if until == 0.65:
            broken.write_text(BROKEN)
        time.sleep(max(0.0, begun + until * seconds - time.monotonic()))
        broken.unlink(missing_ok=True)


def _run(app: Callable, pod: Pod, stop: threading.Event, number: int) -> None:
    draw = random.Random(number)
    with pod.namespace.entered(), httpx2.Client(trust_env=False, timeout=20) as client:
        while not stop.is_set():
            with contextlib.suppress(httpx2.RemoteProtocolError, httpx2.ReadError):  # an answer that was cut
                app(client, draw)
            wave = 1 + 0.5 * math.sin(time.monotonic() / 9 + number)
            stop.wait(draw.uniform(0.1, 0.4) * wave)


def _call(client, host, address, settings="", *, path="/v1/chat/completions", body=None, leave=None, **headers):
    """Call `host`. `leave`: after so many pieces of the answer."""
    sent = {"host": host, "x-standin": settings.strip()} | headers
    body = body or {"messages": [{"role": "user", "content": "hi"}], "stream": True}
    with client.stream("POST", f"http://{address}{path}", json=body, headers=sent) as answer:
        for number, _ in enumerate(answer.iter_raw(), 1):
            if number == leave:
                return


def _tokens(draw, prompt, completion):
    counts = [int(draw.lognormvariate(math.log(mean), 0.5)) + 1 for mean in (prompt, completion)]
    return f"prompt-tokens={counts[0]} completion-tokens={counts[1]} cached={counts[0] // 3} reasoning={counts[1] // 4}"


def _assistant(client, draw):
    fault = draw.choices(["", "cut=3", "error-event=2"], [94, 4, 2])[0]
    events = f"events={draw.randint(5, 25)} gap={draw.uniform(0.01, 0.04):.3f}"
    _call(client, "assistant", DEAD, f"{_tokens(draw, 400, 120)} {events} {fault}")


def _subscriber(client, draw):
    body = {"messages": [{"role": "user", "content": "hi"}]}
    settings = f"{_tokens(draw, 60, 200)} first-byte={draw.uniform(0.02, 0.2):.3f}"
    _call(client, "dashscope.aliyuncs.com", DASHSCOPE, settings, body=body, **{"user-type": "subscriber"})


def _shared_host(client, draw):
    fault = draw.choices(["", "status=429", "status=500"], [90, 7, 3])[0]
    _call(client, "demo-llm-server", DEAD, f"{_tokens(draw, 100, 80)} events=8 gap=0.02 {fault}")


def _embeddings(client, draw):
    body = {"model": "text-embedding-3-small", "input": "hi"}
    _call(client, "api.openai.com", OPENAI, f"prompt-tokens={draw.randint(5, 50)}", path="/v1/embeddings", body=body)


def _leaving(client, draw):
    _call(client, "api.moonshot.cn", MOONSHOT, "events=20 gap=0.1", leave=draw.randint(2, 8))


def _uploading(client, draw):
    """Send what is too large, once in a while."""
    if draw.random() < 0.1:
        body = {"messages": [{"role": "user", "content": "x" * 2_000_000}]}
        _call(client, "api.moonshot.cn", MOONSHOT, body=body)


def _others(client, draw):
    """Do what is none of a policy's."""
    client.headers["connection"] = "close"
    client.get(f"http://{ORIGIN}/", headers={"host": "other.example"})
    if draw.random() < 0.4:
        client.get(f"http://{ORIGIN}/", headers={"host": "api.anthropic.com"})
    if draw.random() < 0.4:
        context = ssl._create_unverified_context()
        with socket.create_connection((MOONSHOT, 443), timeout=10) as plain:
            context.wrap_socket(plain, server_hostname="api.moonshot.cn").close()


@contextlib.contextmanager
def _origin(outside: Outside, stop: threading.Event) -> Iterator[None]:
    """Serve downloads outside."""
    listener = outside.listen(80, ORIGIN)
    listener.settimeout(0.2)
    body = b"x" * 200_000
    answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)

    def serve() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    connection.settimeout(5)
                    connection.recv(65536)
                    connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        listener.close()
