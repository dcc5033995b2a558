"""What the library logs under `histofast`: silent by itself, each thing once, from processes too."""

from __future__ import annotations

import contextlib
import logging
import re
import subprocess
import sys
from dataclasses import dataclass

import pytest

from extras import need
from histofast import _notes, jobs
from histofast.datasets import open_images
from histofast.learning import read_labels
from labelled_pictures import write_pictures
from small_jobs import say_all
from small_slides import run, write_slide
from tiny_encoder import write_encoder
from toy_bags import write_toy


@dataclass(frozen=True)
class Found:
    notes: tuple[str, ...]


@_notes.noted
def inner():
    return Found(notes=("a", "b"))


@_notes.noted
def outer():
    return Found(notes=(*inner().notes, "c", "c"))


def said(caplog, *, level=logging.DEBUG, name="histofast"):
    return [
        r.getMessage() for r in caplog.records if r.levelno >= level and r.name.startswith(name)
    ]


@pytest.fixture
def log(caplog):
    with caplog.at_level("DEBUG", logger="histofast"):
        yield caplog


def test_a_note_is_logged_once_however_many_hand_it_on(caplog):
    logger = logging.getLogger(__name__)
    with caplog.at_level("WARNING", logger=__name__):
        assert outer().notes == ("a", "b", "c", "c")
        assert [r.getMessage() for r in caplog.records] == ["a", "b", "c"]
        assert {(r.levelname, r.name) for r in caplog.records} == {("WARNING", logger.name)}
        outer()  # another call is another time
        assert len(caplog.records) == 6


def test_a_note_is_logged_and_told(log):
    told: list[str] = []
    _notes.note(_notes.log_of("histofast"), "50 % of %s", to=told.append)  # no format: it is a text
    assert said(log) == told == ["50 % of %s"]


