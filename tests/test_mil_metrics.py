"""Metrics against values by hand, scikit-learn and SciPy; intervals over groups; the Cox loss."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import reference
from extras import need
from histofast.learning import Metric, differences, metrics, metrics_of_models, scores, weighted

SEEDS = st.integers(0, 999)


def classified(seed, b, c, *, decimals=2):
    """Targets of every class and probabilities that know something of them, with ties."""
    rng = np.random.default_rng(seed)
    targets = np.append(np.arange(c), rng.integers(c, size=b - c))
    scores = np.exp(rng.normal(size=(b, c)) + np.eye(c)[targets])
    outputs = np.round(scores / scores.sum(axis=1, keepdims=True), decimals)
    outputs[:, 0] += 1 - outputs.sum(axis=1)
    return targets, np.clip(outputs, 0, 1)


def values_of(task, targets, outputs):
    found = metrics(task, targets, outputs, groups=np.arange(len(targets)), resamples=0)
    return {name: metric.value for name, metric in found.items()}


def survived(seed, b):
    rng = np.random.default_rng(seed)
    targets = np.stack([rng.integers(1, 12, b), rng.integers(0, 2, b)], axis=1).astype(float)
    targets[0, 1] = 1
    return targets, np.round(rng.normal(size=b) - 0.1 * targets[:, 0], 1)


# --- Values worked out by hand -----------------------------------------------------------------


def test_two_classes_by_hand():
    targets = np.array([0, 1, 1, 0])
    p1 = np.array([0.2, 0.9, 0.4, 0.4])
    found = values_of("classification", targets, np.stack([1 - p1, p1], axis=1))
    # Pairs (1, 0): .9 > .2, .9 > .4, .4 > .2, .4 = .4.
    assert found["auroc"] == pytest.approx(3.5 / 4)
    # Thresholds .9 (precision 1, recall 1/2) and .4 (precision 2/3, recall 1).
    assert found["auprc"] == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert found["accuracy"] == pytest.approx(3 / 4)
    assert found["balanced_accuracy"] == pytest.approx((1 + 1 / 2) / 2)
    assert found["brier"] == pytest.approx((0.04 + 0.01 + 0.36 + 0.16) / 4)
    # Confidences .8, .9, .6, .6: three bins; the pair of .6 is right once.
    assert found["ece"] == pytest.approx((0.2 + 0.1 + 0.2) / 4)


def test_three_classes_by_hand():
    targets = np.array([0, 1, 2])
    outputs = np.array([[0.5, 0.3, 0.2], [0.5, 0.4, 0.1], [0.0, 0.0, 1.0]])
    found = values_of("classification", targets, outputs)
    assert found["auroc"] == pytest.approx((0.75 + 1 + 1) / 3)
    assert found["accuracy"] == found["balanced_accuracy"] == pytest.approx(2 / 3)
    assert found["brier"] == pytest.approx((0.25 + 0.09 + 0.04 + 0.25 + 0.36 + 0.01) / 3)


def test_c_index_by_hand():
    targets = np.array([[1.0, 1], [2, 0], [2, 1], [3, 1]])
    # Known orders: 0 before 1, 2 and 3; 2 before 1 (which was still observed) and 3.
    risk = np.array([2.0, 2.0, 1.0, 0.0])
    assert values_of("survival", targets, risk)["c_index"] == pytest.approx(
        (0.5 + 1 + 1 + 0 + 1) / 5
    )
    assert values_of("survival", targets, -targets[:, 0])["c_index"] == pytest.approx(4.5 / 5)


def test_ten_bins_of_equal_mass():
    """Confidences that promise 5 % too much in every bin."""
    targets = np.tile([1] * 9 + [0], 100)
    p1 = np.full(1000, 0.95)
    outputs = np.stack([1 - p1, p1], axis=1)
    assert values_of("classification", targets, outputs)["ece"] == pytest.approx(0.05)
    p1 = 0.5 + np.arange(1, 1001) / 2000
    outputs = np.stack([1 - p1, p1], axis=1)
    right = np.repeat((np.arange(10) + 0.5) / 20 + 0.5, 100) > 0.7
    found = values_of("classification", right.astype(int), outputs)["ece"]
    bins = np.split(np.arange(1000), 10)
    assert found == pytest.approx(np.mean([abs((right - p1)[rows].mean()) for rows in bins]))


@pytest.mark.parametrize("b", [20, 60, 400])
def test_the_interval_of_the_calibration_error_is_about_its_value(b):
    """Draws repeat bags and lie above the value, all of them where bags are few."""
    rng = np.random.default_rng(b)
    p1 = rng.uniform(0.05, 0.95, b)
    targets = (rng.random(b) < p1).astype(int)
    found = metrics("classification", targets, np.stack([1 - p1, p1], axis=1), groups=np.arange(b))[
        "ece"
    ]
    assert 0 <= found.low < found.value < found.high <= 1
    assert found.value - found.low == pytest.approx(found.high - found.value, rel=0.5)


# --- Other implementations ---------------------------------------------------------------------


@given(seed=SEEDS, b=st.integers(6, 60), c=st.integers(2, 4))
@settings(max_examples=40)
def test_classification_against_scikit_learn(seed, b, c):
    other = need("sklearn.metrics")
    targets, outputs = classified(seed, b, c)
    found = values_of("classification", targets, outputs)
    truth = np.eye(c)[targets]
    if c == 2:
        truth, scores = truth[:, 1], outputs[:, 1]
        wanted_brier = other.brier_score_loss(truth, scores)
    else:
        scores = outputs
        wanted_brier = ((truth - outputs) ** 2).sum(axis=1).mean()
    predicted = outputs.argmax(axis=1)
    wanted = {
        "auroc": other.roc_auc_score(truth, scores, average="macro"),
        "auprc": other.average_precision_score(truth, scores, average="macro"),
        "accuracy": other.accuracy_score(targets, predicted),
        "balanced_accuracy": other.balanced_accuracy_score(targets, predicted),
        "kappa": other.cohen_kappa_score(targets, predicted),
        "brier": wanted_brier,
    }
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, abs=1e-12)
    assert set(found) == {*wanted, "ece"}


@given(seed=SEEDS, b=st.integers(3, 60))
@settings(max_examples=40)
def test_regression_against_scikit_learn_and_scipy(seed, b):
    other = need("sklearn.metrics")
    rng = np.random.default_rng(seed)
    targets = np.append([0.0, 1.0], rng.integers(0, 9, b - 2))
    outputs = targets + np.append([0.5, -2], rng.integers(-2, 3, b - 2))
    found = values_of("regression", targets, outputs)
    wanted = {
        "mae": other.mean_absolute_error(targets, outputs),
        "r2": other.r2_score(targets, outputs),
        "pearson": stats.pearsonr(targets, outputs).statistic,
        "spearman": stats.spearmanr(targets, outputs).statistic,
    }
    assert found == pytest.approx(wanted, abs=1e-12)


@given(seed=SEEDS, b=st.integers(4, 40))
@settings(max_examples=40)
def test_c_index_is_its_definition(seed, b):
    targets, risk = survived(seed, b)
    right = pairs = 0.0
    for i in range(b):
        for j in range(b):
            later = targets[j, 0] > targets[i, 0]
            observed_on = targets[j, 0] == targets[i, 0] and not targets[j, 1]
            if targets[i, 1] and (later or observed_on):
                pairs += 1
                right += (risk[i] > risk[j]) + 0.5 * (risk[i] == risk[j])
    wanted = right / pairs if pairs else math.nan
    assert values_of("survival", targets, risk)["c_index"] == pytest.approx(wanted, nan_ok=True)


# --- Rows that different models scored ---------------------------------------------------------


def two_columns(p1):
    return np.stack([1 - p1, p1], axis=1)


def test_folds_on_other_scales_are_ranked_within():
    """The worked case: each fold tells its positive from its negative, one fold scores lower."""
    targets, p1 = np.array([1, 0, 1, 0]), np.array([0.9, 0.6, 0.4, 0.1])
    models = ["fold 0", "fold 0", "fold 1", "fold 1"]
    pooled = metrics("classification", targets, two_columns(p1), groups=range(4))["auroc"]
    found = metrics(
        "classification", targets, two_columns(p1), groups=range(4), models=models, resamples=0
    )
    assert pooled.value == pytest.approx(0.75)
    assert found["auroc"].value == 1
    assert found["auprc"].value == 1
    assert found["accuracy"].value == 0.5
    alone = metrics_of_models("classification", targets, two_columns(p1), models=models)
    np.testing.assert_array_equal(alone["auroc"], [1, 1])
    np.testing.assert_array_equal(alone["accuracy"], [0.5, 0.5])


def test_the_mean_of_the_training_targets_predicts_nothing(rng):
    """Pooled, leaving one fold out makes its mean go down when the targets go up."""
    targets, fold = rng.normal(size=60), np.arange(60) % 6
    outputs = np.array([targets[fold != f].mean() for f in fold])
    pooled = values_of("regression", targets, outputs)
    found = metrics("regression", targets, outputs, groups=range(60), models=fold, resamples=0)
    assert pooled["pearson"] < -0.2
    assert np.isnan([found["pearson"].value, found["spearman"].value]).all()
    assert found["r2"].value == pooled["r2"] < 0


@given(seed=SEEDS, b=st.integers(4, 40), m=st.integers(1, 6))
@settings(max_examples=60)
def test_metrics_of_ranks_are_their_definitions_within_models(seed, b, m):
    models = np.random.default_rng(seed).integers(m, size=b)
    for task, targets, outputs in problems(seed, b):
        measured = metrics(task, targets, outputs, groups=range(b), models=models, resamples=0)
        found = {name: metric.value for name, metric in measured.items()}
        if task == "classification":
            columns = [1] if outputs.shape[1] == 2 else range(outputs.shape[1])
            wanted = {
                name: np.mean([of(outputs[:, k], targets == k, models) for k in columns])
                for name, of in (
                    ("auroc", reference.stratified_auroc),
                    ("auprc", reference.stratified_average_precision),
                )
            }
        elif task == "regression":
            wanted = {
                "pearson": reference.stratified_correlation(targets, outputs, models, False),
                "spearman": reference.stratified_correlation(targets, outputs, models, True),
            }
        else:
            wanted = {"c_index": reference.stratified_c_index(outputs, *targets.T, models)}
        pooled = values_of(task, targets, outputs)
        wanted = {name: value for name, value in pooled.items() if name not in wanted} | wanted
        assert found == pytest.approx(wanted, nan_ok=True, abs=1e-9)


@pytest.mark.parametrize("models", [None, ["one"] * 30])
def test_one_model_is_no_division(models):
    for task, targets, outputs in problems(2, 30):
        options = {"groups": np.arange(30) // 2, "resamples": 60}
        found = metrics(task, targets, outputs, models=models, **options)
        assert found == metrics(task, targets, outputs, **options)


def test_repeats_of_one_model_narrow_nothing():
    """A bag that was scored three times is still one patient."""
    targets, outputs = classified(4, 60, 2)
    once = metrics("classification", targets, outputs, groups=range(60), seed=3)
    models = np.repeat(["a", "b", "c"], 60)
    thrice = metrics(
        "classification",
        np.tile(targets, 3),
        np.tile(outputs, (3, 1)),
        groups=np.tile(np.arange(60), 3),
        models=models,
        seed=3,
    )
    for name in ("auroc", "auprc", "accuracy", "brier"):
        assert [getattr(thrice[name], at) for at in ("value", "low", "high")] == pytest.approx(
            [getattr(once[name], at) for at in ("value", "low", "high")]
        )


def test_intervals_within_models_are_those_of_drawn_patients():
    """The same draws, by expanding the rows, each measured by the definition."""
    rng = np.random.default_rng(0)
    targets, outputs = classified(5, 48, 2)
    groups, models = np.arange(48) // 2 % 12, rng.integers(4, size=48)
    found = metrics(
        "classification", targets, outputs, groups=groups, models=models, resamples=80, seed=5
    )
    drawn = np.random.default_rng(5).multinomial(12, np.full(12, 1 / 12), size=80)
    for name, of in (
        ("auroc", reference.stratified_auroc),
        ("auprc", reference.stratified_average_precision),
    ):
        values = []
        for counts in drawn:
            rows = np.repeat(np.arange(48), counts[groups])
            values.append(of(outputs[rows, 1], targets[rows] == 1, models[rows]))
        low, high = np.nanquantile(values, [0.025, 0.975])
        assert (found[name].low, found[name].high) == pytest.approx((low, high))


def test_differences_are_within_models():
    targets, p1 = np.array([1, 0, 1, 0]), np.array([0.9, 0.6, 0.4, 0.1])
    other = np.array([0.4, 0.9, 0.1, 0.3])
    found = differences(
        "classification",
        targets,
        two_columns(p1),
        two_columns(other),
        groups=range(4),
        models=[0, 0, 1, 1],
        resamples=0,
    )
    assert found["auroc"].value == 1


def test_every_row_by_another_model_has_no_pairs():
    targets, outputs = classified(1, 20, 2)
    found = metrics("classification", targets, outputs, groups=range(20), models=range(20))
    assert np.isnan([found["auroc"].value, found["auroc"].low, found["auprc"].value]).all()
    assert np.isfinite(found["accuracy"].low)


def test_many_models_take_no_time():
    """1,000 draws of 330 rows of 15 models: a second or less, for pages that wait for it."""
    targets, outputs = classified(1, 330, 2)
    start = time.perf_counter()
    metrics(
        "classification",
        targets,
        outputs,
        groups=np.arange(330) % 110,
        models=np.arange(330) * 15 // 330,
    )
    assert time.perf_counter() - start < 3  # a loaded machine


# --- Undefined values --------------------------------------------------------------------------


def test_one_class_only():
    targets, outputs = np.zeros(9, int), np.full((9, 2), 0.5)
    found = metrics("classification", targets, outputs, groups=range(9), resamples=50)
    for name in ("auroc", "auprc", "balanced_accuracy"):
        assert np.isnan([found[name].value, found[name].low, found[name].high]).all()
    assert found["accuracy"] == Metric(value=1.0, low=1.0, high=1.0)
    all_positive = values_of("classification", np.ones(9, int), outputs)
    assert np.isnan([all_positive["auroc"], all_positive["auprc"]]).all()


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e8 / 3])
def test_constant_values(constant):
    varying, same = np.arange(9.0), np.full(9, constant)
    undefined = values_of("regression", same, varying)
    assert np.isnan([undefined[name] for name in ("r2", "pearson", "spearman")]).all()
    assert undefined["mae"] == pytest.approx(np.abs(varying - same).mean())
    assert values_of("regression", varying, np.full(9, 4.0))["r2"] == pytest.approx(0)
    assert np.isnan(values_of("regression", varying, same)["pearson"])


def test_no_event_or_nobody_who_lived_longer():
    for targets in ([[1, 0], [2, 0]], [[1, 1], [1, 1]], [[1, 1]]):
        array = np.array(targets, float)
        assert np.isnan(values_of("survival", array, np.arange(len(array)) / 2)["c_index"])


# --- Intervals ---------------------------------------------------------------------------------


def problems(seed, b):
    """One of each task."""
    rng = np.random.default_rng(seed)
    for c in (2, 3):
        yield "classification", *classified(seed, b, c, decimals=1)
    targets = np.round(rng.normal(size=b), 1)
    yield "regression", targets, np.round(targets + rng.normal(size=b), 1)
    yield "survival", *survived(seed, b)


@given(seed=SEEDS, b=st.integers(4, 30))
@settings(max_examples=30)
def test_a_weight_is_that_many_copies(seed, b):
    """What makes the resamples: bags that were drawn twice count as two bags."""
    weights = np.random.default_rng(seed).integers(0, 4, size=b)
    weights[0] += 1
    rows = np.repeat(np.arange(b), weights)
    for task, targets, outputs in problems(seed, b):
        whole = weighted.STATISTICS[task](targets, outputs, (), None)
        copies = weighted.STATISTICS[task](targets[rows], outputs[rows], (), None)
        for name, statistic in whole.items():
            np.testing.assert_allclose(
                statistic(weights[None].astype(float)),
                copies[name](np.ones((1, len(rows)))),
                atol=1e-9,
                err_msg=name,
            )


@given(seed=SEEDS, b=st.integers(4, 30))
@settings(max_examples=20)
def test_the_order_of_bags_changes_no_value(seed, b):
    order = np.random.default_rng(seed).permutation(b)
    for task, targets, outputs in problems(seed, b):
        first = values_of(task, targets, outputs)
        assert values_of(task, targets[order], outputs[order]) == pytest.approx(
            first, abs=1e-9, nan_ok=True
        )


def test_intervals_are_the_percentiles_of_resampled_groups():
    """The same draws, by expanding the bags."""
    targets, outputs = classified(1, 60, 2)
    groups = np.arange(60) // 3
    names = [f"patient {group:02}" for group in groups]
    found = metrics("classification", targets, outputs, groups=names, resamples=300, seed=5)
    drawn = np.random.default_rng(5).multinomial(20, np.full(20, 1 / 20), size=300)
    accuracies = []
    for counts in drawn:
        rows = np.repeat(np.arange(60), counts[groups])
        accuracies.append((outputs[rows].argmax(axis=1) == targets[rows]).mean())
    low, high = np.quantile(accuracies, [0.025, 0.975])
    assert found["accuracy"].low == pytest.approx(low)
    assert found["accuracy"].high == pytest.approx(high)


def test_blocks_of_resamples_change_nothing(monkeypatch):
    targets, outputs = classified(1, 40, 3)
    whole = metrics("classification", targets, outputs, groups=range(40), resamples=50)
    monkeypatch.setattr(scores, "PANEL", 300)
    blocks = metrics("classification", targets, outputs, groups=range(40), resamples=50)
    for name, metric in whole.items():
        assert blocks[name].low == pytest.approx(metric.low)
    targets, risk = survived(1, 40)
    monkeypatch.setattr(weighted, "PANEL", 41)
    value = values_of("survival", targets, risk)
    monkeypatch.undo()
    assert value == pytest.approx(values_of("survival", targets, risk))


def test_the_seed_decides():
    targets, outputs = classified(1, 40, 2)
    first, again, other = (
        metrics("classification", targets, outputs, groups=range(40), resamples=99, seed=seed)
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_patients_with_many_slides_widen_the_interval():
    targets, outputs = classified(3, 30, 2)
    targets, outputs = np.tile(targets, 5), np.tile(outputs, (5, 1))
    widths = []
    for groups in (np.arange(150), np.arange(150) % 30):
        found = metrics("classification", targets, outputs, groups=groups)["auroc"]
        assert found.low < found.value < found.high
        widths.append(found.high - found.low)
    assert widths[1] > 1.5 * widths[0]


def test_the_interval_covers():
    """Of 200 intervals of 80 %, about 80 % hold the AUROC of unlimited data."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        targets = rng.integers(0, 2, 80)
        p1 = stats.norm.cdf(rng.normal(size=80) + targets)
        outputs = np.stack([1 - p1, p1], axis=1)
        found = metrics(
            "classification", targets, outputs, groups=range(80), resamples=200, confidence=0.8
        )["auroc"]
        covered += found.low <= stats.norm.cdf(math.sqrt(0.5)) <= found.high
    assert 0.7 <= covered / 200 <= 0.9


