"""Slides on a server 20 ms away, against the same slides as files.

    pytest benchmarks/bench_remote.py -s

The server is a process of its own on this machine, which waits 20 ms before every answer and then gives it
as fast as it can (tests/small_server.py). Nothing of a slide is kept between two runs of ours. The file is in
the page cache: there is no faster rival. HISTOFAST_REMOTE_PX is the side of the slide, 14,336 by default.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import histofast
from histofast.patches import make_slide

SIDE_PX = int(os.environ.get("HISTOFAST_REMOTE_PX", "14336"))
LATENCY_S = 0.02
GOAL = 0.75
GOAL_REQUESTS = 20  # tiles for each request, at least


@pytest.fixture(scope="module")
def slide(cache):
    name = "middle-14336-seed1.tif" if SIDE_PX == 14336 else f"side-{SIDE_PX}-seed1.tif"
    path = cache / name
    if not path.exists():
        make_slide(path, width_px=SIDE_PX, height_px=SIDE_PX, seed=1, tissue_fraction=0.4, mpp=0.25)
    return path


class Server:
    """A slow server of one slide, in another process."""

    def __init__(self, slide: Path) -> None:
        command = [sys.executable, __file__, str(slide), str(LATENCY_S)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.url = self._process.stdout.readline().strip()

    def requests(self) -> int:
        """How many there were since the last time."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def stop(self) -> None:
        self._process.communicate()  # nothing more is asked, which ends it


@pytest.fixture(scope="module")
def server(slide):
    pytest.importorskip("obstore", reason="needs obstore: pip install 'histofast[s3]'")
    server = Server(slide)
    yield server
    server.stop()


def pixels_of(place) -> tuple[int, int]:
    """Open a slide, find its tissue, stream its patches; how many, and a sum that tells them apart."""
    total = count = 0
    with histofast.open_slide(place) as opened:
        plan = histofast.plan_patches(opened, histofast.find_tissue(opened), mpp=0.5)
        for pixels, _ in histofast.iter_patches(opened, plan):
            count += len(pixels)
            total += int(pixels[:, ::7, ::7].astype(np.int64).sum())
    return count, total


def test_pixels(slide, server, table):
    """Without an encoder: what a run waits for in the worst case."""
    remote, local = pixels_of(server.url), pixels_of(slide)
    assert remote == local
    table.race(
        f"pixels of a slide of {SIDE_PX:,} px on a server {LATENCY_S * 1e3:g} ms away",
        lambda: pixels_of(server.url),
        {"the same slide as a file": lambda: pixels_of(slide)},
        goals={"the same slide as a file": GOAL},
        work=local[0],
        unit="patches/s",
        rounds=5,
    )


def test_extract(slide, server, table, tmp_path):
    numbers = itertools.count()

    def encoded(place) -> int:
        report = histofast.extract(place, out=tmp_path / str(next(numbers)))
        assert report.exit_code == 0, report.slides[0].error
        return report.patches

    patches = encoded(server.url)
    assert patches == encoded(slide)
    table.race(
        f"extract of that slide, densenet121-t2, {LATENCY_S * 1e3:g} ms away",
        lambda: encoded(server.url),
        {"the same slide as a file": lambda: encoded(slide)},
        goals={"the same slide as a file": GOAL},
        work=patches,
        unit="patches/s",
        rounds=3,
    )


def test_requests(server, table, monkeypatch):
    tiles = []
    read_tile = histofast.slides.TiffSlide.read_tile

    def counted(slide, level, column, row, out):
        tiles.append((level, column, row))
        read_tile(slide, level, column, row, out)

    monkeypatch.setattr(histofast.slides.TiffSlide, "read_tile", counted)
    server.requests()
    pixels_of(server.url)
    asked = server.requests()
    print(f"\n{asked} requests for {len(tiles)} tiles")
    table.add(
        what="requests for a slide",
        ours=f"{asked}",
        rival="one for each tile",
        theirs=f"{len(tiles)}",
        ratio=len(tiles) / asked,
        goal=GOAL_REQUESTS,
    )


def serve(path: str, latency_s: str) -> None:
    """Serve a slide until nobody asks any more; for a line say how many requests there were."""
    sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
    from small_server import SmallServer

    with SmallServer(**{"x.tif": Path(path).read_bytes()}) as server:
        server.delay_s = float(latency_s)
        print(f"{server.url}/x.tif", flush=True)
        for _ in sys.stdin:
            print(len(server.requests), flush=True)
            server.requests = []


if __name__ == "__main__":
    serve(*sys.argv[1:])
