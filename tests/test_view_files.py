"""The files of the page of `histofast view`, as they lie: what is of others, how much it is, what a policy forbids."""

from __future__ import annotations

import hashlib
import re
import tomllib
from pathlib import Path

import pytest

import histofast

ROOT = Path(__file__).resolve().parent.parent
STATIC = Path(histofast.__file__).resolve().parent / "viewer" / "static"
VENDOR = STATIC / "vendor"
OURS = [path for path in sorted(STATIC.iterdir()) if path.is_file()]
PACKAGES = tomllib.loads((VENDOR / "VENDOR.toml").read_text())


def test_what_is_of_others_is_what_the_table_says():
    named = {name: file["sha256"] for p in PACKAGES.values() for name, file in p["files"].items()}
    there = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in VENDOR.iterdir()
        if path.name != "VENDOR.toml"
    }
    assert there == named


def test_licences_of_others_lie_beside_them_and_are_the_packages_own():
    for name, package in PACKAGES.items():
        assert f"LICENSE-{name}" in package["files"]
    given = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license-files"]
    assert "python/histofast/viewer/static/vendor/LICENSE-*" in given


def test_the_page_is_small():
    """Bounds on what a browser loads, bytes."""
    ours = sum(path.stat().st_size for path in OURS)
    assert ours < 110_000
    assert ours + sum(path.stat().st_size for path in VENDOR.iterdir()) < 500_000


@pytest.mark.parametrize("path", OURS, ids=lambda p: p.name)
def test_no_file_asks_for_what_the_policy_forbids(path):
    text = path.read_text()
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|Function\(", text
    )
    if path.suffix == ".html":
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script>|javascript:", text)
    if path.suffix != ".svg":
        assert not re.search(r"https?:|[\"'(]/(?!/)[a-z]", text), (
            "an address that is not the page's"
        )


def test_modules_import_only_what_lies_beside_them():
    names = {path.name for path in OURS}
    for path in OURS:
        imported = re.findall(r'from "\./([^"]+)"', path.read_text())
        assert set(imported) <= names
    page = (STATIC / "index.html").read_text()
    for name in re.findall(r'(?:src|href)="static/([^"]+)"', page):
        assert (STATIC / name).is_file()
