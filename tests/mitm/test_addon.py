"""The addon in mitmproxy: its options, its life, and that it fails closed where it runs."""

import asyncio
import contextlib
import json
from types import SimpleNamespace

import pytest
from mitmproxy import exceptions
from mitmproxy.options import Options
from mitmproxy.tools.dump import DumpMaster

from sidestream.core.secret import Secret
from sidestream.core.snapshot import Endpoint, OpenAIConfig, Provider, Snapshot
from sidestream.mitm import confining, requests
from sidestream.mitm.addon import FORCED_OPTIONS, UNSAFE_OPTIONS, Sidestream
from sidestream.mitm.engine.chain import put_first
from sidestream.mitm.engine.http import GovernedHttpStream
from sidestream.mitm.runtime import Runtime
from sidestream.upstream.calling import PooledUpstream

CLIENT_KEY = "sk-marker-clients"
POLICY = {"sidestream_policies": "some-folder"}


class Source:
    def __init__(self, snapshot):
        self.snapshot, self.is_watched = snapshot, False

    async def run(self):
        self.is_watched = True
        await asyncio.Event().wait()


def make_addon(*providers, connected=None):
    """Return an addon and its records; `connected`: collects the settings that it was connected with."""
    records = []
    source = Source(Snapshot("test", {provider.host: provider for provider in providers}))

    def connect(settings):
        if settings.policies == "broken":
            raise ValueError("broken.yaml:3: no such thing")
        if settings.log == "no-such-folder/log":
            raise FileNotFoundError("no-such-folder/log")
        if connected is not None:
            connected.append(settings)
        return Runtime(source, (records.append,), PooledUpstream())

    return Sidestream(connect), records


# --- options -------------------------------------------------------------------------------------


@pytest.fixture
def connected():
    return []


@pytest.fixture
def addon(mitmproxy, connected):
    addon, _ = make_addon(connected=connected)
    mitmproxy.master.addons.add(addon)
    return addon


def test_options_become_settings(mitmproxy, addon, connected, tmp_path):
    mitmproxy.options.update(
        **POLICY, sidestream_log="log", sidestream_labels="app=web, tier = gold", sidestream_intercept_tls=True
    )

    [settings] = connected
    assert (settings.policies, settings.log, settings.intercept_tls) == ("some-folder", "log", True)
    assert settings.fail_open is False


