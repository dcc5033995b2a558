"""One folder of features, one set of options."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

import histofast
from histofast.errors import FeatureError
from histofast.patches import TissueOptions
from histofast.slides import write_png
from small_slides import content, run
from tiny_encoder import write_encoder


def everything(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and ".locks" not in p.parts}


OTHERS = {
    "min_tissue": ({"min_tissue": 0.5}, "min_tissue 0.1", "min_tissue 0.5"),
    "edge": ({"edge": "shift"}, "edge drop", "edge shift"),
    "half": ({"half": True}, "dtype float32", "dtype float16"),
    "mpp": ({"mpp": 2.0000001}, "mpp 2.0", "mpp 2.0000001"),
    "tissue": (
        {"tissue": TissueOptions(threshold=30, min_area_um2=5.0)},
        "tissue.min_area_um2 20000.0, tissue.threshold none",
        "tissue.min_area_um2 5.0, tissue.threshold 30",
    ),
}


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("layout", ["trident", "clam"])
def test_another_set_of_options_is_refused_before_work(slides, encoder, tmp_path, other, layout):
    options, there, asked = OTHERS[other]
    if layout == "clam" and other == "half":
        pytest.skip("there is none")
    run(slides / "s0.tif", tmp_path, encoder, layout=layout)
    before = everything(tmp_path)
    (folder,) = (
        p for p in (tmp_path / "5x_32px_0px_overlap").iterdir() if p.is_dir() and p.name[0] != "."
    )
    with pytest.raises(FeatureError) as error:
        run(slides, tmp_path, encoder, layout=layout, **options)
    assert str(error.value) == (
        f"{folder} is for features made with {there}, asked for is {asked}: choose another output "
        "folder, or replace them with overwrite=True"
    )
    assert everything(tmp_path) == before
    with pytest.raises(FeatureError, match="is for features made with"):
        run(slides, tmp_path, encoder, layout=layout, dry_run=True, **options)
    report = run(slides, tmp_path, encoder, layout=layout, overwrite=True, **options)
    assert len(report.of("done")) == 3
    assert len(run(slides, tmp_path, encoder, layout=layout, **options).of("skipped")) == 3
    with pytest.raises(FeatureError, match="is for features made with"):
        run(slides, tmp_path, encoder, layout=layout)


def test_an_encoder_of_the_same_name_is_another_one(slides, encoder, tmp_path, cli):
    arguments = ["extract", slides, "-o", tmp_path / "f", "--min-tissue", "0.1", "-e"]
    assert cli(*arguments, encoder).code == 0
    other = write_encoder(tmp_path / "tiny.onnx", scale=0.5)
    answer = cli(*arguments, other)
    assert answer.code == 1
    (line,) = answer.err
    assert "features_tiny is for features made with encoder.sha256" in line
    assert line.endswith("choose another output folder, or replace them with --overwrite")


def test_what_may_differ_may_differ(slides, encoder, tmp_path):
    run(slides / "s0.tif", tmp_path, encoder)
    write_png(tmp_path / "s2.png", np.ones((80, 64), np.uint8))
    other = write_encoder(tmp_path / "other.onnx", name="other", d=5)
    for i, (given, used, options) in enumerate(
        [
            (slides / "s1.tif", encoder, {"threads": 1, "workers": 1, "batch_size": 3}),
            (slides / "s1.tif", encoder, {"strict": True, "fail_fast": True, "shard": "1/1"}),
            (slides / "s1.tif", encoder, {"allow_upsampling": True, "recursive": True}),
            (slides / "s2.tif", encoder, {"mask": tmp_path / "s2.png", "mpp_override": 1.1}),
            (slides, [other], {"min_tissue": 0.5}),
            (slides, encoder, {"layout": "stamp", "edge": "shift"}),
            (slides, encoder, {"overlap_px": 8, "min_tissue": 0.7}),
            (slides, encoder, {"mpp": 4.0, "min_tissue": 0.8}),
        ]
    ):
        assert run(given, tmp_path, used, **options).exit_code == 0, i


def test_masks_first_and_tissue_later(slides, encoder, tmp_path):
    """A run with masks says nothing of how tissue is found; the first that finds some does."""
    write_png(tmp_path / "s0.png", np.ones((80, 64), np.uint8))
    run(slides / "s0.tif", tmp_path, encoder, mask=tmp_path / "s0.png")
    run(slides / "s1.tif", tmp_path, encoder, tissue=TissueOptions(threshold=30))
    run(slides / "s0.tif", tmp_path, encoder, mask=tmp_path / "s0.png")
    with pytest.raises(
        FeatureError, match=r"tissue\.threshold 30, asked for is tissue\.threshold none"
    ):
        run(slides / "s2.tif", tmp_path, encoder)


def test_options_that_nobody_wrote_down_are_those_of_the_files(slides, encoder, tmp_path):
    run(slides / "s0.tif", tmp_path, encoder)
    record = tmp_path / "5x_32px_0px_overlap" / "features_tiny.json"
    written = json.loads(record.read_text())
    assert written["min_tissue"] == 0.1
    record.unlink()
    with pytest.raises(
        FeatureError, match=r"made with min_tissue 0\.1, asked for is min_tissue 0\.5"
    ):
        run(slides / "s1.tif", tmp_path, encoder, min_tissue=0.5)
    assert run(slides / "s1.tif", tmp_path, encoder).exit_code == 0
    assert json.loads(record.read_text()) == written
    for broken in ("{", "[]", "[" * 100_000):
        record.write_text(broken)
        with pytest.raises(FeatureError, match=r"features_tiny\.json .*: remove it"):
            run(slides, tmp_path, encoder)
    record.unlink()
    os.mkfifo(record)
    with pytest.raises(FeatureError, match=r"features_tiny\.json must be a file, got a named pipe"):
        run(slides, tmp_path, encoder)


def test_nothing_is_entered_where_one_folder_of_several_refuses(slides, encoder, tmp_path):
    other = write_encoder(tmp_path / "other.onnx", name="other", d=5)
    run(slides / "s0.tif", tmp_path, encoder)
    before = everything(tmp_path)
    with pytest.raises(FeatureError, match="features_tiny is for features made with"):
        run(slides / "s1.tif", tmp_path, [other, encoder], min_tissue=0.5)
    assert everything(tmp_path) == before


def test_bags_of_their_own_sizes_have_folders_of_their_own(slides, encoder, tmp_path):
    picture = histofast.slides.read_image(slides / "s0.tif")
    for side in (32, 40):
        write_png(tmp_path / f"{side}.png", picture[100 : 100 + side, 100 : 100 + side].copy())
    table = tmp_path / "patches.csv"
    table.write_text("file,bag\n32.png,a\n40.png,b\n")
    assert run(None, tmp_path / "f", encoder, patches=table).exit_code == 0
    before = content(tmp_path)
    table.write_text("file,bag\n32.png,c\n40.png,d\n")
    report = run(None, tmp_path / "f", encoder, patches=table, half=True)
    assert [s.status for s in report.slides] == ["failed", "failed"]
    assert (
        "is for features made with dtype float32, asked for is dtype float16"
        in report.slides[0].error
    )
    assert content(tmp_path) == before
    assert run(None, tmp_path / "f", encoder, patches=table).exit_code == 0
