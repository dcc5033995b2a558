"""Fine-tuning on the patches that matter: what trains, what chooses, what comes out."""

from __future__ import annotations

import csv
import dataclasses
import json

import numpy as np
import pytest

from extras import need
from histofast import encoders, graphs
from histofast.errors import FeatureError, ModelError
from tuning_stage import BAGS, PATCHES, PX, write_stage

torch = need("torch", "sklearn")

from safetensors.torch import save_file

from histofast import mil, networks

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = mil.FineTuneConfig(top_k=3, epochs=2, lr=1e-3, patience=2)


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    return write_stage(tmp_path_factory.mktemp("stage"))


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def tune(stage, out, config=QUICK, **options):
    given = {
        "weights": stage / "w.safetensors",
        "patches": stage / "patches.csv",
        "network": "resnet18",
        "layer": "layer1",
    }
    return mil.finetune(stage / "run", out=out, config=config, **(given | options))


@pytest.fixture(scope="module")
def tuned(stage, tmp_path_factory):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    said = []
    found = tune(stage, tmp_path_factory.mktemp("tuned") / "t", on_progress=said.append)
    torch.set_num_threads(before)
    return found, said


def test_what_comes_out(stage, tuned):
    found, said = tuned
    assert {"auroc", "accuracy"} <= set(found.frozen)
    assert found.gain["auroc"].value == pytest.approx(
        found.tuned["auroc"].value - found.frozen["auroc"].value
    )
    rows = table(found.path / "predictions.csv")
    assert [row["slide"] for row in rows] == sorted(row["slide"] for row in rows[:10]) + sorted(
        row["slide"] for row in rows[10:]
    )
    assert len({row["slide"] for row in rows}) == BAGS
    run = mil.open_run(stage / "run")
    predicted = run.predictions()
    for row in rows:
        assert float(row["frozen_p_1"]) == pytest.approx(predicted[row["slide"]][1], abs=1e-6)
    with encoders.load(found.encoder, device="cpu") as encoder:
        assert (encoder.spec.name, encoder.spec.d) == ("resnet18-layer1-tuned", 64)
        assert encoder.spec.patch_px == PX
        own = networks.create("resnet18", weights=found.weights, layer="layer1")
        pixels = graphs.stained_noise(8, PX)
        with torch.inference_mode():
            wanted = networks.PixelsIn(own)(torch.from_numpy(pixels)).numpy()
        np.testing.assert_allclose(encoder.encode(pixels), wanted, rtol=1e-3, atol=1e-4)
    epochs = [p.finished for p in said if p.finished is not None]
    assert [e.epoch for e in epochs[:3]] == [0, 1, 2]
    assert np.isnan(epochs[0].loss)  # the frozen encoder: nothing was trained yet
    assert epochs[2].loss < epochs[1].loss
    steps = [p for p in said if p.finished is None]
    assert all(p.remaining_s >= 0 for p in steps)
    assert any("fold" in note and "has seen all but" in note for note in found.notes)
    assert not any("fewer than" in note for note in found.notes)


@pytest.fixture
def every_epoch_is_better(monkeypatch):
    """The last epoch is kept, whatever validation slides say: what trained is seen in it."""
    from histofast.mil import fold_tuning

    monkeypatch.setattr(fold_tuning, "is_better", lambda *_: True)


@pytest.mark.usefixtures("every_epoch_is_better")
def test_weights_move_and_statistics_of_batchnorms_do_not(stage, tmp_path):
    found = tune(stage, tmp_path / "t", dataclasses.replace(QUICK, folds=(0,), epochs=1))
    before = networks.create("resnet18", weights=stage / "w.safetensors", layer="layer1")
    after = networks.create("resnet18", weights=found.weights, layer="layer1")
    kept = {n for n, v in before.state_dict().items() if torch.equal(v, after.state_dict()[n])}
    is_statistic = ("running", "num_batches")
    assert kept == {n for n in before.state_dict() if any(word in n for word in is_statistic)}


