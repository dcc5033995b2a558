"""Training of image classifiers: recipes, runs, resuming, what is refused."""

from __future__ import annotations

import csv
import errno
import json
import shutil
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from extras import need
from labelled_pictures import write_pictures

torch = need("torch", "safetensors")

from histofast import datasets, learning
from histofast.classify import PRESETS, Asked, Recipe, open_run, predict, train, train_folds
from histofast.datasets import Augmentation
from histofast.errors import ModelError, NoSpaceError, WriteError
from histofast.networks import starts

pytestmark = pytest.mark.usefixtures("one_thread")

FAST = Recipe(epochs=3, batch_size=8, px=24, lr=2e-3, freeze="all", ema=0.5, every=3)
NETWORK = "resnet18"


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def run(table, tmp_path_factory):
    return train(table, network=NETWORK, recipe=FAST, out=tmp_path_factory.mktemp("run") / "r")


# --- Recipes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_a_toml_file(tmp_path, name):
    recipe = Recipe.preset(name)
    path = tmp_path / "r.toml"
    path.write_text(recipe.to_toml())
    assert Recipe.read(path) == recipe


OTHERS = {
    "epochs": 4,
    "batch_size": 9,
    "optimiser": "adam",
    "lr": 0.125,
    "head_lr": 0.5,
    "weight_decay": 0.25,
    "momentum": 0.5,
    "schedule": "step",
    "warmup": 0.5,
    "step_epochs": 3,
    "step_factor": 0.25,
    "freeze": "from:layer2",
    "head_epochs": 0,
    "batchnorm": "eval",
    "ema": 0.25,
    "dropout": 0.5,
    "label_smoothing": 0.1,
    "class_weights": "none",
    "every": 5,
    "patience": 7,
    "metric": "accuracy",
    "px": 30,
    "amp": "off",
}


def test_every_field_is_read_from_a_file_and_changes_the_identity(tmp_path, table):
    assert set(OTHERS) == {part.name for part in fields(Recipe)} - {"augmentation"}
    images = datasets.open_images(table)
    contents = datasets.contents_of(images)
    network = starts.begin(NETWORK, "random", classes=2)

    def identity(recipe):
        asked = Asked.of(
            images, network=NETWORK, start="random", recipe=recipe, fold=0, folds=5, seed=0
        )
        return asked.record(contents, network).sha256

    base = Recipe()
    known = {identity(base)}
    for name, value in OTHERS.items():
        path = tmp_path / "r.toml"
        path.write_text(f"{name} = {json.dumps(value)}\n")
        recipe = Recipe.read(path)
        assert recipe == replace(base, **{name: value})
        known.add(identity(recipe))
    known.add(identity(replace(base, augmentation=Augmentation())))
    assert len(known) == len(OTHERS) + 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "epoch = 3",
            r"epoch must be a field of a recipe; did you mean epochs\?|epoch must .*epochs",
        ),
        ("epochs = 0", "epochs must be at least 1, got 0"),
        ("epochs = 2.5", r"epochs must be a whole number, got 2\.5"),
        ("lr = 'x'", "lr must be a number, got 'x'"),
        ("class_weights = 'label'", "class_weights must be one of all, labels, none, got 'label'"),
        (
            "epochs = 1",
            'epochs must be above head_epochs of the recipe, 1, got 1: .* from the start with freeze="all"',
        ),
        ("[augmentation]\nflip = true", "augmentation.flip must be a field .*flips"),
        ("[augmentation]\nhed = 3", r"hed must be within 0\.\.1, got 3"),
        ("optimiser = 'adamm'", "optimiser must be one of adamw, adam, sgd, adamp, got 'adamm'"),
        ("freeze = 'half'", "freeze must be all, head, head-then-all or from: and a layer"),
        ("preset = 'our'", "recipe must be one of ours, .* got 'our'"),
        ("lr = ", "must be TOML, got"),
    ],
)
def test_bad_recipes(tmp_path, text, message):
    path = tmp_path / "r.toml"
    path.write_text(text + "\n")
    with pytest.raises(ValueError, match=message) as error:
        Recipe.read(path)
    assert "\n" not in str(error.value)


