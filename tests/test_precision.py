"""Encoders at lower precision: the rewriting is exact, the rounding small, the gate shut when not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from histofast import encoders, graphs
from histofast.encoders import runtime
from histofast.errors import ModelError
from histofast.graphs import Int8Writer, capture, stained_noise
from tiny_encoder import write_encoder

DEFAULT = encoders.find("densenet121-t2")
METADATA = encoders.EncoderMetadata(
    name="residual",
    network="residual",
    layer="last",
    d=5,
    patch_px=64,
    mpp=0.5,
    precision="float32",
    weights_sha256="random",
    provenance="tests",
    licence="Apache-2.0",
    exporter="tests",
)
overflow = sys.modules[graphs.write_quantized.__globals__["refuse_overflow"].__module__]


@pytest.fixture(scope="module")
def patches():
    """Calibration and held-out patches."""
    made = stained_noise(96, 64)
    return made[:48], made[48:]


@pytest.fixture(scope="module")
def residual(tmp_path_factory):
    """An encoder with every operation that is quantised: addition, pools, concatenation, products."""
    rng = np.random.default_rng(3)
    graph = graphs.PixelGraph(mean=(0.7, 0.5, 0.6), std=(0.2, 0.25, 0.2))

    def conv(x, inputs, outputs, *, name, stride=1, bias=True):
        weight = rng.normal(size=(outputs, inputs, 3, 3)) / np.sqrt(9 * inputs)
        terms = [x, graph.constant(weight.astype("f4"), name=f"{name}.weight")]
        if bias:
            terms.append(graph.constant(rng.normal(size=outputs).astype("f4"), name=f"{name}.bias"))
        return graph.add("Conv", terms, name=name, pads=[1] * 4, strides=[stride] * 2)

    x = graph.add("Relu", [conv(graph.standardised, 3, 8, name="conv1", stride=2)], name="relu1")
    y = conv(x, 8, 8, name="block.conv", bias=False)
    y = graph.add("Add", [x, y], name="block.add")
    x = graph.add("Relu", [y], name="block")
    x = graph.add("AveragePool", [x], name="pool", kernel_shape=[2, 2], strides=[2, 2])
    x = graph.add("Concat", [x, conv(x, 8, 8, name="branch")], name="both", axis=1)
    # A statistic of its own per channel, as behind a concatenation in DenseNet.
    values = [rng.uniform(0.5, 2, 16), rng.normal(size=16), rng.normal(size=16)]
    values.append(rng.uniform(0.01, 4, 16))
    terms = [graph.constant(v.astype("f4"), name=f"norm.{i}") for i, v in enumerate(values)]
    x = graph.add("BatchNormalization", [x, *terms], name="norm", epsilon=1e-3)
    x = graph.add("Clip", [x, graph.constant(np.float32(0), name="least")], name="clip")
    x = graph.add("MaxPool", [x], name="max", kernel_shape=[2, 2], strides=[2, 2])
    x = graph.add("Flatten", [graph.add("GlobalAveragePool", [x], name="mean")], name="flat")
    weight = rng.normal(size=(6, 16)).astype("f4")
    bias = rng.normal(size=6).astype("f4")
    terms = [graph.constant(weight, name="fc.weight"), graph.constant(bias, name="fc.bias")]
    x = graph.add("Gemm", [x, *terms], name="fc", transB=1, alpha=0.5, beta=2.0)
    weight = rng.normal(size=(6, 5)).astype("f4")
    x = graph.add("MatMul", [x, graph.constant(weight, name="last.weight")], name="last")
    path = tmp_path_factory.mktemp("residual") / "residual.onnx"
    path.write_bytes(graphs.to_bytes(graph.finish(x, metadata=METADATA)))
    return path


def run(model, pixels):
    return runtime.make_session(model.SerializeToString()).run(None, {"pixels": pixels})[0]


def optimised_ops(path, tmp_path):
    """Return the operations that ONNX Runtime really runs, by name of the node's output."""
    ort = runtime.runtime()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]


# --- Eight bits --------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["residual", "default"])
def test_the_rewriting_before_the_rounding_changes_nothing(which, residual, patches):
    path = residual if which == "residual" else DEFAULT
    model = onnx.load(path)
    writer = Int8Writer(model, patches[0])
    rewritten = writer.write(only=[])
    wanted, got = run(model, patches[1][:4]), run(rewritten, patches[1][:4])
    assert not any(node.op_type == "QuantizeLinear" for node in rewritten.graph.node)
    assert (np.linalg.norm(got - wanted, axis=1) / np.linalg.norm(wanted, axis=1)).max() < 1e-5


