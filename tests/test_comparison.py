"""Networks and encoders compared: the same numbers as from captured features, nothing left behind."""

from __future__ import annotations

import itertools
import json

import h5py
import numpy as np
import pytest

import histofast
from extras import need
from histofast import graphs, similarity
from histofast.comparison import comparing, resampled, shuffled
from histofast.comparison.sums import turns_of
from histofast.errors import FeatureError, ModelError
from histofast.features import FeatureWriter
from histofast.patches import PatchSample

torch = need("torch")

from histofast import networks

QUICK = {"resamples": 200, "permutations": 19, "random_seeds": 0}


@pytest.fixture(scope="module")
def images():
    return graphs.stained_noise(48, 64)


@pytest.fixture(scope="module")
def pair():
    return [networks.create("resnet18", layer="layer2", seed=seed) for seed in (0, 1)]


def captured(network, images, mode):
    """Activations of the blocks, all images at once."""
    found = {}
    networks.Recorder(network).run(images, lambda name, x: found.update({name: x.copy()}))
    return [x.mean((2, 3)) if mode == "pool" else x.reshape(len(x), -1) for x in found.values()]


@pytest.mark.parametrize("mode", ["flatten", "pool"])
def test_one_batch_is_the_cka_of_captured_features(pair, images, mode):
    found = histofast.compare(*pair, images, mode=mode, batch_size=48, **QUICK).comparison
    assert found.names_a == found.names_b == ("conv1", "layer1", "layer2")
    a, b = (captured(network, images, mode) for network in pair)
    wanted = [[similarity.cka(x, y) for y in b] for x in a]
    np.testing.assert_allclose(found.matrix, wanted, atol=2e-5)


def test_batches_are_the_sums_of_their_products(pair, images):
    found = histofast.compare(*pair, images, batch_size=16, seed=3, **QUICK).comparison
    order = np.random.default_rng(3).permutation(48)
    a, b = (captured(network, images[order], "flatten") for network in pair)
    wanted = similarity.cka_minibatch(a[1], b[2], batch_size=16)
    assert found.matrix[1, 2] == pytest.approx(wanted, abs=2e-5)


@pytest.fixture(scope="module")
def small():
    """Two networks and images for an emulated GPU, which is slow."""
    pair = [networks.create("resnet18", layer="layer1", seed=seed) for seed in (0, 1)]
    return pair, graphs.stained_noise(32, 16)


class OnGpu:
    """A source whose activations lie on the GPU."""

    def __init__(self, network, gpu):
        self._recorder, self._gpu = networks.Recorder(network), gpu
        self.names = self._recorder.names

    def run(self, pixels, consume):
        return self._recorder.run(pixels, lambda name, x: consume(name, self._gpu.put(x)))


@pytest.mark.gpu
@pytest.mark.parametrize(
    "options", [{}, {"mode": "pool"}, {"measure": "cka-rbf"}, {"mode": "spatial"}]
)
@pytest.mark.parametrize("both", [True, False])
def test_on_a_gpu_the_numbers_are_the_cpus(small, monkeypatch, gpu, options, both):
    pair, images = small
    given = {**QUICK, "batch_size": 16, "seed": 3, "random_seeds": 5, **options}
    wanted = histofast.compare(*pair, images, **given).comparison
    source = comparing.source_of

    def on_gpu(network, layers):
        return OnGpu(network, gpu) if both or network is pair[0] else source(network, layers)

    monkeypatch.setattr(comparing, "source_of", on_gpu)
    found = histofast.compare(*pair, images, **given).comparison
    np.testing.assert_allclose(found.matrix, wanted.matrix, atol=2e-5)
    for name in ("low", "high", "permuted", "random"):
        if getattr(wanted, name) is not None:
            np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), atol=1e-4)


@pytest.mark.gpu
def test_on_a_gpu_a_layer_that_is_not_finite_is_named(small, monkeypatch, gpu):
    pair, images = small

    class Spoilt(OnGpu):
        def run(self, pixels, consume):
            def spoil(name, x):
                x = np.array(x)
                x[3] = np.nan if name == "layer1" else x[3]
                consume(name, self._gpu.put(x))

            return self._recorder.run(pixels, spoil)

    monkeypatch.setattr(comparing, "source_of", lambda network, layers: Spoilt(network, gpu))
    with pytest.raises(ValueError, match="layer layer1 must be finite, got NaN or infinity in 1 o"):
        histofast.compare(*pair, images, **QUICK)


