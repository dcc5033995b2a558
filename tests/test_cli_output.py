"""What the command line says cannot steer a terminal, whatever the names of things are."""

from __future__ import annotations

import ast
import io
import json
import os
import pty
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

import histofast
from histofast import cli as commands
from histofast._words import printable
from small_slides import write_slide

PACKAGE = Path(histofast.__file__).parent
PROGRAM = [sys.executable, "-c", "from histofast.cli import main; main()"]
# A screen wiped, a window renamed, text turned round, marks of rich, a ring of the bell, a byte
# that is no text.
EVIL = "s\x1b[2J\x1b]0;x\x07[red]\u202efit.\u2066é病\x9b1m\x7f"
UNDECODABLE = "u\udcff\x1b[2J"
STEERING = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def steering(text):
    """What could steer a terminal in a text, line ends apart."""
    return {c for c in text if unicodedata.category(c) in STEERING} - {"\n"}


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain name.svs", None),
        ("Größe, naïve, Ærø", None),
        ("病理切片 病変 병리", None),
        ("می\u200cخو", None),  # Persian, with the joiner that parts its words
        ("क्\u200dष", None),
        ("👩\u200d🔬", None),
        ("\u0600٢٣", None),
        ("a\u00a0b\u3000c", None),
        ("back\\slash [red]", None),
        ("a\x1b[31mb", "a\\u001b[31mb"),
        ("a\nb\tc\rd", "a\\nb\\tc\\rd"),
        ("a\x00b\x7fc\x9bd\x85", "a\\u0000b\\u007fc\\u009bd\\u0085"),
        ("a\u202eb\u2066c\u200f\u061c", "a\\u202eb\\u2066c\\u200f\\u061c"),
        ("a\u2028b\u2029", "a\\u2028b\\u2029"),
        ("a\u200bb\ufeff\u2060\u00ad", "a\\u200bb\\ufeff\\u2060\\u00ad"),
        ("a\udcffb", "a\\udcffb"),
        ("a\U000e0041", "a\\udb40\\udc41"),
    ],
)
def test_names_are_shown(name, shown):
    assert printable(name) == (shown or name)
    # As JSON writes it: a document that is printed stays one of the same names.
    if "\\" not in name:
        assert json.loads(f'"{printable(name)}"') == name


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_without_the_letters_has_them_escaped(encoding):
    raw = io.BytesIO()
    stream = commands.output.Escaped(io.TextIOWrapper(raw, encoding=encoding, newline="\n"))
    stream.write("é病\udcff\x1b\n\ttab\r")
    stream.flush()
    shown = {"ascii": "\\u00e9\\u75c5", "latin-1": "é\\u75c5", "utf-8": "é病"}[encoding]
    assert raw.getvalue().decode(encoding) == shown + "\\udcff\\u001b\n\ttab\r"


