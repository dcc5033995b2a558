"""Encoders: the default one, the pixel-in contract, what is refused, and what bytes depend on."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from histofast import _core, encoders, graphs
from histofast.encoders import runtime
from histofast.errors import ModelError


@pytest.fixture(scope="module")
def default() -> encoders.Encoder:
    with encoders.load(encoders.DEFAULT, device="cpu", threads=2) as encoder:
        yield encoder


@pytest.fixture
def tiny(tmp_path) -> Path:
    path = tmp_path / "tiny.onnx"
    path.write_bytes(graphs.to_bytes(graphs.tiny_encoder()))
    return path


def save(path: Path, model: onnx.ModelProto) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def foreign(path: Path, *, inputs=None, outputs=None, props=None, nodes=None) -> Path:
    """Write a graph of mean colours whose contract the caller spoils."""
    graph = graphs.tiny_encoder()
    if nodes is not None:
        del graph.graph.node[:]
        graph.graph.node.extend(nodes)
    for field, values in ((graph.graph.input, inputs), (graph.graph.output, outputs)):
        if values is not None:
            del field[:]
            field.extend(values)
    if props is not None:
        graphs.set_metadata(graph, props)
    return save(path, graph)


def info(name, kind, shape):
    return helper.make_tensor_value_info(name, kind, shape)


# --- The default encoder -----------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_bytes_depend_on_the_pixels_only(default, rng, threads):
    pixels = rng.integers(0, 256, (16, 96, 96, 3), dtype=np.uint8)
    alone = np.concatenate([default.encode(pixels[i : i + 1]) for i in range(16)])
    with encoders.load(encoders.DEFAULT, device="cpu", threads=threads) as encoder:
        for n in (2, 7, 16):
            got = np.concatenate([encoder.encode(pixels[i : i + n]) for i in range(0, 16, n)])
            assert got.tobytes() == alone.tobytes()


@pytest.mark.parametrize("shape", [(32, 32), (224, 224), (97, 131)])
def test_any_size_goes_in(default, rng, shape):
    features = default.encode(rng.integers(0, 256, (2, *shape, 3), dtype=np.uint8))
    assert features.shape == (2, 512)
    assert features.std() > 0


def test_features_tell_tumour_from_normal(default, data):
    import imagecodecs

    rows = [line.split(",") for line in (data / "idc_patches/labels.csv").read_text().split()[1:]]
    rows = rows[::4]
    images = [imagecodecs.imread(data / "idc_patches" / row[0]) for row in rows]
    whole = [i for i, image in enumerate(images) if image.shape == (50, 50, 3)]
    x = default.encode(np.stack([images[i] for i in whole])).astype(np.float64)
    y = np.array([int(rows[i][4]) for i in whole])
    test = np.array([int(rows[i][1]) % 2 == 0 for i in whole])  # by patient
    x = (x - x[~test].mean(0)) / x[~test].std(0)
    gram = x[~test].T @ x[~test] + 300 * np.eye(512)
    score = x[test] @ np.linalg.solve(gram, x[~test].T @ (y[~test] - y[~test].mean()))
    positive, negative = score[y[test] == 1], score[y[test] == 0]
    auc = (positive[:, None] > negative).mean()
    assert auc > 0.85


# --- encode --------------------------------------------------------------------------------------


def test_tiny_encoder_is_the_mean_colour(tiny, rng):
    pixels = rng.integers(0, 256, (5, 9, 7, 3), dtype=np.uint8)
    for threads in (1, 4):
        with encoders.load(tiny, device="cpu", threads=threads) as encoder:
            features = encoder.encode(pixels)
    np.testing.assert_allclose(features, pixels.mean(axis=(1, 2)) / 255, rtol=1e-6)


def test_out_is_written_and_returned(tiny):
    pixels = np.zeros((3, 4, 4, 3), np.uint8)
    out = np.full((3, 3), np.nan, np.float32)
    with encoders.load(tiny, device="cpu") as encoder:
        assert encoder.encode(pixels, out) is out
        assert np.array_equal(out, np.zeros((3, 3)))
        with pytest.raises(ValueError, match=r"out must be .* shape \(3, 3\), got .*\(2, 3\)"):
            encoder.encode(pixels, out[:2])


def test_no_patches_give_no_features(tiny):
    with encoders.load(tiny, device="cpu") as encoder:
        assert encoder.encode(np.zeros((0, 4, 4, 3), np.uint8)).shape == (0, 3)


def test_read_only_pixels_are_taken(tiny):
    pixels = np.zeros((1, 4, 4, 3), np.uint8)
    pixels.flags.writeable = False
    with encoders.load(tiny, device="cpu") as encoder:
        assert encoder.encode(pixels).shape == (1, 3)


@pytest.mark.parametrize(
    ("pixels", "error", "message"),
    [
        (np.zeros((1, 4, 4, 3), np.float32), TypeError, "pixels must be .*uint8.*, got float32"),
        (np.zeros((1, 3, 4, 4), np.uint8), ValueError, r"got uint8 of shape \(1, 3, 4, 4\)"),
        (np.zeros((4, 4, 3), np.uint8), ValueError, r"got uint8 of shape \(4, 4, 3\)"),
        (np.zeros((2, 4, 4, 3), np.uint8)[:, ::2], ValueError, "strided"),
    ],
)
def test_other_pixels_are_refused(tiny, pixels, error, message):
    with encoders.load(tiny, device="cpu") as encoder, pytest.raises(error, match=message):
        encoder.encode(pixels)


def test_nan_names_its_rows(tmp_path):
    graph = graphs.PixelGraph(mean=(0, 0, 0), std=(1, 1, 1))
    x = graph.add("GlobalAveragePool", [graph.standardised], name="pooled")
    x = graph.add("Div", [x, x], name="one")  # 0 / 0 for a black patch
    x = graph.add("Flatten", [x], name="flat", axis=1)
    metadata = encoders.EncoderMetadata(**METADATA)
    path = save(tmp_path / "nan.onnx", graph.finish(x, metadata=metadata))
    pixels = np.full((12, 4, 4, 3), 9, np.uint8)
    pixels[[2, 5]] = 0
    with encoders.load(path, device="cpu") as encoder:
        with pytest.raises(ModelError, match=r"NaN or infinity for 2 of 12 patches \(rows 2, 5\)"):
            encoder.encode(pixels)
        pixels[:] = 0
        with pytest.raises(ModelError, match=r"12 of 12 patches \(rows 0, 1, .*7, \.\.\.\)"):
            encoder.encode(pixels)


METADATA = {
    "name": "x",
    "network": "none",
    "layer": "pixels",
    "d": 3,
    "patch_px": 16,
    "mpp": 0.5,
    "precision": "float32",
    "weights_sha256": "random",
    "provenance": "none",
    "licence": "none",
    "exporter": "a test",
}


def test_fixed_size_is_held_to(tmp_path):
    path = foreign(
        tmp_path / "fixed.onnx", inputs=[info("pixels", TensorProto.UINT8, ["n", 8, 6, 3])]
    )
    with encoders.load(path, device="cpu") as encoder:
        assert (encoder.spec.height_px, encoder.spec.width_px) == (8, 6)
        assert encoder.encode(np.zeros((2, 8, 6, 3), np.uint8)).shape == (2, 3)
        with pytest.raises(ModelError, match="takes patches of 8 x 6 px, got 8 x 8 px"):
            encoder.encode(np.zeros((1, 8, 8, 3), np.uint8))


def test_failure_inside_the_graph_is_one_line(tmp_path):
    graph = graphs.PixelGraph(mean=(0, 0, 0), std=(1, 1, 1))
    hundred = graph.constant(np.array([-1, 3, 10, 10]), name="shape")
    x = graph.add("Reshape", [graph.standardised, hundred], name="odd")
    x = graph.add("GlobalAveragePool", [x], name="pooled")
    x = graph.add("Flatten", [x], name="flat", axis=1)
    path = save(
        tmp_path / "odd.onnx", graph.finish(x, metadata=encoders.EncoderMetadata(**METADATA))
    )
    with encoders.load(path, device="cpu") as encoder:
        with pytest.raises(ModelError) as told:
            encoder.encode(np.zeros((1, 4, 4, 3), np.uint8))
        assert "encoder x failed on 1 patches of 4 x 4 px: " in str(told.value)
        assert "\n" not in str(told.value)


def test_closed_encoder_is_refused(tiny):
    encoder = encoders.load(tiny, device="cpu", threads=2)
    encoder.close()
    encoder.close()
    with pytest.raises(ValueError, match="encoder is closed"):
        encoder.encode(np.zeros((1, 4, 4, 3), np.uint8))


# --- Names and files ---------------------------------------------------------------------------


def test_unknown_name_offers_close_ones():
    with pytest.raises(
        ModelError, match=r"or one of .*densenet121-t2.*, got 'densenet121_t2': did"
    ):
        encoders.load("densenet121_t2")
    with pytest.raises(ModelError, match=r"got 'qqq'$"):
        encoders.load("qqq")


def test_missing_file():
    for path in ("none.onnx", "folder/none", Path("none")):
        with pytest.raises(FileNotFoundError, match=r"no such encoder file: .*none"):
            encoders.load(path)


def test_registered_name_whose_file_is_missing_or_changed(tmp_path, monkeypatch):
    source = encoders.models_folder()
    toml = tmp_path / "registry.toml"
    shutil.copy(source / "registry.toml", toml)
    monkeypatch.setattr("histofast.encoders.catalogue.models_folder", lambda: tmp_path)
    encoders.registry.cache_clear()
    try:
        with pytest.raises(ModelError, match=r"densenet121-t2 is not installed, .* is missing"):
            encoders.load(encoders.DEFAULT, device="cpu")
        changed = tmp_path / "densenet121-t2.onnx"
        changed.write_bytes(graphs.to_bytes(graphs.tiny_encoder()))
        with pytest.raises(ModelError, match="is not the registered encoder densenet121-t2"):
            encoders.load(encoders.DEFAULT, device="cpu")
        encoders.load(changed, device="cpu").close()  # by its path it is just a file
    finally:
        encoders.registry.cache_clear()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.99])
def test_empty_and_truncated_files(tmp_path, share):
    whole = encoders.find(encoders.DEFAULT).read_bytes()
    path = tmp_path / "cut.onnx"
    path.write_bytes(whole[: int(share * len(whole))])
    wanted = "is empty" if share == 0 else "is not an ONNX file, or is truncated|cannot be loaded"
    with pytest.raises(ModelError, match=wanted) as told:
        encoders.load(path, device="cpu")
    assert "\n" not in str(told.value)


def test_text_is_no_encoder(tmp_path):
    path = tmp_path / "page.onnx"
    path.write_text("<!doctype html><title>Not found</title>")
    with pytest.raises(ModelError, match=r"page\.onnx is a web page, not the file"):
        encoders.load(path, device="cpu")


def test_opset_too_new(tmp_path):
    model = graphs.tiny_encoder()
    model.opset_import[0].version = 999
    with pytest.raises(ModelError, match=r"cannot be loaded by onnxruntime \d.*[Oo]pset"):
        encoders.load(save(tmp_path / "new.onnx", model), device="cpu")


# --- The contract ------------------------------------------------------------------------------


def test_float_input_is_told_what_to_do(tmp_path):
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["y"]),
        helper.make_node("Flatten", ["y"], ["features"]),
    ]
    path = foreign(
        tmp_path / "float.onnx",
        nodes=nodes,
        inputs=[info("x", TensorProto.FLOAT, ["n", 3, 224, 224])],
    )
    with pytest.raises(
        ModelError,
        match=r"has input 'x' float32 \(n, 3, 224, 224\), not the pixel-in form .*: wrap it with "
        "`histofast models add`, or export it from its network with `histofast models export`",
    ):
        encoders.load(path, device="cpu")


@pytest.mark.parametrize(
    ("spoiled", "message"),
    [
        ({"inputs": [info("pixels", TensorProto.UINT8, [1, "h", "w", 3])]}, "fixed batch of 1"),
        (
            {"inputs": [info(n, TensorProto.UINT8, ["n", "h", "w", 3]) for n in ("pixels", "b")]},
            r"has 2 inputs \('pixels', 'b'\)",
        ),
        (
            {
                "outputs": [
                    info("features", TensorProto.FLOAT, ["n", 3]),
                    info("pooled", TensorProto.FLOAT, ["n", 3, 1, 1]),
                ]
            },
            r"has 2 outputs \('features', 'pooled'\), wanted the one 'features'",
        ),
        (
            {"outputs": [info("pooled", TensorProto.FLOAT, ["n", 3, 1, 1])]},
            r"has output 'pooled' float32 \(n, 3, 1, 1\), not 'features' float32 \(n, d\)",
        ),
        (
            {"props": {}},
            "lacks the metadata of the pixel-in form .*: wrap it with .* or export it from",
        ),
        ({"props": {"histofast.format": "2"}}, "encoder format 2, this histofast reads 1: update"),
        ({"props": {"histofast.format": "1"}}, "lacks the metadata entry 'histofast.name'"),
        ({"d": 4}, "says d = 4 but its output has 3 features"),
        ({"mpp": "half"}, "'histofast.mpp' must be float, got 'half'"),
        ({"mpp": 50.0}, r"metadata: mpp must be within 0.05..20 um per pixel, got 50"),
        ({"patch_px": 0}, "metadata: patch_px must be within 1..16384, got 0"),
        ({"name": "a/b"}, "name must be 1..200 characters without spaces, slashes .*, got 'a/b'"),
    ],
)
def test_spoiled_contract_is_refused(tmp_path, spoiled, message):
    if not spoiled.keys() & {"inputs", "outputs", "props"}:
        props = encoders.EncoderMetadata(**METADATA).to_props()
        props |= {f"histofast.{key}": str(value) for key, value in spoiled.items()}
        spoiled = {"props": props}
    path = foreign(tmp_path / "spoiled.onnx", **spoiled)
    with pytest.raises(ModelError, match=message) as told:
        encoders.load(path, device="cpu")
    assert "\n" not in str(told.value)


def test_read_spec_is_what_load_sees(tiny):
    with encoders.load(tiny, device="cpu") as encoder:
        assert encoders.read_spec(tiny) == encoder.spec
    assert encoder.spec.sha256 == encoders.sha256_of(tiny)
    with pytest.raises(FileNotFoundError):
        encoders.read_spec(tiny.with_name("none.onnx"))


def test_metadata_survives_writing():
    metadata = encoders.EncoderMetadata(**METADATA)
    assert encoders.EncoderMetadata.from_props(metadata.to_props(), where="here") == metadata


def test_same_graph_same_bytes():
    assert graphs.to_bytes(graphs.tiny_encoder()) == graphs.to_bytes(graphs.tiny_encoder())


# --- Devices -------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["gpu", "cpu:1", "cuda:", "cuda:x", "", "tensorrt:"])
def test_unknown_device(tiny, device):
    with pytest.raises(ValueError, match="device must be one of auto, cpu, cuda, tensorrt, or "):
        encoders.load(tiny, device=device)


def test_no_threads(tiny):
    with pytest.raises(ValueError, match="threads must be at least 1, got 0"):
        encoders.load(tiny, device="cpu", threads=0)


def test_cuda_that_cannot_work_says_why(tiny, monkeypatch):
    monkeypatch.setattr(runtime, "why_no_cuda", lambda: "there is no NVIDIA driver: get one")
    with pytest.raises(ModelError, match="device cuda does not work: there is no NVIDIA driver"):
        encoders.load(tiny, device="cuda")
    with encoders.load(tiny, device="auto") as encoder:
        assert encoder.provider == "CPUExecutionProvider"
        assert encoder.device_note == "CUDA is not used: there is no NVIDIA driver: get one"


def test_tensorrt_that_cannot_work_says_why(tiny, monkeypatch):
    monkeypatch.setattr(runtime, "why_no_cuda", lambda: "there is no NVIDIA driver: get one")
    listed = [runtime.TENSORRT, runtime.CUDA]
    monkeypatch.setattr(runtime.runtime(), "get_available_providers", lambda: listed)
    with pytest.raises(ModelError, match="device tensorrt does not work: there is no NVIDIA"):
        encoders.load(tiny, device="tensorrt:1")
    listed.remove(runtime.TENSORRT)
    with pytest.raises(ModelError, match='is built without TensorRT: use device="cuda"'):
        encoders.load(tiny, device="tensorrt")


def test_missing_tensorrt_is_named(monkeypatch):
    monkeypatch.setattr(runtime, "why_no_cuda", lambda: None)
    if runtime.TENSORRT not in runtime.runtime().get_available_providers():
        pytest.skip("needs an ONNX Runtime with TensorRT")
    reason = runtime.why_no_tensorrt()
    assert reason is None or reason.startswith("TensorRT 10 is missing: pip install")


def test_submitting_on_the_cpu_is_encoding(tiny, rng):
    pixels = rng.integers(0, 256, (5, 4, 4, 3), np.uint8)
    with encoders.load(tiny, device="cpu") as encoder:
        (features,) = encoder.submit(pixels).result()
        assert encoder.busy_s > 0
        np.testing.assert_array_equal(features, encoder.encode(pixels))
        encoder.submit(pixels).discard()


def test_cuda_that_became_cpu_is_refused(tiny, monkeypatch):
    if runtime.driver_gpu_count():
        pytest.skip("needs a machine without a GPU")
    monkeypatch.setattr(runtime, "why_no_cuda", lambda: None)
    monkeypatch.setattr(runtime, "driver_gpu_count", lambda: 2)
    monkeypatch.setattr(_core, "cuda_is_compiled", lambda: False)
    monkeypatch.setattr(runtime, "make_session", fake_make_session)
    with pytest.raises(
        ModelError, match="device cuda does not work: there is no GPU 2: the driver"
    ):
        encoders.load(tiny, device="cuda:2")
    with pytest.raises(ModelError, match="fell back to another provider on GPU 1"):
        encoders.load(tiny, device="cuda:1")
    with encoders.load(tiny, device="auto") as encoder:
        assert "fell back" in encoder.device_note


_make_session = runtime.make_session


def fake_make_session(model, *, provider=runtime.CPU, **_):
    return _make_session(model) if provider == runtime.CPU else None


@pytest.mark.parametrize(
    ("available", "gpus", "message"),
    [
        ([], 1, "is built without CUDA: pip uninstall"),
        ([runtime.CUDA], None, "there is no NVIDIA driver"),
        ([runtime.CUDA], 0, "offers no GPU"),
    ],
)
def test_why_no_cuda(monkeypatch, available, gpus, message):
    monkeypatch.setattr(runtime.runtime(), "get_available_providers", lambda: available)
    monkeypatch.setattr(runtime, "driver_gpu_count", lambda: gpus)
    assert message in runtime.why_no_cuda()


def test_missing_cuda_library_is_named(monkeypatch):
    if runtime.driver_gpu_count() or runtime.CUDA not in (
        runtime.runtime().get_available_providers()
    ):
        pytest.skip("needs onnxruntime-gpu on a machine without CUDA")
    monkeypatch.setattr(runtime, "driver_gpu_count", lambda: 1)
    reason = runtime.why_no_cuda()
    assert reason is not None
    assert re.search(r"^lib\S+\.so\S* is missing, which the CUDA provider .* needs: pip", reason)


@pytest.mark.gpu
def test_cuda_agrees_with_the_cpu(default, rng):
    if runtime.why_no_cuda() is not None:
        pytest.skip("needs a GPU that ONNX Runtime can use")
    pixels = rng.integers(0, 256, (9, 128, 128, 3), dtype=np.uint8)
    with encoders.load(encoders.DEFAULT, device="cuda") as encoder:
        np.testing.assert_allclose(encoder.encode(pixels), default.encode(pixels), atol=1e-4)


def test_every_listed_provider_works_or_says_why_not():
    problems = graphs.provider_problems()
    assert problems["CPUExecutionProvider"] is None
    assert all(problem is None or problem for problem in problems.values())


def test_workers_raise_what_they_meet(tiny, monkeypatch):
    with encoders.load(tiny, device="cpu", threads=2) as encoder:
        fail = runtime.runtime_errors()[0]

        class Session:
            def run(self, *_):
                raise fail("[ONNXRuntimeError] : 1 : FAIL : out of luck\nat line 7")

        monkeypatch.setattr(encoder, "_session", Session())
        with pytest.raises(ModelError, match=r"failed on 3 patches of 4 x 4 px: out of luck$"):
            encoder.encode(np.zeros((3, 4, 4, 3), np.uint8))


# --- In a fresh process ------------------------------------------------------------------------


def in_fresh_process(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )


def test_importing_is_light():
    heavy = "[m for m in ('onnxruntime', 'onnx', 'torch', 'h5py') if m in sys.modules]"
    done = in_fresh_process(f"import sys, histofast.encoders as e; e.registry(); print({heavy})")
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "[]", "")


def test_auto_says_nothing_on_standard_error():
    done = in_fresh_process(
        "import sys, numpy as np, histofast.encoders as e\n"
        "x = e.load('densenet121-t2', device='auto')\n"
        "x.encode(np.zeros((1, 32, 32, 3), np.uint8))\n"
        "print([m for m in ('onnx', 'torch') if m in sys.modules])"
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "[]", "")
