"""An encoder file opened: pixels in, features out."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from histofast import _core
from histofast._arrays import check
from histofast._cpus import available_cpus
from histofast.encoders import _runtime
from histofast.encoders._registry import find, registry
from histofast.encoders._spec import INPUT, OUTPUT, EncoderMetadata, EncoderSpec, sha256_of
from histofast.errors import ModelError

_WANTED = f"the pixel-in form ('{INPUT}' uint8 (n, h, w, 3))"


def load(
    name_or_path: str | os.PathLike[str], *, device: str = "auto", threads: int | None = None
) -> Encoder:
    """Open an encoder by its name in the registry or by the path of its file.

    Args:
        name_or_path: `densenet121-t2`, or the path of an ONNX file in the pixel-in form.
        device: `cpu`; `cuda` (or `cuda:1`), refused unless it really runs there; `auto` takes CUDA
            where it works. `Encoder.device_note` says why not where it does not, and what speaks
            against running this encoder here.
        threads: patches encoded at the same time on the CPU; None: the CPUs this process may use.

    Raises:
        FileNotFoundError: no file at the path.
        ModelError: unknown name, a file that is no encoder in the pixel-in form, a device that does
            not work, a registered file whose checksum differs.
        ValueError: `device` or `threads` out of range.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", device):
        raise ValueError(f"device must be auto, cpu, cuda or cuda:<index>, got {device!r}")
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    kind, _, index = device.partition(":")
    path = find(name_or_path)
    sha256 = _checked_identity(path, name_or_path)
    session, note = _open(path, kind=kind, gpu=int(index or 0))
    spec = _checked_spec(session, path, sha256)
    on_cpu = session.get_providers()[0] == _runtime.CPU
    if on_cpu and spec.precision == "int8" and not _core.int8_is_exact():
        note = (
            "this CPU has no VNNI: sums of 8-bit products may saturate, features may differ from "
            "those that were measured; use the float32 encoder"
        )
    elif on_cpu and spec.precision == "float16":
        note = "float16 is for GPUs: on a CPU the float32 encoder is faster"
    return Encoder(session, spec, threads=threads or available_cpus(), device_note=note)


