"""`histofast heatmap`: maps from tables and from runs, and what it refuses."""

from __future__ import annotations

import json
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import histofast
from extras import need
from histofast.features import FeatureWriter, read_features
from histofast.slides import open_slide
from small_slides import write_slide
from tiny_encoder import write_encoder

need("matplotlib", "jinja2")

TABLE = "x,y,attention\n64,64,0.1\n128,64,0.7\n192,64,0.2\n"


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A slide, a table of values of its patches, a folder that is no run."""
    monkeypatch.chdir(tmp_path)
    write_slide(tmp_path / "s.tif")
    (tmp_path / "v.csv").write_text(TABLE)
    (tmp_path / "run").mkdir()
    return tmp_path


VALUES = ("s.tif", "--values", "v.csv", "--patch-l0", 64)


def test_a_table_of_values(cli, files):
    answer = cli("heatmap", *VALUES, "--out", "new/maps", "--scale", "raw", "--alpha", 0.25)
    assert (answer.code, answer.err) == (0, [])
    assert answer.out == "s: 3 patches: new/maps/overlay.png\n"
    folder = files / "new" / "maps"
    assert {path.name for path in folder.iterdir()} == {
        "overlay.png",
        "attention.geojson",
        "attention.ome.tif",
        "attention.csv",
    }
    features = json.loads((folder / "attention.geojson").read_text())["features"]
    assert [f["properties"]["measurements"] for f in features] == [
        {"attention": 0.1},
        {"attention": 0.7},
        {"attention": 0.2},
    ]
    with open_slide(folder / "attention.ome.tif") as pyramid:
        assert pyramid.mpp == pytest.approx(1.0)
    # What it wrote is a table that it reads.
    again = cli(
        "heatmap", "s.tif", "--values", folder / "attention.csv", *VALUES[3:], "-o", "again"
    )
    assert again.code == 0
    assert (files / "again" / "attention.csv").read_text() == (folder / "attention.csv").read_text()


def test_scale_and_alpha_reach_the_picture(cli, files):
    pictures = set()
    for i, options in enumerate(
        [(), ("--scale", "minmax"), ("--scale", "raw"), ("--alpha", "0.9"), ("--alpha", "0.5")]
    ):
        assert cli("heatmap", *VALUES, "--out", f"m{i}", *options).code == 0
        pictures.add((files / f"m{i}" / "attention.ome.tif").read_bytes())
    assert len(pictures) == 4  # 0.5 is the default


def test_json(cli, files):
    answer = cli("heatmap", *VALUES, "--out", "m", "--json")
    assert json.loads(answer.out) == {"slide": "s", "patches": 3, "unreadable": 0, "out": "m"}


def test_mpp_override(cli, files):
    write_slide(files / "bare.tif", mpp=None)
    bare = ("bare.tif", *VALUES[1:])
    answer = cli("heatmap", *bare, "--out", "m")
    assert answer.code == 1
    assert answer.err[0].endswith("in an mpp column of the list, or with --mpp-override")
    assert cli("heatmap", *bare, "--out", "m", "--mpp-override", 0.25).code == 0
    with open_slide(files / "m" / "attention.ome.tif") as pyramid:
        assert pyramid.mpp == pytest.approx(0.25)


def test_a_folder_that_is_not_empty_is_kept(cli, files):
    out = files / "m"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    answer = cli("heatmap", *VALUES, "--out", "m")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == [
        "histofast: --out m is not empty: choose another folder, or give --overwrite"
    ]
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
    assert cli("heatmap", *VALUES, "--out", "m", "--overwrite").code == 0
    assert cli("heatmap", *VALUES, "--out", "m", "--overwrite", "--alpha", "1").code == 0
    assert len(list(out.iterdir())) == 5


OUT = ("--out", "m")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (VALUES, "--out must name the folder of the maps"),
        ((*VALUES, "--out", "v.csv"), "--out must be a folder, v.csv is a file"),
        (
            ("s.tif", *OUT),
            "a run and a slide must be named, got 1 path: without a run, give --values",
        ),
        (("s.tif", "run", *OUT), "RUN must be a folder, s.tif is a file: it comes before SLIDE"),
        (("none", "s.tif", *OUT), "no such folder: none (RUN comes before SLIDE)"),
        (
            ("run", *VALUES, *OUT),
            "with --values a slide alone must be named, got 2 paths",
        ),
        (
            (*VALUES[:3], *OUT),
            "--patch-l0 must be given with --values: the table does not tell it",
        ),
        (
            (*VALUES, *OUT, "--features", "f.h5"),
            "--features must not be given with --values: no model is run",
        ),
        (
            (*VALUES, *OUT, "--fold", "0"),
            "--fold must not be given with --values: no model is run",
        ),
        ((*VALUES, *OUT, "--alpha", "1.5"), "--alpha must be within 0..1, got 1.5"),
        ((*VALUES, *OUT, "--alpha", "much"), "invalid value for '--alpha': must be a number"),
        (
            (*VALUES, *OUT, "--scale", "ranks"),
            "invalid value for '--scale': must be one of rank, minmax, raw, got 'ranks'",
        ),
        ((*VALUES[:4], "0", *OUT), "--patch-l0 must be at least 1, got 0"),
        (
            (*VALUES[:4], "6.5", *OUT),
            "invalid value for '--patch-l0': must be a whole number, got '6.5'",
        ),
        (("none.tif", *VALUES[1:], *OUT), "no such slide: none.tif"),
        (("s.tif", "--values", "none.csv", *VALUES[3:], *OUT), "no such table: none.csv"),
        (
            ("s.tif", "--values", "s.tif", *VALUES[3:], *OUT),
            "s.tif, line 1: must be CSV text in UTF-8, got ",
        ),
        (("s.tif", "--values", "far.csv", *VALUES[3:], *OUT), "patches must lie on s, 512 x 640"),
        (
            ("s.tif", "--values", "nan.csv", *VALUES[3:], *OUT),
            "nan.csv, line 3: must have two whole numbers and a finite number, got ",
        ),
        (
            ("s.tif", "--values", "high.csv", *VALUES[3:], *OUT, "--scale", "raw"),
            "--values must be within 0..1 for --scale raw, got 0.1..7: take --scale minmax, or --scale rank",
        ),
    ],
)
def test_refuses(cli, files, arguments, message):
    (files / "far.csv").write_text(TABLE + "9999,0,1\n")
    (files / "nan.csv").write_text(TABLE.replace("0.7", "nan"))
    (files / "high.csv").write_text(TABLE.replace("0.7", "7"))
    before = sorted(files.rglob("*"))
    answer = cli("heatmap", *arguments)
    assert (answer.code, answer.out) == (2, "")
    (line,) = answer.err
    assert line.startswith(f"histofast: {message}")
    assert sorted(files.rglob("*")) == before


def test_help(cli):
    answer = cli("heatmap", "--help")
    assert answer.code == 0
    text = " ".join(answer.out.split())
    assert "histofast heatmap RUN SLIDE --out FOLDER" in text
    assert "histofast heatmap SLIDE --values CSV --patch-l0 PX --out FOLDER" in text


# --- Runs: what is asked of them -------------------------------------------------------------------


def fold(*test):
    return SimpleNamespace(test=np.array(test, np.int64))


@pytest.fixture
def run(monkeypatch):
    """A run of two folds over the slides s and other; it ranks patches by their first feature."""
    asked = SimpleNamespace(
        names=("other", "s"), folds=(fold(0), fold(1)), paths=(), encoder={}, called=[]
    )
    room = ModuleType("histofast.mil")

    def attention_of(run, features, *, folds):
        asked.called.append(folds)
        return features[:, 0].astype(np.float64)

    room.open_run = lambda path: asked
    room.attention_of = attention_of
    monkeypatch.setitem(sys.modules, "histofast.mil", room)
    return asked


COORDS = np.array([[64, 64], [128, 64], [192, 64]], np.int64)


def write_features(path, *, slide=None, coords=COORDS, sha256="ab" * 32, **attributes):
    """Features whose first column are 0, 1, 2 ...; of the slide's identity where one is given."""
    made = {"encoder": {"name": "tiny", "sha256": sha256}}
    if slide is not None:
        with open_slide(slide) as opened:
            made["slide"] = opened.identity
    features = np.tile(np.arange(len(coords), dtype=np.float32)[:, None], 4)
    with FeatureWriter(path, coords=coords, d=4, identity=made, attributes=attributes) as writer:
        writer.append(features)
        writer.finish()
    return path


