"""Encoders on a GPU and their rivals: networks, their float16 files, torch's fastest, bare ONNX Runtime.

    python benchmarks/gpu_rivals.py FOLDER        makes the files of all networks, which takes a while

All compute the same from bytes: standardising is part of it. A file is made once and kept in a folder.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from copy import deepcopy
from functools import cache
from pathlib import Path

import numpy as np
import torch
from gpu_race import DEVICE, TINY, attempted, sized, synchronize

from histofast import encoders, graphs, networks
from histofast.encoders import runtime

PX = sized(224, 64)
CONVOLUTIONS = sized("resnet50", "resnet18")
# As two published encoders take them, at full size with random weights: 86 and 303 M parameters.
PUBLISHED = {"ViT-B/16": "phikon", "ViT-L/16": "uni"}
SMALL = "vit_tiny_patch16_224", "depth=2,img_size=64,global_pool='token'"
VITS = tuple(PUBLISHED)


def is_vit(name):
    return name in PUBLISHED


@cache
def network_of(name):
    """The network, with random weights that are the same every time."""
    if not is_vit(name):
        return networks.create(name)
    _timm()
    entry = encoders.registry().foundation[PUBLISHED[name]]
    full = networks.foundation_name(entry)
    network = networks.create(sized(full, f"timm:{SMALL[0]}({SMALL[1]})"), seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # scales of layers begin so small that no block would count
        for key, value in network.named_parameters():
            if ".ls" in key:
                value.uniform_(0.2, 1, generator=generator)
    return network


def _timm():
    """timm beside a torch without CUDA too."""
    from timm_here import need_timm

    return need_timm()


def file_of(name, folder):
    """Return the encoder file in float16; made if it is not there."""
    stem = f"{name.replace('/', '-').lower()}-{PX}"
    path = Path(folder) / f"{stem}-float16.onnx"
    if path.exists():
        return path
    began = time.perf_counter()
    whole = Path(folder) / f"{stem}.onnx"
    networks.export(network_of(name), whole, patch_px=PX, overwrite=True)
    exported_s = time.perf_counter() - began
    spec = graphs.write_quantized(
        whole, out=path, precision="float16", held_out=graphs.stained_noise(32, PX)
    )
    print(
        f"\n{name}, float16: {spec.agreement}; exported in {exported_s:.0f} s, all in "
        f"{time.perf_counter() - began:.0f} s"
    )
    return path


@cache
def pixels_of(count):
    """(count, PX, PX, 3) uint8, 64 different ones."""
    few = graphs.stained_noise(64, PX)
    return np.ascontiguousarray(np.tile(few, (-(-count // len(few)), 1, 1, 1))[:count])


# --- Rivals ---------------------------------------------------------------------------------------


def half_on_gpu(network):
    """The network of the same pixels and features as the file, in float16, channels last."""
    dtype = torch.float32 if TINY else torch.float16
    module = networks.PixelsIn(deepcopy(network)).to(DEVICE, dtype)
    module = module.to(memory_format=torch.channels_last).eval()
    mean, std = module.mean, module.std

    def forward(pixels):
        x = pixels.permute(0, 3, 1, 2).to(dtype)  # NHWC bytes are channels last
        return module.network((x - mean) / std)

    return forward


def captured(function, example):
    """The function as a CUDA graph that reads and writes fixed memory."""
    if TINY:
        return function
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            function(example)
    torch.cuda.current_stream().wait_stream(side)
    static, graph = example.clone(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = function(static)

    def replay(batch):
        static.copy_(batch)
        graph.replay()
        return out

    return replay


def over_all(run, pixels, batch):
    """A function that runs all patches in batches of those that lie on the GPU."""
    resident = torch.from_numpy(pixels).to(DEVICE)

    def all_of_them():
        with torch.inference_mode():
            for start in range(0, len(resident) - batch + 1, batch):
                run(resident[start : start + batch])
        synchronize()

    return all_of_them


def as_graph(network, pixels, batch):
    torch.backends.cudnn.benchmark = True  # torch's own choice of the fastest convolutions
    forward = half_on_gpu(network)
    with torch.inference_mode():
        run = captured(forward, torch.from_numpy(pixels[:batch]).to(DEVICE))
    return over_all(run, pixels, batch)


def compiled(network, pixels, batch, *, frozen):
    import torch._inductor.config

    torch._inductor.config.freezing = frozen  # folds BatchNorms into the convolutions
    forward = half_on_gpu(network)
    if TINY:
        run = torch.compile(forward, backend="eager")
    else:
        run = torch.compile(forward, mode="reduce-overhead")
    return over_all(run, pixels, batch)


def bound(path, pixels, batch):
    """Bare ONNX Runtime: its session on memory of torch, graph captured."""
    provider = runtime.CPU if TINY else runtime.CUDA
    session = runtime.make_session(str(path), provider=provider, captures=not TINY)
    assert session is not None, "ONNX Runtime fell back to the CPU"
    static = torch.from_numpy(pixels[:batch].copy()).to(DEVICE)
    d = session.get_outputs()[0].shape[1]
    out = torch.empty((batch, d), dtype=torch.float32, device=DEVICE)
    binding = session.io_binding()
    shape = tuple(static.shape)
    binding.bind_input("pixels", DEVICE, 0, np.uint8, shape, static.data_ptr())
    binding.bind_output("features", DEVICE, 0, np.float32, tuple(out.shape), out.data_ptr())
    options = runtime.run_options(graph=None if TINY else 1, waits=True)

    def run(rows):
        static.copy_(rows)
        synchronize()  # its stream is not torch's
        session.run_with_iobinding(binding, options)
        return out  # which must live as long as what is bound to it

    return over_all(run, pixels, batch)


def submitted(encoder, pixels, batch):
    """All patches through `submit` and `result`, as `extract` does it."""

    def all_of_them():
        open_now = deque()
        for start in range(0, len(pixels), batch):
            if len(open_now) == encoder.in_flight:
                open_now.popleft().result()
            open_now.append(encoder.submit(pixels[start : start + batch]))
        while open_now:
            open_now.popleft().result()

    return all_of_them


def refuse_other_features(encoder, network, pixels):
    """See that the encoder's features are those of torch in float16."""
    with torch.inference_mode():
        theirs = half_on_gpu(network)(torch.from_numpy(pixels).to(DEVICE)).float().cpu().numpy()
    distance = np.linalg.norm(encoder.encode(pixels) - theirs) / np.linalg.norm(theirs)
    print(f"\n{encoder!r} {encoder.device_note}: {distance:.1e} from torch's features")
    assert distance < 2e-2


