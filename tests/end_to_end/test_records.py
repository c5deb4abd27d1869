"""Records: every field of every kind of exchange, and exactly one for each, however many there are at once."""

import asyncio
import contextlib
import datetime as dt
import json
import socket
from collections import Counter

import httpx2
import pytest

from tests.wire import parse, send
from tests.world import free_port, provider_document, sidestream_run

MESSAGES = [{"role": "user", "content": "hi"}]
CHAT = {"model": "gpt-4o", "messages": MESSAGES}
STREAM = CHAT | {"stream": True}

DASHSCOPE = {"host": "dashscope.aliyuncs.com", "route": "default/dashscope-route", "provider": "default/dashscope-qwen"}
UNKNOWN = {
    "rule": None,
    "operation": None,
    "request_model": None,
    "sent_model": None,
    "response_model": None,
    "finish_reason": None,
    "server_address": None,
    "provider_system": None,
    "stream": None,
    "error": None,
    "prompt_tokens": None,
    "completion_tokens": None,
    "cached_tokens": None,
    "reasoning_tokens": None,
    "usage_partial": None,
    "cost_usd": None,
    "events_out": None,
    "attempts": [],
    "trace_id": None,
    "span_id": None,
    "parent_span_id": None,
}
SENT = {"server_address": "127.0.0.1", "provider_system": "dashscope"}
CHATTED = {
    "operation": "chat",
    "request_model": "gpt-4o",
    "sent_model": "qwen1.5-72b-chat",
    "response_model": "qwen1.5-72b-chat",
    "stream": False,
    "status": 200,
    "finish_reason": "stop",
    "prompt_tokens": 1,
    "completion_tokens": 11,
    "cached_tokens": 0,
    "usage_partial": False,
    "attempts": [(200, None)],
    **SENT,
}
UNCOUNTED = {"prompt_tokens": None, "completion_tokens": None, "cached_tokens": None, "usage_partial": None}
UNANSWERED = UNCOUNTED | {"response_model": None, "finish_reason": None}
BEFORE = {"client": "of before"}
MEASURED = (
    *("time", "id", "client", "response_id", "server_port"),
    *("time_to_first_byte_seconds", "time_to_first_event_seconds", "seconds_per_event"),
    *("duration_seconds", "overhead_seconds", "bytes_in", "bytes_out"),
)
"""Fields that no table can know."""


@pytest.fixture(scope="module")
def policies(shared_world):
    folder = shared_world.policies("policies-of-records")
    (folder / "gone.yaml").write_text(provider_document("gone.test", free_port()))
    return folder


@pytest.fixture(scope="module")
def proxy(shared_world, policies):
    log = shared_world.folder / "records-of-before.jsonl"
    log.write_text(json.dumps(BEFORE) + "\n")
    flags = ["--log", str(log), "--set", "body_size_limit=30m"]
    with sidestream_run(shared_world, *flags, policies=policies, log=log) as proxy:
        yield proxy


def post(proxy, settings="", *, host="dashscope.aliyuncs.com", path="/", body=CHAT, **headers):
    """Make a request; return the body of the answer, or what there was of it."""
    body_out = b""
    headers |= {"x-standin": settings} if settings else {}
    with (
        httpx2.Client(proxy=proxy.url, timeout=20, headers={"accept-encoding": "gzip"}) as client,
        contextlib.suppress(httpx2.RemoteProtocolError),
        client.stream("POST", f"http://{host}{path}", content=json.dumps(body), headers=headers) as answer,
    ):
        for part in answer.iter_raw():
            body_out += part
    return body_out


