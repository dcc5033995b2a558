"""What goes with a release agrees with what is in the package."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def sbom(*options: str) -> str:
    command = [sys.executable, str(ROOT / "scripts/sbom.py"), *options]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_the_citation_and_the_changelog_are_of_this_version():
    version, day = re.search(
        r"\nversion: (.+)\ndate-released: (.+)\n", (ROOT / "CITATION.cff").read_text()
    ).groups()
    assert version == PROJECT["version"]
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert next(head for head in headings if head != "Unreleased") == f"{version} - {day}"


def test_the_bill_of_materials_has_what_is_bundled():
    bill = json.loads(sbom())
    assert bill["metadata"]["component"]["version"] == PROJECT["version"]
    names = {component["name"]: component for component in bill["components"]}
    for model in (ROOT / "models").glob("*.onnx"):
        assert names[model.name]["hashes"] == [
            {"alg": "SHA-256", "content": hashlib.sha256(model.read_bytes()).hexdigest()}
        ]
    vendored = (ROOT / "python/histofast/viewer/static/vendor").glob("*.js")
    for script in vendored:
        digest = hashlib.sha256(script.read_bytes()).hexdigest()
        name = script.name.partition("-")[0]
        assert names[name]["hashes"][0]["content"] == digest
        assert names[name]["version"] in script.name
    assert {"numpy", "onnx", "tifffile", "nanobind", "libc++"} <= names.keys()


def test_everything_bundled_has_a_licence_that_is_told():
    rows = sbom("--table").splitlines()[2:]
    assert len(rows) >= 5
    assert all(row.split("|")[3].strip() for row in rows)