def test_no_interval_of_one_group_or_no_resamples():
    targets, outputs = classified(1, 20, 2)
    for options in ({"groups": ["p"] * 20}, {"groups": range(20), "resamples": 0}):
        found = metrics("classification", targets, outputs, **options)
        assert np.isfinite(found["auroc"].value)
        assert np.isnan([found["auroc"].low, found["auroc"].high]).all()


# --- Refused -----------------------------------------------------------------------------------

CLASSES, HALVES, VALUES = np.array([0, 1, 1]), np.full((3, 2), 0.5), np.arange(3.0)
TIMES = np.array([[1.0, 1], [2, 0], [3, 1]])


@pytest.mark.parametrize(
    ("task", "targets", "outputs", "change", "error", "message"),
    [
        ("x", CLASSES, HALVES, {}, ValueError, "task must be one of classification, multi.*'x'"),
        ("regression", VALUES, VALUES, {"resamples": -1}, ValueError, "resamples must be at least"),
        ("regression", VALUES, VALUES, {"confidence": 1}, ValueError, r"confidence must be in 0"),
        ("regression", VALUES, VALUES, {"groups": ["a"]}, ValueError, "groups must be 3, one per"),
        ("regression", VALUES, VALUES, {"models": [1]}, ValueError, "models must be 3, .*got 1"),
        ("regression", [1.0], VALUES, {}, TypeError, r"targets must be floating .*, got list"),
        ("regression", CLASSES, VALUES, {}, TypeError, "targets must be floating .* got int64"),
        ("regression", VALUES[:2], VALUES, {}, ValueError, r"targets must be of shape \(3,\) for"),
        ("regression", VALUES, HALVES, {}, ValueError, r"outputs .* shape \(b,\) .*got \(3, 2\)"),
        ("regression", VALUES[:0], VALUES[:0], {}, ValueError, r"with b >= 1, got \(0,\)"),
        (
            "regression",
            VALUES,
            np.array([0, np.inf, 2]),
            {},
            ValueError,
            "outputs must be finite, got NaN or infinity for 1 of 3",
        ),
        ("survival", VALUES, VALUES, {}, ValueError, r"targets .* of shape \(b, 2\) .*got \(3,\)"),
        ("survival", TIMES[:2], VALUES, {}, ValueError, r"targets must be of shape \(3, 2\) for"),
        ("survival", TIMES + 1, VALUES, {}, ValueError, "must have events 0 or 1 .*, got 2"),
        ("classification", VALUES, HALVES, {}, TypeError, "array of integer classes, got float64"),
        ("classification", CLASSES + 1, HALVES, {}, ValueError, r"classes 0\.\.1, got 2"),
        ("classification", CLASSES - 1, HALVES, {}, ValueError, r"classes 0\.\.1, got -1"),
        ("classification", CLASSES[:2], HALVES, {}, ValueError, r"of shape \(3,\) for these"),
        ("classification", CLASSES, VALUES, {}, ValueError, r"outputs .* of shape \(b, c\)"),
        ("classification", CLASSES, HALVES[:, :1], {}, ValueError, "at least 2 columns, got 1"),
        (
            "classification",
            CLASSES,
            HALVES,
            {"classes": ("a", "b", "c")},
            ValueError,
            "outputs must have a column for each of a, b, c, got 2",
        ),
        ("classification", CLASSES, HALVES * 3, {}, ValueError, "a row that sums to 3: apply soft"),
        (
            "classification",
            CLASSES,
            HALVES + np.array([-1, 1]),
            {},
            ValueError,
            "outputs must be probabilities, got -0.5: apply softmax",
        ),
    ],
)
def test_refused(task, targets, outputs, change, error, message):
    with pytest.raises(error, match=message):
        metrics(task, targets, outputs, **({"groups": range(3)} | change))


