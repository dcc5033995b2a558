"""A folder of fine-tuning: known by what it was tuned from, gone on with after any end."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from extras import need
from histofast._files import Lock
from histofast.errors import FeatureError, ModelError
from histofast.features import read_features
from small_slides import write_slide
from tuning_stage import PX, train_stage, write_stage

torch = need("torch", "sklearn")

from safetensors.torch import load_file, save_file

from histofast import mil, networks
from histofast.learning import difference
from histofast.mil import finetuning, pixels
from histofast.mil.fold_tuning import Tuning
from histofast.mil.tuning_source import Source

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = mil.FineTuneConfig(top_k=3, epochs=2, lr=1e-3, patience=2)
ONE = dataclasses.replace(QUICK, folds=(0,), epochs=1)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_stage(tmp_path_factory.mktemp("stage"))


@pytest.fixture
def stage(made, tmp_path):
    """A stage of a test's own, to change."""
    return shutil.copytree(made, tmp_path / "stage")


def tune(stage, out, config=QUICK, **options):
    given = {
        "weights": stage / "w.safetensors",
        "patches": stage / "patches.csv",
        "features": stage / "f",
        "network": "resnet18",
        "layer": "layer1",
    }
    return mil.finetune(stage / "run", out=out, config=config, **(given | options))


def numbers_of(out, fold):
    folder = out / f"fold-{fold}"
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_fold_alone_is_the_fold_among_all(stage, tmp_path):
    tune(stage, tmp_path / "all")
    tune(stage, tmp_path / "one", dataclasses.replace(QUICK, folds=(1,)))
    assert numbers_of(tmp_path / "one", 1) == numbers_of(tmp_path / "all", 1)
    # The others can still be tuned, and give what they give among all.
    found = tune(stage, tmp_path / "one")
    assert numbers_of(tmp_path / "one", 0) == numbers_of(tmp_path / "all", 0)
    assert json.loads((found.path / "metrics.json").read_text())["folds"] == [0, 1]


def tune_part(stage, out, part, **options):
    given = {"weights": stage / "w.safetensors", "patches": stage / "patches.csv"}
    given |= {"features": stage / "f", "network": "resnet18", "layer": "layer1"}
    given |= {"config": QUICK, "threads": 1}
    return mil.finetune_part(stage / "run", part, out=out, **(given | options))


@pytest.mark.parametrize("parts", [("1/2", "2/2"), ("2/2", "1/2"), ("3/3", "2/3", "1/3")])
def test_folds_in_parts_are_those_of_one_run(stage, tmp_path, parts):
    tune(stage, tmp_path / "whole", threads=1)
    for part in parts:
        index = int(part[0]) - 1
        wanted = (index,) if index < 2 else ()
        assert tune_part(stage, tmp_path / "parts", part) == wanted
        assert not [*(tmp_path / "parts").glob("*.onnx"), *(tmp_path / "parts").glob("*.csv")]
    tune(stage, tmp_path / "parts", threads=1)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_a_part_by_the_command_line(stage, tmp_path, cli):
    made = ["finetune", stage / "run", "--patches", stage / "patches.csv", "--out", tmp_path / "t"]
    made += ["--weights", stage / "w.safetensors", "--network", "resnet18", "--layer", "layer1"]
    made += ["--features", stage / "f", "--top-k", 3, "--epochs", 1, "--quiet"]
    answer = cli(*made, "--part", "2/3")
    said = ["part 2/3, fold 1: tuned; the run is finished without --part"]
    assert (answer.code, answer.out.splitlines(), answer.err) == (0, said, [])
    answer = cli(*made, "--part", "3/3")
    said = ["part 3/3, no fold: tuned; the run is finished without --part"]
    assert (answer.code, answer.out.splitlines(), answer.err) == (0, said, [])
    assert [path.name for path in (tmp_path / "t").glob("fold-*")] == ["fold-1"]
    answer = cli(*made, "--part", "4/3")
    (line,) = answer.err
    assert answer.code == 2
    assert "--part must be i/n with 1 <= i <= n, got '4/3'" in line


def contents(out):
    """Every file of a folder but locks."""
    files = [path for path in out.rglob("*") if path.is_file() and ".locks" not in path.parts]
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


class Stop(Exception):
    """By a test."""


def test_a_part_that_was_stopped_goes_on(stage, tmp_path):
    def stop(progress):
        if progress.finished and progress.epoch == 1:
            raise Stop

    out = tmp_path / "parts"
    with pytest.raises(Stop):
        tune_part(stage, out, "2/2", on_progress=stop)
    assert (out / "fold-1" / "state.pt").is_file()
    for part in ("2/2", "1/2", "2/2"):
        tune_part(stage, out, part)
    tune(stage, out, threads=1)
    tune(stage, tmp_path / "whole", threads=1)
    assert contents(out) == contents(tmp_path / "whole")


