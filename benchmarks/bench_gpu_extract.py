"""`extract` on a GPU end to end from JPEG slides: against a plain torch pipeline, and its own parts.

    pytest benchmarks/bench_gpu_extract.py -s         (see gpu_race.py for a dry run without a GPU)

ResNet50 in float16, patches of 224 px, at the slides' own scale and at half of it. The plain
pipeline is what people write: a DataLoader whose workers ask OpenSlide for one patch after the other
and standardise it, pinned memory, autocast, channels last. It is told where tissue is, writes no
files, and its workers are running before the clock does; ours does all of its work within the time.
"""

from __future__ import annotations

import itertools
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile
import torch
from gpu_busy import enter, watched
from gpu_race import (
    DEVICE,
    MARKS,
    TINY,
    _place,  # noqa: F401
    _saved,  # noqa: F401
    attempted,
    sized,
    synchronize,
)
from gpu_rivals import CONVOLUTIONS as NAME
from gpu_rivals import PX, file_of, network_of
from PIL import Image

import histofast
from histofast import encoders
from histofast._machine import available_cpus
from histofast.patches import iter_patches, make_slide

pytestmark = MARKS

CPUS = available_cpus()
SIDE_PX = sized(32_768, 1024)
SLIDES = sized(4, 2)  # copies of one file
THEIRS = sized(8192, 24)  # patches of the plain pipeline, which would take long for all
RESIDENT = sized(8192, 24)
ROUNDS = sized(2, 1)
MPP = 0.25  # of the slides


def make_slides(folder):
    """Slides of one file, copied; half of their area is tissue."""
    paths = [folder / f"gpu-{SIDE_PX}-{i}.tif" for i in range(SLIDES)]
    if not paths[-1].exists():
        began = time.perf_counter()
        side = {"width_px": SIDE_PX, "height_px": SIDE_PX, "repeat_px": sized(8192, 1024)}
        make_slide(paths[0], **side, seed=0, tissue_fraction=0.5, mpp=MPP)
        for path in paths[1:]:
            shutil.copyfile(paths[0], path)
        print(
            f"\n{SLIDES} slides of {paths[0].stat().st_size / 1e6:.0f} MB in "
            f"{time.perf_counter() - began:.0f} s"
        )
    return paths


@pytest.fixture(scope="module")
def slides(cache):
    return make_slides(cache)


@pytest.fixture(scope="module")
def network():
    return deepcopy(network_of(NAME))


@pytest.fixture(scope="module")
def file(cache):
    return file_of(NAME, cache)


class SlidePatches(torch.utils.data.Dataset):
    """Patches by OpenSlide, standardised, as float32 (3, PX, PX)."""

    def __init__(self, path, plan, level, mean, std):
        self.path, self.level = path, level
        self.coords = plan.coords_l0.tolist()
        self.side_px = round(plan.patch_l0 / plan.level_downsample)
        self.mean, self.std = (torch.tensor(v).view(3, 1, 1) for v in (mean, std))
        self.slide = None

    def __len__(self):
        return len(self.coords)

    def __getitem__(self, i):
        if self.slide is None:  # one handle per worker
            self.slide = openslide.OpenSlide(str(self.path))
        size = (self.side_px, self.side_px)
        image = self.slide.read_region(tuple(self.coords[i]), self.level, size).convert("RGB")
        if self.side_px != PX:
            image = image.resize((PX, PX), Image.Resampling.BOX)
        x = torch.from_numpy(np.asarray(image).transpose(2, 0, 1).astype(np.float32) / 255)
        return (x - self.mean) / self.std


