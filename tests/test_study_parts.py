"""Studies of slides in parts: step by step, in any order, killed and begun again, they are what one process makes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from extras import need
from histofast.errors import HistofastError
from tuning_stage import BAGS, PX, write_stage

torch = need("torch", "sklearn", "matplotlib", "jinja2")

from histofast import mil, studies
from histofast.studies import Setting, conduct, conduct_part, levels_of

pytestmark = pytest.mark.usefixtures("one_thread")

MADE = (
    "*.onnx",
    "*.h5",
    "model.safetensors",
    "metrics.json",
    "predictions.csv",
    "predictions.json",
)


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    return write_stage(tmp_path_factory.mktemp("stage"))


def setting_of(stage, out, **options):
    return Setting(
        patches=stage / "patches.csv",
        labels=stage / "labels.csv",
        out=out,
        patch_px=PX,
        config=mil.TrainConfig(folds=2, epochs=2),
        repeats=2,
        measure_speed=False,
        **options,
    )


def truncation_of(stage, out, **options):
    return studies.Truncation(
        networks={"resnet18": stage / "w.safetensors", "cut": stage / "r18.onnx"},
        setting=setting_of(stage, out, **options),
        cuts=["maxpool"],
        random_seeds=1,
    )


@pytest.fixture(scope="module")
def whole(stage, tmp_path_factory):
    """A study of one process."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("whole") / "s"
    study = studies.Truncation(
        networks={"resnet18": stage / "w.safetensors"},
        setting=setting_of(stage, out),
        cuts=["maxpool", "layer1"],
        random_seeds=1,
    )
    conduct(study)
    torch.set_num_threads(before)
    return study


def elsewhere(study, out):
    return replace(study, setting=replace(study.setting, out=out))


def made_in(out):
    """What a study makes that has no times in it, by its path; and its table, with its folder's name taken out."""
    files = {path for pattern in MADE for path in out.rglob(pattern)}
    found = {str(path.relative_to(out)): path.read_bytes() for path in files}
    told = (out / "study.json").read_text().replace(str(out), "OUT")
    return {**found, "rows": json.loads(told)["rows"]}


def names_of(outcomes, status="done"):
    return [outcome.job.name for outcome in outcomes if outcome.status == status]


@pytest.mark.parametrize("orders", [("1/2", "2/2"), ("3/3", "1/3", "2/3")])
def test_steps_in_parts_are_one_process(whole, tmp_path, orders):
    study = elsewhere(whole, tmp_path / "s")
    out = study.setting.out
    assert levels_of(study) == 3
    exported = [name for part in orders for name in names_of(conduct_part(study, part))]
    # A part whose turn comes when all files are there goes on with features.
    assert "resnet18" in exported
    assert len([*(out / "encoders").iterdir()]) == 4
    assert not [*out.rglob("metrics.json")]
    for part in orders:
        conduct_part(study, part)
    assert len([*out.rglob("*.h5")]) == 3 * BAGS
    of_runs = [names_of(conduct_part(study, part)) for part in orders]
    assert len([*out.glob("runs/*/repeat-*/metrics.json")]) == 5  # of a random network one
    assert len([*out.glob("runs/*/mean-pooling-*/predictions.json")]) == 4
    shares = [set(names) for names in of_runs]
    assert all(shares)
    assert sum(map(len, shares)) == len(set.union(*shares)) == 5
    assert not (out / "study.json").exists()
    for part in orders:  # all is there
        assert not names_of(conduct_part(study, part), status="failed")
    runs = {path: path.stat().st_mtime_ns for path in out.rglob("metrics.json")}
    conduct(study)
    assert made_in(out) == made_in(whole.setting.out)
    assert runs == {path: path.stat().st_mtime_ns for path in out.rglob("metrics.json")}


def test_encoders_have_no_files_to_make(whole, stage, tmp_path):
    encoders = [
        whole.setting.out / "encoders" / f"resnet18-{layer}.onnx" for layer in ("maxpool", "layer1")
    ]
    found = {}
    for name in ("whole", "parts"):
        setting = setting_of(stage, tmp_path / name)
        study = studies.NetworkStudy(encoders=encoders, setting=setting)
        if name == "parts":
            assert levels_of(study) == 2
            for _ in range(2):
                for part in ("2/2", "1/2"):
                    assert names_of(conduct_part(study, part))
            assert len([*setting.out.glob("runs/*/repeat-*/metrics.json")]) == 4
        conduct(study)
        found[name] = made_in(setting.out)
    assert found["parts"] == found["whole"]


def test_networks_are_dealt_to_parts(stage, tmp_path):
    study = truncation_of(stage, tmp_path / "s")
    assert names_of(conduct_part(study, "2/2")) == ["cut"]
    assert {path.stem for path in (tmp_path / "s" / "encoders").iterdir()} == {"cut-maxpool"}
    assert names_of(conduct_part(study, "1/2")) == ["resnet18"]
    made = ("cut-maxpool", "resnet18-maxpool", "resnet18-cuts", "resnet18-maxpool-random-0")
    assert {path.stem for path in (tmp_path / "s" / "encoders").iterdir()} == set(made)


class Stop(Exception):
    """By a test."""


def test_a_part_that_failed_goes_on(whole, tmp_path):
    study = elsewhere(whole, tmp_path / "s")

    def stop(progress):
        if progress.doing.startswith("features of b1"):
            raise Stop

    conduct_part(study, "1/1")
    heard = replace(study, setting=replace(study.setting, on_progress=stop))
    with pytest.raises(Stop):
        conduct_part(heard, "1/2")
    assert 0 < len([*study.setting.out.rglob("*.h5")]) < 3 * BAGS
    assert not (study.setting.out / "runs").exists()
    for _ in range(2):
        for part in ("2/2", "1/2"):
            conduct_part(study, part)
    found, wanted = (
        {str(path.relative_to(out)): path.read_bytes() for path in (out / "features").rglob("*.h5")}
        for out in (study.setting.out, whole.setting.out)
    )
    assert found == wanted
    assert len([*study.setting.out.glob("runs/*/repeat-*/metrics.json")]) == 5


