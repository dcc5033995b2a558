"""Fine-tune a network on labelled patches for a few minutes, to have something to compare with.

    python examples/finetune_patches.py patches.csv --network densenet121 --weights densenet121.safetensors --out tuned.safetensors
    histofast similarity --network densenet121 --a densenet121.safetensors --b tuned.safetensors --images patches.csv --out report/

patches.csv as for `histofast extract --patches`, with two labels. Every fifth bag is held out. Plain:
Adam, cross-entropy, BatchNorms as they were, flips; no tuning of anything.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from histofast import networks
from histofast.patches import read_patch_table, stream_bag


def patches_of(bags, patch_px):
    pixels, labels = [], []
    for bag in bags:
        for batch in stream_bag(bag, patch_px=patch_px, allow_upsampling=True):
            pixels.append(batch.pixels)
        labels += [int(float(label)) for label in bag.labels]
    return np.concatenate(pixels), torch.tensor(labels)


def accuracy(network, pixels, labels):
    network.eval()
    with torch.inference_mode():
        logits = torch.cat([network(torch.from_numpy(p)) for p in np.array_split(pixels, 32)])
    balanced = [(logits.argmax(1) == labels)[labels == c].float().mean() for c in (0, 1)]
    return float(sum(balanced) / 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("patches", type=Path)
    parser.add_argument("--network", default="densenet121")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--patch-px", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--lr", type=float, default=1e-4)
    options = parser.parse_args()

    torch.manual_seed(0)
    bags = read_patch_table(options.patches)
    train_x, train_y = patches_of([b for i, b in enumerate(bags) if i % 5], options.patch_px)
    test_x, test_y = patches_of(bags[::5], options.patch_px)
    network = networks.create(options.network, weights=options.weights, classes=2)
    module = networks.PixelsIn(network)
    optimizer = torch.optim.Adam(network.parameters(), lr=options.lr)
    weight = len(train_y) / (2 * torch.bincount(train_y))
    for epoch in range(options.epochs):
        module.eval()  # BatchNorms keep their statistics; gradients flow all the same
        order = torch.randperm(len(train_y))
        losses = []
        for rows in order.split(32):
            x = train_x[rows.numpy()]
            x = np.ascontiguousarray(x[:, :: 1 - 2 * int(torch.randint(2, ()))])
            loss = F.cross_entropy(module(torch.from_numpy(x)), train_y[rows], weight=weight)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach().item())
        print(
            f"epoch {epoch + 1}: loss {np.mean(losses):.3f}, balanced accuracy on held-out bags "
            f"{accuracy(module, test_x, test_y):.3f}"
        )
    state = {k: v.contiguous() for k, v in network.state_dict().items() if "classifier" not in k}
    save_file(state, options.out)


if __name__ == "__main__":
    main()
