"""One slide by slide2vec, with an encoder registered as its documentation shows; told in JSON on the last line. See race.py."""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

began = time.perf_counter()
import timm
import torch
from hs2p import TilingConfig
from slide2vec import (
    ExecutionOptions,
    Model,
    Pipeline,
    PreprocessingConfig,
    TorchTileEncoder,
    register_encoder,
)

DIMS = {"resnet18": 512, "densenet121": 1024}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def main() -> None:
    job = json.loads(sys.argv[1])
    torch.set_num_threads(job["threads"])
    px, mpp = job["patch_px"], job["mpp"]

    @register_encoder(
        "raced",
        encode_dim=DIMS[job["network"]],
        input_size=px,
        supports_variable_input_size=True,
        supported_spacing_um=mpp,
        precision="fp32",
        source="random weights",
    )
    class Raced(TorchTileEncoder):
        def __init__(self, *, output_variant: str | None = None, **_: object) -> None:
            network = timm.create_model(job["network"], num_classes=0)
            network.load_state_dict(torch.load(job["weights"]))
            if job["fast"]:
                network = network.to(memory_format=torch.channels_last)
            super().__init__(
                network,
                encode_dim=DIMS[job["network"]],
                input_size=px,
                mean=MEAN,
                std=STD,
                output_variant=output_variant,
            )

        def encode_tiles(self, batch: torch.Tensor) -> torch.Tensor:
            if job["fast"]:
                batch = batch.contiguous(memory_format=torch.channels_last)
            return super().encode_tiles(batch)

    model = Model.from_preset("raced", device="cpu")
    tiling = TilingConfig(
        requested_spacing_um=mpp, requested_tile_size_px=px, tolerance=0.05, overlap=0.0
    )
    pipeline = Pipeline(
        model,
        PreprocessingConfig(tiling=tiling),
        execution=ExecutionOptions(
            output_dir=Path(job["out"]), precision="fp32", output_format="npz"
        ),
    )
    ready = time.perf_counter()
    pipeline.run(slides=[job["slide"]])
    seconds = time.perf_counter() - ready
    out = Path(job["out"])
    (tiles,) = (out / "tiles").glob("*.coordinates.npz")
    (encoded,) = (out / "tile_embeddings").glob("*.npz")
    features, grid = np.load(encoded), np.load(tiles)
    if not np.array_equal(features["tile_index"], grid["tile_index"]):
        sys.exit("features and coordinates are of other tiles")
    geometry = json.loads(tiles.with_suffix(".meta.json").read_text())
    side = px * mpp / geometry["slide"]["base_spacing_um"]  # level 0; what was asked for
    corners = np.stack([grid["x"], grid["y"]], axis=1)
    np.savez(
        job["result"], boxes=np.hstack([corners, corners + side]), features=features["features"]
    )
    told = {"version": version("slide2vec"), "patches": len(corners), "seconds": seconds}
    print(json.dumps(told | {"loading_s": ready - began}))


if __name__ == "__main__":
    main()
