"""Does attention find the tumour? Attention of a run's models against labels of patches it has never seen.

    histofast extract --patches dense/labels.csv --encoder study/encoders/densenet121-cuts.onnx --patch-px 96 --allow-upsampling --out dense-features
    python examples/score_attention.py study/runs/densenet121-transition2/repeat-0 dense-features/.../features_densenet121-transition2 dense/labels.csv

labels.csv as for `histofast extract --patches`, with x, y and labels 0 and 1. Patches are compared within
their slide; beside it, what the model says of each patch alone, and how dark the patch is.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from histofast import explain, mil
from histofast.features import read_features
from histofast.patches import read_patch_table
from histofast.slides import read_image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("features", type=Path)
    parser.add_argument("patches", type=Path)
    options = parser.parse_args()

    run = mil.open_run(options.run)
    models = run.models()
    found = {"attention": [], "output of the patch alone": [], "darkness": []}
    labels, slides, coords = [], [], []
    for bag in read_patch_table(options.patches):
        if bag.name in run.names:
            raise SystemExit(f"{bag.name} took part in the training")
        features = read_features(options.features / f"{bag.name}.h5").features
        with torch.inference_mode():
            outputs = [model(torch.from_numpy(features)).patch_outputs for model in models]
        positive = np.mean([out.softmax(1)[:, 1].numpy() for out in outputs], axis=0)
        attention = mil.attention_of(run, features)
        darkness = np.array([-read_image(file).mean() for file in bag.files])
        for name, values in zip(found, (attention, positive, darkness), strict=True):
            found[name].append(np.asarray(values, np.float64))
        labels.append(np.array([int(label) for label in bag.labels]))
        slides.append(np.full(len(bag), bag.name))
        coords.append(bag.coords)
    for name, values in found.items():
        score = explain.score(
            np.concatenate(values),
            np.concatenate(labels),
            slides=np.concatenate(slides),
            coords_l0=np.concatenate(coords),
        )
        print(
            f"{name}: AUROC {score.auroc:.3f} ({score.low:.3f} to {score.high:.3f}), "
            f"{len(np.concatenate(labels))} patches of {len(labels)} slides, "
            f"{score.units} {score.unit} resampled"
        )


if __name__ == "__main__":
    main()