# What the three repositories and papers say; what they do not is our reading, and in PRESETS alone.
PUBLISHED = {
    "histokt": Recipe(
        epochs=250,
        batch_size=64,
        optimiser="adamp",
        lr=2e-4,
        weight_decay=5e-4,
        schedule="step",
        step_epochs=20,
        step_factor=0.5,
        class_weights="labels",
        metric="accuracy",
        augmentation=Augmentation(flips=True, rotate_deg=45.0, translate=0.1),
    ),
    "hidden-representations": Recipe(
        epochs=200,
        batch_size=128,
        optimiser="adam",
        lr=1e-5,
        weight_decay=0.0,
        schedule="constant",
        batchnorm="eval",
        dropout=0.5,
        class_weights="none",
        patience=30,
        metric="loss",
        augmentation=Augmentation(
            flips=True, rotate_deg=10.0, translate=0.1, shear_deg=0.1, scale=0.1
        ),
    ),
    "transfusion": Recipe(
        epochs=50,
        batch_size=32,
        optimiser="adam",
        lr=1e-3,
        weight_decay=0.0,
        schedule="constant",
        class_weights="none",
        metric="auroc",
        augmentation=Augmentation(),
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_recipes_have_none_of_our_additions(name):
    """Neither averages, warm-up, smoothing nor a head that goes first."""
    found = Recipe.preset(name)
    wanted = replace(PUBLISHED[name], freeze="all", warmup=0.0, ema=0.0, label_smoothing=0.0)
    assert found == wanted
    assert Recipe().class_weights == "all"


# --- Runs ----------------------------------------------------------------------------------------


def files_of(path):
    """What a run leaves, without the times that it took."""
    found = {}
    for file in sorted(p for p in path.rglob("*") if p.is_file() and p.parent.name != ".locks"):
        name = file.relative_to(path).as_posix()
        if file.name == "log.csv":
            with file.open() as opened:
                found[name] = [
                    {k: v for k, v in row.items() if k != "seconds"}
                    for row in csv.DictReader(opened)
                ]
        elif file.name == "metrics.json":
            told = json.loads(file.read_text())
            found[name] = {
                k: v for k, v in told.items() if k not in ("seconds", "sha256", "log.csv")
            }
        else:
            found[name] = file.read_bytes()
    return found


def test_a_run(run, table):
    assert run.is_finished
    assert sorted(p.name for p in run.path.iterdir() if p.name != ".locks") == [
        *("log.csv", "metrics.json", "predictions.csv", "recipe.toml", "run.json"),
        "weights.safetensors",
    ]
    told = run.metrics()
    assert told["test"]["auroc"]["value"] > 0.8
    assert told["test"]["groups"] == len({run.groups[i] for i in run.fold.test})
    assert told["group_kind"] == "patient"
    assert set(told["test"]) >= {"auroc", "auprc", "kappa", "balanced_accuracy", "brier", "ece"}
    predictions = run.predictions()
    assert len(predictions) == len(run.fold.test) + len(run.fold.validation)
    assert Recipe.read(run.path / "recipe.toml") == FAST
    with (run.path / "log.csv").open() as file:
        steps = [int(row["step"]) for row in csv.DictReader(file)]
    assert steps == [*range(0, steps[-1], 3), steps[-1]]


def test_predictions_are_those_of_its_network(run, table, tmp_path):
    found = predict(run.path, table, out=tmp_path / "p.csv")
    own = run.predictions()
    assert found.classes == ("a", "b")
    for name, values in zip(found.names, found.probabilities, strict=True):
        if name in own:
            np.testing.assert_allclose(values, own[name], atol=1e-6)
    header, first = (tmp_path / "p.csv").read_text().splitlines()[:2]
    assert header == "file,predicted,p_a,p_b"
    chosen = found.classes[int(found.probabilities[0].argmax())]
    assert first.startswith(f"img/000.png,{chosen},")


class Killed(BaseException):
    pass


def test_many_pictures_are_predicted_in_batches_of_what_can_be_read(run, tmp_path, monkeypatch):
    table = write_pictures(tmp_path / "many", n=270)
    for name in ("003", "255", "269"):
        (table.parent / "img" / f"{name}.png").write_bytes(b"no picture")
    images = datasets.open_images(table)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))  # needs no room of its own
    seen = []
    told = predict(
        run, table, out=tmp_path / "p.csv", threads=3, on_progress=lambda *x: seen.append(x)
    )
    # 256 can be read of the first 258: what comes in the next batch changes none of them.
    parts = [predict(run, images.part(rows)) for rows in (range(258), range(258, 270))]
    wanted = np.concatenate([part.probabilities for part in parts])
    np.testing.assert_array_equal(told.probabilities, wanted)
    assert np.isnan(wanted).all(axis=1).tolist() == [i in (3, 255, 269) for i in range(270)]
    assert [name for name, _ in told.unreadable] == ["img/003.png", "img/255.png", "img/269.png"]
    assert seen == [(i + 1, 270) for i in range(270)]
    rows = (tmp_path / "p.csv").read_text().splitlines()
    assert len(rows) == 271
    assert rows[4] == "img/003.png,,,"


