"""A slide's map is attention times the maps of its patches, and models that it cannot be said of are refused."""

from __future__ import annotations

import html
import json

import numpy as np
import pytest

import histofast
import reference_cam as reference
from extras import need
from histofast.features import read_features
from histofast.patches import PatchReader
from small_slides import write_slide

torch = need("torch", "sklearn", "matplotlib", "jinja2")

from histofast import mil, networks
from histofast.explain import cam

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", ["attention", "gated"])
@pytest.mark.parametrize("number", [0, 1])
def test_with_attention_held_a_slide_moves_with_its_patches_as_what_is_said_of_each_alone(
    name, number
):
    """Autograd with attention detached is the definition: d output / d x_i = a_i d v_i / d x_i."""
    model = mil.create(name, d=6, outputs=2, seed=3)
    bag = torch.from_numpy(np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32))
    attention, slopes = cam.attention_and_slopes(model, bag, number=number)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert attention.sum().item() == pytest.approx(1)
    x = bag.clone().requires_grad_()
    held = model(x).attention.detach()
    said = torch.stack([model(x[i : i + 1]).output[number] for i in range(5)])
    output = (held * said).sum()
    assert output.item() == pytest.approx(model(bag).output[number].item(), abs=1e-6)
    output.backward()
    np.testing.assert_allclose(attention[:, None] * slopes, x.grad, rtol=1e-5, atol=1e-8)


def test_a_model_without_attention_or_whose_output_is_no_weighted_mean_is_refused():
    bag = torch.randn(5, 6)
    for name in ("mean", "max"):
        model = mil.create(name, d=6, outputs=2)
        with pytest.raises(
            ValueError, match=f"weighted by attention, got {name}: train one of att"
        ):
            cam.attention_and_slopes(model, bag, number=0)
        assert all(p.requires_grad for p in model.parameters())


# --- The patches of a bag ----------------------------------------------------------------------


class Encoder(torch.nn.Module):
    """A map of 4 channels, whose means are 6 features by a matrix."""

    def __init__(self):
        super().__init__()
        self.map = torch.nn.Conv2d(3, 4, 3, stride=2)
        self.features = torch.nn.Linear(4, 6)

    def forward(self, x):
        return self.features(self.map(x).mean((2, 3)))


def inputs_of(pixels):
    return (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25


@pytest.fixture
def bag():
    """An encoder, pixels of five patches, their features, two models."""
    torch.manual_seed(0)
    encoder = networks.adopt(Encoder(), mean=(0.5,) * 3, std=(0.25,) * 3)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)
    with torch.no_grad():
        features = encoder(inputs_of(pixels)).numpy()
    models = [mil.create("gated", d=6, outputs=2, seed=seed) for seed in (1, 2)]
    return encoder, pixels, features, models


def test_each_patch_has_its_own_map_times_its_attention_on_average_over_models(bag):
    encoder, pixels, features, models = bag
    asked = {"features": features, "layer": "map", "number": 1, "methods": list(cam.METHODS)}
    found = cam.cams_of_bag(encoder, models, read=lambda rows: pixels[rows], **asked)
    maps = encoder.model.map(inputs_of(pixels)).detach()
    wanted = dict.fromkeys(cam.METHODS, 0.0)
    for model in models:
        attention = model(torch.from_numpy(features)).attention.detach().double().numpy()
        x = maps.clone().requires_grad_()
        encoded = encoder.model.features(x.mean((2, 3)))
        sum(model(encoded[i : i + 1]).output[1] for i in range(5)).backward()
        for method, define in reference.CAMS.items():
            each = [define(a, g) for a, g in zip(maps.numpy(), x.grad.numpy(), strict=True)]
            wanted[method] = wanted[method] + attention[:, None, None] * np.stack(each) / 2
    for method in cam.METHODS:
        np.testing.assert_allclose(found.maps[method], wanted[method], rtol=1e-4, atol=1e-8)
        assert found.null[method].shape == found.maps[method].shape == (5, 3, 3)
        assert not np.allclose(found.null[method], found.maps[method])
    again = cam.cams_of_bag(encoder, models, read=lambda rows: pixels[rows], **asked, seed=1)
    for method in cam.METHODS:
        assert np.array_equal(again.maps[method], found.maps[method])
        assert not np.allclose(again.null[method], found.null[method])
    asked.pop("features")
    nulls = cam.nulls_of_bag(
        encoder, models, n=5, read=lambda rows: pixels[rows], seeds=[1, 0, 2], **asked
    )
    drawn = list(nulls)
    for method in cam.METHODS:
        assert np.array_equal(drawn[0][method], again.null[method])
        assert np.array_equal(drawn[1][method], found.null[method])
        assert not np.allclose(drawn[2][method], found.null[method])


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"features": np.zeros((5, 6))}, TypeError, "features must be .*float32.*, got float64"),
        (
            {"features": np.zeros((0, 6), np.float32)},
            ValueError,
            "features must be of at least 1 patch, got none",
        ),
        ({"number": 2}, ValueError, "number must be below 2, the outputs of the models, got 2"),
        ({"number": -1}, ValueError, "number must be at least 0, got -1"),
        ({"methods": []}, ValueError, "methods must name at least one of gradcam, "),
    ],
)
def test_what_cannot_be_shown_of_a_bag_is_said_in_one_line(bag, changed, error, message):
    encoder, pixels, features, models = bag
    asked = {"features": features, "layer": "map", "number": 1, **changed}
    with pytest.raises(error, match=f"^{message}"):
        cam.cams_of_bag(encoder, models, read=lambda rows: pixels[rows], **asked)