def race_encoder(table, name, file, rivals, *, work, goals, rounds):
    """Enter a race of an encoder, its features checked, against rivals that are made for it.

    Args:
        table: where rows go.
        name: of the network.
        file: the encoder.
        rivals: by name, functions of the network, the file and the pixels that give a rival.
        work: patches.
        goals: by name.
        rounds: of the race.
    """
    network, pixels = network_of(name), pixels_of(work)
    with encoders.load(file, device=DEVICE) as encoder:
        refuse_other_features(encoder, network, pixels[: sized(64, 8)])
        ready = {}
        for rival, make in rivals.items():
            ready |= attempted(rival, lambda make=make: make(network, file, pixels))
        busy_s = encoder.busy_s
        table.race(
            f"{name} float16, {PX} px, Encoder.submit and result, batch {encoder.preferred_batch}",
            submitted(encoder, pixels, encoder.preferred_batch),
            ready,
            goals=goals,
            work=work,
            unit="patches/s",
            rounds=rounds,
        )
        busy_s = (encoder.busy_s - busy_s) / (rounds + 1)
        print(f"  the GPU was busy for {busy_s:.3f} s of each of our turns")


def graph_rivals(batches):
    """Torch's CUDA graph, and bare ONNX Runtime, at some batch sizes; the goals."""
    rivals, goals = {}, {}
    for batch in batches:
        graph = f"torch {torch.__version__} float16, CUDA graph, batch {batch}"
        rivals[graph] = lambda network, _, pixels, b=batch: as_graph(network, pixels, b)
        goals[graph] = 1.0
        bare = f"bare ONNX Runtime, IOBinding and CUDA graph, batch {batch}"
        rivals[bare] = lambda _, file, pixels, b=batch: bound(file, pixels, b)
    return rivals, goals


def compiled_rivals(batch, *, frozen):
    """torch.compile, weights frozen or not; the goals."""
    rivals = {}
    for how in frozen:
        name = f"torch {torch.__version__} float16, torch.compile{', frozen' * how}, batch {batch}"
        rivals[name] = lambda network, _, pixels, how=how: compiled(
            network, pixels, batch, frozen=how
        )
    return rivals, dict.fromkeys(rivals, 1.0)


if __name__ == "__main__":
    for each in (CONVOLUTIONS, *VITS):
        file_of(each, sys.argv[1])
