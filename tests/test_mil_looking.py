"""What single models say of a slide and its patches is what `predict` and `attention_of` say of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from extras import need
from histofast.errors import FeatureError
from histofast.features import read_features
from toy_bags import UNI, D, write_features, write_toy

torch = need("torch", "sklearn")

from histofast.mil import Looker, TrainConfig, attention_of, predict, train

pytestmark = pytest.mark.usefixtures("one_thread")

SHORT = TrainConfig(folds=2, epochs=1, lr=1e-2)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return write_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def runs(toy, tmp_path_factory):
    """Runs by model, trained when first asked for."""
    folder, made = tmp_path_factory.mktemp("runs"), {}

    def run(model, task="classification"):
        if (model, task) not in made:
            given = toy if task == "classification" else write_toy(folder / model, task=task)
            made[model, task] = train(
                *given, out=folder / f"{model}-{task}", model=model, task=task, config=SHORT
            )
        return made[model, task]

    return run


@pytest.fixture
def fresh(tmp_path, rng):
    path = tmp_path / "new.h5"
    write_features(path, rng.normal(size=(7, D)).astype(np.float32))
    return path


def test_a_look_is_what_the_run_says(runs, fresh):
    run, file = runs("gated"), read_features(fresh)
    looker = Looker(run)
    looks = [looker.look(file, fold=fold) for fold in range(2)]
    for fold, look in enumerate(looks):
        wanted = attention_of(run, file.features, folds=[fold])
        np.testing.assert_allclose(look.attention, wanted, rtol=1e-6)
    slide = np.mean([look.slide for look in looks], axis=0)
    np.testing.assert_allclose(slide, predict(run, fresh).values[0], atol=1e-12)


@pytest.mark.parametrize("model", ["gated", "mean", "max", "transmil"])
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_a_patch_alone_is_a_slide_of_one_patch(runs, fresh, tmp_path, model, task):
    run, file = runs(model, task), read_features(fresh)
    look = Looker(run).look(file, fold=0)
    for row in range(len(file.features)):
        alone = tmp_path / f"alone{row}.h5"
        write_features(alone, file.features[row : row + 1])
        wanted = Looker(run).look(read_features(alone), fold=0).slide
        np.testing.assert_allclose(look.patches[row], wanted, rtol=1e-4, atol=1e-5)


def test_models_that_score_no_patch_are_not_given_too_many(runs, fresh, monkeypatch):
    monkeypatch.setattr("histofast.mil.looking.MOST_ALONE", 6)
    file = read_features(fresh)
    assert Looker(runs("transmil")).look(file, fold=0).patches is None
    assert Looker(runs("gated")).look(file, fold=0).patches is not None


def test_which_models_attend_and_have_not_seen_a_slide(runs):
    assert not Looker(runs("mean")).attends
    assert Looker(runs("mean")).look(read_features(runs("mean").paths[0]), fold=0).attention is None
    looker = Looker(runs("gated"))
    assert looker.attends
    assert looker.folds_of("new") == (0, 1)
    assert looker.folds_of("s00") == (runs("gated").fold_of("s00"),)


def test_features_that_the_run_was_not_trained_on_are_told(runs, tmp_path, rng):
    looker, path = Looker(runs("gated")), tmp_path / "new.h5"

    def misfit(d=D, encoder=UNI, options=None):
        path.unlink(missing_ok=True)
        write_features(
            path, rng.normal(size=(3, d)).astype(np.float32), encoder=encoder, options=options
        )
        return looker.misfit(read_features(path))

    assert misfit() == ""
    other = {"name": "virchow", "sha256": "cd" * 32}
    assert misfit(encoder=other) == (
        "features are of virchow (sha256 cdcdcdcdcdcd), the run's of uni (sha256 abababababab)"
    )
    assert misfit(d=5) == "features are 5 per patch, the run's 8"
    with pytest.raises(FeatureError, match=r"new\.h5: features are 5 per patch, the run's 8"):
        looker.look(read_features(path), fold=0)


def test_features_made_with_other_options_are_told(tmp_path):
    given = write_toy(tmp_path / "toy", options={"mpp": 0.5})
    looker = Looker(train(*given, out=tmp_path / "run", config=SHORT))
    write_features(tmp_path / "new.h5", np.ones((3, D), np.float32), options={"mpp": 1.0})
    assert looker.misfit(read_features(tmp_path / "new.h5")) == (
        "features are made with mpp 1.0, the run's with mpp 0.5"
    )


def test_broken_features_are_refused(runs, tmp_path):
    looker, features = Looker(runs("gated")), np.ones((3, D), np.float32)
    write_features(tmp_path / "new.h5", features)
    file = read_features(tmp_path / "new.h5")
    features[1, 2] = np.nan
    with pytest.raises(FeatureError, match="must be finite numbers, got NaN or infinity"):
        looker.look(replace(file, features=features), fold=0)
    with pytest.raises(FeatureError, match="must be finite numbers, got none"):
        looker.look(replace(file, features=features[:0]), fold=0)
