"""The races against peers: what they make of boxes and of runs, and that their pages name the same peers."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import extras
from histofast.features import FeatureWriter

mil = extras.need("histofast.mil")

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks" / "peers"


@pytest.fixture
def race(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import race

    return race


def test_area_is_that_under_the_boxes(race):
    boxes = np.array([[0, 0, 20, 10], [30, -10, 50, 10]])
    mask = race.area(boxes, width=40, height=20, step=10)
    np.testing.assert_array_equal(mask, [[1, 1, 0, 1], [0, 0, 0, 0]])


def test_jaccard(race):
    a, b = np.array([[1, 1, 0, 0]], bool), np.array([[0, 1, 1, 0]], bool)
    assert race.jaccard(a, b) == pytest.approx(1 / 3)
    assert race.jaccard(a, a) == 1
    assert race.jaccard(a & b & ~b, a & ~a) == 0


def row(peer, how, speeds):
    return {
        "peer": peer,
        "version": "1.0",
        "how": how,
        "patches": 1234,
        "side_l0": 448.0,
        "mask_shared": 0.5,
        "patches_per_s": speeds,
        "loading_s": 2.0,
    }


def test_table_has_ours_over_theirs_and_what_is_to_be_known(race):
    ours, theirs = row("histofast", "float32", [90.0, 100.0, 120.0]), row("trident", "x", [50.0])
    head, _, first, second, _, note = race.table([ours, theirs]).splitlines()
    assert first.count("|") == second.count("|") == head.count("|")
    assert first.startswith("| histofast 1.0, float32 | 100.0 (90.0 to 120.0) | 1.00 |")
    assert "| 2.00 | 1,234 | 448.0 | 0.50 | 2.0 |" in second
    assert note == race.FOOTNOTES["trident"]
    assert race.table([ours]).count("\n") == 2


def test_the_epoch_that_is_raced_is_one_of_training(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(FOLDER.parent)
    import bench_mil

    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        path, coords = tmp_path / f"{name}.h5", np.zeros((3, 2), np.int64)
        with FeatureWriter(path, coords=coords, d=bench_mil.D, identity={}, attributes={}) as file:
            file.append(rng.random((3, bench_mil.D), np.float32))
            file.finish()
    labels = tmp_path / "labels.csv"
    labels.write_text("slide,label\na,0\nb,1\n")
    loss = bench_mil.epoch_from_disk(mil.open_bags(tmp_path, labels))
    assert loss == pytest.approx(np.log(2), abs=0.2)  # two classes, weights as drawn


def test_absent_peers_are_named(race, tmp_path, capsys):
    with pytest.raises(SystemExit, match=r"environments\.sh"):
        race.there(tmp_path)
    (tmp_path / "trident").mkdir()
    (tmp_path / "trident" / "made").touch()
    assert race.there(tmp_path) == ["trident"]
    assert "no environment of lazyslide" in capsys.readouterr().err


def test_every_peer_has_a_runner_a_pin_and_a_line(race):
    page, script = ((FOLDER / name).read_text() for name in ("README.md", "environments.sh"))
    peers = {peer for peer, _ in race.NOTES}
    assert peers == {path.stem.removeprefix("run_") for path in FOLDER.glob("run_*.py")}
    made = set(re.search(r"^peers=\((.*)\)$", script, re.MULTILINE).group(1).split())
    assert made == peers - {"histofast"} | {"arrays"}
    assert made == set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    for name, version in re.findall(r"([\w-]+)==([\d.]+)", script):
        assert f"{name} {version}".lower() in page.lower()
    (commit,) = re.findall(r"TRIDENT@([0-9a-f]{40})", script)
    assert f"commit {commit[:7]}" in page
