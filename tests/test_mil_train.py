"""Training: what is learnt, what is never learnt from, what a kill or a full disk leaves."""

from __future__ import annotations

import csv
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from extras import need
from histofast._files import Lock
from histofast.errors import FeatureError, ModelError, NoSpaceError
from toy_bags import D, write_features, write_toy

torch = need("torch", "sklearn")

from torch.nn import functional

from histofast import networks
from histofast.learning import folds, metrics
from histofast.mil import (
    TrainConfig,
    cox_loss,
    create,
    evaluate,
    fold_training,
    open_bags,
    open_run,
    reading,
    train,
)

pytestmark = pytest.mark.usefixtures("one_thread")

SHORT = TrainConfig(folds=2, epochs=3, lr=3e-3)
# All that is random in training at once: order, dropout, drawn patches.
RANDOM = TrainConfig(folds=2, epochs=5, lr=3e-3, patience=3, max_patches=5, metric="auroc", seed=7)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return write_toy(tmp_path_factory.mktemp("toy"))


def numbers_of(run: Path) -> dict[str, bytes]:
    """Every file of a finished run, logs without their seconds."""
    found = {}
    for path in sorted(run.rglob("*")):
        if path.is_file() and ".locks" not in path.parts:
            content = path.read_bytes()
            if path.name == "log.csv":
                content = b"\n".join(line.rpartition(b",")[0] for line in content.split(b"\n"))
            found[str(path.relative_to(run))] = content
    return found


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def watch(monkeypatch, look):
    """Call `look(model, bag, target)` at every forward pass of every model made from now on."""

    def made(*arguments, **options):
        model = create(*arguments, **options)
        model.register_forward_pre_hook(lambda module, args: look(module, *args))
        return model

    monkeypatch.setattr(fold_training, "create", made)


