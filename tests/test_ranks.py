"""Ranks of weights: hand values, the definition in reference.py, and invariances."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize

import reference
from histofast.similarity import (
    effective_rank,
    evbmf,
    knowledge_gain,
    layer_metrics,
    stable_rank,
)


def noisy(seed, rows=30, columns=70, rank=4, noise=1.0):
    rng = np.random.default_rng(seed)
    part = rng.normal(size=(rows, rank)) @ rng.normal(size=(rank, columns)) * 2
    return part + noise * rng.normal(size=(rows, columns))


def test_hand_values():
    assert stable_rank(np.diag([2.0, 1.0])) == pytest.approx(1.25)
    assert effective_rank(np.diag([3.0, 3.0, 0.0])) == pytest.approx(2)
    assert effective_rank(np.diag([3.0, 1.0])) == pytest.approx(4 / 3**0.75)
    assert stable_rank(np.zeros((2, 3))) == effective_rank(np.zeros((2, 3))) == 0
    assert evbmf(np.zeros((2, 3))).rank == 0


@pytest.mark.parametrize(
    ("shape", "rank"), [((8, 19), 2), ((19, 8), 1), ((10, 10), 3), ((6, 60), 0), ((5, 9), 2)]
)
def test_evbmf_is_the_least_free_energy_of_its_model(shape, rank):
    matrix = noisy(sum(shape), *shape, rank=rank)
    found = evbmf(matrix)
    values, variance = reference.evbmf(matrix)
    assert found.variance == pytest.approx(variance, rel=1e-3)
    np.testing.assert_allclose(found.singular_values, values, rtol=1e-3)


@pytest.mark.parametrize("shape", [(4, 4), (5, 20), (30, 3), (2, 100)])
def test_the_threshold_is_where_a_factor_begins_to_pay(shape):
    """Of a matrix with one singular value and known noise, by the model's free energy on either side."""
    few, many = sorted(shape)
    low, high = (math.sqrt(few) + math.sqrt(many)) ** 2, 8.0 * (few + many)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (
            (low, middle) if reference.best_factor(middle, few, many)[0] < 0 else (middle, high)
        )
    for y, rank in ((low * 0.999, 0), (high * 1.001, 1)):
        matrix = np.zeros(shape)
        matrix[0, 0] = math.sqrt(y)
        found = evbmf(matrix, variance=1.0)
        assert found.rank == rank
        if rank:
            share = reference.best_factor(y, few, many)[1]
            assert found.singular_values[0] == pytest.approx(math.sqrt(y) * share, rel=1e-5)
    # The paper's approximation of it.
    alpha = few / many
    tau = 2.5129 * math.sqrt(alpha)
    assert low == pytest.approx(many * (1 + tau) * (1 + alpha / tau), rel=0.03)


def test_noise_alone_has_no_rank_and_its_variance():
    """Its singular values end at the edge of Marchenko and Pastur's law, below the threshold."""
    for seed, shape in enumerate([(20, 400), (100, 100), (200, 80), (60, 90)] * 3):
        matrix = 3 * np.random.default_rng(seed).normal(size=shape)
        few, many = sorted(shape)
        edge = (1 + math.sqrt(few / many)) ** 2
        top = np.linalg.svd(matrix, compute_uv=False)[0] ** 2 / (9 * many)
        assert top == pytest.approx(edge, rel=0.15)
        for variance in (9.0, None):
            assert evbmf(matrix, variance=variance).rank == 0
        assert evbmf(matrix).variance == pytest.approx(9, rel=0.02)


@pytest.mark.parametrize("variance", [1.0, None])
@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0])
def test_large_matrices_of_low_rank_are_found_exactly(alpha, variance):
    """Nakajima et al. 2012: signals nu = s^2 / (many variance) above tau, with
    log(1 + tau) + alpha log(1 + tau / alpha) = tau, stand out; weaker ones do not."""
    many = 500
    few = int(alpha * many)
    tau = optimize.brentq(
        lambda t: np.log1p(t) + alpha * np.log1p(t / alpha) - t, math.sqrt(alpha) / 2, 4
    )
    rng = np.random.default_rng(few)
    left, right = (np.linalg.qr(rng.normal(size=(size, 5)))[0] for size in (few, many))
    for times, rank in ((np.linspace(1.5, 4, 5), 5), (np.linspace(0.3, 0.6, 5), 0)):
        part = left * np.sqrt(times * tau * many) @ right.T
        assert evbmf(part + rng.normal(size=(few, many)), variance=variance).rank == rank


def test_rank_of_low_rank_with_noise():
    for seed in range(30):
        found = evbmf(noisy(seed))
        assert found.rank == 4
        assert found.variance == pytest.approx(1, rel=0.15)


def test_no_noise():
    assert evbmf(noisy(0, noise=0.0)).rank == 4


def test_scale_and_rotation_change_nothing():
    matrix = noisy(1)
    turned = np.linalg.qr(np.random.default_rng(2).normal(size=(30, 30)))[0] @ matrix
    for other in (turned, matrix * 1e-12, matrix * 1e12):
        assert evbmf(other).rank == evbmf(matrix).rank
        assert evbmf(other).knowledge_gain == pytest.approx(evbmf(matrix).knowledge_gain)
        assert stable_rank(other) == pytest.approx(stable_rank(matrix))
        assert effective_rank(other) == pytest.approx(effective_rank(matrix))


def test_layers():
    weight = noisy(3, 16, 8 * 9, 2).reshape(16, 8, 3, 3)
    state = {
        "a.weight": weight,
        "a.bias": weight[0, 0, 0],
        "b.weight": noisy(4),
        "bn.weight": [1.0],
    }
    conv, linear = layer_metrics(state)
    assert (conv.layer, linear.layer) == ("a", "b")
    assert (conv.rank_out, conv.rank_ratio_out) == (2, 2 / 16)
    assert (linear.rank_in, linear.rank_out) == (4, 4)
    for found, matrix in ((conv, weight.reshape(16, -1)), (linear, noisy(4))):
        assert found.stable_rank == pytest.approx(stable_rank(matrix))
        assert found.effective_rank == pytest.approx(effective_rank(matrix))
    by_in = evbmf(weight.transpose(1, 0, 2, 3).reshape(8, -1))
    s = by_in.singular_values
    out = evbmf(weight.reshape(16, -1)).singular_values
    expected = ((s / s[:1]).sum() / 8 + (out / out[0]).sum() / 16) / 2
    assert conv.knowledge_gain == pytest.approx(expected) == knowledge_gain(weight)
    assert linear.rank_ratio_in == 4 / 70


def test_refusals():
    for bad in (np.zeros(3), np.zeros((0, 2)), np.array([[np.nan]])):
        with pytest.raises(ValueError, match="matrix must be"):
            evbmf(bad)
    with pytest.raises(ValueError, match="variance must be"):
        evbmf(np.eye(2), variance=0)
    with pytest.raises(ValueError, match="weight must be"):
        knowledge_gain(np.zeros(3))
