"""Calls through the real OpenAI SDK, judged by what an application would see of them."""

import asyncio
import ssl

import openai

from sidestream.demo.turn import Turn, fill
from tests.soak.asking import PROVIDERS, ROUTED, Ask
from tests.soak.judging import Verdict
from tests.soak.speaking import PATIENCE_SECONDS


def make_client(port: int, key: str) -> openai.AsyncOpenAI:
    """Make an SDK client that goes through the proxy at `port` and never retries."""
    http_client = openai.DefaultAsyncHttpxClient(
        proxy=f"http://127.0.0.1:{port}",
        trust_env=False,
        verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),  # loading the system's CAs takes long, and none is asked for
    )
    return openai.AsyncOpenAI(
        base_url=f"http://{ROUTED}/v1", api_key=key, max_retries=0, timeout=60, http_client=http_client
    )


async def call(client: openai.AsyncOpenAI, ask: Ask) -> Verdict:
    """Make a chat call; judge the text that came, or the exception."""
    headers = {"x-request-tag": ask.tag, "x-standin": ask.settings}
    client = client.with_options(base_url=f"http://{ask.host}/v1")
    said, finish, status = "", None, None
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            answer = await client.chat.completions.create(**ask.body, extra_headers=headers)
            if not ask.streams:
                said, finish = _said(answer.choices[0].message), answer.choices[0].finish_reason
            else:
                async with answer:
                    async for chunk in answer:
                        for choice in chunk.choices:
                            said += _said(choice.delta)
                            finish = choice.finish_reason or finish
    except TimeoutError:
        return Verdict("gave up")
    except openai.APIStatusError as e:
        status = e.status_code
        return Verdict("offence", "the provider did not get its key") if status == 401 else Verdict("error")
    except Exception as e:
        if not isinstance(e, openai.APIError) and "httpx" not in type(e).__module__:
            raise
        # Within a stream, the SDK lets exceptions of its HTTP client through.
        return Verdict("incomplete")
    if said not in _expected(ask):
        return Verdict("offence", f"the SDK was told {said[:500]!r}")
    return Verdict("complete") if finish else Verdict("offence", "the stream ended as if it were complete")


def _said(message):
    calls = message.tool_calls or []
    return (message.content or "") + "".join(call.function.arguments or "" for call in calls)


def _expected(ask):
    for name in PROVIDERS[ask.host]:
        turn = Turn(name, 0, 0, ask.body | {"model": f"{name}-model"}, ask.tag, ask.behaviour)
        if turn.tool:
            yield turn.arguments.ljust(ask.behaviour.events) if ask.streams else turn.arguments
        else:
            yield fill(turn.text, ask.behaviour.events) if ask.streams else turn.text