class TestLearning:
    def test_what_can_be_told_apart_is(self, toy, tmp_path):
        config = TrainConfig(folds=3, epochs=15, lr=1e-2)
        run = train(*toy, out=tmp_path / "new" / "run", config=config)
        found = run.metrics()
        assert found["out_of_fold"]["auroc"] == {"value": 1.0, "low": 1.0, "high": 1.0}
        assert [fold["auroc"] for fold in found["folds"]] == [1.0, 1.0, 1.0]
        assert (found["bags"], found["patients"], found["unit"]) == (24, 24, "patient")

    def test_values(self, tmp_path):
        toy = write_toy(tmp_path, task="regression", b=30)
        config = TrainConfig(folds=3, epochs=20, lr=1e-2)
        run = train(*toy, out=tmp_path / "run", task="regression", config=config)
        assert run.metrics()["out_of_fold"]["r2"]["value"] > 0.7
        predicted = [float(row["prediction"]) for row in table(run.path / "predictions.csv")]
        assert 100 < np.mean(predicted) < 130  # in the units of the labels

    def test_survival(self, tmp_path):
        toy = write_toy(tmp_path, task="survival", b=40)
        config = TrainConfig(folds=2, epochs=15, lr=1e-2)
        run = train(*toy, out=tmp_path / "run", task="survival", config=config)
        assert run.metrics()["out_of_fold"]["c_index"]["value"] > 0.85
        assert list(table(run.path / "predictions.csv")[0]) == [
            "slide", "patient", "fold", "time", "event", "prediction",
        ]  # fmt: skip
        # Risks of different folds are told relative to the mean of their training bags.
        bags = open_bags(*toy, task="survival")
        for fold, model, unit in zip(run.folds, run.models(), run.units(), strict=True):
            raw = evaluate(model, bags, fold.train, device=CPU)
            assert raw.mean() + unit.offset == pytest.approx(0, abs=1e-5)

    @pytest.mark.parametrize("model", ["gated", "mean", "max", "clam", "transmil", "dsmil"])
    def test_every_model_trains(self, toy, tmp_path, model):
        run = train(*toy, out=tmp_path / "run", model=model, config=SHORT)
        assert run.is_finished
        assert [made.name for made in run.models()] == [model, model]

    def test_half_precision_features(self, tmp_path):
        toy = write_toy(tmp_path, dtype="float16")
        assert train(*toy, out=tmp_path / "run", config=SHORT).is_finished

    def test_one_step_is_the_mean_weighted_gradient(self, tmp_path):
        """A whole epoch in one step, against its definition."""
        splits = ["train"] * 10 + ["train", "val", "val", "test", "test", "test"] + ["train"] * 4
        toy = write_toy(tmp_path, b=20, splits=splits)
        text = toy[1].read_text().replace("s01,yes", "s01,no").replace("s03,yes", "s03,no")
        toy[1].write_text(text)
        config = TrainConfig(
            epochs=1, accumulate=99, lr=0.1, patch_loss=0.3, weight_decay=0.2, seed=4
        )
        run = train(*toy, out=tmp_path / "run", config=config)

        bags = open_bags(*toy)
        rows = [i for i, split in enumerate(splits) if split == "train"]
        seed = int(np.random.SeedSequence([2, 4, 0]).generate_state(1)[0])
        model = create("attention", d=D, outputs=2, seed=seed).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.2)
        targets = torch.tensor(bags.targets)
        share = torch.bincount(targets[rows]) / len(rows)
        losses = []
        for i in rows:
            out = model(torch.tensor(np.array(bags.read(i))))
            patches = functional.cross_entropy(
                out.patch_outputs, targets[i].expand(len(out.patch_outputs))
            )
            slide = functional.cross_entropy(out.output, targets[i])
            losses.append((slide + 0.3 * patches) / (2 * share[targets[i]]))
        loss = torch.stack(losses).mean()
        loss.backward()
        optimizer.step()
        (trained,) = run.models()
        weights = model.state_dict()
        del weights["score.2.bias"]  # softmax takes it away: its gradient is rounding alone
        for name, tensor in weights.items():
            torch.testing.assert_close(trained.state_dict()[name], tensor, atol=1e-4, rtol=1e-3)
        (row,) = table(run.path / "fold-0" / "log.csv")
        assert float(row["loss"]) == pytest.approx(loss.item(), rel=1e-5)

    def test_risk_sets(self, tmp_path):
        """In survival a step takes one risk set; one of the whole part is the loss by definition."""
        toy = write_toy(tmp_path, b=40, task="survival")
        config = TrainConfig(folds=2, epochs=1, accumulate=99)
        run = train(*toy, out=tmp_path / "run", task="survival", config=config)
        bags = open_bags(*toy, task="survival")
        seed = int(np.random.SeedSequence([2, 0, 0]).generate_state(1)[0])
        model = create("attention", d=D, outputs=1, seed=seed)
        rows = run.folds[0].train
        risk = torch.tensor(evaluate(model, bags, rows, device=CPU)[:, 0])
        wanted = cox_loss(risk, *torch.tensor(bags.targets[rows]).T)
        row = table(run.path / "fold-0" / "log.csv")[0]
        assert float(row["loss"]) == pytest.approx(float(wanted), rel=1e-5)

    def test_patches_are_drawn_in_training_alone(self, toy, tmp_path, monkeypatch):
        bags = open_bags(*toy)
        seen: dict[bool, list[int]] = {True: [], False: []}
        watch(monkeypatch, lambda model, bag, *target: seen[model.training].append(len(bag)))
        config = TrainConfig(folds=2, epochs=2, max_patches=5)
        run = train(bags, out=tmp_path / "run", config=config)
        assert max(seen[True]) == 5
        wanted = [bags.sizes[fold.validation].tolist() * 2 for fold in run.folds]
        assert seen[False] == wanted[0] + wanted[1]