CASES = {
    "chat": ({}, DASHSCOPE | CHATTED),
    "chat by a rule with a name": (
        {"user-type": "subscriber"},
        DASHSCOPE
        | CHATTED
        | {"rule": "vip-route", "sent_model": "qwen-turbo", "response_model": "qwen-turbo"}
        | {"completion_tokens": 10},
    ),
    "chat with a provider that has no route": (
        {"host": "api.moonshot.cn"},
        {"host": "api.moonshot.cn", "route": None, "provider": "default/moonshot"}
        | CHATTED
        | {"sent_model": "moonshot-v1-8k", "response_model": "moonshot-v1-8k", "provider_system": "moonshot_ai"},
    ),
    "no model": ({"body": {"messages": MESSAGES}}, DASHSCOPE | CHATTED | {"request_model": None}),
    "a stream with usage": (
        {"body": STREAM | {"stream_options": {"include_usage": True}}},
        DASHSCOPE | CHATTED | {"stream": True, "events_out": 9},
    ),
    "a stream with usage in its last chunk": (
        {"body": STREAM, "settings": "usage=with-last"},
        DASHSCOPE | CHATTED | {"stream": True, "events_out": 8},
    ),
    "a stream whose client did not ask for usage": (
        {"body": STREAM},
        DASHSCOPE | CHATTED | {"stream": True, "events_out": 8},
    ),
    "a stream without usage": (
        {"body": STREAM, "settings": "usage=never"},
        DASHSCOPE | CHATTED | UNCOUNTED | {"stream": True, "events_out": 8},
    ),
    "an answer without usage": ({"settings": "usage=never"}, DASHSCOPE | CHATTED | UNCOUNTED),
    "a stream that broke off": (
        {"body": STREAM, "settings": "cut=2"},
        DASHSCOPE
        | CHATTED
        | UNCOUNTED
        | {"completion_tokens": 2, "usage_partial": True, "finish_reason": None}
        | {"stream": True, "events_out": 3, "error": "provider_failed", "attempts": [(200, "reset")]},
    ),
    "a stream with an error": (
        {"body": STREAM, "settings": "error-event=2"},
        DASHSCOPE
        | CHATTED
        | UNCOUNTED
        | {"completion_tokens": 2, "usage_partial": True, "finish_reason": None}
        | {"stream": True, "events_out": 4, "error": "error_in_stream", "attempts": [(200, "stream-error")]},
    ),
    "embeddings": (
        {"path": "/v1/embeddings", "body": {"model": "e", "input": "four"}},
        DASHSCOPE
        | UNKNOWN
        | {"operation": "embeddings", "request_model": "e", "sent_model": "e", "response_model": "e"}
        | {"stream": False, "status": 200, "prompt_tokens": 1, "usage_partial": False, "attempts": [(200, None)]}
        | SENT,
    ),
    "an operation that nobody knows": (
        {"path": "/v1/files", "body": {"model": "f"}},
        DASHSCOPE
        | UNKNOWN
        | {"operation": "other", "request_model": "f", "sent_model": "f", "stream": False, "status": 401}
        | {"attempts": [(401, None)]}
        | SENT,
    ),
    "an error of the provider": (
        {"settings": "status=429"},
        DASHSCOPE | CHATTED | UNANSWERED | {"status": 429, "attempts": [(429, "rate-limited")]},
    ),
    "no chat": (
        {"body": {"prompt": "hi"}},
        DASHSCOPE | UNKNOWN | {"provider": None, "status": 400, "error": "invalid_chat_body"},
    ),
    "a coding that nobody knows": (
        {"content-encoding": "zip"},
        DASHSCOPE | UNKNOWN | {"provider": None, "status": 415, "error": "unsupported_content_encoding"},
    ),
    "a provider that is not there": (
        {"host": "gone.test"},
        {"host": "gone.test", "route": None, "provider": "default/gone-test"}
        | CHATTED
        | UNANSWERED
        | {"provider_system": "_OTHER", "sent_model": "m", "status": 502, "error": "provider_unreachable"}
        | {"attempts": [(None, "connect-failure")]},
    ),
}


@pytest.mark.parametrize(("how", "wanted"), CASES.values(), ids=CASES.keys())
def test_every_field_of_a_record(world, proxy, how, wanted):
    with proxy.recording() as records:
        got = post(proxy, **how)

    [record] = records
    measured = {name: record.pop(name) for name in MEASURED}
    attempts = record["attempts"]
    record["attempts"] = [(attempt["status"], attempt["error"]) for attempt in attempts]
    assert record == UNKNOWN | wanted
    assert {(attempt["provider"], attempt["sent_model"]) for attempt in attempts} <= {
        (record["provider"], record["sent_model"])
    }
    assert all(0 < attempt["duration_seconds"] <= measured["duration_seconds"] for attempt in attempts)
    assert measured["bytes_in"] == len(json.dumps(how.get("body", CHAT)))
    assert measured["bytes_out"] == len(got)
    assert 0 < measured["time_to_first_byte_seconds"] <= measured["duration_seconds"]
    assert measured["client"].startswith("127.0.0.1:")
    assert 0 <= measured["overhead_seconds"] < measured["duration_seconds"]
    assert (measured["server_port"] is None) is (record["server_address"] is None)
    assert (measured["response_id"] is None) is (record["operation"] == "embeddings" or not record["response_model"])
    assert (measured["time_to_first_event_seconds"] is None) is not record["events_out"]
    if record["events_out"]:
        assert 0 < measured["time_to_first_event_seconds"] <= measured["duration_seconds"]
        assert 0 <= measured["seconds_per_event"] < measured["duration_seconds"]
    told_apart = 0 if wanted.get("error") != "provider_failed" else 1  # the last event is ours
    assert got.count(b"\n\n") == (record["events_out"] or 0) + told_apart
    age = dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(measured["time"])
    assert dt.timedelta() < age < dt.timedelta(seconds=30)


