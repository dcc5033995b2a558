"""Cutting graphs: where, that the parts are the whole, how much each part computes."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import foreign_models
from extras import need
from histofast import encoders, graphs
from histofast.errors import ModelError
from histofast.graphs import capture, cutting

LAYERS = ["conv1", "relu", "layer1.0.Add", "layer1.0.relu", "layer2.conv1", "layer2.relu"]


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    path = tmp_path_factory.mktemp("net") / "net.onnx"
    return foreign_models.residual(path, sides=(32, 32))


@pytest.fixture(scope="module")
def wrapped(net):
    out = net.with_name("wrapped.onnx")
    graphs.wrap(net, out=out, mean=foreign_models.MEAN, std=foreign_models.STD, licence="MIT")
    return out


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """Networks of torch, each through both exporters."""
    need("torch", "onnxscript")
    folder = tmp_path_factory.mktemp("exports")
    return {
        (name, dynamo): foreign_models.torch_export(
            network, folder / f"{name}{dynamo}.onnx", side_px=side_px, dynamo=dynamo, batch=None
        )
        for name, (network, side_px) in foreign_models.torch_networks().items()
        for dynamo in (False, True)
    }


def names(path):
    return {name for cut in graphs.cuts(path) for name in (cut.name, *cut.aliases)}


# --- flops ---------------------------------------------------------------------------------------


def test_flops_by_hand(net):
    # 16 x 16 after the stem, 8 x 8 after layer2; kernels of 3 x 3.
    by_hand = [256 * 4 * 27, 256 * 4 * 36, 64 * 6 * 36, 6 * 5]
    counted = graphs.flops(net, patch_px=32)
    assert list(counted.values()) == [2 * n for n in by_hand]
    assert next(iter(counted)) == "/conv1/Conv_output_0"
    assert graphs.flops(onnx.load(net), patch_px=32) == counted
    assert graphs.total_flops(net, patch_px=32) == 2 * sum(by_hand)


def test_flops_are_those_of_one_patch(tmp_path, net):
    fixed = foreign_models.residual(tmp_path / "fixed.onnx", batch=4, sides=(32, 32))
    assert graphs.flops(fixed, patch_px=32) == graphs.flops(net, patch_px=32)


def test_flops_of_the_default_encoder():
    path = encoders.find(encoders.DEFAULT)
    assert graphs.total_flops(path, patch_px=256) == pytest.approx(4.96e9, rel=1e-3)
    assert graphs.total_flops(path, patch_px=512) == 4 * graphs.total_flops(path, patch_px=256)


def test_flops_of_quantised_products(tmp_path):
    s = foreign_models.Sketch()
    scale, zero = s.weight("scale"), onnx.numpy_helper.from_array(np.uint8(0), "zero")
    weight = onnx.numpy_helper.from_array(np.ones((4, 3, 3, 3), np.uint8), "weight")
    matrix = onnx.numpy_helper.from_array(np.ones((4, 5), np.uint8), "matrix")
    s.constants += [zero, weight, matrix]
    x = s.add("/QuantizeLinear", ["x", scale, "zero"])
    one = [scale, "zero"]
    y = s.add("/a/QLinearConv", [x, *one, "weight", *one, *one])  # 4 x 4 of 6 x 6
    s.add("/b/ConvInteger", [x, "weight"])
    rows = s.add("/rows/Transpose", [y], perm=[0, 2, 3, 1])
    s.add("/c/QLinearMatMul", [rows, *one, "matrix", *one, *one])
    s.add("/d/MatMulInteger", [rows, "matrix"])
    float_weight = s.add("/w/DequantizeLinear", ["weight", *one])
    s.add("/e/Conv", [s.add("/x/DequantizeLinear", [x, *one]), float_weight])
    path = s.save(tmp_path / "q.onnx", [1, 3, 6, 6], {"/e/Conv_output_0": [1, 4, 4, 4]})
    conv, product = 2 * 16 * 4 * 27, 2 * 16 * 5 * 4
    counted = graphs.flops(path, patch_px=6)
    assert list(counted.values()) == [conv, conv, product, product, conv]


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ({"Foo": []}, r"cannot be loaded by onnxruntime .*Foo"),
        ({"Reshape": ["bad"]}, r"no shapes: .*Name:'/Reshape'"),
    ],
)
def test_flops_of_what_cannot_be_known(tmp_path, kinds, message):
    s = foreign_models.Sketch()
    s.integers("bad", 7, 7)
    # An index that depends on the input keeps inference from knowing the shape.
    ((operation, more),) = kinds.items()
    target = s.add("/Shape", ["x"]) if not more else more[0]
    if more:
        target = s.add("/Mul", [target, s.add("/ReduceMax", [s.add("/Shape", ["x"])], keepdims=0)])
    y = s.add(f"/{operation}", ["x", target])
    path = s.save(tmp_path / "u.onnx", ["n", 3, 8, 8], {y: ["n", "d"]})
    with pytest.raises(ModelError, match=message) as told:
        graphs.flops(path, patch_px=8)
    assert "\n" not in str(told.value)


def test_flops_refuses(net, tmp_path):
    with pytest.raises(ModelError, match=r"is fixed to patches of 32 px, got 64 px"):
        graphs.flops(net, patch_px=64)
    with pytest.raises(FileNotFoundError, match="no such ONNX file: "):
        graphs.flops(tmp_path / "none.onnx", patch_px=64)


# --- cuts ----------------------------------------------------------------------------------------


def test_cuts_are_where_one_tensor_carries_all(net):
    cuts = graphs.cuts(net)
    assert [cut.name for cut in cuts] == [*LAYERS, "avgpool", "fc"]
    # The residual's convolution is none: what goes around it would be lost.
    assert "layer1.0.conv1" not in names(net)
    by_name = {cut.name: cut for cut in cuts}
    assert by_name["layer1.0.relu"].aliases == ("layer1", "layer1.0")
    assert by_name["layer1.0.relu"].shape == (1, 4, 16, 16)
    assert by_name["layer2.relu"].aliases == ("layer2",)
    assert [cut.d for cut in cuts] == [4, 4, 4, 4, 6, 6, 6, 5]
    shares = [cut.flops_share for cut in cuts]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    counted = [*graphs.flops(net, patch_px=32).values()]
    assert shares[0] == pytest.approx(counted[0] / sum(counted))


def test_cuts_of_the_default_encoder():
    cuts = {cut.name: cut for cut in graphs.cuts(encoders.DEFAULT)}
    widths = {"conv0": 64, "pool0": 64, "denseblock1": 256, "transition1": 128, "denseblock2": 512}
    assert {name: cuts[name].d for name in widths} == widths
    assert cuts["denseblock1"].tensor == "denseblock1"
    assert cuts["denseblock1"].shape == (1, 256, 64, 64)
    assert 0.5 < cuts["denseblock1"].flops_share < cuts["denseblock2"].flops_share == 1
    assert not [name for name in cuts if name.startswith("pixels") or name == "features"]
    assert graphs.cuts(encoders.DEFAULT, patch_px=64)[0].shape == (1, 64, 32, 32)


@pytest.mark.parametrize("dynamo", [False, True])
def test_cuts_are_named_for_modules(exports, dynamo):
    known = names(exports["residual", dynamo])
    wanted = {"relu", "maxpool", "layer1", "layer1.0", "layer1.1", "layer2", "layer2.0", "fc"}
    assert wanted <= known
    assert ("layer1.0.relu" if dynamo else "layer1.0.relu_1") in known
    assert {"blocks", "blocks.0", "norm"} <= names(exports["transformer", dynamo])


def test_cuts_refuses(tmp_path):
    (tmp_path / "page.onnx").write_text("<!doctype html>")
    with pytest.raises(
        ModelError, match=r"page.onnx is a web page, not the file: download it again"
    ):
        graphs.cuts(tmp_path / "page.onnx")
    with pytest.raises(FileNotFoundError, match="no such encoder file: "):
        graphs.cuts(tmp_path / "none.onnx")


# --- split ---------------------------------------------------------------------------------------


def run(model, x, *, level):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = level
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {session.get_inputs()[0].name: x})


def assert_composes(path, x):
    """Head and tail at every cut are the whole, to the bit as written, nearly so optimised."""
    whole = onnx.load(path)
    levels = ort.GraphOptimizationLevel
    wanted = {
        level: run(whole, x, level=level)
        for level in (levels.ORT_DISABLE_ALL, levels.ORT_ENABLE_ALL)
    }
    cuts = [cut for cut in graphs.cuts(path, patch_px=max(x.shape[1:])) if cut.carries_all]
    for cut in cuts:
        head, tail = graphs.split(whole, cut.name)
        for level, outputs in wanted.items():
            (middle,) = run(head, x, level=level)
            assert middle.shape == (len(x), *cut.shape[1:])
            for got, want in zip(run(tail, middle, level=level), outputs, strict=True):
                if level == levels.ORT_DISABLE_ALL:
                    assert got.tobytes() == want.tobytes(), cut
                np.testing.assert_allclose(got, want, rtol=0, atol=2e-6 * np.abs(want).max())
    assert len(cuts) >= 5


def test_default_encoder_composes_bit_for_bit(rng):
    pixels = rng.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    assert_composes(encoders.find(encoders.DEFAULT), pixels)


def test_residual_branches_compose_bit_for_bit(net, rng):
    assert_composes(net, rng.normal(size=(3, 3, 32, 32)).astype(np.float32))


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("name", ["residual", "transformer"])
def test_exports_of_torch_compose_bit_for_bit(exports, rng, name, dynamo):
    side_px = 64 if name == "residual" else 32
    x = rng.normal(size=(2, 3, side_px, side_px)).astype(np.float32)
    assert_composes(exports[name, dynamo], x)


def test_split_by_path_has_the_weights_each_part_needs(net):
    head, tail = graphs.split(net, "layer1")
    assert {t.name for t in head.graph.initializer} == {
        f"{module}.{kind}" for module in ("conv1", "layer1/layer1.0/conv1") for kind in "wb"
    }
    assert "fc.w" in {t.name for t in tail.graph.initializer}
    assert len(head.graph.node) + len(tail.graph.node) == len(onnx.load(net).graph.node)


def test_nodes_in_any_order(net, tmp_path):
    model = onnx.load(net)
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(nodes[::-1])
    path = tmp_path / "mixed.onnx"
    path.write_bytes(model.SerializeToString())
    assert graphs.cuts(path) == graphs.cuts(net)
    mixed, ordered = graphs.split(model, "layer1"), graphs.split(net, "layer1")
    for part, wanted in zip(mixed, ordered, strict=True):
        assert [node.name for node in part.graph.node] == [node.name for node in wanted.graph.node]
    model.graph.node[-1].input[0] = "fc_output"
    model.graph.node[0].output[0] = "fc_output"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"nodes that read from each other in a circle: export"):
        graphs.cuts(path)


def test_split_refuses(net):
    with pytest.raises(ModelError, match=r"'layer1.0.conv1' does not carry everything on, other"):
        graphs.split(net, "layer1.0.conv1")
    with pytest.raises(ModelError, match=r"has no tensor 'layr1': did you mean layer1"):
        graphs.split(net, "layr1")
    with pytest.raises(
        ModelError, match=r"has no tensor 'qqq': list them with `histofast models truncate --list`"
    ):
        graphs.split(onnx.load(net), "qqq")
    with pytest.raises(FileNotFoundError):
        graphs.split(net.with_name("none.onnx"), "layer1")


# --- truncate ------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["conv0", "pool0", "denseblock1", "transition1", "denseblock2"])
def test_truncated_encoder_is_its_tensor_pooled(tmp_path, rng, at):
    path = encoders.find(encoders.DEFAULT)
    out = tmp_path / "cut.onnx"
    spec = graphs.truncate(encoders.DEFAULT, at=at, out=out)
    whole = encoders.read_spec(path)
    pixels = rng.integers(0, 256, (3, 96, 80, 3), dtype=np.uint8)
    wanted = capture(path, [at], pixels)[at].astype(np.float64).mean(axis=(2, 3))
    with encoders.load(out, device="cpu", threads=1) as encoder:
        got = encoder.encode(pixels)
        assert encoder.spec == spec
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6 * np.abs(wanted).max())
    assert (spec.name, spec.layer, spec.d) == ("cut", at, wanted.shape[1])
    assert spec.made_from == whole.sha256 != spec.sha256
    for key in ("weights_sha256", "provenance", "licence", "network", "patch_px", "mpp"):
        assert getattr(spec, key) == getattr(whole, key), key
    assert spec.size_bytes <= whole.size_bytes + 200


def test_truncation_drops_what_is_no_longer_needed(tmp_path):
    out = tmp_path / "short.onnx"
    spec = graphs.truncate(encoders.DEFAULT, at="denseblock1", out=out, name="short")
    assert not [t.name for t in onnx.load(out).graph.initializer if "denseblock2" in t.name]
    assert spec.size_bytes < 0.5 * encoders.registry().encoders[encoders.DEFAULT].size_bytes
    again = tmp_path / "again.onnx"
    graphs.truncate(encoders.DEFAULT, at="denseblock1", out=again, name="short")
    assert again.read_bytes() == out.read_bytes()


@pytest.mark.parametrize("at", ["features", "pooled.flat", "pooled"])
def test_truncation_at_the_end_is_the_identity(tmp_path, rng, at):
    graphs.truncate(encoders.DEFAULT, at=at, out=tmp_path / "same.onnx")
    pixels = rng.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    with (
        encoders.load(encoders.DEFAULT, device="cpu") as whole,
        encoders.load(tmp_path / "same.onnx", device="cpu") as same,
    ):
        assert same.encode(pixels).tobytes() == whole.encode(pixels).tobytes()


def test_truncation_of_a_cut_encoder(wrapped, tmp_path, rng):
    graphs.truncate(wrapped, at="layer2", out=tmp_path / "a.onnx")
    spec = graphs.truncate(tmp_path / "a.onnx", at="layer1", out=tmp_path / "b.onnx")
    assert (spec.height_px, spec.licence, spec.d) == (32, "MIT", 4)
    graphs.truncate(wrapped, at="layer1.0", out=tmp_path / "c.onnx")
    pixels = rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    with encoders.load(tmp_path / "b.onnx") as b, encoders.load(tmp_path / "c.onnx") as c:
        assert b.encode(pixels).tobytes() == c.encode(pixels).tobytes()


def test_truncation_in_half_precision(tmp_path):
    path = foreign_models.residual(tmp_path / "net.onnx", half=True, sides=(32, 32))
    graphs.wrap(path, out=tmp_path / "a.onnx", mean=foreign_models.MEAN, std=foreign_models.STD)
    spec = graphs.truncate(tmp_path / "a.onnx", at="layer1", out=tmp_path / "b.onnx")
    assert (spec.precision, spec.d) == ("float16", 4)
    types = {cut.name: cut.d for cut in graphs.cuts(tmp_path / "b.onnx")}
    assert types["pooled"] == 4


def test_inner_tensors_of_branches_may_be_features(wrapped, tmp_path):
    tensor = "/layer1/layer1.0/conv1/Conv_output_0"
    assert graphs.truncate(wrapped, at=tensor, out=tmp_path / "a.onnx").d == 4


def refuse(wrapped, tmp_path, error, match, **arguments):
    arguments = {"at": "layer1", "out": tmp_path / "a.onnx"} | arguments
    path = arguments.pop("path", wrapped)
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(error, match=match) as told:
        graphs.truncate(path, **arguments)
    assert "\n" not in str(told.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_truncate_refuses(wrapped, net, tmp_path, monkeypatch):
    def refused(error, match, **arguments):
        refuse(wrapped, tmp_path, error, match, **arguments)

    refused(ModelError, "has no tensor 'layer3': did you mean layer", at="layer3")
    refused(
        ModelError, r"fc.* is of shape \(n, 5\), pool cls is for tensors of 3", at="fc", pool="cls"
    )
    refused(
        ModelError, "is not in the pixel-in form: wrap and cut it in one go with .*add", path=net
    )
    refused(
        ModelError,
        "holds int64, wanted float32 or float16",
        at="shape.made",
        path=_integers(tmp_path),
    )
    refused(ValueError, "pool must be one of auto, nchw, nhwc, cls, mean, got 'max'", pool="max")
    refused(ValueError, "out must end in .onnx, got", out=tmp_path / "a.pt")
    refused(FileNotFoundError, "no such encoder file: ", path=tmp_path / "none.onnx")
    refused(FileNotFoundError, "no folder", out=tmp_path / "none" / "a.onnx")
    monkeypatch.setattr(cutting, "max_relative_error", lambda precision: -1.0)
    refused(ModelError, r"is not written: its features differ from 'layer1' of .* by .*e-0")
    (tmp_path / "a.onnx").write_bytes(b"mine")
    refused(FileExistsError, "exists: choose another name")
    assert (tmp_path / "a.onnx").read_bytes() == b"mine"


def _integers(folder):
    """Write an encoder with whole numbers inside."""
    model = onnx.load(encoders.find(encoders.DEFAULT))
    shape = onnx.helper.make_node("Shape", ["pooled"], ["shape.made"])
    flat = model.graph.node[-2]
    kept = onnx.helper.make_node("Reshape", ["pooled", "head"], list(flat.output), name="flat")
    head = onnx.helper.make_node("Slice", ["shape.made", "zero", "two"], ["head"])
    numbers = {"zero": [0], "two": [2]}
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.array(v, np.int64), k) for k, v in numbers.items()
    )
    last = onnx.NodeProto()
    last.CopyFrom(model.graph.node[-1])
    del model.graph.node[-2:]
    model.graph.node.extend([shape, head, kept, last])
    path = folder / "integers.onnx"
    onnx.save(model, path)
    return path
