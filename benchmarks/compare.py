"""Ours and the rivals in turns, in one run; what counts is the ratio of the medians.

`pytest benchmarks/bench_*.py -s` prints every comparison and, at the end, one table; with
`--save-table NAME` it is also written to benchmarks/results/NAME.json and NAME.md.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = [
    "numpy",
    "onnxruntime-gpu",
    "onnxruntime",
    "imagecodecs",
    "tifffile",
    "openslide-bin",
    "h5py",
    "fastslide",
    "opencv-python-headless",
    "scikit-image",
    "torch",
]

SETTLE_S = 0.2


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table: how many times faster ours is than a rival."""

    what: str
    ours: str
    rival: str
    theirs: str
    ratio: float
    goal: float | None

    @property
    def verdict(self) -> str:
        if self.goal is None:
            return ""
        return "met" if self.ratio >= self.goal else "MISSED"


class Table:
    """All comparisons of a run."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def race(
        self,
        what: str,
        ours: Callable[[], Any],
        rivals: Mapping[str, Callable[[], Any]],
        *,
        goals: Mapping[str, float],
        work: float,
        unit: str,
        rounds: int,
    ) -> dict[str, float]:
        """Time ours and the rivals in turns (one round to warm up), record and return the ratios.

        Before each turn the threads of the one before get time to stop spinning.
        """
        functions = {"histofast": ours, **rivals}
        seconds: dict[str, list[float]] = {name: [] for name in functions}
        for turn in range(rounds + 1):
            for name, function in functions.items():
                time.sleep(SETTLE_S)
                began = time.perf_counter()
                function()
                if turn:
                    seconds[name].append(time.perf_counter() - began)
        median = {name: float(np.median(values)) for name, values in seconds.items()}
        ratios = {}
        print(f"\n{what}")
        for name in functions:
            ratio = median[name] / median["histofast"]
            least = work / min(seconds[name])
            print(
                f"  {name:44} {work / median[name]:12,.1f} {unit} (best {least:,.1f})"
                f"  {ratio:8.2f} x"
            )
            if name != "histofast":
                ratios[name] = ratio
                self.add(
                    what=what,
                    ours=f"{work / median['histofast']:,.1f} {unit}",
                    rival=name,
                    theirs=f"{work / median[name]:,.1f} {unit}",
                    ratio=ratio,
                    goal=goals.get(name),
                )
        return ratios

    def add(self, **values: Any) -> None:
        """Record a line measured elsewhere."""
        self.rows.append(Row(**values))

    def markdown(self) -> str:
        lines = [
            "| what | histofast | against | theirs | ratio | goal | |",
            "|---|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {r.what} | {r.ours} | {r.rival} | {r.theirs} | {r.ratio:.2f} | "
            f"{'' if r.goal is None else f'{r.goal:g}'} | {r.verdict} |"
            for r in self.rows
        ]
        return "\n".join(lines)

    def save(self, name: str) -> Path:
        """Write the table and what it was measured on to benchmarks/results."""
        folder = ROOT / "benchmarks" / "results"
        folder.mkdir(exist_ok=True)
        about = machine()
        text = json.dumps({"about": about, "rows": [asdict(row) for row in self.rows]}, indent=1)
        (folder / f"{name}.json").write_text(text + "\n")
        listed = "\n".join(f"- {key}: {value}" for key, value in about.items())
        path = folder / f"{name}.md"
        path.write_text(f"{self.markdown()}\n\n{listed}\n")
        return path


def machine() -> dict[str, str]:
    """What the figures depend on."""
    from histofast import _core
    from histofast._cpus import available_cpus

    cpu = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run(
        [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    dirty = subprocess.run(
        [*git, "status", "--porcelain", "--", "cpp", "python", "CMakeLists.txt"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit + (" with uncommitted changes" if dirty else ""),
        "histofast": _core.version,
        "cpu": f"{cpu}, {available_cpus()} of {os.cpu_count()} CPUs, kernels {_core.best_isa().name}",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "packages": ", ".join(f"{name} {value}" for name, value in packages.items()),
    }
