"""Pictures of channels: priors, transforms and excitations as defined; a planted filter is found again."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reference_channels as reference
from extras import need
from page_reader import PageReader

torch = need("torch", "safetensors")

from histofast import networks, report
from histofast.datasets import open_images
from histofast.errors import ModelError
from histofast.explain import channels
from histofast.slides import read_image, write_png

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
PX, NETWORK = 32, "squeezenet1.1"


def tissue(n, px, *, seed=0):
    """Pictures of pink and purple blobs on white, no two alike."""
    rng = np.random.default_rng(seed)
    fields = rng.normal(size=(n, 3, px, px))
    blobs = np.fft.irfft2(
        np.fft.rfft2(fields) / (0.05 + reference.frequencies(px)) ** 1.5, s=(px, px)
    )
    blobs = np.maximum(blobs / blobs.std((2, 3), keepdims=True) + 0.5, 0)
    stains = np.array([[0.9, 1.3, 0.6], [0.2, 1.4, 0.7], [0.1, 0.1, 0.1]])
    density = np.einsum("nkyx,kc->nyxc", blobs, stains)
    return (256 * 2.0**-density - 1).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def looks():
    return channels.looks_of(tissue(12, PX))


# --- Priors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("px", [8, 9])
def test_the_published_picture_is_as_defined(px):
    made = channels.Spectrum(px, seed=3, device=CPU)
    drawn = made.parameter.detach().numpy().astype(np.float64)
    assert abs(drawn.std() - 0.01) < 0.002
    wanted = reference.fourier_picture(drawn[..., 0] + 1j * drawn[..., 1])
    np.testing.assert_allclose(made.picture()[0].detach().numpy(), wanted, atol=1e-6)


@pytest.mark.parametrize("px", [12, 13])
def test_looks_are_as_defined(px):
    pixels = tissue(70, px)  # more than are measured at once
    found = channels.looks_of(pixels)
    mean, root, magnitude = reference.looks(pixels)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-10)
    np.testing.assert_allclose(found.root, root, atol=1e-10)
    np.testing.assert_allclose(found.magnitude, magnitude, rtol=1e-8, atol=1e-12)


def test_grey_pictures_have_one_colour_that_varies():
    grey = tissue(6, 16)[..., :1].repeat(3, axis=3)
    found = channels.looks_of(grey)
    np.testing.assert_allclose(found.root, found.root[0, 0], rtol=1e-6)
    made = channels.Phases(found, seed=0, device=CPU).picture()[0].detach()
    assert float((made - made[:1]).abs().max()) < 1e-4


@pytest.mark.parametrize("px", [12, 13])
def test_the_picture_of_phases_is_as_defined(px):
    looks = channels.looks_of(tissue(5, px))
    made = channels.Phases(looks, seed=1, device=CPU)
    phases = made.parameter.detach().numpy().astype(np.float64)
    plain, picture = reference.phase_picture(phases, looks.mean, looks.root, looks.magnitude)
    np.testing.assert_allclose(made.plain().detach().numpy(), plain, atol=1e-5)
    np.testing.assert_allclose(made.picture()[0].detach().numpy(), picture, atol=1e-5)


@settings(max_examples=20)
@given(px=st.sampled_from([8, 9, 16]), seed=st.integers(0, 1000), shift=st.floats(-9, 9))
def test_whatever_the_phases_magnitudes_mean_and_variance_are_those_given(px, seed, shift):
    looks = channels.looks_of(tissue(4, px))
    made = channels.Phases(looks, seed=seed, device=CPU)
    with torch.no_grad():
        made.parameter += shift * torch.arange(px).view(1, px, 1)
    plain = made.plain().detach().double().numpy()
    found = np.abs(np.fft.rfft2(plain))
    np.testing.assert_allclose(found, looks.magnitude, atol=1e-4 * looks.magnitude.max())
    np.testing.assert_allclose(plain.mean((1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(plain.var((1, 2)), 1, rtol=1e-4)


def test_total_variation_is_as_defined():
    picture = np.random.default_rng(0).random((3, 7, 7))
    found = channels.total_variation(torch.from_numpy(picture)[None])
    assert float(found) == pytest.approx(reference.total_variation(picture), rel=1e-12)


# --- Transforms ------------------------------------------------------------------------------------


@pytest.mark.parametrize("wraps", [False, True])
@pytest.mark.parametrize("transforms", [channels.STANDARD, channels.LIGHT])
def test_what_is_seen_is_as_defined(transforms, wraps):
    picture = np.random.default_rng(1).random((3, PX, PX))
    for seed in range(2):
        window = channels.drawn(transforms, np.random.default_rng(seed))
        found = channels.seen(torch.from_numpy(picture).float()[None], window, wraps=wraps)
        wanted = reference.window(
            picture,
            pad=window.pad_px,
            first=window.first,
            second=window.second,
            cut=window.cut_px,
            scale=window.scale,
            angle=window.angle_deg,
            wrap=wraps,
        )
        np.testing.assert_allclose(found[0].numpy(), wanted, atol=2e-4)


def test_transforms_are_drawn_from_all_that_was_published():
    rng = np.random.default_rng(0)
    drawn = [channels.drawn(channels.STANDARD, rng) for _ in range(3000)]
    assert {w.first[0] for w in drawn} == set(range(9))
    assert {w.second[1] for w in drawn} == set(range(5))
    assert sorted({round(w.scale, 2) for w in drawn}) == [
        round(0.9 + 0.02 * i, 2) for i in range(11)
    ]
    angles = [w.angle_deg for w in drawn]
    assert set(angles) == set(range(-10, 11))
    assert np.mean(np.equal(angles, 0)) == pytest.approx(6 / 26, abs=0.03)


@pytest.mark.parametrize(
    ("prior", "steps", "wanted"),
    [
        ("published", None, [(512, 0.1, 0.0), (1024, 0.1, 0.025), (2048, 0.01, 0.0025)]),
        ("published", 7, [(1, 0.1, 0.0), (2, 0.1, 0.025), (4, 0.01, 0.0025)]),
        ("published", 3, [(1, 0.1, 0.0), (1, 0.1, 0.025), (1, 0.01, 0.0025)]),
        ("own", None, [(512, 0.1, 0.0)]),
        ("own", 10, [(10, 0.1, 0.0)]),
    ],
)
def test_the_schedule_is_the_published_one_or_its_share(prior, steps, wanted):
    stages = channels.schedule_of(prior, steps)
    assert [(s.steps, s.lr, s.variation) for s in stages] == wanted


@given(steps=st.integers(3, 5000))
def test_a_shorter_schedule_has_the_steps_asked_for_and_none_of_its_stages_is_empty(steps):
    stages = channels.schedule_of("published", steps)
    assert sum(stage.steps for stage in stages) == steps
    assert min(stage.steps for stage in stages) >= 1


# --- Excitations -----------------------------------------------------------------------------------


def network_with(filters=(), *, bias=None):
    """A resnet18 whose first channels have the filters, and whose first BatchNorm adds the bias."""
    network = networks.create("resnet18", seed=5)
    with torch.no_grad():
        for channel, weights in enumerate(filters):
            network.conv1.weight[channel] = torch.from_numpy(weights)
        for channel, value in (bias or {}).items():
            network.bn1.bias[channel] = value
    return network


def test_excitations_are_as_defined_and_dead_channels_are_found():
    pixels = tissue(40, PX)  # more than one batch
    network = network_with(filters=[np.zeros((3, 7, 7))], bias={1: -1e4, 2: 0.5})
    maps = []
    networks.Recorder(network, ["relu"]).run(pixels, lambda _, value: maps.append(value.copy()))
    means, dead = reference.excitations(maps[0].astype(np.float64))
    found = channels.excitations(network, "relu", pixels)
    np.testing.assert_allclose(found.means, means, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found.dead, dead)
    assert np.flatnonzero(found.dead).tolist() == [0, 1]
    assert (found.channels, found.side) == (64, (16, 16))


@pytest.mark.parametrize("layer", ["relu", "layer2", "layer1.0.conv1"])
def test_a_searched_picture_is_measured_as_real_ones_are(layer):
    network = network_with()
    pixels = tissue(1, PX)
    picture = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        found = float(channels.Excitation(network, layer, 3)(picture))
    wanted = channels.excitations(network, layer, pixels).means[0, 3]
    assert found == pytest.approx(wanted, rel=1e-4)


def test_a_silent_channel_is_searched_by_what_goes_into_its_relu():
    network = network_with(bias={0: -20.0})
    picture = torch.full((1, 3, PX, PX), 0.5, requires_grad=True)
    value = channels.Excitation(network, "relu", 0)(picture)
    before = channels.Excitation(network, "bn1", 0)(picture)
    assert float(value.detach()) == float(before.detach()) < 0
    value.backward()
    assert float(picture.grad.abs().max()) > 0


# --- The search ------------------------------------------------------------------------------------


def grating():
    """A filter of (3, 7, 7): a diagonal wave, light against dark, with a mean of 0."""
    y, x = np.mgrid[-3:4, -3:4]
    wave = np.cos(2 * np.pi * (x + y) / 8)
    wave -= wave.mean()
    return 0.2 * np.array([1.0, 1.0, 0.8])[:, np.newaxis, np.newaxis] * wave


def likeness(picture, weights, network):
    """Correlation of a filter with windows of a picture: the one most like it, and the 9th of 10."""
    mean, std = (np.array(v)[:, np.newaxis, np.newaxis] for v in (network.mean, network.std))
    given = (picture.transpose(2, 0, 1) / 255 - mean) / std
    windows = np.lib.stride_tricks.sliding_window_view(given, (7, 7), axis=(1, 2))
    flat = windows.transpose(1, 2, 0, 3, 4).reshape(-1, weights.size)
    flat = flat - flat.mean(1, keepdims=True)
    own = weights.ravel() - weights.mean()
    r = flat @ own / (np.linalg.norm(flat, axis=1) * np.linalg.norm(own))
    return float(r.max()), float(np.quantile(r, 0.9))


@pytest.mark.parametrize("prior", ["own", "published"])
def test_a_planted_filter_is_found_again(prior):
    network = network_with(filters=[grating()])
    real = tissue(30, 48)
    looks = channels.looks_of(real) if prior == "own" else None
    find = {"px": 48, "looks": looks, "seed": 0}
    stages = channels.schedule_of(prior, 100)
    found = channels.search(network, "relu", 0, stages=stages, **find)
    values = channels.excitations(network, "relu", real).means[:, 0]
    value = channels.excitations(network, "relu", found[np.newaxis]).means[0, 0]
    assert value > 1.5 * values.max()
    best, many = likeness(found, grating(), network)
    assert best > 0.8
    assert many > 0.1 + max(likeness(picture, grating(), network)[1] for picture in real)


def test_a_search_goes_by_its_seed_and_leaves_the_network_as_it_was(looks):
    network = network_with()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    steps = []
    stages = channels.schedule_of("own", 3)
    find = {"stages": stages, "px": PX, "looks": looks}
    first = channels.search(network, "layer1", 7, **find, on_step=steps.append)
    assert (first.shape, first.dtype, steps) == ((PX, PX, 3), np.uint8, [1, 2, 3])
    again = channels.search(network, "layer1", 7, **find)
    assert first.tobytes() == again.tobytes()
    other = channels.search(network, "layer1", 7, **find, seed=1)
    assert first.tobytes() != other.tobytes()
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key])
    assert not network.training
    for module in network.modules():
        assert not module._forward_hooks
    for parameter in network.parameters():
        assert parameter.requires_grad
        assert parameter.grad is None


# --- The page --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve pictures in a table of patches, one of them of another size and one broken."""
    folder = tmp_path_factory.mktemp("pictures")
    lines = ["file,patient,x,y,label"]
    for i, image in enumerate(tissue(12, PX)):
        image = image if i else tissue(1, 48, seed=1)[0, :40]
        write_png(folder / f"{i:02}.png", np.ascontiguousarray(image))
        lines.append(f"{i:02}.png,p{i // 3},{i},0,{i % 2}")
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "patches.csv").write_text("\n".join([*lines, "broken.png,p9,99,0,1"]) + "\n")
    return folder


