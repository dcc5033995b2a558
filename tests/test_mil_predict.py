"""Prediction: the mean of the folds' models, on features that they were made for."""

from __future__ import annotations

import csv
import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from extras import need
from histofast.errors import FeatureError, ModelError
from toy_bags import UNI, D, write_features, write_toy

torch = need("torch", "sklearn")

from histofast.learning import metrics, write_json
from histofast.mil import (
    TrainConfig,
    attention_of,
    evaluate,
    open_bags,
    open_run,
    predict,
    train,
)

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
SHORT = TrainConfig(folds=2, epochs=2, lr=1e-2)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return write_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def run(toy, tmp_path_factory):
    return train(*toy, out=tmp_path_factory.mktemp("runs") / "run", config=SHORT)


@pytest.fixture
def fresh(tmp_path, rng):
    """Features of three slides that no model has seen."""
    folder = tmp_path / "fresh"
    folder.mkdir()
    for i in range(3):
        write_features(folder / f"new{i}.h5", rng.normal(size=(5 + i, D)).astype(np.float32))
    return folder


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


class TestPredict:
    def test_is_the_mean_of_the_folds(self, run, fresh, tmp_path):
        done = []
        found = predict(
            run.path, fresh, out=tmp_path / "p.csv", on_progress=lambda *at: done.append(at)
        )
        bags = open_bags(fresh, None)
        logits = [evaluate(model, bags, range(3), device=CPU) for model in run.models()]
        wanted = np.mean([torch.softmax(torch.tensor(each), 1).numpy() for each in logits], axis=0)
        np.testing.assert_allclose(found.values, wanted, atol=1e-6)
        assert (found.names, found.classes) == (("new0", "new1", "new2"), ("no", "yes"))
        assert found.notes == ()
        assert done == [(1, 3), (2, 3), (3, 3)]
        rows = table(tmp_path / "p.csv")
        assert list(rows[0]) == ["slide", "n_patches", "prediction", "p_no", "p_yes"]
        assert found.n_patches.tolist() == [int(row["n_patches"]) for row in rows] == [5, 6, 7]
        assert [row["slide"] for row in rows] == list(found.names)
        assert [row["prediction"] for row in rows] == [
            found.classes[i] for i in wanted.argmax(axis=1)
        ]
        np.testing.assert_allclose([float(row["p_yes"]) for row in rows], wanted[:, 1], rtol=1e-6)

    def test_values_are_in_the_units_of_the_labels(self, tmp_path, fresh):
        toy = write_toy(tmp_path / "toy", task="regression")
        run = train(*toy, out=tmp_path / "run", task="regression", config=SHORT)
        found = predict(run, fresh, out=tmp_path / "p.csv")
        bags = open_bags(fresh, None)
        wanted = np.mean(
            [
                evaluate(model, bags, range(3), device=CPU)[:, 0] * unit.scale + unit.offset
                for model, unit in zip(run.models(), run.units(), strict=True)
            ],
            axis=0,
        )
        np.testing.assert_allclose(found.values, wanted, rtol=1e-6)
        assert 90 < found.values.mean() < 140
        targets = open_bags(*toy, task="regression").targets[run.folds[0].train]
        assert run.units()[0].offset == pytest.approx(targets.mean())
        assert run.units()[0].scale == pytest.approx(targets.std())
        assert list(table(tmp_path / "p.csv")[0]) == ["slide", "n_patches", "prediction"]

    def test_attention(self, run, fresh, tmp_path):
        predict(run, fresh, out=tmp_path / "p.csv", attention=True)
        assert sorted(p.name for p in (tmp_path / "p-attention").iterdir()) == [
            f"new{i}.csv" for i in range(3)
        ]
        bags = open_bags(fresh, None)
        for i in range(3):
            rows = table(tmp_path / "p-attention" / f"new{i}.csv")
            assert list(rows[0]) == ["x", "y", "attention"]
            assert [(row["x"], row["y"]) for row in rows] == [
                (str(256 * k), "0") for k in range(5 + i)
            ]
            told = [float(row["attention"]) for row in rows]
            assert sum(told) == pytest.approx(1, abs=1e-6)
            np.testing.assert_allclose(told, attention_of(run, bags.read(i)), rtol=1e-6)

    def test_attention_of_some_folds(self, run, fresh):
        features = open_bags(fresh, None).read(0)
        each = [attention_of(run, features, folds=[i]) for i in range(2)]
        np.testing.assert_allclose(attention_of(run, features), np.mean(each, axis=0))
        assert not np.allclose(*each)
        bag = torch.tensor(np.array(features))
        np.testing.assert_allclose(each[1], run.models()[1](bag).attention.detach(), atol=1e-6)
        half = attention_of(run, features.astype(np.float16))
        np.testing.assert_allclose(half, attention_of(run, features), atol=1e-3)

    def test_slides_that_were_trained_on_are_told(self, run, toy):
        (note,) = predict(run, toy[0]).notes
        assert note == (
            "24 of 24 slides took part in the training, and their predictions are too good: fair ones are in "
            f"{run.path / 'predictions.csv'}"
        )

    def test_features_of_other_options(self, tmp_path):
        """Features of another scale went into a run's models without a word."""
        toy = write_toy(tmp_path, options={"mpp": 0.5, "overlap": 0, "edge": "drop"})
        run = train(*toy, out=tmp_path / "run", config=SHORT)
        path = tmp_path / "x.h5"
        other = {"mpp": 1.0, "overlap": 0, "slide": "x"}
        write_features(path, np.ones((4, D), np.float32), options=other)
        message = (
            r"must be made with the run's options, mpp 0\.5, got mpp 1\.0: extract them so, or"
        )
        with pytest.raises(FeatureError, match=message):
            predict(run, path)
        found = predict(run, path, other_options=True)
        assert found.notes == ("features are made with mpp 1.0, the run's with mpp 0.5",)

    def test_encoders_that_are_not_known_are_told(self, run, tmp_path, rng):
        path = tmp_path / "x.h5"
        write_features(path, rng.normal(size=(4, D)).astype(np.float32), encoder=None)
        assert predict(run, path).notes == ("encoder of the features not known: not compared",)


