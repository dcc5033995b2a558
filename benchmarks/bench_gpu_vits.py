"""Vision transformers in float16 on a GPU: our Encoder and bare ONNX Runtime against torch's CUDA graph.

    pytest benchmarks/bench_gpu_vits.py -s            (see gpu_race.py for a dry run without a GPU)

ViT-B/16 as Phikon and ViT-L/16 as UNI take them, at full size with random weights, 224 px; files as
`models export` and `models quantize` write them: opset 23, one `Attention` in float16 for each block,
which is checked. Needs timm.
"""

from __future__ import annotations

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

FLOAT16 = onnx.TensorProto.FLOAT16
PATCHES = sized(4096, 16)
BATCHES = sized((64, 128), (8,))


@pytest.mark.parametrize("name", VITS)
def test_against_torchs_graph(name, table, cache):
    file = file_of(name, cache)
    graph = onnx.load(file, load_external_data=False).graph
    attention = [node for node in graph.node if node.op_type == "Attention"]
    types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    assert len(attention) == len(network_of(name).model.blocks)
    assert {types[taken] for node in attention for taken in node.input} == {FLOAT16}
    rivals, goals = graph_rivals(BATCHES)
    race_encoder(table, name, file, rivals, work=PATCHES, goals=goals, rounds=sized(3, 1))
