"""Shared fixtures."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

import gpu_arrays
from extras import need
from histofast import _arrays, _core
from histofast.cli import main

ROOT = Path(__file__).resolve().parent.parent

# A job in the background of a shell is born deaf to Ctrl-C, one under nohup to the end of its
# terminal, and so would be all that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


# Machines are shared: an example that took long has shown nothing.
settings.register_profile("any machine", settings(deadline=None))
settings.load_profile("any machine")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 1 MB; skip where mounting is not allowed."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if (
        shutil.which("mount") is None
        or subprocess.run(mount, check=False, capture_output=True).returncode
    ):
        pytest.skip("cannot mount a tmpfs here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real slides, patches and weights; skip where it is absent."""
    folder = Path(os.environ.get("HISTOFAST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder} (set HISTOFAST_DATA)")
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A real encoder file that costs nothing."""
    from tiny_encoder import write_encoder

    return write_encoder(tmp_path_factory.mktemp("encoder") / "tiny.onnx")


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """A folder of three small slides: s0.tif, s1.tif, s2.tif."""
    from small_slides import write_slide

    folder = tmp_path_factory.mktemp("slides")
    for i in range(3):
        write_slide(folder / f"s{i}.tif", seed=i)
    return folder


@pytest.fixture
def one_thread():
    """One thread of torch: more cost more than they bring on small bags and pictures."""
    torch = need("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- GPU: tests marked `gpu` are skipped without one, or fail when HISTOFAST_REQUIRE_GPU=1 --------


def why_no_gpu() -> str | None:
    """What keeps the kernels from a GPU, or None where one can be used."""
    if not _core.cuda_is_compiled():
        return "this build has no CUDA kernels"
    try:
        return None if _core.cuda_device_count() else "CUDA finds no device"
    except _core.CudaError as error:
        return str(error)


def has_emulated_gpu() -> bool:
    return _core.cuda_is_compiled() and why_no_gpu() is None and gpu_arrays.is_emulated()


def need_gpu() -> None:
    reason = why_no_gpu()
    if reason is None:
        return
    if os.environ.get("HISTOFAST_REQUIRE_GPU") == "1":
        pytest.fail(f"HISTOFAST_REQUIRE_GPU=1, but {reason}", pytrace=False)
    pytest.skip(f"needs a GPU: {reason}")


# A hook and not an autouse fixture: it runs before the fixtures of the test, some of them costly.
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        need_gpu()


@pytest.fixture
def gpu(monkeypatch):
    """Where a test marked `gpu` puts its arrays: `put`, `get`, `empty`; checked for strays."""
    if gpu_arrays.is_emulated():
        device = gpu_arrays.EmulatedGpu()
        monkeypatch.setitem(_arrays.LIBRARIES, "gpu_arrays", device.library())
    else:
        device = gpu_arrays.TorchGpu()
    yield device
    device.check_guards()


# --- The command line --------------------------------------------------------------------------

SIGNALS = [s for s in signal.Signals if s.name in {"SIGINT", "SIGTERM", "SIGHUP"}]


@dataclass(frozen=True)
class Answer:
    """What a command answered: exit code, standard output, lines of standard error."""

    code: int
    out: str
    err: list[str]


@pytest.fixture
def cli(monkeypatch, capfd):
    """Run one command in this process; native libraries' noise is caught too."""
    handlers = {s: signal.getsignal(s) for s in SIGNALS}
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # main() has its own
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments) -> Answer:
        monkeypatch.setattr(sys, "argv", ["histofast", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capfd.readouterr()
        return Answer(end.value.code, out, err.splitlines())

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)
