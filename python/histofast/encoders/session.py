"""An encoder file opened: pixels in, features out."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from histofast import _core
from histofast._arrays import check
from histofast._machine import ONNX_RUNTIME, available_cpus, check_device
from histofast._notes import log_of
from histofast._numbers import whole_number
from histofast.encoders import runtime
from histofast.encoders.beside import identity_of
from histofast.encoders.bound import SLOTS, BoundRunner, Ticket
from histofast.encoders.catalogue import find, registry
from histofast.encoders.checking import check_not_empty
from histofast.encoders.form import Form, form_of
from histofast.encoders.opening import Opened, open_file
from histofast.encoders.reading import all_specs, one_spec
from histofast.encoders.spec import INPUT, EncoderSpec
from histofast.errors import ModelError

_log = log_of(__name__)


def load(
    name_or_path: str | os.PathLike[str], *, device: str = "auto", threads: int | None = None
) -> Encoder:
    """Open an encoder by its name in the registry or by the path of its file.

    Args:
        name_or_path: `densenet121-t2`, or the path of an ONNX file in the pixel-in form.
        device: `cpu`; `cuda` or `tensorrt` (or `cuda:1`), refused unless it really runs there;
            `auto` takes CUDA where it works. `Encoder.device_note` says why not where it does not,
            and what speaks against running this encoder here.
        threads: patches encoded at the same time on the CPU; None: the CPUs this process may use.

    Raises:
        FileNotFoundError: no file at the path.
        ModelError: unknown name, a file that is no encoder in the pixel-in form or one of cuts (see
            `load_all`), a device that does not work, a registered file whose checksum differs.
        TypeError, ValueError: `threads` or `device` of another type or out of range.
    """
    opened, specs = _loaded(name_or_path, device, threads, read=one_spec)
    return Encoder(opened, specs[0], threads=int(threads or available_cpus()))


def load_all(
    name_or_path: str | os.PathLike[str], *, device: str = "auto", threads: int | None = None
) -> EncoderSet:
    """Open all encoders of a file: those of a file of cuts, or the one that any other file is.

    Args:
        name_or_path, device, threads: see `load`.

    Raises:
        What `load` raises, but for a file of cuts.
    """
    opened, specs = _loaded(name_or_path, device, threads, read=all_specs)
    return EncoderSet(opened, specs, threads=int(threads or available_cpus()))


def _loaded(
    name_or_path: str | os.PathLike[str],
    device: str,
    threads: int | None,
    *,
    read: Callable[[Form, Path, str, int], tuple[EncoderSpec, ...]],
) -> tuple[Opened, tuple[EncoderSpec, ...]]:
    """Open a session; its note also says what speaks against running what `read` finds in it."""
    kind, index = check_device(device, ONNX_RUNTIME)
    whole_number("threads", threads, at_least=1)
    path = find(name_or_path)
    identity = _checked_identity(path, name_or_path)
    opened = open_file(path, kind=kind, gpu=index or 0)
    note = opened.note
    specs = read(form_of(opened.session), path, *identity)
    on_cpu = opened.device == "cpu"
    precision = specs[0].precision
    if on_cpu and precision == "int8" and not _core.int8_is_exact():
        note = (
            "this CPU has no VNNI: sums of 8-bit products may saturate, features may differ from "
            "those that were measured; use the float32 encoder"
        )
    elif on_cpu and precision == "float16":
        note = "float16 is for GPUs: on a CPU the float32 encoder is faster"
    names = ", ".join(spec.name for spec in specs)
    _log.debug("encoder %s of %s runs on %s", names, path, opened.device)
    if note:
        # Nobody without a GPU wants to read that none is used.
        is_news = opened.device != "cpu" or note != opened.note or runtime.driver_gpu_count()
        _log.log(logging.WARNING if is_news else logging.INFO, "encoder %s: %s", names, note)
    return replace(opened, note=note), specs


def _checked_identity(path: Path, asked: str | os.PathLike[str]) -> tuple[str, int]:
    """Return SHA-256 and size of an encoder, which are those of the registry where it is of it."""
    check_not_empty(path)
    sha256, size_bytes = identity_of(path)
    entry = registry().encoders.get(asked) if isinstance(asked, str) else None
    if entry is not None and entry.path == path and entry.sha256 != sha256:
        raise ModelError(
            f"{path} is not the registered encoder {entry.name} (sha256 {sha256[:12]}..., wanted "
            f"{entry.sha256[:12]}...): install histofast again, or load the file by its path"
        )
    return sha256, size_bytes


class Pending:
    """A batch that was submitted: its features are there, or on their way from a GPU."""

    def __init__(
        self,
        collect: Callable[[], tuple[NDArray[np.float32], ...]],
        discard: Callable[[], None] = lambda: None,
    ) -> None:
        self._collect, self._discard = collect, discard

    def result(self) -> tuple[NDArray[np.float32], ...]:
        """Wait for one (n, d) float32 array per spec; to be asked once, in order of submission.

        Raises:
            ModelError: the encoder failed, or yielded NaN or infinity.
        """
        return self._collect()

    def discard(self) -> None:
        """Give the batch's memory back instead of asking for its result."""
        self._discard()