SMALL = channels.Options(channels=(0, 9), px=PX, steps=3, pictures=50)


def shown(folder, out, *, options=SMALL, against="random:2", layer="fire2", **more):
    images = open_images(folder / "patches.csv", labelled=False)
    return channels.show(
        NETWORK,
        "random:1",
        layer=layer,
        images=images,
        out=out,
        options=options,
        against=against,
        device="cpu",
        threads=1,
        **more,
    )


def test_a_page_shows_each_channel_beside_real_pictures_and_the_other_network(folder, tmp_path):
    heard = []
    look = shown(folder, tmp_path, command="x", on_progress=lambda *told: heard.append(told))
    page = (tmp_path / "index.html").read_text()
    read = PageReader(page)
    assert not read.open
    assert page.count("data:image/png;base64") == 2 * 2 * (1 + 9)
    assert "Channel 9, random:2" in page
    assert {"channels.csv", "strongest.csv", "layer.csv", "channels.json"} <= set(read.links)
    assert look.channels == (0, 9)
    assert [note for note in look.notes if "broken.png" in note]
    assert ("searching, steps", 12, 12) in heard
    assert not (tmp_path / "pixels").exists()

    rows = [line.split(",") for line in (tmp_path / "strongest.csv").read_text().splitlines()]
    assert rows[0] == ["channel", "network", "rank", "file", "group", "value"]
    assert len(rows) == 1 + 2 * 2 * 9
    a = look.sides[0]
    network = networks.starts.begin(NETWORK, "random:1")
    real = channels.excitations(network, "fire2", look.pixels).means[:, 9]
    np.testing.assert_allclose(a.real.means[:, 9], real, rtol=1e-5)
    best = np.argsort(-real)[:9]
    told = [row for row in rows[1:] if row[0] == "9" and row[1] == "random:1"]
    assert [row[3] for row in told] == [look.names[i] for i in best]
    assert [row[4] for row in told] == [look.groups[i] for i in best]

    found = a.found[1]
    value = channels.excitations(network, "fire2", found[np.newaxis]).means[0, 9]
    assert a.values[1] == pytest.approx(value, rel=1e-4)
    r = np.corrcoef(a.real.means[:, 9], look.sides[1].real.means[:, 9])[0, 1]
    assert look.together()[9] == pytest.approx(r, rel=1e-6)
    every = (tmp_path / "layer.csv").read_text().splitlines()
    assert len(every) == 1 + 2 * 128
    told = json.loads((tmp_path / "channels.json").read_text())
    assert told["channels"][2]["found"] == pytest.approx(value, rel=1e-4)


