"""Metrics of several labels a picture, and kappa: definitions, scikit-learn, resamples, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reference_learning as reference
from extras import need
from histofast.learning import METRICS_OF, metrics, metrics_of_models

SEEDS = st.integers(0, 9999)
NAN = math.nan


def labelled(seed, b, c, *, unknown=0.2):
    """Targets of 0, 1 and NaN, some labels of one class or unknown, and probabilities with ties."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 2, (b, c)).astype(np.float64)
    outputs = np.clip(0.5 * targets + rng.uniform(-0.1, 0.6, (b, c)), 0, 1).round(1)
    targets[rng.random((b, c)) < unknown] = np.nan
    if unknown and c > 1:
        kind = rng.integers(4)
        targets[:, 0] = [targets[:, 0], np.full(b, 1.0), np.zeros(b), np.full(b, np.nan)][kind]
    targets[0, -1] = 1.0
    return targets, outputs


def measured(targets, outputs, **options):
    options = {"groups": range(len(targets)), "resamples": 0} | options
    return metrics("multilabel", targets, outputs, **options)


def values(found):
    return {name: metric.value for name, metric in found.items()}


# --- Several labels ------------------------------------------------------------------------------


def test_two_labels_by_hand():
    targets = np.array([[1, 0], [0, 1], [1, NAN], [0, 1]])
    outputs = np.array([[0.9, 0.2], [0.4, 0.7], [0.4, 0.9], [0.6, 0.1]])
    found = values(measured(targets, outputs))
    # First: .9 > .4, .9 > .6, .4 = .4, .4 < .6; second: .7 > .2, .1 < .2.
    assert found["auroc"] == pytest.approx((2.5 / 4 + 1 / 2) / 2)
    # Precisions at the positives: 1 at .9, 2 of 4 at .4 (ties together); 1 at .7, 2 of 3 at .1.
    assert found["auprc"] == pytest.approx(((1 + 2 / 4) / 2 + (1 + 2 / 3) / 2) / 2)
    # Of seven known: first right, right, wrong, wrong; second right, right, wrong.
    assert found["accuracy"] == pytest.approx(4 / 7)
    assert found["balanced_accuracy"] == pytest.approx((2 / 4 + (1 + 1 / 2) / 2) / 2)
    assert found["brier"] == pytest.approx((0.01 + 0.16 + 0.36 + 0.36 + 0.04 + 0.09 + 0.81) / 7)
    # Confidences .6, .6, .6 (one of three right) share a bin of the first, .9 is another.
    first = (0.1 + abs(1 - 3 * 0.6)) / 4
    assert found["ece"] == pytest.approx((first + (0.2 + 0.3 + 0.9) / 3) / 2)
    assert tuple(found) == METRICS_OF["multilabel"]


@given(seed=SEEDS, b=st.integers(1, 40), c=st.integers(1, 5), m=st.integers(1, 4))
@settings(max_examples=120)
def test_metrics_are_their_definitions_within_models(seed, b, c, m):
    targets, outputs = labelled(seed, b, c)
    models = np.random.default_rng(seed).integers(m, size=b)
    found = values(measured(targets, outputs, models=models))
    wanted = reference.several_labels(targets, outputs, models)
    assert found == pytest.approx(wanted, nan_ok=True, abs=1e-12)


@given(seed=SEEDS, b=st.integers(6, 60), c=st.integers(1, 5))
@settings(max_examples=40)
def test_metrics_are_those_of_scikit_learn(seed, b, c):
    other = need("sklearn.metrics")
    targets, outputs = labelled(seed, b, c, unknown=0)
    targets[:2] = [[0.0], [1.0]]  # both of every label
    found = values(measured(targets, outputs))
    columns = [(targets[:, k], outputs[:, k] >= 0.5) for k in range(c)]
    wanted = {
        "auroc": other.roc_auc_score(targets, outputs, average="macro"),
        "auprc": other.average_precision_score(targets, outputs, average="macro"),
        "accuracy": 1 - other.hamming_loss(targets, outputs >= 0.5),
        "balanced_accuracy": np.mean([other.balanced_accuracy_score(*each) for each in columns]),
        "brier": np.mean([other.brier_score_loss(targets[:, k], outputs[:, k]) for k in range(c)]),
    }
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, abs=1e-12)


