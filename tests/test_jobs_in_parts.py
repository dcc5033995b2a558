"""Jobs, folds and studies in parts: together they are what one process does."""

from __future__ import annotations

import pytest

import small_jobs
from extras import need
from histofast import jobs
from histofast.errors import ModelError
from histofast.jobs import Job, Part, Plan
from labelled_pictures import write_pictures
from toy_bags import write_toy


@pytest.mark.parametrize("text", ["", "0/3", "4/3", "1", "a/b", "1/0", "1/3/5"])
def test_what_is_no_part(text):
    with pytest.raises(ValueError, match=rf"^part must be i/n with 1 <= i <= n, got '{text}'$"):
        Part.told(text)


def test_a_part_has_each_nth_place():
    assert Part.told(None) is None
    parts = [Part.told(f"{i}/3") for i in (1, 2, 3)]
    assert [str(part) for part in parts] == ["1/3", "2/3", "3/3"]
    places = [[place for place in range(7) if part.has(place)] for part in parts]
    assert places == [[0, 3, 6], [1, 4], [2, 5]]


def test_levels_are_those_of_the_longest_way():
    def job(name, *needs, after=()):
        return Job(name=name, needs=needs, after=after)

    todo = [job("d", "b", "a"), job("a"), job("b", "a"), job("c"), job("e", after=("c",))]
    levels = jobs.levels_of(todo)
    assert [[job.name for job in level] for level in levels] == [["a", "c"], ["b", "e"], ["d"]]
    assert jobs.levels_of([]) == []


def test_parts_level_by_level_are_all(tmp_path):
    plan = Plan(tmp_path / "plan")

    def add(name, **more):
        told = {"arguments": {"text": name}, "identity": {"name": name}}
        return plan.add(small_jobs.write_out, name=name, kind="job", **told, **more)

    firsts = [add(f"first {k}") for k in range(5)]
    seconds = [add(f"second {k}", needs=[firsts[k], firsts[k - 1]]) for k in range(5)]
    add("last", after=seconds)
    for sizes in ({3, 2}, {3, 2}, {1, 0}):
        left = {job.name for job in plan.left()}
        shares = [Part.told(f"{i}/2").free(plan.jobs) for i in (1, 2)]
        names = [{job.name for job in share} & left for share in shares]
        assert not names[0] & names[1]
        assert {len(share) for share in names} == sizes
        for share in shares:
            jobs.values_of(jobs.run(share))
    assert not plan.left()


def test_a_part_leaves_what_waits_for_a_failure(tmp_path):
    plan = Plan(tmp_path / "plan")
    told = {"kind": "job", "arguments": {"message": "no"}, "identity": {}}
    bad = plan.add(small_jobs.fail_in, name="bad", **told)
    told = {"kind": "job", "arguments": {"text": ""}, "identity": {"name": "later"}}
    plan.add(small_jobs.write_out, name="later", needs=[bad], **told)
    for _ in range(2):
        (outcome,) = jobs.run(Part.told("1/1").free(plan.jobs))
        assert (outcome.job.name, outcome.status) == ("bad", "failed")


def test_folds_in_parts_are_those_of_one_run(tmp_path):
    need("torch", "sklearn")
    from histofast.mil import TrainConfig, train

    toy = write_toy(tmp_path)
    told = {"config": TrainConfig(folds=3, epochs=2)}
    whole = train(*toy, out=tmp_path / "whole", **told)
    for part, trained in (("2/2", [1]), ("1/2", [0, 1, 2])):
        run = train(*toy, out=tmp_path / "parts", part=part, **told)
        assert sorted(int(f.parent.name[5:]) for f in run.path.glob("fold-*/model.*")) == trained
        assert not (run.path / "metrics.json").exists()
    run = train(*toy, out=tmp_path / "parts", **told)
    for name in ("predictions.csv", "metrics.json"):
        assert (run.path / name).read_bytes() == (whole.path / name).read_bytes()
    assert train(*toy, out=tmp_path / "parts", part="1/2", **told).metrics() == run.metrics()


def test_two_are_not_at_one_part(tmp_path):
    from histofast.learning import RunRecord, run_folder

    record = RunRecord(kind="some", identity={"a": 1}, about={})

    def begun(part):
        return run_folder(tmp_path / "run", record, files=(), overwrite=False, part=Part.told(part))

    with begun("1/2"), begun("2/2"):
        with pytest.raises(ModelError, match="must be worked on by one process, got a second"):
            begun("1/2").__enter__()
        with begun(None):  # who does what is left
            pass


@pytest.mark.slow
def test_folds_of_pictures_in_parts(tmp_path):
    need("torch", "safetensors")
    from histofast.classify import Recipe, train_folds

    table = write_pictures(tmp_path / "set")
    recipe = Recipe(epochs=1, batch_size=16, px=24, freeze="all", ema=0.0)
    told = {"network": "resnet18", "recipe": recipe, "folds": 3, "threads": 1}
    whole = train_folds(table, out=tmp_path / "whole", **told)
    first = train_folds(table, out=tmp_path / "parts", part="1/2", **told)
    assert [run.path.name for run in first.runs] == ["fold-0", "fold-2"]
    assert not (tmp_path / "parts" / "metrics.json").exists()
    train_folds(table, out=tmp_path / "parts", part="2/2", **told)
    parts = train_folds(table, out=tmp_path / "parts", **told)
    name = "predictions.csv"
    assert (parts.path / name).read_bytes() == (whole.path / name).read_bytes()
