"""The viewer's server: tiles a second, the first picture, memory, and what it adds to an install.

    pip install '.[view]' && pytest benchmarks/bench_view.py -s

Tiles: `histofast view` against OpenSlide's DeepZoomGenerator (tiles of 512 px, no overlap, JPEG 85) behind
the very same server, each in a process of its own, asked by 6 connections in turns. Every round has other
tiles, as many of each of the five finest zooms. First picture: from the start of the command to the last
tile of the zoom that fills a window 1,024 px wide or more, of a slide of 100,352 px a side, whose file has been
read before. Memory: resident, of the server alone.
"""

from __future__ import annotations

import json
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import requires
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import histofast
from extras import need
from histofast.patches import make_slide

need("starlette", "uvicorn")

CONNECTIONS = 6
TILES = 500  # of a round
OURS = "from histofast.cli import main; main()"
# The same command, whose tiles are made by OpenSlide and Pillow.
THEIRS = """
import io, threading
import openslide
from openslide.deepzoom import DeepZoomGenerator
from histofast.viewer import tiles
known, lock = {}, threading.Lock()
def jpeg(self, tiled, z, column, row, *, is_wanted=None):
    with lock:
        if tiled.number not in known:
            slide = openslide.OpenSlide(tiled.slide.path)
            known[tiled.number] = DeepZoomGenerator(slide, tile_size=512, overlap=0)
    deep = known[tiled.number]
    level = deep.level_count - 1 - tiled.pyramid.max_level + z
    out = io.BytesIO()
    deep.get_tile(level, (column, row)).save(out, "jpeg", quality=85)
    return tiles.TileFile(data=out.getvalue(), unreadable=frozenset(), reason="")
tiles.Tiles.jpeg = jpeg
from histofast.cli import main
main()
"""


class Connection:
    """A connection that is kept, with as little of HTTP as it takes."""

    def __init__(self, port: int) -> None:
        self._port, self.cookie = port, ""
        self._link = socket.create_connection(("127.0.0.1", port))
        self._file = self._link.makefile("rb")

    def get(self, path: str) -> bytes:
        ask = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: {self.cookie}\r\n\r\n"
        self._link.sendall(ask.encode())
        status = self._file.readline()
        length = 0
        while (line := self._file.readline()) != b"\r\n":
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
            if name.lower() == b"set-cookie":
                self.cookie = value.partition(b";")[0].strip().decode()
        body = self._file.read(length)
        assert b" 200 " in status, (path, status, body)
        return body

    def close(self) -> None:
        self._file.close()
        self._link.close()


class Served:
    """A viewer in a process of its own."""

    def __init__(self, code: str, slides: Path) -> None:
        command = [sys.executable, "-c", code, "view", str(slides), "--no-browser"]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout is not None
        address = urlsplit(self.process.stdout.readline().strip())
        assert address.port is not None
        self.connections = [Connection(address.port) for _ in range(CONNECTIONS)]
        self.page = self.connections[0].get(f"{address.path}?{address.query}")
        for connection in self.connections:
            connection.cookie = self.connections[0].cookie

    def json(self, path: str) -> dict:
        return json.loads(self.connections[0].get(path))

    def all_of(self, paths: list[str]) -> list[bytes]:
        """Ask for everything, by all connections; the next in line gets the next path."""
        left = iter(paths)

        def ask(connection: Connection) -> list[bytes]:
            return [connection.get(path) for path in left]

        with ThreadPoolExecutor(CONNECTIONS) as pool:
            return [body for bodies in pool.map(ask, self.connections) for body in bodies]

    def resident_bytes(self, what: str) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(f"{what}:"))

    def end(self) -> None:
        for connection in self.connections:
            connection.close()
        self.process.terminate()
        self.process.communicate(timeout=30)


@contextmanager
def served(code: str, slides: Path) -> Iterator[Served]:
    viewer = Served(code, slides)
    try:
        yield viewer
    finally:
        viewer.end()


