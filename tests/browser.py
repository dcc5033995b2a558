"""A real browser for tests: Debian's Chromium, driven by playwright. Asked for, never imported at the top of a module."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray

from extras import need

CHROMIUM = Path("/usr/bin/chromium")

# The slide that was asked for last is open with its patches and its layer, and its tiles are there.
READY = """() => {
  const app = window.histofastView, said = document.getElementById('message');
  if (!app || app.info === null || app.drawn !== app.turn) return false;
  return said.hidden && app.pane.item?.getFullyLoaded() && (!app.pane.layer || app.layers.now);
}"""


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser; the test is skipped where there is none."""
    need("playwright")
    if not CHROMIUM.is_file() and not shutil.which("chromium"):
        pytest.skip("needs Chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    path = str(CHROMIUM if CHROMIUM.is_file() else shutil.which("chromium"))
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


class Page:
    """A page of `histofast view`, and what it asked for and complained of."""

    def __init__(self, browser: Any, address: str, *, link: str = "", wait: bool = True, **options):
        options = {"viewport": {"width": 1280, "height": 800}, "reduced_motion": "reduce"} | options
        self.context = browser.new_context(**options)
        self.tab = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.sent: list[str] = []
        self.tab.on("request", self._ask)
        self.tab.on("dialog", lambda dialog: self.complaints.append(f"dialog {dialog.message}"))
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.on("console", self._listen)
        self.response = self.tab.goto(address + (f"#{link}" if link else ""))
        if wait:
            self.ready()

    def _ask(self, request: Any) -> None:
        self.requests.append(request.url)
        if request.method != "GET":
            self.sent.append(request.url)

    def _listen(self, message: Any) -> None:
        # What is refused is in the console of every browser; the page says it in its own words.
        if message.type == "error" and "status of 4" not in message.text:
            self.complaints.append(message.text)

    def ready(self) -> None:
        self.tab.wait_for_function(READY, timeout=20_000)

    def painted(self) -> None:
        """Wait until what was just changed has been drawn."""
        self.tab.evaluate(
            "() => new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(r)))"
        )

    def text(self, selector: str) -> str:
        return self.tab.inner_text(selector)

    def place(self, pane: int = 0) -> dict[str, float]:
        """Where level 0 lies on the screen, css px: scale, left, top."""
        return self.tab.evaluate(
            """(i) => {
              const { element, overlay } = histofastView.panes[i], box = element.getBoundingClientRect(), at = overlay.place();
              return { scale: at.scale, left: at.left + box.left, top: at.top + box.top };
            }""",
            pane,
        )

    def screen(self, x_l0: float, y_l0: float) -> tuple[float, float]:
        """Css px of a level-0 point."""
        at = self.place()
        return at["left"] + at["scale"] * x_l0, at["top"] + at["scale"] * y_l0

    def picture(self, path: Path | None = None) -> NDArray[np.uint8]:
        """What is seen, (h, w, 3) device px; kept where a path is given."""
        self.painted()
        png = self.tab.screenshot(path=path)
        return np.ascontiguousarray(imagecodecs.png_decode(png)[..., :3])

    def close(self) -> None:
        self.context.close()