@given(seed=SEEDS, b=st.integers(8, 60))
@settings(max_examples=40)
def test_what_is_not_known_or_of_one_class_is_left_out(seed, b):
    """As scikit-learn has it, label by label of the rows that are known."""
    other = need("sklearn.metrics")
    targets, outputs = labelled(seed, b, 4)
    each = []
    for truth, p in zip(targets.T, outputs.T, strict=True):
        known = ~np.isnan(truth)
        if len(set(truth[known])) == 2:
            of = (other.roc_auc_score, other.average_precision_score)
            each.append([one(truth[known], p[known]) for one in of])
    found = values(measured(targets, outputs))
    wanted = np.mean(each, axis=0) if each else [NAN, NAN]
    assert [found["auroc"], found["auprc"]] == pytest.approx(list(wanted), nan_ok=True)


@given(seed=SEEDS, b=st.integers(2, 25), c=st.integers(1, 4))
@settings(max_examples=25)
def test_intervals_are_those_of_drawn_groups(seed, b, c):
    """Every draw by the definition, of rows that are there as often as their group was drawn."""
    targets, outputs = labelled(seed, b, c)
    groups = np.arange(b) * 2 // 3
    count = len(set(groups))
    found = measured(targets, outputs, groups=groups, resamples=12, seed=seed)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=12)
    draws = []
    for times in drawn:
        rows = np.repeat(np.arange(b), times[groups])
        if np.isnan(targets[rows]).all():
            draws.append(dict.fromkeys(found, NAN))
            continue
        draws.append(reference.several_labels(targets[rows], outputs[rows], np.zeros(len(rows))))
    for name, metric in found.items():
        column = np.array([draw[name] for draw in draws])
        column = column[~np.isnan(column)]
        bounds = [NAN, NAN]
        if count > 1 and len(column) and not math.isnan(metric.value):
            if name == "ece":  # which repeated bags raise
                column = np.clip(column + metric.value - column.mean(), 0, 1)
            bounds = np.quantile(column, [0.025, 0.975]).tolist()
        assert [metric.low, metric.high] == pytest.approx(bounds, nan_ok=True, abs=1e-12), name


def test_each_model_by_itself():
    targets, outputs = labelled(3, 40, 3)
    models = np.arange(40) % 3
    found = metrics_of_models("multilabel", targets, outputs, models=models)
    for i in range(3):
        rows = models == i
        wanted = reference.several_labels(targets[rows], outputs[rows], np.zeros(rows.sum()))
        assert {name: column[i] for name, column in found.items()} == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("targets", "outputs", "error", "message"),
    [
        ([[1.0]], [[0.5, 0.5]], ValueError, "outputs must have a column for each of a, got 2"),
        ([[1]], [[0.5]], TypeError, "targets must be an array of 0, 1 and NaN, got"),
        ([[0.5]], [[0.5]], ValueError, "targets must be 0, 1, or NaN where not known"),
        (
            [[1.0]],
            [[1.5]],
            ValueError,
            "outputs must be probabilities of each label: apply the sig",
        ),
        (
            [[1.0]],
            [[-0.5]],
            ValueError,
            "outputs must be probabilities of each label: apply the si",
        ),
        ([[NAN]], [[0.5]], ValueError, "targets must be known for some label, got NaN only"),
        ([[1.0], [1.0]], [[0.5]], ValueError, "targets must be of shape"),
    ],
)
def test_refused(targets, outputs, error, message):
    with pytest.raises(error, match=message):
        measured(np.array(targets), np.array(outputs), groups=range(len(targets)), classes=("a",))


# --- Kappa ---------------------------------------------------------------------------------------


@given(seed=SEEDS, b=st.integers(1, 40), c=st.integers(2, 4), used=st.integers(1, 4))
@settings(max_examples=80)
def test_kappa_is_its_definition_in_every_draw(seed, b, c, used):
    rng = np.random.default_rng(seed)
    truth = rng.integers(min(used, c), size=b)
    outputs = rng.dirichlet(np.ones(c), b)
    outputs[:, truth[0]] += 2 * (used == 1)  # all are told to be of the one class that there is
    outputs /= outputs.sum(axis=1, keepdims=True)
    chosen = outputs.argmax(axis=1)
    groups = np.arange(b) // 2
    count = len(set(groups))
    found = metrics("classification", truth, outputs, groups=groups, resamples=10, seed=seed)[
        "kappa"
    ]
    assert found.value == pytest.approx(reference.kappa(truth, chosen), nan_ok=True, abs=1e-12)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=10)
    draws = []
    for times in drawn:
        rows = np.repeat(np.arange(b), times[groups])
        draws.append(reference.kappa(truth[rows], chosen[rows]))
    column = np.array(draws)[~np.isnan(draws)]
    bounds = [NAN, NAN]
    if count > 1 and len(column) and not math.isnan(found.value):
        bounds = np.quantile(column, [0.025, 0.975]).tolist()
    assert [found.low, found.high] == pytest.approx(bounds, nan_ok=True, abs=1e-12)
