"""The folder of a run: known again by what its numbers follow from, and nobody else's meanwhile."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from histofast._files import Lock
from histofast.errors import ModelError
from histofast.learning import (
    METRICS,
    RUN,
    RunRecord,
    aside,
    difference,
    is_finished,
    parts_of_config,
    read_json,
    read_record,
    run_folder,
    write_csv,
    write_json,
)

SLIDES = {f"s{i}": {"features": f"{i}" * 64, "target": i % 2} for i in range(4)}
IDENTITY = {"revision": 1, "config": {"lr": 0.1, "options": {}}, "slides": SLIDES}
FILES = ("fold-*/state.pt",)


def record(**changes):
    return RunRecord(kind="train", identity=IDENTITY | changes, about={"device": "cpu"})


def folder(path, asked, *, overwrite=False):
    return run_folder(path, asked, files=FILES, overwrite=overwrite)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, ""),
        ({"revision": 2}, "revision 1, not 2"),
        ({"config": {"lr": 0.2, "options": {}}}, "lr 0.1, not 0.2"),
        ({"config": {"lr": 0.1, "options": {"hidden": 16}}}, "hidden none, not 16"),
        ({"weights": "a" * 64}, "other weights"),
        ({"slides": SLIDES | {"s2": SLIDES["s1"]}}, "features of 1 slides differ, first s2"),
        (
            {"slides": {n: s | {"target": 0} for n, s in SLIDES.items()}},
            "target of 2 slides differ, first s1",
        ),
        ({"slides": {n: SLIDES[n] for n in ("s0", "s1")}}, "2 slides are not in both, first s2"),
        ({"slides": {n: SLIDES[n] for n in reversed(SLIDES)}}, "slides in another order"),
        ({"run": IDENTITY}, "other run"),
    ],
)
def test_what_differs_is_told(change, words):
    assert difference(record(), record(**change)) == words
    assert record().is_same(record(**change)) == (not words)
    if words != "slides in another order":
        assert (record().sha256 == record(**change).sha256) == (not words)


def test_what_differs_within_another_run_is_told():
    inner = IDENTITY | {"slides": SLIDES | {"s2": SLIDES["s1"]}}
    one, other = record(run=IDENTITY), record(run=inner)
    assert difference(one, other) == "run: features of 1 slides differ, first s2"
    assert difference(record(), RunRecord(kind="finetune", identity={})) == "of train, not finetune"


def test_a_record_is_what_it_is_read_as(tmp_path):
    asked = record(classes=("no", "yes"))
    with folder(tmp_path / "new" / "run", asked):
        assert read_record(tmp_path / "new" / "run") == asked
    assert asked.identity["classes"] == ["no", "yes"]
    assert read_record(tmp_path) is None


def test_fields_of_a_config_count_unless_they_are_marked():
    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        lr: float = 0.1
        device: str = aside("auto")

    assert parts_of_config(Config(device="cpu")) == ({"lr": 0.1}, {"device": "cpu"})


def test_another_run_is_refused_or_replaced(tmp_path):
    with folder(tmp_path, record()):
        (tmp_path / "fold-0").mkdir()
        (tmp_path / "fold-1").mkdir()
        for name in ("fold-0/state.pt", "fold-1/state.pt", "fold-1/mine.txt"):
            (tmp_path / name).touch()
    write_json(tmp_path / METRICS, {})
    assert is_finished(tmp_path, record())
    other = record(revision=2)
    assert not is_finished(tmp_path, other)
    words = r"holds another run (revision 1, not 2): choose another folder, or replace it with overwrite=True"
    with pytest.raises(ValueError, match=re.escape(words)), folder(tmp_path, other):
        raise AssertionError
    with folder(tmp_path, record(), overwrite=True):  # the same one is gone on with
        assert (tmp_path / "fold-0" / "state.pt").is_file()
    with folder(tmp_path, other, overwrite=True):
        there = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
        assert there == [".locks/run.json.lock", "fold-1/mine.txt", RUN]
        assert not (tmp_path / "fold-0").exists()
    assert read_record(tmp_path) == other


def test_a_folder_of_something_else(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with (
        pytest.raises(ValueError, match=r"out must be new, empty or of a run, .* is not: choose"),
        folder(tmp_path, record()),
    ):
        raise AssertionError
    with (
        pytest.raises(ValueError, match=r"out must be a folder, .*mine\.txt is a file"),
        folder(tmp_path / "mine.txt", record(), overwrite=True),
    ):
        raise AssertionError
    with folder(tmp_path, record(), overwrite=True):
        assert (tmp_path / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"run\.json must be JSON, got "),
        ("[]", r"run\.json must be a JSON object, got list"),
        ("[" * 100_000, r"run\.json must be JSON, got .*recursion"),
        ("{}", r"run\.json must be as it was written, got one changed or damaged since: choose an"),
        ({}, r"run\.json must be of a run, got no kind in it"),
        ({"kind": "train", "identity": []}, r"run\.json must be of a run, got no identity in it"),
    ],
)
def test_a_broken_record(tmp_path, content, message):
    if isinstance(content, str):
        (tmp_path / RUN).write_text(content)
    else:
        write_json(tmp_path / RUN, content)
    with pytest.raises(ModelError, match=message), folder(tmp_path, record()):
        raise AssertionError
    assert not is_finished(tmp_path, record())
    with folder(tmp_path, record(), overwrite=True):
        assert json.loads((tmp_path / RUN).read_text())["identity"] == IDENTITY


def test_json_of_a_run_tells_whether_it_is_as_it_was_written(tmp_path):
    path, value = tmp_path / "a.json", {"b": [1, 2.5, None], "a": {"10": "x", "9": "é"}}
    write_json(path, value)
    assert read_json(path, remedy="write it anew") == value
    whole = path.read_bytes()
    cuts = [whole[:i] for i in range(len(whole))]
    flips = [whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :] for i in range(len(whole))]
    refused = 0
    for content in (*cuts, *flips):
        path.write_bytes(content)
        try:  # a change of white space is none
            assert read_json(path, remedy="write it anew") == value
        except ModelError as error:
            refused += bool(re.fullmatch(r".*a\.json must be .*: write it anew", str(error)))
    assert len(cuts) + len(flips) - 20 < refused < len(cuts) + len(flips)
    path.unlink()
    path.mkdir()
    with pytest.raises(ModelError, match=r"a\.json must be a file, got a folder"):
        read_json(path, remedy="write it anew")


def test_killed_while_run_json_was_written(tmp_path):
    """What is left of it has no name yet: the folder is as good as empty, and is swept."""
    left = tmp_path / f".{RUN}.123.0a1b2c3d.tmp"
    left.write_text('{"kind": "tr')
    with folder(tmp_path, record()):
        assert read_record(tmp_path) == record()
    assert not left.exists()


def test_a_second_process_is_refused(tmp_path):
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from histofast._files import Lock\n"
        f"with Lock(Path({str(tmp_path)!r}) / {RUN!r}) as held:\n"
        "    print(held, flush=True)\n"
        "    sys.stdin.readline()\n"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True
    ) as other:
        assert other.stdout.readline() == "True\n"
        message = (
            "must be worked on by one process, got a second one: wait for process "
            rf"{other.pid} on {re.escape(socket.gethostname())} since [-\d]+ [:\d]+, or end it"
        )
        with pytest.raises(ModelError, match=message), folder(tmp_path, record()):
            raise AssertionError
        other.communicate("\n")
    with folder(tmp_path, record()), Lock(Path(tmp_path) / RUN) as held:
        assert not held


def test_a_name_that_is_no_text_spoils_no_table(tmp_path):
    write_csv(tmp_path / "t.csv", [["slide", "p"], ["caf\udce9", 0.5], ["caf\u00e9", 0.25]])
    text = (tmp_path / "t.csv").read_text(encoding="utf-8")
    assert text == "slide,p\ncaf\\udce9,0.5\ncaf\u00e9,0.25\n"
