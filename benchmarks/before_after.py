"""Two checkouts in turns: what a change made faster or slower, as ratios of whole workloads.

    git worktree add ../before COMMIT
    python benchmarks/before_after.py ../before . --table benchmarks/results/NAME.md

Each workload runs in a fresh process of each checkout, before, after, before, after ...; a process warms
up and then tells its fastest of several. The compiled module is that of the environment for both, so that
Python alone is compared: copy it into a checkout that lacks it. A ratio above 1 means that the second
checkout is faster.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROUNDS = 5
LEAST = 0.97


def fastest(function: Callable[[], Any], *, rounds: int = 3) -> float:
    """Return the seconds of the fastest of a few calls, after one to warm up."""
    function()
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return min(times)


# --- Workloads, by public names that both checkouts have -----------------------------------------


def extract(folder: Path) -> float:
    """Encode a synthetic slide with the default encoder."""
    import histofast

    def run() -> None:
        out = tempfile.mkdtemp(dir=folder)
        histofast.extract(folder / "small.tif", out=out, mpp=1.0)

    return fastest(run, rounds=2)


def supply(folder: Path) -> float:
    """Bring all patches of a slide, off the tile grid, without encoding them."""
    import histofast

    with histofast.open_slide(folder / "large.tif") as slide:
        plan = histofast.plan_patches(
            slide, histofast.find_tissue(slide), mpp=0.6, patch_px=256, min_tissue=0.25
        )

        def run() -> None:
            for _ in histofast.iter_patches(slide, plan):
                pass

        return fastest(run, rounds=5)


def similarity(folder: Path) -> float:
    """Compare all pairs of 40 layers."""
    import numpy as np

    from histofast.similarity import cka_pairs

    rng = np.random.default_rng(0)
    layers = [rng.standard_normal((256, 64 * (k + 1)), np.float32) for k in range(40)]
    return fastest(lambda: cka_pairs(layers, layers), rounds=5)


def train(folder: Path) -> float:
    """Train two folds for four epochs on 60 bags, with one thread."""
    import torch

    from histofast import mil

    torch.set_num_threads(1)
    bags = mil.open_bags(folder / "bags", folder / "labels.csv")
    config = mil.TrainConfig(folds=2, epochs=4, patience=4, metric="loss")

    def run() -> None:
        mil.train(bags, out=Path(tempfile.mkdtemp(dir=folder)) / "run", config=config)

    return fastest(run, rounds=2)


def write_features(folder: Path) -> float:
    """Write and read a feature file of 20,000 x 1024."""
    import numpy as np

    from histofast.features import FeatureWriter, read_features

    features = np.random.default_rng(0).random((20_000, 1024), np.float32)
    coords = np.zeros((len(features), 2), np.int64)
    path = folder / f"{os.getpid()}.h5"

    def run() -> None:
        path.unlink(missing_ok=True)
        with FeatureWriter(path, coords=coords, d=1024, identity={}, attributes={}) as writer:
            for start in range(0, len(features), 256):
                writer.append(features[start : start + 256])
            writer.finish()
        read_features(path, mmap=False)

    return fastest(run, rounds=3)


def read_spec(folder: Path) -> float:
    """Ask an encoder file what it is, in a process that has not asked yet."""
    began = time.perf_counter()
    from histofast.encoders import find
    from histofast.encoders import read_spec as read

    read(find("densenet121-t2"))
    return time.perf_counter() - began


def import_package(folder: Path) -> float:
    """Import the package, in a fresh process: the fastest of several."""
    return min(_process("import histofast") for _ in range(7))


def show_help(folder: Path) -> float:
    """Answer --help."""
    code = "import sys; sys.argv[1:] = ['--help']; from histofast.cli import main; main()"
    return min(_process(code) for _ in range(7))


def _process(code: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    return time.perf_counter() - began


WORKLOADS = {
    function.__name__: function
    for function in (
        extract,
        supply,
        similarity,
        train,
        write_features,
        read_spec,
        import_package,
        show_help,
    )
}


# --- The comparison ------------------------------------------------------------------------------


def prepare(folder: Path) -> None:
    """Make what the workloads work on, with the checkout that this file is in."""
    import csv

    import numpy as np

    from histofast.features import FeatureWriter
    from histofast.patches import make_slide

    make_slide(folder / "small.tif", width_px=4096, height_px=4096, seed=0)
    make_slide(folder / "large.tif", width_px=8192, height_px=8192, seed=1)
    rng = np.random.default_rng(0)
    (folder / "bags").mkdir()
    with (folder / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["slide", "patient", "label"])
        for i in range(60):
            rows.writerow([f"s{i:02}", f"p{i:02}", i % 2])
            n = int(rng.integers(200, 2000))
            path = folder / "bags" / f"s{i:02}.h5"
            with FeatureWriter(
                path, coords=np.zeros((n, 2), np.int64), d=512, identity={}, attributes={}
            ) as writer:
                writer.append(rng.random((n, 512), np.float32))
                writer.finish()


def measure(checkout: Path, name: str, folder: Path) -> float:
    """Run a workload in a fresh process that imports a checkout."""
    environment = os.environ | {"PYTHONPATH": str(checkout / "python")}
    told = subprocess.run(
        [sys.executable, __file__, "--run", name, str(folder)],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return float(json.loads(told.stdout.splitlines()[-1]))


def commit_of(checkout: Path) -> str:
    """Return the commit of a checkout."""
    told = subprocess.run(
        ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=True,
    )
    return told.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--only", nargs="*", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--table", type=Path)
    given = parser.parse_args()
    checkouts = {name: getattr(given, name).resolve() for name in ("before", "after")}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        prepare(folder)
        commits = " before, ".join(commit_of(checkout) for checkout in checkouts.values())
        lines = [
            f"{commits} after; medians of {given.rounds} processes each, in turns",
            "",
            f"| workload | before, s | after, s | ratio (goal {LEAST}) | ratios of the pairs |",
            "|---|---|---|---|---|",
        ]
        for name in given.only:
            times: dict[str, list[float]] = {"before": [], "after": []}
            for _ in range(given.rounds):
                for side, checkout in checkouts.items():
                    times[side].append(measure(checkout, name, folder))
            before, after = (statistics.median(times[side]) for side in times)
            pairs = sorted(b / a for b, a in zip(times["before"], times["after"], strict=True))
            what = (WORKLOADS[name].__doc__ or name).rstrip(".")
            lines.append(
                f"| {name}: {what[0].lower()}{what[1:]} | {before:.3f} | {after:.3f} | "
                f"{before / after:.2f} | {pairs[0]:.2f} to {pairs[-1]:.2f} |"
            )
            print(lines[-1], flush=True)
    if given.table is not None:
        given.table.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        print(json.dumps(WORKLOADS[sys.argv[2]](Path(sys.argv[3]))))
    else:
        main()
