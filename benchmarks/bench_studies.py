"""What a plan buys: two runs at a time, runs that studies share, and what the measures cost.

    pytest benchmarks/bench_studies.py -s

`study transfer` of ResNet18 between a part of IDC and one of oral SCC at 64 px, two epochs a run, one thread of
torch in each. HISTOFAST_DATA for where the sets lie, HISTOFAST_BENCH_IMAGES for how many pictures of each.
"""

from __future__ import annotations

import os
import shutil
import time

import numpy as np
import pytest
from real_data import DATA

from histofast.classify import Recipe
from histofast.datasets import open_images
from histofast.studies import PictureSetting, Transfer, conduct

IMAGES = int(os.environ.get("HISTOFAST_BENCH_IMAGES", "400"))
RECIPE = Recipe(epochs=2, px=64, freeze="all")


@pytest.fixture(scope="module")
def sets():
    found = []
    for name in ("idc_patches", "oral_scc"):
        path = DATA / name / "labels.csv"
        if not path.exists():
            pytest.skip(f"needs {name} in {DATA}")
        images = open_images(path)
        found.append(images.part(np.arange(min(IMAGES, len(images))) * len(images) // IMAGES))
    return found


def study(sets, out, *, repeats, jobs, runs=None):
    """Return the study and what it took; jobs import torch before the clock starts nowhere."""
    setting = PictureSetting(
        data=sets, out=out, runs=runs, recipe=RECIPE, repeats=repeats, jobs=jobs, threads=1
    )
    begin = time.perf_counter()
    found = conduct(Transfer(setting=setting, network="resnet18"))
    return found, time.perf_counter() - begin


def test_two_at_a_time(table, benchmark, sets, tmp_path):
    study(sets, tmp_path / "warm", repeats=1, jobs=1)
    _, alone = study(sets, tmp_path / "one", repeats=2, jobs=1)
    _, beside = study(sets, tmp_path / "two", repeats=2, jobs=2)
    table.add(
        what=f"a study of 12 runs, {IMAGES} pictures a set",
        ours=f"{beside:.0f} s with --jobs 2",
        rival="one after the other",
        theirs=f"{alone:.0f} s",
        ratio=alone / beside,
        goal=1.5,
    )
    benchmark.pedantic(lambda: None, rounds=1)


def test_runs_that_studies_share(table, benchmark, sets, tmp_path):
    shared = tmp_path / "runs"
    study(sets, tmp_path / "a", repeats=3, jobs=2, runs=shared)
    _, rest = study(sets, tmp_path / "b", repeats=5, jobs=2, runs=shared)
    shutil.rmtree(shared)
    _, whole = study(sets, tmp_path / "c", repeats=5, jobs=2, runs=shared)
    table.add(
        what="a study of 30 runs, 18 of them made by another (--runs)",
        ours=f"{rest:.0f} s",
        rival="from scratch",
        theirs=f"{whole:.0f} s",
        ratio=whole / rest,
        goal=2,
    )
    benchmark.pedantic(lambda: None, rounds=1)


def test_what_measures_cost(table, benchmark, sets, tmp_path):
    setting = PictureSetting(data=sets, out=tmp_path, recipe=RECIPE, repeats=1, threads=1)
    taken = {}

    class Timed(Transfer):
        def answer(self, done):
            begin = time.perf_counter()
            answer = super().answer(done)
            taken["answer"] = time.perf_counter() - begin
            for job in done.runs.plan:
                kind = "runs" if "asked" in job.arguments else "measures"
                taken[kind] = taken.get(kind, 0.0) + done.seconds_of[job.name]
            return answer

    conduct(Timed(setting=setting, network="resnet18"))
    measures = taken["measures"] + taken["answer"]
    table.add(
        what="measures of a study (CKA start against tuned for each cell, intervals, words)",
        ours=f"{measures:.1f} s",
        rival="a tenth of its training",
        theirs=f"{taken['runs'] / 10:.1f} s",
        ratio=taken["runs"] / 10 / measures,
        goal=1,
    )
    benchmark.pedantic(lambda: None, rounds=1)
