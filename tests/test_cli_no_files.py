"""A pipe or a folder in the place of a file is refused at once, unopened."""

from __future__ import annotations

import os
import signal

import pytest

from extras import need
from small_slides import write_slide
from tiny_encoder import write_encoder

GOT = {"pipe": "a named pipe", "folder": "a folder"}
# What stands for the thing that is no file, by command; its suffix is what the option is given.
COMMANDS = [
    ("extract", "s.tif", "-e", "X.onnx"),
    ("extract", "X.csv", "-e", "tiny.onnx"),
    ("extract", "X.svs", "-e", "tiny.onnx"),
    ("extract", "--patches", "X.txt", "-e", "tiny.onnx"),
    ("extract", "s.tif", "-e", "tiny.onnx", "--mask", "X.geojson"),
    ("extract", "s.tif", "-e", "tiny.onnx", "--tissue", "X.onnx"),
    ("tissue", "s.tif", "--mask", "X.png"),
    ("tissue", "X.csv"),
    ("verify", "X.h5"),
    ("slide-features", "X.h5", "--out", "s.csv"),
    ("verify", "f", "-e", "X.onnx"),
    ("train", "f", "--labels", "X.csv", "--out", "run"),
    ("train", "X.h5", "--labels", "labels.csv", "--out", "run"),
    ("heatmap", "X.svs", "--values", "values.csv", "--patch-l0", "64", "--out", "m"),
    ("heatmap", "s.tif", "--values", "X.csv", "--patch-l0", "64", "--out", "m"),
    ("similarity", "--a", "X.onnx", "--b", "tiny.onnx", "--images", "s.tif", "--out", "r"),
    (
        *("similarity", "--a", "X.pth", "--b", "tiny.onnx", "--network", "resnet18"),
        *("--images", "s.tif", "--out", "r"),
    ),
    ("similarity", "--a", "tiny.onnx", "--b", "tiny.onnx", "--images", "X.csv", "--out", "r"),
    (
        *("study", "truncation", "--network", "resnet18=X.pth", "--slides", "s.tif"),
        *("--labels", "labels.csv", "--out", "study"),
    ),
    (
        *("study", "networks", "--encoder", "tiny.onnx", "--encoder", "X.onnx"),
        *("--slides", "s.tif", "--labels", "labels.csv", "--out", "study"),
    ),
    (
        *("study", "networks", "--encoder", "tiny.onnx", "--encoder", "other.onnx"),
        *("--slides", "s.tif", "--labels", "X.csv", "--out", "study"),
    ),
    ("models", "quantize", "X.onnx", "--slides", "s.tif", "--out", "q.onnx"),
    ("models", "quantize", "tiny.onnx", "--slides", "X.csv", "--out", "q.onnx"),
    ("models", "reduce", "X.onnx", "--dims", "2", "--slides", "s.tif", "--out", "q.onnx"),
    ("models", "reduce", "tiny.onnx", "--dims", "2", "--slides", "X.csv", "--out", "q.onnx"),
    ("models", "bench", "X.onnx"),
    ("models", "add", "X.onnx", "--out", "w.onnx", "--mean", "imagenet"),
    ("models", "add", "X.onnx", "--out", "w.onnx", "--tissue", "1", "--mpp", "8"),
    ("models", "truncate", "X.onnx", "--list"),
    ("models", "truncate", "X.onnx", "--at", "a", "--out", "w.onnx"),
    ("models", "export", "resnet18", "--weights", "X.pth", "--out", "w.onnx"),
]
# Commands that say first what is not installed.
WITH_EXTRAS = ("train", "heatmap", "similarity", "study", "export")
# What may be a folder as well.
FOLDERS_TOO = ("X.svs", "X.h5", "X.png", "X.geojson", "X.txt")


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stage")
    write_slide(folder / "s.tif")
    for name in ("tiny", "other"):
        write_encoder(folder / f"{name}.onnx", name=name)
    (folder / "f").mkdir()
    (folder / "labels.csv").write_text("slide,label\ns,0\n")
    (folder / "values.csv").write_text("x,y,value\n0,0,0.5\n")
    return folder


def put(kind, path):
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()


@pytest.fixture
def at_once():
    """Ends a test that waits for somebody who writes into its pipe."""

    def ring(*_):
        raise TimeoutError("opened what is no file")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("kind", GOT)
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_what_is_no_file(cli, command, kind, stage, tmp_path, monkeypatch, at_once):
    monkeypatch.chdir(tmp_path)
    for file in stage.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (name,) = (part for word in command for part in word.split("=") if part.startswith("X."))
    if kind == "folder" and name in FOLDERS_TOO:
        return
    if any(word in WITH_EXTRAS for word in command[:2]):
        need("torch", "matplotlib")
    put(kind, tmp_path / name)
    answer = cli(*command)
    said = "\n".join([*answer.err, answer.out])
    assert answer.code in (1, 2), said
    assert f"must be a file, got {GOT[kind]}" in said, said
    (line,) = [line for line in answer.err + answer.out.splitlines() if "must be a file" in line]
    assert name in line
    assert "Traceback" not in said
