"""`histofast classify` and `models merge`: what they say, write and refuse."""

from __future__ import annotations

import json
import re

import pytest

from extras import need
from labelled_pictures import write_pictures

torch = need("torch", "safetensors")

from histofast.classify import Folds, open_run
from histofast.learning import Reached
from histofast.networks import create

pytestmark = pytest.mark.usefixtures("one_thread")

SHORT = ("--network", "resnet18", "--epochs", 2, "--px", 24, "--batch-size", 16, "--threads", 1)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A folder with labels.csv, img/ and, once it is asked for, run/."""
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder)
    return folder


def test_train_and_predict_and_merge(cli, done, monkeypatch):
    monkeypatch.chdir(done)
    answer = cli("classify", "labels.csv", *SHORT, "--out", "run")
    assert answer.code == 0
    assert re.fullmatch(
        r"step 2/4: loss \d\.\d{3}, validation loss \d\.\d{3}, auroc \d\.\d{3}, \d+\.\d s \(best\)",
        answer.err[0],
    )
    lines = answer.out.splitlines()
    assert re.fullmatch(
        r"resnet18 from random, \d\.\d min: \d+ test pictures of \d patients", lines[0]
    )
    assert lines[1].split() == ["test", "95", "%", "by", "patients", "validation"]
    assert [line.split()[0] for line in lines[2:9]] == [
        *("auroc", "auprc", "accuracy", "balanced_accuracy", "kappa", "ece", "brier")
    ]
    assert lines[9] == "predictions: run/predictions.csv, curves: run/curves.png"
    assert (done / "run" / "curves.svg").is_file()

    again = cli("classify", "labels.csv", *SHORT, "--out", "run", "--json")
    assert (again.code, again.err) == (0, [])
    assert json.loads(again.out) == open_run("run").metrics()

    answer = cli("classify", "--predict", "run", "img", "--out", "p.csv")
    assert (answer.code, answer.err, answer.out) == (0, [], "48 pictures: p.csv\n")
    assert (done / "p.csv").read_text().startswith("file,predicted,p_a,p_b\n000.png,")

    second = cli("classify", "labels.csv", *SHORT, "--seed", 1, "--out", "other", "--quiet")
    assert (second.code, second.err) == (0, [])
    answer = cli("models", "merge", "run", "other", "--out", "m.safetensors")
    assert answer.out == "resnet18: m.safetensors\n"
    assert answer.err[0].startswith("note: statistics of BatchNorms are the means of the parts'")
    merged = create("resnet18", weights="m.safetensors").state_dict()
    mean = sum(open_run(r).network().state_dict()["conv1.weight"] for r in ("run", "other")) / 2
    torch.testing.assert_close(merged["conv1.weight"], mean)
    answer = cli(
        "models", "merge", "run", "other", "-o", "n.safetensors", "--images", "img", "--px", 24
    )
    assert answer.err == ["note: statistics of BatchNorms are of 48 pictures of img"]
    greedy = ("--method", "greedy", "--data", "labels.csv", "--px", 24, "-q")
    assert cli("models", "merge", "run", "other", "-o", "g.safetensors", *greedy).code == 0
    start = ("--start", "m.safetensors", "--epochs", 1, "--freeze", "head")
    answer = cli("classify", "labels.csv", *SHORT[:2], *SHORT[4:], *start, "--out", "third")
    assert "resnet18 from m.safetensors" in answer.out


def test_plan_only_trains_nothing(cli, done, monkeypatch):
    monkeypatch.chdir(done)
    answer = cli("classify", "labels.csv", *SHORT, "--folds", 2, "--out", "planned", "--plan-only")
    assert answer.code == 0
    lines = answer.out.splitlines()
    for fold, line in enumerate(lines[:2]):
        assert re.fullmatch(rf"fold-{fold}  left, \d+(\.\d)? s +from random", line)
    assert re.fullmatch(
        r"2 runs, 0 done; the others take about .* \(some steps were timed on this machine as it is now\)",
        lines[2],
    )
    assert not (done / "planned").exists()
    one = ("--fold", 1, "--folds", 2, "--out", "planned/fold-1")
    assert cli("classify", "labels.csv", *SHORT, *one, "-q").code == 0
    answer = cli(
        *("classify", "labels.csv", *SHORT, "--folds", 2, "--out", "planned"),
        *("--plan-only", "--jobs", 2, "--json"),
    )
    told = json.loads(answer.out)
    assert [run["is_done"] for run in told["runs"]] == [False, True]
    assert told["hours"] == pytest.approx(told["runs"][0]["seconds"] / 3600)
    answer = cli("classify", "labels.csv", *SHORT, *one, "--plan-only")
    assert answer.out == "fold-1  done          from random\n1 run, 1 done\n"


def test_all_folds_at_once(cli, done, monkeypatch):
    monkeypatch.chdir(done)
    answer = cli("classify", "labels.csv", *SHORT, "--folds", 2, "--out", "folds")
    assert answer.err[0].startswith("fold 0, step 1/2: loss ")
    lines = answer.out.splitlines()
    assert lines[0].endswith("48 test pictures of 16 patients")
    assert lines[1].split() == [
        *("value", "95", "%", "by", "patients", "95", "%", "by", "training")
    ]


def test_steps_to_thresholds(cli, done, monkeypatch):
    monkeypatch.chdir(done)
    short = ("classify", "labels.csv", *SHORT, "--out", "t", "-q")
    asked = [f"--threshold={text}" for text in ("loss=99", "auroc=2")]
    answer = cli(*short, *asked)
    assert (answer.code, answer.err) == (0, [])
    assert answer.out.splitlines()[-3:-1] == [
        "steps to loss 99: 0",
        "steps to auroc 2: not reached in 4 steps",
    ]
    run = open_run("t")
    loss = run.log()["validation_loss"]
    threshold = (loss[0] + loss[1]) / 2
    assert loss[1] < threshold
    answer = cli(*short, f"--threshold=loss={threshold}")
    assert answer.out.splitlines()[-2] == f"steps to loss {threshold:g}: 1"
    answer = cli(*short, f"--threshold=loss={0.3 * loss[0] + 0.7 * loss[1]}")
    assert answer.out.splitlines()[-2].endswith(": 1 (interpolated)")
    told = json.loads(cli(*short, *asked, "--json").out)
    assert told.pop("steps_to") == [
        {"metric": "loss", "threshold": 99, "steps": 0, "is_reached": True},
        {"metric": "auroc", "threshold": 2, "steps": 4, "is_reached": False},
    ]
    assert told == run.metrics()


def test_layers_and_what_a_finished_run_lacks(cli, done, monkeypatch):
    monkeypatch.chdir(done)
    short = ("classify", "labels.csv", *SHORT, "--freeze", "all", "-q", "--layer-metrics", "--out")
    answer = cli(*short, "l", "--epochs", 1)
    assert answer.out.splitlines()[-1].endswith(", layers: l/layers.csv")
    assert [epoch.epoch for epoch in open_run("l").layers()] == [0, 1]
    assert cli(*short[:-2], "--out", "m").code == 0
    answer = cli(*short, "m")
    told = (
        "--layer-metrics must be asked for when a run is begun, m was begun without: train it into "
    )
    assert answer.err == [f"histofast: {told}another folder with --layer-metrics"]


def test_steps_of_folds(cli, done, monkeypatch):
    monkeypatch.chdir(done)
    short = ("classify", "labels.csv", *SHORT, "--folds", 2, "--out", "two", "-q")
    asked = [f"--threshold={text}" for text in ("loss=99", "auroc=2")]
    lines = cli(*short, *asked).out.splitlines()
    assert lines[-3:-1] == [
        "steps to loss 99: 0 in the median, reached in 2 of 2 folds",
        "steps to auroc 2: median not reached in 2 steps, reached in 0 of 2 folds",
    ]
    loss, auroc = json.loads(cli(*short, *asked, "--json").out)["steps_to"]
    assert loss["median"] == {"value": 0, "low": None, "high": None}
    assert auroc["median"]["value"] is None
    assert auroc["folds"] == [{"steps": 2, "is_reached": False}] * 2

    def steps(*each):
        """What is said of folds that got there, did not (from 900 on), or have no such metric."""
        found = tuple(s if s is None else Reached(steps=s, is_reached=s < 900) for s in each)
        with monkeypatch.context() as patched:
            patched.setattr(Folds, "steps_to", lambda *_, **__: found)
            return cli(*short, asked[0]).out.splitlines()[-2].removeprefix("steps to loss 99: ")

    assert steps(None, None) == "undefined, for the metric is at every evaluation"
    assert (
        steps(1234.5, 1234.5, 2000.0)
        == "median not reached in 2,000 steps, reached in 0 of 3 folds"
    )
    assert steps(100, 200, 300, 900, None) == (
        "250 in the median (95 % from 100, no upper bound), reached in 3 of 4 folds"
    )
    assert steps(*range(100, 900, 100)).startswith("450 in the median (95 % 100 to 700)")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("labels.csv", *SHORT, "--out", "x", "--threshold", "auroc"),
            "--threshold must be a metric, = and a number, such as auroc=0.8, got 'auroc'",
        ),
        (
            ("labels.csv", *SHORT, "--out", "x", "--threshold", "aurok=1"),
            "metric of --threshold must be one of loss, auroc,",
        ),
        (
            ("--predict", "run", "img", "--out", "p.csv", "--threshold", "auroc=1"),
            "--threshold must be left out with --predict",
        ),
        (
            ("labels.csv", *SHORT, "--epochs", 1, "--out", "x"),
            "got 1: take more, or train all layers from the start with --freeze all",
        ),
        (("labels.csv", "--out", "x"), "--network must be given, got none"),
        (("labels.csv", *SHORT, "--out", "x", "--recipe", "our"), "--recipe must be one of ours"),
        (
            ("labels.csv", *SHORT, "--out", "x", "--jobs", 2),
            "--jobs must be left out of a single run",
        ),
        (("labels.csv", *SHORT, "--out", "x", "--start", "gabor:"), "--start must have a seed"),
        (
            ("labels.csv", *SHORT, "--out", "x", "--folds", 17),
            "--folds must be at most the number of",
        ),
        (("absent.csv", *SHORT, "--out", "x"), "absent.csv"),
        (("img", *SHORT, "--out", "x"), "must have a folder for each class"),
        (("--predict", "absent", "img", "--out", "p.csv"), "no such folder: absent"),
        (
            ("--predict", "run", "img", "--out", "p.csv", "--network", "resnet18"),
            "--network must be left out with --predict",
        ),
    ],
)
def test_refusals(cli, done, monkeypatch, arguments, message):
    monkeypatch.chdir(done)
    answer = cli("classify", *arguments)
    assert (answer.code, len(answer.err)) == (2, 1), answer.err
    assert message in answer.err[0]


def test_no_such_network(cli, done, monkeypatch):
    monkeypatch.chdir(done)
    answer = cli("classify", "labels.csv", *SHORT, "--out", "x", "--network", "resnet8")
    assert (answer.code, len(answer.err)) == (1, 1)
    assert "got 'resnet8': did you mean resnet18" in answer.err[0]