def test_without_resamples_and_shuffles(pair, images):
    none = {"resamples": 0, "permutations": 0, "random_seeds": 0}
    found = histofast.compare(*pair, images, **none).comparison
    assert (found.low, found.high, found.permuted) == (None, None, None)


def test_a_network_is_like_itself_and_unlike_a_random_one(pair, images):
    found = histofast.compare(pair[0], pair[0], images, **(QUICK | {"random_seeds": 5}))
    comparison = found.comparison
    np.testing.assert_allclose(comparison.diagonal, 1, atol=1e-6)
    np.testing.assert_allclose(comparison.low, 1, atol=1e-6)
    assert (comparison.random < 0.999).all()
    assert (comparison.permuted < 0.3).all()
    other = histofast.compare(*pair, images, **QUICK).comparison
    assert (other.diagonal < 1).all()
    assert (other.low <= other.diagonal + 0.05).all()
    assert (other.diagonal <= other.high + 0.05).all()
    assert other.images_sha256 == comparison.images_sha256
    assert other.predictions == {}


def test_random_networks_are_several_seeds(pair, images):
    """Each is drawn anew; a batch that all of them see is their CKA of captured features."""
    found = histofast.compare(*pair, images, batch_size=48, **(QUICK | {"random_seeds": 3}))
    random = found.comparison.random
    assert random.shape == (3, 3)
    assert len(np.unique(random)) == 9
    own = captured(pair[0], images, "flatten")
    for s in range(3):
        twin = networks.create("resnet18", layer="layer2", seed=comparing.FAR + s)
        for k, x in enumerate(captured(twin, images, "flatten")):
            assert random[s, k] == pytest.approx(similarity.cka(own[k], x), abs=2e-5)
    np.testing.assert_array_equal(
        found.comparison.random_range, [random.min(axis=0), random.max(axis=0)]
    )
    told = json.loads(found.comparison.to_json())
    np.testing.assert_array_equal(told["random"], random)
    header, first, *_ = found.comparison.to_csv().splitlines()
    assert header.endswith("permuted,permuted_p,random_low,random_high")
    assert [float(cell) for cell in first.split(",")[-2:]] == [
        random[:, 0].min(),
        random[:, 0].max(),
    ]


@pytest.mark.parametrize(("batches", "seeds"), [(8, 5), (1, 5), (5, 5), (3, 7), (4, 0)])
def test_random_networks_share_the_batches(batches, seeds):
    turns = turns_of(batches, seeds)
    assert len(turns) == batches
    assert sorted({seed for turn in turns for seed in turn}) == list(range(seeds))
    assert sum(map(len, turns)) == (max(batches, seeds) if seeds else 0)
    assert all(len(set(turn)) == len(turn) >= bool(seeds) for turn in turns)


def test_random_networks_see_each_batch_once(pair, images, monkeypatch):
    passes = []
    run = networks.Recorder.run

    def counted(self, pixels, consume):
        passes.append(self.network)
        return run(self, pixels, consume)

    monkeypatch.setattr(networks.Recorder, "run", counted)
    histofast.compare(*pair, images, batch_size=8, **(QUICK | {"random_seeds": 5}))
    assert len(passes) == 3 * 6
    assert len({id(network) for network in passes}) == 2 + 5


@pytest.mark.parametrize("mode", ["flatten", "pool"])
@pytest.mark.parametrize("groups", [1, 4])
def test_few_slides_give_no_interval(pair, images, mode, groups):
    """One slide gave an interval of no width, and so was above everything."""
    sample = PatchSample(pixels=images, sources=tuple(f"s{i % groups}" for i in range(48)))
    found = histofast.compare(*pair, sample, mode=mode, **QUICK).comparison
    assert (found.low, found.high, found.groups) == (None, None, groups)
    wanted = f"none: 5 slides or patients are needed, these are {groups}"
    assert found.convention["interval"] == wanted
    assert found.permuted_p is not None


def test_patients_are_what_is_resampled(pair, images):
    sources = tuple(f"s{i % 12}" for i in range(48))
    sample = PatchSample(
        pixels=images, sources=sources, patients=tuple(f"p{i % 6}" for i in range(48))
    )
    assert histofast.compare(*pair, sample, **QUICK).comparison.groups == 6


