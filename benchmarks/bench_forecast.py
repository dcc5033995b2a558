"""`histofast bench --cohort` against the `extract` that it foretells: the demo, and 40 slides of many sizes.

    pytest benchmarks/bench_forecast.py -s

In turns: a forecast from some of the slides, then the run. The forecast is of the very slides that are run,
so that its error is the measurement's and, of the 40, the draw's: 12 of them are looked at.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from histofast import extract, pipeline
from histofast.patches import make_demo_slides, make_slide

ROUNDS = 3
LARGEST_ERROR = 0.25  # of the demo, seconds of work: what a plan for a weekend can bear


@pytest.fixture(scope="module")
def demo(cache):
    return make_demo_slides(cache / "demo")


@pytest.fixture(scope="module")
def many(cache):
    """Sides from 2,048 to 8,192 px and 10 to 60 % of tissue: most slides small, some ten times as large."""
    folder, rng = cache / "forecast-40", np.random.default_rng(7)
    folder.mkdir(exist_ok=True)
    for i in range(40):
        side_px = int(2048 * 4 ** rng.beta(1, 2)) // 256 * 256
        share, path = rng.uniform(0.1, 0.6), folder / f"slide-{i:02d}.tif"
        if not path.exists():
            make_slide(
                path, width_px=side_px, height_px=side_px, seed=i, tissue_fraction=share, mpp=0.25
            )
    return folder


@pytest.mark.parametrize("cohort", ["demo", "many"])
def test_error_of_the_forecast(cohort, request, table, benchmark, tmp_path):
    slides, numbers = request.getfixturevalue(cohort), itertools.count()
    n = len(slides) if isinstance(slides, list) else len(list(slides.iterdir()))
    rows = []
    for seed in range(ROUNDS):
        said = pipeline.forecast(slides, cohort=n, look=12, seconds=20, seed=seed)
        report = extract(slides, out=tmp_path / str(next(numbers)))
        assert report.exit_code == 0
        low_high = said.interval
        held = low_high is None or low_high[0] <= report.seconds / 3600 <= low_high[1]
        rows.append((said.hours * 3600, report.seconds, held))
        spread = (
            "" if low_high is None else " ({:.0f} to {:.0f})".format(*np.multiply(3600, low_high))
        )
        print(
            f"\n  {cohort}, seed {seed}: {rows[-1][0]:.1f} s foretold{spread}, {report.seconds:.1f} s taken"
        )
    error = [abs(foretold / taken - 1) for foretold, taken, _ in rows]
    table.add(
        what=f"forecast of `extract`, {n} slides, {ROUNDS} times",
        ours="errors " + ", ".join(f"{foretold / taken - 1:+.1%}" for foretold, taken, _ in rows),
        rival=f"limit {LARGEST_ERROR:.0%} over the middle error",
        theirs=f"{np.median([taken for _, taken, _ in rows]):.1f} s taken"
        + ("" if n < 5 else f"; {sum(held for *_, held in rows)} of {ROUNDS} intervals hold it"),
        ratio=LARGEST_ERROR / float(np.median(error)),
        goal=1,
    )
    benchmark.pedantic(lambda: None, rounds=1)