COUNTS = ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens", "usage_partial")
REPORTED = "prompt-tokens=70 completion-tokens=31 cached=64 reasoning=8"
ASKED = STREAM | {"stream_options": {"include_usage": True}}
TOKENS = {
    "JSON": ({"settings": REPORTED}, (70, 31, 64, 8, False)),
    "a stream that was asked for usage": ({"body": ASKED, "settings": REPORTED}, (70, 31, 64, 8, False)),
    "a stream that was not": ({"body": STREAM, "settings": REPORTED}, (70, 31, 64, 8, False)),
    "a stream with usage in its last chunk": (
        {"body": STREAM, "settings": f"{REPORTED} usage=with-last"},
        (70, 31, 64, 8, False),
    ),
    "a compressed stream": ({"body": STREAM, "settings": f"{REPORTED} gzip=1"}, (70, 31, 64, 8, False)),
    "the Responses API": (
        {"path": "/v1/responses", "body": {"model": "m", "input": "hi"}, "settings": REPORTED},
        (70, 31, 64, 8, False),
    ),
    "a stream of the Responses API": (
        {"path": "/v1/responses", "body": {"model": "m", "input": "hi", "stream": True}, "settings": REPORTED},
        (70, 31, 64, 8, False),
    ),
    "embeddings": (
        {"path": "/v1/embeddings", "body": {"model": "e", "input": "four"}, "settings": "prompt-tokens=70"},
        (70, None, None, None, False),
    ),
    "a stream cut after three pieces": (
        {"body": STREAM, "settings": f"{REPORTED} events=9 cut=3"},
        (None, 3, None, None, True),
    ),
    "a tool call cut after four pieces": (
        {"body": STREAM | {"tools": [{"type": "function", "function": {"name": "f"}}]}, "settings": "events=9 cut=4"},
        (None, 4, None, None, True),
    ),
    "a stream of the Responses API cut after three pieces": (
        {
            "path": "/v1/responses",
            "body": {"model": "m", "input": "hi", "stream": True},
            "settings": "events=9 cut=3",
        },
        (None, 3, None, None, True),
    ),
    "a stream that tells nothing": ({"body": STREAM, "settings": "usage=never"}, (None, None, None, None, None)),
    "JSON that is cut": ({"settings": f"{REPORTED} cut=1"}, (None, None, None, None, None)),
}


@pytest.mark.parametrize(("how", "wanted"), TOKENS.values(), ids=TOKENS.keys())
def test_tokens_are_the_providers(world, proxy, how, wanted):
    with proxy.recording() as records:
        post(proxy, **how)

    [record] = records
    assert tuple(record[name] for name in COUNTS) == wanted


def test_a_client_that_is_gone_before_the_answer(world, proxy):
    body = json.dumps(CHAT).encode()
    head = (
        f"POST http://dashscope.aliyuncs.com/ HTTP/1.1\r\nhost: dashscope.aliyuncs.com\r\ncontent-length: {len(body)}"
    )

    with proxy.recording() as records, socket.create_connection(("127.0.0.1", proxy.port)) as client:
        client.sendall(f"{head}\r\nx-standin: first-byte=60\r\n\r\n".encode() + body)
        world.dashscope.wait_for(lambda standin: standin.requests)
        client.close()

    [record] = records
    [attempt] = record.pop("attempts")
    known = SENT | {name: CHATTED[name] for name in ("operation", "request_model", "sent_model", "stream")}
    assert (attempt["status"], attempt["error"]) == (None, "client_disconnected")
    assert {name: record.get(name) for name in UNKNOWN} == UNKNOWN | known | {
        "error": "client_disconnected",
        "attempts": None,
    }
    assert record["status"] is record["time_to_first_byte_seconds"] is None
    assert (record["bytes_in"], record["bytes_out"]) == (len(body), 0)


