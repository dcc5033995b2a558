"""The patches that are fine-tuned on, and gradients in bounded memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extras import need

need("torch")

from histofast.mil import top_rows

SCORES = st.lists(st.integers(-3, 3), min_size=1, max_size=30)


@given(scores=SCORES, k=st.integers(1, 40))
def test_top_rows_are_the_highest_sorted_and_stable(scores, k):
    scores = np.array(scores, np.float32)
    rows = top_rows(scores, k=k)
    assert len(rows) == min(k, len(scores))
    assert (np.diff(rows) > 0).all()
    left = np.setdiff1d(np.arange(len(scores)), rows)
    if len(left):
        assert scores[left].max() <= scores[rows].min()
        # Of equal scores the earlier ones.
        lowest = scores[rows].min()
        assert (rows[scores[rows] == lowest] < left[scores[left] == lowest].min(initial=99)).all()


@pytest.mark.parametrize(
    ("scores", "k", "message"),
    [
        ([1.0], 0, "k must be at least 1, got 0"),
        ([[1.0]], 1, r"scores must be of shape \(n,\), got \(1, 1\)"),
        ([np.nan, 1.0], 1, "scores must be finite, got 1 that are not"),
    ],
)
def test_bad_scores(scores, k, message):
    with pytest.raises(ValueError, match=message):
        top_rows(np.array(scores), k=k)


# --- End to end --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def parts():
    torch = need("torch")
    from histofast import graphs, networks
    from histofast.mil import models

    network = networks.PixelsIn(networks.create("resnet18", layer="layer1", seed=0)).eval()
    head = models.create("attention", d=64, outputs=2, seed=0)
    pixels = torch.from_numpy(graphs.stained_noise(10, 32))
    return network, head, pixels


def gradients(network, head, pixels, chunk):
    import torch

    from histofast.mil import end_to_end

    target = torch.tensor(1)
    for module in (network, head):
        module.zero_grad()
    value, out = end_to_end.backward(
        network,
        head,
        pixels,
        lambda out: torch.nn.functional.cross_entropy(out.output[None], target[None]),
        target,
        chunk=chunk,
    )
    found = [p.grad.clone() for m in (network, head) for p in m.parameters() if p.requires_grad]
    return value, out.output.detach(), found


def test_chunks_give_the_gradients_of_one_pass(parts):
    import torch

    network, head, pixels = parts
    whole, chunked = (gradients(network, head, pixels, chunk) for chunk in (10, 3))
    torch.testing.assert_close(whole[0], chunked[0])
    torch.testing.assert_close(whole[1], chunked[1])
    for one, other in zip(whole[2], chunked[2], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)
    assert max(float(g.abs().max()) for g in whole[2]) > 0


def test_frozen_stages_get_no_gradient(parts):
    network, head, pixels = parts
    own = [p for name, p in network.named_parameters() if "layer1" not in name]
    for parameter in own:
        parameter.requires_grad_(False)
        parameter.grad = None
    try:
        _, _, found = gradients(network, head, pixels, 4)
        assert all(p.grad is None for p in own)
        assert len(found) > 0
    finally:
        for parameter in own:
            parameter.requires_grad_(True)


def test_memory_is_what_autograd_keeps(parts):
    from histofast.mil import end_to_end

    network, _, pixels = parts
    one, two = (end_to_end.saved_bytes(network, pixels[:n]) for n in (1, 2))
    assert 1.9 < two / one < 2.1
    # Input of the first convolution to output of the last: at least the maps of conv1, 64 x 16 x 16.
    assert one > 4 * 64 * 16 * 16
    assert end_to_end.chunk_of(network, pixels[:1], memory_gb=one * 5.5 / 1e9) == 5
    assert end_to_end.chunk_of(network, pixels[:1], memory_gb=0) == 1
