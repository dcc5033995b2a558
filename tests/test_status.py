"""`histofast status`: where the runs of a folder stand."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time

import pytest

import histofast
from histofast._files import Lock
from histofast.errors import FeatureError
from histofast.pipeline import status_of

OPTIONS = {"mpp": 1.0, "patch_px": 32, "min_tissue": 0.1}


def change(file, **changes):
    said = json.loads(file.read_text())
    file.write_text(json.dumps(said | changes))


def test_a_run_that_is_over(slides, encoder, tmp_path):
    report = histofast.extract(slides, out=tmp_path, encoder=encoder, **OPTIONS)
    found = status_of(tmp_path)
    assert (found.total, found.by_status, found.over) == (3, {"done": 3}, 3)
    assert found.patches == report.patches
    assert (found.patches_per_s, found.left_s, found.lines) == (0, None, [])
    assert found.totals == f"{tmp_path}: 3 of 3 slides (3 done)"
    histofast.extract(slides, out=tmp_path, encoder=encoder, **OPTIONS)  # nothing was left to do
    assert status_of(tmp_path).by_status == {"done": 3}


def test_shards_and_those_that_nobody_began(slides, encoder, tmp_path):
    shards = [f"{i}/8" for i in range(1, 9)]
    for shard in shards[:7]:
        histofast.extract(slides, out=tmp_path, encoder=encoder, shard=shard, **OPTIONS)
    found = status_of(tmp_path)
    assert found.missing == ["8/8"]
    assert "shards without a report: 1 (8/8)" in found.lines
    histofast.extract(slides, out=tmp_path, encoder=encoder, shard="8/8", **OPTIONS)
    found = status_of(tmp_path)
    assert (found.total, found.over, found.missing) == (3, 3, [])


def test_what_failed_and_what_another_run_mended(slides, encoder, tmp_path):
    folder = tmp_path / "slides"
    shutil.copytree(slides, folder)
    (folder / "s1.tif").write_bytes(b"no slide")
    out = tmp_path / "out"
    histofast.extract(folder, out=out, encoder=encoder, **OPTIONS)
    found = status_of(out)
    assert found.by_status == {"done": 2, "failed": 1}
    assert list(found.failed) == ["s1"]
    assert found.lines[0].startswith("s1: failed: ")
    shutil.copy(slides / "s1.tif", folder / "s1.tif")
    histofast.extract(folder, out=out, encoder=encoder, **OPTIONS)
    assert status_of(out).by_status == {"done": 3}


def test_a_run_that_goes_on(slides, encoder, tmp_path):
    histofast.extract(slides, out=tmp_path, encoder=encoder, **OPTIONS)
    report = json.loads((tmp_path / "run.json").read_text())
    done = [slide for slide in report["slides"] if slide["name"] != "s2"]
    change(tmp_path / "run.json", slides=done, seconds=4.0)
    (file,) = tmp_path.rglob("s2.h5")
    with Lock(tmp_path / "run.json"), Lock(file):
        os.utime(Lock(file).path, (time.time() - 100,) * 2)
        found = status_of(tmp_path)
    assert (found.total, found.over) == (3, 2)
    assert found.left_s == pytest.approx(2.0)  # two slides in four seconds, one is left
    assert found.patches_per_s == pytest.approx(sum(slide["patches"] for slide in done) / 4.0)
    (at_work,) = found.at_work
    assert (at_work.name, str(os.getpid()) in at_work.holder) == ("s2", True)
    assert at_work.silent_s == pytest.approx(100, abs=30)
    assert "silent for" in found.lines[0]
    assert status_of(tmp_path).at_work == []
    assert status_of(tmp_path).left_s is None


def test_a_run_that_has_only_just_begun(slides, encoder, tmp_path):
    histofast.extract(slides, out=tmp_path, encoder=encoder, **OPTIONS)
    (tmp_path / "run.json").unlink()
    with Lock(tmp_path / "5x" / "s2.h5"):
        found = status_of(tmp_path)
    assert (found.total, found.over, [each.name for each in found.at_work]) == (1, 0, ["s2"])
    assert found.totals == f"{tmp_path}: 0 of 1 slide"


def test_who_has_a_lease_on_another_machine_until_it_may_be_taken_over(tmp_path, monkeypatch):
    (tmp_path / "x" / ".locks").mkdir(parents=True)
    (tmp_path / "x" / ".locks" / "s1.h5.lock").touch()
    lease = tmp_path / "x" / ".locks" / "s1.h5.lease"
    lease.write_text('{"host": "z", "pid": 7, "since": "2026-11-29T12:00:00"}')
    os.utime(lease, (time.time() - 100,) * 2)
    (at_work,) = status_of(tmp_path).at_work
    assert (at_work.name, at_work.holder) == ("s1", "process 7 on z since 2026-11-29 12:00:00")
    assert at_work.silent_s == pytest.approx(100, abs=30)
    os.utime(lease, (time.time() - 1000,) * 2)
    with pytest.raises(FeatureError, match="has no report of a run"):
        status_of(tmp_path)


def test_looking_takes_no_lock_from_anybody(slides, encoder, tmp_path):
    histofast.extract(slides, out=tmp_path, encoder=encoder, **OPTIONS)
    lock = Lock(tmp_path / "run.json")
    with lock:
        holder = lock.holder()
        assert Lock(tmp_path / "run.json").is_held()
        assert lock.holder() == holder
    assert not lock.is_held()
    assert not lock.path.read_bytes()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"slides": 3, "about": {}, "seconds": 1}',
        '{"slides": [{"name": "a"}], "about": {"shard": null, "slides": 1}, "seconds": 1}',
        '{"slides": [], "about": {"shard": "x", "slides": 1}, "seconds": 1}',
        '{"slides": [], "about": {"shard": null, "slides": 1e999}, "seconds": 1}',
        "[" * 100_000,
    ],
)
def test_a_report_that_is_none(text, tmp_path):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(FeatureError, match=r"run\.json is no report of a run: \w+: ") as caught:
        status_of(tmp_path)
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_without_runs(tmp_path):
    with pytest.raises(FeatureError, match="has no report of a run"):
        status_of(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        status_of(tmp_path / "gone")


def test_the_command(cli, slides, encoder, tmp_path):
    histofast.extract(slides, out=tmp_path, encoder=encoder, **OPTIONS)
    answer = cli("status", tmp_path)
    assert (answer.code, answer.err) == (0, [])
    assert answer.out.strip() == f"{tmp_path}: 3 of 3 slides (3 done)"
    answer = cli("status", tmp_path, "--json")
    assert json.loads(answer.out)["by_status"] == {"done": 3}
    answer = cli("status", tmp_path / "gone")
    assert (answer.code, answer.err) == (2, [f"histofast: no such folder: {tmp_path / 'gone'}"])
    file = tmp_path / "run.json"
    answer = cli("status", file)
    assert (answer.code, answer.err) == (2, [f"histofast: out must be a folder, {file} is a file"])


def test_a_killed_run_is_not_taken_for_one_that_goes_on(slides, encoder, tmp_path):
    code = (
        "import histofast, os, sys\n"
        "def strike(progress):\n"
        "    if progress.finished is not None: os.kill(os.getpid(), 9)\n"
        f"histofast.extract({str(slides)!r}, out={str(tmp_path)!r}, encoder={str(encoder)!r},"
        f" on_progress=strike, **{OPTIONS!r})\n"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    (tmp_path / "run.json").write_text(
        json.dumps({"slides": [], "seconds": 1.0, "about": {"slides": 3, "shard": None}})
    )
    found = status_of(tmp_path)
    assert (found.total, found.over, found.at_work, found.left_s) == (3, 0, [], None)
