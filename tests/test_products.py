"""Products as integers: smoothing by its definition, transformers rounded where it costs least."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import reference_int8 as reference
from histofast import encoders, graphs
from histofast.graphs import products
from histofast.graphs.observing import Seen, observe
from histofast.slides import write_png
from slide_files import picture
from tiny_transformer import BLOCKS, OUTLIERS, PRODUCTS, PX, write_transformer


@pytest.fixture(scope="module")
def patches():
    """Calibration and held-out patches."""
    made = graphs.stained_noise(2 * graphs.MIN_PATCHES, PX)
    return made[: graphs.MIN_PATCHES], made[graphs.MIN_PATCHES :]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_transformer(tmp_path_factory.mktemp("vit") / "vit.onnx")


def run(model, pixels):
    """Patch by patch, as encoders run."""
    opened = graphs.Graph(model).opened()
    rows = [opened.run({"pixels": pixels[i : i + 1]}, ["features"]) for i in range(len(pixels))]
    return np.concatenate([features for (features,) in rows])


def of_norm(got, wanted):
    return (np.linalg.norm(got - wanted, axis=1) / np.linalg.norm(wanted, axis=1)).max()


def operators(model):
    return Counter(node.op_type for node in model.graph.node)


def run_by_runtime(model, tmp_path):
    """The operations that ONNX Runtime really runs."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(graphs.to_bytes(model), options, providers=["CPUExecutionProvider"])
    return operators(onnx.load(tmp_path / "optimised.onnx"))


# --- Smoothing ---------------------------------------------------------------------------------


def drawn(rng, *, spiky):
    """Activations of four patches, (t, c) each, and weights that read them."""
    wide = np.ones(40)
    if spiky:
        wide[[4, 30]] = 90
    drawn = [rng.normal(size=(50, 40)) * wide + 0.3 * wide for _ in range(4)]
    return drawn, rng.normal(size=(40, 30)) / wide[:, None]


def seen_in(patches):
    return Seen(
        low=np.array([x.min(axis=0) for x in patches]),
        high=np.array([x.max(axis=0) for x in patches]),
        mean=np.array([x.mean(axis=0) for x in patches]),
        square=np.array([(x**2).mean(axis=0) for x in patches]),
    )


@pytest.mark.parametrize("spiky", [True, False])
def test_smoothing_is_the_best_of_its_definition(rng, spiky):
    activations, weight = drawn(rng, spiky=spiky)
    factors, left = products.smoothing(seen_in(activations), weight)
    ones = np.ones(len(weight))
    made = [reference.factors_of(activations, weight, s) for s in reference.STRENGTHS]
    errors = [reference.expected_error(activations, weight, f) for f in [ones, *made]]
    np.testing.assert_allclose(factors, [ones, *made][int(np.argmin(errors))], rtol=1e-6)
    assert left == pytest.approx(min(errors) / errors[0], rel=1e-6)
    assert np.log(factors).mean() == pytest.approx(0, abs=1e-9)
    assert left < (0.05 if spiky else 1.001)


@pytest.mark.parametrize("spiky", [True, False])
def test_the_expected_error_is_the_error(rng, spiky):
    activations, weight = drawn(rng, spiky=spiky)
    factors, _ = products.smoothing(seen_in(activations), weight)
    for f in (np.ones(len(weight)), factors):
        found = []
        for x in activations:
            rounded = reference.rounded_rows(x / f) @ reference.rounded_columns(weight * f[:, None])
            found.append(((rounded - x @ weight) ** 2).sum(axis=1).mean())
        wanted = reference.expected_error(activations, weight, f)
        assert np.mean(found) == pytest.approx(wanted, rel=0.25)


def test_channels_that_are_never_seen_are_not_blown_up(rng):
    activations, weight = drawn(rng, spiky=True)
    for x in activations:
        x[:, 7] = 0
    factors, left = products.smoothing(seen_in(activations), weight)
    assert left < 0.1
    assert factors[7] > 0.1 * np.median(factors)


