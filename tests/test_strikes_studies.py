"""`study transfer`, killed, interrupted and ended at random moments: the same numbers in the end."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from extras import need
from labelled_pictures import write_pictures

need("torch", "safetensors", "matplotlib", "jinja2")

from strikes import KILLS, strike

pytestmark = pytest.mark.slow

PRELOAD = ("histofast.studies", "histofast.cli", "matplotlib.pyplot", "torch._dynamo")


def numbers(folder: Path) -> dict[str, bytes]:
    """The CSVs and the JSON of a study, without seconds; the names of all other files, and what runs predict."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file():
            continue
        found[name] = b""
        if path.parent == folder and path.suffix == ".csv":
            found[name] = path.read_bytes()
        elif path.parent == folder and path.suffix == ".json":
            told = json.loads(path.read_text())
            assert re.search(r"\d .* of this machine", told["method"].pop("time"))
            found[name] = json.dumps(told).encode()
        elif path.name in ("predictions.csv", "weights.safetensors"):
            found[name] = path.read_bytes()
    return found


def test_study_transfer(tmp_path):
    tables = [
        write_pictures(tmp_path / name, n=40, px=24, seed=k) for k, name in enumerate(["aa", "bb"])
    ]
    recipe = tmp_path / "r.toml"
    recipe.write_text('epochs = 1\nbatch_size = 16\npx = 24\nfreeze = "all"\n')
    out = tmp_path / "study"
    command = ["study", "transfer", "--data", *tables, "--network", "resnet18", "--recipe", recipe]
    command += ["--repeats", 1, "--threads", 1, "--device", "cpu", "--out", out, "--quiet"]
    kills = -(-KILLS // 4)
    struck = strike(command, out, preload=PRELOAD, kills=kills, told=numbers)
    assert struck.ended
    assert not list(tmp_path.rglob("*.tmp"))
