"""Slides encoded by torch modules: what torch computes is in the files, and is gone on with."""

from __future__ import annotations

import logging

import numpy as np
import pytest

import histofast
from extras import need
from histofast import encoders
from histofast.errors import FeatureError, ModelError
from histofast.features import feature_files
from small_slides import write_slide

torch = need("torch", "onnxscript")

from histofast import networks

PX = 64
STANDARD = {"mean": (0.7, 0.55, 0.7), "std": (0.2, 0.25, 0.2)}


class Own(torch.nn.Module):
    """Convolutions, and a factor that is no tensor of it."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 5, 2), torch.nn.BatchNorm2d(8), torch.nn.SiLU()
        )
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.factor * self.layers(x)


@pytest.fixture
def own():
    torch.manual_seed(0)
    model = Own()
    model.layers[1].running_mean.normal_(0, 0.1)
    return model


@pytest.fixture
def slide(tmp_path):
    return write_slide(tmp_path / "slides" / "a.tif")


@pytest.fixture(autouse=True)
def a_folder(tmp_path):
    (tmp_path / "slides").mkdir()


def encode(slide, tmp_path, model, **options):
    given = {"out": tmp_path / "out", "patch_px": PX, "mpp": 2.0, **STANDARD} | options
    return histofast.extract(slide, encoder=model, progress=False, **given)


def wanted_of(model, slide):
    """What torch computes of the same patches, by definition."""
    with histofast.open_slide(slide) as opened:
        tissue = histofast.find_tissue(opened)
        plan = histofast.plan_patches(opened, patch_px=PX, mpp=2.0, tissue=tissue, min_tissue=0.25)
        batches = [pixels.copy() for pixels, _ in histofast.iter_patches(opened, plan)]
    pixels = np.concatenate(batches)
    x = (pixels / 255 - np.array(STANDARD["mean"])) / np.array(STANDARD["std"])
    with torch.inference_mode():
        return model.eval()(torch.from_numpy(x.transpose(0, 3, 1, 2).astype("f4"))).mean((2, 3))


def test_features_are_torchs(own, slide, tmp_path, caplog):
    own.train()
    with caplog.at_level(logging.INFO, logger="histofast.networks"):
        report = encode(slide, tmp_path, own)
    assert report.exit_code == 0
    assert own.training  # it is a copy that is written
    (file,) = feature_files(tmp_path / "out")
    assert file.parent.name == "features_Own"
    found = histofast.read_features(file)
    wanted = wanted_of(own, slide).numpy()
    np.testing.assert_allclose(found.features, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    assert any("cosine at least 1.0000000" in line for line in caplog.messages)
    (encoder,) = (tmp_path / "out" / "encoders").iterdir()
    spec = encoders.read_spec(encoder)
    assert (spec.name, spec.network, spec.patch_px, spec.mpp) == ("Own", "Own", PX, 2.0)


def test_a_run_is_gone_on_with_by_the_same_module_only(own, slide, tmp_path):
    assert encode(slide, tmp_path, own).slides[0].status == "done"
    (file,) = (tmp_path / "out" / "encoders").iterdir()
    before = file.stat().st_mtime_ns
    torch.manual_seed(0)
    same = Own()
    same.load_state_dict(own.state_dict())
    assert encode(slide, tmp_path, same).slides[0].status == "skipped"
    assert file.stat().st_mtime_ns == before
    with torch.no_grad():
        same.layers[0].bias[3] += 1e-3
    with pytest.raises(FeatureError, match="made with"):
        encode(slide, tmp_path, same)
    assert encode(slide, tmp_path, same, name="other").slides[0].status == "done"
    assert encode(slide, tmp_path, own).slides[0].status == "skipped"


def test_what_a_module_does_beside_its_tensors_counts(own, slide, tmp_path):
    encode(slide, tmp_path, own)
    double = Own(factor=2.0)
    double.load_state_dict(own.state_dict())
    with pytest.raises(FeatureError, match="made with"):
        encode(slide, tmp_path, double)
    report = encode(slide, tmp_path, double, overwrite=True)
    assert report.exit_code == 0
    (file,) = feature_files(tmp_path / "out")
    wanted = wanted_of(double, slide).numpy()
    np.testing.assert_allclose(
        histofast.read_features(file).features, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max()
    )


def test_modules_beside_names_and_networks_that_know_their_mean(own, slide, tmp_path):
    network = networks.create("resnet18", layer="layer1", seed=3)
    given = {"mean": None, "std": None}
    assert encode(slide, tmp_path, network, **given).exit_code == 0
    assert [f.parent.name for f in feature_files(tmp_path / "out")] == ["features_resnet18"]
    both = [own, encoders.DEFAULT]
    assert encode(slide, tmp_path, both, out=tmp_path / "b").exit_code == 0
    names = {file.parent.name for file in feature_files(tmp_path / "b")}
    assert names == {"features_Own", f"features_{encoders.DEFAULT}"}


def test_half_precision_and_names(own, slide, tmp_path):
    report = encode(slide, tmp_path, own.to(torch.float16), name="mine")
    assert report.exit_code == 0
    assert own.layers[0].weight.dtype == torch.float16
    assert [file.parent.name for file in feature_files(tmp_path / "out")] == ["features_mine"]


@pytest.mark.parametrize(
    ("model", "more", "error", "message"),
    [
        (
            Own(),
            {"mean": None},
            ValueError,
            "mean must be given with a torch module, which does not",
        ),
        (
            Own(),
            {"patch_px": None},
            ValueError,
            "patch_px must be given with a torch module, which",
        ),
        (Own(), {"std": (0.2, 0.0, 0.2)}, ValueError, "std must be above 0"),
        ("densenet121-t2", {}, ValueError, "mean must be given with a torch module only"),
        (
            "densenet121-t2",
            {"mean": None, "std": None, "name": "x"},
            ValueError,
            "name must be given",
        ),
        ([Own(), Own()], {"name": "x"}, ValueError, "name must be of one torch module, got 2"),
        (5, {}, TypeError, "encoder must be a name, a path, a torch module or several, got 5"),
        (torch.nn.Linear(3, 2), {}, ModelError, "Linear takes patches of 3 px, got 64 px: "),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_refused(slide, tmp_path, model, more, error, message):
    with pytest.raises(error, match=message) as told:
        encode(slide, tmp_path, model, **more)
    assert "\n" not in str(told.value)
    assert not list((tmp_path / "out").rglob("*.onnx"))


def test_a_network_of_ours_is_not_told_its_mean(slide, tmp_path):
    network = networks.create("resnet18", layer="layer1")
    with pytest.raises(ValueError, match="mean must be left to a network of histofast"):
        encode(slide, tmp_path, network)


def test_features_of_a_module_along_their_axes(tmp_path, own):
    """Both files are kept, and gone on with by the module of the same weights."""
    for k in range(3):
        write_slide(tmp_path / "slides" / f"{k}.tif", seed=k)
    options = {"name": "own", "dims": 4, "patch_px": 16, "min_tissue": 0.1}
    report = encode(tmp_path / "slides", tmp_path, own, **options)
    assert {slide.status for slide in report.slides} == {"done"}
    made = sorted(path.name for path in (tmp_path / "out" / "encoders").glob("*.onnx"))
    assert [name.partition("-")[0] for name in made] == ["own", "own"]
    file = histofast.read_features(report.slides[0].outputs[0])
    assert (file.attributes["encoder"], file.features.shape[1]) == ("own-pca4", 4)
    again = encode(tmp_path / "slides", tmp_path, own, **options)
    assert {slide.status for slide in again.slides} == {"skipped"}
    with torch.no_grad():
        own.layers[0].weight *= 1.5
    with pytest.raises(ModelError, match="was made from another encoder than"):
        encode(tmp_path / "slides", tmp_path, own, **options)