def plain_pipeline(network, path, plan, level):
    """A function that encodes some patches as people do, and how many those are."""
    data = SlidePatches(path, plan, level, network.mean, network.std)
    data.coords = data.coords[:THEIRS]
    loader = torch.utils.data.DataLoader(
        data,
        batch_size=sized(256, 8),
        num_workers=sized(CPUS, 1),
        pin_memory=not TINY,
        persistent_workers=True,
    )
    module = network.to(DEVICE, memory_format=torch.channels_last).eval()
    dtype = torch.bfloat16 if TINY else torch.float16
    torch.backends.cudnn.benchmark = True

    def run():
        found = []
        with torch.inference_mode(), torch.autocast(DEVICE, dtype=dtype):
            for batch in loader:
                batch = batch.to(DEVICE, non_blocking=True, memory_format=torch.channels_last)
                found.append(module(batch).float().cpu())
        return torch.cat(found)

    return run, len(data)


def tiles_under(path, plan):
    """The compressed tiles that a plan needs, and a function that decodes some of them."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        tables, width = page.jpegtables, page.tilewidth
        across = -(-page.imagewidth // width)
        first = np.floor(plan.boxes_level[:, :2] / width).astype(int)
        last = np.ceil((plan.boxes_level[:, :2] + plan.boxes_level[:, 2:]) / width).astype(int) - 1
        wanted = {
            row * across + column
            for (x0, y0), (x1, y1) in zip(first.tolist(), last.tolist(), strict=True)
            for row in range(y0, y1 + 1)
            for column in range(x0, x1 + 1)
        }
        tiles = []
        for index in sorted(wanted):
            tiff.filehandle.seek(page.dataoffsets[index])
            tiles.append(tiff.filehandle.read(page.databytecounts[index]))

    def decode(some):
        for tile in some:
            imagecodecs.jpeg8_decode(tile, tables=tables, colorspace="YCBCR", outcolorspace="RGB")

    return tiles, decode


def first_patches(slide, plan):
    batches, count = [], 0
    for batch, _ in iter_patches(slide, plan):
        batches.append(batch.copy())
        count += len(batch)
        if count >= RESIDENT:
            break
    return np.concatenate(batches)[:RESIDENT]


def seconds_of(function):
    synchronize()
    began = time.perf_counter()
    function()
    synchronize()
    return time.perf_counter() - began


@pytest.mark.parametrize("scale", [1, 2])
def test_end_to_end(scale, slides, network, file, table, tmp_path):
    mpp = MPP * scale
    what = f"extract, {NAME} float16, {PX} px, slides at {MPP} and patches at {mpp:g} um/px"
    numbers = itertools.count()
    with histofast.open_slide(slides[0]) as slide:
        tissue = histofast.find_tissue(slide)
        plan = histofast.plan_patches(slide, tissue, mpp=mpp, patch_px=PX)
        resident = first_patches(slide, plan)
    print(f"\n{what}: {len(plan)} patches in each of {len(slides)} slides")
    reports, told = [], []

    def extract():
        out = tmp_path / str(next(numbers))
        told.append([])
        report = histofast.extract(
            slides,
            out=out,
            encoder=file,
            device=DEVICE,
            mpp=mpp,
            patch_px=PX,
            on_progress=lambda p: told[-1].append((time.perf_counter(), p.patches_done)),
        )
        assert report.exit_code == 0, report
        reports.append(report)

    theirs, few = plain_pipeline(network, slides[0], plan, plan.level)
    # Its workers hand over some GB of pixels, which not every machine has as shared memory.
    pipeline = attempted("plain torch pipeline", lambda: theirs)
    encoder = encoders.load(file, device=DEVICE)

    def encode():
        encoder.encode(resident)

    def supply():
        with histofast.open_slide(slides[0]) as slide:
            for _ in iter_patches(slide, plan):
                pass

    tiles, decode = tiles_under(slides[0], plan)
    with ThreadPoolExecutor(CPUS) as pool:

        def bare():
            for _ in pool.map(decode, [tiles[i :: 8 * CPUS] for i in range(8 * CPUS)]):
                pass

        work = {
            "ours": (extract, len(plan) * len(slides)),
            "encoder": (encode, len(resident)),
            "supply": (supply, len(plan)),
            "decode": (bare, len(plan)),
        }
        if pipeline:
            work["torch"] = (theirs, few)
        seconds = {name: [] for name in work}
        with watched(dry=TINY) as watch:  # the first time warms up
            extract()
        for name, (function, _) in work.items():
            if name != "ours":
                function()
        for _, (name, (function, _)) in itertools.product(range(ROUNDS), work.items()):
            seconds[name].append(seconds_of(function))
    encoder.close()
    rate = {name: work[name][1] / float(np.median(s)) for name, s in seconds.items()}
    # From the first batch to the last: without opening the encoder and capturing its graphs.
    rate["steady"] = float(
        np.median([(p[-1][1] - p[0][1]) / max(p[-1][0] - p[0][0], 1e-9) for p in told[1:]])
    )
    print(f"  stages of one slide: {reports[-1].slides[-1].seconds}")
    print(f"  {reports[-1].about}; {watch.found}")
    enter(table, f"{what}: GPU busy, by nvidia-smi", watch.found.share)
    least = round(min(0.85, 0.9 * rate["decode"] / rate["encoder"]), 2)
    alone = "our Encoder alone, patches in memory"
    for mine, rival, name, goal in (
        ("ours", f"plain torch pipeline, OpenSlide, {CPUS} workers, autocast", "torch", 3.0),
        ("ours", alone, "encoder", least),
        ("steady", f"{alone}; ours after its first batch", "encoder", None),
        ("ours", f"bare imagecodecs on {CPUS} threads, the tiles of the patches", "decode", None),
        ("ours", f"our iter_patches on {CPUS} threads, no encoder", "supply", None),
    ):
        if name not in rate:
            continue
        table.add(
            what=what,
            ours=f"{rate[mine]:,.0f} patches/s",
            rival=rival,
            theirs=f"{rate[name]:,.0f} patches/s",
            ratio=rate[mine] / rate[name],
            goal=goal,
        )


def test_decoding_on_the_gpu(slides, table):
    """Whether nvJPEG could do what the cores beside the card do."""
    side, count = sized((256, 4096), (64, 16))
    with histofast.open_slide(slides[0]) as slide:
        middle = (SIDE_PX // 4, SIDE_PX // 4)
        region = slide.read_region(middle, 0, (side * 8, side * 8))
    squares = [
        np.ascontiguousarray(region[y : y + side, x : x + side])
        for y in range(0, side * 8, side)
        for x in range(0, side * 8, side)
    ]
    files = [
        bytes(
            imagecodecs.jpeg8_encode(
                square, level=80, colorspace="RGB", outcolorspace="YCBCR", subsampling="420"
            )
        )
        for square in squares
    ]
    files = list(itertools.islice(itertools.cycle(files), count))
    with ThreadPoolExecutor(CPUS) as pool:

        def on_cores():
            def decode(some):
                for file in some:
                    imagecodecs.jpeg8_decode(file)

            for _ in pool.map(decode, [files[i :: 8 * CPUS] for i in range(8 * CPUS)]):
                pass

        rivals = {}
        for batch in sized((64, 512), (8,)):
            rivals |= attempted(
                f"torchvision decode_jpeg on the GPU (nvJPEG), batch {batch}",
                lambda batch=batch: by_nvjpeg(files, batch),
            )
        table.race(
            f"JPEG tiles of {side} px, {CPUS} threads",
            on_cores,
            rivals,
            goals={},
            work=count,
            unit="tiles/s",
            rounds=ROUNDS,
        )


def by_nvjpeg(files, batch):
    tensors = [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in files]
    if TINY:  # torchvision beside a torch without CUDA cannot be imported

        def decode_jpeg(some, device):
            return [torch.from_numpy(imagecodecs.jpeg8_decode(s.numpy().tobytes())) for s in some]

    else:
        from torchvision.io import decode_jpeg

    def run():
        for start in range(0, len(tensors), batch):
            decode_jpeg(tensors[start : start + batch], device=DEVICE)
        synchronize()

    return run