def test_what_predicts_nothing_says_why_and_leaves_nothing(run, table, tmp_path):
    def stop(done, total):
        if done == 20:
            raise Killed

    before = sorted(tmp_path.iterdir())
    with pytest.raises(Killed):
        predict(run, table, out=tmp_path / "p.csv", on_progress=stop)
    with pytest.raises(FileNotFoundError, match=r"no folder .*none to write p\.csv in"):
        predict(run, table, out=tmp_path / "none" / "p.csv", on_progress=stop)
    with pytest.raises(FileExistsError, match=r"labels\.csv exists: choose another name, or ask"):
        predict(run, table, out=table, on_progress=stop)
    with pytest.raises(ValueError, match="threads must be at least 1, got 0"):
        predict(run, table, threads=0)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "a.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"pictures that can be read, got none of 1: a\.png must"):
        predict(run, broken, out=tmp_path / "p.csv")
    shutil.copy(table.parent / "img" / "000.png", broken / "b.png")
    (broken / "notes.txt").write_text("x")
    assert predict(run, broken).notes == ("left out what is no PNG, JPEG or TIFF: 1 (notes.txt)",)
    shutil.rmtree(broken)
    assert sorted(tmp_path.iterdir()) == before
    predict(run, table, out=tmp_path / "p.csv")
    first = (tmp_path / "p.csv").read_bytes()
    (tmp_path / "p.csv").write_text("old")
    predict(run, table, out=tmp_path / "p.csv", overwrite=True)
    assert (tmp_path / "p.csv").read_bytes() == first


def test_stopped_and_resumed_is_undisturbed(run, table, tmp_path):
    seen = 0

    def stop_in_the_middle(progress):
        nonlocal seen
        seen += progress.finished is not None
        if seen == 2:
            raise Killed

    recipe = FAST
    with pytest.raises(Killed):
        train(
            table,
            network=NETWORK,
            recipe=recipe,
            out=tmp_path / "r",
            on_progress=stop_in_the_middle,
        )
    assert (tmp_path / "r" / "state.pt").is_file()
    again = train(table, network=NETWORK, recipe=recipe, out=tmp_path / "r")
    assert files_of(again.path) == files_of(run.path)


def test_a_broken_state_is_said_and_begun_anew(run, table, tmp_path):
    def stop(progress):
        if progress.finished is not None and progress.step >= 3:
            raise Killed

    with pytest.raises(Killed):
        train(table, network=NETWORK, recipe=FAST, out=tmp_path / "r", on_progress=stop)
    state = tmp_path / "r" / "state.pt"
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    state.write_bytes(content)
    notes = []
    again = train(table, network=NETWORK, recipe=FAST, out=tmp_path / "r", on_note=notes.append)
    assert any("trained from its start" in note for note in notes)
    assert files_of(again.path) == files_of(run.path)


