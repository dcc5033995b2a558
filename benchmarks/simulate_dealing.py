"""How well 10,000 slides keep 1 to 256 workers busy: dealt by the rules of a run, and in fixed shards.

    python benchmarks/simulate_dealing.py [--slides 10000] [--seed 0] [--plot docs/dealing.png]

Nothing is encoded: the rules of dealing are those of the package (`histofast.jobs.dealing`), the clock is made up. What a
slide takes is log-normal, median 60 s and 95 % of slides between 10 s and 6 min, as cohorts of resections and
biopsies have it; a worker needs 20 s to start. A run deals by the size of the file, which tells the time to within a
factor of about 1.5. Each worker takes its next slide when it begins one, as `extract` does. Efficiency is the time that
all slides take over the time that all workers were there, so 1.0 is never idle.
"""

from __future__ import annotations

import argparse
import hashlib
import heapq
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from histofast import jobs as engine
from histofast.jobs import Job, Outcome

WORKERS = (1, 4, 16, 64, 128, 256)
START_S = 20.0
MEDIAN_S, SPREAD = 60.0, math.log(6.0) / 1.96
SIZE_SPREAD = math.log(1.5)


def cohort(n: int, seed: int) -> tuple[list[Job], dict[str, float]]:
    """Return a job for each slide, with its size as its cost, and what each takes."""
    rng = np.random.default_rng(seed)
    took = MEDIAN_S * np.exp(SPREAD * rng.standard_normal(n))
    size = took * np.exp(SIZE_SPREAD * rng.standard_normal(n))
    names = [f"slide-{i:05d}" for i in range(n)]
    jobs = [Job(name=name, cost=float(cost)) for name, cost in zip(names, size, strict=True)]
    return jobs, dict(zip(names, map(float, took), strict=True))


def dealt_s(jobs: list[Job], took: dict[str, float], workers: int) -> float:
    """Return when the last slide is done, if they are dealt as a run deals them."""
    dealer = engine.dealing.Dealer(jobs, workers=workers, tries=2, poll_s=0.5)
    ahead: dict[int, Job] = {}
    idle = set(range(workers))
    ends: list[tuple[float, int, Job]] = []
    now_s = START_S

    def deal() -> None:
        """Hand out; who gets one while it is idle begins it, and asks for one ahead."""
        while answers := dealer.deal(now_s):
            for worker, job in answers:
                if job is None:
                    continue
                if worker in idle:
                    begin(worker, job)
                else:
                    ahead[worker] = job

    def begin(worker: int, job: Job) -> None:
        idle.discard(worker)
        heapq.heappush(ends, (now_s + took[job.name], worker, job))
        dealer.ask(worker)

    for worker in range(workers):
        dealer.ask(worker)
    deal()
    while ends:
        now_s, worker, job = heapq.heappop(ends)
        dealer.end(Outcome(job=job, status="done", worker=worker))
        idle.add(worker)
        if worker in ahead:
            begin(worker, ahead.pop(worker))
        deal()
    assert not dealer.has_more, "slides are left"
    return now_s


def sharded_s(took: dict[str, float], workers: int) -> float:
    """Return when the last slide is done, if each belongs to a shard by its name."""
    busy = [0.0] * workers
    for name, seconds in took.items():
        drawn = int.from_bytes(
            hashlib.sha256(name.encode()).digest()[:8], "big"
        )  # as `select_shard`
        busy[drawn % workers] += seconds
    return START_S + max(busy)


def plot(rows: Sequence[dict[str, Any]], title: str, path: Path) -> None:
    """Draw both efficiencies over the workers, in the looks of the reports."""
    from histofast.report import Axis, Chart, Figure, Point, Series, save_figure

    def series(name: str, column: str, look: int) -> Series:
        points = tuple(Point(place=row["workers"], value=row[column]) for row in rows)
        return Series(name=name, points=points, look=look)

    chart = Chart(
        places=Axis(label="workers", scale="log", form="whole"),
        values=Axis(label="share of the time at work", form="share", low=0.5, high=1.0),
        series=(
            series("dealt by a run", "efficiency", 0),
            series("fixed shards", "efficiency_of_shards", 1),
        ),
        alt="Share of their time that workers are at work, over the number of workers",
    )
    figure = Figure(
        name="dealing", panels=(chart,), title=title, basis="simulated, sizes as in a cohort"
    )
    save_figure(figure, path)


def main() -> None:
    """Print a row for each number of workers."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--slides", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--plot", type=Path, help="PNG to draw")
    asked = parser.parse_args()
    jobs, took = cohort(asked.slides, asked.seed)
    total_s = sum(took.values())
    rows = []
    for workers in WORKERS:
        dealt, sharded = dealt_s(jobs, took, workers), sharded_s(took, workers)
        rows.append(
            {
                "workers": workers,
                "hours": dealt / 3600,
                "efficiency": total_s / workers / dealt,
                "efficiency_of_shards": total_s / workers / sharded,
            }
        )
    if asked.plot:
        plot(rows, f"{asked.slides:,} slides on many workers", asked.plot)
    if asked.json:
        print(json.dumps({"slides": asked.slides, "seed": asked.seed, "rows": rows}, indent=1))
        return
    print(f"{asked.slides} slides, {total_s / 3600:.0f} hours of one worker, seed {asked.seed}")
    print(f"{'workers':>7} {'hours':>8} {'efficiency':>10} {'in shards':>10}")
    for row in rows:
        print(
            f"{row['workers']:7} {row['hours']:8.2f} {row['efficiency']:10.3f} "
            f"{row['efficiency_of_shards']:10.3f}"
        )


if __name__ == "__main__":
    main()