def test_a_request_that_is_too_large(world, shared_world, proxy):
    head = b"POST http://dashscope.aliyuncs.com/ HTTP/1.1\r\nhost: dashscope.aliyuncs.com\r\ncontent-length: 40000000"

    with proxy.recording() as records:
        [answer] = parse(send(proxy.port, head + b"\r\n\r\n"))

    [record] = records
    assert (answer.status, answer.error["code"]) == (413, "body_too_large")
    assert (record["status"], record["error"], record["bytes_out"]) == (413, "body_too_large", len(answer.body))


def test_times_are_measured_where_they_say(world, proxy):
    with proxy.recording() as records:
        post(proxy, "first-byte=0.1 gap=0.03 events=10", body=STREAM)

    [record] = records
    assert record["time_to_first_byte_seconds"] >= 0.1
    assert record["duration_seconds"] - record["time_to_first_byte_seconds"] >= 10 * 0.03


def test_times_and_ids_differ_where_they_must(world, proxy):
    with proxy.recording() as records:
        for _ in range(3):
            post(proxy)

    assert len({record["id"] for record in records}) == 3
    assert [record["time"] for record in records] == sorted(record["time"] for record in records)


# --- as many as there are exchanges ----------------------------------------------------------------

KINDS = {
    "chat": ({}, (200, None)),
    "stream": ({"body": STREAM, "settings": "gap=0.005"}, (200, None)),
    "embeddings": ({"path": "/v1/embeddings", "body": {"model": "e", "input": "hi"}}, (200, None)),
    "refused": ({"body": {}}, (400, "invalid_chat_body")),
    "an error": ({"settings": "status=500"}, (500, None)),
    "cut": ({"body": STREAM, "settings": "cut=2"}, (200, "provider_failed")),
    "reset": ({"settings": "close=reset"}, (502, "provider_failed")),
    "gone": ({"host": "gone.test"}, (502, "provider_unreachable")),
    "other": ({"path": "/v1/files"}, (401, None)),
    "left": ({"body": STREAM, "settings": "stall=1"}, (200, "client_disconnected")),
}
EACH = 20


async def ask(client, settings="", *, host="dashscope.aliyuncs.com", path="/", body=CHAT):
    headers = {"x-standin": settings} if settings else {}
    with contextlib.suppress(httpx2.RemoteProtocolError):
        async with client.stream("POST", f"http://{host}{path}", json=body, headers=headers) as answer:
            async for _ in answer.aiter_raw():
                if "stall" in settings:
                    break


def test_two_hundred_exchanges_at_once_leave_two_hundred_records(world, proxy):
    async def ask_all():
        limits = httpx2.Limits(max_connections=50)
        async with httpx2.AsyncClient(proxy=proxy.url, timeout=60, limits=limits) as client:
            await asyncio.gather(*(ask(client, **how) for _ in range(EACH) for how, _ in KINDS.values()))

    with proxy.recording() as records:
        asyncio.run(ask_all())
        world.dashscope.wait_for(lambda standin: standin.aborted == EACH)

    wanted = Counter({outcome: 0 for _, outcome in KINDS.values()})
    for _, outcome in KINDS.values():
        wanted[outcome] += EACH
    assert Counter((record["status"], record["error"]) for record in records) == wanted
    assert len({record["id"] for record in records}) == EACH * len(KINDS)


# --- where they go ---------------------------------------------------------------------------------


def test_standard_output_is_where_they_go_by_themselves(world, shared_world, policies):
    with sidestream_run(shared_world, "--log", "-", policies=policies) as proxy:
        post(proxy)
        post(proxy, body={})

        proxy.wait_for_said('"invalid_chat_body"')

    lines = [json.loads(line) for line in proxy.said.splitlines() if line.startswith("{")]
    assert [line["status"] for line in lines] == [200, 400]
    assert proxy.records == []


def test_a_file_is_added_to(world, proxy):
    with proxy.recording():
        post(proxy)

    assert proxy.records[0] == BEFORE
    assert len(proxy.records) > 1