def test_p_of_shuffles_counts_the_value_itself(pair, images):
    found = histofast.compare(pair[0], pair[0], images, **QUICK).comparison
    np.testing.assert_allclose(found.permuted_p, 1 / 20)


def test_the_head_is_a_layer_too(images):
    a, b = (networks.create("resnet18", layer="layer1", classes=3, seed=s) for s in (0, 1))
    found = histofast.compare(
        a, b, images, layers_a=["fc"], layers_b=["conv1", "fc"], **(QUICK | {"random_seeds": 2})
    ).comparison
    assert found.matrix.shape == (1, 2)
    assert found.pair_names == ("fc",)
    assert found.random.shape == (2, 1)
    alone = histofast.compare(a, b, images, layers_a=["fc"], **QUICK).comparison
    assert alone.pair_names == ()


def test_an_encoder_file_is_its_network(pair, images, tmp_path):
    files = [
        networks.export(network, tmp_path / f"{i}.onnx", patch_px=64).path
        for i, network in enumerate(pair)
    ]
    layers = ["layer1", "layer2"]
    by_file = histofast.compare(
        *files, images, layers_a=layers, layers_b=layers, **QUICK
    ).comparison
    by_torch = histofast.compare(
        *pair, images, layers_a=layers, layers_b=layers, **QUICK
    ).comparison
    np.testing.assert_allclose(by_file.matrix, by_torch.matrix, atol=1e-4)
    mixed = histofast.compare(files[0], pair[0], images, layers_a=layers, **QUICK).comparison
    np.testing.assert_allclose(mixed.diagonal, 1, atol=1e-4)
    assert (mixed.label_a, mixed.label_b) == ("0", "resnet18 b")