def test_a_run_of_a_network_without_batchnorms_is_opened_again(table, tmp_path):
    recipe = FAST.changed({"epochs": 1, "lr": 1e-4})
    done = train(table, network="squeezenet1.1", recipe=recipe, out=tmp_path / "r")
    assert open_run(done.path).network().architecture == "squeezenet1.1"


def test_a_finished_run_is_only_opened(run, table):
    before = {p: p.stat().st_mtime_ns for p in run.path.iterdir()}
    train(table, network=NETWORK, recipe=FAST, out=run.path)
    assert {p: p.stat().st_mtime_ns for p in run.path.iterdir()} == before


def test_a_run_of_other_data_or_options_is_refused(run, table, tmp_path):
    with pytest.raises(ValueError, match=r"holds another run \(seed 0, not 1\)"):
        train(table, network=NETWORK, recipe=FAST, out=run.path, seed=1)
    other = write_pictures(tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match=r"holds another run \(content of 48 images differ"):
        train(other, network=NETWORK, recipe=FAST, out=run.path)


def test_a_network_whose_weights_were_changed_is_refused(table, tmp_path):
    done = train(table, network=NETWORK, recipe=replace(FAST, epochs=1), out=tmp_path / "r")
    path = done.path / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match="must be as it was written"):
        open_run(done.path).network()


def test_infinite_losses_say_where(table, tmp_path):
    recipe = replace(FAST, optimiser="sgd", lr=1e30, schedule="constant", warmup=0.0)
    with pytest.raises(
        ModelError, match=r"loss must be finite.* step \d+ .*rate of 1e\+30"
    ) as error:
        train(table, network=NETWORK, recipe=recipe, out=tmp_path / "r")
    assert "lower lr" in str(error.value)
    assert not (tmp_path / "r" / "metrics.json").exists()


def test_a_full_disk_is_one_line(table, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(WriteError, match="no space left on") as error:
        train(table, network=NETWORK, recipe=FAST, out=tmp_path / "r")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["state.pt", "weights.safetensors", "metrics.json"])
