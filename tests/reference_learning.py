"""Steps to a threshold, metrics of several labels, Pearson's r, in float64 NumPy and without cleverness."""

from __future__ import annotations

import numpy as np
from scipy import stats

import reference

# --- Steps to a threshold ------------------------------------------------------------------------


def steps_to(steps, values, threshold, *, higher_is_better=True):
    """(step, whether it was reached): on the line between the two evaluations about the first crossing."""
    before = None
    for step, value in zip(steps, values, strict=True):
        if np.isnan(value):
            continue
        if value >= threshold if higher_is_better else value <= threshold:
            if before is None:
                return step, True
            share = (threshold - before[1]) / (value - before[1])
            return (1 - share) * before[0] + share * step, True
        before = step, value
    return before[0], False


def kaplan_meier(runs, confidence):
    """[(step, S, low, high)] where S falls: S = prod (1 - d / n), log(-log S) +- z times its error.

    The error is sqrt(sum d / (n (n - d))) / |log S|, Greenwood's by the delta method.
    """
    z = stats.norm.ppf((1 + confidence) / 2)
    share, spread, found = 1.0, 0.0, []
    for step in sorted({step for step, is_reached in runs if is_reached}):
        n = sum(other >= step for other, _ in runs)
        d = sum(other == step for other, is_reached in runs if is_reached)
        share *= 1 - d / n
        if n == d:
            found.append((step, share, np.nan, np.nan))
            continue
        spread += d / (n * (n - d))
        middle, error = np.log(-np.log(share)), np.sqrt(spread) / abs(np.log(share))
        bounds = [np.exp(-np.exp(middle + sign * z * error)) for sign in (1, -1)]
        found.append((step, share, *bounds))
    return found


def median_steps(runs, confidence=0.95):
    """(value, low, high): the middle of the steps with S = 1/2; the steps whose band holds 1/2."""
    curve = kaplan_meier(runs, confidence)
    at_most = [step for step, share, *_ in curve if share <= 0.5 + 1e-9]
    below = [step for step, share, *_ in curve if share < 0.5 - 1e-9]
    value = (at_most[0] + below[0]) / 2 if below else np.inf
    low = [step for step, _, bound, _ in curve if bound <= 0.5]
    high = [step for step, _, _, bound in curve if bound < 0.5]
    return value, low[0] if low else np.nan, high[0] if high else np.inf


def speed_up(base, other, *, paired, confidence, resamples, seed):
    """(value, low, high): the ratio of medians; draws without any are 0 below and infinite above."""

    def ratio(one, two):
        a, b = median_steps(one)[0], median_steps(two)[0]
        if a == b == np.inf or a == b == 0:
            return None
        return np.inf if b == 0 or a == np.inf else 0.0 if b == np.inf else a / b

    rng = np.random.default_rng(seed)
    lows, highs = [], []
    for _ in range(resamples):
        rows = rng.integers(len(base), size=len(base))
        others = rows if paired else rng.integers(len(other), size=len(other))
        drawn = ratio([base[i] for i in rows], [other[i] for i in others])
        lows.append(0.0 if drawn is None else drawn)
        highs.append(np.inf if drawn is None else drawn)
    tail = (1 - confidence) / 2
    low = sorted(lows)[int(np.floor(tail * (resamples - 1)))]
    high = sorted(highs)[int(np.ceil((1 - tail) * (resamples - 1)))]
    return ratio(base, other), low, high


# --- Metrics of several labels -------------------------------------------------------------------


def several_labels(targets, outputs, models):
    """Metrics of (b, c) targets of 0, 1 and NaN; what a label does not define is left out of its mean."""
    found = {name: [] for name in ("auroc", "auprc", "balanced_accuracy", "ece")}
    right, squares = [], []
    for c in range(targets.shape[1]):
        rows = [i for i in range(len(targets)) if not np.isnan(targets[i, c])]
        truth = np.array([targets[i, c] == 1 for i in rows], bool)
        p = np.array([outputs[i, c] for i in rows])
        of = [models[i] for i in rows]
        told = (p >= 0.5) == truth
        right += list(told)
        squares += list((p - truth) ** 2)
        if not rows:
            continue
        found["auroc"].append(reference.stratified_auroc(p, truth, of))
        found["auprc"].append(reference.stratified_average_precision(p, truth, of))
        sides = [told[side] for side in (truth, ~truth)]
        recalls = [side.mean() if len(side) else np.nan for side in sides]
        found["balanced_accuracy"].append(np.mean(recalls))
        found["ece"].append(calibration_error(np.maximum(p, 1 - p), told))
    means = {}
    for name, values in found.items():
        defined = [value for value in values if not np.isnan(value)]
        means[name] = np.mean(defined) if defined else np.nan
    return means | {"accuracy": np.mean(right), "brier": np.mean(squares)}


def calibration_error(confidence, right, bins=10):
    """Share of rows times the gap of mean confidence and accuracy, over bins of equal mass.

    Equal confidences are in the bin of their middle.
    """
    n = len(confidence)
    middle = stats.rankdata(confidence) - 0.5
    bin_of = np.minimum(np.floor(bins * middle / n).astype(int), bins - 1)
    gaps = [(right[bin_of == k] - confidence[bin_of == k]).sum() for k in range(bins)]
    return np.abs(gaps).sum() / n


def kappa(truth, chosen):
    """Cohen 1960: (agreed - expected) / (1 - expected) of two columns of labels."""
    agreed = np.mean([a == b for a, b in zip(truth, chosen, strict=True)])
    labels = {*truth, *chosen}
    expected = sum(np.mean(truth == label) * np.mean(chosen == label) for label in labels)
    return (agreed - expected) / (1 - expected) if expected < 1 else np.nan


def pearson(x, y):
    x, y = x - np.mean(x), y - np.mean(y)
    return np.sum(x * y) / np.sqrt(np.sum(x * x) * np.sum(y * y))


def fisher(r, n, confidence):
    half = stats.norm.ppf((1 + confidence) / 2) / np.sqrt(n - 3)
    return np.tanh(np.arctanh(r) - half), np.tanh(np.arctanh(r) + half)


def pearson_over_groups(x, y, groups, confidence, resamples, seed):
    """Whole groups drawn again, r of all that was drawn; draws that do not vary are left out."""
    names = list(dict.fromkeys(groups))
    k = len(names)
    found = []
    for draw in np.random.default_rng(seed).multinomial(k, np.full(k, 1 / k), size=resamples):
        rows = [
            i
            for name, times in zip(names, draw, strict=True)
            for i in np.flatnonzero(np.asarray(groups) == name).tolist() * times
        ]
        if np.ptp(x[rows]) > 0 and np.ptp(y[rows]) > 0:
            found.append(pearson(x[rows], y[rows]))
    return np.quantile(found, [(1 - confidence) / 2, (1 + confidence) / 2])
