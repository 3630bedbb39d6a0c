"""The served page in a real Chromium, driven by Playwright, over the API in this process."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI

from tests.browser.chromium import NAMES

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--enable-unsafe-swiftshader"]


@contextmanager
def listening(api: FastAPI) -> Iterator[str]:
    """The URL of the API on a free port."""
    server = uvicorn.Server(uvicorn.Config(api, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.05)
        if not thread.is_alive():
            raise RuntimeError("the server did not start")
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@dataclass
class Visit:
    """A page and what it complained of: errors on its console, and requests to anywhere else."""

    page: Any
    errors: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)

    def text(self, selector: str) -> str:
        return str(self.page.text_content(selector))


@contextmanager
def visiting(
    url: str,
    width: int = 1280,
    height: int = 860,
    dark: bool = False,
    before: Callable[[Any], None] | None = None,
) -> Iterator[Visit]:
    """Open a page and wait until it says it is ready. before: what is done to the page first."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    executable = next((found for name in NAMES if (found := shutil.which(name))), None)
    if executable is None:
        pytest.skip(f"needs Chromium (none of {', '.join(NAMES)} is on PATH; apt-get install chromium)")
    with playwright.sync_playwright() as drivers:
        browser = drivers.chromium.launch(executable_path=executable, args=ARGUMENTS)
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            accept_downloads=True,
        )
        visit = Visit(context.new_page())
        visit.page.on("console", lambda m: visit.errors.append(m.text) if m.type == "error" else None)
        visit.page.on("pageerror", lambda error: visit.errors.append(str(error)))
        # A page from disk takes its files from its folder.
        own = url.split("#")[0].removesuffix("index.html")
        visit.page.on(
            "request",
            lambda r: None if r.url.startswith((own, "blob:", "data:")) else visit.elsewhere.append(r.url),
        )
        try:
            if before is not None:
                before(visit.page)
            visit.page.goto(url)
            visit.page.wait_for_selector("body[data-ready]", timeout=60_000)
            yield visit
        finally:
            browser.close()