def test_groups_widen_the_interval(pair, images):
    """Eight copies of six pictures are six pictures."""
    copies = np.ascontiguousarray(images[np.arange(48) % 6])
    noise = np.random.default_rng(0).integers(0, 3, copies.shape, dtype=np.uint8)
    sample = PatchSample(pixels=copies + noise // 2, sources=tuple(f"s{i % 6}" for i in range(48)))
    widths = []
    for groups in (None, range(48)):
        found = histofast.compare(*pair, sample, groups=groups, batch_size=48, **QUICK).comparison
        widths.append((found.high - found.low).mean())
    assert widths[0] > widths[1]


def test_layers_that_do_not_vary_are_undefined(pair):
    black = np.zeros((32, 64, 64, 3), np.uint8)
    found = histofast.compare(*pair, black, **QUICK).comparison
    assert np.isnan(found.matrix).all()
    assert np.isnan(found.low).all()
    assert json.loads(found.to_json())["matrix"][0][0] is None


def test_predictions_of_two_heads(images):
    a, b = (networks.create("cbr-tiny", classes=3, seed=seed) for seed in (0, 1))
    pixels = graphs.stained_noise(32, 160)
    labels = np.arange(32) % 3
    found = histofast.compare(a, b, pixels, labels=labels, **QUICK).comparison.predictions
    assert 0 <= found["Jensen-Shannon divergence (bits)"] <= 1
    assert {"share with another class", "both right or both wrong"} <= set(found)


@pytest.mark.parametrize("measure", ["cca", "svcca", "pwcca"])
def test_measures_of_pooled_features(measure):
    network = networks.create("resnet18", layer="layer1")
    pixels = graphs.stained_noise(140, 32)
    found = histofast.compare(
        network,
        network,
        pixels,
        measure=measure,
        mode="pool",
        layers_a=["layer1"],
        layers_b=["layer1"],
    ).comparison
    assert found.matrix[0, 0] == pytest.approx(1, abs=1e-4)
    assert found.low is None


def test_published_protocol(pair, images):
    layers = ["conv1", "layer1"]
    found = histofast.compare(
        *pair, images, layers_a=layers, layers_b=layers, preset="published"
    ).comparison
    assert found.measure == "mean CCA by the published protocol"
    assert np.isnan(found.matrix[0, 1])
    assert ((found.diagonal > 0) & (found.diagonal < 1)).all()


def test_pairs_of_networks_are_compared_as_two_are_and_each_runs_once(images):
    made = []

    def network_of(seed):
        made.append(seed)
        return networks.create("resnet18", layer="layer2", seed=seed)

    groups = [f"p{i % 8}" for i in range(len(images))]
    wanted = {"resamples": 50, "random_seeds": 0, "permutations": 0, "seed": 3}
    found = list(
        histofast.comparison.compare_pairs(
            [(0, 1), (2, 0), (1, 2)],
            network_of,
            images,
            groups=groups,
            with_cca=True,
            resamples=50,
            seed=3,
        )
    )
    assert made == [0, 1, 2]
    for alike, pair in zip(found, [(0, 1), (2, 0), (1, 2)], strict=True):
        two = [networks.create("resnet18", layer="layer2", seed=seed) for seed in pair]
        one = histofast.compare(*two, images, groups=groups, **wanted).comparison
        assert alike.layers == one.pair_names == ("conv1", "layer1", "layer2")
        assert (alike.n, alike.groups) == (48, 8)
        for name, value in {"cka": one.diagonal, "low": one.low, "high": one.high}.items():
            np.testing.assert_allclose(getattr(alike, name), value, atol=1e-9)
        layers = ["conv1", "layer1"]
        cca = histofast.compare(
            *two, images, layers_a=layers, layers_b=layers, preset="published", seed=3
        ).comparison.diagonal
        np.testing.assert_allclose(alike.cca[:2], cca, atol=1e-5)
        assert np.isnan(alike.cca[2])  # 8 x 8 places of 48 images are under 10,000


def places(maps, size):
    """Rows of places, the maps averaged by whole blocks."""
    n, c, h, w = maps.shape
    blocks = maps.reshape(n, c, size, h // size, size, w // size).mean((3, 5))
    return blocks.transpose(0, 2, 3, 1).reshape(-1, c)


def test_spatial_is_the_cka_of_places(pair, images):
    found = histofast.compare(
        *pair, images, mode="spatial", batch_size=48, permutations=5, random_seeds=5
    ).comparison
    maps = []
    for network in pair:
        kept = {}
        networks.Recorder(network).run(
            images, lambda name, x, kept=kept: kept.update({name: x.copy()})
        )
        maps.append(list(kept.values()))
    assert [m.shape[2] for m in maps[0]] == [32, 16, 8]
    for i, x in enumerate(maps[0]):
        for j, y in enumerate(maps[1]):
            size = min(x.shape[2], y.shape[2])
            wanted = similarity.cka(places(x, size), places(y, size))
            assert found.matrix[i, j] == pytest.approx(wanted, abs=2e-5)
    assert found.low is None
    assert (found.permuted < found.diagonal).all()
    assert (found.random < 1).all()


def test_maps_are_averaged_by_area():
    from histofast.comparison import average_to

    maps = np.arange(12, dtype=np.float32).reshape(1, 1, 3, 4)
    np.testing.assert_allclose(average_to(maps, (3, 2))[0, 0, 0], [0.5, 2.5])
    halves = [(0 + 0.5 * 4) / 1.5, (0.5 * 4 + 8) / 1.5]
    np.testing.assert_allclose(average_to(maps, (2, 4))[0, 0, :, 0], halves)
    np.testing.assert_allclose(average_to(maps, (1, 1)), maps.mean())


def test_spatial_needs_maps(images):
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 2, 32), torch.nn.Flatten(), torch.nn.LazyLinear(3)
    )
    module(torch.zeros(1, 3, 64, 64))
    network = networks.adopt(module, mean=(0.5,) * 3, std=(0.25,) * 3)
    with pytest.raises(ValueError, match=r"layer 2 must give maps .* for mode spatial"):
        histofast.compare(network, network, images, mode="spatial", random_seeds=0)


def test_rbf_is_that_of_captured_features(pair, images):
    found = histofast.compare(*pair, images, measure="cka-rbf", batch_size=48, **QUICK).comparison
    assert found.measure == "debiased RBF CKA"
    a, b = (captured(network, images, "flatten") for network in pair)
    assert found.matrix[1, 2] == pytest.approx(similarity.cka(a[1], b[2], kernel="rbf"), abs=1e-4)


def test_modules_of_ones_own(images):
    def module(seed):
        torch.manual_seed(seed)
        inner = torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 3, stride=4),
            torch.nn.ReLU(inplace=True),
            torch.nn.Conv2d(4, 6, 3),
            torch.nn.ReLU(inplace=True),
        )
        return torch.nn.ModuleDict({"body": inner})["body"]

    a, b = (
        networks.adopt(module(seed), mean=(0.5,) * 3, std=(0.25,) * 3, name=f"m{seed}")
        for seed in (0, 1)
    )
    found = histofast.compare(a, b, images, **(QUICK | {"random_seeds": 5})).comparison
    assert found.names_a == ("0", "2")  # what holds a convolution
    assert found.label_a == "m0 a"
    # In-place ReLUs come after the convolutions: what was seen is what they gave.
    seen = captured(a, images, "flatten")[0]
    assert seen.min() < 0
    assert (found.random < 0.99).all()
    deep = histofast.compare(a, b, images, layers_a=["1"], layers_b=["3"], **QUICK).comparison
    assert deep.matrix.shape == (1, 1)


