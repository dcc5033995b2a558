"""`histofast train` and `histofast predict`: what they say, write and refuse."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from extras import need
from toy_bags import D, write_features, write_toy

torch = need("torch", "sklearn")

from histofast.mil import TrainConfig, open_run

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A folder with features/ and labels.csv, and in it."""
    write_toy(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


TRAIN = ("train", "features", "--labels", "labels.csv", "--out", "runs/a")
SHORT = ("--folds", 2, "--epochs", 2)


def without_patients(toy):
    lines = (toy / "labels.csv").read_text().splitlines()
    (toy / "labels.csv").write_text("\n".join(line.rpartition(",")[0] for line in lines) + "\n")


def test_without_patients_slides_count_and_nothing_claims_patients(cli, toy):
    without_patients(toy)
    answer = cli(*TRAIN, *SHORT)
    assert "note: no column of patients: slides count as patients" in answer.err
    lines = answer.out.splitlines()
    assert lines[0] == (
        "attention, 2 folds: 24 slides, each predicted by a model that has not seen it "
        "(slides count as patients)"
    )
    assert "95 % by slides" in lines[1]
    found = json.loads((toy / "runs" / "a" / "metrics.json").read_text())
    assert (found["bags"], found["patients"], found["unit"]) == (24, None, "slide")


def test_patients_in_another_spelling_are_kept_together(cli, toy):
    """`Patient ID` was not read, and slides of one patient were on both sides."""
    text = (toy / "labels.csv").read_text().replace("patient", "Patient ID")
    for i in range(0, 24, 4):
        text = text.replace(f",p{i + 2:02}", f",p{i:02}")
    (toy / "labels.csv").write_text(text)
    answer = cli(*TRAIN, *SHORT)
    assert "24 slides of 18 patients, each predicted by a model" in answer.out
    run = open_run(toy / "runs" / "a")
    patients = np.array(run.patients)
    for fold in run.folds:
        others = patients[np.r_[fold.train, fold.validation]]
        assert not set(patients[fold.test]) & set(others)


def test_train_and_predict(cli, toy):
    answer = cli(*TRAIN, *SHORT, "--lr", "0.01")
    assert answer.code == 0
    assert len(answer.err) == 5
    assert re.fullmatch(
        r"fold 0, epoch 1/2: loss \d\.\d{3}, validation loss \d\.\d{3}, auroc \d\.\d{3}, \d+\.\d s "
        r"\(best\)",
        answer.err[0],
    )
    assert answer.err[3].startswith("fold 1, epoch 2/2: loss ")
    lines = answer.out.splitlines()
    assert lines[0] == (
        "attention, 2 folds: 24 slides of 24 patients, each predicted by a model that has not seen it"
    )
    assert lines[1].split() == [
        *("value", "95", "%", "by", "patients", "95", "%", "by", "training", "folds")
    ]
    assert [line.split()[0] for line in lines[2:9]] == [
        "auroc",
        "auprc",
        "accuracy",
        "balanced_accuracy",
        "kappa",
        "ece",
        "brier",
    ]
    assert re.fullmatch(
        r"auroc +\d\.\d{3} +\d\.\d{3} to \d\.\d{3} +(undefined|-?\d\.\d{3} to \d\.\d{3}) +"
        r"\d\.\d{3} to \d\.\d{3}",
        lines[2],
    )
    assert lines[9:] == ["predictions: runs/a/predictions.csv, curves: runs/a/curves.png"]

    again = cli(*TRAIN, *SHORT, "--lr", "0.01", "--json")
    assert (again.code, again.err) == (0, [])
    assert json.loads(again.out) == open_run("runs/a").metrics()

    (toy / "new").mkdir()
    for name in "ab":
        write_features(toy / "new" / f"{name}.h5", np.ones((3, D), np.float32))
    answer = cli("predict", "runs/a", "new", "--out", "p.csv", "--attention")
    assert (answer.code, answer.err, answer.out) == (0, [], "2 slides: p.csv\n")
    assert (toy / "p.csv").read_text().startswith("slide,n_patches,prediction,p_no,p_yes\na,3,")
    assert sorted(p.name for p in (toy / "p-attention").iterdir()) == ["a.csv", "b.csv"]
    answer = cli("predict", "runs/a", "features", "-o", "q.csv", "--json")
    (note,) = answer.err
    assert note == (
        "note: 24 of 24 slides took part in the training, and their predictions are too good: fair ones "
        "are in runs/a/predictions.csv"
    )
    said = json.loads(answer.out)
    assert list(said[0]) == ["slide", "n_patches", "prediction", "p_no", "p_yes"]
    assert len(said) == 24


def test_options_reach_the_run(cli, toy):
    answer = cli(
        *TRAIN, *SHORT, "--model", "gated", "--lr", "0.02", "--weight-decay", "0.1",
        "--patience", 3, "--metric", "brier", "--accumulate", 4, "--max-patches", 6,
        "--patch-loss", "0.5", "--no-balance", "--seed", 9, "--device", "cpu", "--no-amp",
        "--model-option", "hidden=16", "--model-option", "dropout=0.1", "--quiet",
    )  # fmt: skip
    assert (answer.code, answer.err) == (0, [])
    run = open_run("runs/a")
    assert (run.model, run.metric) == ("gated", "brier")
    assert run.config == TrainConfig(
        folds=2,
        epochs=2,
        lr=0.02,
        weight_decay=0.1,
        patience=3,
        metric="brier",
        accumulate=4,
        max_patches=6,
        patch_loss=0.5,
        balance=False,
        seed=9,
        device="cpu",
        amp="off",
        model_options={"hidden": 16, "dropout": 0.1},
    )


@pytest.mark.parametrize(("task", "metric"), [("regression", "mae"), ("survival", "c_index")])
def test_other_tasks(cli, tmp_path, monkeypatch, task, metric):
    write_toy(tmp_path, task=task)
    monkeypatch.chdir(tmp_path)
    answer = cli(*TRAIN, *SHORT, "--task", task)
    assert answer.code == 0
    assert answer.out.splitlines()[2].startswith(metric)


def test_what_is_left_out_is_told(cli, toy):
    (toy / "features" / "s03.h5").unlink()
    answer = cli(*TRAIN, *SHORT)
    assert (answer.code, answer.out) == (2, "")
    assert len(answer.err) == 1
    assert "labels without features: 1 (s03)" in answer.err[0]
    answer = cli(*TRAIN, *SHORT, "--missing", "skip")
    assert answer.code == 0
    assert answer.err[0] == "note: left out labels without features: 1 (s03)"


def test_interrupted_goes_on(cli, toy, monkeypatch):
    from histofast.cli import mil

    def stop(line, **_):
        if line.startswith("fold 1, epoch 1/2"):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(mil, "say", stop)
        answer = cli(*TRAIN, *SHORT)
    assert (answer.code, answer.err[-1], answer.out) == (130, "histofast: interrupted", "")
    answer = cli(*TRAIN, *SHORT)
    assert answer.code == 0
    assert [line.split(":")[0] for line in answer.err] == [
        "fold 1, epoch 2/2",
        "predicting test slides, and their metrics with intervals",
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (TRAIN[:2], 2, "missing option '--labels'"),
        ((*TRAIN[:3], "none.csv", *TRAIN[4:]), 2, r"no such table: none\.csv$"),
        (("train", "none", *TRAIN[2:]), 2, "no such feature file or folder: none$"),
        ((*TRAIN, "--folds", "two"), 2, "invalid value for '--folds': must be a whole number"),
        ((*TRAIN, "--folds", 30), 2, "n must be at most the number of patients, 24, got 30$"),
        ((*TRAIN, "--task", "ranking"), 2, "invalid value for '--task': must be one of"),
        ((*TRAIN, "--model", "abmil"), 2, "--model must be one of attention, .*, got 'abmil'$"),
        ((*TRAIN, "--model-option", "hidden"), 2, "--model-option must be NAME=VALUE, got 'hidden'"),
        ((*TRAIN, "--jobs", 0), 2, "(--)?jobs must be at least 1, got 0"),
        ((*TRAIN, "--threads", 0), 2, "(--)?threads must be at least 1, got 0"),
        ((*TRAIN, "--lr", 0), 2, "--lr must be above 0, got 0"),
        ((*TRAIN, "--lr", "1e30", "--quiet"), 1, "loss of fold 0 must be finite, got NaN or inf"),
        (("predict", "none", "features", "--out", "p.csv"), 2, "no such folder: none$"),
        (("predict", "labels.csv", "features", "--out", "p.csv"), 2, "path must be a folder, .* is a file$"),
        (("predict", ".", "features", "--out", "p.csv"), 2, r"no run\.json, as `train` writes it, in "),
    ],
)  # fmt: skip
def test_refusals_are_one_line(cli, toy, arguments, code, message):
    answer = cli(*arguments)
    assert (answer.code, answer.out) == (code, "")
    assert len(answer.err) == 1
    assert re.match(f"histofast: {message}", answer.err[0])


