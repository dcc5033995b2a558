"""Foreign ONNX files become encoders that are proven equal, or are refused."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import foreign_models
from extras import need
from foreign_models import MEAN, STD
from histofast import encoders, graphs
from histofast.errors import ModelError

CHANNELS = {"mean": MEAN, "std": STD}


@pytest.fixture
def patches():
    return graphs.stained_noise(9, 32)


def session_of(path, outputs=None):
    model = onnx.load(path)
    if outputs:
        del model.graph.output[:]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def by_definition(path, patches, *, output=None, pool="auto"):
    """Standardised planes through the foreign graph, one patch at a time, pooled in float64."""
    session = session_of(path, [output] if output else None)
    value = session.get_inputs()[0]
    x = foreign_models.planes(patches)
    x = x.transpose(0, 2, 3, 1) if value.shape[3] == 3 else x
    x = x.astype(np.float16 if "16" in value.type else np.float32)
    batch = value.shape[0] if isinstance(value.shape[0], int) else 1
    rows = [session.run(None, {value.name: one[None].repeat(batch, 0)})[0][:1] for one in x]
    y = np.concatenate(rows).astype(np.float64)
    if y.ndim == 4:
        y = y.mean(axis=(2, 3))
    if y.ndim == 3:
        y = y[:, 0] if pool == "cls" else y.mean(axis=1)
    return y


def assert_equal(path, out, patches, *, tolerance=1e-5, **how):
    wanted = by_definition(path, patches, **how)
    with encoders.load(out, device="cpu", threads=2) as encoder:
        got = [encoder.encode(patches), encoder.encode_together(patches)]
    for features in got:
        assert features.shape == wanted.shape
        errors = np.linalg.norm(features - wanted, axis=1) / np.linalg.norm(wanted, axis=1)
        assert errors.max() <= tolerance
    assert wanted.std() > 1e-3
    return wanted


@pytest.mark.parametrize("form", [{}, {"batch": 1}, {"channels_last": True}])
def test_what_was_just_exported_is_wrapped_as_any_file(tmp_path, patches, form, monkeypatch):
    """The same bytes, with nothing run."""
    path = foreign_models.residual(tmp_path / "a.onnx", sides=(32, 32), **form)
    spec = graphs.wrap(path, out=tmp_path / "b.onnx", weights_sha256="0" * 64, **CHANNELS)
    said = {key: getattr(spec, key) for key in ("name", "network", "layer", "mpp", "provenance")}
    said |= {"licence": spec.licence, "weights_sha256": spec.weights_sha256, "made_from": None}
    monkeypatch.setattr("histofast.encoders.runtime.make_session", None)
    features = np.zeros((2, spec.d), np.float32)
    graphs.wrap_exported(
        path, out=tmp_path / "c.onnx", features=features, patch_px=32, **said, **CHANNELS
    )
    assert (tmp_path / "c.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


# --- What is taken -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"sides": (32, 32)},
        {"sides": (32, "w")},
        {"batch": 1, "sides": (32, 32)},
        {"batch": 4, "sides": (32, 32)},
        {"batch": 1},
        {"end": "layer2"},
        {"end": "avgpool", "batch": 1},
        {"channels_last": True, "sides": (32, 32)},
        {"channels_last": True, "batch": 1, "end": "layer2"},
        {"opset": 7, "ir_version": 3},
        {"opset": 13},
        {"opset": 21, "ir_version": 10},
    ],
    ids=str,
)
def test_wrapped_file_is_the_original(tmp_path, patches, form):
    path = foreign_models.residual(tmp_path / "net.onnx", **form)
    spec = graphs.wrap(path, out=tmp_path / "out.onnx", patch_px=32, **CHANNELS)
    assert_equal(path, tmp_path / "out.onnx", patches)
    fixed = 32 if 32 in form.get("sides", ()) else None
    assert (spec.height_px, spec.width_px, spec.patch_px) == (fixed, fixed, 32)
    assert spec.d == (5 if form.get("end", "fc") == "fc" else 6)
    assert onnx.load(tmp_path / "out.onnx").opset_import[0].version == form.get("opset", 17)
    if fixed is None:
        larger = graphs.stained_noise(2, 80)
        assert_equal(path, tmp_path / "out.onnx", larger)


@pytest.mark.parametrize("form", [{}, {"batch": 1}, {"end": "layer2"}], ids=str)
def test_half_precision(tmp_path, patches, form):
    path = foreign_models.residual(tmp_path / "net.onnx", half=True, **form)
    spec = graphs.wrap(path, out=tmp_path / "out.onnx", size_px=32, **CHANNELS)
    assert spec.precision == "float16"
    assert (spec.height_px, spec.patch_px) == (32, 32)
    assert_equal(path, tmp_path / "out.onnx", patches, tolerance=1e-3)


def test_pixels_are_standardised_as_everywhere(tmp_path, patches):
    s = foreign_models.Sketch()
    y = s.add("/Identity", ["x"])
    path = s.save(tmp_path / "a.onnx", ["n", 3, "h", "w"], {y: ["n", 3, "h", "w"]})
    graphs.wrap(path, out=tmp_path / "b.onnx", patch_px=32, **CHANNELS)
    with encoders.load(tmp_path / "b.onnx", device="cpu") as encoder:
        got = encoder.encode(patches)
    wanted = (patches.mean(axis=(1, 2), dtype=np.float64) / 255 - MEAN) / STD
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    nodes = [(node.op_type, node.name) for node in onnx.load(tmp_path / "b.onnx").graph.node][:4]
    default = onnx.load(encoders.find(encoders.DEFAULT)).graph.node[:4]
    assert nodes == [(node.op_type, node.name) for node in default]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize("opset", [17, 18])
def test_tokens_of_a_fixed_batch(tmp_path, patches, batch, pool, opset):
    path = foreign_models.tokens(tmp_path / "vit.onnx", batch=batch, opset=opset)
    spec = graphs.wrap(path, out=tmp_path / "out.onnx", pool=pool, **CHANNELS)
    assert_equal(path, tmp_path / "out.onnx", patches, pool=pool)
    assert (spec.d, spec.layer, spec.height_px) == (6, "blocks.0", 32)


@pytest.mark.parametrize("channels_last", [False, True])
def test_what_caffe_wants_of_pixels(tmp_path, patches, channels_last):
    """Blue first, in 0..255, less a mean: as `Standardising` says, by its definition."""
    path = foreign_models.residual(tmp_path / "net.onnx", channels_last=channels_last)
    wants = {"mean": (103.9, 116.8, 123.7), "std": (57.4, 57.1, 58.4)}
    graphs.wrap(path, out=tmp_path / "out.onnx", **wants, channels="bgr", scale=255, patch_px=32)
    x = (patches[..., ::-1].astype(np.float64) - wants["mean"]) / wants["std"]
    x = (x if channels_last else x.transpose(0, 3, 1, 2)).astype(np.float32)
    session = session_of(path)
    (wanted,) = session.run(None, {session.get_inputs()[0].name: x})
    wanted = wanted if wanted.ndim == 2 else wanted.mean(axis=(2, 3))
    with encoders.load(tmp_path / "out.onnx", device="cpu", threads=2) as encoder:
        np.testing.assert_allclose(encoder.encode(patches), wanted, rtol=1e-4, atol=1e-5)


def test_channels_last_inside(tmp_path, patches):
    s = foreign_models.Sketch()
    x = s.add("/last/Transpose", [s.conv("conv", "x", 3, 5, stride=2)], perm=[0, 2, 3, 1])
    path = s.save(tmp_path / "a.onnx", ["n", 3, 32, 32], {x: ["n", 16, 16, 5]})
    with pytest.raises(ModelError, match=r"\(n, 16, 16, 5\): say which axis .* pool nchw or nhwc"):
        graphs.wrap(path, out=tmp_path / "b.onnx", **CHANNELS)
    assert graphs.wrap(path, out=tmp_path / "b.onnx", pool="nhwc", **CHANNELS).d == 5
    with encoders.load(tmp_path / "b.onnx", device="cpu") as encoder:
        got = encoder.encode(patches)
    np.testing.assert_allclose(
        got, by_definition(path, patches, output="/conv/Conv_output_0"), 1e-4
    )


@pytest.mark.parametrize(
    ("output", "d"),
    [
        ("/avgpool/GlobalAveragePool_output_0", 6),
        ("layer2", 6),
        ("layer1.0", 4),
        ("/layer1/layer1.0/conv1/Conv_output_0", 4),
    ],
)
def test_output_chooses_and_cuts(tmp_path, patches, output, d):
    path = foreign_models.residual(tmp_path / "net.onnx", end="both", sides=(32, 32), batch=1)
    tensors = {"layer2": "/layer2/relu/Relu_output_0"}
    tensors |= {"layer1.0": "/layer1/layer1.0/relu/Relu_output_0"}
    spec = graphs.wrap(path, out=tmp_path / "out.onnx", output=output, **CHANNELS)
    assert (spec.d, spec.layer) == (d, output)
    assert_equal(path, tmp_path / "out.onnx", patches, output=tensors.get(output, output))
    if d == 4:
        kept = {t.name for t in onnx.load(tmp_path / "out.onnx").graph.initializer}
        assert not {name for name in kept if name.startswith(("layer2", "fc"))}


def test_the_only_output_of_two_axes_is_chosen(tmp_path):
    path = foreign_models.residual(
        tmp_path / "net.onnx", extra=("/layer2/relu/Relu_output_0",), sides=(32, 32)
    )
    assert graphs.wrap(path, out=tmp_path / "out.onnx", **CHANNELS).layer == "fc"


def test_names_that_the_form_needs_make_way(tmp_path, patches):
    model = onnx.load(foreign_models.residual(tmp_path / "net.onnx", batch=1, sides=(32, 32)))
    names = {
        "x": "pixels",
        "/relu/Relu_output_0": "features",
        "/layer1/layer1.0/Add_output_0": "pixels.mean",
        "/avgpool/GlobalAveragePool_output_0": "pooled",
        "conv1.w": "pixels.standardised",
    }
    graph = graphs.Graph(model)
    graph.rename(names)
    model = graph.to_model()
    model.graph.input[0].name = "pixels"
    model.graph.node[1].name = "pixels.float"
    model.graph.node[2].name = "features"
    path = tmp_path / "clash.onnx"
    onnx.save(model, path)
    for output in (None, "features", "pixels.mean", "pooled"):
        out = tmp_path / "out.onnx"
        graphs.wrap(path, out=out, output=output, overwrite=True, **CHANNELS)
        assert_equal(path, out, patches, output=output)


@pytest.mark.parametrize("files", [True, False], ids=["one data file", "one for each tensor"])
def test_weights_in_other_files_are_taken_in(tmp_path, patches, files):
    folder = tmp_path / "foreign"
    folder.mkdir()
    path = foreign_models.residual(
        folder / "net.onnx",
        batch=1,
        sides=(32, 32),
        save_as_external_data=True,
        all_tensors_to_one_file=files,
        location="net.onnx.data" if files else None,
        size_threshold=0,
    )
    data = sorted(p for p in folder.iterdir() if p != path)
    assert (len(data) == 1) == files
    spec = graphs.wrap(path, out=tmp_path / "out.onnx", **CHANNELS)
    together = b"".join(p.read_bytes() for p in [*data, path])
    assert spec.made_from == spec.weights_sha256 == hashlib.sha256(together).hexdigest()
    assert_equal(path, tmp_path / "out.onnx", patches)
    assert [cut.d for cut in graphs.cuts(path)][-1] == 5
    for p in folder.iterdir():
        p.unlink()
    with encoders.load(tmp_path / "out.onnx", device="cpu") as encoder:
        assert encoder.encode(patches).shape == (9, 5)


def test_files_and_weights_that_are_links_into_one_folder(tmp_path, patches):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "1f" / "onnx"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    outside = {"save_as_external_data": True, "location": "model.onnx_data", "size_threshold": 0}
    made = foreign_models.residual(blobs / "9c", batch=1, sides=(32, 32), **outside)
    (blobs / "model.onnx_data").rename(blobs / "04")
    for name, blob in (("model.onnx", "9c"), ("model.onnx_data", "04")):
        (snapshot / name).symlink_to(f"../../../blobs/{blob}")
    spec = graphs.wrap(snapshot / "model.onnx", out=tmp_path / "out.onnx", **CHANNELS)
    together = (blobs / "04").read_bytes() + made.read_bytes()
    assert spec.made_from == hashlib.sha256(together).hexdigest()
    plain = tmp_path / "plain"
    plain.mkdir()
    for name in ("model.onnx", "model.onnx_data"):
        (plain / name).write_bytes((snapshot / name).read_bytes())
    assert_equal(plain / "model.onnx", tmp_path / "out.onnx", patches)


def test_functions_are_put_in(tmp_path, patches):
    helper = onnx.helper
    opsets = [helper.make_opsetid("", 17)]
    pooled = [
        helper.make_node("Abs", ["a"], ["size"]),
        helper.make_node("GlobalAveragePool", ["size"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["b"]),
    ]
    shapes = {"x": ["n", 3, 32, 32], "y": ["n", 3]}
    x, y = (helper.make_tensor_value_info(k, onnx.TensorProto.FLOAT, v) for k, v in shapes.items())
    model = helper.make_model(
        helper.make_graph([helper.make_node("Size", ["x"], ["y"], domain="own")], "g", [x], [y]),
        functions=[helper.make_function("own", "Size", ["a"], ["b"], pooled, opsets)],
        opset_imports=[*opsets, helper.make_opsetid("own", 1)],
        ir_version=8,
    )
    path = tmp_path / "functions.onnx"
    onnx.save(model, path)
    graphs.wrap(path, out=tmp_path / "out.onnx", **CHANNELS)
    assert_equal(path, tmp_path / "out.onnx", patches)


def test_metadata_is_complete(tmp_path):
    path = foreign_models.residual(tmp_path / "my net.onnx", sides=(32, 32))
    plain = graphs.wrap(path, out=tmp_path / "plain.onnx", **CHANNELS)
    assert (plain.name, plain.network, plain.layer) == ("plain", "my-net", "fc")
    assert (plain.provenance, plain.licence, plain.mpp) == ("my net.onnx", "not stated", 0.5)
    assert plain.exporter == "elsewhere, opset 17, histofast wrap 2"
    assert plain.weights_sha256 == plain.made_from == encoders.sha256_of(path)
    told = graphs.wrap(
        path,
        out=tmp_path / "told.onnx",
        name="n",
        network="resnet",
        layer="last",
        provenance="us",
        licence="MIT",
        mpp=0.25,
        **CHANNELS,
    )
    assert (told.name, told.network, told.layer) == ("n", "resnet", "last")
    assert (told.provenance, told.licence, told.mpp) == ("us", "MIT", 0.25)


def test_same_file_same_bytes_and_no_traces_of_the_exporters_machine(tmp_path):
    path = foreign_models.residual(tmp_path / "net.onnx", batch=1, sides=(32, 32))
    model = onnx.load(path)
    model.graph.node[0].metadata_props.add(key="stack_trace", value="File /home/someone/train.py")
    model.graph.node[0].doc_string = "/home/someone/train.py"
    onnx.save(model, path)
    for name in ("a", "b"):
        graphs.wrap(path, out=tmp_path / f"{name}.onnx", name="same", **CHANNELS)
    written = (tmp_path / "a.onnx").read_bytes()
    assert written == (tmp_path / "b.onnx").read_bytes()
    assert b"someone" not in written


def test_initialisers_listed_as_inputs_are_no_inputs(tmp_path, patches):
    path = foreign_models.residual(tmp_path / "net.onnx", opset=7, ir_version=3)
    model = onnx.load(path)
    for t in model.graph.initializer:
        model.graph.input.append(
            onnx.helper.make_tensor_value_info(t.name, t.data_type, list(t.dims))
        )
    onnx.save(model, path)
    graphs.wrap(path, out=tmp_path / "out.onnx", patch_px=32, **CHANNELS)
    assert_equal(foreign_models.residual(path), tmp_path / "out.onnx", patches)


@pytest.mark.parametrize("batch", [None, 1, 4])
@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("name", ["residual", "transformer"])
def test_exports_of_torch(tmp_path, name, dynamo, batch):
    need("torch", "onnxscript")
    network, side_px = foreign_models.torch_networks()[name]
    path = tmp_path / "net.onnx"
    foreign_models.torch_export(network, path, side_px=side_px, dynamo=dynamo, batch=batch)
    pool = "cls" if name == "transformer" else "auto"
    spec = graphs.wrap(path, out=tmp_path / "out.onnx", pool=pool, **CHANNELS)
    assert_equal(path, tmp_path / "out.onnx", graphs.stained_noise(7, side_px), pool=pool)
    assert spec.layer == ("norm" if name == "transformer" else "fc")
    part, d = ("blocks.0", 16) if name == "transformer" else ("layer1", 8)
    cut = graphs.truncate(
        tmp_path / "out.onnx",
        at=part,
        out=tmp_path / "cut.onnx",
        pool="mean" if name == "transformer" else "auto",
    )
    assert cut.d == d


# --- What is refused -----------------------------------------------------------------------------


def refuse(path, error, match, *, out="out.onnx", **arguments):
    folder = path.parent
    before = sorted(p.name for p in folder.iterdir())
    with pytest.raises(error, match=match) as told:
        graphs.wrap(path, out=folder / out, **CHANNELS | arguments)
    assert "\n" not in str(told.value)
    assert "onnxruntime_src" not in str(told.value)
    assert sorted(p.name for p in folder.iterdir()) == before


@pytest.fixture
def net(tmp_path):
    return foreign_models.residual(tmp_path / "net.onnx", sides=(32, 32))


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"mean": (0.5, 0.5)}, ValueError, r"mean must be three finite numbers, got \(0.5, 0.5\)"),
        ({"std": (1, 1, np.nan)}, ValueError, "std must be three finite numbers"),
        ({"std": (1, 1, 0)}, ValueError, r"std must be positive, got \(1.0, 1.0, 0.0\)"),
        ({"pool": "max"}, ValueError, "pool must be one of auto, nchw"),
        ({"size_px": 0}, ValueError, "size_px must be at least 1, got 0"),
        ({"patch_px": -1}, ValueError, "patch_px must be at least 1, got -1"),
        ({"out": "out.pt"}, ValueError, "out must end in .onnx, got"),
        ({"out": "none/out.onnx"}, FileNotFoundError, "no folder"),
        ({"out": "net.onnx"}, FileExistsError, "exists: choose another name"),
        ({"size_px": 64}, ModelError, "takes 32 px only, size_px is 64: leave it out"),
        ({"patch_px": 64}, ModelError, "takes 32 px only, patch_px is 64: leave it out"),
        ({"output": "layr2"}, ModelError, "has no tensor 'layr2': did you mean layer2"),
        ({"pool": "cls"}, ModelError, r"is of shape \(n, 5\), pool cls is for tensors of 3 axes"),
        ({"name": "a b"}, ValueError, "name must be 1..200 characters without spaces"),
        ({"patches": np.zeros((6, 32, 32, 3), np.uint8)}, ValueError, "at least 7, got 6"),
        ({"patches": np.zeros((7, 9, 9, 3), np.uint8)}, ValueError, "patches must be .*32, 32, 3"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, dict) else "",
)
def test_wrong_arguments(net, arguments, error, match):
    refuse(net, error, match, **arguments)


def test_no_such_file(tmp_path):
    refuse(tmp_path / "none.onnx", FileNotFoundError, "no such ONNX file: ")


def test_a_size_must_come_from_somewhere(tmp_path):
    path = foreign_models.residual(tmp_path / "net.onnx")
    refuse(path, ValueError, r"patch_px must be given, .* takes patches of any size: say which")


@pytest.mark.parametrize(
    ("form", "match"),
    [
        ({"sides": (32, 64)}, "takes 32 x 64 px, wanted squares"),
        ({"opset": 6}, "is of opset 6, wanted 7 or newer: convert it with onnx.version_converter"),
        ({"opset": 99}, r"by onnxruntime .*Opset 99 .*: export it with opset 18, or update onnx"),
        (
            {"ir_version": 99},
            r"IR version: 99, max .*: export it with opset 18, or update onnxrunt",
        ),
        (
            {"end": "both"},
            r"has 2 outputs, '/layer2/.*' \(n, 6, 8, 8\), '/avgpool/.*' \(n, 6, 1, 1\): choose one",
        ),
    ],
    ids=str,
)
def test_files_that_do_not_fit(tmp_path, form, match):
    path = foreign_models.residual(tmp_path / "net.onnx", **{"sides": (32, 32)} | form)
    refuse(path, ModelError, match)


@pytest.mark.parametrize(
    ("kind", "shape", "match"),
    [
        (
            "FLOAT",
            ["n", 1, 32, 32],
            r"wanted|must have one float32 .*, got 'x' float32 \(\?, 1, 32",
        ),
        ("DOUBLE", ["n", 3, 32, 32], r"must have one float32 or float16 .*, got 'x' float64"),
        ("UINT8", ["n", 32, 32, 3], r"must have one float32 or float16 .*, got 'x' uint8"),
        ("FLOAT", ["n", 3], r"must have one float32 .*, got 'x' float32 \(\?, 3\)"),
    ],
)
def test_inputs_that_are_no_images(tmp_path, kind, shape, match):
    x = onnx.helper.make_tensor_value_info("x", getattr(onnx.TensorProto, kind), shape)
    y = onnx.helper.make_empty_tensor_value_info("y")
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [x], [y])
    path = tmp_path / "a.onnx"
    onnx.save(onnx.helper.make_model(graph), path)
    refuse(path, ModelError, match)


def test_several_inputs(net):
    model = onnx.load(net)
    model.graph.input.append(onnx.helper.make_tensor_value_info("mask", 1, ["n", 1]))
    onnx.save(model, net)
    refuse(net, ModelError, r"must have one float32 .*, got 2 inputs \('x', 'mask'\)")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x08\x08"])
def test_what_is_no_onnx_file(tmp_path, content):
    path = tmp_path / "a.onnx"
    path.write_bytes(content)
    refuse(path, ModelError, "a.onnx is not an ONNX file, or is truncated: copy or export it again")


def test_encoders_are_wrapped_already(tmp_path, net):
    out = tmp_path / "out.onnx"
    graphs.wrap(net, out=out, **CHANNELS)
    refuse(out, ModelError, "is an encoder already: use it as it is, or cut it", out="again.onnx")
    model = onnx.load(out)
    del model.metadata_props[:]
    onnx.save(model, out)
    refuse(out, ModelError, "takes pixels but lacks the metadata of an encoder", out="again.onnx")


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda data: data.unlink(), "keeps its weights in net.data, which is missing: put it"),
        (lambda data: data.write_bytes(data.read_bytes()[:99]), "net.data is truncated: copy or"),
        (lambda data: data.rename(data.parent / "n.data"), "in net.data, which is missing"),
    ],
)
def test_weights_that_are_not_there(tmp_path, spoil, match):
    path = foreign_models.residual(
        tmp_path / "net.onnx", save_as_external_data=True, location="net.data", size_threshold=0
    )
    spoil(tmp_path / "net.data")
    refuse(path, ModelError, match)


def test_weights_that_lie_at_no_number(tmp_path):
    path = foreign_models.residual(
        tmp_path / "net.onnx", save_as_external_data=True, location="net.data", size_threshold=0
    )
    model = onnx.load(path, load_external_data=False)
    next(e for e in model.graph.initializer[0].external_data if e.key == "offset").value = "-1"
    path.write_bytes(model.SerializeToString())
    refuse(path, ModelError, "does not say where its weights lie: export it again")


def test_weights_outside_the_folder(tmp_path):
    (tmp_path / "in").mkdir()
    path = foreign_models.residual(
        tmp_path / "in" / "net.onnx",
        save_as_external_data=True,
        location="net.data",
        size_threshold=0,
    )
    (tmp_path / "in" / "net.data").rename(tmp_path / "net.data")
    model = onnx.load(path, load_external_data=False)
    for t in model.graph.initializer:
        next(e for e in t.external_data if e.key == "location").value = "../net.data"
    path.write_bytes(model.SerializeToString())
    refuse(path, ModelError, "names weights outside its folder")


def test_weights_that_fit_no_file(tmp_path, net, monkeypatch):
    monkeypatch.setattr("histofast.graphs.onnx_file.MAX_BYTES", 1000)
    refuse(net, ModelError, r"has 0.0 GB, one ONNX file holds at most 0.0 GB: export it with")


def test_patches_that_see_each_other(tmp_path):
    s = foreign_models.Sketch()
    x = s.conv("conv", "x", 3, 4)
    centre = s.add("/centre/ReduceMean", [x], axes=[0])
    x = s.add("/Add", [x, centre])
    path = s.save(tmp_path / "a.onnx", ["n", 3, 32, 32], {x: ["n", 4, 32, 32]})
    refuse(
        path,
        ModelError,
        r"out.onnx is not written: features depend on what else is in the batch, first in "
        r"'/centre/ReduceMean_output_0' \(batch of 2, they differ by .*\): export a.onnx with a",
    )


def test_a_batch_that_cannot_be_freed(tmp_path):
    s = foreign_models.Sketch()
    x = s.add("/Transpose", [s.conv("conv", "x", 3, 4, stride=32)], perm=[1, 0, 2, 3])
    x = s.add("/rows/Reshape", [x, s.integers("rows", 4, 1)])
    y = s.add("/columns/Transpose", [x], perm=[1, 0])
    path = s.save(tmp_path / "shape.onnx", [1, 3, 32, 32], {y: [1, 4]})
    refuse(path, ModelError, r"differ in shape, \(1, 8\) instead of \(2, 4\)\): export shape.onnx")
    x = s.add("/fc/MatMul", [y, s.weight("fc", 4, 5)])
    path = s.save(tmp_path / "fails.onnx", [1, 3, 32, 32], {x: [1, 5]})
    refuse(path, ModelError, r"is not written: a batch of 2 fails: .*Name:'/fc/MatMul.*: export")


def test_outputs_that_count_no_patches(tmp_path):
    s = foreign_models.Sketch()
    x = s.add("/Transpose", [s.conv("conv", "x", 3, 4)], perm=[1, 0, 2, 3])
    path = s.save(tmp_path / "a.onnx", [1, 3, 32, 32], {x: [4, 1, 32, 32]})
    refuse(path, ModelError, r"is of shape \(4, 1, 32, 32\), wanted one value per patch on the")


def test_sizes_that_do_not_go_in(tmp_path):
    s = foreign_models.Sketch()
    x = s.add("/Reshape", [s.conv("conv", "x", 3, 4, stride=8), s.integers("all", -1, 64)])
    x = s.add("/fc/MatMul", [x, s.weight("fc", 64, 5)])
    path = s.save(tmp_path / "a.onnx", ["n", 3, "h", "w"], {x: ["n", 5]})
    refuse(
        path,
        ModelError,
        r"says that it takes any size, but not 64 px \(.*\): fix it with size_px 32",
        patch_px=32,
    )
    assert graphs.wrap(path, out=tmp_path / "b.onnx", size_px=32, **CHANNELS).height_px == 32


def test_a_graph_that_fails(tmp_path):
    s = foreign_models.Sketch()
    x = s.add("/Reshape", ["x", s.integers("bad", -1, 7)])
    path = s.save(tmp_path / "a.onnx", ["n", 3, "h", "w"], {x: ["n", 7]})
    refuse(path, ModelError, r"a.onnx: .*Name:'/Reshape'", size_px=32)


def test_differing_results(net, monkeypatch):
    monkeypatch.setattr("histofast.graphs.wrapping.max_relative_error", lambda precision: -1.0)
    refuse(
        net,
        ModelError,
        r"not written: its features differ from those of net.onnx by .*, wanted at most -1e\+00",
    )


def test_importing_graphs_stays_light():
    for name in ("wrap", "cuts", "truncate", "split", "flops", "total_flops", "GraphCut"):
        assert name in graphs.__all__
        assert getattr(graphs, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = graphs.nothing
