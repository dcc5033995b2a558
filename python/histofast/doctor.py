"""What is here, what really works, and what to do about the rest."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

import histofast
from histofast import _core, encoders, graphs
from histofast._files import existing_folder, try_shared
from histofast._machine import available_cpus
from histofast.errors import CudaError, HistofastError, WriteError

Status = Literal["ok", "warn", "fail"]

_PACKAGES = ("numpy", "scipy", "h5py", "onnx", "tifffile", "imagecodecs", "openslide-python")
# All of these put files into the same folder; the last one installed wins.
_ONNX_RUNTIMES = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-directml",
    "onnxruntime-openvino",
    "onnxruntime-qnn",
)
_CODECS = {"jpeg8": "JPEG", "jpeg2k": "JPEG 2000", "webp": "WebP", "lzw": "LZW", "zlib": "deflate"}
_FEW_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing looked at. `remedy` is empty where there is nothing to do."""

    topic: str
    status: Status
    text: str
    remedy: str = ""


def examine(*, shared: str | Path | None = None) -> list[Finding]:
    """Look at everything that a run depends on, and try it where a list could lie.

    Writes nothing but temporary files, and nothing on standard output or error.

    Args:
        shared: a folder that several processes or machines are to write to, which is tried too. What locks do
            between machines can only be seen from two of them.

    Raises:
        FileNotFoundError, ValueError: no such folder, or no folder.
    """
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _versions,
        _cpu,
        _gpu,
        _onnx_runtime_installs,
        _providers,
        _default_encoder,
        _codecs,
        _openslide,
        _temporary_folder,
        _torch,
    )
    found = [finding for check in checks for finding in check()]
    return found if shared is None else [*found, *_shared(existing_folder("shared", shared))]


def _shared(folder: Path) -> Iterator[Finding]:
    try:
        for tried in try_shared(folder):
            yield Finding(
                topic=f"shared folder, {tried.what}",
                status="ok"
                if tried.works
                else "warn"
                if tried.what in ("locks", "fsync")
                else "fail",
                text=tried.text,
                remedy="" if tried.works else tried.means,
            )
    except WriteError as error:
        yield Finding(
            topic="shared folder", status="fail", text=str(error), remedy="mount it to be written"
        )


def _versions() -> Iterator[Finding]:
    yield Finding(
        topic="python",
        status="ok",
        text=f"{platform.python_version()} on {platform.platform()}, {sys.executable}",
    )
    yield Finding(topic="histofast", status="ok", text=histofast.__version__)
    found = {name: _version(name) for name in _PACKAGES}
    if missing := [name for name, version in found.items() if version is None]:
        yield Finding(
            topic="packages",
            status="fail",
            text=f"{', '.join(missing)} not installed",
            remedy=f"pip install {' '.join(missing)}",
        )
    text = ", ".join(f"{name} {version}" for name, version in found.items() if version is not None)
    yield Finding(topic="packages", status="ok", text=text)


def _cpu() -> Iterator[Finding]:
    usable, visible = available_cpus(), os.cpu_count() or 1
    text = f"{_cpu_model()}; kernels use {_core.best_isa().name}; {usable} of {visible} CPUs usable"
    yield Finding(topic="cpu", status="ok", text=text)


def _gpu() -> Iterator[Finding]:
    gpus = encoders.driver_gpu_count()
    kernels = (
        "kernels built with CUDA" if _core.cuda_is_compiled() else "kernels built without CUDA"
    )
    if not gpus:
        text = "no NVIDIA driver" if gpus is None else "the NVIDIA driver offers no GPU"
        yield Finding(
            topic="gpu", status="ok", text=f"{text}; {kernels}; everything runs on the CPU"
        )
        return
    try:
        names = [_core.cuda_device_name(i) for i in range(_core.cuda_device_count())]
    except CudaError as error:
        yield Finding(
            topic="gpu",
            status="warn",
            text=f"{gpus} GPU(s), but CUDA fails: {error}",
            remedy="update the NVIDIA driver",
        )
        return
    yield Finding(topic="gpu", status="ok", text="; ".join([f"{gpus} GPU(s)", *names, kernels]))


def _onnx_runtime_installs() -> Iterator[Finding]:
    found = {name: version for name in _ONNX_RUNTIMES if (version := _version(name)) is not None}
    text = ", ".join(f"{name} {version}" for name, version in found.items())
    if len(found) == 1:
        yield Finding(topic="onnxruntime", status="ok", text=text)
        return
    has_gpu_wheels = platform.machine().lower() in ("x86_64", "amd64") and sys.platform != "darwin"
    wanted = "onnxruntime-gpu" if has_gpu_wheels else "onnxruntime"
    if not found:
        yield Finding(
            topic="onnxruntime",
            status="fail",
            text="not installed",
            remedy=f"pip install {wanted}",
        )
        return
    yield Finding(
        topic="onnxruntime",
        status="fail",
        text=f"installed {len(found)} times over each other: {text}",
        remedy=f"pip uninstall -y {' '.join(found)}, then pip install {wanted}",
    )


