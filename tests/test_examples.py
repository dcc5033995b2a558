"""The examples in the docstrings run and give what they say."""

from __future__ import annotations

import doctest
from pathlib import Path

import numpy as np
import pytest

import histofast
from extras import need

PACKAGE = Path(histofast.__file__).resolve().parent
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if ">>> " in path.read_text()
)


def test_there_are_examples():
    assert len(MODULES) >= 15


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    failed, tried = doctest.testmod(need(name), extraglobs={"np": np})
    assert tried > 0
    assert failed == 0