def tiles_of(about: dict, z: int) -> list[str]:
    """Paths of all tiles of a zoom."""
    scale = 1 << (about["max_level"] - z)
    columns, rows = (-(-about[side] // (512 * scale)) for side in ("width", "height"))
    return [f"/tile/{about['id']}/{z}/{x}_{y}.jpg" for y in range(rows) for x in range(columns)]


def rounds_of(about: dict, zooms: int) -> Iterator[list[str]]:
    """Paths of tiles, other ones each time as long as there are other ones."""
    draw = random.Random(0)
    of_zoom = [tiles_of(about, about["max_level"] - k) for k in range(zooms)]
    while True:
        yield [draw.choice(of_zoom[i % zooms]) for i in range(TILES)]


def test_tiles_a_second(big_slide, table, benchmark):
    with served(OURS, big_slide) as ours, served(THEIRS, big_slide) as theirs:
        about = ours.json("/api/slide/0")
        assert theirs.json("/api/slide/0") == about
        paths = {name: rounds_of(about, 5) for name in ("ours", "theirs")}
        table.race(
            f"tiles of 512 px of a slide, {CONNECTIONS} connections",
            lambda: ours.all_of(next(paths["ours"])),
            {"DeepZoomGenerator": lambda: theirs.all_of(next(paths["theirs"]))},
            goals={"DeepZoomGenerator": 3},
            work=TILES,
            unit="tiles/s",
            rounds=7,
        )
        benchmark.pedantic(lambda: ours.all_of(next(paths["ours"])), rounds=1)


@pytest.fixture(scope="module")
def large_slide(cache):
    path = cache / "view-100352.tif"
    if not path.exists():
        side = 100_352
        make_slide(path, width_px=side, height_px=side, seed=4, levels=4, repeat_px=8192)
    return path


def first_picture_s(slide: Path) -> float:
    began = time.perf_counter()
    with served(OURS, slide) as viewer:
        viewer.json("/api/session")
        viewer.json("/api/slides")
        about = viewer.json("/api/slide/0")
        assert max(about["width"], about["height"]) > 100_000
        viewer.all_of(tiles_of(about, 1))
        return time.perf_counter() - began


def test_first_picture(large_slide, table, benchmark):
    first_picture_s(large_slide)
    seconds = sorted(first_picture_s(large_slide) for _ in range(7))
    table.add(
        what="first picture of a slide of 100,352 px a side, from the command on",
        ours=f"{seconds[3]:.2f} s (best {seconds[0]:.2f})",
        rival="limit 1.5 s",
        theirs="",
        ratio=1.5 / seconds[3],
        goal=1,
    )
    benchmark.pedantic(first_picture_s, args=(large_slide,), rounds=1)


@pytest.fixture(scope="module")
def many_slides(cache):
    folder = cache / "view-20"
    folder.mkdir(exist_ok=True)
    for i in range(20):
        path = folder / f"s{i:02}.tif"
        if not path.exists():
            make_slide(path, width_px=12_288, height_px=12_288, seed=i, repeat_px=2048)
    return folder


def test_memory(many_slides, table, benchmark):
    with served(OURS, many_slides) as viewer:
        slides = [viewer.json(f"/api/slide/{i}") for i in range(20)]
        drawn = [rounds_of(about, about["max_level"] + 1) for about in slides]
        resident = []
        for turn in range(2):
            for part in range(10):
                for of_slide in drawn:
                    viewer.all_of(next(of_slide)[:25])
                assert part < 10
            resident.append(viewer.resident_bytes("VmRSS"))
            print(f"\n  {5000 * (turn + 1)} tiles: {resident[-1] / 1e6:.0f} MB")
        most = viewer.resident_bytes("VmHWM")
    table.add(
        what="memory of the server after 5,000 and 10,000 tiles of 20 slides, flat",
        ours=" and ".join(f"{each / 1e6:.0f} MB" for each in resident),
        rival="before / after, at least 0.9",
        theirs="",
        ratio=resident[0] / resident[1],
        goal=0.9,
    )
    table.add(
        what="most memory of the server",
        ours=f"{most / 1e6:.0f} MB",
        rival="limit 600 MB",
        theirs="",
        ratio=600e6 / most,
        goal=1,
    )
    benchmark.pedantic(lambda: None, rounds=1)


def needed_by(*packages: str) -> set[str]:
    """Names of packages and all that they always need."""
    found: set[str] = set()
    left = list(packages)
    while left:
        name = left.pop().lower().replace("_", "-")
        if name in found:
            continue
        found.add(name)
        for line in requires(name) or []:
            wanted, _, condition = line.partition(";")
            if "extra" not in condition and not _is_false(condition):
                left.append(
                    "".join(c if c.isalnum() or c in "-_." else " " for c in wanted).split()[0]
                )
    return found


def _is_false(condition: str) -> bool:
    from packaging.markers import Marker

    return bool(condition.strip()) and not Marker(condition).evaluate()


def test_what_it_adds(table, benchmark):
    added = needed_by("starlette", "uvicorn") - needed_by("typer", "rich")
    table.add(
        what="packages that .[view] adds",
        ours=f"{len(added)}: {', '.join(sorted(added))}",
        rival="limit 7",
        theirs="",
        ratio=7 / len(added),
        goal=1,
    )
    static = Path(histofast.__file__).parent / "viewer" / "static"
    n_bytes = sum(path.stat().st_size for path in static.rglob("*") if path.is_file())
    table.add(
        what="files of the page",
        ours=f"{n_bytes / 1e3:.0f} kB",
        rival="limit 500 kB",
        theirs="",
        ratio=500e3 / n_bytes,
        goal=1,
    )
    benchmark.pedantic(lambda: None, rounds=1)
