"""The house rules that a machine can check: who imports whom, what an import costs, one version."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import histofast
from extras import need
from histofast import _core

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path(histofast.__file__).resolve().parent

LEVELS = {
    "_core": 0,
    "_numbers": 0,
    "_words": 0,
    "errors": 1,
    "_arrays": 1,
    "_files": 2,
    "_lazy": 1,
    "_machine": 1,
    "_tables": 1,
    "tissue": 2,
    "tiling": 2,
    "similarity": 2,
    "encoders": 3,
    "slides": 3,
    "features": 3,
    "patches": 4,
    "jobs": 4,
    "pipeline": 5,
    "graphs": 5,
    "learning": 5,
    "doctor": 6,
    "networks": 6,
    "report": 6,
    "comparison": 7,
    "mil": 7,
    "explain": 8,
    "studies": 9,
    "cli": 10,
}
# A heavy dependency and the rooms that may import it.
DOORS = {
    "torch": {"networks", "mil", "learning", "studies", "explain"},
    "timm": {"networks"},
    "safetensors": {"networks", "mil"},
    "sklearn": {"mil"},
    "onnxruntime": {"encoders", "graphs"},  # its converter to float16
    "onnx": {"graphs", "networks"},
    "filelock": {"_files"},
    "tifffile": {"slides"},
    "imagecodecs": {"slides"},
    "openslide": {"slides"},
    "h5py": {"features"},
    "matplotlib": {"report"},
    "jinja2": {"report"},
    "typer": {"cli"},
    "rich": {"cli"},
}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    """Dotted names of everything a file imports, at any depth of nesting."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            module = node.module or ""
            names |= {f"{module}.{alias.name}" for alias in node.names} | {module}
    return names


SOURCES = sorted(p for p in PACKAGE.rglob("*.py") if p.name != "__init__.py" or p.parent != PACKAGE)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_rooms_import_only_from_below_and_through_their_doors(path):
    room = room_of(path)
    assert room in LEVELS, f"give {room} a level in this test and in ARCHITECTURE.md"
    for name in imports_of(path):
        top, _, rest = name.partition(".")
        if top == "histofast" and rest:
            other = rest.split(".")[0]
            if other in LEVELS and other != room:
                assert LEVELS[other] < LEVELS[room], f"{room} must not import {other}"
        if top in DOORS:
            assert room in DOORS[top], f"{room} must not import {top}"


def fresh(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout


def test_import_is_light():
    loaded = set(
        json.loads(fresh("import sys, json, histofast; print(json.dumps([*sys.modules]))"))
    )
    assert not loaded & {*DOORS, "numpy", "scipy"}


def test_help_imports_nothing_heavy():
    code = (
        "import sys, json\nfrom histofast.cli import app\n"
        "try: app(['--help'])\nexcept SystemExit: pass\n"
        "print(json.dumps([*sys.modules]))"
    )
    loaded = set(json.loads(fresh(code).splitlines()[-1]))
    assert not loaded & (set(DOORS) - {"typer", "rich"})


# What is no room for users: `histofast.cli` is the command.
ROOMS = sorted({room_of(p) for p in SOURCES if not room_of(p).startswith("_")} - {"cli"})


def test_dir_shows_the_public_names_and_rooms_only():
    code = "import json, histofast; print(json.dumps(dir(histofast)))"
    assert json.loads(fresh(code)) == sorted([*histofast.__all__, *ROOMS])
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = histofast.nothing


@pytest.mark.parametrize("name", [*histofast.__all__, *ROOMS])
def test_every_public_name_is_there_without_another_import(name):
    if name in ROOMS:
        need(f"histofast.{name}")
    if name == "export":
        need("histofast.networks")
    assert getattr(histofast, name) is not None
    # An import elsewhere may have set it: what loads it must know it as well.
    if name != "__version__":
        assert histofast.__getattr__(name) is getattr(histofast, name)


@pytest.mark.parametrize("room", [r for r in ROOMS if (PACKAGE / r).is_dir()])
def test_dir_of_a_room_shows_what_it_promises(room):
    package = need(f"histofast.{room}")
    assert dir(package) == sorted(package.__all__)
    for name in package.__all__:
        assert getattr(package, name) is not None


def test_without_torch_a_room_says_what_to_install():
    code = (
        "import sys\nsys.modules['torch'] = None\nimport histofast\ndir(histofast)\n"
        "try: histofast.networks.create\nexcept ModuleNotFoundError as error: print(error)"
    )
    assert fresh(code).strip() == (
        "histofast.networks needs torch, which is not installed: pip install 'histofast[train]'"
    )


def test_one_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == histofast.__version__ == _core.version
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert f"## {project['version']}" in changelog or "## Unreleased" in changelog


def test_stub_is_the_extensions(tmp_path):
    stubgen = need("nanobind.stubgen")
    out = tmp_path / "_core.pyi"
    stubgen.main(["-q", "-m", "histofast._core", "-o", str(out)])
    committed = ROOT / "python" / "histofast" / "_core.pyi"
    assert out.read_text() == committed.read_text(), "regenerate it: see CONTRIBUTING.md"


def declared(header: str, space: str) -> set[str]:
    """Functions that a header declares in one of its namespaces."""
    blocks = re.findall(
        rf"^namespace {space} {{(.*?)^}}  // namespace {space}", header, re.MULTILINE | re.DOTALL
    )
    code = re.sub(r"//.*", "", "".join(blocks))
    return set(re.findall(r"^[\w:]+(?: [\w:]+)* (\w+)\(", code, re.MULTILINE))


HEADERS = {p.stem: p.read_text() for p in (ROOT / "cpp" / "include" / "histofast").glob("*.h")}
KERNELS = sorted(name for name, text in HEADERS.items() if "namespace cpu {" in text)


@pytest.mark.parametrize("name", [k for k in KERNELS if (ROOT / f"cpp/kernels/{k}.cu").exists()])
def test_cpu_and_cuda_declare_and_define_the_same_functions(name):
    on_cpu, on_gpu = declared(HEADERS[name], "cpu"), declared(HEADERS[name], "cuda")
    # Memory is the caller's business on a GPU.
    assert on_cpu == {f for f in on_gpu if not f.endswith("_scratch_bytes")} != set()
    source = (ROOT / "cpp" / "kernels" / f"{name}.cu").read_text()
    without = (ROOT / "cpp" / "kernels" / "no_cuda.cpp").read_text()
    for function in on_gpu:
        assert re.search(rf"^[\w:]+ {function}\(", source, re.MULTILINE), function
        assert re.search(rf"^[\w:]+ {function}\(", without, re.MULTILINE), function


def test_bindings_alone_include_nanobind():
    for path in [*(ROOT / "cpp" / "kernels").iterdir(), *(ROOT / "cpp" / "include").rglob("*.h")]:
        assert "nanobind" not in path.read_text(), path
        assert "Python.h" not in path.read_text(), path
