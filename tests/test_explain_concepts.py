"""`histofast explain concepts`: what layers tell beside their nulls, what it says and refuses."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

import reference_concepts as reference
from extras import need
from labelled_pictures import write_pictures

torch = need("torch", "safetensors", "matplotlib", "jinja2")

from safetensors.torch import save_file

from histofast import classify, networks
from histofast.datasets import open_images, resampled
from histofast.explain import concepts
from histofast.explain.concepts import measure, sensitivity
from histofast.networks import create
from histofast.slides import read_image, write_png

pytestmark = pytest.mark.usefixtures("one_thread")


# --- Sensitivity ----------------------------------------------------------------------------------


def test_sensitivities_are_those_of_the_definition(rng):
    slopes = rng.normal(size=(40, 7)) + 0.3
    along = rng.normal(size=(3, 7))
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    r2, spread = np.array([0.9, 0.5, -0.1]), rng.uniform(0.1, 2, 7)
    found = sensitivity(slopes, along, r2=r2, spread=spread, draws=700, seed=3)
    for k in range(3):
        assert found.tcav[k] == reference.tcav(slopes, along[k])
        assert found.mean[k] == pytest.approx(np.mean(slopes @ along[k]))
        assert found.deviation[k] == pytest.approx(np.std(slopes @ along[k]))
        assert found.relevance[k] == pytest.approx(reference.relevance(slopes, along[k], r2[k]))
    assert ((found.p > 0) & (found.p <= 1)).all()
    assert found.random_low < 0.5 < found.random_high


def test_a_direction_that_all_pictures_share_is_found_and_a_random_one_is_not():
    """The output rises along the first feature in every picture, along others by chance alone."""
    rng = np.random.default_rng(2)
    slopes = rng.normal(size=(500, 60))
    slopes[:, 0] = 8
    along = np.eye(60)[[0, 1]]
    found = sensitivity(slopes, along, r2=np.ones(2), spread=np.ones(60), draws=999)
    assert found.tcav[0] == 1
    assert found.p[0] < 0.01
    assert found.p[1] > 0.5


def test_a_derivative_that_is_the_same_everywhere_has_no_relevance(rng):
    """As behind the last layer: the head is linear, so that TCAV is 0 or 1 along any direction."""
    slopes = np.tile(rng.normal(size=5), (30, 1))
    found = sensitivity(slopes, np.eye(5), r2=np.ones(5), spread=np.ones(5), draws=99)
    assert set(found.tcav.tolist()) <= {0.0, 1.0}
    assert (found.p == 1).all()
    assert np.isnan(found.relevance).all()


def test_sensitivity_refuses():
    with pytest.raises(ValueError, match=r"^draws must be at least 1, got 0$"):
        sensitivity(np.eye(2), np.eye(2), r2=np.ones(2), spread=np.ones(2), draws=0)


# --- Networks and pictures ------------------------------------------------------------------------

PX = 32
FEW = {"folds": 3, "permutations": 2, "random_seeds": 2, "threads": 1, "device": "cpu"}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A folder with labels.csv, img/, weights a.safetensors and a run of two epochs, run/."""
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder, n=24, groups=12, px=PX)
    save_file(create("resnet18", seed=3, classes=4).state_dict(), folder / "a.safetensors")
    recipe = classify.as_recipe("ours").changed({"epochs": 2, "px": PX, "batch_size": 12})
    classify.train(
        open_images(folder / "labels.csv"), network="resnet18", recipe=recipe, out=folder / "run"
    )
    return folder


@pytest.fixture(scope="module")
def found(done):
    seen = []
    result = concepts.explain_concepts(
        done / "labels.csv",
        weights=done / "a.safetensors",
        run=done / "run",
        layers=["layer2", "layer4"],
        concepts=["contrast", "brightness", "nuclei_count"],
        nuclei_threshold=5.0,
        on_progress=lambda *told: seen.append(told),
        **FEW,
    )
    assert {what for what, *_ in seen} == {
        *("concepts", "pretrained", "trained", "gradients"),
        *("random network 1 of 2", "random network 2 of 2"),
    }
    assert all(0 < number <= of == 24 for _, number, of in seen)
    return result


def test_regressions_are_of_pooled_features_of_every_network(found, done):
    assert found.layers == ("layer2", "layer4")
    assert list(found.found) == ["pretrained", "trained"]
    assert found.constant == {"nuclei_count": 0.0}
    assert found.concepts == ("contrast", "brightness")
    pixels = np.stack([resampled(read_image(done / name), PX) for name in found.images.names])
    np.testing.assert_array_equal(found.values, measure(pixels, names=found.concepts))
    network = create("resnet18", layer="layer2", weights=done / "a.safetensors").eval()
    with torch.inference_mode():
        x = (
            torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
            - torch.tensor(network.mean)[:, None, None]
        )
        features = network(x / torch.tensor(network.std)[:, None, None]).numpy()
    want = concepts.regress(
        features, found.values, groups=found.images.groups, folds=3, permutations=2, seed=0
    )
    one = found.found["pretrained"]["layer2"]
    np.testing.assert_allclose(one.r2, want.r2, atol=1e-3)
    np.testing.assert_allclose(one.permuted, want.permuted, atol=1e-3)
    assert len(found.random["layer4"]) == 2
    assert not np.array_equal(*(each.r2 for each in found.random["layer4"]))


