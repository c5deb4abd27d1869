"""
The load: calls (wrk), streams and downloads, each from inside a namespace, each answer looked at.

Calls and connections are made as fast as they are answered, for a time; streams are as many as were asked for.
"""

import json
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

from tests.bench import provider
from tests.bench.scene import ELSEWHERE, ROOT, Namespace, environment

HOST = "llm.example"
CLIENT_PATH = "/v1/chat/completions"
CLIENT_MODEL = "bench-asked-model"
CLIENT_KEY = "sk-bench-client-51c07e9d2fb84a63"
"""LiteLLM asks for a key, and for one that is not weak."""
APP_UID = 1000

SCRIPT = Path(__file__).with_name("calls.lua")
LEAST_ANSWER_BYTES = 500
GOOD_ANSWER = '"usage"'
PLACES = 8
"""How many calls on connections of their own are made at a time."""
CALL_SECONDS = 20
STREAMS_TIMEOUT_SECONDS = 120.0


class LoadError(Exception):
    """The load could not be put on, or what came back was not good; the message says what was seen."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where calls go: plain HTTP to a proxy that rewrites them, or as they must be straight to the provider."""

    address: str
    port: int
    is_provider: bool = False

    @property
    def path(self) -> str:
        return provider.PATH if self.is_provider else CLIENT_PATH

    @property
    def key(self) -> str:
        return provider.KEY if self.is_provider else CLIENT_KEY

    @property
    def url(self) -> str:
        return f"{'https' if self.is_provider else 'http'}://{self.address}:{self.port}{self.path}"

    def body(self, *, stream: bool = False) -> bytes:
        """Return the body of a call: 1 KB of JSON."""
        call = {
            "model": provider.MODEL if self.is_provider else CLIENT_MODEL,
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Tell me. " * 95}],
            "temperature": 0.2,
        }
        if stream:
            call |= {"stream": True, "stream_options": {"include_usage": True}}
        return json.dumps(call).encode()

    def request(self, *, stream: bool = False, close: bool = False) -> bytes:
        """Return a whole request."""
        body = self.body(stream=stream)
        lines = [f"POST {self.path} HTTP/1.1", f"Host: {HOST}", "Content-Type: application/json"]
        lines += [f"Authorization: Bearer {self.key}", f"Content-Length: {len(body)}"]
        lines += ["Connection: close"] if close else []
        return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass(frozen=True, slots=True)
class Calls:
    """What was seen of calls. Only good answers count."""

    good: int
    seconds: float
    p50_ms: float
    p99_ms: float


