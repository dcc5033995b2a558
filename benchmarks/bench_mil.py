"""Training on bags, against the same loop in memory and torchmil's Trainer; fine-tuning against a bare step.

    pytest benchmarks/bench_mil.py -s                           # torchmil's row where it can be imported
    peers/arrays/bin/python -m pytest benchmarks/bench_mil.py -s        # as in peers/README.md

500 bags of 5,000 x 512 float32, 5 GB in the benchmark cache; HISTOFAST_BENCH_BAGS for fewer.
"""

from __future__ import annotations

import csv
import os
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

from histofast import networks
from histofast.features import FeatureWriter
from histofast.learning import Fold
from histofast.mil import TrainConfig, TrainProgress, backward, create, fold_training, open_bags

BAGS = int(os.environ.get("HISTOFAST_BENCH_BAGS", "500"))
N, D = 5000, 512
ROUNDS = 2


@pytest.fixture(scope="module")
def bags(cache):
    folder = cache / f"bags-{BAGS}x{N}x{D}"
    if not (folder / "labels.csv").exists():
        (folder / "f").mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(0)
        coords = np.zeros((N, 2), np.int64)
        for i in range(BAGS):
            with FeatureWriter(
                folder / "f" / f"s{i:03}.h5", coords=coords, d=D, identity={}, attributes={}
            ) as writer:
                writer.append(rng.random((N, D), np.float32))
                writer.finish()
        with (folder / "labels.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["slide", "label"])
            rows.writerows([f"s{i:03}", i % 2] for i in range(BAGS))
    return open_bags(folder / "f", folder / "labels.csv")


@pytest.fixture(scope="module")
def in_memory(bags):
    return [torch.from_numpy(np.array(bags.read(i))) for i in range(len(bags))]


def fresh():
    model = create("attention", d=D, outputs=2)
    return model, torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)


def epoch_from_disk(bags):
    """The epoch that `train` runs, and nothing else of it; return its mean loss."""
    rows = np.arange(len(bags))
    run = SimpleNamespace(
        path=Path(),
        model="attention",
        task="classification",
        classes=bags.classes,
        d=D,
        config=TrainConfig(),
        metric="loss",
        folds=(Fold(train=rows, validation=rows[:0], test=rows[:0]),),
        init=None,
    )
    now = TrainProgress(
        fold=0, folds=1, epoch=1, epochs=1, bags_done=0, bags_total=len(bags), metric="loss"
    )
    return fold_training._Training(run, bags, 0, torch.device("cpu"), (), None, None)._train(now)


def epoch_in_memory(bags, tensors):
    model, optimizer = fresh()
    model.train()
    targets = torch.from_numpy(bags.targets)
    for i in np.random.default_rng(0).permutation(len(tensors)).tolist():
        optimizer.zero_grad(set_to_none=True)
        functional.cross_entropy(model(tensors[i]).output[None], targets[i][None]).backward()
        optimizer.step()


def test_epoch_from_disk(table, benchmark, bags, in_memory):
    table.race(
        f"one epoch over {BAGS} bags of {N} x {D} from disk",
        lambda: epoch_from_disk(bags),
        {"the same loop on tensors in memory": lambda: epoch_in_memory(bags, in_memory)},
        goals={"the same loop on tensors in memory": 0.8},
        work=BAGS,
        unit="bags/s",
        rounds=ROUNDS,
    )
    benchmark.pedantic(lambda: None, rounds=1)


def test_epoch_against_torchmil(table, benchmark, bags):
    models = pytest.importorskip("torchmil.models")
    from torchmil.data import collate_fn
    from torchmil.utils import Trainer

    rival = f"torchmil {version('torchmil')} Trainer, ABMIL, its collate_fn"

    class Dataset(torch.utils.data.Dataset):
        def __len__(self):
            return len(bags)

        def __getitem__(self, i):
            return {
                "X": torch.from_numpy(np.array(bags.read(i))),
                "Y": torch.tensor(float(bags.targets[i])),
            }

    def theirs():
        body = torch.nn.Sequential(
            torch.nn.Linear(D, 256), torch.nn.ReLU(), torch.nn.Linear(256, 64), torch.nn.ReLU()
        )
        model = models.ABMIL(in_shape=(D,), att_dim=32, feat_ext=body)
        trainer = Trainer(
            model=model,
            optimizer=torch.optim.AdamW(model.parameters(), lr=1e-3),
            device="cpu",
            verbose=False,
            disable_pbar=True,
        )
        loader = torch.utils.data.DataLoader(
            Dataset(), batch_size=1, shuffle=True, collate_fn=collate_fn
        )
        # Without validation bags it validates on all those that it trains on; ours does not validate here.
        one = torch.utils.data.Subset(loader.dataset, [0])
        trainer.train(
            train_dataloader=loader,
            val_dataloader=torch.utils.data.DataLoader(one, collate_fn=collate_fn),
            max_epochs=1,
        )

    table.race(
        f"one epoch over {BAGS} bags of {N} x {D} from disk, 256-64, tanh 32",
        lambda: epoch_from_disk(bags),
        {rival: theirs},
        goals={rival: 2.0},
        work=BAGS,
        unit="bags/s",
        rounds=ROUNDS,
    )
    benchmark.pedantic(lambda: None, rounds=1)


@pytest.mark.parametrize("chunk", [32, 8])
def test_fine_tuning_step(table, benchmark, chunk):
    """A slide of 32 patches; with `chunk` below that its memory is a quarter."""
    pixels = torch.randint(0, 256, (32, 96, 96, 3), dtype=torch.uint8)
    network = networks.PixelsIn(networks.create("resnet18")).eval()
    head = create("attention", d=512, outputs=2).train()
    optimizer = torch.optim.AdamW([*network.parameters(), *head.parameters()], lr=1e-5)
    target = torch.tensor(1)

    def loss(out):
        return functional.cross_entropy(out.output[None], target[None])

    def ours():
        optimizer.zero_grad(set_to_none=True)
        backward(network, head, pixels, loss, target, chunk=chunk)
        optimizer.step()

    def bare():
        optimizer.zero_grad(set_to_none=True)
        loss(head(network(pixels))).backward()
        optimizer.step()

    table.race(
        f"fine-tuning step, ResNet18, 32 patches of 96 px, {chunk} with a graph at a time",
        ours,
        {"a bare torch step, all at once": bare},
        goals={"a bare torch step, all at once": 0.9} if chunk == 32 else {},
        work=32,
        unit="patches/s",
        rounds=9,
    )
    benchmark.pedantic(lambda: None, rounds=1)
