"""Layers are what their sources say of the same patches, in their order, and nothing where they say nothing."""

from __future__ import annotations

import csv
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from extras import need
from histofast.errors import FeatureError
from histofast.features import open_features
from histofast.viewer import Layers
from histofast.viewer.clusters import centres_of, nearest
from histofast.viewer.colours import colouring_of
from toy_bags import D, write_features, write_toy


class Slides:
    """What layers ask of a catalogue."""

    anonymous = False

    def __init__(self, paths, **told):
        self.entries = [
            SimpleNamespace(index=i, name=path.stem, slide=path.stem, features=path)
            for i, path in enumerate(paths)
        ]
        self.told = told  # of all files

    def features(self, index):
        path = self.entries[index].features
        return None if path is None else replace(open_features(path), **self.told)


@pytest.fixture
def files(tmp_path, rng):
    paths = [tmp_path / f"s{i}.h5" for i in range(3)]
    for i, path in enumerate(paths):
        write_features(path, rng.normal(size=(20 + i, D)).astype(np.float32))
    return paths


def shown(layers, index=0):
    return {layer.id: layer for layer in layers.of(index)}


# --- Features alone -------------------------------------------------------------------------------


def test_colours_and_groups_are_fitted_on_all_slides(files):
    layers = Layers(Slides(files))
    whole = np.concatenate([open_features(path).features for path in files])
    for index, path in enumerate(files):
        features = open_features(path).features
        np.testing.assert_array_equal(
            layers.values(index, "colours"), colouring_of(whole).of(features)
        )
        centres = centres_of(whole, 8)
        np.testing.assert_array_equal(layers.values(index, "clusters"), nearest(features, centres))
    assert shown(layers)["colours"].kind == "colour"
    assert shown(layers)["clusters"].categories == tuple(f"group {i}" for i in range(1, 9))


def test_slides_of_another_encoder_are_not_sampled(files, tmp_path, rng):
    other = tmp_path / "x.h5"
    write_features(
        other,
        9 + rng.normal(size=(30, D)).astype(np.float32),
        encoder={"name": "b", "sha256": "cd" * 32},
    )
    alone, together = Layers(Slides(files)), Layers(Slides([*files, other]))
    np.testing.assert_array_equal(together.values(0, "colours"), alone.values(0, "colours"))
    own = open_features(other).features
    np.testing.assert_array_equal(
        together.values(3, "colours"), colouring_of(np.array(own)).of(own)
    )


def test_what_a_file_tells_of_its_patches_is_a_layer(files, rng):
    fraction = rng.random(20).astype(np.float32)
    labels = ("b", "", "a") * 6 + ("a", "a")
    layers = Layers(Slides(files[:1], tissue_fraction=fraction, labels=labels))
    np.testing.assert_array_equal(layers.values(0, "tissue"), fraction)
    assert (shown(layers)["tissue"].low, shown(layers)["tissue"].high) == (0, 1)
    assert shown(layers)["labels"].categories == ("a", "b")
    assert layers.values(0, "labels")[:4].tolist() == [1, -1, 0, 1]
    assert set(shown(Layers(Slides(files)))) == {"colours", "clusters"}


def test_a_layer_that_is_not_there_has_no_values(files):
    layers = Layers(Slides(files))
    for layer_id in ("tissue", "attention", "map-0", "../s1"):
        with pytest.raises(KeyError):
            layers.values(0, layer_id)


def test_values_are_made_once_and_cannot_be_changed(files):
    layers = Layers(Slides(files))
    found = layers.values(0, "clusters")
    assert layers.values(0, "clusters") is found
    assert found.dtype == np.float32
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1


def test_a_slide_without_features_has_no_layers(files):
    slides = Slides(files)
    slides.entries[1].features = None
    layers = Layers(slides)
    assert (layers.of(1), layers.notes(1), layers.prediction(1)) == ([], [], None)
    np.testing.assert_array_equal(layers.values(0, "colours").shape, (20, 3))