class Load:
    """Puts load on; `folder` is for files, which wrk reads as another user."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._script = folder / SCRIPT.name  # where the repository is, others may not look
        self._script.write_bytes(SCRIPT.read_bytes())

    def chat(self, where: Namespace, target: Target, connections: int, seconds: int) -> Calls:
        """Make calls on connections that are kept."""
        body = self._write(f"call-{target.is_provider}.json", target.body())
        command = ["wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{seconds}s"]
        command += ["--timeout", f"{CALL_SECONDS}s", "--script", str(self._script)]
        for header in (f"Host: {HOST}", f"Authorization: Bearer {target.key}", "Content-Type: application/json"):
            command += ["--header", header]
        checks = [str(body), str(LEAST_ANSWER_BYTES), GOOD_ANSWER]
        said = _run(where, [*command, target.url, "--", *checks], seconds + 60)
        result = next((line for line in said.splitlines() if line.startswith("RESULT ")), None)
        if result is None:
            raise LoadError(f"wrk said: {said[-300:]}")
        *numbers, first_bad = result.split(" ", 7)[1:]
        good, bad, lost, duration, p50, p99 = map(int, numbers)
        if not (good or bad or lost) and seconds < CALL_SECONDS:
            return self.chat(where, target, connections, 4 * seconds)  # it is slow
        if bad or lost or not good:
            counts = f"{good} good answers, {bad} bad, {lost} calls that failed; {first_bad}".strip("; ")
            raise LoadError(f"{connections} connection(s), {seconds} s: {counts}")
        return Calls(good, duration / 1e6, p50 / 1000, p99 / 1000)

    def new_connections(self, where: Namespace, target: Target, seconds: int) -> Calls:
        """Make calls, each on a connection of its own."""
        flags = ["--host", target.address, "--port", str(target.port)] + (["--tls"] if target.is_provider else [])
        flags += ["--least", str(LEAST_ANSWER_BYTES), "--expect", GOOD_ANSWER]
        return self._connecting(where, flags, target.request(close=True), seconds)

    def passing_connections(self, where: Namespace, seconds: int) -> Calls:
        """Make small HTTP calls to a host that no policy is about, each on a connection of its own."""
        flags = ["--host", ELSEWHERE, "--port", str(provider.PLAIN_PORT), "--uid", str(APP_UID)]
        request = b"GET /small HTTP/1.1\r\nHost: elsewhere.example\r\nConnection: close\r\n\r\n"
        return self._connecting(where, [*flags, "--least", "50", "--expect", "hello"], request, seconds)

    def streams(self, where: Namespace, target: Target, streams: int, count: int, gap: float) -> dict:
        """Take streams; return what `streaming` printed."""
        request = self._write(f"stream-{target.is_provider}.txt", target.request(stream=True))
        command = [sys.executable, "-m", "tests.bench.streaming", "--host", target.address, "--port", str(target.port)]
        command += ["--request", str(request), "--streams", str(streams), "--count", str(count)]
        command += ["--events", str(provider.EVENTS), "--spread", str(provider.EVENTS * gap)]
        command += ["--timeout", str(STREAMS_TIMEOUT_SECONDS)] + (["--tls"] if target.is_provider else [])
        seen = _run_json(where, command, STREAMS_TIMEOUT_SECONDS + 30)
        if seen["errors"]:
            raise LoadError(f"{seen['errors']} of {streams * count} streams were not good: {seen['first_error']}")
        return seen

    def download(self, where: Namespace, megabytes: int) -> float:
        """Download from a host that no policy is about; return MB/s."""
        command = [sys.executable, "-m", "tests.bench.downloading", ELSEWHERE, str(provider.PLAIN_PORT)]
        seen = _run_json(where, [*command, str(megabytes * 10**6), str(APP_UID)], 90)
        if seen["bytes"] != megabytes * 10**6:
            raise LoadError(f"of {megabytes} MB only {seen['bytes']} bytes came")
        return megabytes / seen["seconds"]

    def _connecting(self, where: Namespace, flags: list[str], request: bytes, seconds: int) -> Calls:
        file = self._write(f"request-{len(request)}.txt", request)
        command = [sys.executable, "-m", "tests.bench.connecting", "--request", str(file), *flags]
        command += ["--places", str(PLACES), "--seconds", str(seconds)]
        seen = _run_json(where, command, seconds + 60)
        if seen["errors"] or not seen["good"]:
            raise LoadError(f"{seen['good']} good answers, {seen['errors']} bad: {seen['first_error']}")
        return Calls(seen["good"], seen["seconds"], seen["p50_ms"], seen["p99_ms"])

    def _write(self, name: str, content: bytes) -> Path:
        path = self._folder / name
        if not path.exists() or path.read_bytes() != content:
            part = self._folder / f"{name}.{threading.get_ident()}"  # others may read it at any moment
            part.write_bytes(content)
            part.replace(path)
        return path


def _run_json(where: Namespace, command: list[str], timeout: float) -> dict:
    said = _run(where, command, timeout)
    try:
        return json.loads(said)
    except ValueError as e:
        raise LoadError(f"{command[2]} said: {said.strip()[-300:]}") from e


def _run(where: Namespace, command: list[str], timeout: float) -> str:
    with tempfile.TemporaryFile() as output:
        try:
            done = subprocess.run(
                where.command(command),
                cwd=ROOT,
                env=environment(PYTHONPATH=str(ROOT)),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired as e:
            raise LoadError(f"{command[0]} did not end within {timeout:g} s") from e
        output.seek(0)
        said = output.read().decode(errors="replace")
    if done.returncode:
        raise LoadError(f"{command[0]} failed with {done.returncode}: {said.strip()[-300:]}")
    return said
