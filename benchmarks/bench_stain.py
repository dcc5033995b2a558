"""Stain normalisation beside the encoding of the same patches.

    pytest benchmarks/bench_stain.py -s

CPU seconds of one thread, in turns: what counts is the share of one in the other.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pytest

from histofast import graphs, load_encoder
from histofast.patches import SAMPLED, StainOptions, stain_map

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
from compare import in_turns

N, PX = 32, 224
SLIDE = 2_000  # patches of a slide that measuring its stains is shared by
GOAL = 0.03


def by_the_cpu(function):
    began = time.process_time()
    function()
    return time.process_time() - began


@pytest.mark.parametrize("method", ["macenko", "reinhard"])
def test_share_of_encoding(table, benchmark, method):
    pixels = graphs.stained_noise(N, PX)
    options = StainOptions(method=method)
    each = stain_map(options, pixels, of="it")
    with (
        load_encoder("densenet121-t2", threads=1) as whole,
        load_encoder("densenet121-t2-int8", threads=1) as quick,
    ):
        seconds = in_turns(
            {
                "map": lambda: each.apply(pixels),
                "measure": lambda: stain_map(options, pixels[:SAMPLED], of="it"),
                whole.spec.name: lambda: whole.encode(pixels),
                quick.spec.name: lambda: quick.encode(pixels),
            },
            rounds=5,
            seconds_of=by_the_cpu,
        )
    taken = {name: float(np.median(values)) for name, values in seconds.items()}
    own = taken["map"] / N + taken["measure"] / SLIDE
    for name in (whole.spec.name, quick.spec.name):
        share = own / (taken[name] / N)
        print(f"\n{method}: {1e3 * own:.2f} ms a patch, {share:.1%} of {name}")
        table.add(
            what=f"{method}, patches of {PX} px, measured once in {SLIDE:,}, of encoding with {name}",
            ours=f"{100 * share:.1f} %",
            rival="3 % of it",
            theirs=f"{1e3 * taken[name] / N:.1f} ms a patch",
            ratio=GOAL / share,
            goal=1.0,
        )
    benchmark.pedantic(lambda: None, rounds=1)