def test_twin_of_a_module_that_cannot_be_drawn_anew(images):
    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(3))
            self.conv = torch.nn.Conv2d(3, 4, 8, stride=8)

        def forward(self, x):
            return self.conv(x * self.weight[:, None, None]), None

    network = networks.adopt(Own(), mean=(0.5,) * 3, std=(0.25,) * 3)
    found = histofast.compare(network, network, images, **(QUICK | {"random_seeds": 5}))
    assert found.comparison.random is None
    assert found.comparison.names_a == ("conv",)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": 3}, TypeError, "model must be a torch module, got int"),
        (
            {"mean": (0.5, 0.5)},
            ValueError,
            r"mean must be three finite numbers, got \(0\.5, 0\.5\)",
        ),
        ({"std": (0, 1, 1)}, ValueError, r"std must be above 0, got \(0, 1, 1\)"),
        ({"input_px": 0}, ValueError, "input_px must be at least 1, got 0"),
    ],
)
def test_bad_modules(change, error, message):
    given = {"model": torch.nn.Conv2d(3, 4, 3), "mean": (0.5,) * 3, "std": (0.25,) * 3} | change
    with pytest.raises(error, match=message):
        networks.adopt(given.pop("model"), **given)


def test_labels_of_a_table_are_taken():
    a, b = (networks.create("cbr-tiny", classes=2, seed=seed) for seed in (0, 1))
    pixels = graphs.stained_noise(32, 160)
    names = tuple(f"s{i}" for i in range(32))
    sample = PatchSample(pixels=pixels, sources=names, labels=("0", "1") * 16)
    found = histofast.compare(a, b, sample, **QUICK).comparison.predictions
    told = histofast.compare(a, b, pixels, labels=np.arange(32) % 2, **QUICK).comparison
    assert found == told.predictions
    assert "both right or both wrong" in found
    worded = PatchSample(pixels=pixels, sources=names, labels=("tumour",) * 32)
    with pytest.raises(
        ValueError, match=r"labels of images must be class numbers 0\.\.1 .*'tumour'"
    ):
        histofast.compare(a, b, worded, **QUICK)


def test_protocol_says_how_many_images_it_needs(pair, images):
    # 16 x 16 places: 39 images for 10,000 rows.
    with pytest.raises(ValueError, match=r"at least 39 for layer layer1 with its 16 x 16 places"):
        histofast.compare(
            *pair, images[:32], layers_a=["layer1"], layers_b=["layer1"], preset="published"
        )


def test_a_head_that_nobody_trained_is_refused(images, tmp_path):
    from safetensors.torch import save_file

    network = networks.create("resnet18", layer="layer1")
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    a, b = (
        networks.create(
            "resnet18", weights=tmp_path / "w.safetensors", layer="layer1", classes=2, partial=True
        )
        for _ in range(2)
    )
    with pytest.raises(ValueError, match="weights of network a must hold a head of 2 classes"):
        histofast.compare(a, b, images, **QUICK)


def test_hooks_are_removed_whatever_happens(pair, images):
    recorder = networks.Recorder(pair[0])

    def fail(name, values):
        raise RuntimeError("no room")

    with pytest.raises(RuntimeError, match="no room"):
        recorder.run(images[:2], fail)
    assert not any(module._forward_hooks for module in pair[0].modules())


def test_a_layer_used_twice_is_refused(pair, images):
    network = networks.create("resnet18", layer="layer1")
    forward = network.forward
    network.forward = lambda x: forward(x) + forward(x)
    with pytest.raises(ModelError, match="layer conv1 of resnet18 is used more than once"):
        networks.Recorder(network).run(images[:2], lambda name, values: None)