def test_nothing_is_shown_by_itself():
    code = (
        "import logging, histofast\nlogging.getLogger('histofast.slides').warning('shown')\n"
        "assert not logging.getLogger().handlers\n"
        "assert [type(h).__name__ for h in logging.getLogger('histofast').handlers] == ['NullHandler']"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""


def test_a_run_of_extract(tmp_path, log):
    encoder = write_encoder(tmp_path / "tiny.onnx")
    good, bad = write_slide(tmp_path / "good.tif"), tmp_path / "bad.tif"
    bad.write_bytes(b"II*\0 no slide")
    report = run([good, bad], tmp_path / "out", encoder)
    lines = said(log, level=logging.INFO, name="histofast.pipeline")
    assert lines[0] == f"encoding 2 slides into {tmp_path / 'out'}"
    (done,) = report.of("done")
    (failed,) = report.of("failed")
    assert done.in_words() in lines
    assert done.in_words().startswith(f"good: {done.patches} patches in ")
    assert re.fullmatch(r"1 done, 1 failed in \d+\.\d s|1 failed, 1 done in \d+\.\d s", lines[-1])
    assert [line for line in said(log, level=logging.WARNING) if "bad" in line] == [
        f"bad: failed: {failed.error}"
    ]
    assert any(line.startswith(f"opened {good} by TiffSlide") for line in said(log))
    log.clear()
    run([good], tmp_path / "out", encoder)
    assert "good: already there" in said(log)
    assert "good: already there" not in said(log, level=logging.INFO)


def test_notes_of_tables_and_data_sets(tmp_path, log):
    table = write_pictures(tmp_path / "pictures", n=4)
    table.write_text(table.read_text().replace("patient", "slide") + "img/000.png,,p\n")
    (tmp_path / "labels.csv").write_text("slide,label\na,0\nb,1\nc,\n")
    with pytest.raises(ValueError, match=r"img/000\.png"):
        open_images(table)
    assert said(log) == []
    labels = read_labels(tmp_path / "labels.csv", ["a", "b", "d"], missing="skip")
    assert labels.notes
    assert said(log, level=logging.WARNING) == list(dict.fromkeys(labels.notes))


def test_what_processes_log_arrives(log):
    work = [jobs.Job(name=n, function=say_all, arguments={"n": n}) for n in "ab"]
    jobs.values_of(jobs.run(work, engine=jobs.Local(processes=2)))
    found = [(r.levelname, r.getMessage()) for r in log.records if r.name == "histofast.of_a_test"]
    assert sorted(found) == sorted(
        (level, f"{n} says {level.lower()}") for n in "ab" for level in ("DEBUG", "WARNING")
    )
    assert len({r.process for r in log.records if r.name == "histofast.of_a_test"}) == 2


def test_a_quiet_parent_hears_only_warnings(caplog):
    work = [jobs.Job(name=n, function=say_all, arguments={"n": n}) for n in "ab"]
    with caplog.at_level("WARNING", logger="histofast"):
        jobs.values_of(jobs.run(work, engine=jobs.Local(processes=2)))
    assert sorted(said(caplog)) == ["a says warning", "b says warning"]


def test_training_tells_its_epochs(tmp_path, log):
    need("torch", "sklearn")
    from histofast.mil import TrainConfig, train

    config = TrainConfig(folds=2, epochs=2, device="cpu", model_options={"hidden": 8})
    notes: list[str] = []
    train(*write_toy(tmp_path, b=12), out=tmp_path / "run", config=config, on_note=notes.append)
    lines = said(log, level=logging.INFO, name="histofast.mil")
    epochs = [line for line in lines if ", epoch " in line]
    assert [line.partition(":")[0] for line in epochs] == [
        f"fold {fold}, epoch {epoch}/2" for fold in (0, 1) for epoch in (1, 2)
    ]
    assert all(re.search(r": loss \d\.\d{3}, validation loss .* s( \(best\))?$", e) for e in epochs)
    for note in notes:
        assert lines.count(note) == 1


# --- The command line ----------------------------------------------------------------------------


@pytest.fixture
def stage(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_slide(tmp_path / "good.tif")
    (tmp_path / "bad\n.tif").write_bytes(b"II*\0 no slide")
    write_encoder(tmp_path / "tiny.onnx")
    return tmp_path


def lines_of(path):
    pattern = r"[-\d]+ [:,\d]+ \d+ (\w+) (histofast[\w.]*): (.*)"
    found = [re.fullmatch(pattern, line) for line in path.read_text().splitlines()]
    assert all(found)
    return [match.groups() for match in found]


COMMAND = ("extract", "good.tif", "bad\n.tif", "-e", "tiny.onnx", "--out", "f")


def test_the_log_of_a_command(cli, stage):
    plain = cli(*COMMAND)
    assert not list(stage.glob("*.log"))
    answer = cli("--log", "run.log", *COMMAND[:-1], "g")
    assert answer.code == plain.code == 1
    # The terminal shows what it shows without a log; times and what limited them differ.
    untimed = r"[\d.]+|(?<=limit: )\w+"
    assert [re.sub(untimed, "", line) for line in answer.err] == [
        re.sub(untimed, "", line).replace("f/run", "g/run") for line in plain.err
    ]
    found = lines_of(stage / "run.log")
    (first, _, text), *_ = found
    assert first == "INFO"
    assert text == ("histofast --log run.log extract good.tif 'bad\\n.tif' -e tiny.onnx --out g")
    assert {level for level, _, _ in found} == {"INFO", "WARNING"}
    assert sum("bad" in text and level == "WARNING" for level, _, text in found) == 1
    assert sum(text.startswith("good: ") for _, _, text in found) == 1


def test_the_log_by_the_environment_is_appended_to_and_says_why_a_command_failed(
    cli, stage, monkeypatch
):
    monkeypatch.setenv("HISTOFAST_LOG", str(stage / "run.log"))
    monkeypatch.setenv("HISTOFAST_LOG_LEVEL", "debug")
    (said,) = cli("extract", "good.tif", "-e", "tiny.onnx", "--mpp", "0").err
    first = lines_of(stage / "run.log")
    assert first[-1] == ("ERROR", "histofast.cli", said.removeprefix("histofast: "))
    assert "--mpp" in said
    cli(*COMMAND)
    found = lines_of(stage / "run.log")
    assert found[: len(first)] == first
    assert any(level == "DEBUG" for level, _, _ in found)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--log", "."), 2, "log . must be a file, got a folder"),
        (("--log", "no/run.log"), 1, "cannot write no/run.log: No such file or directory"),
        (
            ("--log", "run.log", "--log-level", "loud"),
            2,
            "--log-level must be one of debug, info, warning, got 'loud'",
        ),
    ],
)
def test_a_log_that_cannot_be(cli, stage, arguments, code, message):
    answer = cli(*arguments, *COMMAND)
    assert (answer.code, answer.err) == (code, [f"histofast: {message}"])
    assert not (stage / "f").exists()


def test_a_log_must_be_a_file(cli, stage):
    answer = cli("--log", "/dev/full", *COMMAND)
    assert answer.err == ["histofast: log /dev/full must be a file, got a device"]
    (stage / "full.log").symlink_to("/dev/full")
    assert "must be a file, got a device" in cli("--log", "full.log", *COMMAND).err[0]


def fill(folder):
    """Leave no byte of a file system free."""
    with (folder / "filler").open("wb", buffering=0) as file:
        for size in (1 << 14, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))


def test_a_full_disk_under_a_log(cli, stage, full_disk):
    log = full_disk / "run.log"
    log.touch()
    fill(full_disk)
    answer = cli("--log", log, "extract", "good.tif", "-e", "tiny.onnx", "-o", "f")
    assert answer.code == 0
    assert answer.err.count(f"note: {log} ends here: No space left on device") == 1


def test_a_line_of_a_log_is_one_line_of_text_whatever_a_file_is_called(caplog):
    """Else a handler that writes UTF-8 fails on names that are no text, and a name can forge a line."""
    log = _notes.log_of("histofast.slides.opening")
    with caplog.at_level("DEBUG", logger="histofast"):
        log.info("opened %s", "no\udcff\nWARNING evil\x1b[31m.svs")
        _notes.note(log, "b\udcff")
    assert [record.getMessage() for record in caplog.records] == [
        r"opened no\udcff\nWARNING evil\u001b[31m.svs",
        r"b\udcff",
    ]
    assert caplog.records[0].funcName.startswith("test_a_line_of_a_log")
    assert caplog.text.encode()
