"""The house rules that a machine can check: who imports whom, what an import costs, one version."""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import histofast
from extras import REMEDIES, need
from histofast import _core, pipeline

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
    "_notebook": 1,
    "_notes": 1,
    "_progress": 1,
    "_remote": 2,
    "_stopping": 1,
    "_tables": 3,
    "tissue": 4,
    "tiling": 2,
    "similarity": 4,
    "encoders": 3,
    "slides": 3,
    "features": 3,
    "patches": 5,
    "jobs": 4,
    "pipeline": 6,
    "graphs": 6,
    "learning": 6,
    "report": 6,
    "datasets": 7,
    "doctor": 7,
    "networks": 7,
    "comparison": 8,
    "encoding": 8,
    "classify": 8,
    "mil": 8,
    "robustness": 8,
    "transferability": 8,
    "explain": 9,
    "summaries": 9,
    "studies": 10,
    "viewer": 10,
    "cli": 11,
}
# A heavy dependency and the rooms that may import it.
DOORS = {
    # `encoding` for a type only.
    "torch": {"networks", "encoding", "classify", "mil", "learning", "studies", "explain"},
    "timm": {"networks"},
    "safetensors": {"networks", "classify", "mil"},
    "sklearn": {"mil", "studies"},
    "umap": {"studies"},
    "onnxruntime": {"encoders", "graphs"},  # its converter to float16
    "onnx": {"graphs", "networks"},
    "filelock": {"_files"},
    "ray": {"jobs"},
    "obstore": {"_remote"},
    "tifffile": {"slides"},
    "imagecodecs": {"slides"},
    "openslide": {"slides"},
    "zarr": {"slides", "features"},
    "google_crc32c": {"slides"},
    "h5py": {"features"},
    "anndata": {"features"},
    "pandas": {"features"},
    "pyarrow": {"features"},
    "matplotlib": {"report"},
    "jinja2": {"report"},
    "starlette": {"viewer"},
    "uvicorn": {"viewer"},
    "typer": {"cli"},
    "rich": {"cli"},
}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def module_of(path: Path) -> str:
    """Dotted name of a file; a package for its `__init__`."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
SOURCES = [path for module, path in FILES.items() if module != "histofast"]
TREES = {module: ast.parse(path.read_text()) for module, path in FILES.items()}


def named_by(node: ast.Import | ast.ImportFrom) -> set[str]:
    """Dotted names of what one statement imports, and of the modules that it takes them from."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    assert node.level == 0, f"line {node.lineno}: a relative import"
    return {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}


def imports_of(tree: ast.AST) -> set[str]:
    """Dotted names of everything that is imported, at any depth of nesting."""
    imports = (n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom))
    return set().union(*map(named_by, imports))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_rooms_import_only_from_below_and_through_their_doors(path):
    room = room_of(path)
    assert room in LEVELS, f"give {room} a level in this test and in ARCHITECTURE.md"
    for name in imports_of(TREES[module_of(path)]):
        top, _, rest = name.partition(".")
        if top == "histofast" and rest:
            other = rest.split(".")[0]
            if other in LEVELS and other != room:
                assert LEVELS[other] < LEVELS[room], f"{room} must not import {other}"
        if top in DOORS:
            assert room in DOORS[top], f"{room} must not import {top}"


def test_no_level_is_of_a_room_that_is_gone():
    assert set(LEVELS) == {room_of(path) for path in SOURCES} | {"_core"}


# --- Rooms are entered through their __init__ -----------------------------------------------------


def inner_imports(tree: ast.AST, *, room: str | None) -> set[str]:
    """Modules inside other rooms that are imported, but for what those rooms promise by name."""
    found = set()
    for name in imports_of(tree):
        package, _, inner = name.rpartition(".")
        is_inner = name in FILES and name.count(".") >= 2 and name.split(".")[1] != room
        if is_inner and inner not in promises(package):
            found.add(name.removeprefix("histofast."))
    return found


def promises(package: str) -> set[str]:
    """What a package lists in `__all__`."""
    for node in TREES[package].body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_rooms_are_entered_through_their_promises(path):
    assert not inner_imports(TREES[module_of(path)], room=room_of(path))


def test_few_tests_and_benchmarks_look_inside_a_room():
    outside = [
        p for folder in ("tests", "benchmarks", "examples") for p in (ROOT / folder).glob("*.py")
    ]
    found = {p.name: sorted(inner_imports(ast.parse(p.read_text()), room=None)) for p in outside}
    assert sum(map(len, found.values())) <= 64, {
        name: inner for name, inner in found.items() if inner
    }