class TestEvaluation:
    def test_is_in_eval_mode_without_a_graph(self, toy):
        bags = open_bags(*toy)
        model = create("gated", d=D, outputs=2, dropout=0.5).train()
        states = []

        def look(module, arguments, output):
            states.append((module.training, torch.is_inference_mode_enabled()))
            assert not output.output.requires_grad

        model.register_forward_hook(look)
        first = evaluate(model, bags, [0, 1, 2], device=CPU)
        assert states == [(False, True)] * 3
        assert first.tobytes() == evaluate(model.train(), bags, [0, 1, 2], device=CPU).tobytes()
        assert first.shape == (3, 2)
        assert first.dtype == np.float32

    def test_training_is_in_train_mode_between_evaluations(self, toy, tmp_path, monkeypatch):
        modes = []
        watch(
            monkeypatch,
            lambda model, *_: modes.append((model.training, torch.is_inference_mode_enabled())),
        )
        run = train(*toy, out=tmp_path / "run", model="gated", config=SHORT)
        wanted = []
        for fold in run.folds:
            epoch = [(True, False)] * len(fold.train) + [(False, True)] * len(fold.validation)
            wanted += epoch * 3
        assert modes == wanted

    def test_test_bags_teach_nothing(self, tmp_path):
        """Neither labels nor features of test bags have any influence on the model."""
        splits = ["train"] * 14 + ["val"] * 4 + ["test"] * 6
        models = []
        for change in ("none", "labels", "features", "training labels"):
            folder = tmp_path / change
            features, labels = write_toy(folder, splits=splits)
            if change == "labels":
                lines = labels.read_text().split("\n")
                swap = {"no": "yes", "yes": "no"}
                for i, line in enumerate(lines):
                    if line.endswith(",test"):
                        name, label, rest = line.split(",", 2)
                        lines[i] = f"{name},{swap[label]},{rest}"
                labels.write_text("\n".join(lines))
            elif change == "features":
                (features / "s20.h5").unlink()
                write_features(features / "s20.h5", np.full((3, D), 9, np.float32))
            elif change == "training labels":
                labels.write_text(labels.read_text().replace("s01,yes", "s01,no"))
            run = train(features, labels, out=folder / "run", model="gated", config=RANDOM)
            assert len(run.folds) == 1
            models.append((run.path / "fold-0" / "model.safetensors").read_bytes())
        assert models[0] == models[1] == models[2]
        assert models[0] != models[3]

    def test_predictions_are_of_the_fold_that_tested(self, toy, tmp_path):
        run = train(*toy, out=tmp_path / "run", config=SHORT)
        bags = open_bags(*toy)
        rows = table(run.path / "predictions.csv")
        assert [row["slide"] for row in rows] == list(bags.names)
        assert [int(row["fold"]) for row in rows] == [run.fold_of(name) for name in bags.names]
        assert [row["target"] for row in rows] == [bags.classes[t] for t in bags.targets]
        assert [row["patient"] for row in rows] == list(bags.patients)
        models = run.models()
        for i, row in enumerate(rows):
            raw = evaluate(models[int(row["fold"])], bags, [i], device=CPU)[0]
            wanted = torch.softmax(torch.tensor(raw), 0)
            np.testing.assert_allclose([float(row["p_no"]), float(row["p_yes"])], wanted, atol=1e-6)
        # metrics.json is what the table says.
        told = np.array([[float(row["p_no"]), float(row["p_yes"])] for row in rows])
        models = [int(row["fold"]) for row in rows]
        found = metrics("classification", bags.targets, told, groups=bags.groups, models=models)
        for name, metric in run.metrics()["out_of_fold"].items():
            assert (metric["value"], metric["low"], metric["high"]) == pytest.approx(
                (found[name].value, found[name].low, found[name].high), abs=1e-7
            )


class TestChoice:
    def test_the_best_epoch_by_loss_is_kept(self, toy, tmp_path):
        config = TrainConfig(folds=2, epochs=30, patience=4, lr=0.05)
        run = train(*toy, out=tmp_path / "run", model="mean", config=config)
        assert run.metric == "loss"  # on 6 validation bags
        bags = open_bags(*toy)
        for i, (fold, model) in enumerate(zip(run.folds, run.models(), strict=True)):
            rows = table(run.path / f"fold-{i}" / "log.csv")
            losses = [float(row["validation_loss"]) for row in rows]
            assert [int(row["is_best"]) for row in rows] == [
                int(loss < min([np.inf, *losses[:k]])) for k, loss in enumerate(losses)
            ]
            assert len(rows) == 30 or len(rows) == 1 + int(np.argmin(losses)) + 4
            outputs = torch.tensor(evaluate(model, bags, fold.validation, device=CPU)).double()
            targets = torch.tensor(bags.targets[fold.validation])
            share = np.bincount(bags.targets[fold.train]) / len(fold.train)
            weight = torch.tensor(1 / (2 * share))
            found = functional.cross_entropy(outputs, targets, weight=weight)
            assert float(found) == pytest.approx(min(losses), rel=1e-5)

    def test_equal_metrics_are_told_apart_by_the_loss(self, toy, tmp_path):
        config = TrainConfig(folds=2, epochs=6, lr=1e-2, metric="accuracy")
        run = train(*toy, out=tmp_path / "run", config=config)
        for i in range(2):
            rows = table(run.path / f"fold-{i}" / "log.csv")
            keys = [(float(r["validation_accuracy"]), -float(r["validation_loss"])) for r in rows]
            best = max(k for k, row in enumerate(rows) if row["is_best"] == "1")
            assert keys[best] == max(keys)

    def test_many_validation_bags_choose_by_the_usual_metric(self, tmp_path):
        toy = write_toy(tmp_path, b=120, least=2)
        config = TrainConfig(folds=2, epochs=1)
        assert train(*toy, out=tmp_path / "run", config=config).metric == "auroc"


