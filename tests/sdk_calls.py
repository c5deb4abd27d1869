"""
Calls of the OpenAI SDK, made as an application makes them, that tell what came of them.

Each takes a client and returns facts as plain values. From a test: `call("chat", …)`. Where a
test can't run itself, in a network namespace for one, the same as a script that prints JSON:

    python tests/sdk_calls.py chat embeddings --base-url http://dashscope.aliyuncs.com/v1

A proxy is taken from the environment (`HTTP_PROXY`, `HTTPS_PROXY`), as the SDK does.
"""

import argparse
import asyncio
import json
import ssl

import openai

CLIENT_KEY = "sk-marker-client-d20b55"
"""The key that the application has. It must never get further than the proxy."""

MODEL = "gpt-4o"
MESSAGES = [{"role": "user", "content": "hi"}]
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {}}}]
STREAM = {"model": MODEL, "messages": MESSAGES, "tools": TOOLS, "stream": True}
WITH_USAGE = {"stream_options": {"include_usage": True}}

ERROR_STATUSES = {401: "status=401", 429: "status=429 retry-after=7", 500: "status=500"}
STALLED = {"x-standin": "stall=2"}


def make_client(base_url, *, asynchronous=False, ca_file=None, http2=False):
    """Make an SDK client that does not retry."""
    kind, http_kind = (
        (openai.AsyncOpenAI, openai.DefaultAsyncHttpxClient)
        if asynchronous
        else (openai.OpenAI, openai.DefaultHttpxClient)
    )
    verify = ssl.create_default_context(cafile=ca_file) if ca_file else True
    if base_url.startswith("http:"):
        verify = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # loading the system's CAs takes longer than a call
    http_client = http_kind(verify=verify, http2=http2, http1=not http2)
    return kind(base_url=base_url, api_key=CLIENT_KEY, max_retries=0, timeout=30, http_client=http_client)


def chat(client):
    return chat_facts(client.chat.completions.create(model=MODEL, messages=MESSAGES))


async def chat_async(client):
    return chat_facts(await client.chat.completions.create(model=MODEL, messages=MESSAGES))


def stream(client):
    return stream_facts(list(client.chat.completions.create(**STREAM, **WITH_USAGE)))


async def stream_async(client):
    return stream_facts([chunk async for chunk in await client.chat.completions.create(**STREAM, **WITH_USAGE)])


def embeddings(client):
    return embeddings_facts(client.embeddings.create(model=MODEL, input=["one", "two"]))


async def embeddings_async(client):
    return embeddings_facts(await client.embeddings.create(model=MODEL, input=["one", "two"]))


def models(client):
    return {"ids": [model.id for model in client.models.list()]}


async def models_async(client):
    return {"ids": [model.id async for model in client.models.list()]}


def errors(client):
    facts = {}
    for status, settings in ERROR_STATUSES.items():
        try:
            client.chat.completions.create(model=MODEL, messages=MESSAGES, extra_headers={"x-standin": settings})
        except openai.APIStatusError as e:
            facts[str(status)] = error_facts(e)
    return facts


async def errors_async(client):
    facts = {}
    for status, settings in ERROR_STATUSES.items():
        try:
            await client.chat.completions.create(model=MODEL, messages=MESSAGES, extra_headers={"x-standin": settings})
        except openai.APIStatusError as e:
            facts[str(status)] = error_facts(e)
    return facts


def leave(client):
    """Hang up in the middle of a stream that has gone silent."""
    said = []
    with client.chat.completions.create(**STREAM, extra_headers=STALLED) as answer:
        for chunk in answer:
            said.append(chunk.id)
            if len(said) == 3:
                break
    return {"chunks": len(said)}


async def leave_async(client):
    said = []
    async with await client.chat.completions.create(**STREAM, extra_headers=STALLED) as answer:
        async for chunk in answer:
            said.append(chunk.id)
            if len(said) == 3:
                break
    return {"chunks": len(said)}


def chat_facts(completion):
    return {
        "content": completion.choices[0].message.content,
        "model": completion.model,
        "prompt_tokens": completion.usage.prompt_tokens,
        "completion_tokens": completion.usage.completion_tokens,
    }


def stream_facts(chunks):
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    calls = [call.function for delta in deltas for call in delta.tool_calls or ()]
    return {
        "chunks": len(chunks),
        "function": "".join(call.name or "" for call in calls),
        "arguments": json.loads("".join(call.arguments or "" for call in calls)),
        "model": chunks[0].model,
        "completion_tokens": chunks[-1].usage.completion_tokens,
    }


def embeddings_facts(answer):
    return {
        "vectors": [len(entry.embedding) for entry in answer.data],
        "model": answer.model,
        "prompt_tokens": answer.usage.prompt_tokens,
    }


def error_facts(error):
    return {
        "exception": type(error).__name__,
        "status": error.status_code,
        "code": error.code,
        "type": error.type,
        "message": error.message,
        "retry_after": error.response.headers.get("retry-after"),
    }


CALLS = {
    "chat": (chat, chat_async),
    "stream": (stream, stream_async),
    "embeddings": (embeddings, embeddings_async),
    "models": (models, models_async),
    "errors": (errors, errors_async),
    "leave": (leave, leave_async),
}
"""Name → the call, for a client that blocks and for one that does not."""


def call(name, base_url, *, asynchronous=False, **how):
    """Make a client (`how`: see `make_client`), make the call `name` with it, and return its facts."""
    synchronous_call, asynchronous_call = CALLS[name]
    if not asynchronous:
        with make_client(base_url, **how) as client:
            return synchronous_call(client)

    async def run():
        async with make_client(base_url, asynchronous=True, **how) as client:
            return await asynchronous_call(client)

    return asyncio.run(run())


def main():
    parser = argparse.ArgumentParser(description="Make calls with the OpenAI SDK and print what came of them.")
    parser.add_argument("calls", nargs="+", choices=CALLS, metavar="CALL", help=", ".join(CALLS))
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--async", action="store_true", dest="asynchronous")
    parser.add_argument("--ca-file")
    parser.add_argument("--http2", action="store_true")
    options = vars(parser.parse_args())
    for name in options.pop("calls"):
        print(json.dumps(call(name, **options)), flush=True)  # noqa: T201 it is a script, too


if __name__ == "__main__":
    main()