@pytest.mark.usefixtures("every_epoch_is_better")
def test_only_named_stages_train(stage, tmp_path):
    config = dataclasses.replace(QUICK, unfreeze=("layer1",), folds=(0,), epochs=1)
    found = tune(stage, tmp_path / "t", config)
    before = networks.create("resnet18", weights=stage / "w.safetensors", layer="layer1")
    after = networks.create("resnet18", weights=found.weights, layer="layer1")
    others = dict(after.named_parameters())
    moved = {n for n, p in before.named_parameters() if not torch.equal(p, others[n])}
    assert moved == {n for n in others if n.startswith("layer1.")}
    assert set(found.path.glob("fold-*")) == {found.path / "fold-0"}


def test_test_slides_choose_nothing(stage, tmp_path, monkeypatch):
    """Patches are ranked, trained on and validated with slides that the fold does not test."""
    from histofast.mil.pixels import Pixels

    run = mil.open_run(stage / "run")
    seen = []
    read = Pixels.read

    def pixels(self, row, patches):
        seen.append((row, len(patches)))
        return read(self, row, patches)

    monkeypatch.setattr(Pixels, "read", pixels)
    tune(stage, tmp_path / "t", dataclasses.replace(QUICK, folds=(1,)))
    test = set(run.folds[1].test.tolist())
    looked_at = [(row, n) for row, n in seen if row in test]
    first = next(i for i, (row, n) in enumerate(seen) if row in test and n == PATCHES)
    # Apart from the check of the network, on slide 0, the last thing that is looked at.
    assert {row for row, _ in seen[first:]} == test
    assert len([1 for row, _ in looked_at if row]) == len(test - {0})


def test_bounded_memory_changes_nothing(stage, tmp_path):
    config = dataclasses.replace(QUICK, folds=(0,), epochs=1)
    wide = tune(stage, tmp_path / "wide", config)
    narrow = tune(stage, tmp_path / "narrow", dataclasses.replace(config, memory_gb=1e-6))
    for one, other in zip(
        *(
            json.loads((f.path / "fold-0" / "fold.json").read_text())["values"]
            for f in (wide, narrow)
        ),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, atol=1e-3)


def test_choosing_patches_again(stage, tmp_path):
    config = dataclasses.replace(QUICK, folds=(0,), reselect=1, patch_loss=0.5)
    assert tune(stage, tmp_path / "t", config).tuned["auroc"].value >= 0


def test_folds_that_are_done_are_kept(stage, tmp_path):
    class Stop(Exception):
        pass

    def stop(progress):
        if progress.fold == 1:
            raise Stop

    with pytest.raises(Stop):
        tune(stage, tmp_path / "t", on_progress=stop)
    record = tmp_path / "t" / "fold-0" / "fold.json"
    written = record.stat().st_mtime_ns
    found = tune(stage, tmp_path / "t")
    assert record.stat().st_mtime_ns == written
    whole = tune(stage, tmp_path / "whole")
    assert found.tuned == whole.tuned
    with pytest.raises(
        ValueError, match=r"holds another run \(lr 0.001, not 0.0001\): choose another folder"
    ):
        tune(stage, tmp_path / "t", dataclasses.replace(QUICK, lr=1e-4))
    assert tune(stage, tmp_path / "t", dataclasses.replace(QUICK, lr=1e-4), overwrite=True)