def test_no_models_show_nothing(bag):
    encoder, pixels, features, _ = bag
    with pytest.raises(ValueError, match=r"^models must be at least one, got none$"):
        cam.cams_of_bag(encoder, [], features=features, read=lambda r: pixels[r], number=0)


def test_an_encoder_that_cannot_be_drawn_anew_has_no_null(bag):
    _, pixels, features, models = bag
    encoder = Encoder()
    encoder.weight = torch.nn.Parameter(torch.ones(3))
    network = networks.adopt(encoder, mean=(0.5,) * 3, std=(0.25,) * 3)
    with pytest.raises(
        ValueError, match=r"^network must say how its weights are drawn anew, Encoder has modules"
    ):
        cam.cams_of_bag(
            network,
            models,
            features=features,
            read=lambda rows: pixels[rows],
            number=1,
            layer="map",
        )


# --- The command -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Six slides, their features and labels.csv, a run of attention and one of TransMIL."""
    folder = tmp_path_factory.mktemp("slides")
    slides = [write_slide(folder / f"s{i}.tif", seed=i) for i in range(6)]
    histofast.extract(slides, out=folder / "f", mpp=4.0, patch_px=32, min_tissue=0.1)
    rows = [f"s{i},{'ab'[i % 2]}" for i in range(6)]
    (folder / "labels.csv").write_text("\n".join(["slide,label", *rows, ""]))
    config = mil.TrainConfig(folds=2, epochs=1)
    for model in ("attention", "transmil"):
        asked = {"out": folder / model, "model": model, "config": config}
        mil.train(folder / "f", folder / "labels.csv", **asked)
    return folder


def test_a_slides_map_through_the_encoder_beside_its_null(cli, trained, tmp_path):
    asked = ("--method", "hirescam", "--class", "b", "--fold", 1, "--layer", "denseblock1")
    run, slide, out = trained / "attention", trained / "s0.tif", tmp_path / "heat"
    answer = cli("heatmap", run, slide, *asked, "--out", out, "--json")
    assert answer.code == 0, answer.err
    (path,) = (trained / "f").rglob("s0.h5")
    file = read_features(path)
    with PatchReader([slide]) as reader:
        wanted = cam.cams_of_bag(
            networks.restore("densenet121-t2"),
            [mil.open_run(run).models()[1]],
            features=file.features,
            read=lambda rows: reader.read(file, rows),
            number=1,
            layer="denseblock1",
        )
    n, h, w = wanted.maps["hirescam"].shape
    assert (n, h, w) == (len(file.coords), 8, 8)
    said = json.loads(answer.out)
    assert said == {"slide": "s0", "places": n * 64, "unreadable": 0, "fold": 1, "out": str(out)}
    for folder, maps in ((out, wanted.maps), (out / "null", wanted.null)):
        names = {path.name for path in folder.iterdir() if path.is_file()}
        assert {"overlay.png", "cam.geojson", "cam.ome.tif", "cam.csv"} <= names
        x, y, values = np.loadtxt(folder / "cam.csv", delimiter=",", skiprows=1).T
        np.testing.assert_allclose(values, maps["hirescam"].ravel(), rtol=1e-3, atol=1e-9)
        # 32 px at 4 um/px are 128 level-0 px: a place is 16 of them.
        assert (x[:10] - file.coords[0, 0]).tolist() == [0, 16, 32, 48, 64, 80, 96, 112, 0, 16]
        assert (y[:10] - file.coords[0, 1]).tolist() == [0] * 8 + [16] * 2
    page = (out / "index.html").read_text()
    assert "HiRes-CAM of b, layer denseblock1; 1 model" in page
    table = np.loadtxt(out / "cam.csv", delimiter=",", skiprows=1)
    x, y, _ = table[table[:, 2].argmax()].astype(int) + 8  # the middle of the place
    look = f"histofast view {slide} --features {path.parent} --run {run} --explain {out} --at 'slide=s0&x={x}&y={y}'"
    assert look in html.unescape(page)
    assert "weights drawn anew" in page


def test_a_model_whose_slide_is_no_mean_of_its_patches_is_refused(cli, trained, tmp_path):
    run, slide = trained / "transmil", trained / "s0.tif"
    answer = cli("heatmap", run, slide, "--method", "hirescam", "--out", tmp_path / "heat")
    assert answer.code == 2
    assert answer.err[-1] == (
        "histofast: --method must be of a run whose models say of a slide the mean of what they say of its "
        "patches, weighted by attention, got transmil: train one of attention or gated"
    )
    assert answer.out == ""
    assert not (tmp_path / "heat").exists()


@pytest.mark.parametrize("flag", ["layer", "class", "seed"])
def test_options_of_a_method_are_refused_without_one(cli, tmp_path, flag):
    (tmp_path / "run").mkdir()
    (tmp_path / "s.tif").write_bytes(b"")
    value = 1 if flag == "seed" else "x"
    asked = ("heatmap", tmp_path / "run", tmp_path / "s.tif", f"--{flag}", value)
    answer = cli(*asked, "--out", tmp_path / "m")
    assert answer.code == 2
    assert answer.err == [f"histofast: --{flag} must be given with --method: attention has none"]