def test_two_networks_are_held_against_each_other_on_the_same_draws_of_groups(found):
    before, after = found.found["pretrained"], found.found["trained"]
    assert list(found.changed) == [(c, layer) for c in found.concepts for layer in found.layers]
    for (concept, layer), one in found.changed.items():
        k = found.concepts.index(concept)
        assert one.value == pytest.approx(after[layer].r2[k] - before[layer].r2[k])
        errors, total = before[layer].errors[:, k] - after[layer].errors[:, k], before[layer].totals
        np.testing.assert_allclose(total, after[layer].totals)
        times = np.random.default_rng(0).multinomial(12, np.full(12, 1 / 12), size=10_000)
        draws = np.sort((times @ errors) / (times @ total[:, k]))
        assert (one.low, one.high) == pytest.approx((draws[249], draws[-250]))
        assert one.n == 12
    same = replace(found, found={"a": before, "b": before})
    assert all(one.value == 0 and not one.is_shown for one in same.changed.values())
    assert replace(found, found={"a": before}).changed == {}


def test_words_name_what_the_trained_network_tells_better_and_worse(found):
    """Errors that are planted: contrast is told by the trained network alone, brightness by neither."""

    def planted(error):
        one = found.found["trained"]["layer2"]
        errors, totals = np.full((12, 1), error), np.ones((12, 1))
        return {"layer2": replace(one, errors=errors, totals=totals)}

    def said(before, after):
        told = {"pretrained": planted(before), "trained": planted(after)}
        told = {name: {**of, "layer4": of["layer2"]} for name, of in told.items()}
        return "\n".join(
            concepts.answer_of(
                replace(
                    found, concepts=("contrast",), values=found.values[:, :1], found=told, moved={}
                )
            ).findings
        )

    assert (
        "The trained network tells, of 2 comparisons with the pretrained one: better contrast"
        in (said(1.0, 0.5))
    )
    assert "one: worse contrast in layer2 (-0.500, " in said(0.5, 1.0)
    nothing = "No difference in R2 between the trained and the pretrained network is shown in 2 "
    assert nothing in said(1.0, 1.0)


def test_gradients_of_the_last_layer_are_the_heads_weights(found, done):
    """Features move by v where every place of the map does: the derivative is weight . v."""
    head = classify.open_run(done / "run").network().fc.weight.detach().double().numpy()[1]
    regression, moved = found.found["trained"]["layer4"], found.moved["layer4"]
    assert found.target == "b"
    np.testing.assert_allclose(
        moved["filter"].mean, regression.filters @ head, rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(
        moved["pattern"].mean, regression.patterns @ head, rtol=1e-4, atol=1e-6
    )
    assert (moved["filter"].p == 1).all()  # linear: no direction is told from another
    assert np.isfinite(found.moved["layer2"]["pattern"].relevance).all()


def test_the_answer_says_what_is_constant_and_shows_nulls_for_every_concept(found):
    answer = concepts.answer_of(found, command="histofast ...")
    findings = " ".join(answer.findings)
    assert "Nuclei count is 0 in every picture: there is nothing to tell" in findings
    assert "gives a random network an R2 of 1.000 in layer2, layer4" in findings
    panels = answer.figures[0].panels
    assert [panel.title for panel in panels] == ["Contrast", "Brightness"]
    for panel in panels:
        assert {"pretrained", "trained", "shuffled concepts", "random weights"} == {
            series.name for series in panel.series
        }
    r2 = next(table for table in answer.tables if table.name == "r2").records()
    assert len(r2) == 2 * 2 * 2
    assert r2[0]["r2"] == found.found["pretrained"]["layer2"].r2[0]
    assert {"r2", "changed", "sensitivity", "concepts", "values"} == {
        table.name for table in answer.tables
    }


def test_weights_alone_have_no_sensitivity_and_no_shuffles_are_said_to_be_none(done):
    found = concepts.explain_concepts(
        done / "labels.csv",
        network="resnet18",
        weights=done / "a.safetensors",
        layers=["layer1"],
        concepts=["contrast"],
        **(FEW | {"permutations": 0}),
    )
    assert not found.moved
    answer = concepts.answer_of(found)
    assert {series.name for series in answer.figures[0].panels[0].series} == {
        *("pretrained", "random weights"),
    }
    (row,) = next(table for table in answer.tables if table.name == "r2").records()
    assert row["p"] is None
    assert row["shuffled_high"] is None


class Maps(torch.nn.Module):
    """Maps of 5 channels, (n, 5, h, w), or where they come last (n, h, w, 5)."""

    def __init__(self, *, last):
        super().__init__()
        self.inner = torch.nn.Conv2d(3, 5, 4, stride=4)
        self.last = last

    def forward(self, x):
        y = self.inner(x)
        return y.permute(0, 2, 3, 1) if self.last else y


def test_channels_that_come_last_are_the_features(done, monkeypatch):
    found = []
    for last in (False, True):
        torch.manual_seed(0)
        model = torch.nn.Sequential(Maps(last=last), torch.nn.Flatten())
        model.output_fmt = "NHWC" if last else "NCHW"
        network = networks.adopt(model, mean=(0.5,) * 3, std=(0.25,) * 3)
        monkeypatch.setattr(networks, "create", lambda *_, network=network, **__: network)
        asked = {"network": "any", "weights": "any", "layers": ["0"], "concepts": ["contrast"]}
        told = concepts.explain_concepts(done / "labels.csv", **asked, **FEW)
        found.append(told.found["pretrained"]["0"])
    assert found[0].d == found[1].d == 5
    np.testing.assert_allclose(found[0].r2, found[1].r2, rtol=1e-5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"weights": None, "run": None}, "^weights must be given, or a run: "),
        ({"run": None, "network": None}, "^network must name the architecture of the weights$"),
        ({"network": "resnet50"}, "^network must be that of the run, resnet18, got resnet50$"),
        ({"target": "c"}, r"^target must be a class of the run \(a, b\), got 'c'$"),
        (
            {"run": None, "network": "resnet18", "target": "b"},
            "^target must be left out without a run, got 'b'$",
        ),
        ({"concepts": ["glcm"]}, "^concepts must be of dissimilarity, .*, got 'glcm'"),
        ({"folds": 13}, "^folds must be at most the number of groups, 12, got 13$"),
        ({"folds": 2}, "^folds must be at least 3, got 2$"),
        ({"random_seeds": 0}, "^random_seeds must be at least 1, got 0$"),
        ({"threads": 0}, "^threads must be at least 1, got 0$"),
        (
            {"concepts": ["nuclei_count", "nuclei_area"], "nuclei_threshold": 5.0},
            "^concepts must vary, got the same values in all pictures: nuclei_count, nuclei_area$",
        ),
    ],
)
def test_what_it_refuses(done, changed, message):
    given = {"weights": done / "a.safetensors", "run": done / "run", "layers": ["layer1"], **FEW}
    with pytest.raises(ValueError, match=message):
        concepts.explain_concepts(done / "labels.csv", **(given | changed))