class _OpenFile:
    """A session of one file, its graph run for several outputs at once."""

    def __init__(self, opened: Opened, specs: Sequence[EncoderSpec], *, threads: int) -> None:
        session, place = opened.session, opened.place
        self.specs = tuple(specs)
        self.threads = threads
        self.device_note = opened.note
        self.provider: str = session.get_providers()[0]
        self.device = opened.device
        self._session = session
        self._runner = BoundRunner(session, specs, place) if place is not None else None
        self._busy_s = 0.0
        self.name = specs[0].name if len(specs) == 1 else specs[0].path.stem
        self._workers: ThreadPoolExecutor | None = None
        if self.provider == runtime.CPU and threads > 1:
            self._workers = ThreadPoolExecutor(threads, thread_name_prefix="histofast-encode")

    @property
    def preferred_batch(self) -> int:
        """How many patches to hand over at once: enough to keep all threads or the GPU busy."""
        return max(8, 4 * self.threads) if self.provider == runtime.CPU else 128

    @property
    def in_flight(self) -> int:
        """How many batches may be submitted before the result of the first is asked for."""
        return 1 if self._runner is None else SLOTS

    @property
    def busy_s(self) -> float:
        """Seconds that the CPU or the GPU has been encoding so far."""
        return self._busy_s if self._runner is None else self._runner.busy_s

    def submit(self, pixels: NDArray[np.uint8]) -> Pending:
        """Start encoding one batch; on the CPU it is done on return.

        Args:
            pixels: (n, h, w, 3) uint8 RGB, C-contiguous; n may be 0. May be reused at once.

        Raises:
            TypeError: wrong dtype.
            ValueError: wrong shape, strided, or the encoder is closed.
            ModelError: the encoder takes another patch size; on the CPU also what `result` raises.
        """
        n, h, w = self._checked_sizes(pixels)
        runner = self._runner
        if runner is None or n == 0:
            done = self._encode(pixels)
            return Pending(lambda: done)
        with self._told(n, h, w):
            ticket = runner.submit(pixels)

        def collect() -> tuple[NDArray[np.float32], ...]:
            with self._told(n, h, w):
                found = ticket.result()
            for spec, features in zip(self.specs, found, strict=True):
                _check_finite(spec, features)
            return found

        return Pending(collect, ticket.discard)

    def _encode(
        self, pixels: NDArray[np.uint8], outs: tuple[NDArray[np.float32], ...] | None = None
    ) -> tuple[NDArray[np.float32], ...]:
        """Return one (n, d) array per spec, checked; these are `outs` where they are given."""
        n, h, w = self._checked_sizes(pixels)
        if outs is None:
            outs = tuple(np.empty((n, spec.d), np.float32) for spec in self.specs)
        for spec, out in zip(self.specs, outs, strict=True):
            check("out", out, "float32", (n, spec.d))
        if n == 0:
            return outs
        begin = time.perf_counter()
        with self._told(n, h, w):
            self._run(pixels, outs)
        self._busy_s += time.perf_counter() - begin
        for spec, out in zip(self.specs, outs, strict=True):
            _check_finite(spec, out)
        return outs

    def _run(self, pixels: NDArray[np.uint8], outs: Sequence[NDArray[np.float32]]) -> None:
        session = self._session
        names = [spec.output for spec in self.specs]

        def encode_one(i: int) -> None:
            rows = session.run(names, {INPUT: pixels[i : i + 1]})
            for spec, out, row in zip(self.specs, outs, rows, strict=True):
                out[i] = _checked_rows(spec, row, 1)[0]

        if self._runner is not None:
            self._run_bound(self._runner, pixels, outs)
        elif self.provider != runtime.CPU:
            found = session.run(names, {INPUT: pixels})
            for spec, out, rows in zip(self.specs, outs, found, strict=True):
                out[:] = _checked_rows(spec, rows, len(pixels))
        elif self._workers is None:
            for i in range(len(pixels)):
                encode_one(i)
        else:
            # Reading the results raises what a worker raised.
            for _ in self._workers.map(encode_one, range(len(pixels))):
                pass

    def _run_bound(
        self,
        runner: BoundRunner,
        pixels: NDArray[np.uint8],
        outs: Sequence[NDArray[np.float32]],
    ) -> None:
        open_now: deque[tuple[slice, Ticket]] = deque()
        try:
            for start in range(0, len(pixels), self.preferred_batch):
                rows = slice(start, start + self.preferred_batch)
                if len(open_now) == SLOTS:
                    _write(*open_now.popleft(), outs)
                open_now.append((rows, runner.submit(pixels[rows])))
            while open_now:
                _write(*open_now.popleft(), outs)
        finally:
            for _, ticket in open_now:
                ticket.discard()

    def _encode_together(self, pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        n, h, w = self._checked_sizes(pixels)
        with self._told(n, h, w):
            found = self._session.run(
                [spec.output for spec in self.specs],
                {INPUT: pixels},
                runtime.run_options(graph=None, waits=True),
            )
        return [_checked_rows(*pair, n) for pair in zip(self.specs, found, strict=True)]

    def _checked_sizes(self, pixels: NDArray[np.uint8]) -> tuple[int, int, int]:
        if self._session is None:
            raise ValueError("encoder is closed: load it again")
        n, h, w = check("pixels", pixels, "uint8", ("n", "h", "w", 3))
        spec = self.specs[0]  # of one file all take the same
        fixed = (spec.height_px or h, spec.width_px or w)
        if (h, w) != fixed:
            raise ModelError(
                f"encoder {self.name} takes patches of {fixed[0]} x {fixed[1]} px, "
                f"got {h} x {w} px: ask for patch_px={fixed[0]}"
            )
        for side_px in (h, w) if spec.step_px else ():
            if not spec.sizes.takes(side_px):
                raise ModelError(f"encoder {self.name} {spec.sizes.refusal(side_px)}")
        return n, h, w

    @contextlib.contextmanager
    def _told(self, n: int, h: int, w: int) -> Iterator[None]:
        """Turn what ONNX Runtime raises into one line that says what was being encoded."""
        try:
            yield
        except runtime.runtime_errors() as error:
            raise ModelError(
                f"encoder {self.name} failed on {n} patches of {h} x {w} px: "
                f"{runtime.first_line(error)}"
            ) from None

    def close(self) -> None:
        """End the threads and free the session; `encode` is refused from then on."""
        if self._workers is not None:
            self._workers.shutdown()
        if self._runner is not None and self._session is not None:
            self._runner.close()
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


def _write(rows: slice, ticket: Ticket, outs: Sequence[NDArray[np.float32]]) -> None:
    for out, found in zip(outs, ticket.result(), strict=True):
        out[rows] = found


def _checked_rows(spec: EncoderSpec, rows: Any, n: int) -> NDArray[np.float32]:
    """Return what a graph gave for `n` patches; its sizes need not be those that the file states."""
    shape = getattr(rows, "shape", None)
    if shape != (n, spec.d):
        raise ModelError(
            f"encoder {spec.name} gave features of shape {shape} for {n} patches, but says "
            f"({n}, {spec.d}): export it again"
        )
    features: NDArray[np.float32] = rows
    return features


def _check_finite(spec: EncoderSpec, features: NDArray[np.float32]) -> None:
    finite = np.isfinite(features).all(axis=1)
    if finite.all():
        return
    rows = np.flatnonzero(~finite)
    shown = ", ".join(map(str, rows[:8])) + (", ..." if len(rows) > 8 else "")
    raise ModelError(
        f"encoder {spec.name} gave NaN or infinity for {len(rows)} of {len(features)} patches "
        f"(rows {shown}): use it at higher precision, or another encoder"
    )


class Encoder(_OpenFile):
    """A session of one encoder. Made by `load`; close it or use it in a `with` statement.

    On the CPU each patch is encoded alone, by one thread, and `threads` patches at a time: no time
    is lost on threads waiting for each other within a layer, the activations stay in the caches,
    and the bytes of a row depend on its pixels only.
    """

    def __init__(self, opened: Opened, spec: EncoderSpec, *, threads: int) -> None:
        super().__init__(opened, [spec], threads=threads)
        self.spec = spec

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
        a GPU for the same batch on the same device. TensorRT chooses its algorithms by the clock
        when it builds its engine: with another engine last bits may differ.
        """
        return self._encode(pixels, None if out is None else (out,))[0]

    def encode_together(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Encode patches in one call of the graph, unchecked: for comparing graphs, n >= 1.

        Determinism: last bits may depend on the batch.
        """
        return self._encode_together(pixels)[0]

    def sibling(self, model: bytes) -> Encoder:
        """Return an encoder on the CPU that computes another graph of the same inputs and outputs.

        Raises:
            ModelError: ONNX Runtime cannot load it.
        """
        try:
            session = runtime.make_session(model)
        except runtime.runtime_errors() as error:
            raise ModelError(
                f"a variant of {self.spec.name} cannot be loaded by onnxruntime "
                f"{runtime.runtime().__version__}: {runtime.first_line(error)}"
            ) from None
        return Encoder(Opened(session=session), self.spec, threads=self.threads)

    def __repr__(self) -> str:
        return (
            f"Encoder({self.spec.name}, d={self.spec.d}, {self.provider}, threads={self.threads})"
        )


class EncoderSet(_OpenFile):
    """A session of all encoders of one file: cuts of a network, computed in one run.

    Made by `load_all`; close it or use it in a `with` statement. Patches are run as by `Encoder`.
    """

    def encode(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
        """Encode patches.

        Args:
            pixels: (n, h, w, 3) uint8 RGB, C-contiguous; n may be 0.

        Returns:
            Per entry of `specs` (n, d) float32, row i from patch i.

        Raises:
            TypeError: wrong dtype.
            ValueError: wrong shape, strided, or the set is closed.
            ModelError: the file takes another patch size, fails, or yields NaN or infinity.

        Determinism: as `Encoder.encode`.
        """
        return self._encode(pixels)

    def encode_together(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
        """Encode patches in one call of the graph, unchecked: for comparing graphs, n >= 1.

        Determinism: last bits may depend on the batch.
        """
        return tuple(self._encode_together(pixels))

    def __repr__(self) -> str:
        names = ", ".join(spec.name for spec in self.specs)
        return f"EncoderSet({names}, {self.provider}, threads={self.threads})"