def test_an_interruption_among_slides_is_none_of_runs(whole, tmp_path):
    """Slides are left then: no model is trained on the others."""

    def interrupt(progress):
        if progress.doing.startswith("features of b1"):
            raise KeyboardInterrupt

    study = elsewhere(whole, tmp_path / "s")
    study = replace(study, setting=replace(study.setting, on_progress=interrupt, missing="skip"))
    with pytest.raises(KeyboardInterrupt):
        conduct(study)
    assert 0 < len([*study.setting.out.rglob("*.h5")]) < 3 * BAGS
    assert not (study.setting.out / "runs").exists()


def test_a_slide_that_fails_fails_its_part(stage, tmp_path):
    table = stage / "broken.csv"
    (stage / "broken.png").write_bytes(b"no picture")
    table.write_text((stage / "patches.csv").read_text().replace("b03-1.png,", "broken.png,"))
    encoders = ["densenet121-t2", "densenet121-t2-int8"]
    setting = replace(setting_of(stage, tmp_path / "s"), patches=table)
    study = studies.NetworkStudy(encoders=encoders, setting=setting)
    for _ in range(2):  # what needs all slides is not begun
        found = [outcome for part in ("1/2", "2/2") for outcome in conduct_part(study, part)]
        (failed,) = [outcome for outcome in found if outcome.status == "failed"]
        assert failed.job.name == "b03"
        assert "broken.png" in str(failed.error)
        assert len(found) == BAGS
    assert not (tmp_path / "s" / "runs").exists()
    with pytest.raises(HistofastError, match="1 of 20 slides failed, the first, b03: "):
        conduct(study)


def test_a_run_that_fails_fails_its_part(whole, tmp_path):
    study = elsewhere(whole, tmp_path / "s")
    for _ in range(2):
        conduct_part(study, "1/1")
    (tmp_path / "s" / "runs" / "resnet18-layer1").mkdir(parents=True)
    (tmp_path / "s" / "runs" / "resnet18-layer1" / "repeat-1").write_text("in the way")
    outcomes = conduct_part(study, "1/1")
    (failed,) = [outcome for outcome in outcomes if outcome.status == "failed"]
    assert failed.job.name == "resnet18 layer1, repeat 1"
    assert len(names_of(outcomes)) == 4 + 3  # runs, and mean pooling on the folds of those of cuts


@pytest.mark.parametrize("part", ["3/2", "x"])
def test_what_is_no_part_of_a_study(whole, part):
    with pytest.raises(ValueError, match=rf"^part must be i/n with 1 <= i <= n, got '{part}'$"):
        conduct_part(whole, part)


def test_parts_by_the_command_line(stage, whole, tmp_path, cli):
    encoders = [
        whole.setting.out / "encoders" / f"resnet18-{x}.onnx" for x in ("maxpool", "layer1")
    ]
    made = ["study", "networks", "--encoder", encoders[0], "--encoder", encoders[1]]
    made += ["--patches", stage / "patches.csv", "--labels", stage / "labels.csv", "--quiet"]
    made += ["--patch-px", PX, "--out", tmp_path / "s", "--folds", 2, "--epochs", 2, "--repeats", 1]
    answer = cli(*made, "--count-levels")
    assert (answer.code, answer.out) == (0, "")
    assert not (tmp_path / "s").exists()
    for n in (BAGS, 4):  # slides; runs, and mean pooling on their folds
        answer = cli(*made, "--part", "1/1")
        said = [f"part 1/1: {n} jobs of it done; what is left is done without --part"]
        assert (answer.code, answer.out.splitlines(), answer.err) == (0, said, [])
    answer = cli(*made, "--part", "1/0")
    (line,) = answer.err
    assert (answer.code, "--part must be i/n with 1 <= i <= n, got '1/0'" in line) == (2, True)


@pytest.mark.slow
def test_a_part_that_is_killed_begins_again(stage, whole, tmp_path):
    study = elsewhere(whole, tmp_path / "s")
    out = study.setting.out
    for _ in range(2):
        conduct_part(study, "1/1")
    code = (
        "import time, torch\n"
        "torch.set_num_threads(1)\n"
        "from histofast.cli import _run\n"
        "from histofast.mil import fold_training\n"
        "save = fold_training._Training._log\n"
        "def wait(self, epoch):\n"
        "    save(self, epoch)\n"
        "    if self.fold == 1:\n"
        "        print('there', flush=True)\n"
        "        time.sleep(60)\n"
        "fold_training._Training._log = wait\n"
        f"_run(['study', 'truncation', '--network', 'resnet18={stage / 'w.safetensors'}', "
        f"'--cuts', 'maxpool,layer1', '--random-seeds', '1', '--patches', '{stage / 'patches.csv'}', "
        f"'--labels', '{stage / 'labels.csv'}', '--out', '{out}', '--patch-px', '{PX}', '--folds', '2', "
        "'--epochs', '2', '--repeats', '2', '--no-speed', '--quiet', '--part', '1/2'])\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "there\n"
        os.kill(child.pid, signal.SIGKILL)
    assert [*out.rglob("state.pt")]
    for part in ("2/2", "1/2"):
        conduct_part(study, part)
    assert not [*out.rglob("state.pt")]
    conduct(study)
    assert made_in(out) == made_in(whole.setting.out)
