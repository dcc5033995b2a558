"""`classify` on a GPU: ResNet18 at 96 px, how busy the card is, and what would be if nothing else were done.

    pytest benchmarks/bench_gpu_classify.py -s        (see gpu_race.py for a dry run without a GPU)

`classify.train` on made-up pictures of two classes, with the recipe `ours`: pixels mapped from disk,
augmented on the CPU, steps in bfloat16. Rates are of whole epochs, looks at the validation images
included, from the second on. Beside it: bare steps on pictures that lie on the GPU, and augmentation
alone, on one thread as the loop does it and on all.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from gpu_busy import Watch, enter, profiled
from gpu_race import (
    DEVICE,
    MARKS,
    TINY,
    _place,  # noqa: F401
    _saved,  # noqa: F401
    sized,
    synchronize,
)
from PIL import Image
from torch.nn import functional

from histofast import classify, graphs
from histofast._machine import available_cpus
from histofast.datasets import augment
from histofast.networks import starts

pytestmark = MARKS

NETWORK, PX = "resnet18", sized(96, 32)
IMAGES = sized(16_384, 48)  # of each class half
EPOCHS = sized(8, 3)
RECIPE = replace(
    classify.Recipe.preset("ours"),
    epochs=EPOCHS,
    freeze="all",
    patience=None,
    batch_size=sized(64, 8),
    px=PX,
)
WHAT = f"classify, {NETWORK} at {PX} px, batches of {RECIPE.batch_size}"
BUSY = 0.8


@pytest.fixture(scope="module")
def pictures(cache):
    """A folder with two classes, in colours that differ a little."""
    folder = cache / f"pictures-{IMAGES}-{PX}"
    noise = graphs.stained_noise(sized(256, 16), PX)

    def write(i):
        path = folder / "ab"[i % 2] / f"{i:06}.png"
        shifted = np.roll(noise[i % len(noise)], i // len(noise), axis=1)  # no two are the same
        Image.fromarray(np.maximum(shifted, 20 * (i % 2)).astype(np.uint8)).save(
            path, compress_level=1
        )

    if not folder.exists():
        for name in "ab":
            (folder / name).mkdir(parents=True)
        with ThreadPoolExecutor(available_cpus()) as pool:
            list(pool.map(write, range(IMAGES)))
    return folder


@pytest.fixture(scope="module")
def decoded(tmp_path_factory):
    """Where the pixels of both runs lie."""
    return tmp_path_factory.mktemp("decoded")


def trained(pictures, out, decoded, watch):
    """Train; sample the GPU from the end of the first epoch to that of the last. Return images/s."""
    seconds = []

    def tell(progress):
        found = progress.finished
        if found is None or not found.step:
            return
        if not seconds:
            watch.begin()
        seconds.append(found.seconds)
        if len(seconds) == EPOCHS:
            watch.end()

    run = classify.train(
        pictures,
        network=NETWORK,
        out=out,
        recipe=RECIPE,
        folds=10,
        device=DEVICE,
        cache=decoded,
        on_progress=tell,
    )
    assert len(seconds) == EPOCHS
    count = len(run.fold.train)
    return count / float(np.median(seconds[1:])), count


def bare_steps():
    """Return a function of steps on pictures that lie on the GPU, standardised, and their images."""
    steps = sized(200, 2)
    network = starts.begin(NETWORK, "random", classes=2, seed=0).train().to(DEVICE)
    network = network.to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), lr=RECIPE.lr, fused=True)
    x = torch.randn(RECIPE.batch_size, 3, PX, PX, device=DEVICE)
    x = x.contiguous(memory_format=torch.channels_last)
    y = torch.arange(RECIPE.batch_size, device=DEVICE) % 2

    def run():
        for _ in range(steps):
            with torch.autocast(DEVICE, torch.bfloat16):
                logits = network(x)
            loss = functional.cross_entropy(logits.float(), y)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
        synchronize()

    return run, steps * RECIPE.batch_size


def seconds_of(function):
    function()  # warm
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def augmentation(threads):
    """Return a function that augments some batches, and their images; the loop does it on one thread."""
    batches = sized(100, 2)
    pixels = graphs.stained_noise(RECIPE.batch_size, PX)
    keys = np.arange(2 * len(pixels), dtype=np.uint64).reshape(-1, 2)

    def run():
        for _ in range(batches):
            augment(pixels, RECIPE.augmentation, keys=keys, threads=threads)

    return run, batches * len(pixels)


def test_classify(pictures, decoded, table, tmp_path):
    watch = Watch(dry=TINY)
    ours, count = trained(pictures, tmp_path / "run", decoded, watch)
    print(f"\n{WHAT}, {count:,} images in an epoch: {ours:,.0f} images/s, {watch.found}")
    rates = {}
    for name, (run, images) in (
        ("bare steps of torch in bfloat16, pictures on the GPU", bare_steps()),
        ("augmentation alone, one thread", augmentation(1)),
        (f"augmentation alone, {available_cpus()} threads", augmentation(available_cpus())),
    ):
        rates[name] = images / seconds_of(run)
        print(f"  {name}: {rates[name]:,.0f} images/s")
    limit = min(rates, key=lambda name: rates[name])
    print(f"  the lowest, and so what limits first: {limit}")
    enter(table, f"{WHAT}: GPU busy, by nvidia-smi", watch.found.share, goal=BUSY)
    for name, rate in rates.items():
        table.add(
            what=WHAT,
            ours=f"{ours:,.0f} images/s",
            rival=name,
            theirs=f"{rate:,.0f} images/s",
            ratio=ours / rate,
            goal=None,
        )


def test_what_the_gpu_does(pictures, decoded, table, tmp_path):
    """By the spans of its kernels, in a run of its own: recording costs time."""
    short = replace(RECIPE, epochs=1)

    def run():
        classify.train(
            pictures,
            network=NETWORK,
            out=tmp_path / "run",
            recipe=short,
            folds=10,
            device=DEVICE,
            cache=decoded,
        )
        synchronize()

    found = profiled(run, dry=TINY)
    print(f"\n{WHAT}: one epoch, from opening to writing", *found.lines(), sep="\n")
    enter(
        table,
        f"{WHAT}: GPU busy from the first kernel of one epoch to the last, by their spans",
        found.share_of_extent,
    )