def test_a_run_and_features(cli, files, run):
    write_features(files / "s.h5", slide="s.tif", patch_size_level0=64)
    run.encoder = {"name": "tiny", "sha256": "ab" * 32}
    answer = cli("heatmap", "run", "s.tif", "--features", "s.h5", "--out", "m")
    assert (answer.code, answer.err) == (0, [])
    assert answer.out == "s: 3 patches, fold 1: m/overlay.png\n"  # the fold that tested it
    assert (files / "m" / "attention.csv").read_text() == (
        "x,y,value\n64,64,0.0\n128,64,1.0\n192,64,2.0\n"
    )
    features = ("--features", "s.h5", "--overwrite", "--json", "--out", "m")
    said = json.loads(cli("heatmap", "run", "s.tif", *features, "--fold", 0).out)
    assert said["fold"] == 0
    run.names = ("other", "another")
    assert json.loads(cli("heatmap", "run", "s.tif", *features).out)["folds"] == 2
    assert run.called == [(1,), (0,), (0, 1)]


def test_a_nominal_side_is_not_taken_for_the_exact_one(cli, files, run):
    sides = {"patch_size_level0": 128, "patch_size_level0_exact": 64}
    write_features(files / "s.h5", slide="s.tif", **sides)
    arguments = ("heatmap", "run", "s.tif", "--features", "s.h5", "--overwrite", "--out", "m")
    assert cli(*arguments, "--patch-l0", 64).code == 0
    answer = cli(*arguments, "--patch-l0", 128)
    assert answer.err == ["histofast: --patch-l0 must be 64, as s.h5 says, got 128"]