def test_parts_are_of_the_folds_that_are_asked_for(stage, tmp_path):
    one = dataclasses.replace(QUICK, folds=(1,))
    assert tune_part(stage, tmp_path / "t", "1/2", config=one) == (1,)
    assert tune_part(stage, tmp_path / "t", "2/2", config=one) == ()
    with pytest.raises(ValueError, match=r"^part must be i/n with 1 <= i <= n, got '3/2'$"):
        tune_part(stage, tmp_path / "t", "3/2")


def test_two_are_not_at_one_part_of_tuning(stage, tmp_path):
    def again(progress):
        with pytest.raises(ModelError, match="must be worked on by one process, got a second one"):
            tune_part(stage, tmp_path / "t", "1/2")
        raise Stop

    with pytest.raises(Stop):
        tune_part(stage, tmp_path / "t", "1/2", on_progress=again)


def test_the_arguments_of_a_part_are_those_of_all():
    ours = inspect.signature(mil.finetune).parameters.keys() - {"run", "out"}
    assert mil.FineTuneArguments.__annotations__.keys() == ours


def test_a_run_that_was_trained_again_is_refused(stage, tmp_path):
    tune(stage, tmp_path / "t", ONE)
    train_stage(stage, lr=1e-2)
    with pytest.raises(ValueError, match=r"holds another run \(run: lr 0.003, not 0.01\)"):
        tune(stage, tmp_path / "t", ONE)


