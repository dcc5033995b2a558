"""The door to ONNX Runtime: sessions, and whether a provider really works.

ONNX Runtime falls back to the CPU without an error and lists providers that cannot run, so nothing
here trusts a list: a session is made and asked what it runs on. Imported only when one is needed.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import io
import os
import re
import sys
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from histofast import _words
from histofast.errors import ModelError

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
PROVIDERS = {"cpu": CPU, "cuda": CUDA, "tensorrt": TENSORRT}  # by kind of device
MEMORY = "cuda"  # ONNX Runtime's name of the memory that graphs on a GPU are bound to

_FOLDER = "session.model_external_initializers_file_folder_path"
_LONGEST = 300  # characters of a message; it repeats names and shapes
_FATAL, _ERROR = 4, 3  # ONNX Runtime's severities


@cache
def runtime() -> Any:
    """Return the module onnxruntime, its log reduced to what is an error.

    Raises:
        ModelError: it is not installed, or broken.
    """
    try:
        module = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise ModelError(
            f"onnxruntime cannot be imported ({error}): pip install --force-reinstall onnxruntime"
        ) from None
    if not hasattr(module, "InferenceSession"):  # what two packages in one folder may leave behind
        raise ModelError(
            "onnxruntime is damaged (no InferenceSession): pip uninstall -y onnxruntime "
            "onnxruntime-gpu, then install histofast again"
        )
    module.set_default_logger_severity(_ERROR)
    return module


@cache
def runtime_errors() -> tuple[type[Exception], ...]:
    """Return the exception types of ONNX Runtime; they share no base but Exception.

    What it says may be no text, as names in the file, and it may run out of memory.
    """
    state = importlib.import_module(f"{runtime().__name__}.capi.onnxruntime_pybind11_state")
    found = [value for value in vars(state).values() if isinstance(value, type)]
    own = (kind for kind in found if issubclass(kind, Exception))
    return (*own, MemoryError, UnicodeDecodeError)


def first_line(error: Exception) -> str:
    """Return the first line of an ONNX Runtime message, without its code in front."""
    if isinstance(error, UnicodeDecodeError):
        return "names in it are no text"
    if isinstance(error, MemoryError):
        return "there is not enough memory"
    line = _words.first_line(error)
    _, code, rest = line.rpartition("[ONNXRuntimeError] : ")
    told = rest.split(" : ", 2)[-1] if code else line
    told = re.sub(r"/\S+:\d+ [^()]*\([^()]*\) ", "", told)  # a line of its source
    return _words.clipped(told.strip(), _LONGEST)


def make_session(
    model: str | bytes,
    *,
    provider: str = CPU,
    gpu: int = 0,
    stream: int | None = None,
    captures: bool = False,
    folder: Path | None = None,
) -> Any | None:
    """Return a session of one intra-op thread on `provider`, or None if it became another one.

    Args:
        model: path or bytes of an ONNX file.
        provider: as ONNX Runtime names them.
        gpu: index of the GPU, for CUDA and TensorRT.
        stream: address of the CUDA stream to compute on; its own when None.
        captures: capture CUDA graphs; what runs then says by `run_options` which.
        folder: of the files with the weights of a model that is given as bytes.

    Raises:
        Any of `runtime_errors()`: the model cannot be loaded, or not captured.
    """
    ort = runtime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL  # what goes wrong is raised, and said once
    if folder is not None:
        options.add_session_config_entry(_FOLDER, str(folder))
    if provider == CPU:
        return ort.InferenceSession(model, options, providers=[CPU])
    preload_cuda()
    wanted: list[Any] = [provider]
    if provider in (CUDA, TENSORRT):
        own = {"device_id": str(gpu)}
        if stream is not None:
            own["user_compute_stream"] = str(stream)
        wanted = [(CUDA, {**own, **_cuda_options(captures=captures)})]
        if provider == TENSORRT:
            wanted.insert(0, (TENSORRT, {**own, **_tensorrt_options(captures=captures)}))
    with _silent():
        session = ort.InferenceSession(model, options, providers=[*wanted, CPU])
    return session if session.get_providers()[0] == provider else None


def _cuda_options(*, captures: bool) -> dict[str, str]:
    return {
        # TF32 keeps 10 bits of each factor: features must not depend on the device that much.
        "use_tf32": "0",
        # An exhaustive search chooses by the clock: the last bits would differ from run to run.
        "cudnn_conv_algo_search": "HEURISTIC",
        "enable_cuda_graph": str(int(captures)),
    }


def _tensorrt_options(*, captures: bool) -> dict[str, str]:
    base = os.environ.get("XDG_CACHE_HOME")
    engines = (Path(base) if base else Path.home() / ".cache") / "histofast" / "tensorrt"
    return {
        "trt_fp16_enable": "0",  # a float16 graph is float16 anyway; others stay what they are
        "trt_engine_cache_enable": "1",  # building one takes minutes
        "trt_engine_cache_path": str(engines),
        "trt_cuda_graph_enable": str(int(captures)),
    }


def run_options(*, graph: int | None, waits: bool) -> Any:
    """Return what a run is told.

    Args:
        graph: number of the CUDA graph that it captures or replays; None: it does neither.
        waits: return when the work is done; otherwise when it is enqueued, if ONNX Runtime can.
    """
    options = runtime().RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(-1 if graph is None else graph))
    if not waits:
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    return options


@cache
def preload_cuda() -> None:
    """Let ONNX Runtime find the CUDA libraries that pip put into site-packages, where it can."""
    preload = getattr(runtime(), "preload_dlls", None)
    if preload is None:
        return
    # It prints what it does not find; what matters of that is asked again by `why_no_cuda`.
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        preload()


def driver_gpu_count() -> int | None:
    """Return how many GPUs the NVIDIA driver offers, or None without a driver."""
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return None
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def device_problem(kind: str) -> str | None:
    """Return what is seen to keep encoders from a kind of device, with the remedy, or None.

    Args:
        kind: `cpu`, `cuda` or `tensorrt`.
    """
    return why_not(PROVIDERS[kind])


def why_not(provider: str) -> str | None:
    """Return what is seen to keep ONNX Runtime from using a provider, with the remedy, or None."""
    if provider == TENSORRT:
        return why_no_tensorrt()
    return why_no_cuda() if provider == CUDA else None


def why_no_cuda() -> str | None:
    """Return what keeps ONNX Runtime from using CUDA, with the remedy, or None if nothing seen does.

    Cheap: no session is made. None is therefore no promise.
    """
    ort = runtime()
    if CUDA not in ort.get_available_providers():
        return (
            f"onnxruntime {ort.__version__} is built without CUDA: pip uninstall -y onnxruntime, "
            "then pip install onnxruntime-gpu"
        )
    gpus = driver_gpu_count()
    if gpus is None:
        return 'there is no NVIDIA driver: install one, or use device="cpu"'
    if gpus == 0:
        return "the NVIDIA driver offers no GPU: look at nvidia-smi and CUDA_VISIBLE_DEVICES"
    preload_cuda()
    capi = Path(ort.__file__).parent / "capi"
    with contextlib.suppress(
        AttributeError, OSError
    ):  # the provider below needs this one's symbols
        ctypes.CDLL(str(capi / "libonnxruntime_providers_shared.so"), mode=ctypes.RTLD_GLOBAL)
    provider = capi / "libonnxruntime_providers_cuda.so"
    if provider.is_file():
        try:
            ctypes.CDLL(str(provider))
        except OSError as error:
            missing = str(error).split(":", 1)[0]
            return (
                f"{missing} is missing, which the CUDA provider of onnxruntime {ort.__version__} "
                "needs: pip install 'onnxruntime-gpu[cuda,cudnn]'"
            )
    return None


def why_no_tensorrt() -> str | None:
    """Return what keeps ONNX Runtime from using TensorRT, with the remedy, or None."""
    ort = runtime()
    if TENSORRT not in ort.get_available_providers():
        return f'onnxruntime {ort.__version__} is built without TensorRT: use device="cuda"'
    reason = why_no_cuda()
    if reason is not None:
        return reason
    try:
        ctypes.CDLL("nvinfer_10.dll" if sys.platform == "win32" else "libnvinfer.so.10")
    except OSError:
        return 'TensorRT 10 is missing: pip install tensorrt-cu13, or use device="cuda"'
    return None


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    # A provider that fails to load is logged by the default logger, whatever the session's level,
    # and the fallback is printed; both are reported by the caller, in one line.
    ort = runtime()
    ort.set_default_logger_severity(_FATAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        ort.set_default_logger_severity(_ERROR)