@pytest.mark.parametrize("which", ["activations", "weights"])
def test_zeros_are_left_alone(rng, which):
    activations, weight = drawn(rng, spiky=False)
    if which == "weights":
        weight[:] = 0
    else:
        activations = [np.zeros_like(x) for x in activations]
    factors, left = products.smoothing(seen_in(activations), weight)
    np.testing.assert_array_equal(factors, 1)
    assert left in (0, 1)


def test_what_is_seen_is_what_the_graph_has(path, patches):
    graph = graphs.Graph(onnx.load(path))
    pixels = patches[0][:5]
    found = observe(graph, [("0.norm1", -1), ("embed", 1)], pixels)
    values = graphs.capture(path.read_bytes(), ["0.norm1", "embed"], pixels)
    for place, axes in ((("0.norm1", -1), 1), (("embed", 1), (2, 3))):
        value, seen = values[place[0]], found[place]
        np.testing.assert_allclose(seen.low, value.min(axes), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(seen.high, value.max(axes), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(seen.mean, value.mean(axes), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(seen.square, (value**2).mean(axes), rtol=1e-4)


def test_smoothing_changes_nothing_in_float(path, patches):
    """The outliers are gone from what products read, and norms that share a bias keep theirs."""
    model = onnx.load(path)
    writer = graphs.Int8Writer(model, patches[0])
    rewritten = writer.write(only=[])
    assert "DynamicQuantizeLinear" not in operators(rewritten)
    assert of_norm(run(rewritten, patches[1]), run(onnx.load(path), patches[1])) < 1e-5
    names = [f"{i}.norm{k}" for i in range(BLOCKS) for k in (1, 2)]
    made = {output for node in rewritten.graph.node for output in node.output}
    # A name stands for what it was, or for nothing.
    assert made.isdisjoint(names)
    assert {"norm", *(f"{name}.smoothed" for name in names)} <= made
    before = graphs.capture(path.read_bytes(), names, patches[1][:4])
    smoothed = [f"{name}.smoothed" for name in names]
    after = graphs.capture(graphs.to_bytes(rewritten), smoothed, patches[1][:4])
    for name in names:
        reach, then = (
            np.abs(v).max(axis=(0, 1)) for v in (before[name], after[f"{name}.smoothed"])
        )
        others = np.delete(np.arange(len(reach)), OUTLIERS)
        assert reach[list(OUTLIERS)].min() > 8 * reach[others].max()
        assert then.max() < 4 * np.median(then)


@pytest.mark.parametrize(("spiky", "added"), [(True, ["Mul"]), (False, [])])
def test_where_no_norm_takes_the_factors_a_multiplication_does(rng, spiky, added):
    """And only where it pays."""
    activations, weight = drawn(rng, spiky=spiky)
    graph = graphs.Graph(onnx.ModelProto())
    graph.inputs = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 40])]
    graph.add("Identity", ["x"], name="act")
    graph.add("MatMul", ["act", graph.constant(weight.astype("f4"), name="w")], name="y")
    node = graph.nodes[-1]
    for output, factors in products.smooth(graph, [node], {"act": seen_in(activations)}).items():
        assert output == "y"
        products.grow(graph, node, factors)
    assert [node.op_type for node in graph.nodes] == ["Identity", *added, "MatMul"]
    found = dict(zip(graph.constants, map(graph.array, graph.constants), strict=True))
    by = found.get("act.factors", np.ones(40))
    read = found[graph.nodes[-1].input[1]]
    np.testing.assert_allclose(by[:, None] * read, weight, rtol=1e-5)
    if spiky:
        assert by[[4, 30]].max() < np.delete(by, [4, 30]).min() / 5