# --- Cox loss ----------------------------------------------------------------------------------


@pytest.fixture
def torch():
    return need("torch")


def breslow(risk, times, event):
    """Minus the log of the product over events of exp(risk) / sum over those at risk, per event."""
    likelihood = [
        np.exp(risk[i]) / np.exp(risk[times >= times[i]]).sum() for i in np.flatnonzero(event)
    ]
    return -np.log(likelihood).mean()


@pytest.mark.parametrize("b", [1, 2, 17])
def test_cox_loss_is_its_definition(torch, b):
    from histofast.mil import cox_loss

    for seed in range(20):
        targets, risk = survived(seed, b)
        found = cox_loss(*map(torch.from_numpy, (risk, targets[:, 0], targets[:, 1])))
        assert found.item() == pytest.approx(breslow(risk, *targets.T), abs=1e-12)


def test_cox_loss_by_hand(torch):
    from histofast.mil import cox_loss

    risk = torch.tensor([0.0, 0.0, 0.0], requires_grad=True)
    loss = cox_loss(risk, torch.tensor([1.0, 2.0, 3.0]), torch.tensor([True, False, True]))
    assert loss.item() == pytest.approx(math.log(3) / 2)
    loss.backward()
    np.testing.assert_allclose(risk.grad, [-1 / 3, 1 / 6, 1 / 6], atol=1e-6)


