"""What README and the pages of the site show works: Python runs, names exist, command lines parse, links lead somewhere."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import h5py
import pytest
import typer

import histofast
from histofast import patches
from histofast.cli import app

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Names of other tools, in the first column of its tables, are not ours.
THEIRS = re.compile(r"^\|[^|]*\|", re.MULTILINE)
TEXT = {page.stem: page.read_text() for page in PAGES}
TEXT["coming-from"] = THEIRS.sub("|", TEXT["coming-from"])
README = "\n".join(TEXT.values())

# Of files, not of Python: `test_names_in_files_are_there` asks for these.
IN_FILES = re.findall(
    r"`([a-z]\w*)`", "\n".join(re.findall(r"^\| `.*?\|", TEXT["feature-files"], re.MULTILINE))
)

PYTHON = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
_PROSE = re.sub(r"^```.*?^```|^    [^\n]*$", "", README, flags=re.MULTILINE | re.DOTALL)
SPANS = list(dict.fromkeys(s.replace("\n", " ") for s in re.findall(r"`([^`]+)`", _PROSE)))
SHELL = [
    command.strip()
    for line in re.findall(r"^    (?=histofast |python )(.*)$", README, re.MULTILINE)
    for command in re.split(r" ; | && ", re.sub(r"\s#.*", "", line))
]


OF_FILES = {"encoder_licence", "identity_sha256", "patch_size_level0_exact"}

# Kinds of files, which no module has a name of.
SUFFIXES = {
    ".csv",
    ".geojson",
    ".h5",
    ".h5ad",
    ".jpg",
    ".locks",
    ".npy",
    ".onnx",
    ".png",
    ".pt",
    ".svs",
    ".tif",
    ".tmp",
    ".tsv",
    ".txt",
}


def full_names() -> list[str]:
    """Dotted names that the prose mentions; `.name` is in the module of the one before it."""
    found, module = [], ""
    for span in SPANS:
        name = re.sub(r"\(.*\)$", "", span)
        if name in SUFFIXES or not re.fullmatch(r"\.?[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", name):
            continue
        if name.startswith("histofast."):
            module = name.rpartition(".")[0]
        elif name.startswith("."):
            name = module + name
        elif name.partition(".")[0] in dir(histofast) and "." in name:
            name = f"histofast.{name}"
        else:
            continue
        found.append(name)
    return sorted(set(found))


def plain_names() -> list[str]:
    """Names without their module: snake_case with an underscore, or CamelCase."""
    pattern = r"[a-z]\w*_\w+(?<!_)|([A-Z][a-z0-9]+){2,}"
    of_files = {*IN_FILES, *OF_FILES}
    return [
        s
        for s in SPANS
        if re.fullmatch(pattern, s) and not s.startswith("features_") and s not in of_files
    ]


@pytest.fixture(scope="module")
def missing() -> dict[str, str]:
    """What is wrong with each full name after `import histofast`, in a process of its own."""
    code = (
        "import json, sys\nimport histofast\nwrong = {}\n"
        "for name in json.loads(sys.argv[1]):\n"
        "    try: eval(name)\n"
        "    except (AttributeError, ImportError) as error: wrong[name] = str(error)\n"
        "print(json.dumps(wrong))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, json.dumps(full_names())],
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(ran.stdout)


def test_readme_was_understood():
    assert len(PYTHON) >= 1
    assert len(SHELL) >= 20
    assert {"histofast.networks.layers", "histofast.similarity.cka_pairs"} <= set(full_names())
    assert {"cka_minibatch", "CkaAccumulator"} <= set(plain_names())


@pytest.mark.parametrize("name", full_names())
def test_names_exist(name, missing):
    reason = missing.get(name, "")
    if "which is not installed: pip install 'histofast[train]'" in reason:
        pytest.skip(reason)
    assert not reason


NO_TORCH = ("encoders", "similarity", "transferability")


@pytest.mark.parametrize("name", plain_names())
def test_plain_names_are_of_a_room_that_needs_no_torch(name):
    rooms = [histofast, *(getattr(histofast, room) for room in NO_TORCH)]
    assert any(name in room.__all__ for room in rooms)


@pytest.mark.parametrize("code", PYTHON)
def test_python_runs(code, tmp_path):
    (tmp_path / "slides").mkdir()
    for name in ("slide.svs", "slides/slide.svs"):
        patches.make_slide(tmp_path / name, width_px=2048, height_px=2048, tissue_fraction=0.3)
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


# What files have only sometimes: patch images, chosen patches, a nominal scale.
RARE = {"files", "labels", "selection", "patch_size_level0_exact"}


def test_names_in_files_are_there(tmp_path):
    slide = tmp_path / "slide.svs"
    patches.make_slide(slide, width_px=2048, height_px=2048, tissue_fraction=0.3)
    with h5py.File(histofast.extract(slide, out=tmp_path / "f").slides[0].outputs[0]) as file:
        held = {*file, *file.attrs, *file["coords"].attrs}
    assert len(IN_FILES) >= 15
    assert {*IN_FILES} - RARE <= held
    assert held <= {*IN_FILES, "identity", "sha256", "identity_sha256", "layout"}


# --- Links ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_to_files(page):
    links = re.findall(r"\]\((?!\w+:)([^)#]+)", page.read_text())
    # Pages of the API are written when the site is built.
    missing = [
        link for link in links if not link.startswith("api/") and not (page.parent / link).exists()
    ]
    assert not missing


def test_the_first_page_is_one_to_read():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


# --- Commands -------------------------------------------------------------------------------------


HISTOFAST = typer.main.get_command(app)


def command_of(words: list[str]):
    """The command that words begin with, without `histofast`, and the words after its name."""
    command = HISTOFAST
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    return command, words


def options_of(command) -> set[str]:
    own = {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help"}
    return own.union(*(options_of(c) for c in getattr(command, "commands", {}).values()))


@pytest.mark.parametrize("line", SHELL)
def test_command_lines_parse(line):
    first, *words = shlex.split(line)
    if first == "." or words[:2] == ["-m", "venv"]:
        return
    if first == "python":
        assert (ROOT / words[0]).is_file()
        return
    command, rest = command_of(words)
    assert not hasattr(command, "commands"), f"{line} names no command"
    command.make_context(line, rest).close()


@pytest.mark.parametrize("span", [s for s in SPANS if re.search(r"(^| )--\w|^histofast ", s)])
def test_commands_and_options_in_the_text_exist(span):
    words = shlex.split(span)
    if words[0] in {"eval", "pip", "pytest", "ray", "sbatch"}:
        return
    named = words[words[0] == "histofast" :]
    command, rest = command_of(named)
    if command.context_settings.get("ignore_unknown_options"):  # it passes on what follows
        return
    assert len(rest) < len(named) or named[0].startswith("--"), f"no command {named[0]}"
    assert {w for w in rest if w.startswith("--")} <= options_of(command)
