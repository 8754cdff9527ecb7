"""A real Chromium, driven by Playwright, that notes whatever a page must not do."""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from playwright.async_api import (
    Browser,
    ConsoleMessage,
    Page,
    Request,
    ViewportSize,
    async_playwright,
    expect,
)

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# Playwright would give up after 5 s, which a busy machine needs for one page.
expect.set_options(timeout=30_000)
VIEWPORT: ViewportSize = {"width": 1280, "height": 900}


def executable() -> str:
    """The browser's path. Raises AssertionError with what to do when there is none."""
    found = os.environ.get("MARKET_CHROMIUM") or shutil.which("chromium")
    assert found, (
        "The console's tests need Chromium: install it (on Debian: apt install chromium) or "
        "name its executable in MARKET_CHROMIUM."
    )
    return found


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """One browser process."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=executable(), args=ARGUMENTS, headless=True
        )
        try:
            yield browser
        finally:
            await browser.close()


async def rendered(page: Page) -> None:
    """Until the page is drawn: Chromium drops what is typed before, and "load" may come first.

    Clicks wait by themselves.
    """
    await page.evaluate(
        "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
    )


@dataclass
class Watch:
    """What happened behind a page: foreign requests, script errors, refused content."""

    base_url: str
    foreign: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def attach(self, page: Page) -> None:
        """Listen from now on."""
        page.on("request", self._request)
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def _request(self, request: Request) -> None:
        if not request.url.startswith((self.base_url, "data:", "blob:")):
            self.foreign.append(request.url)

    def _console(self, message: ConsoleMessage) -> None:
        # A content policy violation is reported here, too.
        if message.type == "error":
            self.errors.append(message.text)