# --- Command line ---------------------------------------------------------------------------------

ASKED = ("--network", "resnet18", "--weights", "a.safetensors", "--layers", "layer1,layer4")
QUICK = ("--folds", 3, "--permutations", 1, "--random-seeds", 1, "--concepts", "contrast,eosin")


def test_a_page_of_concepts(cli, done, monkeypatch):
    monkeypatch.chdir(done)
    asked = ("explain", "concepts", *ASKED, *QUICK, "--images", "labels.csv", "--out", "out")
    answer = cli(*asked)
    assert answer.code == 0, answer.err
    assert answer.out.splitlines()[-1] == "24 pictures: out/index.html"
    page = (done / "out" / "index.html").read_text()
    assert "An artefact: R2 on the fitted pictures" in page
    with (done / "out" / "r2.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["concept"], row["layer"]) for row in rows] == [
        (concept, layer) for concept in ("contrast", "eosin") for layer in ("layer1", "layer4")
    ]
    again = cli(*asked, "--overwrite", "--json", "--quiet")
    assert json.loads(again.out) == json.loads((done / "out" / "concepts.json").read_text())
    assert not again.err


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("--layers", "layer9"), "layer of resnet18 must be one of "),
        (("--concepts", "eosine"), "--concepts must be of "),
        (("--folds", "13"), "--folds must be at most the number of groups, 12, got 13"),
        (("--nuclei-threshold", "0"), "--nuclei-threshold must be above 0, got 0"),
        (("--run", "nowhere"), "nowhere"),
    ],
)
def test_the_command_refuses_in_one_line(cli, done, monkeypatch, asked, message):
    monkeypatch.chdir(done)
    answer = cli("explain", "concepts", *ASKED, "--images", "labels.csv", "--out", "no", *asked)
    assert answer.code in (1, 2)
    (line,) = answer.err[-1:]
    assert line.startswith("histofast: ")
    assert message in line
    assert not (done / "no").exists()


def test_pictures_of_several_sizes_are_refused_with_the_way_out(cli, done, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "img").mkdir()
    for k, px in enumerate((32, 32, 40, 32)):
        write_png(tmp_path / "img" / f"{k}.png", np.full((px, px, 3), 40 * k, np.uint8))
    weights = ("--network", "resnet18", "--weights", done / "a.safetensors")
    answer = cli("explain", "concepts", *weights, "--images", "img", "--out", "out")
    assert answer.code == 2
    assert "must have square pictures of one size, got 32 x 32 px" in answer.err[-1]
    assert "resample them with --px" in answer.err[-1]
