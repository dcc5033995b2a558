"""Ours and the rivals in turns, in one run; what counts is the ratio of the medians.

`pytest benchmarks/bench_*.py -s` prints every comparison and, at the end, one table; with
`--save-table NAME` it is also written to benchmarks/results/NAME.json and NAME.md. What several runs
have written becomes one table by

    python benchmarks/compare.py benchmarks/results/NAME RUN.json...
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
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
    "torchvision",
    "timm",
    "pytorch-cka",
    "ray",
    "obstore",
]

SETTLE_S = 0.2


def by_the_clock(function: Callable[[], Any]) -> float:
    """Return the seconds of one call, for work that is done on return."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def in_turns(
    functions: Mapping[str, Callable[[], Any]],
    *,
    rounds: int,
    seconds_of: Callable[[Callable[[], Any]], float] = by_the_clock,
    settle_s: float = SETTLE_S,
) -> dict[str, list[float]]:
    """Return the seconds of each function in each round, after one round to warm up.

    Before each turn the threads of the one before get `settle_s` to stop spinning.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(rounds + 1):
        for name, function in functions.items():
            time.sleep(settle_s)
            taken = seconds_of(function)
            if turn:
                seconds[name].append(taken)
    return seconds


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
    """All comparisons of a run; where a prefix says that it is a dry one, goals are neither met nor missed."""

    def __init__(self, *, prefix: str = "") -> None:
        self.rows: list[Row] = []
        self.prefix = prefix

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
        seconds_of: Callable[[Callable[[], Any]], float] = by_the_clock,
        settle_s: float = SETTLE_S,
    ) -> dict[str, float]:
        """Time ours and the rivals `in_turns`, record and return the ratios."""
        functions = {"histofast": ours, **rivals}
        seconds = in_turns(functions, rounds=rounds, seconds_of=seconds_of, settle_s=settle_s)
        median = {name: float(np.median(values)) for name, values in seconds.items()}
        ratios = {}
        print(f"\n{self.prefix}{what}")
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

    def add(self, *, what: str, **values: Any) -> None:
        """Record a line measured elsewhere."""
        if self.prefix:
            values["goal"] = None
        self.rows.append(Row(what=f"{self.prefix}{what}", **values))

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
        return self.write(folder / name)

    def write(self, stem: Path, about: Mapping[str, str] | None = None) -> Path:
        """Write the table and what it was measured on (this machine) to stem.json and stem.md."""
        about = machine() if about is None else about
        text = json.dumps({"about": about, "rows": [asdict(row) for row in self.rows]}, indent=1)
        stem.with_suffix(".json").write_text(text + "\n")
        listed = "\n".join(f"- {key}: {value}" for key, value in about.items())
        path = stem.with_suffix(".md")
        path.write_text(f"{self.markdown()}\n\n{listed}\n")
        return path


def merge(stem: Path, runs: Iterable[Path]) -> Path:
    """Write what runs have found as one table; of the same comparison the last run's stays."""
    rows: dict[tuple[str, str], Row] = {}
    about: dict[str, str] = {}
    for run in runs:
        found = json.loads(run.read_text())
        about |= found["about"]
        rows |= {(row["what"], row["rival"]): Row(**row) for row in found["rows"]}
    table = Table()
    table.rows = list(rows.values())
    return table.write(stem, about)


def machine() -> dict[str, str]:
    """What the figures depend on."""
    from histofast import _core
    from histofast._machine import available_cpus

    cpu = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": os.environ.get("HISTOFAST_COMMIT") or _commit(),
        "histofast": _core.version,
        "cpu": f"{cpu}, {available_cpus()} of {os.cpu_count()} CPUs, kernels {_core.best_isa().name}",
        **_gpu(),
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "packages": ", ".join(f"{name} {value}" for name, value in packages.items()),
    }


def _commit() -> str:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    try:
        commit = git("rev-parse", "--short", "HEAD")
        dirty = git("status", "--porcelain", "--", "cpp", "python", "CMakeLists.txt")
    except FileNotFoundError:
        return "unknown: no git here"
    return commit + (" with uncommitted changes" if dirty else "")


def _gpu() -> dict[str, str]:
    from histofast import _core

    if not _core.cuda_is_compiled():
        return {}
    try:
        return {"gpu": _core.cuda_device_name(0)} if _core.cuda_device_count() else {}
    except _core.CudaError:
        return {}


if __name__ == "__main__":
    print(merge(Path(sys.argv[1]), map(Path, sys.argv[2:])).read_text())