def test_a_norm_that_others_read_too_is_left_as_it_is(rng):
    activations, weight = drawn(rng, spiky=True)
    graph = graphs.Graph(onnx.ModelProto())
    ones = graph.constant(np.ones(40, "f4"), name="ones")
    graph.add("LayerNormalization", ["x", ones], name="norm", axis=-1)
    graph.add("MatMul", ["norm", graph.constant(weight.astype("f4"), name="w")], name="y")
    graph.add("Relu", ["norm"], name="z")
    assert list(products.smooth(graph, [graph.nodes[1]], {"norm": seen_in(activations)})) == ["y"]
    kinds = ["LayerNormalization", "Mul", "MatMul", "Relu"]
    assert [node.op_type for node in graph.nodes] == kinds
    assert list(graph.nodes[0].input) == ["x", "ones"]
    assert list(graph.nodes[-1].input) == ["norm"]


# --- Integers ----------------------------------------------------------------------------------


def test_products_and_only_they_are_integers(path, patches, tmp_path):
    writer = graphs.Int8Writer(onnx.load(path), patches[0])
    model = writer.write()
    onnx.checker.check_model(model, full_check=True)
    before, after = operators(onnx.load(path)), operators(model)
    assert after["MatMulInteger"] == PRODUCTS
    # Queries, keys and values read the same bytes.
    assert after["DynamicQuantizeLinear"] == 4 * BLOCKS
    assert after["MatMul"] == 2 * BLOCKS  # those of attention
    assert not after.keys() & {"QuantizeLinear", "DequantizeLinear", "QLinearConv"}
    for kind in ("Conv", "LayerNormalization", "Softmax", "Concat", "Relu"):
        assert before[kind] == after[kind]
    ran = run_by_runtime(model, tmp_path)
    # One kernel from float32 to float32, whether it rounds itself or finds the bytes.
    assert ran["DynamicQuantizeMatMul"] + ran["MatMulIntegerToFloat"] == PRODUCTS
    assert "MatMulInteger" not in ran
    assert ran["DynamicQuantizeMatMul"] == 3 * BLOCKS


def test_integers_agree_with_the_definition_of_their_operations(path, patches):
    model = graphs.Int8Writer(onnx.load(path), patches[0]).write()
    pixels = patches[1][:1]
    newer = onnx.version_converter.convert_version(model, 21)  # the reference begins there
    wanted = ReferenceEvaluator(newer).run(None, {"pixels": pixels})[0]
    assert of_norm(run(model, pixels), wanted) < 0.01  # at an edge a byte may fall to either side


def test_a_product_is_what_its_definition_says(rng):
    """With every attribute that a product may have."""
    weight, bias = rng.normal(size=(30, 40)), rng.normal(size=30)
    x = rng.normal(size=(50, 40)).astype("f4")
    values = {"w": weight.astype("f4"), "b": bias.astype("f4")}
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="y", alpha=0.5, beta=2.0, transB=1)
    model = helper.make_model(
        helper.make_graph(
            [node],
            "g",
            [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 40])],
            [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 30])],
            [numpy_helper.from_array(value, name) for name, value in values.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=8,
    )
    graph = graphs.Graph(model)
    assert products.is_product(graph, graph.nodes[0])
    products.round_product(graph, graph.nodes[0])
    wanted = reference.rounded_rows(x) @ reference.rounded_columns(0.5 * weight.T) + 2 * bias
    (got,) = graph.opened().run({"x": x}, ["y"])
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("attributes", "shape"), [({"transA": 1}, (50, 30)), ({}, (2, 40, 30)), ({}, (40,))]
)
def test_other_products_stay_as_they_are(attributes, shape):
    kind = "Gemm" if attributes else "MatMul"
    node = helper.make_node(kind, ["x", "w"], ["y"], name="y", **attributes)
    graph = graphs.Graph(onnx.ModelProto())
    graph.constant(np.ones(shape, "f4"), name="w")
    assert not products.is_product(graph, node)


