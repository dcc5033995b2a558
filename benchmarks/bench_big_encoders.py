"""Peak memory and time of making an encoder from a large checkpoint: a random ViT-B of 343 MB.

    pytest benchmarks/bench_big_encoders.py -s

In a process of its own, from the moment that all is imported and a toy was exported: the largest
resident size the kernel saw, mapped files included, over the size of the encoder. Goal: 1.6, as one
file and as two. Times are printed beside that of `torch.onnx.export` alone.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
sys.path.insert(0, sys.argv[3])
import json, pathlib, time
import test_timm  # makes timm importable beside a torch without CUDA
import torch
from histofast import networks
folder, way = pathlib.Path(sys.argv[1]), sys.argv[2]
NAME = "timm:vit_base_patch16_224"
weights = folder / "vit.bin"
if way == "weights":
    torch.save(networks.create(NAME, seed=1).model.state_dict(), weights)
    sys.exit()
def status(key):
    lines = open("/proc/self/status").read().splitlines()
    return int(next(l.split()[1] for l in lines if l.startswith(key))) * 1024
networks.export_made(lambda: networks.create("timm:test_vit"), folder / f"toy-{way}.onnx")
if way == "two-files":
    import histofast.graphs.writing as writing
    writing.MOST_INSIDE_BYTES = 1 << 20
before, began = status("VmRSS"), time.perf_counter()
if way == "torch":
    model = networks.create(NAME, weights=weights)
    began = time.perf_counter()
    with torch.inference_mode():
        torch.onnx.export(model, (torch.zeros(2, 3, 224, 224),), folder / "torch.onnx",
                          dynamic_shapes=({0: "n"},), external_data=True, dynamo=True, verbose=False)
    print(json.dumps({"s": time.perf_counter() - began}))
    sys.exit()
spec = networks.export_made(lambda: networks.create(NAME, weights=weights), folder / f"{way}.onnx")
print(json.dumps({"s": time.perf_counter() - began, "bytes": spec.size_bytes,
                  "peak": status("VmHWM") - before, "files": len(list(folder.glob(f"{way}.onnx*")))}))
"""


def run(folder: Path, way: str) -> dict[str, float]:
    tests = str(Path(__file__).resolve().parent.parent / "tests")
    command = [sys.executable, "-c", SCRIPT, str(folder), way, tests]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {} if way == "weights" else json.loads(done.stdout.splitlines()[-1])


def test_peak_memory_of_an_export(table, benchmark, tmp_path):
    if importlib.util.find_spec("timm") is None:
        pytest.skip("needs timm")
    run(tmp_path, "weights")
    alone = run(tmp_path, "torch")
    for way in ("one-file", "two-files"):
        found = run(tmp_path, way)
        assert found["files"] == (1 if way == "one-file" else 2)
        share = found["peak"] / found["bytes"]
        print(
            f"\n  {way}: {share:.2f} x the weights, {found['s']:.0f} s ({alone['s']:.0f} s torch)"
        )
        table.add(
            what=f"peak memory of an export, {way.replace('-', ' ')}",
            ours=f"{found['peak'] / 1e6:.0f} MB",
            rival=f"1.6 x {found['bytes'] / 1e6:.0f} MB of weights",
            theirs="",
            ratio=1.6 / share,
            goal=1,
        )
    benchmark.pedantic(lambda: None, rounds=1)
