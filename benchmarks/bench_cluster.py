"""What a cluster costs: one worker of it against one process, and how long it takes until it encodes.

    pytest benchmarks/bench_cluster.py -s

The default encoder on made-up slides; HISTOFAST_BENCH_SLIDES says how many, HISTOFAST_BENCH_PX how large,
HISTOFAST_BENCH_ROUNDS how often. The worker has a Ray of its own on this machine, with all its CPUs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from compare import machine

import histofast
from histofast._machine import available_cpus
from histofast.patches import make_slide

pytest.importorskip("ray")

SLIDES = int(os.environ.get("HISTOFAST_BENCH_SLIDES", "6"))
PX = int(os.environ.get("HISTOFAST_BENCH_PX", "12000"))
ROUNDS = int(os.environ.get("HISTOFAST_BENCH_ROUNDS", "5"))
GOAL, START_GOAL_S = 0.95, 30.0

# Ray leaves sockets and files to be collected.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "default::DeprecationWarning")

FIRST = """
import sys, time
began = time.perf_counter()
import histofast
def first(progress):
    if progress.slide_patches_done:
        print("first", time.perf_counter() - began, flush=True)
        raise KeyboardInterrupt
histofast.extract(sys.argv[1], out=sys.argv[2], cluster="local:1", on_progress=first)
"""


@pytest.fixture(scope="module")
def cohort(cache):
    folder = cache / f"cohort-{SLIDES}-{PX}"
    folder.mkdir(exist_ok=True)
    for i in range(SLIDES):
        if not (folder / f"s{i}.tif").exists():
            make_slide(folder / f"s{i}.tif", width_px=PX, height_px=PX, seed=i, mpp=0.25)
    return folder


def steady_s(cohort, out, **options):
    """Seconds for all patches at the speed between the first batch and the last; and their number."""
    seen = []

    def note(progress):
        seen.append((time.perf_counter(), progress.patches_done))

    shutil.rmtree(out, ignore_errors=True)
    report = histofast.extract(cohort, out=out, on_progress=note, **options)
    assert report.exit_code == 0, report.error
    (began_s, first), (ended_s, last) = next(each for each in seen if each[1]), seen[-1]
    assert last == report.patches
    return (ended_s - began_s) * last / (last - first), last, report.limit


def test_one_worker_against_one_process(cohort, table, benchmark, tmp_path):
    print("", *(f"{key}: {value}" for key, value in machine().items()), sep="\n")
    _, patches, limit = steady_s(cohort, tmp_path / "warm")
    print(f"{SLIDES} slides, {patches} patches; limit of one process: {limit}")
    table.race(
        f"extract, {SLIDES} slides with the default encoder, from the first batch on",
        lambda: steady_s(cohort, tmp_path / "cluster", cluster="local:1")[0],
        {"one process": lambda: steady_s(cohort, tmp_path / "here")[0]},
        goals={"one process": GOAL},
        work=patches,
        unit=f"patches/s, {available_cpus()} CPUs",
        rounds=ROUNDS,
        seconds_of=lambda measured: measured(),
    )
    benchmark.pedantic(lambda: None, rounds=1)


def test_until_the_first_batch(cohort, table, benchmark, tmp_path):
    taken_s = []
    for n in range(ROUNDS):
        done = subprocess.run(
            [sys.executable, "-c", FIRST, cohort, tmp_path / f"out{n}"],
            capture_output=True,
            text=True,
            check=False,
        )
        first = [line for line in done.stdout.splitlines() if line.startswith("first ")]
        assert first, done.stderr
        taken_s.append(float(first[0].split()[1]))
    found_s = float(np.median(taken_s))
    table.add(
        what="extract --cluster local:1, a fresh process, until its first batch is encoded",
        ours=f"{found_s:.1f} s (at most {max(taken_s):.1f} s)",
        rival=f"limit {START_GOAL_S:.0f} s",
        theirs="",
        ratio=START_GOAL_S / found_s,
        goal=1.0,
    )
    benchmark.pedantic(lambda: None, rounds=1)
