"""benchmarks/gpu.sh and what it runs: names agree, files are there, and what needs no GPU is right."""

from __future__ import annotations

import hashlib
import importlib
import json
import re
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from extras import need

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = (ROOT / "benchmarks" / "gpu.sh").read_text()
HEAD = SCRIPT.partition("set -euo pipefail")[0]
STAGES = re.search(r"^stages='(.*)'$", SCRIPT, re.MULTILINE)[1].split()
MEASURED = [stage for stage in STAGES if (ROOT / f"benchmarks/bench_gpu_{stage}.py").exists()]
OTHERS = {"tests", "sanitizer", "prepare", "onnx", "keep"}


@pytest.fixture
def benchmarks(monkeypatch):
    """Imports modules beside the benchmarks."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module


# --- Stages ---------------------------------------------------------------------------------------


def test_every_stage_is_told_of_and_done():
    told = re.findall(r"^#   ([a-z]+)  ", HEAD, re.MULTILINE)
    assert sorted(told) == sorted([*STAGES, "fetch"])
    done = re.search(r"case \$stage in\n(.*?)\n        esac", SCRIPT, re.DOTALL)[1]
    patterns = re.findall(r"^        ([a-z| ]+)\)", done, re.MULTILINE)
    assert sorted(name for p in patterns for name in p.split(" | ")) == sorted(STAGES)


def test_the_page_has_a_row_for_every_stage():
    page = (ROOT / "docs" / "gpus.md").read_text()
    rows = re.findall(r"^\| `([a-z]+)` \|", page, re.MULTILINE)
    assert sorted(rows) == sorted(set(STAGES) - {"prepare", "keep"})
    for call in re.findall(r"benchmarks/gpu\.sh ([a-z ]+)", page):
        assert set(call.split()) <= {*STAGES, "fetch"}, call


def test_every_stage_has_its_files():
    assert set(MEASURED) == set(STAGES) - OTHERS
    named = re.findall(r"\b(?:tests|benchmarks)/\w+\.(?:py|md)\b", SCRIPT)
    assert {name for name in named if not (ROOT / name).exists()} == set()
    tests = {name: (ROOT / name).read_text() for name in named if name.startswith("tests/")}
    assert [name for name, text in tests.items() if not re.search("mark[.]gpu", text)] == []
    # What the script looks for in the words of a test that was skipped.
    (reason,) = re.findall(r"grep -q '(.*?)'", SCRIPT)
    assert reason in tests["tests/test_encoders.py"]
    assert reason in tests["tests/test_bound.py"]


def bash(*arguments):
    command = ["bash", "benchmarks/gpu.sh", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_script_helps_and_refuses_before_it_builds():
    helped = bash()
    assert helped.returncode == 2
    assert all(f"  {stage} " in helped.stdout for stage in STAGES)
    refused = bash("tests", "kernel")
    assert refused.returncode == 2
    assert refused.stderr == f"no such stage: kernel, there are {' '.join(STAGES)}\n"


def test_benchmarks_of_the_stages_can_be_collected():
    need("torch", "matplotlib")  # the latter brings Pillow
    files = [f"benchmarks/bench_gpu_{stage}.py" for stage in MEASURED]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "--collect-only"]
    done = subprocess.run([*command, *files], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {name for name in files if f"{name}::test_" not in done.stdout} == set()


@pytest.mark.parametrize("name", ["gpu_wheels", "gpu_prepare"])
def test_what_the_script_runs_says_how(name):
    command = [sys.executable, f"benchmarks/{name}.py", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert name in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_dry_run_is_marked_and_meets_nothing(benchmarks):
    table = benchmarks("compare").Table(prefix="DRY RUN: ")
    table.race("w", int, {"r": int}, goals={"r": 0.0}, work=1, unit="u", rounds=1, settle_s=0)
    table.add(what="x", ours="", rival="", theirs="", ratio=2.0, goal=1.0)
    assert [(row.what, row.goal, row.verdict) for row in table.rows] == [
        ("DRY RUN: w", None, ""),
        ("DRY RUN: x", None, ""),
    ]


# --- How busy the GPU is --------------------------------------------------------------------------


def test_time_that_spans_cover(benchmarks):
    union_s = benchmarks("gpu_busy").union_s
    assert union_s([]) == 0
    assert union_s([(5, 6), (0, 2), (1, 3), (0.5, 1), (3, 4)]) == 5


def test_profile_tells_kernels_from_copies(benchmarks):
    spans = [("gemm", 0.0, 4.0), ("Memcpy HtoD", 3.0, 6.0), ("gemm", 6.0, 7.0), ("add", 6.5, 7.0)]
    found = benchmarks("gpu_busy").profile_of(spans, wall_s=10.0)
    assert (found.share, found.kernels_s, found.copies_s) == (0.5, 5.0, 2.0)
    assert (found.extent_s, found.share_of_extent) == (7.0, 5 / 7)
    assert found.by_name == {"gemm": 5.0, "Memcpy HtoD": 3.0, "add": 0.5}
    assert found.lines(most=1) == [
        "  a kernel at work 50% of 10.000 s, only copies 20%",
        "   58.8%  gemm",
    ]


def test_samples_of_nvidia_smi(benchmarks):
    busy = benchmarks("gpu_busy")
    found = busy.sampled_of("100, 300.5, 1980\n[N/A], 1.0, 2\n50, 100.5, 990\n7")
    assert found == busy.Sampled(samples=2, share=0.75, watts=200.5, mhz=1485)
    with pytest.raises(ValueError, match="must give lines of 3 numbers, got 'No devices'"):
        busy.sampled_of("No devices")


def test_a_dry_watch_sees_a_gpu_that_does_nothing(benchmarks):
    with benchmarks("gpu_busy").watched(dry=True) as watch:
        pass
    assert watch.found.samples >= 1
    assert watch.found.share == 0


# --- The wheel in pieces --------------------------------------------------------------------------


def entry(sm, payload):
    """One kind's code as NVIDIA's fat binaries hold it: a header of 64 bytes that says its length."""
    header = bytearray(64)
    struct.pack_into("<HHIQ", header, 0, 2, 257, len(header), len(payload))
    struct.pack_into("<I", header, 28, sm)
    return bytes(header) + payload


def container(*entries):
    whole = b"".join(entries)
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(whole)) + whole


def elf(code):
    """A 64-bit ELF file of three sections: none, the code, the names."""
    names = b"\0.nv_fatbin\0.shstrtab\0"
    begin = 64
    names_at = begin + len(code)
    headers_at = names_at + len(names)
    header = bytearray(64)
    header[:4] = b"\x7fELF"
    struct.pack_into("<Q", header, 40, headers_at)
    struct.pack_into("<HHH", header, 58, 64, 3, 2)
    sections = [(0, 0, 0), (1, begin, len(code)), (12, names_at, len(names))]
    packed = [struct.pack("<IIQQQQ24x", name, 1, 0, 0, at, size) for name, at, size in sections]
    return bytes(header) + code + names + b"".join(packed)


OTHER, WANTED, MORE = entry(80, b"a" * 24), entry(90, b"b" * 40), entry(90, b"c" * 8)
LIBRARY = elf(container(OTHER, WANTED, entry(120, b"d" * 16), MORE) + bytes(8) + container(OTHER))


def test_code_for_other_gpus_is_taken_out(benchmarks):
    wheels = benchmarks("gpu_wheels")
    thin = wheels.thinned(LIBRARY, sm=90)
    assert len(thin) == len(LIBRARY)
    begin, end = wheels.section_of(thin, ".nv_fatbin")
    first, second = wheels.containers_of(thin, begin, end)
    assert list(wheels.entries_of(thin, *first)) == [(90, WANTED), (90, MORE)]
    assert list(wheels.entries_of(thin, *second)) == [(80, OTHER)]
    old = list(wheels.containers_of(LIBRARY, begin, end))
    assert (first[0], second) == (old[0][0], old[1])
    assert thin[:begin] + thin[end:] == LIBRARY[:begin] + LIBRARY[end:]
    assert set(thin[first[1] : old[0][1]]) == {0}


def test_a_kind_that_is_not_there_is_refused(benchmarks):
    wheels = benchmarks("gpu_wheels")
    with pytest.raises(ValueError, match=r"sm must be one of \[80, 90, 120\], got 75"):
        wheels.thinned(LIBRARY, sm=75)
    with pytest.raises(ValueError, match="must hold fat binaries, got 0x6162"):
        wheels.thinned(elf(b"ba\0\0" + bytes(12)), sm=90)


@pytest.fixture
def wheel(tmp_path):
    path = tmp_path / "onnxruntime_gpu-1-cp312-cp312-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("onnxruntime/__init__.py", "x = 1\n")
        archive.writestr("onnxruntime/capi/libonnxruntime_providers_cuda.so", LIBRARY)
        archive.writestr("onnxruntime/capi/libonnxruntime_providers_tensorrt.so", b"t")
        archive.writestr("onnxruntime/capi/libonnxruntime.so.1.31.1", b"c")
        archive.writestr("onnxruntime/include/a.h", b"h")
    return path


def gathered(folder, pieces, to):
    to.mkdir(exist_ok=True)
    for piece in pieces:
        for path in (folder / str(piece)).iterdir():
            (to / path.name).write_bytes(path.read_bytes())


@pytest.mark.parametrize("sm", [90, None])
def test_pieces_make_up_what_is_needed_of_the_wheel(benchmarks, wheel, tmp_path, sm):
    wheels = benchmarks("gpu_wheels")
    count = wheels.pack(wheel, tmp_path / "pieces", sm=sm, most_bytes=200)
    sizes = [len((tmp_path / f"pieces/{i}/piece-{i}").read_bytes()) for i in range(1, count + 1)]
    assert count > 1
    assert max(sizes) <= 200
    gathered(tmp_path / "pieces", range(2, count + 1), tmp_path / "here")
    assert not wheels.join(tmp_path / "here", tmp_path / "site")
    gathered(tmp_path / "pieces", [1], tmp_path / "here")
    assert wheels.join(tmp_path / "here", tmp_path / "site")
    site = tmp_path / "site"
    found = {str(p.relative_to(site)): p.read_bytes() for p in site.rglob("*") if p.is_file()}
    assert found == {
        "onnxruntime/__init__.py": b"x = 1\n",
        "onnxruntime/capi/libonnxruntime_providers_cuda.so": (
            LIBRARY if sm is None else wheels.thinned(LIBRARY, sm=sm)
        ),
    }


def test_damaged_pieces_are_refused(benchmarks, wheel, tmp_path):
    wheels = benchmarks("gpu_wheels")
    assert wheels.pack(wheel, tmp_path / "pieces", sm=90, most_bytes=10_000) == 1
    told = json.loads((tmp_path / "pieces/1/pieces.json").read_text())
    piece = tmp_path / "pieces/1/piece-1"
    assert told["sha256"] == hashlib.sha256(piece.read_bytes()).hexdigest()
    piece.write_bytes(piece.read_bytes()[:-1] + b"!")
    with pytest.raises(ValueError, match=r"must make up onnxruntime_gpu-1.*: carry them anew"):
        wheels.join(tmp_path / "pieces/1", tmp_path / "site")
    assert not (tmp_path / "site").exists()
