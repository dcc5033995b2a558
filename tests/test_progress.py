"""Progress as text: by itself in a notebook, elsewhere when asked for."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

import histofast
from extras import need
from histofast import _progress
from histofast._progress import Screen, is_notebook, shows
from histofast.pipeline import Progress, SlideReport
from labelled_pictures import write_pictures
from small_slides import run
from toy_bags import write_toy


@pytest.fixture
def notebook(monkeypatch):
    """IPython as it is in the kernel of a notebook."""
    module = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setitem(sys.modules, "IPython", module)


def test_what_is_a_notebook(monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", None)
    assert not is_notebook()
    for shell, wanted in (
        (None, False),
        (SimpleNamespace(), False),
        (SimpleNamespace(kernel=1), True),
    ):
        module = SimpleNamespace(get_ipython=lambda shell=shell: shell)
        monkeypatch.setitem(sys.modules, "IPython", module)
        assert is_notebook() is wanted


@shows("counting")
def counts(n, *, progress=None, on_progress=None):
    """Count."""
    for i in range(n):
        if on_progress is not None:
            on_progress(i + 1, n)
    return n


def test_a_script_is_silent_unless_it_asks(capsys):
    assert counts(3) == counts(3, progress=False) == 3
    assert capsys.readouterr() == ("", "")
    with pytest.raises(TypeError, match=r"^progress must be True, False or None, got 'yes'"):
        counts(3, progress="yes")
    assert counts.__doc__ == "Count."


def test_a_log_has_a_line_now_and_then(capsys, monkeypatch):
    clock = iter(np.arange(0.0, 1e6, 4.0))
    monkeypatch.setattr(_progress.time, "monotonic", lambda: next(clock))
    counts(12, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0].startswith("counting: 2 of 12")
    assert all("of 12, about" in line for line in lines[1:])
    assert "12 of 12" not in err
    assert "\r" not in err


def test_a_notebook_shows_it_by_itself(notebook, capsys):
    counts(3)
    out, err = capsys.readouterr()
    assert err == ""
    assert out == "counting: 1 of 3\r" + " " * 16 + "\r"  # the others come within half a second
    counts(3, progress=False)
    heard = []
    counts(3, on_progress=lambda *told: heard.append(told))
    assert capsys.readouterr().out == ""
    assert heard == [(1, 3), (2, 3), (3, 3)]


def test_whoever_asks_and_listens_gets_both(notebook, capsys):
    heard = []
    counts(2, progress=True, on_progress=lambda *told: heard.append(told))
    assert heard == [(1, 2), (2, 2)]
    assert "counting: 1 of 2" in capsys.readouterr().out


def test_the_last_line_is_taken_away_when_work_fails(notebook, capsys):
    @shows()
    def fails(*, progress=None, on_progress=None):
        on_progress("a\x1bb", 1, 2)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fails()
    assert capsys.readouterr().out == "a\\u001bb: 1 of 2\r" + " " * 16 + "\r"


def test_where_an_extraction_stands():
    finished = SlideReport(name="b", path="", status="done", patches=7, seconds={"total": 2.0})
    now = Progress(
        slides_total=4,
        slides_done=2,
        patches_done=100,
        seconds=50.0,
        name="c",
        slide_patches=10,
        slide_patches_done=5,
        finished=finished,
    )
    assert str(now) == "2 of 4 slides; c: 5 of 10 patches, 2.0 patches/s; 50 s, about 30 s left"
    assert now.line == "[2/4] b: 7 patches in 2.0 s"
    finished.status = "skipped"
    assert now.line == ""


def test_a_screen_writes_over_its_last_line(capsys, monkeypatch):
    monkeypatch.setattr(_progress, "_REWRITE_S", 0.0)
    screen = Screen(sys.stdout, rewrites=True)
    screen.tell("wide", 10, 20)
    screen.tell("a", 1, 2)
    screen.say("stays")
    screen.close()
    blank = "\r" + " " * len("wide: 10 of 20") + "\r"
    assert capsys.readouterr().out == f"wide: 10 of 20{blank}a: 1 of 2\r{' ' * 9}\rstays\n"


# --- What takes long, from Python ----------------------------------------------------------------


def test_extract_shows_its_slides_in_a_notebook(slides, encoder, tmp_path, notebook, capsys):
    report = run(slides, tmp_path / "a", encoder)
    out = capsys.readouterr().out
    for i, slide in enumerate(report.slides):
        assert f"[{i + 1}/3] {slide.name}: {slide.patches} patches in " in out
    run(slides, tmp_path / "b", encoder, progress=False)
    run(slides, tmp_path / "c", encoder, on_progress=lambda _: None)
    assert capsys.readouterr().out == ""
    assert histofast.verify(tmp_path).is_whole
    assert "verifying feature files: 1 of 9" in capsys.readouterr().out


def test_training_shows_its_epochs(tmp_path, capsys):
    mil = need("histofast.mil")
    features, labels = write_toy(tmp_path)
    config = mil.TrainConfig(folds=2, epochs=1)
    mil.train(features, labels, out=tmp_path / "silent", config=config)
    assert capsys.readouterr() == ("", "")
    mil.train(features, labels, out=tmp_path / "a", config=config, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert [line.partition(":")[0] for line in lines[:2]] == [
        "fold 0, epoch 1/1",
        "fold 1, epoch 1/1",
    ]
    assert all("loss" in line for line in lines[:2])
    assert lines[2] == "predicting test slides, and their metrics with intervals"
    mil.train(features, labels, out=tmp_path / "side", config=config, progress=True, jobs=2)
    assert sorted(capsys.readouterr().err.splitlines()) != []


def test_a_study_shows_its_parts_once(tmp_path, notebook, capsys):
    studies = need("histofast.studies")
    setting = studies.Setting(labels="l.csv", out=tmp_path, slides="s")
    from dataclasses import replace

    replace(setting, repeats=1).tell("training", done=1, total=4)
    assert capsys.readouterr().out == "training (2 of 4)\n"
    studies.Setting(labels="l.csv", out=tmp_path, slides="s", progress=False).tell("training")
    assert capsys.readouterr().out == ""
    studies.PictureSetting(data=[write_pictures(tmp_path / "p")], out=tmp_path).tell("x")
    assert capsys.readouterr().out == "x\n"


@pytest.mark.slow
def test_classify_shows_its_evaluations_once(tmp_path, notebook, capsys):
    classify = need("histofast.classify")
    data = write_pictures(tmp_path / "p")
    asked = {
        "network": "resnet18",
        "recipe": classify.Recipe(epochs=1, batch_size=8, px=24, freeze="all"),
    }
    classify.train_folds(data, folds=2, out=tmp_path / "a", **asked)
    lines = [line for line in capsys.readouterr().out.splitlines() if "validation loss" in line]
    assert sum("fold 0" in line for line in lines) == sum("fold 1" in line for line in lines) > 0
    classify.train_folds(data, folds=2, out=tmp_path / "b", progress=False, **asked)
    assert capsys.readouterr().out == ""
