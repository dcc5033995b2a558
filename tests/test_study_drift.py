"""The study of drift: its plan, its numbers, its words, and the published points."""

from __future__ import annotations

import numpy as np
import pytest

import reference_learning as reference
from extras import need

torch = need("torch", "safetensors", "matplotlib", "jinja2")

from histofast.learning import correlate
from histofast.studies.drift_published import LAYERS, published_points

# Pearson's r of relative gain and CCA at each layer, as recomputed from the authors' tables.
PUBLISHED_R = {
    "ImageNet": (-0.16, -0.03, -0.07, -0.10, -0.13),
    "RadImageNet": (-0.15, -0.45, -0.43, -0.56, -0.47),
}


# --- The published points -----------------------------------------------------------------------


def test_the_published_35_points_give_the_published_r():
    assert len(published_points()) == 70
    for source, wanted in PUBLISHED_R.items():
        of_source = [point for point in published_points() if point.source == source]
        gain = [(p.auc - p.auc_random) / p.auc_random for p in of_source]
        for k in range(len(LAYERS)):
            found = correlate(
                [p.cca[k] for p in of_source], gain, groups=[p.target for p in of_source]
            )
            assert (found.n, found.groups) == (35, 7)
            assert found.r == pytest.approx(wanted[k], abs=0.006)
            assert (found.low_points, found.high_points) == pytest.approx(
                reference.fisher(found.r, 35, 0.95)
            )


def test_the_published_means_are_those_of_the_folds():
    by_source = {
        source: {
            target: np.array(
                [p.cca for p in published_points() if (p.source, p.target) == (source, target)]
            ).mean(axis=0)
            for target in ("pcam-small", "thyroid")
        }
        for source in PUBLISHED_R
    }
    wanted = {
        ("ImageNet", "pcam-small"): (0.857, 0.836, 0.725, 0.494, 0.231),
        ("ImageNet", "thyroid"): (0.951, 0.955, 0.917, 0.827, 0.647),
        ("RadImageNet", "pcam-small"): (0.709, 0.409, 0.303, 0.254, 0.277),
        ("RadImageNet", "thyroid"): (0.798, 0.552, 0.478, 0.397, 0.331),
    }
    for (source, target), means in wanted.items():
        assert by_source[source][target] == pytest.approx(means, abs=6e-4)
    aucs = [p.auc for p in published_points() if (p.source, p.target) == ("ImageNet", "pcam-small")]
    assert 100 * np.mean(aucs) == pytest.approx(93.8, abs=0.06)
    assert 100 * np.std(aucs, ddof=1) == pytest.approx(1.1, abs=0.06)
