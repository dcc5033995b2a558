"""One slide by TRIDENT, with an encoder of one's own as its second tutorial shows; told in JSON on the last line. See race.py."""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

began = time.perf_counter()
import h5py
import timm
import torch
from torchvision import transforms
from trident.patch_encoder_models import CustomInferenceEncoder
from trident.Processor import Processor
from trident.segmentation_models import segmentation_model_factory

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BATCH_PATCHES = 32  # the tutorial's


class ChannelsLast(torch.nn.Module):
    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.network(batch.contiguous(memory_format=torch.channels_last))


def encoder_of(job: dict) -> CustomInferenceEncoder:
    network = timm.create_model(job["network"], num_classes=0)
    network.load_state_dict(torch.load(job["weights"]))
    network.eval()
    return CustomInferenceEncoder(
        enc_name="raced",
        model=ChannelsLast(network) if job["fast"] else network,
        transforms=transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)]),
        precision=torch.float32,
    )


def main() -> None:
    job = json.loads(sys.argv[1])
    torch.set_num_threads(job["threads"])
    encoder = encoder_of(job)
    ready = time.perf_counter()
    slide = Path(job["slide"])
    processor = Processor(
        job_dir=job["out"], wsi_source=str(slide.parent), selected_wsi_paths=[str(slide)]
    )
    otsu = segmentation_model_factory("otsu")  # the others want weights from a hub
    processor.run_segmentation_job(otsu, seg_mag=otsu.target_mag, device="cpu")
    grid = processor.run_patching_job(
        target_magnification=round(10 / job["mpp"]),  # its scale: 20 x is 0.5 um/px
        patch_size=job["patch_px"],
        visualize=not job["fast"],
    )
    tissue_s = time.perf_counter() - ready
    processor.run_patch_feature_extraction_job(
        coords_dir=grid, patch_encoder=encoder, device="cpu", batch_limit=BATCH_PATCHES
    )
    seconds = time.perf_counter() - ready
    (written,) = Path(job["out"]).glob("*/features_raced/*.h5")
    with h5py.File(written) as file:
        corners, features = file["coords"][:], file["features"][:]
        side = int(file["coords"].attrs["patch_size_level0"])
    np.savez(job["result"], boxes=np.hstack([corners, corners + side]), features=features)
    told = {"version": version("trident"), "patches": len(corners), "seconds": seconds}
    print(json.dumps(told | {"tissue_s": tissue_s, "loading_s": ready - began}))


if __name__ == "__main__":
    main()
