"""Augmentation of batches of 272 px against torchvision v2, one core.

    pytest benchmarks/bench_augment.py -s

The same kinds of transform on both sides, drawn anew in every round: ours for a batch, theirs for each image
of it, as training wants it, and beside it for the batch at once, with one draw for all. Both interpolate
linearly.
Ours mirrors the edge and keeps the values real from transform to transform; theirs fills with black and
rounds after each. Colour: ours in optical density (hed) or in HSV, theirs ColorJitter. The goal is for the
whole chain: 3 x.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from vision import v2

from histofast.datasets import Augmentation, augment

BILINEAR = v2.InterpolationMode.BILINEAR

COUNT, PX = 16, 272
AFFINE = {"rotate_deg": 30.0, "translate": 0.1, "scale": 0.1, "shear_deg": 5.0}
AXES = np.diag([20.0, 5.0, 2.0])


def affine():
    return v2.RandomAffine(30, (0.1, 0.1), (0.9, 1.1), 5, interpolation=BILINEAR)


def flips():
    return [v2.RandomHorizontalFlip(0.5), v2.RandomVerticalFlip(0.5)]


def quarter_turns():
    """As people write them: one of four rotations that are exact."""
    return v2.RandomChoice(
        [v2.Lambda(lambda x, k=k: torch.rot90(x, k, (-2, -1)).contiguous()) for k in range(4)]
    )


def jitter():
    return v2.ColorJitter(0.05, 0.05, 0.05, 0.05)


# What is done: ours, theirs, the goal.
CASES = {
    "flips, quarter turns, affine, HED for ColorJitter": (
        Augmentation(flips=True, quarter_turns=True, hed=0.05, **AFFINE),
        lambda: [*flips(), quarter_turns(), affine(), jitter()],
        3.0,
    ),
    "flips, affine, HSV for ColorJitter": (
        Augmentation(flips=True, hsv=0.05, **AFFINE),
        lambda: [*flips(), affine(), jitter()],
        3.0,
    ),
    "flips": (Augmentation(flips=True), flips, None),
    "quarter turns": (Augmentation(quarter_turns=True), lambda: [quarter_turns()], None),
    "affine": (Augmentation(**AFFINE), lambda: [affine()], None),
    "HED for ColorJitter": (Augmentation(hed=0.05), lambda: [jitter()], None),
    "HSV for ColorJitter": (Augmentation(hsv=0.05), lambda: [jitter()], None),
    "blur": (
        Augmentation(blur_sigma=2.0),
        lambda: [v2.GaussianBlur(17, (0.01, 2.0))],
        None,
    ),
    "cutout for RandomErasing": (
        Augmentation(cutout=0.3),
        lambda: [v2.RandomErasing(1.0, (0.09, 0.09), (1.0, 1.0))],
        None,
    ),
}


@pytest.fixture(scope="module")
def pixels():
    """Smooth pictures in the colours of H&E: noise would be no slower, and is no tissue."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.uniform(0, 1, (COUNT, 3, 17, 17)).astype(np.float32))
    smooth = torch.nn.functional.interpolate(coarse, (PX, PX), mode="bicubic").clamp(0, 1)
    colours = torch.tensor([110.0, 140.0, 90.0]).view(1, 3, 1, 1)
    values = 250 - colours * smooth + torch.from_numpy(rng.normal(0, 4, smooth.shape))
    return values.clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()


@pytest.mark.parametrize("name", list(CASES))
def test_augment(name, pixels, table, benchmark):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    augmentation, transforms, goal = CASES[name]
    theirs = v2.Compose(transforms())
    planes = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    out, epoch = np.empty_like(pixels), [0]

    def ours():
        epoch[0] += 1
        keys = np.empty((COUNT, 2), np.uint64)
        keys[:, 0], keys[:, 1] = epoch[0], np.arange(COUNT)
        return augment(pixels, augmentation, keys=keys, out=out)

    def each():
        return torch.stack([theirs(image) for image in planes])

    def one_draw_for_all():
        return theirs(planes)

    # Both keep the size, the type and about the colour of what they change.
    assert ours().shape == pixels.shape
    assert each().shape == planes.shape
    assert each().dtype == torch.uint8
    assert abs(float(ours().mean()) - float(pixels.mean())) < 25
    rival = "torchvision v2, each image"
    table.race(
        f"augmentation, {PX} px: {name}",
        ours,
        {rival: each, "torchvision v2, one draw for the batch": one_draw_for_all},
        goals={} if goal is None else {rival: goal},
        work=COUNT,
        unit="images/s",
        rounds=9,
        settle_s=0.02,
    )
    benchmark.pedantic(ours, rounds=3)
