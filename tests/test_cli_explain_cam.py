"""`histofast explain cam`: what it writes, says and refuses."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

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
    asked += ("--sample", 6, "--masks", "masks")
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
    assert "lies on the masks, which cover 50 % of the pictures." in answer.out
    assert (done / "cam" / "randomisation.png").is_file()
    again = cli(
        "explain", "cam", "run", "labels.csv", *asked, "--out", "cam", "--overwrite", "--json"
    )
    assert json.loads(again.out) == json.loads((done / "cam" / "cam.json").read_text())


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