def test_a_run_of_other_arguments(cli, toy):
    assert cli(*TRAIN, *SHORT).code == 0
    answer = cli(*TRAIN, *SHORT, "--seed", 1)
    assert answer.code == 2
    (line,) = answer.err
    assert line == (
        "histofast: runs/a holds another run (seed 0, not 1): choose another folder, or "
        "replace it with --overwrite"
    )
    assert cli(*TRAIN, *SHORT, "--seed", 1, "--overwrite").code == 0
    assert cli("predict", "runs/a", "features", "-o", "p.csv").code == 0
    answer = cli("predict", "runs/a", "features", "-o", "p.csv")
    assert answer.code == 1
    assert answer.err[-1].startswith("histofast: p.csv exists")


def test_slides_without_a_patch_are_left_out_and_named(cli, toy):
    """A slide without tissue stopped `train` and `predict`, and `--missing skip` did not help."""
    nothing = np.empty((0, D), np.float32)
    for name in ("s03", "s99"):
        write_features(toy / "features" / f"{name}.h5", nothing)
    with (toy / "labels.csv").open("a") as table:
        table.write("s99,rare,p99\n")
    answer = cli(*TRAIN, *SHORT)
    assert answer.code == 0
    assert answer.err[:3] == [
        "note: left out slides without a patch: 2 (s03, s99)",
        "note: left out patients without another slide: 2 (p03, p99)",
        "note: left out classes without another slide: 1 (rare)",
    ]
    assert answer.out.splitlines()[0] == (
        "attention, 2 folds: 23 slides of 23 patients, each predicted by a model that has not seen "
        "it; 2 slides without a patch left out"
    )
    found = open_run("runs/a").metrics()
    assert (found["bags"], found["patients"], found["left_out"]) == (23, 23, ["s03", "s99"])
    assert open_run("runs/a").left_out == ("s03", "s99")

    answer = cli("predict", "runs/a", "features", "--out", "p.csv")
    assert answer.code == 0
    assert "note: slides without a patch: 2 (s03, s99)" in answer.err
    rows = [line.split(",") for line in (toy / "p.csv").read_text().splitlines()]
    assert rows[0] == ["slide", "n_patches", "prediction", "p_no", "p_yes"]
    assert [row[0] for row in rows[1:]] == sorted(f"s{i:02}" for i in [*range(24), 99])
    assert rows[4] == ["s03", "0", "", "", ""]
    assert all(row[2] for row in rows[1:] if row[1] != "0")

    write_features(toy / "s.h5", nothing)
    answer = cli("predict", "runs/a", "s.h5", "--out", "s.csv", "--attention", "--json")
    assert json.loads(answer.out) == [
        {"slide": "s", "n_patches": 0, "prediction": None, "p_no": None, "p_yes": None}
    ]
    assert (toy / "s.csv").read_text() == "slide,n_patches,prediction,p_no,p_yes\ns,0,,,\n"
    answer = cli("train", "features/s03.h5", *TRAIN[2:], "--missing", "skip")
    assert answer.code == 2
    (line,) = answer.err
    assert line.startswith(
        "histofast: label of labels.csv must have at least two classes, got only"
    )


