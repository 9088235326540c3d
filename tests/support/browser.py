"""A page in a real browser, and all that it logs and asks for."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

_FLAGS = (
    "no-sandbox disable-gpu disable-quic no-first-run disable-background-networking "
    "disable-component-update disable-sync"
)


_STARTED: list[Any] = []  # one browser
_OPEN = contextlib.ExitStack()


def _browser() -> Any:
    """Return the browser of a file of tests, which each of its pages shares."""
    if _STARTED and not _STARTED[0].is_connected():
        close_browser()
    if not _STARTED:
        playwright = pytest.importorskip("playwright.sync_api")
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        if chromium is None:
            pytest.skip("no Chromium here")
        driver = _OPEN.enter_context(playwright.sync_playwright())
        flags = [f"--{flag}" for flag in _FLAGS.split()]
        try:
            _STARTED.append(driver.chromium.launch(executable_path=chromium, args=flags))
        except BaseException:
            close_browser()  # the next page says what is wrong, too
            raise
        _OPEN.callback(_STARTED[0].close)
    return _STARTED[0]


def close_browser() -> None:
    """End the browser, if there is one; the next page starts another."""
    _OPEN.close()
    _STARTED.clear()


@contextlib.contextmanager
def opened_page(url: str, **options: Any) -> Iterator[Any]:
    """Yield the tab of a page; `said` has what it logged, `asked` the addresses it asked for."""
    tab = _browser().new_page(viewport={"width": 1100, "height": 900}, **options)
    tab.said, tab.asked = [], []
    tab.on("console", lambda message: tab.said.append(message.text))
    tab.on("pageerror", lambda error: tab.said.append(str(error)))
    tab.on("dialog", lambda dialog: (tab.said.append("dialog"), dialog.dismiss()))
    tab.on("request", lambda request: tab.asked.append(request.url))
    try:
        tab.goto(url)
        yield tab
    finally:
        tab.close()


def at_rest(tab: Any, number: Callable[[Any], int]) -> int:
    """Return a number of a paused page once it stays: pictures may still be under way."""
    while True:
        before = number(tab)
        tab.wait_for_timeout(500)
        if number(tab) == before:
            return before


def press_while_it_changes(tab: Any) -> None:
    """Choose other rules, and press P and N before the server can answer."""
    tab.evaluate("""() => {
        const protocol = document.getElementById("protocol");
        protocol.value = "machado";
        protocol.dispatchEvent(new Event("change"));
        for (const key of ["p", "n"])
            document.body.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
    }""")


def screenshots(tab: Any, name: str) -> None:
    """Where the variable SCREENSHOTS names a folder, put pictures of a page there."""
    if os.environ.get("SCREENSHOTS"):
        folder = Path(os.environ["SCREENSHOTS"])
        tab.screenshot(path=folder / f"{name}.png", full_page=True)
        tab.emulate_media(color_scheme="dark")
        tab.screenshot(path=folder / f"{name}-dark.png", full_page=True)
        tab.emulate_media(color_scheme="light")