def test_report_is_saved(pair, images, tmp_path):
    need("matplotlib")
    histofast.compare(*pair, images, **QUICK).save(tmp_path / "report")
    names = {file.name for file in (tmp_path / "report").iterdir()}
    wanted = {
        "index.html",
        "layers.csv",
        *(f"comparison.{s}" for s in ("json", "csv", "png", "pdf")),
    }
    assert names == wanted


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"mode": "maps"}, ValueError, "mode must be flatten, spatial or pool, got 'maps'"),
        (
            {"measure": "cka-rbf", "mode": "spatial"},
            ValueError,
            "mode must be flatten or pool for cka-rbf, got 'spatial'$",
        ),
        ({"labels": [0, 1]}, ValueError, "labels must be 48, one per image, got 2"),
        ({"measure": "rsa"}, ValueError, "mode must be pool for rsa, got 'flatten'"),
        ({"measure": "rsb"}, ValueError, "measure must be cka, cka-rbf, cca, .*, got 'rsb'"),
        ({"measure": "cca"}, ValueError, "mode must be pool for cca, got 'flatten': of whole maps"),
        ({"batch_size": 8.5}, TypeError, "batch_size must be a whole number, got 8.5"),
        ({"permutations": "9"}, TypeError, "permutations must be a whole number, got '9'"),
        ({"preset": "mine"}, ValueError, "preset must be published or None, got 'mine'"),
        ({"batch_size": 4}, ValueError, "batch_size must be at least 8, got 4"),
        ({"resamples": -1}, ValueError, "resamples must be at least 0, got -1"),
        ({"random_seeds": -1}, ValueError, "random_seeds must be at least 0, got -1"),
        ({"confidence": 1}, ValueError, r"confidence must be in 0\.\.1, got 1"),
        ({"groups": [1, 2]}, ValueError, "groups must be 48, one per image, got 2"),
        ({"layers_a": ["layr1"]}, ModelError, "got 'layr1': did you mean layer1"),
    ],
)
def test_bad_arguments(pair, images, change, error, message):
    with pytest.raises(error, match=message):
        histofast.compare(*pair, images, **change)


def test_bad_images_and_networks(pair, images):
    with pytest.raises(ValueError, match="images must be at least 32, got 5"):
        histofast.compare(*pair, images[:5])
    with pytest.raises(TypeError, match=r"network must be of histofast\.networks\.create, got int"):
        histofast.compare(3, pair[1], images)
    with pytest.raises(ValueError, match="network must be in evaluation mode"):
        histofast.compare(networks.create("resnet18").train(), pair[1], images)
    broken = networks.create("resnet18", layer="layer1")
    with torch.no_grad():
        broken.conv1.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="layer conv1 must be finite"):
        histofast.compare(broken, pair[1], images, **QUICK)


# --- Feature files -----------------------------------------------------------------------------


def write_features(folder, name, features, coords):
    folder.mkdir(parents=True, exist_ok=True)
    attributes = {"patch_size": 256, "patch_size_level0": 256, "name": name}
    with FeatureWriter(
        folder / f"{name}.h5",
        coords=coords,
        d=features.shape[1],
        identity={},
        attributes=attributes,
    ) as writer:
        writer.append(features)
        writer.finish()


@pytest.fixture
def feature_folders(tmp_path, rng):
    """Three encoders' features of two slides: the second is the first turned, the third noise."""
    turn, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    for slide in ("s1", "s2"):
        x = rng.normal(size=(60, 6)).astype(np.float32)
        coords = np.arange(120).reshape(60, 2)
        noise = rng.normal(size=(60, 4)).astype(np.float32)
        for name, values in (("a", x), ("b", (x @ turn).astype(np.float32)), ("c", noise)):
            write_features(tmp_path / f"features_{name}", slide, values, coords)
    return [tmp_path / f"features_{name}" for name in "abc"]


def test_feature_files(feature_folders):
    found = histofast.compare_features(feature_folders).comparison
    assert found.names_a == ("a", "b", "c")
    assert (found.n, found.groups) == (120, 2)
    np.testing.assert_allclose(np.diag(found.matrix), 1)
    assert found.matrix[0, 1] == pytest.approx(1, abs=1e-5)
    assert abs(found.matrix[0, 2]) < 0.1
    files = [
        histofast.read_features(f / f"{s}.h5").features
        for f in feature_folders
        for s in ("s1", "s2")
    ]
    a, c = np.concatenate(files[:2]), np.concatenate(files[4:])
    assert found.matrix[2, 0] == pytest.approx(similarity.cka(a, c), abs=1e-5)


