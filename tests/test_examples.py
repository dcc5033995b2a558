"""The examples in the docstrings run and give what they say."""

from __future__ import annotations

import doctest
from importlib import import_module

import numpy as np
import pytest

MODULES = [
    "_arrays",
    "features",
    "mil._metrics",
    "mil._topk",
    "networks._adopt",
    "networks._create",
    "similarity._cca",
    "similarity._cka",
    "similarity._hsic",
    "similarity._moments",
    "similarity._predictions",
    "similarity._protocol",
    "similarity._uncertainty",
    "slides._metadata",
    "slides._write",
    "tiling",
    "tissue",
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    if name.startswith(("networks", "mil")):
        pytest.importorskip("torch")
        pytest.importorskip("sklearn")
    module = import_module(f"histofast.{name}")
    failed, tried = doctest.testmod(module, extraglobs={"np": np})
    assert tried > 0
    assert failed == 0
