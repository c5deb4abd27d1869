"""
Make the pictures of mitmweb that are in the README: python -m tests.pictures

Real ones, of `sidestream run --web` with stand-in providers, in Debian's Chromium. Emoji need a font that
has them (Debian's fonts-noto-color-emoji).
"""

import contextlib
import http.client
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Page

from tests.browser import CHROMIUM, browsing
from tests.world import ROOT, Proxy, free_port, make_world, sidestream_run

PICTURES = ROOT / "addon/pictures"
PASSWORD = "for-pictures"
LIST = {"width": 1180, "height": 340}
PAGE = {"width": 1180, "height": 1000}

WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Hangzhou"}'}}
PHOTO = {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64," + "A" * 61_440}}
CONVERSATION = [
    {"role": "system", "content": "You are a travel agent. Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "What will the weather be like here tomorrow?"}, PHOTO]},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": "Light rain, 17 to 23 °C"},
]


@contextlib.contextmanager
def calling(proxy: Proxy, host: str, messages: list[dict], *, tools: list[dict] = (), **headers: str) -> Iterator:
    """Begin a streamed call, and leave when the block ends."""
    body = {"messages": messages, "stream": True} | ({"tools": list(tools)} if tools else {})
    client = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=30)
    with contextlib.closing(client):
        fields = {"content-type": "application/json", "authorization": "Bearer sk-of-the-app"}
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        client.request("POST", f"http://{host}/v1/chat/completions", json.dumps(body), fields)
        with client.getresponse() as answer:
            yield answer


def take(proxy: Proxy, page: Page) -> None:
    """Make some calls, and take the pictures."""
    said = [{"role": "user", "content": "Name three lakes."}]
    for host, headers in (
        ("api.moonshot.cn", {}),
        ("demo-llm-server", {}),
        ("dashscope.aliyuncs.com", {"x_standin": "status=429"}),
    ):
        with calling(proxy, host, said, **headers) as answer:
            answer.read()
    with calling(
        proxy,
        "dashscope.aliyuncs.com",
        CONVERSATION,
        tools=[WEATHER],
        user_type="subscriber",
        x_standin="events=30 stall=20",
    ):
        row = page.locator(".flow-table tbody tr", has_text="vip-route")
        row.wait_for()
        page.screenshot(path=PICTURES / "mitmweb-list.png")
        page.set_viewport_size(PAGE)
        row.click()
        page.get_by_role("link", name="Response", exact=True).click()
        page.get_by_text("the answer is under way").wait_for()
        page.screenshot(path=PICTURES / "mitmweb-conversation.png")
        page.get_by_role("link", name="Request", exact=True).click()
        page.get_by_text("View:").click()
        page.get_by_text("llm diff", exact=True).click()
        page.get_by_text("as it went out").wait_for()
        page.screenshot(path=PICTURES / "mitmweb-diff.png")


def main() -> int:
    if CHROMIUM is None:
        print("no chromium here: apt-get install chromium", file=sys.stderr)
        return 1
    PICTURES.mkdir(exist_ok=True)
    port = free_port()
    flags = ("--web", "--admin", "off", "--set", f"web_port={port}", "--set", f"web_password={PASSWORD}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with make_world(folder) as world, sidestream_run(world, *flags) as proxy, browsing(folder) as browser:
            browser.page.set_viewport_size(LIST)
            browser.page.goto(f"http://127.0.0.1:{port}/?token={PASSWORD}")
            browser.page.get_by_text("connected").wait_for(state="attached")
            take(proxy, browser.page)
    for picture in sorted(PICTURES.glob("*.png")):
        print(f"{picture.relative_to(ROOT)}: {picture.stat().st_size // 1024} KB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
