"""Ranks of weights: hand values, the definition in reference.py, and invariances."""

from __future__ import annotations

import numpy as np
import pytest

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


@pytest.mark.parametrize("shape", [(30, 70), (70, 30), (40, 40)])
def test_evbmf_is_its_definition(shape):
    for seed in range(4):
        matrix = noisy(seed, *shape)
        found = evbmf(matrix)
        values, variance = reference.evbmf(matrix)
        assert found.variance == pytest.approx(variance, rel=1e-3)
        np.testing.assert_allclose(found.singular_values, values, rtol=1e-3)


def test_rank_of_low_rank_with_noise_and_of_noise():
    for seed in range(30):
        found = evbmf(noisy(seed))
        assert found.rank == 4
        assert found.variance == pytest.approx(1, rel=0.15)
        assert evbmf(noisy(seed, rank=0)).rank == 0


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
    assert conv.rank_ratio_out == 2 / 16
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
