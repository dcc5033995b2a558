"""LogME of many rows against the authors' ways, written anew from their formulas in NumPy.

    pytest benchmarks/bench_transferability.py -s

The features are 100,000 x 1,024 float64 (820 MB), as a ReLU leaves them, with ten classes that shift some of
their columns. Rivals:

- *fixed point*: F'F and its singular vectors once; then for each class, from a = b = 1, until both
  precisions change by less than 1e-5 or eleven times: m by the singular vectors, the residual F m - y over
  all rows. This is what the authors' first release does.
- *inverse*: algorithm 1 as printed, without singular vectors: for each class and each iteration the inverse of
  a I + b F'F, F'F and F'y computed once. No goal.
- *truncated SVD*: the faster variant of the authors' second paper: U = F V / S once, U'y for each class, after
  which an iteration costs nothing. No goal.

F'F in float64 is most of ours and nearly half of the first rival, and both need it: more than about twice is not
to be had from it.
"""

from __future__ import annotations

import numpy as np
import pytest

from histofast.transferability import log_me

N, D, CLASSES = 100_000, 1024, 10
TOLERANCE, MOST = 1e-5, 11


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    labels = rng.integers(CLASSES, size=N)
    f = rng.standard_normal((N, D)) * rng.uniform(0.1, 1, D)
    shifts = np.where(rng.random((CLASSES, D)) < 0.05, 0.3 * rng.standard_normal((CLASSES, D)), 0)
    for start in range(0, N, 10_000):
        rows = slice(start, start + 10_000)
        f[rows] += shifts[labels[rows]]
    return np.maximum(f, 0, out=f), labels


def settled(a, b, after):
    return all(abs(new - old) <= TOLERANCE * old for new, old in zip(after, (a, b), strict=True))


def evidence(n, d, values, a, b, residual, length):
    volume = np.log(a + b * values).sum() + (d - len(values)) * np.log(a)
    fit = n * np.log(b) + d * np.log(a) - b * residual - a * length
    return (fit - volume - n * np.log(2 * np.pi)) / 2 / n


def fixed_point(f, labels):
    n, d = f.shape
    vectors, values, _ = np.linalg.svd(f.T @ f)
    found = []
    for k in range(CLASSES):
        y = (labels == k).astype(np.float64)
        turned = vectors.T @ (f.T @ y)
        a = b = 1.0
        for _ in range(MOST):
            m = vectors @ (b * turned / (a + b * values))
            residual, length = float(((f @ m - y) ** 2).sum()), float(m @ m)
            gamma = float((b * values / (a + b * values)).sum())
            after = gamma / length, (n - gamma) / residual
            if settled(a, b, after):
                break
            a, b = after
        found.append(evidence(n, d, values, a, b, residual, length))
    return float(np.mean(found))


def inverse(f, labels):
    n, d = f.shape
    gram = f.T @ f
    values = np.linalg.eigvalsh(gram)
    found = []
    for k in range(CLASSES):
        y = (labels == k).astype(np.float64)
        product = f.T @ y
        a = b = 1.0
        for _ in range(MOST):
            covariance = np.linalg.inv(a * np.eye(d) + b * gram)
            m = b * covariance @ product
            residual, length = float(((f @ m - y) ** 2).sum()), float(m @ m)
            gamma = d - a * float(covariance.trace())
            after = gamma / length, (n - gamma) / residual
            if settled(a, b, after):
                break
            a, b = after
        found.append(evidence(n, d, values, a, b, residual, length))
    return float(np.mean(found))


def truncated(f, labels):
    n, d = f.shape
    vectors, values, _ = np.linalg.svd(f.T @ f)
    u = f @ vectors / np.sqrt(values)
    found = []
    for k in range(CLASSES):
        y = (labels == k).astype(np.float64)
        squares = (u.T @ y) ** 2
        outside = float(y @ y - squares.sum())
        a = b = 1.0
        for _ in range(MOST):
            share = values / (a / b + values)
            length = float((share**2 * squares / values).sum())
            residual = float(((1 - share) ** 2 * squares).sum()) + outside
            gamma = float(share.sum())
            after = gamma / length, (n - gamma) / residual
            if settled(a, b, after):
                break
            a, b = after
        found.append(evidence(n, d, values, a, b, residual, length))
    return float(np.mean(found))


def test_log_me(table, benchmark, data):
    rivals = {
        "fixed point over all rows": lambda: fixed_point(*data),
        "inverse in each iteration": lambda: inverse(*data),
        "truncated SVD": lambda: truncated(*data),
    }
    value = log_me(*data)
    for rival in rivals.values():
        assert rival() == pytest.approx(value, rel=1e-6)
    table.race(
        f"LogME, {N:,} x {D:,} float64, {CLASSES} classes",
        lambda: log_me(*data),
        rivals,
        goals={"fixed point over all rows": 5.0},
        work=N,
        unit="rows/s",
        rounds=2,
    )
    benchmark.pedantic(lambda: None, rounds=1)