def test_features_that_are_all_broken_have_no_colours(files):
    layers = Layers(Slides(files[:1], features=np.full((20, D), np.nan, np.float32)))
    with pytest.raises(FeatureError, match="must be finite numbers, got none that are"):
        layers.values(0, "colours")


def test_tables_are_layers_by_their_names(files, tmp_path):
    coords = open_features(files[0]).coords
    rows = [["x", "y", "value"], *([x, y, i] for i, (x, y) in enumerate(coords.tolist()))]
    (tmp_path / "heat").mkdir()
    with (tmp_path / "heat" / "attention.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    layers = Layers(Slides(files), explain=tmp_path / "heat")
    assert layers.of(0)[0].name == "attention"
    np.testing.assert_array_equal(layers.values(0, "map-0"), np.arange(20))
    assert "map-0" not in shown(layers, 1)  # has another number of patches


def test_words_of_tables_are_hidden_with_the_names_of_slides(files, tmp_path):
    (tmp_path / "heat").mkdir()
    (tmp_path / "heat" / "s0.csv").write_text("x,y,value\n1,1,1\n")
    slides = Slides(files)
    layers = Layers(slides, explain=tmp_path / "heat")
    assert layers.notes(0) == [
        f"{tmp_path}/heat/s0.csv is not shown: its places are not those of the patches of s0"
    ]
    slides.entries[0].name = "slide 1"
    assert layers.notes(0) == ["1 table of values cannot be shown on this slide"]


# --- With a run -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return write_toy(tmp_path_factory.mktemp("toy"), b=12)


@pytest.fixture(scope="module")
def trained(toy, tmp_path_factory):
    """Runs by model, trained when first asked for."""
    need("torch", "sklearn")
    from histofast.mil import TrainConfig, train

    folder, made = tmp_path_factory.mktemp("runs"), {}

    def run(model="gated", **more):
        if model not in made:
            config = TrainConfig(folds=2, epochs=1, lr=1e-2)
            given = toy if not more else write_toy(folder / "toy", b=12, **more)
            made[model] = train(*given, out=folder / model, model=model, config=config, **more)
        return made[model]

    return run


def test_attention_is_of_the_models_that_have_not_seen_the_slide(trained, toy, files):
    from histofast.mil import attention_of

    run = trained()
    known = toy[0] / "s03.h5"
    layers = Layers(Slides([files[0], known]), run=run.path)
    names = [layer.id for layer in layers.of(0)]
    assert names[:6] == ["attention", "attention-0", "attention-1", "p-0", "p-1", "class"]
    (unseen,) = (fold for fold in range(2) if fold == run.fold_of("s03"))
    for index, folds, layer_id in (
        (0, [0, 1], "attention"),
        (0, [1], "attention-1"),
        (1, [unseen], "attention"),
        (1, [1 - unseen], f"attention-{1 - unseen}"),
    ):
        features = open_features([files[0], known][index]).features
        wanted = attention_of(run, features, folds=folds)
        np.testing.assert_allclose(layers.values(index, layer_id), wanted, rtol=1e-5)
    assert (
        shown(layers)["attention"].note == "mean of the 2 models; the run does not know this slide"
    )
    assert shown(layers, 1)["attention"].note == (
        f"of the model of fold {unseen}, which was not trained with this slide"
    )
    notes = [shown(layers, 1)[f"attention-{fold}"].note for fold in (unseen, 1 - unseen)]
    assert notes == [None, "this model was trained with this slide"]


def test_predictions_of_patches_are_the_means_of_the_models(trained, files):
    from histofast.mil import Looker

    layers, looker = Layers(Slides(files), run=trained().path), Looker(trained())
    file = open_features(files[0])
    wanted = np.mean([looker.look(file, fold=fold).patches for fold in range(2)], axis=0)
    for i in range(2):
        np.testing.assert_allclose(layers.values(0, f"p-{i}"), wanted[:, i], rtol=1e-6)
    np.testing.assert_array_equal(layers.values(0, "class"), wanted.argmax(axis=1))
    assert shown(layers)["p-1"].name == "p(yes) of each patch"
    assert shown(layers)["class"].categories == ("no", "yes")
    found = layers.prediction_of_patch(0, 7)
    np.testing.assert_allclose(found["p"], wanted[7], rtol=1e-6)
    assert found["class"] == ("no", "yes")[wanted[7].argmax()]


def test_a_slide_is_predicted_out_of_fold_or_when_all_models_have_looked(trained, toy, files):
    from histofast.mil import predict

    run = trained()
    layers = Layers(Slides([files[0], toy[0] / "s03.h5"]), run=run.path)
    np.testing.assert_allclose(layers.prediction(1)["p"], run.predictions()["s03"])
    assert layers.prediction(0) is None  # would be work
    layers.values(0, "attention")
    np.testing.assert_allclose(
        layers.prediction(0)["p"], predict(run, files[0]).values[0], atol=1e-6
    )
    assert layers.run_told() == {"name": "gated", "classes": ["no", "yes"], "folds": [0, 1]}


def test_a_prediction_that_is_no_number_is_none(trained, toy, files, monkeypatch):
    run = trained()
    unknown = {name: value * np.nan for name, value in run.predictions().items()}
    monkeypatch.setattr(type(run), "predictions", lambda self: unknown)
    assert Layers(Slides([toy[0] / "s03.h5"]), run=run.path).prediction(0) is None


def test_models_without_attention_have_none(trained, files):
    layers = Layers(Slides(files), run=trained("mean").path)
    assert not [layer for layer in layers.of(0) if layer.group == "attention"]
    assert "p-0" in shown(layers)


def test_a_value_is_one_layer(trained, files):
    layers = Layers(Slides(files), run=trained("max", task="regression").path)
    assert shown(layers)["value"].name == "Value of each patch"
    assert (shown(layers)["value"].low, shown(layers)["value"].high) == (None, None)
    assert layers.values(0, "value").shape == (20,)
    found = layers.prediction_of_patch(0, 3)
    assert found == {
        "classes": [],
        "p": [],
        "class": f"{found['value']:.4g}",
        "value": found["value"],
    }


def test_models_that_score_no_patch_are_asked_of_each_or_say_nothing(trained, files, monkeypatch):
    layers = Layers(Slides(files), run=trained("transmil").path)
    assert shown(layers)["p-0"].note.startswith(
        "the models' answer to each patch as if it were alone"
    )
    monkeypatch.setattr("histofast.mil.looking.MOST_ALONE", 19)
    assert [layer.id for layer in layers.of(0)][:4] == [
        "attention",
        "attention-0",
        "attention-1",
        "colours",
    ]
    assert layers.notes(0) == [
        "no predictions by patch: transmil scores no single patch, and is not given so many one by one"
    ]
    assert layers.prediction_of_patch(0, 3) is None


def test_features_of_another_encoder_have_no_values_of_the_run_and_one_sentence(
    trained, tmp_path, rng
):
    path = tmp_path / "s.h5"
    write_features(
        path, rng.normal(size=(9, D)).astype(np.float32), encoder={"name": "b", "sha256": "cd" * 32}
    )
    layers = Layers(Slides([path]), run=trained().path)
    assert set(shown(layers)) == {"colours", "clusters"}
    (note,) = layers.notes(0)
    assert note.startswith(
        "no attention and no predictions: features are of b (sha256 cdcdcdcdcdcd), "
    )
    assert layers.prediction_of_patch(0, 3) is None


def test_without_torch_a_run_is_refused_in_one_line(tmp_path, files, monkeypatch):
    import sys

    for name in [
        name for name in sys.modules if name.partition(".")[0] == "torch" or "histofast.mil" in name
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ModuleNotFoundError, match=r"histofast\.mil needs torch"):
        Layers(Slides(files), run=tmp_path)
