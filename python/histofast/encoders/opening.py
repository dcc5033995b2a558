"""A file opened by ONNX Runtime where it is asked for, and what there is to say of that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast import _core
from histofast.encoders import runtime
from histofast.encoders.beside import files_of
from histofast.encoders.bound import Place
from histofast.encoders.checking import check_not_empty, no_onnx
from histofast.encoders.form import form_of, read_form, shown
from histofast.encoders.memory import refuse_too_large
from histofast.encoders.spec import PREFIX
from histofast.errors import ModelError

_LESS = "take a cut of it, or use a machine with more"


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """A session, where it runs, and what there is to say of that."""

    session: Any
    device: str = "cpu"
    place: Place | None = None
    note: str = ""


def open_file(path: Path, *, kind: str, gpu: int) -> Opened:
    """Open a file; the note says why `auto` did not take CUDA.

    Raises:
        ModelError: no sound ONNX file, ONNX Runtime refuses it, or the device does not work.
    """
    check_not_empty(path)
    size_bytes = sum(file.stat().st_size for file in files_of(path))
    if kind == "cpu":
        size_bytes *= _times_its_file(path)
    refuse_too_large(f"{path}, to be opened,", size_bytes, remedy=_LESS)
    note = ""
    try:
        if kind != "cpu":
            wanted = "cuda" if kind == "auto" else kind
            reason = runtime.device_problem(wanted)
            if reason is None and gpu >= (offered := runtime.driver_gpu_count() or 0):
                reason = f"there is no GPU {gpu}: the driver offers {offered}, counted from 0"
            if reason is None:
                opened = _open_on_gpu(path, wanted, gpu)
                if opened is not None:
                    return opened
                reason = (
                    f"ONNX Runtime fell back to another provider on GPU {gpu}: run "
                    '`histofast doctor`, or use device="cpu"'
                )
            if kind != "auto":
                raise ModelError(f"device {kind} does not work: {reason}")
            note = f"CUDA is not used: {reason}"
        return Opened(session=runtime.make_session(str(path)), note=note)
    except runtime.runtime_errors() as error:
        if type(error).__name__ == "InvalidProtobuf":
            raise no_onnx(str(path)) from None
        raise ModelError(
            f"{path} cannot be loaded by onnxruntime {runtime.runtime().__version__}: "
            f"{runtime.first_line(error)}"
        ) from None


def _times_its_file(path: Path) -> int:
    """Return how much memory ONNX Runtime takes on a CPU, where it has float16 as float32 as well."""
    return 3 if read_form(path).props.get(f"{PREFIX}precision") == "float16" else 1


def _open_on_gpu(path: Path, kind: str, gpu: int) -> Opened | None:
    """Open a file on a GPU, None if ONNX Runtime took another provider."""
    provider, device = runtime.PROVIDERS[kind], f"{kind}:{gpu}"
    if not _core.cuda_is_compiled():
        session = runtime.make_session(str(path), provider=provider, gpu=gpu)
        note = (
            "this build of histofast has no CUDA: no pinned memory and no CUDA graphs, slower; "
            "reinstall with nvcc on the path"
        )
        return session and Opened(session=session, device=device, note=note)
    stream, note, captures = _core.CudaStream(gpu), "", True
    where: dict[str, Any] = {"provider": provider, "gpu": gpu, "stream": stream.address}
    try:
        session = runtime.make_session(str(path), captures=True, **where)
    except runtime.runtime_errors() as error:
        captures, note = False, f"CUDA graphs are not used: {runtime.first_line(error)}"
        session = runtime.make_session(str(path), **where)
    place = Place(gpu=gpu, stream=stream, captures=captures)
    return session and Opened(session=session, device=device, place=place, note=note)


class OpenGraph:
    """Any ONNX graph on the CPU, run by one thread: for looking at graphs, not for encoding."""

    def __init__(self, model: bytes, *, where: str, folder: Path | None = None) -> None:
        """Open a graph.

        Args:
            model: bytes of an ONNX file.
            where: what to call it in messages.
            folder: that the files are in which it keeps weights in, if it does; they are mapped.

        Raises:
            ModelError: ONNX Runtime refuses it.
        """
        try:
            self._session: Any = runtime.make_session(model, folder=folder)
        except runtime.runtime_errors() as error:
            told = runtime.first_line(error)
            remedy = ""
            if "opset" in told.lower() or "IR version" in told:
                remedy = ": export it with opset 18, or update onnxruntime"
            version = runtime.runtime().__version__
            raise ModelError(
                f"{where} cannot be loaded by onnxruntime {version}: {told.rstrip('.')}{remedy}"
            ) from None
        form = form_of(self._session)
        self.where, self.inputs, self.outputs = where, form.inputs, form.outputs

    def run(
        self, feed: Mapping[str, Any], tensors: Sequence[str], *, where: str | None = None
    ) -> list[NDArray[Any]]:
        """Return some of its outputs.

        Args:
            feed: inputs by name.
            tensors: which, in any order.
            where: what the message of a failure begins with; None: what the graph is called.

        Raises:
            ModelError: it fails on what it is fed.
        """
        try:
            arrays: list[NDArray[Any]] = self._session.run(list(tensors), dict(feed))
        except runtime.runtime_errors() as error:
            raise ModelError(f"{where or self.where}: {runtime.first_line(error)}") from None
        for name, array in zip(tensors, arrays, strict=True):
            if not isinstance(array, np.ndarray):
                raise ModelError(
                    f"{where or self.where}: {shown(name)!r} must be a tensor, got a sequence or "
                    "nothing: choose another output"
                )
        return arrays
