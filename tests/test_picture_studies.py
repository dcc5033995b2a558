"""What studies of pictures share: their setting, their runs as jobs, comparisons, and what fails."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest

from extras import need
from labelled_pictures import write_pictures

torch = need("torch", "safetensors", "matplotlib", "jinja2")

from histofast import compare, datasets, jobs, report, studies
from histofast.classify import Recipe, Runs, open_run
from histofast.errors import HistofastError, ModelError
from histofast.studies import (
    PictureSetting,
    Side,
    Split,
    conduct,
    look_ahead_of,
    plan_likeness,
    read_likeness,
)

pytestmark = pytest.mark.usefixtures("one_thread")

FAST = Recipe(epochs=1, batch_size=16, px=24, freeze="all", ema=0.0)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("stripes") / "stripes", n=160)


@dataclass(frozen=True, kw_only=True)
class Little:
    """Two starts on each split, and how far the first went."""

    setting: PictureSetting
    starts: tuple[str, ...] = ("random", "gabor:0")
    lr: float = 5e-4

    name = "little"
    layer_metrics = False

    def plan(self, runs):
        (images,) = self.setting.sets.values()
        work = {}
        for start in self.starts:
            for split in self.setting.splits:
                lr = self.lr if start == self.starts[-1] else 5e-4
                asked = self.setting.ask(
                    images,
                    network="resnet18",
                    start=start,
                    split=split,
                    recipe=replace(self.setting.recipe, lr=lr),
                )
                work.setdefault(start, []).append(runs.add(asked, name=f"{start}, {split.seed}"))
        first = work[self.starts[0]][0]
        asked = first.arguments["asked"]
        plan_likeness(
            runs,
            {"how far": (Side(begins=asked), Side(run=first))},
            images=images,
            rows=asked.fold.test,
            px=24,
            name="how far",
        )
        object.__setattr__(self, "work", work)

    def answer(self, done):
        found = {start: done.values(jobs, "auroc") for start, jobs in self.work.items()}
        return report.Answer(
            name="little",
            title="Little",
            findings=tuple(f"{start}: {values}" for start, values in found.items()),
            data={
                "values": {start: values.tolist() for start, values in found.items()},
                "failed": dict(done.failed),
            },
        )


def little(table, out, **changes):
    setting = PictureSetting(data=[table], out=out, recipe=FAST, repeats=2)
    return Little(setting=setting, **changes)


@pytest.fixture(scope="module")
def conducted(table, tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    return conduct(little(table, out))


# --- The setting ---------------------------------------------------------------------------------


def test_splits_are_repeats_or_all_folds_of_each(table, tmp_path):
    setting = PictureSetting(data=[table], out=tmp_path, repeats=2, seed=3)
    assert setting.splits == (
        Split(seed=3, fold=0, folds=5),
        Split(seed=4, fold=0, folds=5),
    )
    assert setting.test_share == pytest.approx(0.2)
    folds = PictureSetting(data=[table], out=tmp_path, repeats=2, folds=3)
    assert [(s.seed, s.fold) for s in folds.splits] == [(s, f) for s in (0, 1) for f in range(3)]
    assert folds.test_share == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a/idc/labels.csv", "idc"),
        ("a/idc/images.csv", "idc"),
        ("a/tables/oral.csv", "oral"),
    ],
)
def test_sets_are_called_as_their_folders(tmp_path, path, name):
    table = write_pictures((tmp_path / path).parent, n=32)
    table.rename(tmp_path / path)
    assert list(PictureSetting(data=[tmp_path / path], out=tmp_path).sets) == [name]


def test_settings_that_cannot_be(table, tmp_path):
    with pytest.raises(ValueError, match="data must have at least one set of pictures, got none"):
        PictureSetting(data=[], out=tmp_path)
    with pytest.raises(ValueError, match="repeats must be at least 1, got 0"):
        PictureSetting(data=[table], out=tmp_path, repeats=0)
    with pytest.raises(ValueError, match="folds must be at least 2, got 1"):
        PictureSetting(data=[table], out=tmp_path, folds=1)
    with pytest.raises(ValueError, match="data must be sets of different names, got stripes twice"):
        _ = PictureSetting(data=[table, table], out=tmp_path).sets
    with pytest.raises(FileNotFoundError, match="nowhere"):
        _ = PictureSetting(data=[tmp_path / "nowhere"], out=tmp_path).sets
    with pytest.raises(ValueError, match="recipe must be one of"):
        PictureSetting(data=[table], out=tmp_path, recipe="our")


# --- Runs and what fails -------------------------------------------------------------------------


def test_what_a_study_needs_is_done_once(conducted, table):
    told = json.loads((conducted.path / "little.json").read_text())
    assert (conducted.path / "index.html").is_file()
    assert told["failed"] == {}
    folders = [p for p in (conducted.path / "runs").iterdir() if not p.name.startswith(".")]
    assert len(folders) == 5
    seen = {p: p.stat().st_mtime_ns for p in (conducted.path / "runs").rglob("metrics.json")}
    said = []
    setting = PictureSetting(
        data=[table], out=conducted.path, recipe=FAST, repeats=2, on_progress=said.append
    )
    again = conduct(Little(setting=setting))
    assert again.answer.findings == conducted.answer.findings
    assert {p: p.stat().st_mtime_ns for p in seen} == seen
    assert [progress.doing for progress in said] == ["measures and the page"]


def test_values_are_those_of_the_runs(conducted):
    values = conducted.answer.data["values"]
    runs = [
        open_run(p)
        for p in sorted((conducted.path / "runs").iterdir())
        if p.name.startswith("resnet18")
    ]
    found = sorted(run.metrics()["test"]["auroc"]["value"] for run in runs)
    assert sorted(v for each in values.values() for v in each) == pytest.approx(found)


def test_looking_ahead_does_nothing_and_knows_what_is_there(conducted, table, tmp_path):
    planned, seconds = look_ahead_of(little(table, tmp_path / "new"))
    assert [run.is_done for run in planned] == [False] * 5
    assert all(run.seconds > 0 for run in planned)  # the comparison as well
    assert seconds == pytest.approx(sum(run.seconds for run in planned))
    assert not (tmp_path / "new").exists()
    planned, seconds = look_ahead_of(little(table, conducted.path))
    assert ([run.is_done for run in planned], seconds) == ([True] * 5, 0.0)


def test_two_studies_share_a_folder_of_runs(conducted, table, tmp_path):
    setting = PictureSetting(
        data=[table], out=tmp_path, runs=conducted.path / "runs", recipe=FAST, repeats=2
    )
    study = Little(setting=setting, starts=("random", "gabor:1"))
    planned, _ = look_ahead_of(study)
    assert [(run.start, run.is_done) for run in planned] == [
        *(("random", True), ("random", True), ("gabor:1", False), ("gabor:1", False)),
        ("", True),
    ]


def test_a_run_that_fails_is_named_and_the_rest_goes_on(table, tmp_path):
    said = []
    setting = PictureSetting(
        data=[table], out=tmp_path, recipe=FAST, repeats=2, on_progress=said.append
    )
    found = conduct(Little(setting=setting, lr=1e30))
    assert list(found.answer.data["failed"]) == ["gabor:0, 0", "gabor:0, 1"]
    values = found.answer.data["values"]
    assert np.isnan(values["gabor:0"]).all()
    assert np.isfinite(values["random"]).all()
    assert "gabor:0, 0 failed: loss must be finite" in " ".join(p.doing for p in said)
    with pytest.raises(HistofastError, match=r"all of \d jobs failed, the first, gabor:0, 0: loss"):
        conduct(Little(setting=replace(setting, out=tmp_path / "b"), starts=("gabor:0",), lr=1e30))


# --- Comparisons ---------------------------------------------------------------------------------


def test_a_likeness_is_that_of_compare(conducted, table):
    images = datasets.open_images(table)
    runs = Runs(conducted.path / "runs", threads=1)
    setting = PictureSetting(data=[images], out=conducted.path, recipe=FAST, repeats=2)
    asked = setting.ask(images, network="resnet18", start="random", split=setting.splits[0])
    run = runs.add(asked, name="run")
    common = {"images": images, "rows": asked.fold.test, "px": 24}
    begins, ends = Side(begins=asked), Side(run=run)
    job = plan_likeness(runs, {"how far": (begins, ends)}, **common, name="a")
    assert plan_likeness(runs, {"how far": (begins, ends)}, **common, name="b") is job
    other = plan_likeness(runs, {"how far": (ends, begins)}, **common, name="turned")
    assert other is not job
    assert runs.plan.left() == [other]

    found = read_likeness(job)["how far"]
    decoded = datasets.decode(images, cache=runs.cache, px=24)
    wanted = compare(
        asked.begin(),
        open_run(run.folder).network(),
        np.ascontiguousarray(decoded.pixels[asked.fold.test]),
        groups=[images.groups[i] for i in asked.fold.test],
        resamples=0,
        permutations=0,
        random_seeds=0,
    ).comparison
    assert found.layers == wanted.pair_names
    np.testing.assert_allclose(found.cka, wanted.diagonal)
    assert found.n == len(asked.fold.test)
    assert np.isnan(found.cca).all()


def test_a_likeness_that_was_changed_is_refused(table, tmp_path):
    found = conduct(little(table, tmp_path, starts=("random",)))
    (file,) = (found.path / "runs").glob("likeness-*/likeness.json")
    file.write_text(file.read_text().replace('"n": ', '"n": 1'))
    study = little(table, tmp_path, starts=("random",))
    runs = Runs(tmp_path / "runs", threads=1)
    study.plan(runs)
    with pytest.raises(ModelError, match=r"likeness\.json .*remove .* to make it anew"):
        read_likeness(runs.plan.jobs[-1])


def test_pairs_whose_runs_are_there_are_compared_and_the_rest_later(table, tmp_path):
    images = datasets.open_images(table)
    runs = Runs(tmp_path, threads=1)
    setting = PictureSetting(data=[images], out=tmp_path, recipe=FAST, repeats=2)
    asked = setting.ask(images, network="resnet18", start="random", split=setting.splits[0])
    run = runs.add(asked, name="run")
    begins, other = Side(begins=asked), Side(begins=replace(asked, seed=9))
    pairs = {"ends": (begins, Side(run=run)), "two starts": (begins, other)}
    job = plan_likeness(runs, pairs, images=images, rows=asked.fold.test, px=24, name="likeness")
    assert (job.needs, job.after) == ((), ("run",))
    assert read_likeness(job) == {}
    (outcome,) = jobs.run([replace(job, after=())])  # as after a run that failed
    assert outcome.status == "failed"
    assert str(outcome.error) == "1 of 2 comparisons lack a run: ends"
    first = read_likeness(job)
    assert set(first) == {"two starts"}
    assert [one.status for one in jobs.run(runs.plan.jobs)] == ["done", "done"]
    found = read_likeness(job)
    assert set(found) == set(pairs)
    np.testing.assert_array_equal(found["two starts"].cka, first["two starts"].cka)


def test_the_room_promises_what_studies_share():
    assert {"PictureSetting", "PictureStudy", "conduct", "look_ahead_of"} <= set(studies.__all__)
