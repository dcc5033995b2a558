"""What a test needs beyond the base installation: it asks here, and is skipped without."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

import pytest

# Top-level module -> what to install for it.
REMEDIES = {
    **dict.fromkeys(
        ["jinja2", "matplotlib", "safetensors", "sklearn", "torch"], "histofast[train]"
    ),
    "onnxscript": "histofast[test]",
    "tensorboard": "histofast[tensorboard]",
    **dict.fromkeys(["timm", "torchvision"], "histofast[timm]"),
    **dict.fromkeys(["anndata", "pandas"], "histofast[anndata]"),
    "pyarrow": "histofast[parquet]",
    "captum": "captum",
    "cupy": "cupy",
    "keras": "keras",
    "mlflow": "histofast[mlflow]",
    **dict.fromkeys(["boto3", "moto"], "moto[server,s3]"),
    "nanobind": "nanobind",
    "obstore": "histofast[s3]",
    "playwright": "playwright",
    "ray": "histofast[ray]",
    "shapely": "shapely",
    "skimage": "scikit-image",
    "spatialdata": "spatialdata",
    "httpx2": "histofast[test]",
    **dict.fromkeys(["starlette", "uvicorn"], "histofast[view]"),
    "torchmil": "torchmil",
    **dict.fromkeys(["numcodecs", "zarr"], "histofast[zarr]"),
}
# Those that README's command for the tests installs.
WITH_TEST = {"jinja2", "matplotlib", "numcodecs", "obstore", "onnxscript", "safetensors", "sklearn"}
WITH_TEST |= {"httpx2", "starlette", "tensorboard", "torch", "uvicorn", "zarr"}


def need(*names: str) -> Any:
    """Import the modules that a test, or a whole file of them, needs; return the first.

    Rooms of histofast as well. Where something is missing, the test is skipped; with
    HISTOFAST_REQUIRE_EXTRAS=1 that is an error if `.[test]` brings it.
    """
    required = WITH_TEST if os.environ.get("HISTOFAST_REQUIRE_EXTRAS") == "1" else set()
    modules = []
    for name in names:
        try:
            modules.append(import_module(name))
        except ModuleNotFoundError as error:
            missing = str(error.name).partition(".")[0]
            if missing not in REMEDIES or missing in required:
                raise
            reason = f"needs {missing}: pip install '{REMEDIES[missing]}'"
            pytest.skip(reason, allow_module_level=True)
    return modules[0]