def test_feature_files_in_chunks_as_other_tools_write_them(feature_folders, tmp_path):
    chunked = []
    for folder in feature_folders:
        chunked.append(tmp_path / "others" / folder.name)
        chunked[-1].mkdir(parents=True)
        for path in folder.glob("*.h5"):
            file = histofast.read_features(path)
            with h5py.File(chunked[-1] / path.name, "w") as other:
                other.create_dataset("features", data=file.features, chunks=True, compression=1)
                other.create_dataset("coords", data=file.coords, chunks=True)
    found = histofast.compare_features(chunked).comparison
    wanted = histofast.compare_features(feature_folders).comparison
    np.testing.assert_array_equal(found.matrix, wanted.matrix)


def test_feature_files_have_an_interval_and_a_null(tmp_path, rng):
    for slide in range(6):
        x = rng.normal(size=(50, 6)).astype(np.float32)
        y = (x + rng.normal(size=x.shape)).astype(np.float32)
        coords = np.arange(100).reshape(50, 2)
        for name, values in (("a", x), ("b", y)):
            write_features(tmp_path / f"features_{name}", f"s{slide}", values, coords)
    folders = [tmp_path / "features_a", tmp_path / "features_b"]
    found = histofast.compare_features(folders).comparison
    assert found.low[0] < found.matrix[0, 1] < found.high[0]
    assert found.permuted[0] < 0.05
    assert found.convention["interval"] == "95%, 1000 resamples of slides"
    assert found.convention["patches"] == "300 of 300, drawn evenly from the slides"
    assert found.permuted_p[0] == 1 / 100
    bare = histofast.compare_features(folders, resamples=0, permutations=0).comparison
    assert bare.low is None
    assert bare.permuted is None
    np.testing.assert_array_equal(bare.matrix, found.matrix)


OF_FILES = similarity.names_of("rows", "pooled rows")


@pytest.mark.parametrize("name", OF_FILES)
def test_feature_files_by_any_measure_of_features(tmp_path, rng, name):
    measure = similarity.MEASURES[name]
    kept = []
    for slide in range(6):
        x = rng.normal(size=(20, 4)).astype(np.float32)
        y = (x[:, :3] + rng.normal(size=(20, 3)) / 2).astype(np.float32)
        for folder, values in (("a", x), ("b", y)):
            write_features(tmp_path / folder, f"s{slide}", values, np.arange(40).reshape(20, 2))
        kept.append((x, y))
    found = histofast.compare_features(
        [tmp_path / "a", tmp_path / "b"], measure=name, resamples=50, permutations=19
    ).comparison
    x, y = (np.concatenate(side) for side in zip(*kept, strict=True))
    assert found.matrix[0, 1] == pytest.approx(measure.function(x, y))
    assert found.matrix[1, 0] == pytest.approx(measure.function(y, x))
    assert (found.measure, found.convention["formula"]) == (measure.title, measure.formula)
    assert found.low[0] < found.matrix[0, 1] < found.high[0]
    assert found.permuted[0] < found.matrix[0, 1]
    assert found.permuted_p[0] == 1 / 20
    jackknife = name in ("cca", "svcca", "pwcca", "procrustes")
    assert ("jackknife" in found.convention["interval"]) == jackknife


def test_feature_files_are_compared_by_no_other_measure(feature_folders):
    with pytest.raises(
        ValueError, match=r"measure must be cka, .* or knn-jaccard, got 'published'"
    ):
        histofast.compare_features(feature_folders, measure="published")


def test_value_interval_and_null_are_of_the_same_patches(tmp_path, rng):
    """One slide in which both agree, with most of the patches, said 0.5 beside an interval of 0."""
    for slide, n in enumerate([3000, *[30] * 11]):
        x = rng.normal(size=(n, 5)).astype(np.float32)
        y = x if n == 3000 else rng.normal(size=(n, 5)).astype(np.float32)
        for name, values in (("a", x), ("b", y)):
            write_features(tmp_path / name, f"s{slide:02}", values, np.arange(2 * n).reshape(n, 2))
    folders = [tmp_path / "a", tmp_path / "b"]
    everything = [
        np.concatenate([histofast.read_features(p).features for p in sorted(f.iterdir())])
        for f in folders
    ]
    assert similarity.cka(*everything) > 0.5
    found = histofast.compare_features(folders, n=360, seed=2).comparison
    assert (found.n, found.groups) == (360, 12)
    assert found.low[0] < found.matrix[0, 1] < found.high[0] < 0.5
    again = histofast.compare_features(folders, n=360, seed=2, permutations=0).comparison
    np.testing.assert_array_equal(again.matrix, found.matrix)
    drawn = np.random.default_rng(2)
    rows = [
        start + np.sort(drawn.permutation(n)[:30])
        for start, n in [(0, 3000), *((3000 + 30 * i, 30) for i in range(11))]
    ]
    chosen = np.concatenate(rows)
    assert found.matrix[0, 1] == pytest.approx(
        similarity.cka(everything[0][chosen], everything[1][chosen])
    )
    with pytest.raises(ValueError, match="n must be at least 4, got 3"):
        histofast.compare_features(folders, n=3)


