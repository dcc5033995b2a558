"""An epoch of training against the same steps on tensors in memory, and against torch's DataLoader.

    pytest benchmarks/bench_classify.py -s

ResNet18 on IDC at 96 px, resampled from 50. Ours is the loop of `classify.train`: decoded pixels mapped
from disk, augmented as the recipe `ours` does, the average of the weights kept. In memory nothing is
augmented or averaged. The DataLoader reads each PNG again, with transforms of torchvision v2 of the same
kinds; HISTOFAST_BENCH_IMAGES for another number of images, HISTOFAST_DATA for where IDC lies.
"""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from real_data import DATA
from torch.nn import functional

from histofast.classify import Recipe
from histofast.classify.loop import Lesson, fit
from histofast.classify.state import TrainingState
from histofast.classify.task import Goal
from histofast.datasets import decode, open_images
from histofast.networks import starts

IMAGES = int(os.environ.get("HISTOFAST_BENCH_IMAGES", "1024"))
PX, NETWORK, ROUNDS = 96, "resnet18", 3
RECIPE = replace(Recipe.preset("ours"), epochs=1, freeze="all", px=PX, metric="loss")
WHAT = f"one epoch of ResNet18, {IMAGES:,} images of IDC at {PX} px, batches of {RECIPE.batch_size}"


@pytest.fixture(scope="module")
def images():
    path = DATA / "idc_patches" / "labels.csv"
    if not path.exists():
        pytest.skip(f"needs IDC in {DATA}")
    every = open_images(path)
    return every.part(np.arange(IMAGES) * len(every) // IMAGES)


@pytest.fixture(scope="module")
def decoded(images, cache):
    return decode(images, px=PX, cache=cache / f"idc-{IMAGES}-{PX}")


def fresh():
    return starts.begin(NETWORK, "random", classes=2, seed=0)


def ours(images, decoded):
    """The loop, and a look at two images instead of an evaluation that the others lack."""
    rows = np.arange(len(decoded.rows))
    device = torch.device("cpu")
    lesson = Lesson(
        pixels=decoded.pixels,
        images=decoded.rows,
        train=rows,
        validation=rows[:2],
        test=rows[:0],
        goal=Goal.of(images, decoded.rows, RECIPE, device),
        recipe=RECIPE,
        seed=0,
        metric="loss",
        score=lambda _: {},
        device=device,
    )
    fit(lesson, TrainingState(fresh(), RECIPE), save=lambda: None)


def bare(batches):
    network = fresh().train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=RECIPE.lr, fused=True)
    for x, y in batches:
        loss = functional.cross_entropy(network(x), y)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()


def test_epoch_against_memory(table, benchmark, images, decoded):
    network = fresh()
    x = torch.from_numpy(np.array(decoded.pixels)).permute(0, 3, 1, 2).float() / 255
    x = (x - torch.tensor(network.mean).view(3, 1, 1)) / torch.tensor(network.std).view(3, 1, 1)
    y = torch.from_numpy(images.targets[decoded.rows])

    def in_memory():
        order = torch.from_numpy(np.random.default_rng(0).permutation(len(x)))
        bare((x[part], y[part]) for part in order.split(RECIPE.batch_size))

    rival = "bare loop on tensors in memory, not augmented"
    table.race(
        WHAT,
        lambda: ours(images, decoded),
        {rival: in_memory},
        goals={rival: 0.93},
        work=IMAGES,
        unit="images/s",
        rounds=ROUNDS,
    )
    benchmark.pedantic(lambda: None, rounds=1)


class Pictures(torch.utils.data.Dataset):
    """As people write it: each PNG is read when it is asked for."""

    def __init__(self, images, transform):
        self.images, self.transform = images, transform

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        with Image.open(self.images.files[i]) as picture:
            return self.transform(picture.convert("RGB")), int(self.images.targets[i])


def test_epoch_against_dataloader(table, benchmark, images, decoded):
    from vision import v2

    network = fresh()
    transform = v2.Compose(
        [
            v2.ToImage(),
            v2.Resize((PX, PX), antialias=True),
            v2.RandomHorizontalFlip(0.5),
            v2.RandomVerticalFlip(0.5),
            v2.RandomChoice(
                [v2.RandomRotation((90 * turns, 90 * turns)) for turns in range(4)],
            ),
            v2.ColorJitter(0.05, 0.05, 0.05, 0.05),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(network.mean, network.std),
        ]
    )
    loader = torch.utils.data.DataLoader(
        Pictures(images, transform),
        batch_size=RECIPE.batch_size,
        shuffle=True,
        num_workers=2,
        persistent_workers=True,
    )
    rival = "torch DataLoader, 2 workers, PNG, torchvision v2"
    table.race(
        WHAT,
        lambda: ours(images, decoded),
        {rival: lambda: bare(loader)},
        goals={rival: 1.3},
        work=IMAGES,
        unit="images/s",
        rounds=ROUNDS,
    )
    benchmark.pedantic(lambda: None, rounds=1)