def test_padding_of_the_first_convolution_is_where_the_mean_colour_is(residual, rng):
    """A picture of the mean colour is zero everywhere, border included."""
    model = onnx.load(residual)
    writer = Int8Writer(model, rng.integers(0, 256, (4, 64, 64, 3), dtype=np.uint8))
    rewritten = writer.write(only=[])
    black = np.zeros((1, 9, 9, 3), np.uint8)  # the border matters most in a small dark picture
    np.testing.assert_allclose(run(rewritten, black), run(model, black), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("which", ["residual", "default"])
def test_int8_agrees_with_the_definition_of_its_operations(which, residual, patches):
    """ONNX's own reference implementation, plain NumPy, computes the same graph."""
    path = residual if which == "residual" else DEFAULT
    model = Int8Writer(onnx.load(path), patches[0]).write()
    onnx.checker.check_model(model, full_check=True)
    model = onnx.version_converter.convert_version(model, 21)  # the reference begins there
    pixels = np.ascontiguousarray(patches[1][:1, :32, :32])
    wanted = ReferenceEvaluator(model).run(None, {"pixels": pixels})[0]
    got = run(model, pixels)
    # A sum at the edge between two bytes may fall to either side.
    assert np.linalg.norm(got - wanted) < 0.02 * np.linalg.norm(wanted)


def test_int8_file(tmp_path, patches):
    calibration, held_out = patches
    out = tmp_path / "t2-int8.onnx"
    spec = graphs.write_quantized(
        "densenet121-t2",
        out=out,
        precision="int8",
        calibration=calibration,
        held_out=held_out,
    )
    original = encoders.read_spec(DEFAULT)
    assert spec.name == "densenet121-t2-int8"
    assert spec.precision == "int8"
    assert spec.made_from == original.sha256
    assert (spec.d, spec.patch_px, spec.mpp) == (512, 256, 0.5)
    assert spec.weights_sha256 == original.weights_sha256
    assert spec.size_bytes < original.size_bytes / 3
    said = json.loads(spec.agreement)
    assert said["n"] == len(held_out)
    with encoders.load(DEFAULT, device="cpu") as a, encoders.load(out, device="cpu") as b:
        found = graphs.agreement(a.encode(held_out), b.encode(held_out))
    assert said["median_cosine"] == pytest.approx(found.median_cosine, abs=1e-5)
    assert found.cka > 0.99
    ops = optimised_ops(out, tmp_path)
    assert ops.count("QLinearConv") == 59  # one of them adds a channel to the pixels
    assert not {"Conv", "BatchNormalization", "Concat", "MaxPool"} & {*ops}


def test_same_arguments_give_the_same_bytes(tmp_path, residual):
    """In another process too, whose sets have another order."""
    code = (
        "import sys; from histofast import graphs; p = graphs.stained_noise(64, 64); "
        "graphs.write_quantized(sys.argv[1], out=sys.argv[2], precision='int8', name='same', "
        "calibration=p[:32].copy(), held_out=p[32:].copy())"
    )
    made = []
    for seed in ("1", "2"):
        made.append(tmp_path / f"{seed}.onnx")
        subprocess.run(
            [sys.executable, "-c", code, residual, made[-1]],
            check=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        )
    assert made[0].read_bytes() == made[1].read_bytes()


def test_kept_layers_stay_in_float32(tmp_path, patches):
    """ONNX Runtime would round the weights of a float32 layer between rounded tensors itself."""
    out = tmp_path / "kept.onnx"
    graphs.write_quantized(
        "densenet121-t2",
        out=out,
        precision="int8",
        calibration=patches[0],
        held_out=patches[1],
        keep=["denseblock1.denselayer2", "conv0"],
    )
    ops = optimised_ops(out, tmp_path)
    assert ops.count("QLinearConv") == 59 - 4  # conv0; norm1, conv1, conv2
    assert sum(op in {"Conv", "FusedConv"} for op in ops) == 4


def test_a_layers_name_stands_for_the_layer_or_for_nothing(patches):
    """Stretched tensors are not what the float32 file has under the same name."""
    original, small = onnx.load(DEFAULT), Int8Writer(onnx.load(DEFAULT), patches[0]).write()
    names = [{o for node in model.graph.node for o in node.output} for model in (original, small)]
    shared = sorted((names[0] & names[1]) - {"features"})
    assert "transition1" not in shared  # read by a concatenation of the next block
    assert "denseblock1.denselayer1.conv1" in shared
    some = [name for name in shared if "denselayer3" in name]
    a, b = (capture(graphs.to_bytes(model), some, patches[1][:2]) for model in (original, small))
    for name in some:
        assert np.linalg.norm(a[name] - b[name]) < 0.1 * np.linalg.norm(a[name]), name


def test_sensitivity_names_each_layer_once(residual, patches):
    steps = []
    found = graphs.layer_sensitivity(
        residual,
        calibration=patches[0],
        held_out=patches[1],
        on_progress=lambda done, total: steps.append((done, total)),
    )
    names = {"conv1", "block.conv", "pool", "branch", "norm", "fc", "last"}
    assert {entry.layer for entry in found} == names
    assert [entry.loss for entry in found] == sorted((e.loss for e in found), reverse=True)
    assert all(-1e-6 < entry.loss < 0.05 for entry in found)
    assert steps == [(i, len(names)) for i in range(1, len(names) + 1)]


def test_a_damaged_layer_is_the_most_sensitive(residual, patches, tmp_path):
    model = onnx.load(residual)
    weight = next(i for i in model.graph.initializer if i.name == "branch.weight")
    values = numpy_helper.to_array(weight).copy()
    values[:, 0, 0, 0] *= 3000  # one weight takes the whole range of each channel
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    path = tmp_path / "spiky.onnx"
    onnx.save(model, path)
    found = graphs.layer_sensitivity(path, calibration=patches[0], held_out=patches[1])
    assert found[0].layer == "branch"


# --- Half precision ----------------------------------------------------------------------------


def test_float16_file(tmp_path, patches):
    out = tmp_path / "half.onnx"
    spec = graphs.write_quantized(
        "densenet121-t2", out=out, precision="float16", held_out=patches[1]
    )
    assert (spec.name, spec.precision) == ("densenet121-t2-float16", "float16")
    assert json.loads(spec.agreement)["median_cosine"] > 0.9999
    model = onnx.load(out)
    onnx.checker.check_model(model, full_check=True)
    kinds = {i.name: i.data_type for i in model.graph.initializer}
    assert kinds.pop("pixels.mean") == kinds.pop("pixels.scale") == TensorProto.FLOAT
    assert set(kinds.values()) == {TensorProto.FLOAT16}
    with encoders.load(out, device="cpu") as encoder:
        assert "float16 is for GPUs" in encoder.device_note
        assert encoder.encode(patches[1][:2]).dtype == np.float32


def loud(path, *, largest, infinite=False):
    """Write an encoder whose pixels are raised to `largest` and brought down again."""
    graph = graphs.PixelGraph(mean=(0, 0, 0), std=(1, 1, 1))

    def times(x, factor, name):
        return graph.add(
            "Mul", [x, graph.constant(np.float32(factor), name=f"{name}.by")], name=name
        )

    x = times(times(graph.standardised, largest, "raised"), 1 / largest, "lowered")
    if infinite:
        y = graph.add("Log", [times(x, 0, "nothing")], name="least")
        x = graph.add("Add", [x, graph.add("Exp", [y], name="none")], name="same")
    x = graph.add("Flatten", [graph.add("GlobalAveragePool", [x], name="pooled")], name="flat")
    metadata = replace(METADATA, name="loud", d=3)
    path.write_bytes(graphs.to_bytes(graph.finish(x, metadata=metadata)))
    return path


@pytest.mark.parametrize("largest", [1.0, 50_000.0, 55_000.0, 1e6])
def test_values_beyond_float16_are_refused(tmp_path, largest):
    """On a CPU the features of such a file would agree: it computes in float32."""
    path, out = loud(tmp_path / "loud.onnx", largest=largest), tmp_path / "half.onnx"
    white = np.full((32, 16, 16, 3), 255, np.uint8)
    white[:, :8] = np.arange(32)[:, None, None, None]
    arguments = {"out": out, "precision": "float16", "held_out": white}
    if largest * 1.25 <= 65_504:  # a quarter more for other slides
        assert graphs.write_quantized(path, **arguments).precision == "float16"
        return
    with pytest.raises(ModelError) as told:
        graphs.write_quantized(path, **arguments)
    assert str(told.value) == (
        f"{out} is not written: float16 ends at 65504, and 'raised' of loud reaches {largest:.0f} on 32 "
        "patches: keep the encoder in float32"
    )
    assert not out.exists()


def test_an_infinity_of_float32_is_one_of_float16(tmp_path, patches):
    path = loud(tmp_path / "loud.onnx", largest=1.0, infinite=True)
    found = overflow.largest_values(encoders.read_spec(path), patches[0][:2])
    assert (found["nothing"], found["least"], found["none"]) == (0, np.inf, 0)
    overflow.refuse_overflow(encoders.read_spec(path), patches[0][:2], out="x")


def test_largest_values_are_those_of_all_inner_tensors(residual, patches):
    pixels = patches[0][:3]
    found = overflow.largest_values(encoders.read_spec(residual), pixels)
    inner = [
        n.output[0] for n in onnx.load(residual).graph.node if not n.name.startswith("pixels.")
    ]
    assert list(found) == inner
    for name, values in graphs.capture(residual, inner, pixels).items():
        assert found[name] == pytest.approx(np.abs(values).max(), rel=1e-4)


def test_a_cpu_without_vnni_is_told(tmp_path, patches, residual, monkeypatch):
    out = tmp_path / "q.onnx"
    graphs.write_quantized(
        residual, out=out, precision="int8", calibration=patches[0], held_out=patches[1]
    )
    for exact in (True, False):
        monkeypatch.setattr("histofast._core.int8_is_exact", lambda exact=exact: exact)
        with encoders.load(out, device="cpu") as encoder:
            assert ("no VNNI" in encoder.device_note) is not exact


# --- The gate ----------------------------------------------------------------------------------


def test_agreement_is_what_it_says(rng):
    a = rng.normal(size=(100, 5)).astype(np.float32)
    same = graphs.agreement(a, 3 * a)
    assert (same.n, same.median_cosine) == (100, pytest.approx(1))
    assert (same.p1_cosine, same.cka) == (pytest.approx(1), pytest.approx(1))
    b = a.copy()
    b[:3] *= -1  # three of a hundred point the other way
    off = graphs.agreement(a, b)
    assert off.median_cosine == pytest.approx(1)
    assert off.p1_cosine == pytest.approx(-1)
    assert off.cka < 0.99
    assert graphs.agreement(a, np.roll(a, 1, axis=0)).cka < 0.1


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"median_cosine": 0.9899}, "median cosine 0.9899, wanted at least 0.99"),
        ({"p1_cosine": 0.9}, "1st-percentile cosine 0.9000, wanted at least 0.97"),
        ({"cka": float("nan")}, "cka nan, wanted at least 0.99"),
    ],
)
def test_shortfalls_are_named(change, text):
    good = graphs.Agreement(n=64, median_cosine=0.99, p1_cosine=0.97, cka=0.99)
    assert good.shortfalls() == []
    assert replace(good, **change).shortfalls() == [text]