def prints(tree):
    """Calls and names that put text on a terminal."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            if name.startswith(("typer.echo", "typer.secho", "sys.stdout.w", "sys.stderr.w")):
                yield name
        elif isinstance(node, ast.Name) and node.id in ("print", "echo"):
            yield node.id
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rich"):
            yield node.module


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_nothing_else_prints(path):
    if path != PACKAGE / "cli" / "output.py":
        allowed = {"typer.echo"} if path == PACKAGE / "cli" / "__init__.py" else set()
        assert set(prints(ast.parse(path.read_text()))) <= allowed


def run(*arguments, cwd=None, **environment):
    done = subprocess.run(
        [*PROGRAM, *arguments],
        capture_output=True,
        cwd=cwd,
        env={**os.environ, **environment},
        check=False,
    )
    encoding = environment.get("PYTHONIOENCODING", "utf-8")
    return done.returncode, done.stdout.decode(encoding), done.stderr.decode(encoding)


@pytest.fixture(scope="module")
def evil_slides(tmp_path_factory):
    """Slides of evil names, one whole and one broken, and a broken one of an undecodable name."""
    folder = tmp_path_factory.mktemp("evil")
    write_slide(folder / f"{EVIL}.tif")
    (folder / f"{EVIL} broken.tif").write_bytes(b"II*\0")
    (folder / f"{UNDECODABLE}.tif").write_bytes(b"II*\0")
    return folder


@pytest.mark.parametrize(
    "environment",
    [{"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"}, {"LC_ALL": "C", "LANG": "C"}],
    ids=lambda e: ",".join(f"{k}={v}" for k, v in e.items()),
)
def test_evil_names_of_slides(evil_slides, tmp_path, environment):
    arguments = ("tissue", str(evil_slides), "--out", str(tmp_path / "qc"), "--mpp", "1")
    code, out, err = run(*arguments, **environment)
    assert code == 1
    assert steering(out + err) == set()
    assert "s\\u001b[2J\\u001b]0;x\\u0007[red]\\u202efit." in out
    assert "broken: failed: " in err
    assert "u\\udcff\\x1b[2J.tif' must have a name in UTF-8: rename it" in err


def test_json_keeps_the_true_names(cli, evil_slides, tmp_path):
    answer = cli("tissue", evil_slides, "--out", tmp_path / "qc", "--mpp", "1", "--json")
    assert steering(answer.out) == set()
    assert {EVIL, f"{EVIL} broken"} < {row["name"] for row in json.loads(answer.out)}


@pytest.mark.parametrize(
    "arguments",
    [
        ("extract", "no\x1b[2J\u202e.svs"),
        ("extract", "no\udcff.svs"),
        ("extract", "x", "--mpp", "\x1b[2J"),
        ("extract", "x", "--edge", "\u202e"),
        ("extract", "x", "--gpus", "\x9b2J"),
        ("extract", "--\x1b[2J"),
        ("\x1b[2J\u202e",),
        ("models", "\x9b"),
        ("models", "layers", "\x1b[2J"),
        ("verify", "no\x1b[2J\udcff"),
        ("doctor", "\x1b[2J"),
        ("train", "\x1b[2J", "--labels", "\x1b[2J.csv", "--out", "o"),
    ],
    ids=repr,
)
def test_evil_words_of_a_command(cli, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = cli(*arguments)
    assert answer.code in (1, 2)
    (line,) = answer.err
    assert steering(answer.out + line) == set()
    assert line.startswith("histofast: ")


def test_help_on_a_terminal_of_few_letters():
    code, out, _ = run("extract", "--help", PYTHONIOENCODING="ascii")
    assert code == 0
    assert "--patch-px" in out


def test_evil_words_in_tracebacks_and_warnings():
    for line in ("raise RuntimeError(w)", "warnings.warn(w)", "logging.warning(w)", "print(w)"):
        program = f"""
import histofast.cli as cli, logging, warnings
def broken(arguments):
    w = "\\x1b[2J\\u202e\\udcff"
    {line}
    return 0
cli._run = broken
cli.main()"""
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
        said = (done.stdout + done.stderr).decode()
        assert steering(said) == set()
        assert "\\u001b[2J\\u202e\\udcff" in said


def on_a_terminal(*arguments):
    """Return all that a command writes to a terminal of 100 columns."""
    mother, child = pty.openpty()
    environment = {**os.environ, "COLUMNS": "300", "TERM": "xterm"}
    process = subprocess.Popen([*PROGRAM, *arguments], stdout=child, stderr=child, env=environment)
    os.close(child)
    said = b""
    try:
        while piece := os.read(mother, 65536):
            said += piece
    except OSError:  # how Linux tells that nobody writes any more
        pass
    os.close(mother)
    process.wait()
    return said.decode()


def test_bars_keep_their_colours_and_names_have_none(evil_slides, tmp_path):
    said = on_a_terminal(
        *("extract", str(evil_slides), "-o", str(tmp_path / "f"), "--mpp", "1", "--patch-px", "64")
    )
    assert "\x1b[2K" in said  # a bar drawn anew
    assert "━" in said
    assert "s\\u001b[2J\\u001b]0;x\\u0007[red]\\u202efit." in said
    for raw in ("\x1b[2J", "\x1b]0", "\x07", "\u202e", "\u2066", "\x9b", "\x7f"):
        assert raw not in said


def test_a_stream_that_is_closed_before_its_end_is_no_error():
    """Python 3.13 tells what a destructor raises: it would follow every line of a test."""
    stream = io.StringIO()
    escaped = commands.output.Escaped(stream)
    stream.close()
    escaped.close()
