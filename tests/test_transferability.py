"""Scores of features before training: hand values, definitions, what changes nothing, and what is refused."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import dataclass
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reference_transferability as reference
from extras import need
from histofast.learning import folds
from histofast.transferability import (
    NEIGHBOURS,
    SCORES,
    STRENGTHS,
    Change,
    Needs,
    h_score,
    knn_probe,
    linear_probe,
    log_me,
    rank_me,
    scores_of,
    trans_rate,
)

SEEDS = st.integers(0, 9999)
NO_NETWORK = scores_of("features", "labels", "groups")
LABELLED = scores_of("labels", "groups")


def features(seed, n=60, d=7, classes=3, apart=0.6):
    """Rows of which some columns tell the classes apart, others do not, and columns of other sizes."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % classes)
    f = rng.normal(size=(n, d)) + rng.normal(size=d)
    f[:, : d // 2] += apart * rng.normal(size=(classes, d // 2))[labels]
    return f * (1 + np.arange(d) / 3), labels


def score(name, f, labels):
    return SCORES[name].function(*((f,) if SCORES[name].needs == "features" else (f, labels)))


# --- The table -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rows:
    """What `folds` deals: each row by itself."""

    targets: np.ndarray
    classes: tuple[str, ...]
    groups: tuple[str, ...]
    task: str = "classification"
    has_targets: bool = True
    splits: tuple[str, ...] = ()

    def part(self, rows):
        return Rows(self.targets[rows], self.classes, tuple(self.groups[i] for i in rows))


def dealt(labels, groups=None, n=5, seed=0):
    names, targets = np.unique(labels, return_inverse=True)
    groups = range(len(labels)) if groups is None else groups
    return folds(Rows(targets, tuple(map(str, names)), tuple(map(str, groups))), n=n, seed=seed)


DEFINITIONS = {
    "linear-probe": lambda f, y: reference.probe(f, y, dealt(y), reference.ridge, STRENGTHS),
    "knn": lambda f, y: reference.probe(f, y, dealt(y), reference.knn, NEIGHBOURS),
    "logme": reference.log_me,
    "h-score": reference.h_score,
    "transrate": reference.trans_rate,
    "rankme": lambda f, _: reference.rank_me(f),
}


def test_every_score_of_features_has_a_definition():
    assert set(DEFINITIONS) == set(NO_NETWORK)
    assert set(SCORES) == set(scores_of(*get_args(Needs)))
    assert [entry.name for entry in SCORES.values()] == list(SCORES)
    for field in ("title", "formula"):
        assert len({getattr(entry, field) for entry in SCORES.values()}) == len(SCORES)
    assert all(entry.reference for entry in SCORES.values())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", NO_NETWORK)
def test_is_its_definition(name, seed):
    f, labels = features(seed, classes=2 + seed % 2)
    found = score(name, f, labels)
    assert isinstance(found, float)
    assert found == pytest.approx(DEFINITIONS[name](f, labels), rel=1e-7)


@pytest.mark.parametrize("name", ["logme", "h-score", "transrate", "rankme", "linear-probe"])
def test_is_its_definition_of_fewer_rows_than_columns(name):
    f, labels = features(3, n=30, d=40)
    assert score(name, f, labels) == pytest.approx(DEFINITIONS[name](f, labels), rel=1e-6)


@pytest.mark.parametrize("change", get_args(Change))
@pytest.mark.parametrize("name", NO_NETWORK)
def test_is_unchanged_by_what_it_claims_and_by_nothing_else(name, change):
    differences = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        f, labels = features(seed, n=90)
        turn = np.linalg.qr(rng.normal(size=(7, 7)))[0]
        moved = {"rotation": f @ turn, "scale": 3.7 * f, "shift": f + rng.uniform(2, 9, size=7)}
        differences.append(abs(score(name, moved[change], labels) - score(name, f, labels)))
    if change in SCORES[name].unchanged_by:
        assert max(differences) < 1e-8
    else:
        assert max(differences) > 1e-4


@given(seed=SEEDS)
@settings(max_examples=20)
def test_names_of_labels_and_the_order_of_columns_do_not_matter(seed):
    rng = np.random.default_rng(seed)
    f, labels = features(seed)
    names = np.array([70, -3, 12])
    for name in LABELLED:
        wanted = score(name, f, labels)
        assert score(name, f, np.sort(names)[labels]) == pytest.approx(wanted, rel=1e-9)
        assert score(name, f[:, rng.permutation(7)], labels) == pytest.approx(wanted, rel=1e-7)
    # Exchanged classes are dealt in another order: of the probes, only those that are not dealt.
    for name in scores_of("labels"):
        assert score(name, f, names[labels]) == pytest.approx(score(name, f, labels), rel=1e-9)


@given(seed=SEEDS)
@settings(max_examples=20)
def test_the_order_of_rows_does_not_matter_without_folds(seed):
    rng = np.random.default_rng(seed)
    f, labels = features(seed)
    order = rng.permutation(len(f))
    for name in scores_of("labels", "features"):
        wanted = score(name, f, labels)
        assert score(name, f[order], labels[order]) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("name", LABELLED)
def test_classes_that_are_apart_score_above_classes_that_are_not(name):
    near, far = (features(5, n=120, apart=apart) for apart in (0.0, 2.0))
    assert score(name, *far) > score(name, *near)


@pytest.mark.parametrize("name", NO_NETWORK)
def test_float32_gives_nearly_the_same(name):
    f, labels = features(6)
    single = f.astype(np.float32)
    wanted = score(name, single.astype(np.float64), labels)
    assert score(name, single, labels) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("factor", [1e-250, 1e-60, 1e60, 1e250])
@pytest.mark.parametrize("name", NO_NETWORK)
def test_huge_and_tiny_features_are_those_of_the_order_of_1(name, factor):
    f, labels = features(9)
    assert score(name, factor * f, labels) == pytest.approx(score(name, f, labels), rel=1e-6)


# --- LogME ---------------------------------------------------------------------------------------


def test_log_me_by_hand():
    # One column of ones: z^2 = 1 of each class, 1 is outside; the best share is 1 / 3.
    wanted = (-2 * (math.log(2 * math.pi / 3) + 1) + math.log(1 / 3) / 2) / 4
    assert log_me(np.ones((4, 1)), np.array([0, 0, 1, 1])) == pytest.approx(wanted, rel=1e-12)
    # A column that tells the classes without error, and one that is a class and half of the other.
    for column in ([1.0, 1, 0, 0], [2.0, 2, 0, 0]):
        assert log_me(np.array([column]).T, np.array([0, 0, 1, 1])) == math.inf


@given(seed=SEEDS, a=st.floats(-8, 8), b=st.floats(-8, 8))
@settings(max_examples=60)
def test_no_evidence_is_above_log_me(seed, a, b):
    f, labels = features(seed, n=20, d=4)
    y = [(labels == k).astype(float) for k in range(3)]
    evidences = [reference.evidence(f, one, math.exp(a), math.exp(b)) / 20 for one in y]
    assert np.mean(evidences) <= log_me(f, labels) + 1e-9


@pytest.mark.parametrize("least", [1e-3, 1e-6])
def test_log_me_of_ill_conditioned_features_keeps_their_digits(least):
    """What is small in every column is large enough in the labels: F'F would have lost it."""
    rng = np.random.default_rng(1)
    labels = np.arange(80) % 2
    columns = np.column_stack([labels - 0.4 + rng.normal(size=80) / 5, rng.normal(size=80)])
    u = np.linalg.qr(columns)[0]
    diagonal = u[:, ::-1] * [1.0, least]  # F'F is diagonal: nothing is lost in the definition
    turn = np.linalg.qr(rng.normal(size=(2, 2)))[0]
    evidences = [reference.greatest_evidence(diagonal, 1.0 * (labels == k)) / 80 for k in (0, 1)]
    assert log_me(diagonal @ turn, labels) == pytest.approx(np.mean(evidences), rel=1e-7)
    # The fixed point from a = b = 1 goes uphill the other way, to no weights at all.
    with np.errstate(all="ignore"):
        assert np.isnan(reference.log_me(diagonal, labels))


@given(seed=SEEDS)
@settings(max_examples=20)
def test_copies_of_columns_and_units_that_never_fire_change_no_log_me(seed):
    f, labels = features(seed)
    wanted = log_me(f, labels)
    dead = np.zeros((len(f), 2))
    assert log_me(np.hstack([dead, f]), labels) == pytest.approx(wanted, rel=1e-9)
    # Twice the columns is sqrt(2) times the features, by a rotation.
    assert log_me(np.hstack([f, f]), labels) == pytest.approx(wanted, rel=1e-7)


def test_log_me_tells_of_more_rows_than_a_block():
    f, labels = features(2, n=5000, d=3)
    shifted = f + 100  # all but one direction is small beside the mean
    for each in (f, shifted):
        assert log_me(each, labels) == pytest.approx(reference.log_me(each, labels), rel=1e-8)


# --- H-score -------------------------------------------------------------------------------------


@given(seed=SEEDS, n=st.integers(12, 60), d=st.integers(1, 20))
@settings(max_examples=60)
def test_h_score_is_its_definition_and_within_its_bounds(seed, n, d):
    f, labels = features(seed, n=n, d=d)
    found = h_score(f, labels)
    assert found == pytest.approx(reference.h_score(f, labels), rel=1e-7)
    assert 0 <= found <= 2 + 1e-9


def test_h_score_shrinks_as_scikit_learn_does():
    covariance = need("sklearn.covariance")
    f, labels = features(7, n=25, d=12)
    fitted = covariance.LedoitWolf().fit(f)
    means = np.array([f[labels == k].mean(axis=0) for k in range(3)])[labels]
    between = np.cov(means, rowvar=False, ddof=0)
    wanted = np.trace(np.linalg.solve(fitted.covariance_, between)) * (1 - fitted.shrinkage_)
    assert 0.01 < fitted.shrinkage_ < 0.99
    assert h_score(f, labels) == pytest.approx(wanted, rel=1e-9)


# --- TransRate and RankMe ------------------------------------------------------------------------


def test_trans_rate_by_hand():
    f, labels = np.array([[-1.0], [-1.0], [2.0]]), np.array([0, 0, 1])  # mean 0, variance 2
    whole, one, other = (math.log(1 + v / 0.1) / 2 for v in (1, 0.5, 2))
    assert trans_rate(f, labels, eps=0.1) == pytest.approx(whole - (one + other) / 2)
    # Columns that hold nothing add nothing.
    assert trans_rate(np.hstack([f, 0 * f]), labels, eps=0.1) == pytest.approx(
        trans_rate(f, labels, eps=0.1)
    )


@given(seed=SEEDS, eps=st.floats(1e-6, 10))
@settings(max_examples=40)
def test_trans_rate_is_its_definition_at_any_eps(seed, eps):
    f, labels = features(seed)
    wanted = reference.trans_rate(f, labels, eps)
    assert trans_rate(f, labels, eps=eps) == pytest.approx(wanted, rel=1e-7, abs=1e-9)


@given(seed=SEEDS)
@settings(max_examples=20)
def test_copies_of_columns_change_no_trans_rate(seed):
    f, labels = features(seed)
    found = trans_rate(np.hstack([f, f]), labels)
    assert found == pytest.approx(trans_rate(f, labels), rel=1e-7)


@given(seed=SEEDS, n=st.integers(1, 30), d=st.integers(1, 30))
@settings(max_examples=60)
def test_rank_me_is_within_its_bounds(seed, n, d):
    f = np.random.default_rng(seed).normal(size=(n, d))
    assert 1 - 1e-9 <= rank_me(f) <= min(n, d) + 1e-9
    assert rank_me(np.hstack([f, f])) == pytest.approx(rank_me(f), rel=1e-9)


# --- Probes --------------------------------------------------------------------------------------

PROBES = {"linear": linear_probe, "knn": knn_probe}


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_of_groups_learns_nothing_from_the_group_that_it_scores(name):
    """Columns that name the group tell all within it and nothing of another."""
    rng = np.random.default_rng(0)
    group_of = np.repeat(np.arange(40), 5)
    labels = (np.arange(40) % 2)[group_of]
    f = rng.normal(size=(40, 30))[group_of] + 0.05 * rng.normal(size=(200, 30))
    leaking = PROBES[name](f, labels)
    honest = PROBES[name](f, labels, groups=group_of)
    assert leaking.auroc.value > 0.9
    assert honest.auroc.value < 0.7
    assert honest.auroc.low <= honest.auroc.value <= honest.auroc.high


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_tells_what_it_scored(name):
    f, labels = features(4, n=80)
    groups = np.arange(80) // 2
    labels = labels[groups * 2]
    found = PROBES[name](f, labels, groups=groups, n=4, seed=3)
    np.testing.assert_allclose(found.outputs.sum(axis=1), 1)
    assert found.outputs.min() >= 0
    choices = STRENGTHS if name == "linear" else NEIGHBOURS
    assert len(found.chosen) == len(found.auroc_of_folds) == 4
    assert set(found.chosen) <= set(map(float, choices))
    assert found.over_folds.value == pytest.approx(found.auroc_of_folds.mean())
    assert found.over_folds.low < found.over_folds.value < found.over_folds.high
    right = found.outputs.argmax(axis=1) == labels
    assert found.accuracy.value == pytest.approx(right.mean())
    again = PROBES[name](f, labels, groups=[f"p{g}" for g in groups], n=4, seed=3)
    assert again.auroc.value > 0.5
    np.testing.assert_array_equal(
        found.outputs, PROBES[name](f, labels, groups=groups, n=4, seed=3).outputs
    )


def test_neighbours_of_many_rows_are_those_of_few():
    f, labels = features(8, n=1500, d=3, classes=2)
    wanted = reference.probe(f[:300], labels[:300], dealt(labels[:300]), reference.knn, NEIGHBOURS)
    assert knn_probe(f[:300], labels[:300]).auroc.value == pytest.approx(wanted, rel=1e-9)
    assert knn_probe(f, labels).auroc.value == pytest.approx(wanted, abs=0.1)


# --- What is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", NO_NETWORK)
def test_refused_features(name):
    f, labels = features(0)
    with pytest.raises(TypeError, match="features must be a NumPy array"):
        score(name, f.tolist(), labels)
    with pytest.raises(TypeError, match="features must be float16, float32 or float64, got int64"):
        score(name, np.ones((60, 7), np.int64), labels)
    with pytest.raises(ValueError, match="features must be of shape"):
        score(name, f[0], labels)
    broken = f.copy()
    broken[3, 2] = np.nan
    with pytest.raises(ValueError, match="features must be finite, got NaN or infinity in 1 of 60"):
        score(name, broken, labels)


@pytest.mark.parametrize("name", LABELLED)
def test_refused_labels(name):
    f, labels = features(0)
    with pytest.raises(TypeError, match="labels must be an array of integer classes"):
        score(name, f, labels.astype(float))
    with pytest.raises(TypeError, match=r"labels must be an array .*, got list"):
        score(name, f, labels.tolist())
    with pytest.raises(ValueError, match=r"labels must be of shape \(60,\), one for each row"):
        score(name, f, labels[:-1])
    with pytest.raises(ValueError, match="labels must be of at least 2 classes, got 1"):
        score(name, f, 0 * labels)
    with pytest.raises(ValueError, match="features must have more rows than there are classes"):
        score(name, f[:3], np.arange(3))


def test_refused_features_that_say_nothing():
    _, labels = features(0)
    for function in (h_score, trans_rate):
        with pytest.raises(ValueError, match="features must vary, got 60 equal rows"):
            function(np.ones((60, 3)), labels)
    for d in (3, 90):
        with pytest.raises(ValueError, match="features must not all be 0"):
            log_me(np.zeros((60, d)), labels)
    with pytest.raises(ValueError, match="features must not all be 0"):
        rank_me(np.zeros((60, 3)))
    # Of a probe equal rows are a chance like another.
    assert linear_probe(np.ones((60, 3)), labels).auroc.value == 0.5


def test_refused_options():
    f, labels = features(0)
    with pytest.raises(ValueError, match="eps must be above 0, got 0"):
        trans_rate(f, labels, eps=0)
    with pytest.raises(ValueError, match="groups must be 60, one for each row, got 59"):
        linear_probe(f, labels, groups=range(59))
    with pytest.raises(ValueError, match="n must be at least 2, got 1"):
        knn_probe(f, labels, n=1)
    groups = np.where(labels == 2, 0, 1 + np.arange(60))
    with pytest.raises(ValueError, match="n must be at most the number of groups of every class"):
        linear_probe(f, labels, groups=groups)


def test_scores_need_no_torch():
    code = (
        "import sys\nsys.modules['torch'] = sys.modules['sklearn'] = None\nimport numpy as np\n"
        "from histofast.transferability import SCORES, scores_of\n"
        "f, y = np.random.default_rng(0).normal(size=(40, 3)), np.arange(40) % 2\n"
        "for name in scores_of('labels', 'groups'): SCORES[name].function(f, y)\n"
        "try: SCORES['feature-reuse'].function(None, None, None)\n"
        "except ModuleNotFoundError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == (
        "histofast.networks needs torch, which is not installed: pip install 'histofast[train]'"
    )
