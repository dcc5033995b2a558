"""Make the pictures of docs/viewer.md again: a real slide, CC0, and a model of made-up ones.

    python docs/viewer/pictures.py CMU-1-Small-Region.svs

The slide is OpenSlide's test data. The model is trained on slides of `histofast demo --labelled`, so its attention is something to look at
and says nothing about the tissue. Needs the extras train and view, playwright and Chromium.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np

from histofast.viewer import open_viewer

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.append(str(ROOT / "tests"))

from browser import Page, chromium

# In this order a name of a file, the screen, and what is done before the picture is taken.
DESK, PHONE = (1440, 900), (360, 740)


def histofast(*arguments: object) -> None:
    run = "from histofast.cli import main; main()"
    subprocess.run([sys.executable, "-c", run, *map(str, arguments)], check=True)


def prepared(slide: Path, folder: Path) -> dict[str, Path]:
    """Slides, their features of 64 um and a run, in a folder."""
    histofast("demo", "--labelled", "12", "-o", folder / "demo")
    slides, features, run = folder / "demo" / "slides", folder / "features", folder / "run"
    labels = folder / "demo" / "labels.csv"
    scale = ("--patch-px", 128, "--mpp", 0.5)
    histofast("extract", slides, "-o", features, *scale)
    histofast("train", features, "--labels", labels, "--out", run, "--folds", 3, "--epochs", 10)
    shutil.copy(slide, slides)
    histofast("extract", slides, "-o", features, *scale)
    return {"slides": slides, "features": features, "run": run, "labels": labels}


def save(page: Page, name: str, quality: int) -> None:
    """As JPEG: what photographs are."""
    (HERE / f"{name}.jpg").write_bytes(imagecodecs.jpeg8_encode(page.picture(), quality))


def nearest(page: Page) -> None:
    page.tab.wait_for_selector("#nearest-list li")
    page.tab.evaluate(
        "() => Promise.all([...document.querySelectorAll('#nearest-list img')].map((i) => { i.loading = 'eager'; return i.decode().catch(() => 0); }))"
    )
    page.tab.wait_for_timeout(300)


def pictures(browser: Any, address: str, slide: str) -> None:
    def opened(size: tuple[int, int], **options: Any) -> Page:
        viewport = {"width": size[0], "height": size[1]}
        page = Page(browser, address, link=f"slide={slide}", viewport=viewport, **options)
        page.tab.wait_for_timeout(1500)  # the small pictures of the list
        return page

    page = opened(DESK)
    save(page, "attention", 82)
    page.tab.click("#most")
    page.tab.evaluate("() => histofastView.pane.zoomTo(0.6)")
    page.tab.select_option("#map", "magma")
    nearest(page)
    page.tab.evaluate("() => document.getElementById('side').scrollTo(0, 460)")
    page.ready()
    save(page, "patch", 82)
    page.close()
    page = opened(DESK, color_scheme="dark")
    page.tab.keyboard.press("c")
    page.tab.wait_for_function(
        "() => histofastView.panes.length === 2 && histofastView.panes[1].item?.getFullyLoaded()"
    )
    page.tab.select_option("#layer", "clusters")
    page.tab.wait_for_function("() => histofastView.layers.now")
    save(page, "dark", 82)
    page.close()
    page = opened(PHONE, device_scale_factor=2)
    page.tab.click("#most")
    nearest(page)
    save(page, "phone", 75)
    page.close()


def main() -> None:
    slide = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        given = prepared(slide, Path(folder))
        slides = given.pop("slides")
        with open_viewer(slides, **given).server as server:
            pictures(browser, server.address(), slide.stem)
    size = np.sum([path.stat().st_size for path in HERE.glob("*.jpg")])
    sys.stdout.write(f"{size / 1e3:.0f} kB\n")


if __name__ == "__main__":
    main()