def test_labels_of_patients_and_a_table_of_slides(cli, toy):
    with Path("labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    label_of = {row["patient"]: row["label"] for row in rows}
    Path("clini.csv").write_text(
        "PATIENT,kind\n" + "".join(f"{p},{k}\n" for p, k in label_of.items())
    )
    Path("slides.csv").write_text(
        "FILENAME,PATIENT\n" + "".join(f"{row['slide']}.h5,{row['patient']}\n" for row in rows)
    )
    tables = ("--labels", "clini.csv", "--slide-table", "slides.csv", "--label-column", "kind")
    answer = cli("train", "features", *tables, "--out", "of-patients", *SHORT)
    assert answer.code == 0
    with Path("of-patients/predictions.csv").open(newline="") as file:
        predicted = {row["slide"] for row in csv.DictReader(file)}
    assert predicted == {row["slide"] for row in rows}
    answer = cli("predict", "of-patients", "features", "-o", "p.csv", *tables)
    assert (answer.code, answer.out.splitlines()[0]) == (
        0,
        f"{len(rows)} slides of {len(label_of)} patients with labels",
    )
    answer = cli("predict", "of-patients", "features", "-o", "q.csv", "--slide-table", "slides.csv")
    assert answer.code == 2
    assert "--slide-table says whose slides are: name the labels of patients" in answer.err[-1]