class TestRefusals:
    def test_another_width(self, run, tmp_path, rng):
        write_features(tmp_path / "x.h5", rng.normal(size=(4, D + 1)).astype(np.float32))
        with pytest.raises(
            FeatureError,
            match=rf"^features must be {D} per patch as the run's, got {D + 1}: extract them with "
            r"uni \(sha256 abababababab\)$",
        ):
            predict(run, tmp_path / "x.h5")

    @pytest.mark.parametrize("other", [{"sha256": "cd" * 32}, {"name": "gigapath", "sha256": "ef"}])
    def test_another_encoder(self, run, tmp_path, rng, other):
        path = tmp_path / "x.h5"
        write_features(path, rng.normal(size=(4, D)).astype(np.float32), encoder=UNI | other)
        with pytest.raises(
            FeatureError, match=r"^features must be of the run's encoder, uni \(sha256 abab.*, got "
        ):
            predict(run, path)

    def test_models_without_attention(self, toy, fresh, tmp_path):
        run = train(*toy, out=tmp_path / "run", model="mean", config=SHORT)
        message = "model must attend to patches, got mean, which has no attention"
        with pytest.raises(ValueError, match=message):
            predict(run, fresh, out=tmp_path / "p.csv", attention=True)
        with pytest.raises(ValueError, match=message):
            attention_of(run, np.zeros((3, D), np.float32))
        assert not (tmp_path / "p.csv").exists()

    def test_attention_needs_a_place(self, run, fresh, tmp_path):
        with pytest.raises(ValueError, match="out must name a table when attention is asked for"):
            predict(run, fresh, attention=True)
        with pytest.raises(FileNotFoundError, match=r"no folder .*none to write p\.csv in"):
            predict(run, fresh, out=tmp_path / "none" / "p.csv")

    def test_attention_needs_coordinates(self, run, tmp_path, rng):
        path = tmp_path / "x.h5"
        features = rng.normal(size=(4, D)).astype(np.float32)
        write_features(path, features, coords_known=False)
        with pytest.raises(
            FeatureError, match=r"coordinates must be in the feature files for .* none in .*x\.h5"
        ):
            predict(run, path, out=tmp_path / "p.csv", attention=True)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["x.h5"]

    def test_features_for_attention(self, run):
        good = np.zeros((3, D), np.float32)
        for features, options, error, message in (
            (good[:0], {}, ValueError, rf"features must be of shape \(n, {D}\) with n >= 1"),
            (good[:, 1:], {}, ValueError, rf"as the run's, got \(3, {D - 1}\)"),
            (good * np.nan, {}, ValueError, "features must be finite, got NaN or infinity"),
            (good, {"folds": ()}, ValueError, "folds must name at least one fold, got none"),
            (good, {"folds": (2,)}, IndexError, r"fold must be within 0\.\.1, got 2"),
        ):
            with pytest.raises(error, match=message):
                attention_of(run, features, **options)

    def test_what_exists_is_kept(self, run, fresh, tmp_path):
        out = tmp_path / "p.csv"
        predict(run, fresh, out=out, attention=True)
        before = out.read_bytes()
        with pytest.raises(FileExistsError, match=r"p\.csv exists: choose another name, or ask to"):
            predict(run, fresh, out=out)
        out.unlink()
        with pytest.raises(FileExistsError, match=r"new0\.csv exists"):
            predict(run, fresh, out=out, attention=True)
        predict(run, fresh, out=out, attention=True, overwrite=True)
        assert out.read_bytes() == before

    def test_a_full_disk(self, run, fresh, tmp_path, monkeypatch):
        def full(path, content):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

        monkeypatch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="no space left"):
            predict(run, fresh, out=tmp_path / "p.csv")
        assert [p.name for p in tmp_path.iterdir()] == ["fresh"]

    def test_device(self, run, fresh):
        with pytest.raises(
            ValueError, match=r"device must be one of auto, cpu, cuda, or .*, got 'tpu'"
        ):
            predict(run, fresh, device="tpu")