# --- No circles -----------------------------------------------------------------------------------


def run_by_import(body: list[ast.stmt]) -> Iterator[ast.Import | ast.ImportFrom]:
    """Import statements that run when their module is imported."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield from run_by_import(node.orelse)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for block in ("body", "handlers", "orelse", "finalbody"):
                yield from run_by_import(getattr(node, block, []))


def lazy_homes() -> dict[str, str]:
    """Names that packages load when first used, and the modules that have them."""
    return {
        f"{module}.{alias.asname or alias.name}": str(node.module)
        for module, tree in TREES.items()
        for block in tree.body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in block.body
        if isinstance(node, ast.ImportFrom) and FILES[module].name == "__init__.py"
        for alias in node.names
    }


def test_no_modules_import_each_other():
    homes = lazy_homes()
    later = {}
    for module, tree in TREES.items():
        names = set().union(*map(named_by, run_by_import(tree.body)))
        used = {homes.get(name, name) for name in names} | names
        # The package that a module is in is being imported already.
        later[module] = {n for n in used & set(FILES) if not f"{module}.".startswith(f"{n}.")}
    TopologicalSorter(later).prepare()  # raises CycleError, which names them


# --- Tests run without the extras too -------------------------------------------------------------

NEED_TORCH = {"histofast.networks", "histofast.mil", "histofast.studies"}


@pytest.mark.parametrize("path", sorted((ROOT / "tests").glob("test_*.py")), ids=lambda p: p.name)
def test_a_test_asks_before_it_imports_what_an_extra_brings(path):
    for node in ast.parse(path.read_text()).body:
        if "need(" in ast.unparse(node) and not isinstance(node, ast.FunctionDef | ast.ClassDef):
            return
        for name in set().union(*map(named_by, run_by_import([node]))):
            asks = name.partition(".")[0] in REMEDIES or name in NEED_TORCH
            assert not asks, f"call extras.need before {name} is imported: it is optional"


# --- Sizes ----------------------------------------------------------------------------------------

LINES_OF_A_FILE, LINES_OF_A_FUNCTION = 500, 60
# What is longer still; strike what is mended, add nothing without a reason that a reader accepts.
LONG_FILES: set[str] = set()
LONG_FUNCTIONS = {
    "pipeline.extraction.extract",
}


def length(function: ast.FunctionDef | ast.AsyncFunctionDef, *, is_command: bool) -> int:
    """Lines without the docstring, and of commands without the options that they declare."""
    first = function.body[0]
    lines = int(function.end_lineno or 0) - function.lineno + 1
    if ast.get_docstring(function) is not None:
        lines -= int(first.end_lineno or 0) - first.lineno + 1
    return lines - (first.lineno - function.lineno if is_command else 0)


def compare(found: set[str], known: set[str]) -> None:
    assert not found - known, "split these"
    assert not known - found, "strike these from the table: they are mended"


def test_no_file_is_long():
    compare(
        {
            module.removeprefix("histofast.")
            for module, path in FILES.items()
            if len(path.read_text().splitlines()) > LINES_OF_A_FILE
        },
        LONG_FILES,
    )


def test_no_function_is_long():
    long = {
        f"{module.removeprefix('histofast.')}.{node.name}"
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and length(node, is_command=room_of(FILES[module]) == "cli") > LINES_OF_A_FUNCTION
    }
    compare(long, LONG_FUNCTIONS)


# --- What an import costs, and what it gives ------------------------------------------------------


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


def test_extract_takes_all_arguments_of_the_pipelines():
    """What is handed on is typed apart: an argument more stands in pipeline/arguments.py as well."""
    theirs = inspect.signature(pipeline.extract).parameters
    ours = inspect.signature(histofast.extract).parameters
    assert theirs.keys() | {"mean", "std", "name", "dims"} == ours.keys()
    own = {"slides", "out", "encoder", "patch_px", "mpp"}
    assert pipeline.ExtractArguments.__annotations__.keys() == theirs.keys() - own
    for name, parameter in theirs.items():
        assert ours[name].default == parameter.default


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
    inner = [name for name in package.__all__ if (PACKAGE / room / name).is_dir()]
    for name in [*(n for n in package.__all__ if n not in inner), *inner]:
        if name in inner:
            need(f"histofast.{room}.{name}")  # may need what the room itself does not
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
