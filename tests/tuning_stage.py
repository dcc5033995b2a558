"""Patches, weights, features and a run that can be fine-tuned in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import histofast
from histofast.slides import write_png

PX, BAGS, PATCHES = 32, 20, 5


def write_stage(folder: Path) -> Path:
    """Write all of it; in bags of class 1 two of five patches are striped."""
    from safetensors.torch import save_file

    from histofast import networks

    rng = np.random.default_rng(0)
    lines, labels = ["file,bag"], ["slide,label"]
    for b in range(BAGS):
        for i in range(PATCHES):
            picture = rng.integers(120, 200, (PX, PX, 3), dtype=np.uint8)
            if b % 2 and i < 2:
                picture[::4] //= 3
            write_png(folder / f"b{b:02}-{i}.png", picture)
            lines.append(f"b{b:02}-{i}.png,b{b:02}")
        labels.append(f"b{b:02},{b % 2}")
    (folder / "patches.csv").write_text("\n".join(lines) + "\n")
    (folder / "labels.csv").write_text("\n".join(labels) + "\n")
    network = networks.create("resnet18", layer="layer1", seed=3)
    save_file(network.state_dict(), folder / "w.safetensors")
    network = networks.create("resnet18", weights=folder / "w.safetensors", layer="layer1")
    networks.export(network, folder / "r18.onnx", patch_px=PX, licence="MIT of r18")
    histofast.extract(patches=folder / "patches.csv", out=folder / "f", encoder=folder / "r18.onnx")
    train_stage(folder)
    return folder


def train_stage(folder: Path, *, lr: float = 3e-3) -> None:
    """Train the run of a stage, anew where it has another learning rate."""
    from histofast import mil

    config = mil.TrainConfig(folds=2, epochs=6, lr=lr)
    given = {"out": folder / "run", "config": config, "overwrite": True}
    mil.train(folder / "f", folder / "labels.csv", **given)
