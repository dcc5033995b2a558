"""The examples in the docstrings run and give what they say."""

from __future__ import annotations

import doctest
from importlib import import_module

import numpy as np
import pytest

MODULES = [
    "_arrays",
    "features.file",
    "learning.scores",
    "mil.topk",
    "networks.adopted",
    "networks.creation",
    "similarity.alignment",
    "similarity.correlation",
    "similarity.hsic",
    "similarity.moments",
    "similarity.predictions",
    "similarity.protocol",
    "similarity.uncertainty",
    "slides.metadata",
    "slides.write",
    "tiling",
    "tissue.mask",
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