def test_few_slides_of_feature_files_give_no_interval(feature_folders):
    found = histofast.compare_features(feature_folders).comparison
    assert found.low is None
    assert found.convention["interval"] == "none: 5 slides are needed, these are 2"


def test_feature_files_of_other_slides_or_grids(feature_folders, tmp_path, rng):
    (feature_folders[1] / "s2.h5").unlink()
    with pytest.raises(ValueError, match=r"features_b lacks 1: take the 1 that all have with"):
        histofast.compare_features(feature_folders)
    found = histofast.compare_features(feature_folders, intersect=True).comparison
    assert (found.n, found.groups) == (60, 1)
    x = rng.normal(size=(60, 3)).astype(np.float32)
    write_features(tmp_path / "features_d", "s1", x, np.ones((60, 2), np.int64))
    with pytest.raises(FeatureError, match=r"s1\.h5 must be of the same patches as .*another grid"):
        histofast.compare_features([feature_folders[0] / "s1.h5", tmp_path / "features_d"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no feature file"):
        histofast.compare_features([feature_folders[0], tmp_path / "empty"])
    with pytest.raises(ValueError, match="folders must be at least 2, got 1"):
        histofast.compare_features(feature_folders[:1])


def test_slides_without_patches_are_left_out(feature_folders):
    before = histofast.compare_features(feature_folders).comparison
    for folder, d in zip(feature_folders, (6, 6, 4), strict=True):
        write_features(folder, "s0", np.empty((0, d), np.float32), np.empty((0, 2), np.int64))
    found = histofast.compare_features(feature_folders).comparison
    np.testing.assert_array_equal(found.matrix, before.matrix)
    assert (found.n, found.groups) == (before.n, 2)
    assert found.convention["left out"] == "slides without a patch: 1 (s0)"
    with pytest.raises(FeatureError, match=r"must have patches, got none in all 1 \(s0\): was no"):
        histofast.compare_features([folder / "s0.h5" for folder in feature_folders])


@pytest.mark.parametrize("put", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_resamples_and_shuffles_are_their_definitions(rng, put):
    n = 7
    x, y = (m + m.T for m in rng.normal(size=(2, n, n)))
    group = np.array([0, 0, 1, 2, 2, 2, 3])
    counts = rng.multinomial(4, np.full(4, 0.25), 5)
    drawn = counts[:, group].astype(float)
    same = (group[:, None] == group).astype(float)
    orders = np.array([rng.permutation(n) for _ in range(3)])
    weights = [np.where(same > 0, d[:, None] * 3 / 4, d[:, None] * d) for d in drawn]
    for products, found in zip(
        (x * y, x * x, y * y),
        resampled(put(x), put(y), drawn=put(drawn), same=put(same), groups=4),
        strict=True,
    ):
        np.testing.assert_allclose(np.asarray(found), [(w * products).sum() for w in weights])
    wanted = [(x * y[order][:, order]).sum() for order in orders]
    np.testing.assert_allclose(np.asarray(shuffled(put(x), put(y), put(orders))), wanted)


def test_resamples_weigh_all_pairs_as_the_similarity_does(rng):
    """Over all draws of three groups each pair counts the same, within a group or across."""
    x, y = (m + m.T for m in rng.normal(size=(2, 6, 6)))
    group = np.array([0, 0, 0, 1, 2, 2])
    counts = np.array([np.bincount(d, minlength=3) for d in itertools.product(range(3), repeat=3)])
    found = resampled(
        x,
        y,
        drawn=counts[:, group].astype(float),
        same=(group[:, None] == group).astype(float),
        groups=3,
    )
    for sums, product in zip(found, (x * y, x * x, y * y), strict=True):
        assert sums.mean() == pytest.approx(product.sum() * (1 - 1 / 3))