def test_what_was_found_is_not_searched_again(folder, tmp_path, monkeypatch):
    only = channels.Options(channels=(9,), px=PX, steps=3)
    shown(folder, tmp_path, options=only)
    page = (tmp_path / "index.html").read_bytes()
    marks = sorted(tmp_path.glob("found/*/done.json"))
    assert len(marks) == 2
    marks[0].unlink()  # as if interrupted before this one

    calls = []
    inner = channels.showing.search

    def counting(*arguments, **given):
        calls.append(arguments[2])
        return inner(*arguments, **given)

    monkeypatch.setattr(channels.showing, "search", counting)
    shown(folder, tmp_path, options=only)
    assert calls == [9]
    assert (tmp_path / "index.html").read_bytes() == page
    monkeypatch.setattr(report, "save", lambda answer, folder: folder)
    shown(folder, tmp_path, options=channels.Options(channels=(9,), px=PX, steps=4))
    assert calls == [9, 9, 9]  # other steps, other pictures


@pytest.mark.slow
def test_channels_side_by_side_are_those_one_after_the_other(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "save", lambda answer, folder: folder)
    first = shown(folder, tmp_path / "a")
    second = shown(folder, tmp_path / "b", jobs=2)
    for one, other in zip(first.sides, second.sides, strict=True):
        assert [f.tobytes() for f in one.found] == [f.tobytes() for f in other.found]
    saved = sorted((tmp_path / "b").glob("found/00009-*/picture.png"))
    assert first.sides[0].found[1].tobytes() in {read_image(p).tobytes() for p in saved}