class Encoder:
    """A session of one encoder. Made by `load`; close it or use it in a `with` statement.

    On the CPU each patch is encoded alone, by one thread, and `threads` patches at a time: no time
    is lost on threads waiting for each other within a layer, the activations stay in the caches,
    and the bytes of a row depend on its pixels only.
    """

    def __init__(
        self, session: Any, spec: EncoderSpec, *, threads: int, device_note: str = ""
    ) -> None:
        self.spec = spec
        self.threads = threads
        self.device_note = device_note
        self.provider: str = session.get_providers()[0]
        self._session = session
        self._workers: ThreadPoolExecutor | None = None
        if self.provider == _runtime.CPU and threads > 1:
            self._workers = ThreadPoolExecutor(threads, thread_name_prefix="histofast-encode")

    @property
    def preferred_batch(self) -> int:
        """How many patches to hand over at once: enough to keep all threads or the GPU busy."""
        return max(8, 4 * self.threads) if self.provider == _runtime.CPU else 128

    def encode(
        self, pixels: NDArray[np.uint8], out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Encode patches.

        Args:
            pixels: (n, h, w, 3) uint8 RGB, C-contiguous; n may be 0.
            out: (n, d) float32 to write into; allocated when omitted.

        Returns:
            `out`: (n, d) float32, row i from patch i.

        Raises:
            TypeError: wrong dtype.
            ValueError: wrong shape, strided, or the encoder is closed.
            ModelError: the encoder takes another patch size, fails, or yields NaN or infinity.

        Determinism: on the CPU bitwise, whatever the threads and whatever else is in the batch; on
        a GPU for the same batch on the same device.
        """
        n, h, w = self._checked_sizes(pixels)
        if out is None:
            out = np.empty((n, self.spec.d), np.float32)
        check("out", out, "float32", (n, self.spec.d))
        if n == 0:
            return out
        with self._told(n, h, w):
            self._run(pixels, out)
        finite = np.isfinite(out).all(axis=1)
        if not finite.all():
            rows = np.flatnonzero(~finite)
            shown = ", ".join(map(str, rows[:8])) + (", ..." if len(rows) > 8 else "")
            raise ModelError(
                f"encoder {self.spec.name} gave NaN or infinity for {len(rows)} of {n} patches "
                f"(rows {shown}): use it at higher precision, or another encoder"
            )
        return out

    def encode_together(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Encode patches in one call of the graph, unchecked: for comparing graphs, n >= 1.

        Determinism: last bits may depend on the batch.
        """
        n, h, w = self._checked_sizes(pixels)
        with self._told(n, h, w):
            features: NDArray[np.float32] = self._session.run([OUTPUT], {INPUT: pixels})[0]
        return features

    def _checked_sizes(self, pixels: NDArray[np.uint8]) -> tuple[int, int, int]:
        if self._session is None:
            raise ValueError("encoder is closed: load it again")
        n, h, w = check("pixels", pixels, "uint8", ("n", "h", "w", 3))
        fixed = (self.spec.height_px or h, self.spec.width_px or w)
        if (h, w) != fixed:
            raise ModelError(
                f"encoder {self.spec.name} takes patches of {fixed[0]} x {fixed[1]} px, "
                f"got {h} x {w} px: ask for --patch-px {fixed[0]}"
            )
        return n, h, w

    @contextlib.contextmanager
    def _told(self, n: int, h: int, w: int) -> Iterator[None]:
        """Turn what ONNX Runtime raises into one line that says what was being encoded."""
        try:
            yield
        except _runtime.runtime_errors() as error:
            raise ModelError(
                f"encoder {self.spec.name} failed on {n} patches of {h} x {w} px: "
                f"{_runtime.first_line(error)}"
            ) from None

    def _run(self, pixels: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
        session = self._session

        def encode_one(i: int) -> None:
            out[i] = session.run([OUTPUT], {INPUT: pixels[i : i + 1]})[0][0]

        if self.provider != _runtime.CPU:
            out[:] = session.run([OUTPUT], {INPUT: pixels})[0]
        elif self._workers is None:
            for i in range(len(pixels)):
                encode_one(i)
        else:
            # Reading the results raises what a worker raised.
            for _ in self._workers.map(encode_one, range(len(pixels))):
                pass

    def sibling(self, model: bytes) -> Encoder:
        """Return an encoder on the CPU that computes another graph of the same inputs and outputs.

        Raises:
            ModelError: ONNX Runtime cannot load it.
        """
        try:
            session = _runtime.make_session(model)
        except _runtime.runtime_errors() as error:
            raise ModelError(
                f"a variant of {self.spec.name} cannot be loaded by onnxruntime "
                f"{_runtime.runtime().__version__}: {_runtime.first_line(error)}"
            ) from None
        return Encoder(session, self.spec, threads=self.threads)

    def close(self) -> None:
        """End the threads and free the session; `encode` is refused from then on."""
        if self._workers is not None:
            self._workers.shutdown()
        self._session = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return (
            f"Encoder({self.spec.name}, d={self.spec.d}, {self.provider}, threads={self.threads})"
        )


def read_spec(path: Path) -> EncoderSpec:
    """Return what an encoder file says of itself, having checked that it is in the pixel-in form.

    Raises:
        FileNotFoundError: no such file.
        ModelError: it is no encoder in the pixel-in form.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no encoder file at {path}")
    session, _ = _open(path, kind="cpu", gpu=0)
    return _checked_spec(session, path, sha256_of(path))


def _checked_identity(path: Path, asked: str | os.PathLike[str]) -> str:
    sha256 = sha256_of(path)
    entry = registry().encoders.get(asked) if isinstance(asked, str) else None
    if entry is not None and entry.path == path and entry.sha256 != sha256:
        raise ModelError(
            f"{path} is not the registered encoder {entry.name} (sha256 {sha256[:12]}..., wanted "
            f"{entry.sha256[:12]}...): install histofast again, or load the file by its path"
        )
    return sha256


def _open(path: Path, *, kind: str, gpu: int) -> tuple[Any, str]:
    """Return a session and the note that says why `auto` did not take CUDA."""
    if path.stat().st_size == 0:
        raise ModelError(f"{path} is empty: copy or export it again")
    note = ""
    try:
        if kind != "cpu":
            reason = _runtime.why_no_cuda()
            if reason is None:
                session = _runtime.make_session(str(path), provider=_runtime.CUDA, gpu=gpu)
                if session is not None:
                    return session, ""
                reason = (
                    f"ONNX Runtime fell back to the CPU on GPU {gpu}: run `histofast doctor`, "
                    "or use --device cpu"
                )
            if kind == "cuda":
                raise ModelError(f"device cuda does not work: {reason}")
            note = f"CUDA is not used: {reason}"
        return _runtime.make_session(str(path)), note
    except _runtime.runtime_errors() as error:
        state = type(error).__name__
        if state == "InvalidProtobuf":
            raise ModelError(
                f"{path} is not an ONNX file, or is truncated: copy or export it again"
            ) from None
        raise ModelError(
            f"{path} cannot be loaded by onnxruntime {_runtime.runtime().__version__}: "
            f"{_runtime.first_line(error)}"
        ) from None


def _checked_spec(session: Any, path: Path, sha256: str) -> EncoderSpec:
    inputs, outputs = session.get_inputs(), session.get_outputs()
    remedy = (
        "wrap it with `histofast models add`, or export it from its network with "
        "`histofast models export`"
    )
    if len(inputs) != 1:
        names = ", ".join(repr(i.name) for i in inputs) or "none"
        raise ModelError(f"{path} has {len(inputs)} inputs ({names}), not {_WANTED}: {remedy}")
    n, h, w, c = inputs[0].shape if len(inputs[0].shape) == 4 else (0, 0, 0, 0)
    if inputs[0].name != INPUT or inputs[0].type != "tensor(uint8)" or c != 3:
        raise ModelError(f"{path} has input {_shown(inputs[0])}, not {_WANTED}: {remedy}")
    if isinstance(n, int):
        raise ModelError(f"{path} has a fixed batch of {n}, input {_shown(inputs[0])}: {remedy}")
    if len(outputs) != 1:
        names = ", ".join(repr(o.name) for o in outputs)
        raise ModelError(
            f"{path} has {len(outputs)} outputs ({names}), wanted the one '{OUTPUT}': {remedy}"
        )
    shape = outputs[0].shape
    if (
        outputs[0].name != OUTPUT
        or outputs[0].type != "tensor(float)"
        or len(shape) != 2
        or not isinstance(shape[1], int)
    ):
        raise ModelError(
            f"{path} has output {_shown(outputs[0])}, not '{OUTPUT}' float32 (n, d): {remedy}"
        )
    props = session.get_modelmeta().custom_metadata_map
    metadata = EncoderMetadata.from_props(props, where=str(path))
    if metadata.d != shape[1]:
        raise ModelError(
            f"{path} says d = {metadata.d} but its output has {shape[1]} features: export it again"
        )
    return EncoderSpec(
        **asdict(metadata),
        path=path,
        sha256=sha256,
        size_bytes=path.stat().st_size,
        height_px=h if isinstance(h, int) else None,
        width_px=w if isinstance(w, int) else None,
    )


def _shown(value: Any) -> str:
    kind = value.type.removeprefix("tensor(").removesuffix(")")
    kind = {"float": "float32", "double": "float64"}.get(kind, kind)
    return f"'{value.name}' {kind} ({', '.join(str(s or '?') for s in value.shape)})"
