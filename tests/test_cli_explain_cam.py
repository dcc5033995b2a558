"""`histofast explain cam`: what it writes, says and refuses."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

import reference
from extras import need
from labelled_pictures import write_pictures

torch = need("torch", "safetensors", "matplotlib", "jinja2")

from histofast import classify
from histofast.datasets import open_images, resampled
from histofast.explain import cam
from histofast.slides import read_image, write_png

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A folder with labels.csv, img/ and a run of two epochs, run/."""
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder)
    recipe = classify.as_recipe("ours").changed({"epochs": 2, "px": 64, "batch_size": 16})
    classify.train(
        open_images(folder / "labels.csv"), network="resnet18", recipe=recipe, out=folder / "run"
    )
    return folder


def test_a_page_of_maps_beside_their_null(cli, done, monkeypatch):
    monkeypatch.chdir(done)
    (done / "masks").mkdir()
    for file in (done / "img").iterdir():
        half = np.zeros((32, 32, 3), np.uint8)
        half[:, :16] = 255
        write_png(done / "masks" / file.name, half)
    asked = ("--method", "hirescam", "--method", "gradcam", "--class", "b", "--shown", 3)
    asked += ("--sample", 10, "--masks", "masks", "--random-seeds", 2)
    answer = cli("explain", "cam", "run", "labels.csv", *asked, "--out", "cam")
    assert answer.code == 0, answer.err
    assert answer.out.splitlines()[-1] == "48 pictures: cam/index.html"
    page = (done / "cam" / "index.html").read_text()
    assert page.count("weights drawn anew") >= 3
    assert "For b, which the network gives" in page
    with np.load(done / "cam" / "cam.npz") as maps:
        assert maps["hirescam"].shape[:2] == maps["hirescam null"].shape[:2] == (48, 1)
        assert not np.array_equal(maps["hirescam"], maps["hirescam null"])
        assert set(maps["class"].ravel()) == {"b"}
    # What the command wrote is what the functions give.
    run = classify.open_run("run")
    with (done / "cam" / "pictures.csv").open() as file:
        rows = list(csv.DictReader(file))
    pixels = np.stack([resampled(read_image(done / row["file"]), 64) for row in rows])
    wanted = cam.cams(run.network(), pixels, layer=run.network().layer, classes=[1])
    got = [float(row["hirescam_mean"]) for row in rows]
    np.testing.assert_allclose(got, wanted.maps["hirescam"].mean((1, 2, 3)), rtol=1e-4, atol=1e-7)
    with (done / "cam" / "worth.csv").open() as file:
        worth = {row["source"]: row for row in csv.DictReader(file)}
    assert float(worth["random"]["mass"]) == pytest.approx(0.5, abs=0.25)
    assert float(worth["random"]["mass_lowest"]) < float(worth["random"]["mass_highest"])
    assert worth["darkness"]["mass_lowest"] == ""
    with (done / "cam" / "differences.csv").open() as file:
        told = {(row["source"], row["other"]): row for row in csv.DictReader(file)}
    others = ("darkness", "random", "Grad-CAM")
    assert [other for one, other in told if one == "HiRes-CAM"][1:] == list(others)
    apart = float(told["HiRes-CAM", "darkness"]["deletion"])
    wanted = float(worth["darkness"]["deletion"]) - float(worth["HiRes-CAM"]["deletion"])
    assert apart == pytest.approx(wanted)
    same = told["HiRes-CAM", "Grad-CAM"]  # at the last stage of a ResNet the two are one
    assert (float(same["deletion"]), same["deletion_finding"]) == (pytest.approx(0), "not shown")
    assert "One against another" in page
    assert "HiRes-CAM is not told from" in answer.out
    assert (
        "Maps are not held against labels: pictures labelled b and others are both in 0 "
        in answer.out
    )
    assert "lies on the masks, which cover 50 % of the pictures." in answer.out
    assert (done / "cam" / "randomisation.png").is_file()
    again = cli(
        "explain", "cam", "run", "labels.csv", *asked, "--out", "cam", "--overwrite", "--json"
    )
    assert json.loads(again.out) == json.loads((done / "cam" / "cam.json").read_text())


def test_means_of_maps_are_held_against_labels_within_patients(cli, done, monkeypatch):
    monkeypatch.chdir(done)
    with (done / "labels.csv").open() as file:
        rows = [(row["file"], row["label"]) for row in csv.DictReader(file)]
    lines = [f"{name},{label},p{k // 2 % 8}" for k, (name, label) in enumerate(rows)]
    (done / "mixed.csv").write_text("\n".join(["file,label,patient", *lines]))
    asked = ("--class", "b", "--sample", 0, "--shown", 0, "--random-seeds", 3, "--out", "mixed")
    answer = cli("explain", "cam", "run", "mixed.csv", *asked)
    assert answer.code == 0, answer.err
    found = json.loads((done / "mixed" / "cam.json").read_text())
    aurocs = {row["source"]: row for row in found["labels"]}
    null = aurocs["HiRes-CAM, weights drawn anew"]
    assert null["lowest"] <= null["auroc"] <= null["highest"]
    said = "\n".join(found["findings"])
    assert (
        f"with weights drawn anew {null['lowest']:.3f} to {null['highest']:.3f} in 3 draws" in said
    )
    told = {row["other"]: row for row in found["labels_differences"]}
    assert list(told) == [
        *("HiRes-CAM, weights drawn anew", "output of the network", "darkness"),
    ]
    own = aurocs["HiRes-CAM"]["auroc"]
    assert told["darkness"]["auroc"] == pytest.approx(own - aurocs["darkness"]["auroc"])
    assert told["HiRes-CAM, weights drawn anew"]["auroc"] == pytest.approx(own - null["highest"])
    assert "By that chance, HiRes-CAM " in said
    assert "weights drawn anew (nearest of 3 draws, " in said
    # AUROC of the table is that of the means in pictures.csv, pair by pair within patients.
    means = np.array([row["hirescam_mean"] for row in found["pictures"]])
    labels = np.array([label == "b" for _, label in rows])
    groups = np.array([row["group"] for row in found["pictures"]])
    assert own == pytest.approx(reference.stratified_auroc(means, labels, groups))


def test_the_sample_is_of_all_patients_in_whatever_order_they_come(done):
    with (done / "labels.csv").open() as file:
        names = [row["file"] for row in csv.DictReader(file)]
    lines = [f"{name},p{k % 6}" for k, name in enumerate(names)]
    (done / "turns.csv").write_text("\n".join(["file,patient", *lines]))
    found = cam.explain_pictures(
        done / "run", done / "turns.csv", sample=8, shown=0, random_seeds=1
    )
    assert set(found.measured.groups) == {f"p{k}" for k in range(6)}
    assert found.measured.pictures == 8


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("--layer", "conv9"), "histofast: layer of resnet18 must be one of "),
        (("--class", "c"), "histofast: --class must be of the run (a, b), got 'c'"),
        (("--method", "cam"), "--method': must be one of gradcam, gradcam++, hirescam, got 'cam'"),
        (("--masks", "img/none", "--sample", 1, "--shown", 0), "no such mask: img/none/000.png"),
        (("--shown", "-1"), "histofast: --shown must be at least 0, got -1"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(cli, done, monkeypatch, tmp_path, asked, message):
    monkeypatch.chdir(done)
    answer = cli("explain", "cam", "run", "labels.csv", *asked, "--out", tmp_path / "cam")
    assert answer.code in (1, 2)
    assert len(answer.err) == 1
    assert message in answer.err[0]
    assert not (tmp_path / "cam").exists()
