"""
A browser that looks at mitmweb all through the load, as somebody would who leaves it open.

It clicks the newest flow every few seconds, so that pages are made, too, and tells what mitmweb keeps.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from playwright.async_api import Error, Page, async_playwright

from tests.browser import CHROMIUM, FLAGS, SIZE

PASSWORD = "sk-no-key-at-all"
SECONDS_BETWEEN_CLICKS = 5.0

# The page's own token: its cookie is for the same origin.
_COUNT = "fetch('./flows').then(answer => answer.json()).then(flows => flows.length)"


def flags(port: int, flows: int) -> list[str]:
    """Return what `sidestream run` is told, so that there is a page at `port` that keeps `flows`."""
    options = {"web_port": port, "web_password": PASSWORD, "sidestream_web_max_flows": flows}
    return ["--web", *(word for name, value in options.items() for word in ("--set", f"{name}={value}"))]


@dataclass
class Watcher:
    """Who looks. `kept`: how many flows mitmweb had at each click; `opened`: how many pages were opened."""

    kept: list[int] = field(default_factory=list)
    opened: int = 0
    failures: list[str] = field(default_factory=list)

    async def look(self, page: Page) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(SECONDS_BETWEEN_CLICKS)
            try:
                self.kept.append(await page.evaluate(_COUNT))
                await page.locator(".flow-table tbody tr.has-response").last.click(timeout=10_000)
                await page.get_by_role("link", name="Response", exact=True).click(timeout=10_000)
                self.opened += 1
            except Error as e:
                self.failures.append(str(e).splitlines()[0])


@contextlib.asynccontextmanager
async def watching(folder: Path, port: int) -> AsyncIterator[Watcher]:
    """Have a browser open at the page at `port` while the block runs."""
    async with async_playwright() as playwright:
        context = await playwright.chromium.launch_persistent_context(
            folder / "chromium", executable_path=CHROMIUM, headless=True, args=list(FLAGS), viewport=SIZE
        )
        page, watcher = context.pages[0], Watcher()
        await page.goto(f"http://127.0.0.1:{port}/?token={PASSWORD}")
        looking = asyncio.create_task(watcher.look(page))
        try:
            yield watcher
        finally:
            looking.cancel()
            await context.close()