def test_environment_variables_are_the_defaults(monkeypatch, mitmproxy, connected):
    monkeypatch.setenv("SIDESTREAM_POLICIES", "of-the-environment")
    monkeypatch.setenv("SIDESTREAM_FAIL_OPEN", "true")
    addon, _ = make_addon(connected=connected)

    mitmproxy.master.addons.add(addon)
    mitmproxy.configure(addon)

    assert [(settings.policies, settings.fail_open) for settings in connected] == [("of-the-environment", True)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sidestream_labels": "app"}, "'app' is no label"),
        ({"sidestream_labels": "/no/such/file"}, "'/no/such/file' can't be read"),
        ({"sidestream_labels": __file__}, "is no label: name="),
        ({"sidestream_upstream_ca": "no-such-file"}, "no-such-file"),
        ({"sidestream_policies": "broken"}, "broken.yaml:3: no such thing"),
        ({"sidestream_log": "no-such-folder/log"}, "no-such-folder/log"),
        ({"proxy_debug": True}, UNSAFE_OPTIONS["proxy_debug"]),
        ({"stream_large_bodies": "1m"}, UNSAFE_OPTIONS["stream_large_bodies"]),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_and_changes_nothing(mitmproxy, addon, connected, options, said):
    mitmproxy.options.update(**POLICY)

    with pytest.raises(exceptions.OptionsError, match=said):
        mitmproxy.options.update(**options)

    assert len(connected) == 1
    assert mitmproxy.options.sidestream_policies == "some-folder"
    assert addon.current.settings == connected[0]


def test_an_option_of_others_connects_nothing_again(mitmproxy, addon, connected):
    mitmproxy.options.update(**POLICY)

    mitmproxy.options.update(body_size_limit="1m")

    assert len(connected) == 1


def test_without_a_policy_nothing_is_governed(mitmproxy, addon, connected):
    mitmproxy.configure(addon)

    assert connected == []
    assert not addon.current.governs("dashscope.aliyuncs.com")


# --- in a mitmproxy that runs --------------------------------------------------------------------


@contextlib.asynccontextmanager
async def running(addon, **options):
    """Run a mitmproxy with `addon` on a free port, and yield the port."""
    master = DumpMaster(Options(), with_termlog=False, with_dumper=False)
    put_first(master.addons, addon)
    master.options.update(mode=["regular@127.0.0.1:0"], **POLICY, **options)
    runs = asyncio.Event()
    master.addons.add(SimpleNamespace(name="witness-of-running", running=runs.set))  # the last to hear of it
    task = asyncio.create_task(master.run())
    await asyncio.wait_for(runs.wait(), 30)
    yield master.addons.get("proxyserver").listen_addrs()[0][1]
    master.shutdown()
    await task


@contextlib.asynccontextmanager
async def witness(answer=b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"):
    """A provider, and the requests that it got."""
    got = []

    async def talk(reader, writer):
        got.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        await writer.drain()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], got


def provider_at(port):
    endpoint = Endpoint("127.0.0.1", port, "localhost", tls=False)
    return Provider("default/p", "localhost", endpoint, "/v1/chat/completions", OpenAIConfig(key=Secret("sk-policy")))


async def ask(port, target):
    """Make a request with a key of the client's own; return the status and the body of the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    host = target.split("/")[2]
    lines = [f"POST {target} HTTP/1.1", f"host: {host}", "connection: close", "content-length: 16"]
    writer.write("\r\n".join([*lines, f"authorization: Bearer {CLIENT_KEY}", "", '{"messages": []}']).encode())
    head, _, body = (await asyncio.wait_for(reader.read(), 20)).partition(b"\r\n\r\n")
    writer.close()
    return int(head.split()[1]), body


def raise_a_bug(*_, **__):
    raise RuntimeError("a bug of ours")


async def test_it_governs_and_watches_its_policy():
    async with witness() as (at, got):
        addon, records = make_addon(provider_at(at))
        async with running(addon) as port:
            status, _ = await ask(port, "http://localhost/")
            assert addon.current.runtime.source.is_watched

    assert status == 200
    assert b"Bearer sk-policy" in got[0]
    assert [(record.status, record.error) for record in records] == [(200, None)]


async def test_options_that_it_does_not_work_without_are_set():
    addon, _ = make_addon()
    async with running(addon, connection_strategy="eager", block_global=True):
        from mitmproxy import ctx

        assert {name: getattr(ctx.options, name) for name in FORCED_OPTIONS} == FORCED_OPTIONS


@pytest.mark.parametrize(
    "function", ["named_hosts", "header_values", "read_body", "request_view", "decide", "plan", "apply"]
)
async def test_with_a_bug_nothing_is_sent(monkeypatch, function):
    monkeypatch.setattr(requests, function, raise_a_bug)
    async with witness() as (at, got):
        addon, _ = make_addon(provider_at(at))
        async with running(addon) as port:
            status, body = await ask(port, f"http://localhost:{at}/")

    assert (status, json.loads(body)["error"]["code"]) == (500, "internal_error")
    assert got == []


@pytest.mark.parametrize(
    "function", ["named_hosts", "header_values", "read_body", "request_view", "decide", "plan", "apply"]
)
async def test_with_a_bug_and_failing_open_the_request_goes_where_it_was_going(monkeypatch, function):
    monkeypatch.setattr(requests, function, raise_a_bug)
    async with witness() as (at, got):
        addon, _ = make_addon(provider_at(1))
        async with running(addon, sidestream_fail_open=True) as port:
            status, _ = await ask(port, f"http://localhost:{at}/v1/chat/completions?x=y")

    [request] = got
    assert status == 200
    assert request.startswith(b"POST /v1/chat/completions?x=y HTTP/1.1\r\n")
    assert f"authorization: Bearer {CLIENT_KEY}\r\n".encode() in request
    assert b"sk-policy" not in request


async def test_with_a_bug_in_a_layer_nothing_is_sent_either(monkeypatch):
    monkeypatch.setattr(GovernedHttpStream, "make_server_connection", raise_a_bug)
    async with witness() as (at, got):
        addon, records = make_addon(provider_at(at))
        async with running(addon) as port:
            status, body = await ask(port, f"http://localhost:{at}/")

    assert (status, json.loads(body)["error"]["code"]) == (500, "internal_error")
    assert got == []
    assert [record.error for record in records] == ["internal_error"]


async def test_a_record_that_cannot_be_written_harms_nothing():
    async with witness() as (at, _):
        addon, records = make_addon(provider_at(at))
        async with running(addon) as port:
            runtime = addon.current.runtime
            addon.current.runtime = Runtime(runtime.source, (raise_a_bug, *runtime.sinks), runtime.upstream)
            status, _ = await ask(port, "http://localhost/")

    assert status == 200
    assert len(records) == 1


# --- where others can reach it -------------------------------------------------------------------


async def tunnel(port, host):
    """Ask for a tunnel to `host` and return the status."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"CONNECT {host} HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
    head = await asyncio.wait_for(reader.readuntil(b"\r\n"), 20)
    writer.close()
    return int(head.split()[1])


async def test_confined_it_serves_policy_hosts_alone():
    async with witness() as (at, got):
        addon, records = make_addon(provider_at(at))
        async with running(addon, sidestream_only_policy_hosts=True) as port:
            governed, _ = await ask(port, "http://localhost/")
            other, body = await ask(port, f"http://127.0.0.1:{at}/")

    assert (governed, other, json.loads(body)["error"]["code"]) == (200, 421, "host_not_governed")
    assert len(got) == 1
    assert [record.host for record in records] == ["localhost"]


async def test_confined_it_makes_no_tunnel_elsewhere():
    async with witness() as (at, _):
        addon, _ = make_addon(provider_at(at))
        async with running(addon, sidestream_only_policy_hosts=True) as port:
            assert await tunnel(port, f"127.0.0.1:{at}") == 421
            assert await tunnel(port, f"localhost:{at}") == 200


async def test_confined_it_reads_no_more_of_what_it_refuses_than_of_what_it_serves():
    async with witness() as (at, got):
        addon, _ = make_addon(provider_at(at))
        options = {"sidestream_only_policy_hosts": True, "sidestream_max_body": "8"}
        async with running(addon, **options) as port:
            status, _ = await ask(port, f"http://127.0.0.1:{at}/")

    assert status == 413
    assert got == []


async def test_confined_with_a_bug_nothing_is_sent(monkeypatch):
    monkeypatch.setattr(confining, "named_hosts", raise_a_bug)
    async with witness() as (at, got):
        addon, _ = make_addon(provider_at(1))
        async with running(addon, sidestream_only_policy_hosts=True, sidestream_fail_open=True) as port:
            status, _ = await ask(port, f"http://127.0.0.1:{at}/")

    assert status == 500
    assert got == []