def test_other_models_of_the_same_run_are_refused(stage, tmp_path):
    tune(stage, tmp_path / "t", ONE)
    model = stage / "run" / "fold-1" / "model.safetensors"
    model.write_bytes((stage / "run" / "fold-0" / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"another run \(model of 1 folds differ, first 1\)"):
        tune(stage, tmp_path / "t", ONE)


def test_other_weights_of_the_same_file_name_are_refused(stage, tmp_path):
    tune(stage, tmp_path / "t", ONE)
    weights = load_file(stage / "w.safetensors")
    weights["conv1.weight"] *= 1.001  # near enough to pass for the run's encoder
    save_file(weights, stage / "w.safetensors")
    with pytest.raises(ValueError, match=r"holds another run \(other weights\)"):
        tune(stage, tmp_path / "t", ONE)
    assert tune(stage, tmp_path / "t", ONE, overwrite=True).fold == 0


def test_other_features_than_the_run_was_trained_on_are_refused(stage, tmp_path):
    path = next((stage / "f").rglob("b03.h5"))
    other = next((stage / "f").rglob("b04.h5"))
    path.write_bytes(other.read_bytes())
    message = "those that the run was trained on, got others of 1 of 20 slides, first b03"
    with pytest.raises(FeatureError, match=message):
        tune(stage, tmp_path / "t", ONE)


def test_memory_device_and_limits_do_not_count(stage, tmp_path):
    def stop(progress):
        if progress.fold == 1:
            raise Stop

    with pytest.raises(Stop):
        tune(stage, tmp_path / "t", on_progress=stop)
    before = numbers_of(tmp_path / "t", 0)
    other = {"memory_gb": 2.0, "device": "cpu", "most_hours": 9.0}
    tune(stage, tmp_path / "t", dataclasses.replace(QUICK, **other))
    assert numbers_of(tmp_path / "t", 0) == before


def test_a_second_process_is_refused(stage, tmp_path):
    (tmp_path / "t").mkdir()
    with Lock(tmp_path / "t" / "run.json") as held:
        assert held
        with pytest.raises(ModelError, match="must be worked on by one process, got a second one"):
            tune(stage, tmp_path / "t", ONE)


@pytest.mark.slow
@pytest.mark.parametrize("reselect", [0, 1])
def test_killed_within_a_fold_equals_undisturbed(stage, tmp_path, reselect):
    config = dataclasses.replace(QUICK, epochs=3, patience=3, folds=(1,), reselect=reselect)
    code = (
        "import time, torch\n"
        "torch.set_num_threads(1)\n"
        "from histofast import mil\n"
        "def wait(p):\n"
        "    if p.finished and p.epoch == 2:\n"
        "        print('there', flush=True)\n"
        "        time.sleep(60)\n"
        f"mil.finetune({str(stage / 'run')!r}, out={str(tmp_path / 't')!r}, "
        f"weights={str(stage / 'w.safetensors')!r}, patches={str(stage / 'patches.csv')!r}, "
        f"features={str(stage / 'f')!r}, network='resnet18', layer='layer1', "
        f"config=mil.{config!r}, on_progress=wait)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "there\n"
        os.kill(child.pid, signal.SIGKILL)
    assert (tmp_path / "t" / "fold-1" / "state.pt").is_file()
    epochs = []
    tune(
        stage,
        tmp_path / "t",
        config,
        on_progress=lambda p: epochs.append(p.epoch) if p.finished else None,
    )
    assert epochs == [3]
    tune(stage, tmp_path / "whole", config)
    assert numbers_of(tmp_path / "t", 1) == numbers_of(tmp_path / "whole", 1)


@pytest.mark.slow
def test_folds_side_by_side_give_the_same_bits(stage, tmp_path):
    tune(stage, tmp_path / "one", threads=1)
    tune(stage, tmp_path / "two", threads=1, jobs=2)
    for fold in (0, 1):
        assert numbers_of(tmp_path / "one", fold) == numbers_of(tmp_path / "two", fold)


def test_each_part_of_an_identity_changes_with_what_it_is_of(stage, tmp_path, monkeypatch):
    run = mil.open_run(stage / "run")
    bags = pixels.bags_of(run, stage / "f")
    source = Source(
        path=stage / "w.safetensors", is_encoder=False, network="resnet18", layer="layer1"
    )
    tuning = Tuning(
        run=run,
        bags=bags,
        config=QUICK,
        source=source,
        slides=None,
        patches=stage / "patches.csv",
        out=tmp_path / "t",
    )
    told = set()
    with pixels.Pixels(bags, patches=stage / "patches.csv") as opened:
        one = finetuning.record_of(tuning, opened)

        def note(key, words, **changes):
            other = finetuning.record_of(dataclasses.replace(tuning, **changes), opened)
            assert other.identity[key] != one.identity[key]
            assert words in difference(one, other)
            told.add(key)

        note("config", "seed 0, not 1", config=dataclasses.replace(QUICK, seed=1))
        note("network", "layer layer1, not null", source=dataclasses.replace(source, layer=None))
        record = dataclasses.replace(run.record, identity=run.record.identity | {"metric": "brier"})
        note("run", "metric loss, not brier", run=dataclasses.replace(run, record=record))
        with monkeypatch.context() as patch:
            patch.setattr(opened, "_content", lambda row: "other" if row == 4 else "")
            note("slides", "pixels of 20 slides differ, first b00")
        shutil.copy(stage / "w.safetensors", stage / "run" / "fold-0" / "model.safetensors")
        note("folds", "model of 1 folds differ, first 0")
        monkeypatch.setattr(finetuning, "REVISION", finetuning.REVISION + 1)
        note("revision", "revision 1, not 2")
    assert told == set(one.identity)
    # A name is no content.
    shutil.copy(stage / "w.safetensors", stage / "other.safetensors")
    assert dataclasses.replace(source, path=stage / "other.safetensors").identity == source.identity


def test_slides_without_a_scale_of_their_own(tmp_path, cli):
    """What `--mpp-override` said when they were extracted is known from the features."""
    (tmp_path / "slides").mkdir()
    lines = ["slide,label"]
    for i in range(8):
        size = (512 + 128 * (i % 2), 512)
        write_slide(tmp_path / "slides" / f"s{i}.tif", seed=i, size=size, mpp=None)
        lines.append(f"s{i},{'large' if i % 2 else 'small'}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    network = networks.create("resnet18", layer="layer1", seed=3)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    networks.export(network, tmp_path / "r18.onnx", patch_px=PX, mpp=2.0)
    slides, run = tmp_path / "slides", tmp_path / "run"
    made = ["extract", slides, "--encoder", tmp_path / "r18.onnx", "--out", tmp_path / "f"]
    assert cli(*made, "--mpp-override", 1.0, "--quiet").code == 0
    trained = ["train", tmp_path / "f", "--labels", tmp_path / "labels.csv", "--out", run]
    assert cli(*trained, "--folds", 2, "--epochs", 2, "--quiet").code == 0
    of_weights = ["--network", "resnet18", "--layer", "layer1"]
    given = {
        "encoder": ["--encoder", tmp_path / "r18.onnx"],
        "weights": ["--weights", tmp_path / "w.safetensors", *of_weights],
    }
    for name, source in given.items():
        tuned = ["finetune", run, "--slides", slides, "--out", tmp_path / name, *source]
        answer = cli(*tuned, "--top-k", 3, "--epochs", 1, "--folds", 0, "--quiet")
        assert (answer.code, answer.err) == (0, [])
        assert answer.out.splitlines()[-1].startswith("frozen and tuned, layer by layer: ")
        assert (tmp_path / name / "similarity" / "index.html").is_file()

    sample = mil.sample_of_run(mil.open_run(run), slides=slides, n=40)
    assert len(sample) == 40
    assert sample.pixels.shape == (40, PX, PX, 3)
    assert {sample.sources.count(f"s{i}") for i in range(8)} == {5}
    with mil_encoder(tmp_path) as encoder:
        features = encoder.encode(sample.pixels)
    known = np.concatenate([read_features(p).features for p in (tmp_path / "f").rglob("*.h5")])
    gaps = np.abs(features[:, None] - known[None]).max(axis=2).min(axis=1)
    assert gaps.max() < 1e-3  # each is the patch of one row of a feature file


def mil_encoder(folder):
    from histofast import encoders

    return encoders.load(folder / "r18.onnx", device="cpu")
