"""ResNet50 in float16 on a GPU: our Encoder and bare ONNX Runtime against torch's fastest.

    pytest benchmarks/bench_gpu_encoders.py -s        (see gpu_race.py for a dry run without a GPU)

224 px patches, random weights. All compute the same from bytes: standardising is part of it. Torch
runs in float16, channels last, once compiled and once as a CUDA graph of its own; the bare session
and torch have the pixels on the GPU, our Encoder takes them from the host and brings back features.
"""

from __future__ import annotations

from collections import deque
from copy import deepcopy

import numpy as np
import pytest
import torch
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

from histofast import encoders, graphs, networks
from histofast.encoders import runtime

pytestmark = MARKS

NAME = sized("resnet50", "resnet18")
PX, PATCHES = sized((224, 8192), (64, 24))
BATCHES = sized((128, 256), (8,))
ROUNDS = sized(5, 1)


@pytest.fixture(scope="module")
def network():
    return networks.create(NAME)


@pytest.fixture(scope="module")
def file(network, tmp_path_factory):
    """The encoder file, float16."""
    folder = tmp_path_factory.mktemp("encoders")
    networks.export(network, folder / "float32.onnx", patch_px=PX)
    path = folder / "float16.onnx"
    held_out = graphs.stained_noise(32, PX)
    spec = graphs.write_quantized(
        folder / "float32.onnx", out=path, precision="float16", held_out=held_out
    )
    print(f"\n{NAME}, float16: {spec.agreement}")
    return path


@pytest.fixture(scope="module")
def pixels():
    few = graphs.stained_noise(64, PX)
    return np.ascontiguousarray(np.tile(few, (-(-PATCHES // len(few)), 1, 1, 1))[:PATCHES])


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


def test_against_torch(network, file, pixels, table):
    with encoders.load(file, device=DEVICE) as encoder:
        print(f"\n{encoder!r} {encoder.device_note}")
        few = pixels[: BATCHES[0]]
        with torch.inference_mode():
            theirs = half_on_gpu(network)(torch.from_numpy(few).to(DEVICE)).float().cpu().numpy()
        mine = encoder.encode(few)
        assert np.linalg.norm(mine - theirs) < 2e-2 * np.linalg.norm(theirs)
        rivals, goals = {}, {}
        for batch in BATCHES:
            graph = f"torch {torch.__version__} float16, CUDA graph, batch {batch}"
            rivals |= attempted(graph, lambda b=batch: as_graph(network, pixels, b))
            goals[graph] = 1.0
            bare = f"bare ONNX Runtime, IOBinding and CUDA graph, batch {batch}"
            rivals |= attempted(bare, lambda b=batch: bound(file, pixels, b))
        batch = BATCHES[-1]
        for how, frozen in (("", False), (", frozen", True)):
            name = f"torch {torch.__version__} float16, torch.compile{how}, batch {batch}"
            rivals |= attempted(
                name, lambda frozen=frozen: compiled(network, pixels, batch, frozen=frozen)
            )
            goals[name] = 1.0
        ours = submitted(encoder, pixels, encoder.preferred_batch)
        busy_s = encoder.busy_s
        table.race(
            f"{NAME} float16, {PX} px, Encoder.submit and result, batch {encoder.preferred_batch}",
            ours,
            rivals,
            goals=goals,
            work=PATCHES,
            unit="patches/s",
            rounds=ROUNDS,
        )
        busy_s = (encoder.busy_s - busy_s) / (ROUNDS + 1)
        print(f"  the GPU was busy for {busy_s:.3f} s of each of our turns")


def test_batches(file, pixels, table):
    """What a larger batch would give our Encoder."""
    with encoders.load(file, device=DEVICE) as encoder:
        usual = encoder.preferred_batch
        others = sized((32, 64, 256, 512), (8, 16))
        table.race(
            f"{NAME} float16, Encoder, batch {usual}",
            submitted(encoder, pixels, usual),
            {f"batch {batch}": submitted(encoder, pixels, batch) for batch in others},
            goals={},
            work=PATCHES,
            unit="patches/s",
            rounds=sized(3, 1),
        )
