"""The doctor: nothing to say on a healthy machine, the right remedy on a sick one."""

from __future__ import annotations

import importlib
import importlib.metadata
import shutil
import tempfile
from types import SimpleNamespace

import pytest

from histofast import doctor, encoders, graphs
from histofast.errors import CudaError, ModelError


def examine(topic):
    (finding,) = [f for f in doctor.examine() if f.topic == topic]
    return finding


@pytest.fixture
def installed(monkeypatch):
    """Let the test say which distributions are installed, at which version; None: not."""
    versions: dict[str, str | None] = {}
    real = importlib.metadata.version

    def version(name):
        if name not in versions:
            return real(name)
        if versions[name] is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    return versions


@pytest.fixture
def broken_import(monkeypatch):
    """Let the import of one module fail."""
    real = importlib.import_module

    def fail(name, error):
        def import_module(wanted, package=None):
            if wanted == name:
                raise error
            return real(wanted, package)

        monkeypatch.setattr(importlib, "import_module", import_module)

    return fail


def test_a_whole_installation_has_no_failure(capfd):
    findings = doctor.examine()
    assert [f for f in findings if f.status == "fail"] == []
    assert all(f.remedy for f in findings if f.status != "ok")
    assert all(f.text and "\n" not in f.text for f in findings)
    topics = [f.topic for f in findings]
    assert len(set(topics)) == len(topics)
    assert {"python", "cpu", "gpu", "onnxruntime", "provider CPU", "codecs", "torch"} <= set(topics)
    assert capfd.readouterr() == ("", "")


def test_double_install(installed):
    installed |= {"onnxruntime": "1.30.0", "onnxruntime-gpu": "1.31.1"}
    found = examine("onnxruntime")
    assert found.status == "fail"
    assert "installed 2 times over each other: onnxruntime 1.30.0, onnxruntime-gpu" in found.text
    assert found.remedy.startswith("pip uninstall -y onnxruntime onnxruntime-gpu, then pip install")


def test_no_onnxruntime(installed, monkeypatch):
    installed |= dict.fromkeys(doctor._ONNX_RUNTIMES)

    def missing():
        raise ModelError("onnxruntime cannot be imported (gone): pip install")

    monkeypatch.setattr(graphs, "provider_problems", missing)
    assert examine("onnxruntime").status == "fail"
    found = examine("providers")
    assert (found.status, found.text.split(" (")[0]) == ("fail", "onnxruntime cannot be imported")


def test_missing_package(installed):
    installed["h5py"] = None
    found = [f for f in doctor.examine() if f.topic == "packages"]
    assert (found[0].status, found[0].text) == ("fail", "h5py not installed")
    assert found[0].remedy == "pip install h5py"


@pytest.mark.parametrize(
    ("gpus", "problem", "status", "remedy"),
    [
        (None, "there is no NVIDIA driver: install one", "ok", ""),
        (1, "libx.so is missing: pip install 'onnxruntime-gpu[cuda,cudnn]'", "warn", "pip install"),
        (1, None, "ok", ""),
    ],
)
def test_cuda_provider(monkeypatch, gpus, problem, status, remedy):
    monkeypatch.setattr(encoders, "driver_gpu_count", lambda: gpus)
    listed = {"CUDAExecutionProvider": problem, "CPUExecutionProvider": None}
    monkeypatch.setattr(graphs, "provider_problems", lambda: listed)
    found = examine("provider CUDA")
    assert found.status == status
    assert found.remedy.startswith(remedy)
    assert examine("provider CPU").text == "works"


def test_broken_cpu_provider(monkeypatch):
    listed = {"CPUExecutionProvider": "computes 3.0 for a known mean"}
    monkeypatch.setattr(graphs, "provider_problems", lambda: listed)
    assert examine("provider CPU").status == "fail"


@pytest.mark.parametrize("sick", [False, True])
def test_gpu(monkeypatch, sick):
    def name(index):
        if sick:
            raise CudaError("cudaGetDeviceProperties: driver too old")
        return f"GPU {index}"

    core = SimpleNamespace(
        cuda_is_compiled=lambda: True,
        cuda_device_count=lambda: 1,
        cuda_device_name=name,
        best_isa=lambda: SimpleNamespace(name="avx2"),
    )
    monkeypatch.setattr(doctor, "_core", core)
    monkeypatch.setattr(encoders, "driver_gpu_count", lambda: 1)
    found = examine("gpu")
    if sick:
        assert (found.status, found.remedy) == ("warn", "update the NVIDIA driver")
        assert "driver too old" in found.text
    else:
        assert (found.status, found.text) == ("ok", "1 GPU(s); GPU 0; kernels built with CUDA")


def test_default_encoder_missing(monkeypatch):
    def load(*_, **__):
        raise ModelError("encoder x is not installed, x.onnx is missing: see models/README.md")

    monkeypatch.setattr(encoders, "load", load)
    found = examine(f"encoder {encoders.DEFAULT}")
    assert (found.status, found.remedy) == ("fail", "see models/README.md")
    assert found.text == "encoder x is not installed, x.onnx is missing"


def test_no_imagecodecs(broken_import):
    broken_import("imagecodecs", ImportError("libjpeg is gone"))
    found = examine("codecs")
    assert found.status == "fail"
    assert "libjpeg is gone" in found.text


def test_a_codec_is_missing(broken_import, monkeypatch):
    import imagecodecs
    from imagecodecs import jpeg2k_encode  # noqa: F401  resolved before it is replaced

    def gone(*_):
        raise ImportError("no jpeg2k")

    monkeypatch.setattr(imagecodecs, "jpeg2k_encode", gone)
    found = examine("codecs")
    assert found.status == "warn"
    assert found.text.startswith("imagecodecs lacks JPEG 2000:")


def test_no_openslide(broken_import):
    broken_import("openslide", OSError("libopenslide.so.1 not found\nmore"))
    found = examine("openslide")
    assert (found.status, found.remedy) == ("warn", "pip install openslide-bin")
    assert "libopenslide.so.1 not found)" in found.text


def test_temporary_folder(monkeypatch):
    def refuse():
        raise PermissionError(13, "Permission denied", "/nowhere")

    with monkeypatch.context() as patched:
        patched.setattr(tempfile, "TemporaryFile", refuse)
        found = examine("temporary files")
        assert found.status == "fail"
        assert "Permission denied" in found.text
    usage = SimpleNamespace(total=1, used=1, free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert examine("temporary files").status == "warn"


def test_no_torch_is_fine(installed):
    installed["torch"] = None
    assert examine("torch").status == "ok"
    assert "only needed for training" in examine("torch").text