def test_cox_loss_is_finite(torch):
    """Risks far apart, and no events: nothing to learn, and no NaN."""
    from histofast.mil import cox_loss

    times, event = torch.arange(1, 5.0), torch.ones(4)
    far = torch.tensor([-1e4, 1e4, 0.0, 300.0], requires_grad=True)
    loss = cox_loss(far, times, event)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(far.grad).all()
    none = torch.ones(4, requires_grad=True)
    loss = cox_loss(none, times, 0 * event)
    loss.backward()
    assert loss.item() == 0
    assert (none.grad == 0).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_cox_loss_of_half_precision(torch, dtype):
    from histofast.mil import cox_loss

    risk = torch.tensor([1.0, -2.0, 0.5], dtype=getattr(torch, dtype))
    times, event = torch.tensor([1.0, 2.0, 3.0]), torch.ones(3)
    found = cox_loss(risk, times, event)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(cox_loss(risk.float(), times, event).item())


def test_cox_loss_refuses_other_shapes(torch):
    from histofast.mil import cox_loss

    risk = torch.zeros(3, 1)
    with pytest.raises(
        ValueError, match=r"must be of one shape \(b,\), got \(3, 1\), \(3,\) and \(3,\)"
    ):
        cox_loss(risk, torch.ones(3), torch.ones(3))
    with pytest.raises(ValueError, match=r"got \(3,\), \(2,\) and \(3,\)"):
        cox_loss(risk[:, 0], torch.ones(2), torch.ones(3))


def test_differences_are_those_of_the_metrics_and_tighter(rng):
    targets = rng.integers(0, 2, 80)
    hard = rng.normal(size=80)  # what both share
    scores = [targets + hard + 0.3 * rng.normal(size=80) for _ in range(2)]
    first, second = (np.stack([-s, s], 1) for s in scores)
    first, second = (np.exp(z) / np.exp(z).sum(1, keepdims=True) for z in (first, second))
    groups = np.arange(80) // 2
    found = differences("classification", targets, first, second, groups=groups)
    one, other = (metrics("classification", targets, p, groups=groups) for p in (first, second))
    for name, metric in found.items():
        assert metric.value == pytest.approx(one[name].value - other[name].value)
    assert found["auroc"].high - found["auroc"].low < one["auroc"].high - one["auroc"].low
    same = differences("classification", targets, first, first, groups=groups)["auroc"]
    assert (same.value, same.low, same.high) == (0, 0, 0)
    with pytest.raises(ValueError, match="resamples must be at least 0, got -1"):
        differences("classification", targets, first, first, groups=groups, resamples=-1)
