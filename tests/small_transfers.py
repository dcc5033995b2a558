"""Transfer studies of small pictures, and numbers that one might have found."""

from __future__ import annotations

import csv
import io
import itertools

import numpy as np

from histofast.classify import Recipe
from histofast.studies import PictureSetting, Transfer, TransferFound, Way

FAST = Recipe(epochs=1, batch_size=16, px=24, freeze="all", ema=0.0)
NAMES = ("a", "b", "c")


def transfer(sets, out, *, repeats=2, on_progress=None, metric="auroc", recipe=FAST, **changes):
    setting = PictureSetting(
        data=sets,
        out=out,
        recipe=recipe,
        repeats=repeats,
        metric=metric,
        on_progress=on_progress,
        command="histofast study transfer",
    )
    return Transfer(setting=setting, **{"network": "resnet18", **changes})


def rows_of(folder, name):
    return list(csv.DictReader(io.StringIO((folder / f"{name}.csv").read_text())))


def planted(*, n=12, gain=None, starts=("random",), merge=(), metric="auroc", noise=0.01, **more):
    """What a study would have found: 0.7 everywhere and some noise, and what is planted by way."""
    rng = np.random.default_rng(5)
    ways = []
    for start in starts:
        ways += [Way(start=start, target=target) for target in NAMES]
        ways += [
            Way(start=start, source=s, target=t) for s, t in itertools.product(NAMES, repeat=2)
        ]
        ways += [Way(start=start, merge=m, target=t) for m, t in itertools.product(merge, NAMES)]
    test = {way: 0.7 + rng.normal(0, noise, n) + (gain or {}).get(way, 0.0) for way in ways}
    return TransferFound(
        metric=metric,
        network="resnet18",
        starts=starts,
        sets=NAMES,
        test_share=1 / 5,
        test=test,
        validation=more.pop("validation", test),
        **more,
    )
