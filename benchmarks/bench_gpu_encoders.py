"""ResNet50 in float16 on a GPU: our Encoder and bare ONNX Runtime against torch's CUDA graph.

    pytest benchmarks/bench_gpu_encoders.py -s        (see gpu_race.py for a dry run without a GPU)

224 px patches, random weights. Torch runs in float16, channels last; the bare session and torch have
the pixels on the GPU, our Encoder takes them from the host and brings back features.
"""

from __future__ import annotations

from gpu_race import (
    DEVICE,
    MARKS,
    _place,  # noqa: F401
    _saved,  # noqa: F401
    sized,
)
from gpu_rivals import CONVOLUTIONS, PX, file_of, graph_rivals, pixels_of, race_encoder, submitted

from histofast import encoders

pytestmark = MARKS

PATCHES = sized(8192, 24)
ROUNDS = sized(5, 1)


def test_against_torchs_graph(table, cache):
    rivals, goals = graph_rivals(sized((128, 256), (8,)))
    file = file_of(CONVOLUTIONS, cache)
    race_encoder(table, CONVOLUTIONS, file, rivals, work=PATCHES, goals=goals, rounds=ROUNDS)


def test_batches(table, cache):
    """What another batch would give our Encoder."""
    pixels = pixels_of(PATCHES)
    with encoders.load(file_of(CONVOLUTIONS, cache), device=DEVICE) as encoder:
        usual = encoder.preferred_batch
        others = sized((64, 256, 512), (8, 16))
        table.race(
            f"{CONVOLUTIONS} float16, {PX} px, Encoder, batch {usual}",
            submitted(encoder, pixels, usual),
            {f"batch {batch}": submitted(encoder, pixels, batch) for batch in others},
            goals={},
            work=PATCHES,
            unit="patches/s",
            rounds=sized(3, 1),
        )
