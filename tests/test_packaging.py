"""Building where something is missing ends in one line that says what to install."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts" / "compiler.py"

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Windows has its own ways to compilers")


@pytest.fixture(scope="module")
def compiler():
    spec = importlib.util.spec_from_file_location("compiler", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def bare(tmp_path):
    """A PATH with a shell and nothing else."""
    (tmp_path / "sh").symlink_to("/bin/sh")
    return tmp_path


def tool(folder, name, says, status=1):
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{says}' >&2\nexit {status}\n")
    path.chmod(0o755)


def refused(path, **env):
    """The one line that the script ends with."""
    ran = subprocess.run(
        [sys.executable, str(SCRIPT)],
        env={"PATH": str(path), **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1
    (line,) = ran.stderr.splitlines()
    return line


def names_all_remedies(line):
    ways = ("apt install", "dnf install", "conda install", "xcode-select --install", "a wheel of")
    return all(way in line for way in ways)


def test_without_a_compiler(bare):
    line = refused(bare)
    assert line.startswith(
        "histofast: a C++17 compiler must be installed to build histofast, got none on the PATH: "
    )
    assert names_all_remedies(line)


def test_a_compiler_that_is_named_and_not_there(bare):
    tool(bare, "c++", "never asked", 0)
    line = refused(bare, CXX="g++-99 -O1")
    assert "got CXX=g++-99 -O1, which is not there: " in line
    assert names_all_remedies(line)


def test_a_compiler_too_old(bare):
    tool(bare, "g++", "g++: error: unrecognized option -std=c++17")
    line = refused(bare)
    assert "got g++ that says 'g++: error: unrecognized option -std=c++17': " in line
    assert names_all_remedies(line)


def test_without_the_headers_of_python(bare, compiler):
    tool(bare, "c++", "never asked", 0)
    with pytest.raises(compiler.Unable) as caught:
        compiler.check(str(bare / "include"), {"PATH": str(bare)})
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert f"got no {bare}/include/Python.h: apt install python{version}-dev" in str(caught.value)
    assert f"dnf install python{version}-devel" in str(caught.value)


def test_a_compiler_that_will_do(compiler):
    if shutil.which("c++") is None:
        pytest.skip("no compiler on the PATH")
    compiler.check()


@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_pip_shows_the_line_and_little_else(bare, kind):
    """Without build isolation, for speed: the same hooks are called with it."""
    if importlib.util.find_spec("scikit_build_core") is None:
        pytest.skip("scikit-build-core is not installed: pip install --group dev")
    what = {"wheel": ["wheel", "-w", str(bare), "."], "editable": ["install", "-e", "."]}[kind]
    ran = subprocess.run(
        [sys.executable, "-m", "pip", *what, "--no-deps", "--no-build-isolation"],
        cwd=ROOT,
        env={"PATH": str(bare)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert ran.returncode == 1
    lines = [line.strip() for line in ran.stdout.splitlines() if line.strip()]
    assert sum("a C++17 compiler must be installed" in line for line in lines) == 1
    assert len(lines) < 25, ran.stdout
    assert "CMake" not in ran.stdout


def test_the_source_archive_is_what_is_committed(tmp_path):
    """So that the tests pass from it: they read pages, and pages link to results."""
    if importlib.util.find_spec("scikit_build_core") is None:
        pytest.skip("scikit-build-core is not installed: pip install --group dev")
    if not (ROOT / ".git").exists():
        pytest.skip("no clone: nothing tells what is committed")
    git = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=True)
    wanted = {name for name in listed.stdout.splitlines() if (ROOT / name).exists()}
    code = "import sys; sys.path.insert(0, 'scripts'); import backend; backend.build_sdist(sys.argv[1])"
    command = [sys.executable, "-c", code, str(tmp_path)]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    (made,) = tmp_path.iterdir()
    with tarfile.open(made) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names == {name for name in wanted if not name.startswith(".ci/")} | {"PKG-INFO"}


def test_wheels_of_another_machine(tmp_path):
    command = ["bash", str(ROOT / "scripts/wheels.sh"), str(tmp_path / "dist"), "arm64"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    said = "usage: scripts/wheels.sh FOLDER [x86_64|aarch64], got arm64\n"
    assert (ran.returncode, ran.stderr) == (2, said)
    assert not [*tmp_path.iterdir()]
