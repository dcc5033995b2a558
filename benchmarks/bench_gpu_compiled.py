"""Encoders in float16 on a GPU against torch.compile, which takes its time to get ready: so they come last.

    pytest benchmarks/bench_gpu_compiled.py -s        (see gpu_race.py for a dry run without a GPU)

The networks of bench_gpu_encoders.py and bench_gpu_vits.py, torch in float16 and channels last.
"""

from __future__ import annotations

import pytest
from gpu_race import (
    MARKS,
    _place,  # noqa: F401
    _saved,  # noqa: F401
    sized,
)
from gpu_rivals import CONVOLUTIONS, VITS, compiled_rivals, file_of, is_vit, race_encoder

pytestmark = MARKS

PATCHES = sized(4096, 16)


@pytest.mark.parametrize("name", [CONVOLUTIONS, *VITS])
def test_against_torch_compile(name, table, cache):
    batch = sized(128 if is_vit(name) else 256, 8)
    rivals, goals = compiled_rivals(batch, frozen=(False,))
    file = file_of(name, cache)
    race_encoder(table, name, file, rivals, work=PATCHES, goals=goals, rounds=sized(3, 1))


def test_against_torch_compile_with_frozen_weights(table, cache):
    """BatchNorms folded into convolutions, as in our file."""
    rivals, goals = compiled_rivals(sized(256, 8), frozen=(True,))
    file = file_of(CONVOLUTIONS, cache)
    race_encoder(table, CONVOLUTIONS, file, rivals, work=PATCHES, goals=goals, rounds=sized(3, 1))
