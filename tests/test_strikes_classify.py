"""`classify`, killed, interrupted and ended at random moments: the same numbers in the end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from extras import need
from labelled_pictures import write_pictures

need("torch", "safetensors", "matplotlib")

from strikes import KILLS, contents, strike

pytestmark = pytest.mark.slow

PRELOAD = ("histofast.classify", "histofast.cli", "matplotlib.pyplot", "torch._dynamo")


def without_seconds(folder: Path) -> dict[str, bytes]:
    """Every file of a run; its log and its metrics without seconds, and the seal of these."""
    found = contents(folder)
    for name in found:
        if name.endswith("log.csv"):
            lines = found[name].split(b"\n")
            found[name] = b"\n".join(line.rpartition(b",")[0] for line in lines)
        if name.endswith("metrics.json"):
            told = json.loads(found[name])
            found[name] = json.dumps(
                {k: v for k, v in told.items() if k not in ("seconds", "sha256", "log.csv")}
            ).encode()
    return found


def test_classify(tmp_path):
    table = write_pictures(tmp_path)
    recipe = tmp_path / "r.toml"
    recipe.write_text("epochs = 3\nbatch_size = 8\nevery = 3\npx = 24\nema = 0.5\ndropout = 0.2\n")
    out = tmp_path / "run"
    command = ["classify", table, "--network", "resnet18", "--recipe", recipe, "--out", out]
    command += ["--device", "cpu", "--threads", 1, "--layer-metrics"]
    kills = -(-KILLS // 4)
    struck = strike(command, out, preload=PRELOAD, kills=kills, told=without_seconds)
    assert struck.ended
