"""The table of a benchmark run, and the slides it is measured on."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))

from compare import Table

TABLE = Table()


def pytest_addoption(parser):
    parser.addoption(
        "--save-table", metavar="NAME", help="write the table to benchmarks/results/NAME.json, .md"
    )


@pytest.fixture(scope="session")
def table():
    return TABLE


@pytest.fixture(scope="session")
def cache():
    """A folder that outlives the run: the large slides take a while to make."""
    default = Path(tempfile.gettempdir()) / "histofast-benchmarks"
    folder = Path(os.environ.get("HISTOFAST_BENCH_CACHE", default))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def big_slide(cache):
    """The benchmark slide: 20,480 px square, 4 levels, JPEG 256 px tiles, about 40 % tissue."""
    from histofast.patches import make_slide

    path = cache / "big-20480-seed0.tif"
    if not path.exists():
        make_slide(path, width_px=20_480, height_px=20_480, seed=0, tissue_fraction=0.4, mpp=0.25)
    return path


def pytest_terminal_summary(terminalreporter, config):
    if not TABLE.rows:
        return
    terminalreporter.write_line("\n" + TABLE.markdown())
    name = config.getoption("--save-table")
    if name:
        terminalreporter.write_line(f"\nsaved to {TABLE.save(name)}")
