"""
A bench for what is not as it should be: a proxy, a witness that tells whether anything got to it,
and providers that fail in every way that they have.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from sidestream.demo.certificates import Authority
from tests.scripted import Scripted, scripted, sized
from tests.world import Proxy, World, free_port, provider_document, sidestream_run

KEY = "sk-marker-witness-5d80"
CHAT = b'{"messages": []}'
CHUNK = b"10\r\n" + CHAT + b"\r\n"
OK = sized(b'{"object": "chat.completion", "model": "m-1"}')


@dataclass(frozen=True)
class Bench:
    """The proxy, the witness, another provider, and the port of one that is gone."""

    proxy: Proxy
    witness: Scripted
    other: Scripted
    gone: int


@contextlib.contextmanager
def make_bench(world: World) -> Iterator[Bench]:
    policies = world.policies("policies-of-the-bench")
    with contextlib.ExitStack() as stack:
        hosts = {}

        def stage(host, answer=b"", certificate=world.authority, names=(), greeting=b""):
            issued = certificate.issue(*(names or [host])) if certificate else None
            script = lambda line, _: answer and line.send(answer)  # noqa: E731
            hosts[host] = stack.enter_context(scripted(script, issued, greeting=greeting))

        stage("witness.test", OK)
        stage("other.test", OK)
        stage("xn--bcher-kva.test", OK)
        stage("closes.test")
        stage("babbles.test", b"how do you do?\r\n\r\n")
        stage("two-lengths.test", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}")
        stage("bad-chunks.test", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nno size\r\n")
        stage("wrong-name.test", OK, names=["somebody-else.test"])
        stage("unknown-ca.test", OK, certificate=Authority.create(world.folder / "another-ca"))
        stage("no-tls.test", certificate=None, greeting=b"220 this is no TLS\r\n")
        for host, provider in hosts.items():
            (policies / f"{host}.yaml").write_text(provider_document(host, provider.port, key=KEY))
        gone = free_port()
        (policies / "gone.yaml").write_text(provider_document("gone.test", gone, key=KEY))
        proxy = stack.enter_context(sidestream_run(world, "--intercept-tls", policies=policies))
        yield Bench(proxy, hosts["witness.test"], hosts["other.test"], gone)
        assert all(
            KEY.encode() not in b"".join(hosts[host].requests) for host in ("wrong-name.test", "unknown-ca.test")
        )


def request(body=CHAT, *lines, method="POST", host="witness.test", target="http://{host}/", version="1.1", length=None):
    """Write a request. `length`: of what it says its body is; none at all for ``""``."""
    line = f"{method} {target.format(host=host)} HTTP/{version}"
    head = [line.encode(), b"connection: close"]
    head += [b"host: " + host.encode()] if host else []
    head += [f"content-length: {len(body) if length is None else length}".encode()] if length != "" else []
    return b"\r\n".join([*head, *lines, b"", body])


def chunked(body, *lines):
    return request(body, b"transfer-encoding: chunked", *lines, length="")