def test_outliers_cost_little_because_of_the_smoothing(path, patches):
    wanted = run(onnx.load(path), patches[1])
    smoothed = of_norm(
        run(graphs.Int8Writer(onnx.load(path), patches[0]).write(), patches[1]), wanted
    )
    graph = graphs.Graph(onnx.load(path))
    for node in [node for node in graph.nodes if products.is_product(graph, node)]:
        products.round_product(graph, node)
    plain = of_norm(run(graph.pruned().to_model(), patches[1]), wanted)
    assert smoothed < 0.05
    assert plain > 4 * smoothed


def test_a_row_depends_on_its_patch_alone(path, patches, tmp_path):
    """Rounded by its own range: bitwise, whatever else is in the batch and however many threads."""
    out = tmp_path / "int8.onnx"
    calibration, held_out = patches
    spec = graphs.write_quantized(
        path, out=out, precision="int8", calibration=calibration, held_out=held_out
    )
    said = json.loads(spec.agreement)
    assert said["median_cosine"] > 0.999
    assert spec.exporter == "histofast int8 2"
    with (
        encoders.load(out, device="cpu", threads=2) as two,
        encoders.load(out, device="cpu", threads=1) as one,
    ):
        whole = two.encode(held_out)
        np.testing.assert_array_equal(whole[5:6], one.encode(held_out[5:6]))


def test_kept_layers_stay_in_float32(path, patches):
    writer = graphs.Int8Writer(onnx.load(path), patches[0])
    assert len(writer.layers) == PRODUCTS
    model = writer.write(keep=["1.fc1", "0.q.product"])
    assert operators(model)["MatMulInteger"] == PRODUCTS - 2
    left = {node.name for node in model.graph.node if node.op_type == "MatMul"}
    assert {"1.fc1.product", "0.q.product"} <= left


def test_operations_are_counted_as_before(path, patches):
    model = graphs.Int8Writer(onnx.load(path), patches[0]).write()
    assert graphs.total_flops(model, patch_px=PX) == graphs.total_flops(path, patch_px=PX)


# --- The stream of tokens ----------------------------------------------------------------------


def test_the_stream_is_all_that_norms_read_and_are_summed_up_from(path):
    stream = products.stream_of_tokens(graphs.Graph(onnx.load(path)))
    sums = {f"{i}.{place}" for i in range(BLOCKS) for place in ("middle", "end")}
    assert {"embed", "all", "placed", "0.out", "1.fc2", *sums} <= stream
    assert stream.isdisjoint({"0.norm1", "0.act", "0.fc1", "1.weights", "norm"})


@pytest.mark.parametrize("way", ["attribute", "input", "maps"])
def test_a_norm_in_parts_is_a_norm(way):
    """As files of before opset 17 have it; a mean over maps is none."""
    axes = [-1] if way != "maps" else [2, 3]
    graph = graphs.Graph(onnx.ModelProto())
    graph.add("Add", ["x", "y"], name="sum")
    if way == "attribute":
        graph.add("ReduceMean", ["sum"], name="mean", axes=axes)
    else:
        graph.add("ReduceMean", ["sum", graph.constant(np.array(axes), name="axes")], name="mean")
    assert products.stream_of_tokens(graph) == ({"sum"} if way != "maps" else set())


# --- The command -------------------------------------------------------------------------------


def test_the_command(cli, path, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(70):
        write_png(folder / f"p{i}.png", picture(PX, PX, seed=i))
    out = tmp_path / "int8.onnx"
    answer = cli("models", "quantize", path, "--patches", folder, "--out", out)
    assert (answer.code, answer.err) == (0, [])
    assert answer.out.startswith(f"{out}: tiny-vit-int8, 24 features, ")
    assert "median cosine 0.99" in answer.out
    assert encoders.read_spec(out).precision == "int8"
    assert operators(onnx.load(out))["MatMulInteger"] == PRODUCTS