def test_features_of_other_tools_need_the_side(cli, files, run):
    write_features(files / "s.h5")
    arguments = ("heatmap", "run", "s.tif", "--features", "s.h5", "--out", "m")
    answer = cli(*arguments)
    assert answer.err == [
        "histofast: --patch-l0 must be given: s.h5 does not tell the side of a patch"
    ]
    assert cli(*arguments, "--patch-l0", 64).code == 0


def test_the_slide_is_encoded_as_the_run_was(cli, files, run):
    write_slide(files / "other.tif", seed=1)
    made = {"mpp": 1.0, "patch_px": 64, "overlap_px": 32, "min_tissue": 0.5}
    wanted = histofast.extract(["other.tif", "s.tif"], out="f", **made)
    run.paths = tuple(files / each.outputs[0] for each in wanted.slides)
    file = read_features(next(path for path in run.paths if path.stem == "s"))
    run.encoder = file.identity["encoder"]
    answer = cli("heatmap", "run", "s.tif", "--out", "m", "--json")
    assert (answer.code, answer.err[:-1]) == (0, [])
    assert json.loads(answer.out)["patches"] == len(file.coords)
    table = np.loadtxt(files / "m" / "attention.csv", delimiter=",", skiprows=1)
    np.testing.assert_array_equal(table[:, :2], file.coords)
    np.testing.assert_array_equal(table[:, 2], file.features[:, 0])


def test_an_encoder_of_the_users_own_is_given_as_a_file(cli, files, run):
    write_encoder(files / "mine.onnx", name="mine", mpp=1.0, patch_px=64)
    wanted = histofast.extract("s.tif", out="f", encoder="mine.onnx")
    run.paths = (files / wanted.slides[0].outputs[0],)
    run.encoder = read_features(run.paths[0]).identity["encoder"]
    assert cli("heatmap", "run", "s.tif", "--out", "m").code == 1
    assert cli("heatmap", "run", "s.tif", "--encoder", "mine.onnx", "--out", "m").code == 0
    table = np.loadtxt(files / "m" / "attention.csv", delimiter=",", skiprows=1)
    np.testing.assert_array_equal(table[:, 2], read_features(run.paths[0]).features[:, 0])
    write_encoder(files / "other.onnx", name="mine", d=4, mpp=1.0, patch_px=64)
    (line,) = cli("heatmap", "run", "s.tif", "--encoder", "other.onnx", "--out", "n").err
    assert line.startswith("histofast: --encoder must be mine (sha256 ")
    assert line.endswith(": give its file, --encoder FILE")


def test_a_run_on_enlarged_patches_is_redone(cli, files, run):
    """It needed --allow-upsampling, which the command did not have."""
    made = {"mpp": 0.5, "patch_px": 64, "min_tissue": 0.5}
    wanted = histofast.extract("s.tif", out="f", allow_upsampling=True, **made)
    run.paths = (files / wanted.slides[0].outputs[0],)
    run.names, run.folds = ("s",), (fold(0),)
    run.encoder = read_features(run.paths[0]).identity["encoder"]
    assert cli("heatmap", "run", "s.tif", "--out", "m").code == 0
    table = np.loadtxt(files / "m" / "attention.csv", delimiter=",", skiprows=1)
    np.testing.assert_array_equal(table[:, :2], read_features(run.paths[0]).coords)


def test_a_run_at_the_slides_own_scale_is_redone(cli, files, run):
    write_slide(files / "near.tif", mpp=1.04)
    made = {"mag": 10, "patch_px": 64, "min_tissue": 0.5}
    wanted = histofast.extract(["s.tif", "near.tif"], out="f", **made)
    run.paths = tuple(files / each.outputs[0] for each in wanted.slides)
    run.encoder = read_features(run.paths[0]).identity["encoder"]
    for path in run.paths:
        assert cli("heatmap", "run", f"{path.stem}.tif", "--out", f"m/{path.stem}").code == 0
        table = np.loadtxt(files / f"m/{path.stem}/attention.csv", delimiter=",", skiprows=1)
        np.testing.assert_array_equal(table[:, :2], read_features(path).coords)


