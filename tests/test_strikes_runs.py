"""`train` and `finetune`, killed, interrupted and ended at random moments: the same numbers in the end."""

from __future__ import annotations

from pathlib import Path

import pytest

from extras import need
from toy_bags import write_toy

need("torch", "sklearn", "matplotlib")

from strikes import KILLS, contents, strike
from tuning_stage import write_stage

pytestmark = pytest.mark.slow

PRELOAD = (
    "histofast.mil",
    "histofast.cli",
    "matplotlib.pyplot",
    "torch._dynamo",
    "sklearn.metrics",
)


def without_seconds(folder: Path) -> dict[str, bytes]:
    """Every file of a run; logs without their last column, seconds."""
    found = contents(folder)
    for name in found:
        if name.endswith("log.csv") and b"seconds" in found[name]:
            lines = found[name].split(b"\n")
            found[name] = b"\n".join(line.rpartition(b",")[0] for line in lines)
    return found


@pytest.mark.parametrize("jobs", [1, 2])
def test_train(tmp_path, jobs):
    features, labels = write_toy(tmp_path, b=12)
    out = tmp_path / "run"
    command = ["train", features, "--labels", labels, "--out", out, "--device", "cpu"]
    command += ["--folds", 2, "--epochs", 4, "--jobs", jobs]
    kills = KILLS if jobs == 1 else -(-KILLS // 5)  # each has processes that import torch anew
    struck = strike(command, out, preload=PRELOAD, kills=kills, seed=jobs, told=without_seconds)
    assert struck.ended


def test_finetune(tmp_path):
    write_stage(tmp_path)
    out = tmp_path / "tuned"
    command = ["finetune", tmp_path / "run", "--patches", tmp_path / "patches.csv", "--out", out]
    command += ["--encoder", tmp_path / "r18.onnx", "--top-k", 2, "--epochs", 2, "--reselect", 1]
    command += ["--no-similarity", "--device", "cpu", "--threads", 1]
    struck = strike(command, out, preload=(*PRELOAD, "histofast.networks"), told=without_seconds)
    assert struck.ended
