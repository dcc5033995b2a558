"""What a test needs beyond the base installation: it asks here, and is skipped without."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

import pytest

# Top-level module -> what to install. All of histofast's extras come with `.[test]`.
REMEDIES = {
    **dict.fromkeys(
        ["jinja2", "matplotlib", "safetensors", "sklearn", "torch"], "histofast[train]"
    ),
    **dict.fromkeys(["onnxscript", "timm", "torchvision"], "histofast[timm]"),
    "tensorboard": "histofast[tensorboard]",
    "cupy": "cupy",
    "nanobind": "nanobind",
    "torchmil": "torchmil",
}


def need(*names: str) -> Any:
    """Import the modules that a test, or a whole file of them, needs; return the first.

    Rooms of histofast as well. Where something is missing, the test is skipped; with
    HISTOFAST_REQUIRE_EXTRAS=1 that is an error if one of histofast's extras brings it.
    """
    modules = []
    for name in names:
        try:
            modules.append(import_module(name))
        except ModuleNotFoundError as error:
            missing = str(error.name).partition(".")[0]
            remedy = REMEDIES.get(missing, "histofast")
            if missing not in REMEDIES or (
                remedy.startswith("histofast") and os.environ.get("HISTOFAST_REQUIRE_EXTRAS") == "1"
            ):
                raise
            pytest.skip(f"needs {missing}: pip install '{remedy}'", allow_module_level=True)
    return modules[0]
