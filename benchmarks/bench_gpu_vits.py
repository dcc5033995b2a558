"""Vision transformers in float16 on a GPU: our Encoder and bare ONNX Runtime against torch's CUDA graph.

    pytest benchmarks/bench_gpu_vits.py -s            (see gpu_race.py for a dry run without a GPU)

ViT-B/16 as Phikon and ViT-L/16 as UNI take them, at full size with random weights, 224 px; files as
`models export` and `models quantize` write them: opset 23, one `Attention` for each block. Needs timm.
"""

from __future__ import annotations

from collections import Counter

import onnx
import pytest
from gpu_race import (
    MARKS,
    _place,  # noqa: F401
    _saved,  # noqa: F401
    sized,
)
from gpu_rivals import VITS, file_of, graph_rivals, network_of, race_encoder

pytestmark = MARKS

PATCHES = sized(4096, 16)
BATCHES = sized((64, 128), (8,))


@pytest.mark.parametrize("name", VITS)
def test_against_torchs_graph(name, table, cache):
    file = file_of(name, cache)
    model = onnx.load(file, load_external_data=False)
    found = Counter(node.op_type for node in model.graph.node)
    blocks = len(network_of(name).model.blocks)
    print(f"\n{name}: opset {model.opset_import[0].version}, {found['Attention']} Attention")
    assert found["Attention"] == blocks
    rivals, goals = graph_rivals(BATCHES)
    race_encoder(table, name, file, rivals, work=PATCHES, goals=goals, rounds=sized(3, 1))