def test_a_failed_gate_writes_nothing(tmp_path, patches):
    """Scales from black pictures cut off whatever tissue makes."""
    out = tmp_path / "bad.onnx"
    with pytest.raises(ModelError, match=r"bad\.onnx is not written: its features differ.*cosine"):
        graphs.write_quantized(
            "densenet121-t2",
            out=out,
            precision="int8",
            calibration=np.zeros_like(patches[0]),
            held_out=patches[1],
        )
    assert list(tmp_path.iterdir()) == []


def test_features_that_do_not_vary_are_refused(tmp_path, residual):
    black = np.zeros((32, 64, 64, 3), np.uint8)
    with pytest.raises(ModelError, match=r"residual cannot be compared on these patches: .*vary"):
        graphs.write_quantized(
            residual, out=tmp_path / "q.onnx", precision="int8", calibration=black, held_out=black
        )


# --- Bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"precision": "int4"}, ValueError, "precision must be int8 or float16, got 'int4'"),
        ({"out": "q.txt"}, ValueError, r"out must end in \.onnx, got .*q\.txt"),
        ({"out": "no/q.onnx"}, FileNotFoundError, r"no folder .*no to write q\.onnx in"),
        ({"calibration": None}, ValueError, "calibration must be given for int8 and only then"),
        ({"precision": "float16"}, ValueError, "calibration must be given for int8 and only then"),
        (
            {"precision": "float16", "calibration": None, "keep": ["conv1"]},
            ValueError,
            "keep must be empty for float16, got conv1",
        ),
        (
            {"held_out": np.zeros((31, 8, 8, 3), np.uint8)},
            ValueError,
            "held_out must be at least 32 patches, got 31",
        ),
        (
            {"calibration": np.zeros((5, 8, 8, 3), np.uint8)},
            ValueError,
            "calibration must be at least 32 patches, got 5",
        ),
        ({"held_out": np.zeros((32, 8, 8, 3))}, TypeError, "held_out must be C-contiguous uint8"),
        ({"keep": ["brunch"]}, ModelError, "got 'brunch': did you mean branch"),
        ({"encoder": "nothing.onnx"}, FileNotFoundError, r"no such encoder file: nothing\.onnx"),
    ],
)
def test_bad_arguments(tmp_path, residual, patches, change, error, message):
    arguments = {
        "encoder": residual,
        "out": "q.onnx",
        "precision": "int8",
        "calibration": patches[0],
        "held_out": patches[1],
    } | change
    arguments["out"] = tmp_path / arguments["out"]
    encoder = arguments.pop("encoder")
    with pytest.raises(error, match=message):
        graphs.write_quantized(encoder, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_kept_unless_told(tmp_path, residual, patches):
    out = tmp_path / "q.onnx"
    out.write_bytes(b"mine")
    arguments = {"precision": "float16", "held_out": patches[1]}
    with pytest.raises(FileExistsError, match="choose another name, or ask to overwrite it"):
        graphs.write_quantized(residual, out=out, **arguments)
    assert out.read_bytes() == b"mine"
    graphs.write_quantized(residual, out=out, overwrite=True, **arguments)
    with pytest.raises(ModelError, match="of precision float16: start from the float32 encoder"):
        graphs.write_quantized(out, out=tmp_path / "r.onnx", **arguments)


def test_nothing_to_quantise(tmp_path, patches):
    path = tmp_path / "mean.onnx"
    path.write_bytes(graphs.to_bytes(graphs.tiny_encoder()))
    with pytest.raises(ModelError, match="no convolution or product with constant weights"):
        graphs.write_quantized(
            path,
            out=tmp_path / "q.onnx",
            precision="int8",
            calibration=patches[0],
            held_out=patches[1],
        )


def test_an_encoder_without_convolutions_is_quantised_too(tmp_path, patches):
    """Its pixels are read by no convolution, so they stay standardised."""
    path = write_encoder(tmp_path / "tiny.onnx", d=8)
    model = onnx.load(path)
    next(p for p in model.metadata_props if p.key == "histofast.precision").value = "float32"
    onnx.save(model, path)
    spec = graphs.write_quantized(
        path,
        out=tmp_path / "q.onnx",
        precision="int8",
        calibration=patches[0],
        held_out=patches[1],
    )
    assert json.loads(spec.agreement)["median_cosine"] > 0.999


def test_constants_shared_by_layers_are_not_changed_for_both(tmp_path, patches):
    """Two convolutions of one weight, of which one takes in a BatchNorm."""
    model = onnx.load(DEFAULT)
    graph = helper.make_graph(
        [
            helper.make_node("Transpose", ["pixels"], ["planes"], perm=[0, 3, 1, 2], name="t"),
            helper.make_node("Cast", ["planes"], ["x"], to=TensorProto.FLOAT, name="c"),
            helper.make_node("Conv", ["x", "w"], ["a"], name="a"),
            helper.make_node("BatchNormalization", ["a", "s", "s", "s", "s"], ["b"], name="b"),
            helper.make_node("Conv", ["x", "w"], ["d"], name="d"),
            helper.make_node("Add", ["b", "d"], ["e"], name="e"),
            helper.make_node("GlobalAveragePool", ["e"], ["f"], name="f"),
            helper.make_node("Flatten", ["f"], ["features"], name="g"),
        ],
        "shared",
        list(model.graph.input),
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 3])],
        [
            numpy_helper.from_array(np.eye(3, dtype="f4").reshape(3, 3, 1, 1), "w"),
            numpy_helper.from_array(np.array([2, 3, 4], "f4"), "s"),
        ],
    )
    shared = helper.make_model(graph, opset_imports=model.opset_import, ir_version=8)
    rewritten = Int8Writer(shared, patches[0]).write(only=[])
    np.testing.assert_allclose(
        run(rewritten, patches[1][:2]), run(shared, patches[1][:2]), rtol=1e-5
    )
