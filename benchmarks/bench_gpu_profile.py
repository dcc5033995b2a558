"""What the GPU's time goes to: encoders, training steps of none; kernels by their share, gaps and copies.

    pytest benchmarks/bench_gpu_profile.py -s         (see gpu_race.py for a dry run without a GPU)

Every kernel of the process is recorded, ONNX Runtime's too; which attention runs is read off their names.
Where Nsight Systems is at hand `gpu.sh profile` records its timeline as well.
"""

from __future__ import annotations

import pytest
from gpu_busy import enter, profiled, watched
from gpu_race import (
    DEVICE,
    MARKS,
    TINY,
    _place,  # noqa: F401
    _saved,  # noqa: F401
    sized,
)
from gpu_rivals import CONVOLUTIONS, VITS, file_of, pixels_of, submitted

from histofast import encoders

pytestmark = MARKS

PATCHES = sized(2048, 16)
ATTENTION = ("flash", "fmha", "attention", "sdpa")  # parts of names of kernels


@pytest.mark.parametrize("name", [CONVOLUTIONS, VITS[0]])
def test_encoder(name, table, cache):
    pixels = pixels_of(PATCHES)
    with encoders.load(file_of(name, cache), device=DEVICE) as encoder:
        run = submitted(encoder, pixels, encoder.preferred_batch)
        run()
        with watched(dry=TINY) as watch:
            for _ in range(sized(5, 2)):
                run()
        found = profiled(run, dry=TINY)
    print(f"\n{name} float16, {PATCHES} patches: {watch.found}", *found.lines(), sep="\n")
    kernels = [k for k in found.by_name if any(part in k.lower() for part in ATTENTION)]
    print(f"  attention by: {', '.join(k[:80] for k in kernels) or 'no kernel of that name'}")
    enter(
        table,
        f"{name} float16, Encoder.submit and result: GPU busy, by spans of kernels",
        found.share,
    )
