"""The one form of a graph: taken apart and put together again, restricted, renamed, added to."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import foreign_models
from histofast.errors import ModelError
from histofast.graphs import Graph, set_metadata

TENSOR = "/layer1/layer1.0/relu/Relu_output_0"


@pytest.fixture
def model(tmp_path) -> onnx.ModelProto:
    model = onnx.load(foreign_models.residual(tmp_path / "net.onnx"))
    set_metadata(model, {"a": "1", "b": "2"})
    return model


@pytest.fixture
def x(rng):
    return rng.normal(size=(2, 3, 32, 32)).astype(np.float32)


def run(graph: Graph, x, tensors=None):
    opened = graph.opened(tensors)
    feed = {graph.inputs[0].name: x}
    return opened.run(feed, tensors or graph.output_names)


def test_taken_apart_and_put_together_it_is_the_same(model):
    graph = Graph(model)
    assert graph.to_model().SerializeToString(deterministic=True) == model.SerializeToString(
        deterministic=True
    )
    assert graph.props == {"a": "1", "b": "2"}


def test_parts_one_after_the_other_compute_the_whole(model, x):
    graph = Graph(model)
    (wanted,) = run(graph, x)
    passed = helper.make_tensor_value_info(TENSOR, onnx.TensorProto.FLOAT, None)
    head = graph.part(inputs=graph.inputs, outputs=[passed])
    tail = graph.part(inputs=[passed], outputs=graph.outputs)
    (between,) = run(head, x)
    np.testing.assert_allclose(run(tail, between)[0], wanted, rtol=1e-5, atol=1e-6)
    assert head.constants.keys() | tail.constants.keys() == graph.constants.keys()
    assert not head.constants.keys() & tail.constants.keys()
    assert len(head.nodes) + len(tail.nodes) == len(graph.nodes)


def test_a_renamed_part_leaves_the_whole_as_it_was(model, x):
    graph = Graph(model)
    before = graph.to_model().SerializeToString(deterministic=True)
    (wanted,) = run(graph, x)
    part = graph.pruned()
    part.rename({"conv1.w": "other", TENSOR: "between", graph.nodes[0].name: "first"})
    assert "other" in part.constants
    assert "conv1.w" not in part.constants
    assert part.is_free("conv1.w")
    assert not part.is_free("between")
    np.testing.assert_array_equal(run(part, x)[0], wanted)
    assert graph.to_model().SerializeToString(deterministic=True) == before


def test_what_is_added_to_a_sibling_the_graph_lacks(model, x):
    graph = Graph(model)
    nodes, names = len(graph.nodes), graph.names()
    other = graph.sibling()
    doubled = other.add("Add", [TENSOR, TENSOR], name="doubled")
    assert other.constant(np.zeros(2), name="doubled") == "doubled.2"
    once, twice = run(other, x, [TENSOR, doubled])
    np.testing.assert_array_equal(twice, 2 * once)
    assert (len(graph.nodes), graph.names()) == (nodes, names)
    assert graph.is_free("doubled")


def test_constants_that_are_nodes_become_initialisers(model, x):
    held = model.graph.initializer[0]
    node = helper.make_node("Constant", [], [held.name], value=held)
    del model.graph.initializer[0]
    model.graph.node.insert(0, node)
    graph = Graph(model)
    (wanted,) = run(graph, x)
    graph.fold_constants_in()
    assert all(node.op_type != "Constant" for node in graph.nodes)
    np.testing.assert_array_equal(graph.array(held.name), numpy_helper.to_array(held))
    np.testing.assert_array_equal(run(graph, x)[0], wanted)


def test_a_graph_that_cannot_run_is_told_in_a_line(model, x):
    graph = Graph(model, where="net.onnx")
    graph.nodes[0].op_type = "Nothing"
    with pytest.raises(ModelError, match=r"^net\.onnx cannot be loaded by onnxruntime [^\n]*$"):
        graph.opened()
    graph.nodes[0].op_type = "Conv"
    opened = graph.opened()
    with pytest.raises(ModelError, match=r"^net\.onnx: [^\n]*$"):
        opened.run({"x": x[:, :2]}, graph.output_names)
