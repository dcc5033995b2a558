"""What a run's numbers depend on: its folder is known by that, and by nothing else."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from extras import need
from histofast.errors import FeatureError, ModelError
from toy_bags import UNI, D, write_features, write_toy

torch = need("torch", "sklearn")

from histofast.learning import parts_of_config
from histofast.mil import FineTuneConfig, TrainConfig, open_bags, open_run, train, training

pytestmark = pytest.mark.usefixtures("one_thread")

SHORT = TrainConfig(folds=2, epochs=2, lr=3e-3)

# Every field of the configs: another value, and whether numbers depend on it.
OF_TRAINING = {
    "folds": (3, True),
    "epochs": (3, True),
    "lr": (1e-2, True),
    "weight_decay": (0.1, True),
    "patience": (3, True),
    "accumulate": (2, True),
    "balance": (False, True),
    "max_patches": (5, True),
    "auxiliary": (0.5, True),
    "patch_loss": (0.5, True),
    "metric": ("brier", True),
    "seed": (1, True),
    "device": ("cpu", False),
    "amp": ("off", True),
    "model_options": ({"hidden": 16}, True),
}
OF_TUNING = {
    "top_k": (3, True),
    "epochs": (3, True),
    "patience": (3, True),
    "lr": (1e-2, True),
    "weight_decay": (0.1, True),
    "unfreeze": (("layer1",), True),
    "patch_loss": (0.5, True),
    "reselect": (1, True),
    "memory_gb": (1.0, False),
    "folds": ((0,), False),
    "seed": (1, True),
    "device": ("cpu", False),
    "most_hours": (1.0, False),
}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return write_toy(tmp_path_factory.mktemp("toy"))


@pytest.mark.parametrize(
    ("config", "changes"), [(TrainConfig(), OF_TRAINING), (FineTuneConfig(), OF_TUNING)]
)
def test_each_field_is_known_to_change_numbers_or_not(config, changes):
    assert {field.name for field in dataclasses.fields(config)} == set(changes)
    for name, (value, counts) in changes.items():
        other = dataclasses.replace(config, **{name: value})
        assert (parts_of_config(other)[0] != parts_of_config(config)[0]) == counts, name


@pytest.mark.parametrize(("name", "value", "counts"), [(n, *c) for n, c in OF_TRAINING.items()])
def test_a_changed_config_is_another_run(toy, name, value, counts):
    bags = open_bags(*toy)
    one = training.record_of(bags, "attention", SHORT)
    changed = dataclasses.replace(SHORT, **{name: value})
    other = training.record_of(bags, "attention", changed)
    assert one.is_same(other) != counts
    assert (one.sha256 == other.sha256) != counts


def test_each_part_of_an_identity_changes_with_what_it_is_of(toy, tmp_path, monkeypatch):
    """Every key is changed by something; what the change was is what is told."""
    bags = open_bags(*toy)
    one = training.record_of(bags, "attention", SHORT)
    told = {}

    def note(key, other, words):
        assert other.identity[key] != one.identity[key]
        from histofast.learning import difference

        assert words in difference(one, other)
        told[key] = words

    note("model", training.record_of(bags, "gated", SHORT), "model attention, not gated")
    config = dataclasses.replace(SHORT, metric="brier")
    note("metric", training.record_of(bags, "attention", config), "metric null, not brier")
    note("config", training.record_of(bags, "attention", config), "metric null, not brier")
    for task in ("regression", "survival"):
        other = open_bags(*write_toy(tmp_path / task, task=task), task=task)
        note(
            "task",
            training.record_of(other, "attention", SHORT),
            f"task classification, not {task}",
        )
    names = dataclasses.replace(bags, classes=("a", "b"))
    note("classes", training.record_of(names, "attention", SHORT), "classes")
    encoder = dataclasses.replace(bags, encoder=UNI | {"sha256": "cd" * 32})
    note("encoder", training.record_of(encoder, "attention", SHORT), "other encoder")
    wide = dataclasses.replace(bags, d=D + 1)
    note("d", training.record_of(wide, "attention", SHORT), f"d {D}, not {D + 1}")
    divided = dataclasses.replace(SHORT, seed=5)
    note("folds", training.record_of(bags, "attention", divided), "seed 0, not 5")
    for part, value in (
        ("patients", ("p0", *bags.patients[1:])),
        ("targets", np.array([1, *bags.targets[1:]])),
    ):
        other = dataclasses.replace(bags, **{part: value})
        words = f"{part.removesuffix('s')} of 1 slides differ, first s00"
        note("slides", training.record_of(other, "attention", SHORT), words)
    monkeypatch.setattr(training, "REVISION", training.REVISION + 1)
    note("revision", training.record_of(bags, "attention", SHORT), "revision 1, not 2")
    assert set(told) == set(one.identity)


def test_names_of_encoders_and_places_of_files_do_not_count(toy, tmp_path):
    bags = open_bags(*toy)
    (tmp_path / "moved").mkdir()
    paths = tuple(tmp_path / "moved" / path.name for path in bags.paths)
    for path, moved in zip(bags.paths, paths, strict=True):
        moved.write_bytes(path.read_bytes())
    other = dataclasses.replace(
        open_bags(tmp_path / "moved", toy[1]), encoder=UNI | {"name": "another"}
    )
    one = training.record_of(bags, "attention", SHORT)
    assert one.is_same(training.record_of(other, "attention", SHORT))


def rewrite(path: Path, *, raised: float) -> None:
    """Write other features of the same name and size."""
    from histofast.features import read_features

    features = read_features(path).features + np.float32(raised)
    path.unlink()
    write_features(path, features)


def test_other_features_of_the_same_names_and_sizes_are_refused(tmp_path):
    features, labels = write_toy(tmp_path)
    before = train(features, labels, out=tmp_path / "run", config=SHORT).metrics()
    for name in ("s03", "s11", "s20"):
        rewrite(features / f"{name}.h5", raised=1.0)
    message = r"another run \(features of 3 slides differ, first s03\): .* overwrite=True$"
    with pytest.raises(ValueError, match=message):
        train(features, labels, out=tmp_path / "run", config=SHORT)
    after = train(features, labels, out=tmp_path / "run", config=SHORT, overwrite=True).metrics()
    fresh = train(features, labels, out=tmp_path / "fresh", config=SHORT).metrics()
    assert after == fresh != before


def test_features_that_change_while_training_are_told(tmp_path):
    features, labels = write_toy(tmp_path)
    bags = open_bags(features, labels)
    rewrite(features / "s03.h5", raised=1.0)
    with pytest.raises(FeatureError, match=r"s03\.h5 must be as when opened, got other features"):
        bags.read(3)


def test_another_device_goes_on(toy, tmp_path):
    class Stop(KeyboardInterrupt):
        pass

    def stop(progress):
        if progress.finished and progress.fold == 1:
            raise Stop

    config = dataclasses.replace(SHORT, device="auto")
    with pytest.raises(Stop):
        train(*toy, out=tmp_path / "run", config=config, on_progress=stop)
    written = (tmp_path / "run" / "fold-0" / "model.safetensors").stat().st_mtime_ns
    run = train(*toy, out=tmp_path / "run", config=dataclasses.replace(SHORT, device="cpu"))
    assert run.is_finished
    assert (tmp_path / "run" / "fold-0" / "model.safetensors").stat().st_mtime_ns == written


def weights_of(run: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in run.rglob("*")
        if path.suffix in (".safetensors", ".onnx") or path.name in ("metrics.json", "fold.json")
    }


@pytest.mark.slow
def test_folds_side_by_side_give_the_same_bits(toy, tmp_path):
    config = TrainConfig(folds=3, epochs=3, lr=3e-3, max_patches=5)
    said = []
    one = train(*toy, out=tmp_path / "one", model="gated", config=config)
    two = train(
        *toy, out=tmp_path / "two", model="gated", config=config, jobs=2, on_progress=said.append
    )
    assert weights_of(one.path) == weights_of(two.path)
    ended = {(p.fold, p.epoch) for p in said if p.finished}
    assert ended == {(fold, epoch) for fold in range(3) for epoch in (1, 2, 3)}


@pytest.mark.slow
def test_a_fold_that_fails_in_a_process_is_told(toy, tmp_path):
    config = TrainConfig(folds=2, epochs=4, lr=1e30)
    with pytest.raises(ModelError, match=r"loss of fold \d must be finite, got NaN"):
        train(*toy, out=tmp_path / "run", config=config, jobs=2)


def test_threads_are_those_asked_for_and_given_back(toy, tmp_path):
    torch.set_num_threads(2)
    seen = set()
    for name, threads in (("one", {}), ("two", {"threads": 2}), ("own", {"threads": None})):
        train(
            *toy,
            out=tmp_path / name,
            config=SHORT,
            on_progress=lambda _, name=name: seen.add((name, torch.get_num_threads())),
            **threads,
        )
        assert torch.get_num_threads() == 2
    assert seen == {("one", 1), ("two", 2), ("own", 2)}
    for name in ("jobs", "threads"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            train(*toy, out=tmp_path / "none", config=SHORT, **{name: 0})


def test_a_fold_alone_is_the_fold_among_all(toy, tmp_path):
    from histofast.learning import run_folder
    from histofast.mil import Run, train_fold

    whole = train(*toy, out=tmp_path / "whole", config=SHORT)
    bags = open_bags(*toy)
    record = training.record_of(bags, "attention", SHORT)
    with run_folder(tmp_path / "alone", record, files=(), overwrite=False):
        train_fold(Run.of(tmp_path / "alone", record), bags, fold=1)
    name = "fold-1/model.safetensors"
    assert (tmp_path / "alone" / name).read_bytes() == (whole.path / name).read_bytes()
    assert not open_run(tmp_path / "alone").is_finished
