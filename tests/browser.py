"""
A real browser, and everything that it is told.

Debian's Chromium, driven by playwright; tests that need it are skipped where it is not.
"""

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Page, Response, WebSocket, sync_playwright

CHROMIUM = shutil.which("chromium")

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
"""It runs as root here, and talks to nobody but the page."""

SIZE = {"width": 1280, "height": 720}


def skip_unless_possible() -> None:
    """Skip the calling test where there is no Chromium."""
    if CHROMIUM is None:
        pytest.skip("no chromium here: apt-get install chromium")


@dataclass
class Browser:
    """A page, and what came over the network for it. `frames`: of WebSockets, both ways."""

    page: Page
    responses: list[Response] = field(default_factory=list)
    frames: list[bytes] = field(default_factory=list)

    def heard(self) -> dict[str, bytes]:
        """Return everything that the page was told and shows: where it came from → what it was."""
        told = {f"{number} {each.url}": _said(each) for number, each in enumerate(self.responses)}
        shown = {"the page": self.page.content().encode(), "its text": self.page.inner_text("body").encode()}
        return told | {f"frame {number}": frame for number, frame in enumerate(self.frames)} | shown


@contextlib.contextmanager
def browsing(folder: Path) -> Iterator[Browser]:
    """Run a browser whose profile is in `folder`."""
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            folder / "chromium", executable_path=CHROMIUM, headless=True, args=list(FLAGS), viewport=SIZE
        )
        try:
            browser = Browser(context.pages[0])
            browser.page.on("response", lambda each: browser.responses.append(each))  # noqa: PLW0108 it is given attributes
            browser.page.on("websocket", lambda socket: _listen(socket, browser.frames))
            yield browser
        finally:
            context.close()


def _listen(socket: WebSocket, frames: list[bytes]) -> None:
    for event in ("framereceived", "framesent"):
        socket.on(event, lambda said: frames.append(said if isinstance(said, bytes) else said.encode()))


def _said(response: Response) -> bytes:
    headers = "".join(f"{name}: {value}\n" for name, value in response.all_headers().items()).encode()
    has_body = response.status not in (101, 204, 304)
    return headers + (response.body() if has_body else b"")