class Stop(KeyboardInterrupt):
    pass


@pytest.fixture(scope="module")
def undisturbed(toy, tmp_path_factory):
    """The files of a run that nothing has stopped."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("whole") / "run"
    return numbers_of(train(*toy, out=out, model="gated", config=RANDOM).path)


class TestResume:
    @pytest.mark.parametrize(("fold", "epoch"), [(0, 1), (0, 3), (1, 2)])
    def test_interrupted_equals_undisturbed(self, toy, tmp_path, undisturbed, fold, epoch):
        def stop(progress):
            if progress.finished and (progress.fold, progress.epoch) == (fold, epoch):
                torch.rand(1)  # what a caller draws must not matter
                raise Stop

        with pytest.raises(Stop):
            train(*toy, out=tmp_path / "run", model="gated", config=RANDOM, on_progress=stop)
        assert not open_run(tmp_path / "run").is_finished
        epochs = []
        train(
            *toy,
            out=tmp_path / "run",
            model="gated",
            config=RANDOM,
            on_progress=lambda p: epochs.append((p.fold, p.epoch)) if p.finished else None,
        )
        assert epochs[0] == (fold, epoch + 1)
        assert numbers_of(tmp_path / "run") == undisturbed

    def test_stopped_within_an_epoch(self, toy, tmp_path, undisturbed, monkeypatch):
        monkeypatch.setattr(fold_training, "_REFRESH_S", 0.0)

        def stop(progress):
            if progress.epoch == 2 and progress.bags_done == 4:
                raise Stop

        with pytest.raises(Stop):
            train(*toy, out=tmp_path / "run", model="gated", config=RANDOM, on_progress=stop)
        assert not [t for t in threading.enumerate() if t.name.startswith("bags")]
        train(*toy, out=tmp_path / "run", model="gated", config=RANDOM)
        assert numbers_of(tmp_path / "run") == undisturbed

    def test_killed_equals_undisturbed(self, toy, tmp_path, undisturbed):
        code = (
            "import sys, time, torch\n"
            "torch.set_num_threads(1)\n"
            "from histofast.mil import TrainConfig, train\n"
            "def wait(p):\n"
            "    if p.finished and p.epoch == 2:\n"
            "        print('there', flush=True)\n"
            "        time.sleep(60)\n"
            f"train({str(toy[0])!r}, {str(toy[1])!r}, out={str(tmp_path / 'run')!r}, "
            f"model='gated', config={RANDOM!r}, on_progress=wait)\n"
        )
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        with child:
            assert child.stdout.readline() == "there\n"
            os.kill(child.pid, signal.SIGKILL)
        assert (tmp_path / "run" / "fold-0" / "state.pt").is_file()
        train(*toy, out=tmp_path / "run", model="gated", config=RANDOM)
        assert numbers_of(tmp_path / "run") == undisturbed

    def test_killed_between_model_and_end_of_state(self, toy, tmp_path, undisturbed, monkeypatch):
        """The state outlives the model by a moment: that fold is written again."""
        unlink = Path.unlink

        def kill(path, **options):
            if path.name == "state.pt":
                raise Stop
            unlink(path, **options)

        monkeypatch.setattr(Path, "unlink", kill)
        with pytest.raises(Stop):
            train(*toy, out=tmp_path / "run", model="gated", config=RANDOM)
        monkeypatch.undo()
        train(*toy, out=tmp_path / "run", model="gated", config=RANDOM)
        assert numbers_of(tmp_path / "run") == undisturbed

    def test_a_finished_run_is_only_opened(self, toy, tmp_path):
        def never(progress):
            raise AssertionError(progress)

        first = train(*toy, out=tmp_path / "run", config=SHORT)
        before = {p: p.stat().st_mtime_ns for p in first.path.rglob("*") if p.is_file()}
        for overwrite in (False, True):
            run = train(*toy, out=first.path, config=SHORT, overwrite=overwrite, on_progress=never)
            assert run.names == first.names
        lock = first.path / ".locks" / "run.json.lock"
        after = {p: p.stat().st_mtime_ns for p in first.path.rglob("*") if p.is_file()}
        assert after | {lock: 0} == before | {lock: 0}

    def test_torchs_generator_is_left_alone(self, toy, tmp_path):
        before = torch.get_rng_state()
        train(*toy, out=tmp_path / "run", model="gated", config=SHORT)
        assert torch.equal(torch.get_rng_state(), before)

    def test_a_full_disk_leaves_whole_files(self, toy, tmp_path, undisturbed, monkeypatch):
        write = Path.write_bytes
        states = []

        def full(path, content):
            if "state.pt" in path.name:
                states.append(path)
                if len(states) == 3:
                    write(path, content[: len(content) // 2])
                    raise OSError(errno.ENOSPC, "No space left on device", str(path))
            return write(path, content)

        monkeypatch.setattr(Path, "write_bytes", full)
        with pytest.raises(NoSpaceError, match=r"no space left on .*: state\.pt; free some or"):
            train(*toy, out=tmp_path / "run", model="gated", config=RANDOM)
        monkeypatch.undo()
        assert sorted(p.name for p in (tmp_path / "run" / "fold-0").iterdir()) == [
            "log.csv",
            "state.pt",
        ]
        train(*toy, out=tmp_path / "run", model="gated", config=RANDOM)
        assert numbers_of(tmp_path / "run") == undisturbed


class TestFolder:
    def test_files(self, toy, tmp_path):
        run = train(*toy, out=tmp_path / "run", config=SHORT)
        assert set(numbers_of(run.path)) == {
            "run.json",
            "predictions.csv",
            "metrics.json",
            *(f"fold-{i}/{name}" for i in range(2) for name in ("model.safetensors", "log.csv")),
        }
        record = json.loads((run.path / "run.json").read_text())
        assert list(record) == ["kind", "identity", "about", "sha256"]
        identity = record["identity"]
        assert identity["config"]["lr"] == 3e-3
        assert identity["classes"] == ["no", "yes"]
        assert identity["encoder"] == "ab" * 32
        assert record["about"]["encoder"] == {"name": "uni", "sha256": "ab" * 32}
        wanted = folds(open_bags(*toy), n=2, seed=0)
        assert [f["test"] for f in identity["folds"].values()] == [f.test.tolist() for f in wanted]
        assert list(table(run.path / "fold-0" / "log.csv")[0]) == [
            "epoch",
            "loss",
            "validation_loss",
            *(f"validation_{name}" for name in run.metrics()["out_of_fold"]),
            "is_best",
            "seconds",
        ]

    def test_other_arguments_are_refused_and_replaced_if_asked(self, toy, tmp_path):
        out = tmp_path / "run"
        train(*toy, out=out, config=TrainConfig(folds=3, epochs=1))
        (out / "fold-2" / "mine.txt").write_text("mine")
        for options, what in (
            ({"config": TrainConfig(folds=3, epochs=2)}, "epochs 1, not 2"),
            ({"config": TrainConfig(folds=3, epochs=1), "model": "mean"}, "model attention, not"),
        ):
            with pytest.raises(ValueError, match=rf"run holds another run \({what}"):
                train(*toy, out=out, **options)
        labels = tmp_path / "other.csv"
        labels.write_text(toy[1].read_text().replace("s01,yes", "s01,no"))
        with pytest.raises(
            ValueError, match=r"another run \(target of 1 slides differ, first s01\)"
        ):
            train(toy[0], labels, out=out, config=TrainConfig(folds=3, epochs=1))
        run = train(*toy, out=out, config=TrainConfig(folds=2, epochs=1), overwrite=True)
        assert run.is_finished
        assert sorted(p.name for p in out.iterdir()) == [
            ".locks",
            "fold-0",
            "fold-1",
            "fold-2",
            "metrics.json",
            "predictions.csv",
            "run.json",
        ]
        assert [p.name for p in (out / "fold-2").iterdir()] == ["mine.txt"]

    def test_a_folder_of_something_else(self, toy, tmp_path):
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "mine.txt").write_text("mine")
        message = "out must be new, empty or of a run, .*full is not: choose another folder, or"
        with pytest.raises(ValueError, match=message):
            train(*toy, out=tmp_path / "full", config=SHORT)
        with pytest.raises(ValueError, match=r"out must be a folder, .*mine\.txt is a file"):
            train(*toy, out=tmp_path / "full" / "mine.txt", config=SHORT)
        train(*toy, out=tmp_path / "full", config=SHORT, overwrite=True)
        assert (tmp_path / "full" / "mine.txt").read_text() == "mine"

    def test_a_second_process_is_refused(self, toy, tmp_path):
        (tmp_path / "run").mkdir()
        with Lock(tmp_path / "run" / "run.json") as held:
            assert held
            with pytest.raises(ModelError, match="must be worked on by one process, got a second"):
                train(*toy, out=tmp_path / "run", config=SHORT)

    @pytest.mark.parametrize(
        "change",
        [lambda b: b[:1000], lambda b: b[:-1], lambda b: b[:5000] + b"!" + b[5001:], bytes],
    )
    def test_a_broken_state_is_told_and_the_fold_begun_anew(self, toy, tmp_path, change):
        def stop(progress):
            if progress.finished and progress.epoch == 2:
                raise Stop

        whole = numbers_of(train(*toy, out=tmp_path / "whole", config=SHORT).path)
        out, notes, epochs = tmp_path / "run", [], []
        with pytest.raises(Stop):
            train(*toy, out=out, config=SHORT, on_progress=stop)
        state = out / "fold-0" / "state.pt"
        state.write_bytes(change(state.read_bytes()) if change is not bytes else b"")
        train(
            *toy,
            out=out,
            config=SHORT,
            on_progress=lambda p: epochs.append((p.fold, p.epoch)) if p.finished else None,
            on_note=notes.append,
        )
        assert notes[0] == f"fold 0 is trained from its start: {state} is not as it was written"
        assert epochs[0] == (0, 1)
        assert numbers_of(out) == whole

    @pytest.mark.parametrize(
        "name", ["fold-1/model.safetensors", "predictions.csv", "metrics.json"]
    )
    def test_one_bit_of_a_finished_run(self, toy, tmp_path, name):
        """Weights, predictions and metrics that changed on the disk gave other numbers, silently."""
        run = train(*toy, out=tmp_path / "run", config=SHORT)
        path = run.path / name
        content = bytearray(path.read_bytes())
        content[-20] ^= 1
        path.write_bytes(content)
        with pytest.raises(ModelError, match=f"{path.name} must be .*: remove "):
            run.models() if path.suffix == ".safetensors" else run.predictions()
        if name != "predictions.csv":
            path.unlink()
        (run.path / "metrics.json").unlink(missing_ok=True)
        assert len(train(*toy, out=run.path, config=SHORT).predictions()) == 24

    def test_a_broken_run_json(self, toy, tmp_path):
        run = train(*toy, out=tmp_path / "run", config=SHORT)
        (run.path / "run.json").write_text("{")
        with pytest.raises(ModelError, match=r"run\.json must be JSON, got "):
            train(*toy, out=run.path, config=SHORT)
        assert train(*toy, out=run.path, config=SHORT, overwrite=True).is_finished


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"folds": 1}, "folds must be at least 2, got 1"),
            ({"epochs": 0}, "epochs must be at least 1, got 0"),
            ({"patience": 0}, "patience must be at least 1, got 0"),
            ({"accumulate": 0}, "accumulate must be at least 1, got 0"),
            ({"max_patches": 0}, "max_patches must be at least 1, got 0"),
            ({"auxiliary": -1}, "auxiliary must be at least 0, got -1"),
            ({"patch_loss": float("nan")}, "patch_loss must be at least 0, got nan"),
            ({"weight_decay": -0.1}, "weight_decay must be at least 0, got -0.1"),
            ({"seed": -1}, "seed must be at least 0, got -1"),
            ({"lr": 0.0}, "lr must be above 0, got 0.0"),
            ({"lr": float("inf")}, "lr must be above 0, got inf"),
            (
                {"device": "tpu"},
                "device must be one of auto, cpu, cuda, or such as cuda:1, got 'tpu'",
            ),
            ({"amp": "on"}, "amp must be one of auto, off, got 'on'"),
        ],
    )
    def test_config(self, options, message):
        with pytest.raises(ValueError, match=f"^{message}$"):
            TrainConfig(**options)

    @pytest.mark.parametrize(
        ("options", "config", "message"),
        [
            ({"model": "abmil"}, {}, "model must be one of attention, gated, .*, got 'abmil'"),
            ({}, {"model_options": {"width": 3}}, "options of attention must be of .*, got width"),
            ({}, {"metric": "f1"}, "metric must be one of loss, auroc, .*, got 'f1'"),
            ({}, {"metric": "c_index"}, "metric must be one of loss, auroc, .*, got 'c_index'"),
            ({}, {"folds": 30}, "n must be at most the number of patients, 24, got 30"),
            ({}, {"folds": 13}, "n must be at most .* of every class, got 13 for 12 with class no"),
            ({"labels": None}, {}, "labels must name a table of labels, got None"),
            ({"task": "regression"}, {}, ".* label must be a finite number"),
            (
                {"model": "transmil"},
                {"patch_loss": 1.0},
                "patch_loss must be 0 for a model without outputs of patches",
            ),
        ],
    )
    def test_arguments(self, toy, tmp_path, options, config, message):
        options = {"labels": toy[1]} | options
        with pytest.raises(ValueError, match=f"^{message}"):
            train(
                toy[0],
                out=tmp_path / "run",
                config=TrainConfig(**({"folds": 2} | config)),
                **options,
            )

    def test_bags_that_are_open(self, toy, tmp_path):
        bags = open_bags(*toy)
        with pytest.raises(ValueError, match="labels must be None for bags, which have theirs"):
            train(bags, toy[1], out=tmp_path / "run")
        with pytest.raises(
            ValueError, match="task must be that of the bags, classification, got s"
        ):
            train(bags, out=tmp_path / "run", task="survival")

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
    def test_no_gpu(self, toy, tmp_path):
        with pytest.raises(ValueError, match="device must be auto or cpu where torch finds no GPU"):
            train(*toy, out=tmp_path / "run", config=TrainConfig(device="cuda"))
        assert not (tmp_path / "run").exists()

    def test_devices(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        for asked, wanted in {"auto": "cuda", "cuda": "cuda", "cuda:1": "cuda:1"}.items():
            assert networks.pick_device(asked) == torch.device(wanted)
        assert networks.pick_device("cpu") == CPU
        with pytest.raises(
            ValueError, match=r"one of cuda:0 to cuda:1, .* torch finds, got 'cuda:2"
        ):
            networks.pick_device("cuda:2")
        for wrong in ("tpu", "tensorrt", "cuda:", "cpu:0"):
            with pytest.raises(ValueError, match=f"device must be one of auto, .*, got '{wrong}'"):
                networks.pick_device(wrong)

    def test_survival(self, tmp_path):
        toy = write_toy(tmp_path, task="survival")
        for options, message in (
            ({"accumulate": 8}, "accumulate must be at least 16 in survival, .*, got 8"),
            ({"patch_loss": 1.0}, "patch_loss must be 0 in survival"),
        ):
            with pytest.raises(ValueError, match=message):
                train(
                    *toy,
                    out=tmp_path / "run",
                    task="survival",
                    config=TrainConfig(folds=2, **options),
                )

    def test_splits_that_lack_a_class(self, tmp_path):
        # Even slides are of class no.
        splits = [("train" if i % 2 == 0 else "test") for i in range(24)]
        splits[0], splits[2] = "val", "test"
        toy = write_toy(tmp_path, splits=splits)
        with pytest.raises(
            ValueError, match="training bags of fold 0 must be of every class, got no"
        ):
            train(*toy, out=tmp_path / "run")

    def test_splits_without_an_event(self, tmp_path):
        splits = [("train" if i % 4 == 0 else "test") for i in range(24)]
        splits[1] = "val"
        toy = write_toy(tmp_path, task="survival", splits=splits)
        with pytest.raises(
            ValueError, match="training bags of fold 0 must have an event, got none"
        ):
            train(*toy, out=tmp_path / "run", task="survival")

    def test_metric_that_validation_bags_do_not_define(self, tmp_path):
        splits = ["train"] * 12 + ["val", "test"] * 6
        toy = write_toy(tmp_path, splits=splits)
        config = TrainConfig(epochs=1, metric="auroc")
        with pytest.raises(
            ValueError,
            match=r"metric auroc must be defined on the validation bags, .*: choose loss",
        ):
            train(*toy, out=tmp_path / "run", config=config)
        run = train(*toy, out=tmp_path / "run", config=TrainConfig(epochs=1))
        assert run.metric == "loss"
        assert run.metrics()["out_of_fold"]["auroc"] == {"value": None, "low": None, "high": None}

    def test_loss_that_is_not_finite(self, toy, tmp_path):
        config = TrainConfig(folds=2, epochs=4, lr=1e30)
        with pytest.raises(
            ModelError,
            match=r"^loss of fold 0 must be finite, got NaN or infinity in epoch 1: train anew with "
            r"a lower learning rate than 1e\+30$",
        ):
            train(*toy, out=tmp_path / "run", config=config)

    def test_features_that_are_not_finite(self, tmp_path):
        features, labels = write_toy(tmp_path)
        path = features / "s03.h5"
        content = bytearray(path.read_bytes())
        (whole,) = (open_bags(features, labels).read(3),)
        at = content.find(np.ascontiguousarray(whole[1]).tobytes())
        content[at : at + 4] = np.float32(np.nan).tobytes()
        path.write_bytes(content)
        with pytest.raises(FeatureError, match=r"features of .*s03\.h5 must be finite, got NaN"):
            train(features, labels, out=tmp_path / "run", config=SHORT)
        assert not [t for t in threading.enumerate() if t.name.startswith("bags")]


class TestReadingAhead:
    def test_in_order_and_no_further_than_two(self):
        started, used = [], []

        def read(row):
            started.append(row)
            return row

        for row in reading.read_ahead(read, range(20)):
            used.append(row)
            time.sleep(0.002)
            assert len(started) - len(used) <= 2
        assert used == started == list(range(20))
        assert list(reading.read_ahead(read, [])) == []

    def test_reads_while_one_is_in_use(self):
        is_reading = threading.Event()
        found = reading.read_ahead(lambda row: is_reading.set() if row == 1 else None, range(3))
        next(found)
        assert is_reading.wait(5)
        found.close()

    def test_errors_come_at_their_place(self):
        def read(row):
            if row == 2:
                raise FeatureError("broken")
            return row

        found = reading.read_ahead(read, range(5))
        assert [next(found), next(found)] == [0, 1]
        with pytest.raises(FeatureError, match="broken"):
            next(found)

    def test_ends_with_its_user(self):
        found = reading.read_ahead(lambda row: row, range(5))
        next(found)
        found.close()
        assert not [t for t in threading.enumerate() if t.name.startswith("bags")]


class TestLogs:
    def test_tensorboard(self, toy, tmp_path):
        need("tensorboard")
        run = train(*toy, out=tmp_path / "run", config=SHORT, tensorboard=True)
        for i in range(2):
            (events,) = (run.path / "tensorboard" / f"fold-{i}").iterdir()
            content = events.read_bytes()
            assert b"validation_auroc" in content
            assert b"validation_loss" in content

    def test_mlflow(self, toy, tmp_path, monkeypatch):
        logged: dict[str, list] = {}
        ended = []

        class Client:
            def __init__(self, tracking_uri):
                assert tracking_uri == f"sqlite:///{tmp_path / 'run' / 'mlflow.db'}"

            def get_experiment_by_name(self, name):
                return None

            def create_experiment(self, name):
                return "1"

            def create_run(self, experiment, run_name):
                assert experiment == "1"
                return SimpleNamespace(info=SimpleNamespace(run_id=run_name))

            def log_metric(self, run, key, value, step):
                logged.setdefault(run, []).append((key, value, step))

            def set_terminated(self, run, status):
                ended.append((run, status))

        library = ModuleType("mlflow")
        library.MlflowClient = Client
        monkeypatch.setitem(sys.modules, "mlflow", library)
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

        def stop(progress):
            if progress.finished and progress.epoch == 2:
                raise Stop

        with pytest.raises(Stop):
            train(*toy, out=tmp_path / "run", config=SHORT, mlflow=True, on_progress=stop)
        assert ended == [("run fold 0", "KILLED")]
        logged.clear()
        train(*toy, out=tmp_path / "run", config=SHORT, mlflow=True)
        # The new run starts with what the killed one had.
        for i in range(2):
            rows = table(tmp_path / "run" / f"fold-{i}" / "log.csv")
            found = [(v, step) for key, v, step in logged[f"run fold {i}"] if key == "loss"]
            assert [step for _, step in found] == [1, 2, 3]
            assert [v for v, _ in found] == pytest.approx([float(row["loss"]) for row in rows])

    @pytest.mark.parametrize(
        ("name", "module"), [("tensorboard", "torch.utils.tensorboard"), ("mlflow", "mlflow")]
    )
    def test_not_installed(self, toy, tmp_path, monkeypatch, name, module):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(
            ModuleNotFoundError,
            match=f"^{name}=True needs {name}, which is not installed: pip install 'histofast\\[{name}\\]'$",
        ):
            train(*toy, out=tmp_path / "run", config=SHORT, **{name: True})
        assert not (tmp_path / "run").exists()