class TestRun:
    def test_opened_is_what_was_trained(self, run, toy):
        opened = open_run(run.path)
        bags = open_bags(*toy)
        assert opened.is_finished
        assert (opened.model, opened.task, opened.classes, opened.d) == (
            "attention",
            "classification",
            ("no", "yes"),
            D,
        )
        assert opened.encoder == UNI
        assert opened.config == SHORT
        assert (opened.names, opened.patients) == (bags.names, bags.patients)
        assert opened.paths == tuple(path.resolve() for path in bags.paths)
        assert opened.fold_of("none") is None
        for name, i in (("s00", 0), ("s23", 23)):
            assert i in opened.folds[opened.fold_of(name)].test
        np.testing.assert_array_equal(opened.targets, bags.targets)
        for model in opened.models():
            assert not model.training
        predicted = opened.predictions()
        rows = table(run.path / "predictions.csv")
        assert list(predicted) == list(bags.names)
        told = [[float(row["p_no"]), float(row["p_yes"])] for row in rows]
        np.testing.assert_array_equal(list(predicted.values()), told)

    @pytest.mark.parametrize(("task", "shape"), [("regression", (12,)), ("survival", (12, 2))])
    def test_opened_is_of_its_task(self, tmp_path, task, shape):
        toy = write_toy(tmp_path, task=task, b=12)
        trained = train(*toy, out=tmp_path / "run", task=task, config=SHORT)
        opened = open_run(trained.path)
        assert (opened.task, opened.classes) == (task, ())
        np.testing.assert_array_equal(opened.targets, open_bags(*toy, task=task).targets)
        assert opened.targets.shape == shape
        rows = table(trained.path / "predictions.csv")
        predicted = np.stack(list(opened.predictions().values()))
        np.testing.assert_array_equal(predicted, [float(row["prediction"]) for row in rows])

    def test_options_of_models_are_kept(self, toy, tmp_path):
        config = replace(SHORT, model_options={"hidden": 16, "dropout": 0.5, "patch_head": True})
        run = train(*toy, out=tmp_path / "run", config=config)
        for model in open_run(run.path).models():
            assert model.options | config.model_options == model.options
        assert open_run(run.path).config == config

    def test_no_run(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"^no such folder: .*none$"):
            open_run(tmp_path / "none")
        with pytest.raises(FileNotFoundError, match=r"^no run\.json, as `train` writes it, in "):
            open_run(tmp_path)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("{", r"run\.json must be JSON, got "),
            ("[]", r"run\.json must be a JSON object, got list"),
            ({}, r"run\.json must be of a run, got no kind in it"),
            (
                {"kind": "train", "identity": {}, "about": {}},
                r"run\.json must be of a run of `train`, got another \(identity\.model must be there, got none\)",
            ),
            (
                {"kind": "finetune", "identity": {}, "about": {}},
                "must be of `train`, got a folder of `finetune`",
            ),
        ],
    )
    def test_a_broken_run_json(self, tmp_path, content, message):
        if isinstance(content, str):
            (tmp_path / "run.json").write_text(content)
        else:
            write_json(tmp_path / "run.json", content)
        with pytest.raises(ModelError, match=message):
            open_run(tmp_path)

    def test_not_trained_yet(self, run, tmp_path, fresh):
        copy = tmp_path / "copy"
        shutil.copytree(run.path, copy)
        (copy / "metrics.json").unlink()
        (copy / "fold-1" / "model.safetensors").unlink()
        with pytest.raises(ModelError, match=r"copy must be a finished run, got no metrics\.json"):
            open_run(copy).metrics()
        with pytest.raises(ModelError, match=r"copy must be a finished run, got no metrics\.json"):
            open_run(copy).predictions()
        for use in (open_run(copy).models, open_run(copy).units, lambda: predict(copy, fresh)):
            with pytest.raises(ModelError, match="copy must be trained, got no model of fold 1"):
                use()

    def test_a_checkpoint_of_something_else(self, run, toy, tmp_path):
        copy = tmp_path / "copy"
        shutil.copytree(run.path, copy)
        path = copy / "fold-0" / "model.safetensors"
        path.write_bytes(path.read_bytes()[:500])
        with pytest.raises(ModelError, match=r"must be a model that `train` wrote, got Safetensor"):
            open_run(copy).models()

        other = tmp_path / "other"
        (other / "features").mkdir(parents=True)
        rng = np.random.default_rng(0)
        for i in range(24):
            features = rng.normal(size=(3, D + 2)).astype(np.float32)
            write_features(other / "features" / f"s{i:02}.h5", features)
        wide = train(other / "features", toy[1], out=other / "run", config=SHORT)
        shutil.copy(wide.path / "fold-0" / "model.safetensors", path)
        with pytest.raises(
            ModelError,
            match=rf"must be of the run's model attention with {D} features and 2 outputs, got "
            rf"attention with {D + 2} and 2",
        ):
            open_run(copy).models()

    def test_a_model_of_another_making(self, run, tmp_path):
        from safetensors.torch import save_file

        copy = tmp_path / "copy"
        shutil.copytree(run.path, copy)
        about = {
            "name": "attention", "d": D, "outputs": 2, "options": {}, "offset": 0, "scale": 1,
        }  # fmt: skip
        save_file(
            {"w": torch.zeros(2)},
            copy / "fold-0" / "model.safetensors",
            metadata={"histofast.bag_model": json.dumps(about)},
        )
        message = (
            r"must be a model that `train` wrote, got KeyError \('sha256'\): remove it to train"
        )
        with pytest.raises(ModelError, match=message):
            open_run(copy).models()


