"""What features are like: the numbers, the warnings by construction, the page, the report of a run."""

from __future__ import annotations

import dataclasses
import json
import math
import sys

import h5py
import numpy as np
import pytest

import reference_transferability
from extras import need
from histofast.errors import FeatureError
from histofast.summaries import describe_look, look_at, look_at_files, write_look
from small_slides import run
from toy_bags import write_features

B, EACH, D = 6, 40, 24


def sound(*, seed=0, slide=0.0, offset=0.0, d=D):
    """Features of B slides that vary in all directions; `slide` moves those of each slide."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(B * EACH, d)) + offset
    x += np.repeat(rng.normal(size=(B, d)) * slide, EACH, axis=0)
    return x.astype(np.float32)


SLIDES = np.repeat(np.arange(B), EACH)


def warned(x, slides=SLIDES):
    from histofast.summaries import LookResult

    result = LookResult(
        encoder="e", files=B, patches=len(x), look=look_at(x, slides), seed=0, notes=()
    )
    return [line for line in describe_look(result) if line.startswith("Warning")]


def test_numbers_are_those_of_the_definitions():
    x = sound(slide=0.7, offset=0.5)
    look = look_at(x, SLIDES)
    assert (look.n, look.d, look.slides) == (B * EACH, D, B)
    assert look.rank_me == pytest.approx(reference_transferability.rank_me(x.astype(float)))
    centred = x - x.mean(axis=0, dtype=float)
    assert look.rank_centred == pytest.approx(reference_transferability.rank_me(centred))
    values = np.linalg.eigvalsh(np.cov(x.astype(float).T))[::-1]
    assert set(look.variance_in) == {1, 2, 4, 8, 16}
    for k, share in look.variance_in.items():
        assert share == pytest.approx(values[:k].sum() / values.sum(), rel=1e-6)
    norms = np.linalg.norm(x.astype(float), axis=1)
    assert dataclasses.astuple(look.norms) == pytest.approx(np.percentile(norms, (1, 50, 99)))
    assert look.largest == np.abs(x).max()
    unit = x / norms[:, None]
    means = np.stack([unit[k == SLIDES].mean(axis=0) for k in range(B)])
    between = EACH * ((means - unit.mean(axis=0)) ** 2).sum()
    share = between / ((unit - unit.mean(axis=0)) ** 2).sum()
    assert look.share_of_slides == pytest.approx(share)
    n = len(x)
    assert look.dependence == pytest.approx(1 - (1 - share) * (n - 1) / (n - B))
    cosines = unit @ unit.T
    apart = cosines[SLIDES[:, None] != SLIDES]
    assert look.cosines.median == pytest.approx(np.median(apart), abs=0.02)


def test_sound_features_are_not_warned_of():
    assert warned(sound()) == []
    assert look_at(sound(), SLIDES).dependence == pytest.approx(0, abs=0.01)


def changed(**columns):
    x = sound()
    for name, value in columns.items():
        x[:, int(name[1:])] = value
    return x


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            changed(c3=7, c5=0),
            f"Warning: 2 of {D} features are the same in all patches (3, 5).",
        ),
        (
            changed(c2=1 + 1e-5 * np.arange(B * EACH) / (B * EACH)),
            f"Warning: 1 of {D} features hardly move, less than a thousandth as much as the median one (2).",
        ),
        (
            np.outer(np.random.default_rng(0).normal(size=B * EACH), np.ones(64)).astype("f4"),
            "Warning: the features less their mean lie in about 1.0 directions, of 64 that there could be.",
        ),
        (
            sound() * np.r_[40, np.ones(D - 1)].astype("f4"),
            "of the variance lies along one direction.",
        ),
        (
            sound(offset=50),
            "Warning: patches of different slides nearly point the same way, median",
        ),
        (
            np.repeat(sound()[: B * EACH // 2], 2, axis=0),
            "Warning: 100% of the patches have the features of another patch, bit for bit.",
        ),
        (
            np.concatenate([sound()[:-1], np.zeros((1, D), "f4")]),
            f"Warning: 1 patch of {B * EACH} have features that are all 0.",
        ),
        (
            sound() * np.where(np.arange(B * EACH) % 2, 1, 30).astype("f4")[:, None],
            "Warning: norms lie far apart, from ",
        ),
        (sound() * np.float32(40_000), "float16 ends at 65,504."),
        (sound(slide=3), "of the variance is whose slide a patch is of: stain and scanner"),
    ],
)
def test_what_is_warned_of(x, message):
    assert any(message in line for line in warned(x)), warned(x)


def test_features_that_are_all_nothing():
    look = look_at(np.zeros((8, 3), "f4"), np.arange(8) // 4)
    assert (look.rank_me, look.rank_centred, look.variance_in) == (0, 0, {})
    assert look.constant == (0, 1, 2)
    assert math.isnan(look.dependence)
    assert warned(np.zeros((8, 3), "f4"), np.arange(8) // 4)


def test_one_slide_and_one_patch():
    look = look_at(sound(), np.zeros(B * EACH, np.int64))
    assert math.isnan(look.dependence)
    assert math.isnan(look.cosines.median)
    look = look_at(sound()[:1], np.zeros(1, np.int64))
    assert look.rank_me == 1


# --- Files -----------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "features_uni").mkdir()
    for k in range(B):
        n = EACH * (k + 1)
        write_features(tmp_path / "features_uni" / f"s{k}.h5", sound(seed=k)[:n])
    write_features(tmp_path / "features_uni" / "none.h5", sound()[:0])
    return tmp_path / "features_uni"


def test_rows_are_drawn_evenly(folder):
    found = look_at_files(folder, n=60)
    assert (found.encoder, found.files, found.look.slides) == ("uni", B, B)
    assert found.look.n == 60
    again = look_at_files(folder, n=60)
    assert dataclasses.asdict(again) == dataclasses.asdict(found)
    assert look_at_files(folder, n=60, seed=1).look.rank_me != found.look.rank_me
    few = look_at_files(folder, n=16)  # of more slides than that allows, some
    assert (few.look.slides, few.look.n) == (4, 16)


def test_broken_files(folder):
    with h5py.File(folder / "bad.h5", "w") as file:
        file["features"] = np.full((50, D), np.nan, "float32")
    with pytest.raises(FeatureError, match=r"bad\.h5: features must be finite, got NaN"):
        look_at_files(folder)


def test_the_page(folder, tmp_path):
    need("matplotlib", "jinja2")
    page, why_none = write_look(look_at_files(folder), tmp_path / "report")
    assert (page, why_none) == (tmp_path / "report" / "index.html", "")
    assert "RankMe is " in page.read_text()
    told = json.loads((tmp_path / "report" / "features.json").read_text())
    assert told["rank_me"] == pytest.approx(look_at_files(folder).look.rank_me)
    assert (tmp_path / "report" / "variance-by-axes.csv").is_file()


def test_without_what_draws_there_is_json(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    path, why_none = write_look(look_at_files(folder), tmp_path / "report")
    assert path == tmp_path / "report" / "features.json"
    assert "pip install" in why_none
    assert json.loads(path.read_text())["encoder"] == "uni"
    assert [each.name for each in path.parent.iterdir()] == ["features.json"]


# --- A run -----------------------------------------------------------------------------------


def test_extract_report(cli, slides, encoder, tmp_path):
    arguments = ("extract", slides, "--encoder", encoder, "--out", tmp_path, "--report")
    answer = cli(*arguments)
    assert answer.code == 0
    lines = "\n".join(answer.err)
    assert "tiny: Warning: the features less their mean lie in about " not in lines  # 3 of 8
    assert "tiny: RankMe is " in lines
    assert "tiny: The slide explains " in lines
    (told,) = tmp_path.rglob("features.json")
    assert told.parent == tmp_path / "5x_32px_0px_overlap" / "report_tiny"
    assert json.loads(told.read_text())["files"] == 3
    again = cli(*arguments)  # of what is there already, too
    assert "tiny: RankMe is " in "\n".join(again.err)


def test_no_report_of_a_dry_run_or_of_nothing(cli, slides, encoder, tmp_path):
    answer = cli(
        "extract", slides, "--encoder", encoder, "--out", tmp_path, "--report", "--dry-run"
    )
    assert "RankMe" not in "\n".join(answer.err)


def test_layouts(slides, encoder, tmp_path):
    for layout in ("clam", "stamp"):
        report = run(slides, tmp_path / layout, encoder, layout=layout)
        found = look_at_files([slide.outputs[0] for slide in report.slides])
        assert found.files == 3