def test_generators_of_the_caller_are_left_as_they_were(stage, tmp_path):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    tune(stage, tmp_path / "t", dataclasses.replace(QUICK, folds=(0,), epochs=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_each_file_is_opened_once(stage, tmp_path, monkeypatch):
    from histofast.mil import pixels

    opened = []
    plain = pixels.open_features

    def open_features(path):
        opened.append(path.name)
        return plain(path)

    monkeypatch.setattr(pixels, "open_features", open_features)
    tune(stage, tmp_path / "t", dataclasses.replace(QUICK, folds=(0,)))
    assert sorted(opened) == [f"b{i:02}.h5" for i in range(BAGS)]


def test_the_encoder_file_is_enough(stage, tmp_path):
    config = dataclasses.replace(QUICK, folds=(0,), epochs=1)
    own = {"weights": None, "network": None, "layer": None, "encoder": stage / "r18.onnx"}
    by_file, by_weights = (
        tune(stage, tmp_path / name, config, **options)
        for name, options in (("file", own), ("weights", {}))
    )
    one, other = (
        json.loads((f.path / "fold-0" / "fold.json").read_text())["values"]
        for f in (by_file, by_weights)
    )
    # The same function, with its BatchNorms written in another way.
    np.testing.assert_allclose(one, other, atol=0.2)
    assert networks.PixelsIn(by_file.frozen_network).network.layer == "layer1"
    licences = [encoders.read_spec(found.encoder).licence for found in (by_file, by_weights)]
    assert licences == ["MIT of r18", "that of the weights it was tuned from"]


def test_small_bags_are_told(stage, tmp_path):
    config = dataclasses.replace(QUICK, folds=(0,), epochs=1, top_k=64)
    found = tune(stage, tmp_path / "t", config)
    assert f"{BAGS} of {BAGS} slides have fewer than 64 patches: all are taken" in found.notes


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"layer": "conv1"}, ModelError, "must give the features of the run's encoder|got others"),
        ({"layer": "layer2"}, ModelError, "lacks 25 tensors of resnet18"),
        (
            {"network": None, "layer": None, "weights": None},
            ValueError,
            "encoder must be named: the run's, r18, is not one that histofast comes with",
        ),
        ({"network": None, "layer": None}, ValueError, "network must be named that w.safetensors"),
        ({"weights": None}, ValueError, "network and layer belong to weights"),
        ({"encoder": "x.onnx"}, ValueError, "encoder and weights must not both be given"),
        (
            {"config": dataclasses.replace(QUICK, folds=(2,))},
            ValueError,
            r"folds must be in 0\.\.1",
        ),
        (
            {"config": dataclasses.replace(QUICK, unfreeze=("layr1",))},
            ValueError,
            "unfreeze must be of conv1, bn1, relu, maxpool, layer1, or all, got 'layr1'",
        ),
        (
            {"config": dataclasses.replace(QUICK, most_hours=1e-9)},
            ValueError,
            r"would take about 0\.0 days .* more than 1e-09 hours: take fewer folds",
        ),
    ],
)
def test_bad_arguments(stage, tmp_path, change, error, message):
    with pytest.raises(error, match=message):
        tune(stage, tmp_path / "t", **change)


def test_weights_of_another_network(stage, tmp_path):
    other = networks.create("resnet18", layer="layer1", seed=9)
    save_file(other.state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match=r"got others by \d+% of their norm: other weights"):
        tune(stage, tmp_path / "t", weights=tmp_path / "other.safetensors")


def test_missing_slides_and_features(stage, tmp_path):
    lines = (stage / "patches.csv").read_text().splitlines()
    few = stage / "few.csv"
    few.write_text("\n".join(lines[:-PATCHES]) + "\n")
    with pytest.raises(FeatureError, match=r"slides must be all 20 of the run, got none of 1: b19"):
        tune(stage, tmp_path / "t", patches=few)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError):
        tune(stage, tmp_path / "t", features=tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        mil.finetune(tmp_path / "none", weights=stage / "w.safetensors", out=tmp_path, patches=few)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"lr": 0}, "lr must be above 0, got 0"),
        ({"memory_gb": -1}, "memory_gb must be above 0, got -1"),
        ({"unfreeze": ()}, "unfreeze must name stages, or all, got nothing"),
    ],
)
def test_bad_configs(change, message):
    with pytest.raises(ValueError, match=message):
        mil.FineTuneConfig(**change)
