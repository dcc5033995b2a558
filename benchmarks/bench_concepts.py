"""Texture of patches against scikit-image, and the regression of concepts against scikit-learn.

    pytest benchmarks/bench_concepts.py -s

The rivals take turns with ours in one run; what counts is the ratio of the medians.
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import skimage
import skimage.feature
import sklearn
from sklearn.linear_model import RidgeCV
from sklearn.preprocessing import StandardScaler

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
import reference_concepts as reference
import tissue_pictures
from histofast._machine import available_cpus
from histofast.explain.concepts import GLCM_FEATURES, PENALTIES, deal, glcm, regress

PATCHES, SIDE = 2_000, 224


def by_the_cpu(function):
    """Return the CPU seconds of one call: what other work on the machine does not change."""
    began = time.process_time()
    function()
    return time.process_time() - began


def scikit_image(grey):
    """One patch; what the matrix costs is shared by its six features."""
    matrix = skimage.feature.graycomatrix(grey, [1], [0], 256, symmetric=True, normed=True)
    names = (name.upper() if name == "asm" else name for name in GLCM_FEATURES)
    return [skimage.feature.graycoprops(matrix, name)[0, 0] for name in names]


@pytest.fixture(scope="module")
def patches():
    """Patches of made-up tissue, all different."""
    picture = tissue_pictures.overview(stain="he", shape=(1500, 1500), noise=6).image
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 1500 - SIDE, (PATCHES, 2))
    return np.stack([picture[y : y + SIDE, x : x + SIDE] for y, x in corners])


def test_texture(table, patches):
    """Grey levels are given to scikit-image and made by ours."""
    greys = [reference.grey(patch).astype(np.uint8) for patch in patches]
    np.testing.assert_allclose(
        glcm(patches[:50])[:, 0, 0], list(map(scikit_image, greys[:50])), rtol=1e-9
    )
    cpus = available_cpus()
    with ProcessPoolExecutor(cpus) as pool:
        spread = f"scikit-image {skimage.__version__}, {cpus} processes"
        table.race(
            f"texture of {PATCHES:,} patches of {SIDE} px, 256 levels, {cpus} CPUs",
            lambda: glcm(patches),
            {
                spread: lambda: list(pool.map(scikit_image, greys, chunksize=50)),
                "scikit-image, one process": lambda: list(map(scikit_image, greys)),
            },
            goals={spread: 40},
            work=PATCHES,
            unit="patches/s",
            rounds=3,
        )
    table.race(
        "the same on one CPU, CPU time",
        lambda: glcm(patches, threads=1),
        {f"scikit-image {skimage.__version__}": lambda: list(map(scikit_image, greys))},
        goals={f"scikit-image {skimage.__version__}": 40},
        work=PATCHES,
        unit="patches/s",
        rounds=3,
        seconds_of=by_the_cpu,
    )


ROWS, FEATURES, TOLD, FOLDS = 20_000, 1_024, 12, 5


def scikit_learn(x, y, fold_of):
    """Nested folds with RidgeCV: one penalty for all concepts, where ours has one for each."""
    errors, totals = 0.0, 0.0
    for f in range(FOLDS):
        train, test = np.flatnonzero(fold_of != f), np.flatnonzero(fold_of == f)
        inner = [
            (np.flatnonzero(fold_of[train] != g), np.flatnonzero(fold_of[train] == g))
            for g in range(FOLDS)
            if g != f
        ]
        scaler = StandardScaler().fit(x[train])
        model = RidgeCV(alphas=PENALTIES, cv=inner).fit(scaler.transform(x[train]), y[train])
        errors += ((y[test] - model.predict(scaler.transform(x[test]))) ** 2).sum(axis=0)
        totals += ((y[test] - y[train].mean(axis=0)) ** 2).sum(axis=0)
    return 1 - errors / totals


def test_regression(table):
    """Without nulls and directions of scikit-learn's, and with ours but the shuffles."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, FEATURES)).astype(np.float32)
    y = x @ rng.normal(size=(FEATURES, TOLD)) + 30 * rng.normal(size=(ROWS, TOLD))
    groups = np.arange(ROWS) // 100
    fold_of = deal(groups, folds=FOLDS, seed=0)

    def ours():
        return regress(x, y, groups=groups, folds=FOLDS, permutations=0).r2

    np.testing.assert_allclose(ours(), scikit_learn(x, y, fold_of), atol=0.01)
    rival = f"scikit-learn {sklearn.__version__}, RidgeCV in the same folds"
    table.race(
        f"regression of {TOLD} concepts on {ROWS:,} x {FEATURES:,}, nested folds, {available_cpus()} CPUs",
        ours,
        {rival: lambda: scikit_learn(x, y, fold_of)},
        goals={rival: 5},
        work=1,
        unit="regressions/s",
        rounds=1,
    )