def test_a_slide_coarser_than_those_of_the_run(cli, files, run):
    write_slide(files / "coarse.tif", mpp=4.0)
    wanted = histofast.extract("s.tif", out="f", mpp=1.0, patch_px=32)
    run.paths = (files / wanted.slides[0].outputs[0],)
    run.encoder = read_features(run.paths[0]).identity["encoder"]
    arguments = ("heatmap", "run", "coarse.tif", "--out", "m")
    answer = cli(*arguments)
    assert answer.code == 1
    assert answer.err[-1].endswith("or accept interpolated pixels with --allow-upsampling")
    assert cli(*arguments, "--allow-upsampling").code == 0


def test_what_to_pass_where_the_run_does_not_tell(cli, files, run):
    answer = cli("heatmap", "run", "s.tif", "--out", "m")
    assert answer.code == 2
    (line,) = answer.err
    assert line == (
        "histofast: run does not tell how its features were made, for their files are gone or of "
        "another making: encode the slide with the same encoder, mpp and patch size, and give "
        "it --features FILE"
    )
    tissue = {"revision": 1, "overview_mpp": 8.0}
    identity = {
        "encoder": {"name": "mine", "sha256": "cd" * 32},
        "tissue": tissue,
        "mpp": 0.5,
        "patch_px": 64,
    }
    with FeatureWriter(files / "o.h5", coords=COORDS, d=1, identity=identity, attributes={}) as w:
        w.append(np.zeros((3, 1), np.float32))
        w.finish()
    run.paths = (files / "gone.h5", files / "o.h5")
    answer = cli("heatmap", "run", "s.tif", "--out", "m")
    assert answer.code == 1
    (line,) = answer.err
    assert line == (
        "histofast: mine, the run's encoder, is none of the known ones: give its file, --encoder FILE, "
        "or the slide's features, --features FILE"
    )
    from histofast.pipeline import DEFAULT_ENCODER

    identity["encoder"]["name"] = DEFAULT_ENCODER
    with FeatureWriter(files / "o.h5", coords=COORDS, d=1, identity=identity, attributes={}) as w:
        w.append(np.zeros((3, 1), np.float32))
        w.finish()
    (line,) = cli("heatmap", "run", "s.tif", "--out", "m").err
    assert f"encoder must be {DEFAULT_ENCODER} (sha256 cdcdcdcdcdcd), the run's, got one of" in line
    (line,) = cli("heatmap", "run", "s.tif", "--encoder", "gone.onnx", "--out", "m").err
    assert "gone.onnx" in line
    assert "none of the known ones" not in line
    assert not (files / "m").exists()


@pytest.mark.parametrize(
    ("made", "arguments", "message"),
    [
        (
            {"sha256": "cd" * 32},
            (),
            (
                "f.h5 must hold features of tiny (sha256 abababababab), which the run was trained "
                "on, got tiny (sha256 cdcdcdcdcdcd)"
            ),
        ),
        (
            {"slide": "t.tif", "name": "t"},
            (),
            "f.h5 must be of s.tif, got features of another slide (t)",
        ),
        (
            {"level0_width": 512, "level0_height": 641},
            (),
            "f.h5 must be of s.tif, got features of another slide (unknown)",
        ),
        ({"coords_known": False}, (), "f.h5 must tell where its patches lie, got no coordinates"),
        ({"coords": COORDS[:0]}, (), "s.tif must have patches to look at, got none: was no"),
        ({}, ("--patch-l0", "32"), "--patch-l0 must be 64, as f.h5 says, got 32"),
        ({}, ("--fold", "2"), "--fold must be within 0..1, the folds of the run, got 2"),
        ({}, ("--fold", "-1"), "--fold must be within 0..1, the folds of the run, got -1"),
        ({"coords": COORDS + 600}, (), "patches must lie on s, 512 x 640 px, got 3 of 3"),
        (None, (), "no such feature file: f.h5"),
    ],
)
def test_refuses_features(cli, files, run, made, arguments, message):
    write_slide(files / "t.tif", seed=2)
    run.encoder = {"name": "tiny", "sha256": "ab" * 32}
    if made is not None:
        write_features(files / "f.h5", **{"patch_size_level0": 64, **made})
    answer = cli("heatmap", "run", "s.tif", "--features", "f.h5", "--out", "m", *arguments)
    assert answer.code in (1, 2)
    (line,) = answer.err
    assert line.startswith(f"histofast: {message}")
    assert not (files / "m").exists()
