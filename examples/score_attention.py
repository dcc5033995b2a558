"""Does a model look where the tumour is? Attention and class activation maps against labels of unseen patches.

    histofast extract --patches dense/labels.csv --encoder study/encoders/densenet121-cuts.onnx --patch-px 96 --allow-upsampling --out dense-features
    python examples/score_attention.py study/runs/densenet121-transition2/repeat-0 dense-features/.../features_densenet121-transition2 dense/labels.csv

labels.csv as for `histofast extract --patches`, with x, y and labels 0 and 1. Patches are compared within
their slide; beside it, what the model says of each patch alone, how dark the patch is, and numbers drawn at random.
With --layers a patch also has the mean of its class activation map times attention, and that of several encoders and
models with all weights drawn anew; the run's encoder must then be one that `histofast models export` wrote. Last,
how much higher each is than the others, on the same resamples, adjusted for their number after Holm.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from histofast import explain, mil, networks, report
from histofast.explain import cam
from histofast.features import FeatureFile, read_features
from histofast.patches import PatchReader, read_patch_table

Values = Iterator[tuple[str, NDArray[np.float64]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("features", type=Path)
    parser.add_argument("patches", type=Path)
    parser.add_argument("--layers", nargs="*", default=[], metavar="NAME")
    parser.add_argument("--encoder", help="of the run [found by its name]")
    parser.add_argument(
        "--random-seeds", type=int, default=5, help="encoders and models drawn anew"
    )
    options = parser.parse_args()

    run = mil.open_run(options.run)
    models = run.models()
    network = None
    if options.layers:
        network = networks.restore(options.encoder or str(run.encoder["name"]))
    found = defaultdict(list)
    labels, slides, coords = [], [], []
    rng = np.random.default_rng(0)
    with PatchReader(patches=options.patches) as reader:
        for bag in read_patch_table(options.patches):
            if bag.name in run.names:
                raise SystemExit(f"{bag.name} took part in the training")
            file = read_features(options.features / f"{bag.name}.h5")
            for name, values in said_of(run, models, file):
                found[name].append(values)
            for layer in options.layers:
                seeds = range(options.random_seeds)
                for name, values in shown_of(network, models, file, reader, layer, seeds):
                    found[name].append(values)
            pixels = reader.read(file, np.arange(len(bag)))
            found["darkness"].append(-pixels.mean((1, 2, 3), dtype=np.float64))
            found["random"].append(rng.random(len(bag)))
            labels.append(np.array([int(label) for label in bag.labels]))
            slides.append(np.full(len(bag), bag.name))
            coords.append(bag.coords)
    tell(
        {name: np.concatenate(values, axis=-1) for name, values in found.items()},
        np.concatenate(labels),
        slides=np.concatenate(slides),
        coords_l0=np.concatenate(coords),
    )


def tell(
    values: dict[str, NDArray[np.float64]], labels: NDArray[np.int64], **sample: NDArray[np.generic]
) -> None:
    """Say how well each source finds the labelled patches, and how much better than others; (draws, n) are nulls."""
    single = {name: each for name, each in values.items() if each.ndim == 1}
    for name, each in single.items():
        score = explain.score(each, labels, **sample)
        print(
            f"{name}: AUROC {score.auroc:.3f} ({score.low:.3f} to {score.high:.3f}), {score.n} patches of "
            f"{len(np.unique(sample['slides']))} slides, {score.units} {score.unit} resampled"
        )
    for name, draws in ((n, each) for n, each in values.items() if each.ndim == 2):
        aurocs = [explain.score(each, labels, **sample, resamples=1).auroc for each in draws]
        told = ", ".join(f"{auroc:.3f}" for auroc in aurocs)
        print(f"{name}: AUROC {told} of {len(aurocs)} draws")
    names = [name for name in values if name not in ("darkness", "random")]
    shown = [name for name in names if name in single]
    pairs = [
        (one, other)
        for k, one in enumerate(shown)
        for other in (*shown[k + 1 :], cam.null_of(one), "darkness", "random")
        if other in values
    ]
    for (one, other), each in explain.score_differences(
        values, labels, pairs=pairs, **sample
    ).items():
        print(f"{one} less {other}: {report.after_holm(each)}: {report.finding_of(each)}")


def said_of(run: mil.Run, models: Sequence[mil.BagModel], file: FeatureFile) -> Values:
    """What models look at, and what they say of each patch alone."""
    yield "attention", np.asarray(mil.attention_of(run, file.features), np.float64)
    with torch.inference_mode():
        outputs = [model(torch.from_numpy(file.features)).patch_outputs for model in models]
    positive = np.mean([out.softmax(1)[:, 1].numpy() for out in outputs], axis=0)
    yield "output of the patch alone", np.asarray(positive, np.float64)


def shown_of(
    network: torch.nn.Module,
    models: Sequence[mil.BagModel],
    file: FeatureFile,
    reader: PatchReader,
    layer: str,
    seeds: Sequence[int],
) -> Values:
    """Means of the maps of each patch, times attention, and (draws, n) of their null."""
    asked = {"read": partial(reader.read, file), "number": 1, "methods": list(cam.METHODS)}
    made = cam.cams_of_bag(network, models, features=file.features, layer=layer, **asked)
    drawn = list(
        cam.nulls_of_bag(network, models, n=len(file.coords), seeds=seeds, layer=layer, **asked)
    )
    for method, values in made.maps.items():
        name = f"{cam.NAMES[method]} of {layer}"
        yield name, values.mean((1, 2))
        yield cam.null_of(name), np.stack([null[method].mean((1, 2)) for null in drawn])


if __name__ == "__main__":
    main()