def _providers() -> Iterator[Finding]:
    try:
        problems = graphs.provider_problems()
    except HistofastError as error:
        yield Finding(
            topic="providers", status="fail", text=str(error), remedy="install onnxruntime again"
        )
        return
    for name, problem in problems.items():
        topic = f"provider {name.removesuffix('ExecutionProvider')}"
        if problem is None:
            yield Finding(topic=topic, status="ok", text="works")
        elif name.startswith("CPU"):
            yield Finding(
                topic=topic, status="fail", text=problem, remedy="install onnxruntime again"
            )
        elif name.startswith("CUDA") and encoders.driver_gpu_count():
            text, _, remedy = problem.partition(": ")
            yield Finding(topic=topic, status="warn", text=text, remedy=remedy)
        else:
            yield Finding(topic=topic, status="ok", text=f"not used: {problem}")


def _default_encoder() -> Iterator[Finding]:
    topic = f"encoder {encoders.DEFAULT}"
    try:
        with encoders.load(encoders.DEFAULT, device="cpu", threads=1) as encoder:
            encoder.encode(np.zeros((1, 64, 64, 3), np.uint8))
            spec = encoder.spec
    except (HistofastError, OSError) as error:
        text, _, remedy = str(error).rpartition(": ")
        yield Finding(topic=topic, status="fail", text=text, remedy=remedy)
        return
    yield Finding(
        topic=topic,
        status="ok",
        text=f"{spec.d} features, sha256 {spec.sha256[:12]}... as registered, runs",
    )


def _codecs() -> Iterator[Finding]:
    try:
        imagecodecs = importlib.import_module("imagecodecs")
    except ImportError as error:
        yield Finding(
            topic="codecs",
            status="fail",
            text=f"imagecodecs cannot be imported ({error})",
            remedy="pip install --force-reinstall imagecodecs",
        )
        return
    broken = [label for codec, label in _CODECS.items() if not _round_trips(imagecodecs, codec)]
    if broken:
        yield Finding(
            topic="codecs",
            status="warn",
            text=f"imagecodecs lacks {', '.join(broken)}: such slides cannot be read",
            remedy="pip install --force-reinstall --only-binary :all: imagecodecs",
        )
        return
    yield Finding(topic="codecs", status="ok", text=f"{', '.join(_CODECS.values())} decode")


def _round_trips(imagecodecs: Any, codec: str) -> bool:
    grey = np.full((16, 16, 3), 128, np.uint8)
    try:
        encoded = getattr(imagecodecs, f"{codec}_encode")(grey)
        decoded = getattr(imagecodecs, f"{codec}_decode")(encoded)
    except (
        ImportError,
        RuntimeError,
        AttributeError,
    ):  # a delayed import that fails; a library's no
        return False
    flat = np.frombuffer(decoded, np.uint8) if isinstance(decoded, bytes) else np.asarray(decoded)
    return bool(flat.size == grey.size and np.abs(flat.astype(int) - 128).max() <= 2)


def _openslide() -> Iterator[Finding]:
    try:
        openslide = importlib.import_module("openslide")
    except (ImportError, OSError) as error:
        yield Finding(
            topic="openslide",
            status="warn",
            text=f"OpenSlide cannot be loaded ({str(error).splitlines()[0]}): "
            "only TIFF-based slides can be read",
            remedy="pip install openslide-bin",
        )
        return
    yield Finding(topic="openslide", status="ok", text=str(openslide.__library_version__))


def _temporary_folder() -> Iterator[Finding]:
    try:
        folder = Path(tempfile.gettempdir())
        with tempfile.TemporaryFile() as file:
            file.write(b"\0" * (1 << 20))
        free_bytes = shutil.disk_usage(folder).free
    except OSError as error:
        yield Finding(
            topic="temporary files",
            status="fail",
            text=str(error),
            remedy="free space there, or set TMPDIR to a folder that can be written",
        )
        return
    text = f"{folder} can be written, {free_bytes / 1e9:.1f} GB free"
    if free_bytes < _FEW_BYTES:
        yield Finding(
            topic="temporary files", status="warn", text=text, remedy="free space, or set TMPDIR"
        )
        return
    yield Finding(topic="temporary files", status="ok", text=text)


def _torch() -> Iterator[Finding]:
    version = _version("torch")
    text = "not installed; only needed for training and for making encoders"
    yield Finding(topic="torch", status="ok", text=text if version is None else version)


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, "") or platform.processor() or platform.machine()