class TestLabels:
    """What predictions are worth, where the truth is known."""

    def labelled(self, folder, lines, header="slide,label,patient"):
        file = folder / "truth.csv"
        file.write_text("\n".join([header, *lines]) + "\n")
        return file

    def test_metrics_are_of_the_labelled_slides(self, run, fresh, tmp_path, rng):
        for i in range(3, 9):
            write_features(fresh / f"new{i}.h5", rng.normal(size=(4, D)).astype(np.float32))
        lines = [f"new{i}.svs,{'yes' if i % 2 else 'no'},p{i // 2}" for i in range(8)]
        labels = self.labelled(tmp_path, lines)
        found = predict(run, fresh, labels=labels, out=tmp_path / "p.csv")
        rows = table(tmp_path / "p.csv")
        assert [row["slide"] for row in rows] == [f"new{i}" for i in range(9)]
        scores = found.values[:8]
        wanted = metrics(
            "classification",
            np.arange(8) % 2,
            scores,
            groups=np.arange(8) // 2,
            classes=["no", "yes"],
        )
        assert found.metrics == wanted
        pairs = [(a, b) for a in scores[1::2, 1] for b in scores[::2, 1]]
        assert found.metrics["auroc"].value == pytest.approx(
            np.mean([(a > b) + 0.5 * (a == b) for a, b in pairs])
        )
        assert (found.labelled, found.patients) == (8, 4)
        assert "left out features without labels: 1 (new8)" in found.notes
        told = json.loads((tmp_path / "p-metrics.json").read_text())
        assert told["metrics"]["auroc"]["value"] == pytest.approx(found.metrics["auroc"].value)
        assert (told["slides"], told["patients"]) == (8, 4)

    def test_one_class_is_enough_for_some(self, run, fresh, tmp_path):
        labels = self.labelled(tmp_path, ["new0,yes", "new1,yes"], header="slide,label")
        found = predict(run, fresh, labels=labels)
        right = found.values[:2].argmax(axis=1) == 1
        assert found.metrics["accuracy"].value == right.mean()
        assert np.isnan(found.metrics["auroc"].value)
        assert (found.labelled, found.patients) == (2, None)

    @pytest.mark.parametrize(
        ("lines", "message"),
        [
            (["new0,maybe,p"], r"truth.csv, line 2: label must be one of no, yes, got .maybe."),
            (["new0,Yes,p"], r"must be one of no, yes, got .Yes.: did you mean yes\?"),
            (["other,yes,p"], "must be of the same slides, got no common name"),
        ],
    )
    def test_labels_that_say_nothing_of_these_slides(self, run, fresh, tmp_path, lines, message):
        with pytest.raises(ValueError, match=message):
            predict(run, fresh, labels=self.labelled(tmp_path, lines), out=tmp_path / "p.csv")
        assert not (tmp_path / "p.csv").exists()

    def test_labels_of_slides_without_a_patch_measure_nothing(self, run, fresh, tmp_path):
        write_features(fresh / "none.h5", np.empty((0, D), np.float32))
        labels = self.labelled(tmp_path, ["none,yes,p"])
        with pytest.raises(
            FeatureError, match=r"truth.csv must have labels of slides that have patches"
        ):
            predict(run, fresh, labels=labels, out=tmp_path / "p.csv")
        assert not (tmp_path / "p.csv").exists()

    def test_metrics_that_exist_are_kept(self, run, fresh, tmp_path):
        (tmp_path / "p-metrics.json").write_text("mine")
        labels = self.labelled(tmp_path, ["new0,yes,p"])
        with pytest.raises(FileExistsError, match=r"p-metrics\.json"):
            predict(run, fresh, labels=labels, out=tmp_path / "p.csv")
        predict(run, fresh, out=tmp_path / "p.csv")  # writes no metrics
        assert (tmp_path / "p-metrics.json").read_text() == "mine"
