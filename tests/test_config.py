"""`histofast.toml`, exit codes and completion: what the command line does around its commands."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

import histofast
from broken_files import CONTENTS
from histofast.cli import EXIT_CODES
from histofast.features import read_features

PROGRAM = [sys.executable, "-c", "from histofast.cli import main; main()"]


@pytest.fixture
def project(tmp_path, monkeypatch, encoder):
    """A folder with an encoder and its defaults, and one in it, where one works."""
    (tmp_path / "tiny.onnx").write_bytes(encoder.read_bytes())
    (tmp_path / "histofast.toml").write_text(
        '[extract]\nencoder = "tiny.onnx"\nmpp = 4.0\nmin-tissue = 0.1\noverlap = 8\nhalf = true\n'
        'out = "feats"\nthreads = 1\n[models.layers]\njson = false\n'
    )
    work = tmp_path / "a" / "b"
    work.mkdir(parents=True)
    monkeypatch.chdir(work)
    return tmp_path


def features_in(folder):
    (path,) = folder.rglob("s0.h5")
    return read_features(path)


def test_a_project_sets_defaults_and_says_so(cli, slides, project):
    answer = cli("extract", slides / "s0.tif")
    assert answer.code == 0, answer.err
    file = features_in(project / "feats")
    assert file.features.dtype == "float16"
    assert (file.identity["mpp"], file.identity["overlap"]) == (4.0, 8)
    assert answer.err[0] == (
        f"note: {project / 'histofast.toml'} sets --encoder {project / 'tiny.onnx'}, --mpp 4.0, "
        f"--min-tissue 0.1, --overlap 8, --half, --out {project / 'feats'}, --threads 1"
    )


def test_what_is_typed_wins(cli, slides, project, tmp_path):
    answer = cli("extract", slides / "s0.tif", "--mpp", "2", "-o", tmp_path / "mine", "--overlap=0")
    assert answer.code == 0, answer.err
    file = features_in(tmp_path / "mine")
    assert (file.identity["mpp"], file.identity["overlap"]) == (2.0, 0)
    assert not (project / "feats").exists()
    assert "--mpp" not in answer.err[0]
    assert "--out" not in answer.err[0]
    assert "--overlap" not in answer.err[0]
    assert "--half" in answer.err[0]


def test_a_file_can_be_named_or_none_taken(cli, slides, project, encoder):
    other = project / "other.toml"
    other.write_text("[extract]\nmpp = 2.0\nmin_tissue = 0.1\n")
    mine = ("-e", encoder, "-o", "mine", "--dry-run", "-q")
    answer = cli("--config", other, "extract", slides / "s0.tif", *mine)
    assert answer.err[0] == f"note: {other} sets --mpp 2.0, --min-tissue 0.1"
    assert cli("--no-config", "extract", slides / "s0.tif", *mine).err == []
    assert cli("extract", "--help").err == []
    assert cli("doctor").err == []
    answer = cli("--config", "none.toml", "extract", slides / "s0.tif")
    assert (answer.code, len(answer.err)) == (2, 1)
    assert "no such file of defaults: none.toml" in answer.err[0]


def test_options_of_the_program_itself(cli, project, slides):
    (project / "histofast.toml").write_text('log = "run.log"\n')
    assert cli("verify", slides).code == 2
    assert "no feature file" in (project / "run.log").read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[extrac]\nmpp = 1", "[extrac] must be a command: did you mean extract?"),
        ("[models.exprt]\nmpp = 1", "[models.exprt] must be a command: did you mean export"),
        (
            "[extract]\npatchpx = 1",
            "extract.patchpx must be an option of extract: did you mean patch-px",
        ),
        ("[models.export]\nnothing = 1", "must be an option of models export, got none of "),
        ("[extract]\nslides = 'a'", "extract.slides must be an option of extract"),
        ("[extract]\nhelp = true", "extract.help must be an option of extract"),
        ("mpp = 1", "mpp must be an option of histofast"),
        ("[extract]\nstrict = 1", "extract.strict must be true or false, got 1"),
        ("[extract]\nmpp = true", "extract.mpp must be a text or a number, got True"),
        ("[extract]\nmpp = [1]", "extract.mpp must be one value, got a list"),
        ("[extract]\nencoder = [[1]]", "extract.encoder must be a text or a number, got [1]"),
        ("[extract]\nmpp = 1979-05-27", "extract.mpp must be a text or a number"),
        ("[extract]\nmpp", "must be TOML: "),
    ],
)
def test_what_it_must_not_say_is_refused(cli, project, slides, text, message):
    (project / "histofast.toml").write_text(text)
    answer = cli("extract", slides / "s0.tif")
    assert answer.code == 2
    (line,) = answer.err
    assert line.startswith(f"histofast: {project / 'histofast.toml'}")
    assert message in line


def test_a_value_out_of_range_is_told_as_that_of_the_option(cli, project, slides):
    (project / "histofast.toml").write_text('[extract]\nmpp = "fine"\nedge = "keep"\n')
    answer = cli("extract", slides / "s0.tif")
    assert answer.code == 2
    assert answer.err[0].endswith("sets --mpp fine, --edge keep")
    assert "invalid value for '--mpp': must be a number, got 'fine'" in answer.err[1]


def test_no_content_strays(cli, project):
    """Whatever lies there: its commands run, or one line says what is wrong."""
    strays = {}
    for name, content in CONTENTS.items():
        (project / "histofast.toml").write_bytes(content)
        answer = cli("status", project / "none")
        if answer.code != 2 or len(answer.err) > 1 or "Traceback" in "".join(answer.err):
            strays[name] = answer
    assert not strays


# --- Exit codes ------------------------------------------------------------------------------------


def test_exit_codes_are_those_that_are_written(cli, slides, encoder, tmp_path):
    assert [*EXIT_CODES] == [0, 1, 2, 130]
    told = " ".join(cli("--help").out.split())
    for code, what in EXIT_CODES.items():
        assert f"{code} {what}" in told
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "bad.svs").write_bytes(b"II*\0" + bytes(40))
    (tmp_path / "in" / "s0.tif").write_bytes((slides / "s0.tif").read_bytes())
    some = ("extract", tmp_path / "in", "-e", encoder, "-o", tmp_path / "f", "-q")
    assert cli(*some).code == 1
    (tmp_path / "in" / "bad.svs").unlink()
    assert cli(*some).code == 0
    assert cli(*some, "--mpp", "no").code == 2
    assert cli("extract", tmp_path / "none", "-q").code == 2


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_an_interrupted_run_ends_with_130(slides, encoder, tmp_path):
    dense = ["--mpp", "1", "--overlap", "28", "--min-tissue", "0.1", "--batch-size", "16"]
    command = [*PROGRAM, "extract", slides, "-e", encoder, "--threads", "1", *dense]
    with subprocess.Popen([*command, "-o", tmp_path], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr.readline().startswith("[1/3]")
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
    assert process.returncode == 130


# --- Completion ------------------------------------------------------------------------------------


def completed(*words):
    """What a shell is offered behind these words."""
    environment = {
        **os.environ,
        "_HISTOFAST_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(["histofast", *words]),
        "COMP_CWORD": str(len(words)),
    }
    ran = subprocess.run(PROGRAM, env=environment, capture_output=True, text=True, check=True)
    assert ran.stderr == ""
    return ran.stdout.split()


def test_commands_and_options_are_completed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "histofast.toml").write_text("broken")  # nobody asks for it here
    assert completed("extr") == ["extract"]
    assert set(completed("models", "ex")) == {"export"}
    assert completed("extract", "--patch-p") == ["--patch-px"]


def test_bash_takes_the_script(tmp_path):
    command = [*PROGRAM, "--show-completion", "bash"]
    script = subprocess.run(command, capture_output=True, text=True, check=True)
    (tmp_path / "complete.sh").write_text(script.stdout)
    (tmp_path / "histofast").write_text(
        f'#!/bin/sh\nexec {sys.executable} -c "{PROGRAM[2]}" "$@"\n'
    )
    (tmp_path / "histofast").chmod(0o755)
    asked = (
        f"PATH={tmp_path}:$PATH; source {tmp_path}/complete.sh; complete -p histofast; "
        "COMP_WORDS=(histofast patc); COMP_CWORD=1; _histofast_completion histofast; "
        'echo "${COMPREPLY[@]}"'
    )
    ran = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True)
    assert "_histofast_completion" in ran.stdout
    assert ran.stdout.splitlines()[-1] == "patches"


def test_completion_is_installed(tmp_path):
    command = [*PROGRAM, "--install-completion", "bash"]
    environment = {**os.environ, "HOME": str(tmp_path)}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "bash completion installed" in ran.stdout
    assert "histofast.sh" in (tmp_path / ".bashrc").read_text()


def test_the_version_is_the_packages(cli):
    assert cli("--version").out == f"histofast {histofast.__version__}\n"
