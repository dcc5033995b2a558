"""Write what a release of histofast consists of: a bill of materials in CycloneDX 1.6 JSON, or a table.

    python scripts/sbom.py > histofast.cdx.json
    python scripts/sbom.py --table

What lies in the wheel (weights, scripts of the viewer's page, nanobind's runtime, in the wheels of a release
libc++ as well) has its version, licence and checksum from the files that have it; what pip brings is listed as
`pyproject.toml` asks for it, without a version, which is chosen where histofast is installed.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
VENDOR = ROOT / "python/histofast/viewer/static/vendor/VENDOR.toml"


def toml(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def component(name: str, version: str, licence: str, *, kind: str = "library", **more: Any) -> Any:
    """A component in CycloneDX's words. Licences are told as their sources tell them."""
    found = {
        "type": kind,
        "name": name,
        "version": version,
        "licenses": [{"license": {"name": licence}}],
    }
    return {key: value for key, value in (found | more).items() if value}


def sha256(value: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": value}]


def bundled() -> list[Any]:
    """What lies in the wheel beside our own sources."""
    registry = toml(ROOT / "models/registry.toml")
    weights = [
        component(
            encoder["file"],
            encoder["sha256"][:12],
            encoder["licence"],
            kind="machine-learning-model",
            hashes=sha256(encoder["sha256"]),
            description=registry["weights"][encoder["weights"]]["provenance"],
        )
        for encoder in registry["encoders"].values()
    ]
    scripts = [
        component(
            name,
            package["version"],
            package["licence"],
            purl=f"pkg:npm/{package['npm']}",
            hashes=sha256(
                next(f["sha256"] for n, f in package["files"].items() if n.endswith(".js"))
            ),
        )
        for name, package in toml(VENDOR).items()
    ]
    pins = dict(
        pin.split("==")
        for pin in toml(ROOT / "pyproject.toml")["dependency-groups"]["dev"]
        if "==" in pin
    )
    zig = re.search(r"ziglang==([\d.]+)", (ROOT / "scripts/wheels.sh").read_text())
    assert zig is not None, "scripts/wheels.sh names no version of Zig"
    compiled = [
        component(
            "nanobind",
            pins["nanobind"],
            "BSD-3-Clause",
            purl=f"pkg:pypi/nanobind@{pins['nanobind']}",
        ),
        component(
            "libc++",
            f"of Zig {zig[1]}",
            "Apache-2.0 WITH LLVM-exception",
            description="linked into the wheels of a release; not into builds from source",
        ),
    ]
    return [*weights, *scripts, *compiled]


def asked_for() -> list[Any]:
    """What pip brings, by `dependencies`; extras are the user's choice."""
    names = {
        re.split(r"[<>=;\[ ]", line)[0]
        for line in toml(ROOT / "pyproject.toml")["project"]["dependencies"]
    }
    return [
        {"type": "library", "name": name, "purl": f"pkg:pypi/{name}", "scope": "required"}
        for name in sorted(names)
    ]


def bill() -> dict[str, Any]:
    project = toml(ROOT / "pyproject.toml")["project"]
    own = component(project["name"], project["version"], project["license"], kind="application")
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": own},
        "components": [*bundled(), *asked_for()],
    }


def table() -> str:
    rows = [
        f"| {c['name']} | {c['version']} | {c['licenses'][0]['license']['name']} |"
        for c in bundled()
    ]
    return "\n".join(["| in the wheel | version | licence |", "|---|---|---|", *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--table", action="store_true", help="what is bundled, in Markdown")
    sys.stdout.write(table() if parser.parse_args().table else json.dumps(bill(), indent=1))
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
