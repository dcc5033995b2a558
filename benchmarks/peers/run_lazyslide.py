"""One slide by LazySlide, as its documentation shows; told in JSON on the last line. See race.py."""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

began = time.perf_counter()
import lazyslide as zs
import timm
import torch
from wsidata import open_wsi

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def main() -> None:
    job = json.loads(sys.argv[1])
    torch.set_num_threads(job["threads"])
    network = timm.create_model(job["network"], num_classes=0)
    network.load_state_dict(torch.load(job["weights"]))
    network.eval()
    if job["fast"]:
        network = network.to(memory_format=torch.channels_last)

    def encode(batch: torch.Tensor) -> torch.Tensor:
        return network(
            batch.contiguous(memory_format=torch.channels_last) if job["fast"] else batch
        )

    def prepare(image: np.ndarray) -> torch.Tensor:
        x = torch.as_tensor(image).permute(2, 0, 1).float() / 255
        return (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]

    ready = time.perf_counter()
    wsi = open_wsi(job["slide"])
    zs.pp.find_tissues(wsi)
    zs.pp.tile_tissues(wsi, job["patch_px"], mpp=job["mpp"])
    tissue_s = time.perf_counter() - ready
    zs.tl.feature_extraction(
        wsi, encode, model_name="raced", transform=prepare, device="cpu", pbar=False
    )
    wsi.write(Path(job["out"]) / "slide.zarr")
    seconds = time.perf_counter() - ready
    boxes = wsi.shapes["tiles"].geometry.bounds.to_numpy()
    features = np.asarray(wsi.tables["raced_tiles"].X)
    np.savez(job["result"], boxes=boxes, features=features)
    told = {"version": version("lazyslide"), "patches": len(boxes), "seconds": seconds}
    print(json.dumps(told | {"tissue_s": tissue_s, "loading_s": ready - began}))


if __name__ == "__main__":
    main()