def test_a_disk_that_fills_up_leaves_a_run_that_goes_on(run, table, tmp_path, monkeypatch, name):
    write = Path.write_bytes

    def full(path, content):
        if name in path.name:
            write(path, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(NoSpaceError, match=rf"no space left on .*: {name}; free some or"):
            train(table, network=NETWORK, recipe=FAST, out=tmp_path / "r")
    assert not (tmp_path / "r" / "metrics.json").exists()
    again = train(table, network=NETWORK, recipe=FAST, out=tmp_path / "r")
    assert files_of(again.path) == files_of(run.path)


def test_pictures_that_cannot_be_read_are_left_out_and_told(tmp_path):
    path = write_pictures(tmp_path)
    (tmp_path / "img" / "005.png").write_bytes(b"no picture")
    notes = []
    done = train(
        path,
        network=NETWORK,
        recipe=replace(FAST, epochs=1),
        out=tmp_path / "r",
        on_note=notes.append,
    )
    assert any("cannot be read: 1 (img/005.png)" in note for note in notes)
    assert [name for name, _ in done.metrics()["unreadable"]] == ["img/005.png"]
    assert "img/005.png" not in done.predictions()


def test_too_small_pictures_are_refused(table, tmp_path):
    with pytest.raises(ModelError, match=r"cbr-tiny .* needs patches of at least 91 px, got 24 px"):
        train(table, network="cbr-tiny", recipe=FAST, out=tmp_path / "r")


def test_several_labels(tmp_path):
    path = write_pictures(tmp_path, several=True)
    images = datasets.open_images(path, labels=("light", "stripes"))
    assert images.task == "multilabel"
    assert np.isnan(images.targets).any()
    done = train(
        images, network=NETWORK, recipe=replace(FAST, epochs=5, every=None), out=tmp_path / "r"
    )
    assert done.metrics()["test"]["auroc"]["value"] > 0.7
    with (done.path / "predictions.csv").open() as file:
        assert {row["predicted"] for row in csv.DictReader(file)} <= {
            *("", "light", "stripes", "light;stripes")
        }


def test_one_training_picture_is_refused(tmp_path):
    table = write_pictures(tmp_path / "p", n=24, several=True)
    images = datasets.open_images(table, labels=["light", "stripes"])
    parts = ("train", "validation", *["test"] * (len(images) - 2))
    images = replace(images, splits=parts, groups=images.names)
    with pytest.raises(
        ValueError, match="training images must be at least 2, got 1: more patients are needed"
    ):
        train(images, network=NETWORK, recipe=FAST, out=tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_all_folds_test_every_picture_once(table, tmp_path):
    recipe = replace(FAST, epochs=1)
    found = train_folds(table, network=NETWORK, recipe=recipe, out=tmp_path / "a", folds=3)
    told = found.metrics()
    assert told["images"] == 48
    assert told["groups"] == 16
    assert set(told["out_of_fold"]) == set(told["of_folds"])
    assert found.steps_to(9.0, metric="loss") == (learning.Reached(steps=0, is_reached=True),) * 3
    alone = train(table, network=NETWORK, recipe=recipe, out=tmp_path / "b", folds=3, fold=1)
    assert files_of(alone.path) == files_of(tmp_path / "a" / "fold-1")


def test_steps_to_a_threshold_are_those_of_the_curve(run):
    log = run.log()
    assert log["step"].tolist() == sorted(log["step"])
    values = log["validation_auroc"]
    threshold = (values[0] + values.max()) / 2
    wanted = learning.steps_to(log["step"], values, threshold)
    assert wanted.is_reached
    assert run.steps_to(threshold, metric="auroc") == wanted
    never = run.steps_to(0.0, metric="loss")
    assert never == learning.Reached(steps=log["step"][-1], is_reached=False)
    assert run.steps_to(99.0) == learning.Reached(steps=0.0, is_reached=True)  # of its loss
    with pytest.raises(ValueError, match=r"metric must be one of loss, .* got 'aurok'.*auroc"):
        run.steps_to(0.5, metric="aurok")
    with pytest.raises(ValueError, match="threshold must be finite"):
        run.steps_to(np.nan)


def test_a_curve_that_was_changed_is_refused(table, tmp_path):
    done = train(table, network=NETWORK, recipe=replace(FAST, epochs=1), out=tmp_path / "r")
    path = done.path / "log.csv"
    path.write_text(path.read_text().replace("0.", "1.", 1))
    with pytest.raises(ModelError, match=r"log\.csv must be as it was written"):
        done.steps_to(0.5)


# --- What trains ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("freeze", "still"),
    [
        ("head", ("conv1.", "bn1.", "layer")),
        ("from:layer3", ("conv1.", "bn1.", "layer1.", "layer2.")),
    ],
)
def test_what_is_frozen_stays(table, tmp_path, freeze, still):
    recipe = replace(FAST, epochs=1, freeze=freeze, ema=0.0)
    done = train(table, network=NETWORK, recipe=recipe, out=tmp_path / "r")
    before = starts.begin(NETWORK, "random", classes=2).state_dict()
    after = done.network().state_dict()
    moved = {k for k in before if not torch.equal(before[k], after[k])}
    assert not [k for k in moved if k.startswith(still)]
    assert any(k.startswith("fc.") for k in moved)


def test_batchnorms_in_evaluation_keep_their_statistics(table, tmp_path):
    recipe = replace(FAST, epochs=1, batchnorm="eval", ema=0.0)
    network = train(table, network=NETWORK, recipe=recipe, out=tmp_path / "r").network()
    assert float(network.bn1.running_mean.abs().max()) == 0
    assert not torch.equal(network.bn1.weight, torch.ones(64))


def test_the_average_is_what_is_kept(table, tmp_path):
    """A decay near 1 keeps the beginning but for what its warm-up forgets."""
    runs = [
        train(
            table, network=NETWORK, recipe=replace(FAST, ema=ema, epochs=2), out=tmp_path / str(ema)
        )
        for ema in (0.0, 0.9)
    ]
    first, second = (run.network().state_dict()["conv1.weight"] for run in runs)
    assert not torch.equal(first, second)
