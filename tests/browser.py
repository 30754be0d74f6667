"""A real browser for tests: the installed Chromium, driven by Playwright, which brings none of its own here."""

from __future__ import annotations

import shutil
from contextlib import contextmanager

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def launched():
    """A running browser, every ``new_context()`` of which is another user.

    Skips the test, and says so, where no browser is installed (Debian: ``apt install chromium``).
    """
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        pytest.skip(f"no browser is installed: looked for {', '.join(_NAMES)}")
    with sync.sync_playwright() as playwright:
        # Chromium's own sandbox needs rights that containers do not give.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def browsing(**options):
    """A new page of a browser, its mistakes and what it asked for: ``page``, ``errors``, ``requests``."""
    with launched() as browser:
        page = browser.new_page(**options)
        page.errors, page.requests = [], []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on("console", lambda message: page.errors.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: page.requests.append(request.url))
        yield page
