"""Feature files and labels that a model of bags can learn in a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from histofast.features import FeatureWriter

UNI = {"name": "uni", "sha256": "ab" * 32}
D = 8


def write_features(path: Path, features, *, encoder=UNI, options=None, **attributes) -> None:
    """Write a feature file of ours; patches lie in a row."""
    n, d = features.shape
    coords = np.stack([256 * np.arange(n), np.zeros(n, int)], axis=1)
    with FeatureWriter(
        path,
        coords=coords,
        d=d,
        identity={} if encoder is None else {"encoder": encoder, **(options or {})},
        attributes={"patch_size": 256, "patch_size_level0": 256, **attributes},
        dtype=features.dtype.name,
    ) as writer:
        writer.append(features)
        writer.finish()


def write_toy(
    folder: Path,
    *,
    b=24,
    task="classification",
    splits=None,
    signal=4.0,
    dtype="float32",
    least=4,
    options=None,
) -> tuple[Path, Path]:
    """Write features of `b` slides of 4 to 12 patches, and a table of labels.

    Feature 0 of all patches of a slide is raised by `signal` times what the label follows from.
    """
    rng = np.random.default_rng(0)
    (folder / "features").mkdir(parents=True)
    lines = {
        "classification": ["slide,label,patient"],
        "regression": ["slide,label,patient"],
        "survival": ["slide,time,event,patient"],
    }[task]
    if splits is not None:
        lines[0] += ",split"
    for i in range(b):
        known = i % 2 if task == "classification" else i / b
        features = rng.normal(size=(int(rng.integers(least, 13)), D))
        features[:, 0] += signal * known
        path = folder / "features" / f"s{i:02}.h5"
        write_features(path, features.astype(dtype), options=options)
        cells = {
            "classification": "no" if known == 0 else "yes",
            "regression": f"{100 + 30 * known:.3f}",
            "survival": f"{10 - 9 * known:.3f},{int(i % 4 > 0)}",
        }[task]
        lines.append(f"s{i:02},{cells},p{i:02}" + (f",{splits[i]}" if splits is not None else ""))
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder / "features", folder / "labels.csv"
