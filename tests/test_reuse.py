"""The gradient ratio of the first two convolutions, against differences of the loss."""

from __future__ import annotations

import numpy as np
import pytest

import reference_transferability as reference
from extras import need

torch = need("torch")

from torch import nn

from histofast.errors import ModelError
from histofast.networks import adopt, create, feature_reuse
from histofast.transferability import SCORES


def tiny(seed=0, **options):
    """Two convolutions in float64; registered the other way round than they are called."""

    class Tiny(nn.Module):
        def __init__(self):
            super().__init__()
            self.later = nn.Conv2d(3, 2, 2, bias=False)
            self.sooner = nn.Conv2d(3, 3, 3, bias=False)

        def forward(self, x):
            return torch.relu(self.later(torch.relu(self.sooner(x))))

    torch.manual_seed(seed)
    return adopt(Tiny().double().eval(), mean=(0, 0, 0), std=(1, 1, 1), name="tiny", **options)


def pictures(seed=0, n=12, px=7):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    return rng.integers(0, 256, (n, px, px, 3), np.uint8), labels


@pytest.mark.parametrize(
    ("batch_size", "batches"), [(12, 1), (5, 2)]
)  # the last two of 12 are no triplet
def test_is_its_definition(batch_size, batches):
    network, (pixels, labels) = tiny(), pictures()
    first, second = (
        layer.weight.detach().numpy() for layer in (network.model.sooner, network.model.later)
    )
    norms = []
    for rows, triplets in reference.triplet_batches(labels, batch_size, seed=7):
        for anchor, like, unlike in labels[rows][np.array(triplets)]:
            assert anchor == like != unlike
        assert all(anchor != like for anchor, like, _ in triplets)

        def loss(one, two, rows=rows, triplets=triplets):
            found = reference.two_convolutions(pixels[rows], one, two)
            return reference.triplet_loss(found, triplets, 0.5)

        norms.append(
            (
                reference.slope(lambda w, loss=loss: loss(w, second), first),
                reference.slope(lambda w, loss=loss: loss(first, w), second),
            )
        )
    assert len(norms) == batches
    of_first, of_second = np.mean(norms, axis=0)
    found = feature_reuse(network, pixels, labels, batch_size=batch_size, margin=0.5, seed=7)
    assert found == pytest.approx(of_second / of_first, rel=1e-6)


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "cbr-tiny"])
def test_leaves_a_network_as_it_was(name):
    network = create(name, seed=0)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    pixels, labels = pictures(px=100, n=6)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    found = feature_reuse(network, pixels, labels)
    assert 0 < found < np.inf
    assert found == SCORES["feature-reuse"].function(network, pixels, labels)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in network.parameters())
    assert not network.training


def test_a_second_layer_that_tells_little_is_moved_more():
    """W2 times c with features over c: the loss is the same, and so are dL/dW1 and c dL/dW2."""
    network, (pixels, labels) = tiny(), pictures()
    before = feature_reuse(network, pixels, labels)
    with torch.no_grad():
        network.model.sooner.weight *= 4
        network.model.later.weight /= 4
    assert feature_reuse(network, pixels, labels) == pytest.approx(16 * before, rel=1e-9)


def test_refused():
    network, (pixels, labels) = tiny(), pictures()
    with pytest.raises(
        TypeError, match=r"network must be of histofast\.networks\.create, got Conv2d"
    ):
        feature_reuse(nn.Conv2d(3, 3, 3), pixels, labels)
    with pytest.raises(ValueError, match="network must be in evaluation mode"):
        feature_reuse(create("resnet18", seed=0).train(), pixels, labels)
    with pytest.raises(ValueError, match="network must give features, got a head of 4 classes"):
        feature_reuse(create("resnet18", seed=0, classes=4), pixels, labels)
    with pytest.raises(TypeError, match=r"pixels must be uint8 of shape .*, got float64"):
        feature_reuse(network, pixels / 255, labels)
    with pytest.raises(ValueError, match=r"pixels must be of shape \(n, h, w, 3\), got"):
        feature_reuse(network, pixels[..., 0], labels)
    with pytest.raises(TypeError, match="labels must be an array of integer classes"):
        feature_reuse(network, pixels, labels.astype(float))
    with pytest.raises(ValueError, match="labels must be 12, one for each picture, got"):
        feature_reuse(network, pixels, labels[1:])
    with pytest.raises(ValueError, match="labels must have two of a class and one of another"):
        feature_reuse(network, pixels, 0 * labels)
    with pytest.raises(ValueError, match="labels must have two of a class and one of another"):
        feature_reuse(network, pixels[:0], labels[:0])
    with pytest.raises(ValueError, match="batch_size must be at least 3, got 2"):
        feature_reuse(network, pixels, labels, batch_size=2)
    with pytest.raises(ValueError, match="margin must be above 0, got 0"):
        feature_reuse(network, pixels, labels, margin=0)
    with torch.no_grad():
        network.model.later.weight.zero_()
    with pytest.raises(ValueError, match="network must have a gradient in its first convolution"):
        feature_reuse(network, pixels, labels)
    with pytest.raises(ModelError, match=r"cbr-tiny .*: give larger pictures"):
        feature_reuse(create("cbr-tiny", seed=0), pixels, labels)
    flat = adopt(nn.Sequential(nn.Conv2d(3, 3, 3)), mean=(0, 0, 0), std=(1, 1, 1), name="flat")
    with pytest.raises(ModelError, match="network flat must have two convolutions, got 1"):
        feature_reuse(flat.eval(), pixels, labels)