def test_dead_channels_are_counted_and_not_searched(folder, tmp_path):
    weights = tmp_path / "dead.safetensors"
    network = network_with(filters=[np.zeros((3, 7, 7))])
    need("safetensors.torch").save_file(network.state_dict(), weights)
    options = channels.Options(channels=(0, 1), px=PX, steps=2)
    images = open_images(folder / "patches.csv", labelled=False)
    look = channels.show(
        "resnet18", weights, layer="conv1", images=images, out=tmp_path, options=options, threads=1
    )
    assert look.sides[0].found[0] is None
    assert len(list(tmp_path.glob("found/*"))) == 1
    assert channels.findings(look)[0] == (
        "dead: 1 of the 64 channels of conv1 is dead, with one value at all places of all 12 pictures."
    )
    page = (tmp_path / "index.html").read_text()
    assert "Channel 1, dead" in page
    assert "Channel 0, dead" not in page
    assert ">dead<" in page  # in the table


# --- What is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"layer": "fire22"},
            ModelError,
            r"layer of squeezenet1\.1 must be one of conv1, .*fire9, got 'fire22': did you mean fire2",
        ),
        (
            {"options": channels.Options(channels=(3, 128), px=PX)},
            ValueError,
            r"channels must be in 0\.\.127, those of layer fire2, got 128",
        ),
        ({"against": "random:1"}, ValueError, "against must be other weights, got random:1 twice"),
    ],
)
def test_what_cannot_be_shown_is_refused_before_the_work(folder, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        shown(folder, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_layer_without_maps_is_refused(folder):
    network = networks.create("resnet18", classes=2)
    with pytest.raises(
        ValueError, match=r"layer fc of resnet18 must give maps \(n, channels, h, w\), got \(n, 2\)"
    ):
        channels.excitations(network, "fc", tissue(2, PX))


def test_pictures_that_are_too_few_or_cannot_be_read_are_refused(folder, tmp_path):
    images = open_images(folder / "patches.csv", labelled=False)
    given = {"layer": "fire2", "out": tmp_path / "out", "options": SMALL}
    with pytest.raises(ValueError, match=r"must have at least 9 pictures that can be read, got 3"):
        channels.show(NETWORK, "random", images=images.part([0, 1, 2]), **given)
    with pytest.raises(ValueError, match="must have pictures that can be read, got none of 1"):
        channels.show(NETWORK, "random", images=images.part([12]), **given)
    with pytest.raises(ValueError, match="images must have colours that vary, got 4 of one colour"):
        channels.looks_of(np.full((4, 8, 8, 3), 200, np.uint8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prior": "mine"}, "prior must be one of own, published, got 'mine'"),
        ({"prior": "published", "steps": 2}, "steps must be at least 3, one for each stage, got 2"),
        ({"channels": (1, 1)}, "channels must be different numbers, got 1, 1"),
        ({"channels": ()}, "channels must be different numbers, got none"),
        ({"channels": (-1,)}, "channels must be at least 0, got -1"),
        ({"px": 16}, r"px must be .*32.*got 16"),
        ({"pictures": 8}, "pictures must be at least 9, got 8"),
        ({"n": 0}, "n must be at least 1, got 0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        channels.Options(**options)


def test_channels_that_are_not_named_are_taken_evenly():
    assert channels.Options(n=4).chosen(64, layer="x") == (0, 16, 32, 48)
    assert channels.Options(n=99).chosen(3, layer="x") == (0, 1, 2)


# --- The command -----------------------------------------------------------------------------------


def test_the_command_shows_channels_and_says_what_is_wrong(cli, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = ("explain", "channels", "--network", NETWORK, "--weights", "random", "--threads", 1)
    what = ("--layer", "fire2", "--images", folder / "patches.csv", "--out", "vis")
    small = ("--channels", 0, 9, "--px", PX, "--steps", 2)
    answer = cli(*asked, *what, *small)
    assert answer.code == 0
    lines = answer.out.splitlines()
    assert re.match(r"random: \d+ of the 128 channels of fire2 are dead", lines[0])
    assert lines[-1] == "report: vis/index.html"
    assert any("broken.png" in line for line in answer.err)
    page = (tmp_path / "vis" / "index.html").read_text()
    assert re.search(r"histofast explain channels .*--channels 0 9 ", PageReader(page).code[0])
    again = cli(*asked, *what, *small, "--json", "--quiet")
    assert (again.code, again.err) == (0, [])
    assert [row["channel"] for row in json.loads(again.out)["channels"]] == ["0", "9"]

    for wrong, said in (
        (("--channels", 128), "--channels must be in 0..127, those of layer fire2, got 128"),
        (("--px", 16), "--px must be within 32..1024, got 16"),
        (("--prior", "mine"), "must be one of own, published, got 'mine'"),
    ):
        refused = cli(*asked, *what, *wrong)
        assert (refused.code, len(refused.err)) == (2, 1)
        assert said in refused.err[0]
