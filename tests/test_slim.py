"""Slim networks: their widths, their names, what a slim start holds, and a run of one."""

from __future__ import annotations

import math
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference
from extras import need
from labelled_pictures import write_pictures

torch = need("torch", "safetensors")

from safetensors.torch import save_file

from histofast import classify, encoders, networks
from histofast.errors import ModelError
from histofast.networks import starts
from histofast.slides import read_image
from lively import lively

RESNET18 = partial(reference.resnet_convolutions, (2, 2, 2, 2), expansion=1)
RESNET50 = partial(reference.resnet_convolutions, (3, 4, 6, 3), expansion=4)
DENSENET121 = partial(reference.densenet_convolutions, (6, 12, 24, 16))
SLIM = [
    ("resnet18", "maxpool", 2, RESNET18((64, 32, 64, 128, 256))),
    ("resnet18", "layer1", 4, RESNET18((64, 64, 32, 64, 128))),
    ("resnet18", "layer2", 2, RESNET18((64, 64, 128, 128, 256))),
    ("resnet18", "layer3", 256, RESNET18((64, 64, 128, 256, 2))),
    ("resnet50", "layer2", 2, RESNET50((64, 64, 128, 128, 256))),
    ("resnet50", "maxpool", 8, RESNET50((64, 8, 16, 32, 64))),
    ("densenet121", "pool0", 2, DENSENET121((16, 16, 16, 16), (64, 128, 256))),
    ("densenet121", "denseblock2", 2, DENSENET121((32, 32, 16, 16), (128, 128, 256))),
    ("densenet121", "transition2", 4, DENSENET121((32, 32, 8, 8), (128, 256, 128))),
    ("cbr-small", "pool2", 4, reference.cbr_convolutions((32, 64, 32, 64), kernel_px=7)),
    ("cbr-large-t", "pool4", 2, reference.cbr_convolutions((32, 64, 128, 256, 256), kernel_px=7)),
]
AS_PUBLISHED = [
    ("resnet18", RESNET18((64, 64, 128, 256, 512))),
    ("resnet50", RESNET50((64, 64, 128, 256, 512))),
    ("densenet121", DENSENET121((32, 32, 32, 32), (128, 256, 512))),
    ("cbr-tiny", reference.cbr_convolutions((32, 64, 128, 256), kernel_px=5)),
]


def convolutions(network):
    return {
        name: tuple(module.weight.shape)
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.Conv2d)
    }


@pytest.mark.parametrize(("name", "wanted"), AS_PUBLISHED)
def test_the_definition_is_that_of_the_networks_as_published(name, wanted):
    assert convolutions(networks.create(name)) == wanted


@pytest.mark.parametrize(("whole", "layer", "factor", "wanted"), SLIM)
def test_widths_are_those_of_the_definition(whole, layer, factor, wanted):
    network = networks.create(f"{whole}-slim-{layer}-{factor}", classes=3)
    assert convolutions(network) == wanted
    d = networks.layers(network.architecture)[-1].d
    assert network.get_submodule(network.head).weight.shape == (3, d)
    with torch.inference_mode():
        assert network(torch.rand(2, 3, 224, 224)).shape == (2, 3)


def test_the_page_has_their_sizes():
    page = (Path(__file__).resolve().parent.parent / "docs" / "starts.md").read_text()
    rows = re.findall(r"^\| `(\S+)` \| ([\d,]+) \| ([\d,]+) \|$", page, re.MULTILINE)
    assert len(rows) == 8
    for name, *told in rows:
        network = networks.create(name)
        found = network.d, sum(p.numel() for p in network.parameters())
        assert [f"{n:,}" for n in found] == told


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Weights of whole networks that no seed gives, with statistics, by network and number."""
    folder = tmp_path_factory.mktemp("weights")

    def file(name, seed=0):
        path = folder / f"{name}-{seed}.safetensors"
        if not path.exists():
            save_file(lively(name, seed=seed).state_dict(), path)
        return path

    return file


def stages_up_to(network, layer):
    names = [cut.name for cut in networks.layers(network)]
    return set(names[: names.index(layer) + 1])


def stage_of(key):
    return key.removeprefix("features.").split(".")[0]


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("resnet18", "layer2"),
        ("resnet18", "conv1"),  # bn1 is as wide as before, and new
        ("resnet50", "layer3"),
        ("densenet121", "denseblock2"),
        ("cbr-small", "relu2"),
    ],
)
def test_a_start_is_equal_up_to_the_layer_and_random_after_it(files, name, layer):
    begun = starts.begin(name, f"slim:{files(name)}:{layer}:2", classes=2, seed=3)
    found, base = begun.state_dict(), networks.create(name, weights=files(name)).state_dict()
    random = networks.create(begun.architecture, classes=2, seed=3)
    other = networks.create(begun.architecture, classes=2, seed=4).state_dict()
    kept = stages_up_to(name, layer)
    for key, value in found.items():
        taken = stage_of(key) in kept
        assert torch.equal(value, (base if taken else random.state_dict())[key]), key
        if not taken and value.ndim == 4:
            assert not torch.equal(value, other[key]), key
            fan = (
                value[0].numel()
                if not name.startswith("resnet")
                else len(value) * value[0, 0].numel()
            )
            deviation, n = math.sqrt(2 / fan), value.numel()  # He et al., 2015
            assert abs(float(value.double().mean())) < 5 * deviation / math.sqrt(n), key
            spread = float(value.double().std(correction=0))
            assert spread == pytest.approx(deviation, abs=5 * deviation / math.sqrt(2 * n)), key
    assert {stage_of(key) for key in found} > kept & {stage_of(key) for key in base}


@pytest.mark.parametrize(
    ("source", "layer"), [("ciga-simclr-resnet18", "layer2"), ("kimianet", "denseblock2")]
)
def test_what_a_start_standardises_with_stays(files, source, layer):
    file = files("resnet18" if "resnet18" in source else "densenet121")
    begun, whole = starts.begin(source, f"slim:{file}:{layer}:2"), starts.begin(source, file)
    assert (begun.mean, begun.std) == (whole.mean, whole.std)
    assert starts.eps_of(begun) == starts.eps_of(whole)
    assert begun.layer == whole.layer == networks.layers(begun.architecture)[-1].name


LAYERS = {"resnet18": ("layer1", "layer2", "layer3"), "cbr-small": ("pool1", "pool2", "pool3")}


@given(
    st.sampled_from([(name, layer) for name, of in LAYERS.items() for layer in of]),
    st.integers(0, 6),
)
def test_a_name_gives_the_network_of_that_name(which, power):
    name, layer = which
    slim = starts.network_of(name, f"slim:random:{layer}:{2**power}") if power else name
    assert networks.layers(slim)[-1].d * 2**power == networks.layers(name)[-1].d
    if power:
        assert slim == f"{name}-slim-{layer}-{2**power}"
        assert starts.network_of(slim, "random") == slim


@pytest.mark.parametrize(
    ("network", "start", "made"),
    [
        ("resnet18", "slim:random:conv1:2", "resnet18-slim-maxpool-2"),
        ("resnet18", "slim:random:maxpool:2", "resnet18-slim-maxpool-2"),
        ("cbr-tiny", "slim:random:bn2:4", "cbr-tiny-slim-pool2-4"),
        ("densenet121", "slim:random:transition3:2", "densenet121-slim-transition3-2"),
        ("kimianet", "slim:absent.pth:denseblock3:8", "densenet121-slim-denseblock3-8"),
        ("resnet18", "mean-var:slim:random:layer2:2", "resnet18-slim-layer2-2"),
        ("resnet18", "transfuse:slim:random:layer2:2:layer3", "resnet18-slim-layer2-2"),
        ("resnet18", "slim:merge:mean:a.pth+b.pth:layer1:2", "resnet18-slim-layer1-2"),
    ],
)
def test_a_network_has_one_name(network, start, made):
    assert starts.network_of(network, start) == made
    assert starts.parse(str(starts.parse(start))) == starts.parse(start)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18-slim-conv1-2", "network must be called resnet18-slim-maxpool-2, got"),
        ("resnet18-slim-layer2-02", "network must be called resnet18-slim-layer2-2, got"),
        ("resnet18-slim-layer2-٢", "network must be called resnet18-slim-layer2-2, got"),
        ("resnet81-slim-layer2-2", "network must be one of .*'resnet81': did you mean resnet18"),
        ("resnet18-slim", "network must be one of .*: did you mean resnet18"),
    ],
)
def test_other_spellings_are_refused(name, message):
    with pytest.raises(ModelError, match=message) as raised:
        networks.create(name)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("network", "start", "message"),
    [
        ("resnet18", "{}:layer4:2", "layer must have convolutions of resnet18 after it.*'layer4'"),
        ("resnet18", "{}:layr2:2", "got 'layr2': did you mean layer2"),
        ("densenet121", "{}:denseblock4:2", "layer must have .*transition3, got 'denseblock4'"),
        ("cbr-large-t", "{}:relu5:2", "layer must have .*pool4, got 'relu5'"),
        ("resnet18", "{}:layer2:3", "factor must divide .* one of 2, 4, .*, 256, got 3"),
        ("resnet18", "{}:layer2:512", "factor must divide .*, got 512"),
        ("resnet18", "{}:layer2:1", "factor must divide .*, got 1"),
        ("densenet121", "{}:pool0:64", "factor must divide .* one of 2, 4, 8, 16, 32, got 64"),
        ("squeezenet1.1", "{}:fire2:2", "network must be a whole .*, got squeezenet1.1"),
        ("inception-v3", "{}:Mixed_5b:2", "network must be a whole .*, got inception-v3"),
        ("resnet18", "slim:{}:layer1:2:layer3:2", "must be a whole .*, got resnet18-slim-layer1-2"),
    ],
)
def test_layers_and_factors_are_refused_before_a_file_is_read(tmp_path, network, start, message):
    text = "slim:" + start.format(tmp_path / "absent.pth")
    for told in (text, f"mean-var:{text}", f"merge:mean:{text}+{text}"):
        with pytest.raises(ModelError, match=message) as raised:
            starts.begin(network, told)
        assert "\n" not in str(raised.value)
    with pytest.raises(ModelError, match=message):
        classify.train(tmp_path / "no-data", network=network, start=text, out=tmp_path / "run")


@pytest.mark.parametrize(
    "text",
    ["slim:w.pth", "slim:w.pth:layer2", "slim:w.pth:layer2:02", "slim:w.pth:layer2:x", "slim:::2"],
)
def test_bad_texts(text):
    with pytest.raises(ValueError, match="must have a start, a layer and a factor: slim:START:LAY"):
        starts.parse(text)


@pytest.mark.parametrize(
    ("start", "is_merged"),
    [
        ("merge:mean:{0}+{1}", True),
        ("slim:merge:mean:{0}+{1}:pool1:2", True),
        ("transfuse:slim:merge:mean:{0}+{1}:pool1:2:pool2", True),
        ("slim:{0}:pool1:2", False),
        ("mean-var:merge:mean:{0}+{1}", False),  # its statistics are those of no data
        ("random", False),
    ],
)
def test_a_merge_within_counts_as_merged(files, start, is_merged):
    told = starts.identity(start.format(files("cbr-tiny"), files("cbr-tiny", seed=1)))
    assert starts.is_merged(told) == is_merged


def test_merges_of_merges_are_for_python(files, tmp_path):
    """Text has no brackets; a run of such a start is trained all the same."""
    a, b, c = (starts.File(str(files("resnet18", seed=seed))) for seed in range(3))
    start = starts.Merge("mean", (starts.Merge("mean", (a, b)), c))
    run = classify.train(
        write_pictures(tmp_path, n=24, groups=12),
        network="resnet18",
        start=start,
        recipe=classify.Recipe(epochs=1, batch_size=8, freeze="head"),
        out=tmp_path / "run",
    )
    states = [networks.create("resnet18", weights=each.path).state_dict() for each in (a, b, c)]
    inner = (states[0]["conv1.weight"] + states[1]["conv1.weight"]) / 2
    wanted = (inner + states[2]["conv1.weight"]) / 2
    torch.testing.assert_close(run.network().state_dict()["conv1.weight"], wanted)


def test_identity_is_of_start_layer_and_factor(files):
    file = files("cbr-tiny")
    told = [
        starts.identity(f"slim:{start}:{layer}:{factor}")
        for start, layer, factor in [
            (file, "pool2", 2),
            (file, "pool2", 4),
            (file, "pool3", 2),
            ("random", "pool2", 2),
        ]
    ]
    assert all(told.count(each) == 1 for each in told)
    assert told[0] == {"kind": "slim", "of": starts.identity(file), "layer": "pool2", "factor": 2}


# --- A run ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory, files):
    """Two finished runs from slim starts, and their pictures."""
    folder = tmp_path_factory.mktemp("runs")
    table = write_pictures(folder, n=36, groups=12)
    recipe = classify.Recipe(epochs=1, batch_size=8, freeze="all")
    return [
        classify.train(
            table,
            network="resnet18",
            start=f"slim:{files('resnet18')}:layer2:2",
            recipe=recipe,
            out=folder / f"run-{seed}",
            seed=seed,
        )
        for seed in (0, 1)
    ]


NAME = "resnet18-slim-layer2-2"


def test_a_run_is_of_the_slim_network(runs):
    run = runs[0]
    assert run.architecture == run.record.identity["network"]["name"] == NAME
    assert run.record.identity["start"]["kind"] == "slim"
    assert convolutions(run.network()) == RESNET18((64, 64, 128, 128, 256))
    again = starts.begin(NAME, f"run:{run.path}").state_dict()
    own = run.network(head=False).state_dict()
    assert all(torch.equal(again[key], own[key]) for key in own)
    with pytest.raises(ModelError, match=f"got one of {NAME}: name that network"):
        starts.begin("resnet18", f"run:{run.path}")


def test_a_run_becomes_an_encoder_that_agrees_with_torch(cli, runs, tmp_path):
    run, out = runs[0], tmp_path / "e.onnx"
    answer = cli("models", "export", "--run", run.path, "--out", out)
    assert (answer.code, answer.err) == (0, [])
    spec = encoders.read_spec(out)
    assert (spec.network, spec.layer, spec.d) == (NAME, "layer4", 256)
    pixels = np.stack([read_image(run.path.parent / name) for name in run.names[:5]])
    x = (pixels / 255 - np.array(run.network().mean)) / np.array(run.network().std)
    with torch.inference_mode():
        wanted = run.network(head=False)(torch.from_numpy(x.transpose(0, 3, 1, 2)).float()).numpy()
    with encoders.load(out, device="cpu", threads=1) as encoder:
        np.testing.assert_allclose(encoder.encode(pixels), wanted, rtol=1e-4, atol=1e-5)
    assert networks.restore(out).architecture == NAME


def test_a_run_predicts(cli, runs, tmp_path):
    answer = cli(
        *("classify", "--predict", runs[0].path, runs[0].path.parent / "img"),
        *("--out", tmp_path / "pred.csv"),
    )
    assert answer.code == 0, answer.err
    rows = (tmp_path / "pred.csv").read_text().splitlines()
    assert rows[0] == "file,predicted,p_a,p_b"
    assert len(rows) == 37


def test_slim_networks_are_merged(cli, runs, tmp_path):
    a, b = (run.path for run in runs)
    answer = cli("models", "merge", a, b, "--out", tmp_path / "of-runs.safetensors")
    assert answer.code == 0, answer.err
    assert answer.out.startswith(f"{NAME}: ")
    files = [path / "weights.safetensors" for path in (a, b)]
    answer = cli("models", "merge", *files, "--out", tmp_path / "m.safetensors")
    assert answer.code == 1
    assert answer.err[-1].endswith(
        "fits none as published: tell --network, one from a slim start by its name, such as "
        "resnet18-slim-layer2-2"
    )
    answer = cli(
        *("models", "merge", *files, "--network", NAME, "--out", tmp_path / "m.safetensors")
    )
    assert answer.code == 0, answer.err
    merged = [
        networks.create(NAME, weights=tmp_path / name).state_dict()
        for name in ("of-runs.safetensors", "m.safetensors")
    ]
    own = [run.network(head=False).state_dict() for run in runs]
    for key, value in merged[0].items():
        assert torch.equal(value, merged[1][key]), key
        if value.is_floating_point():
            torch.testing.assert_close(value, (own[0][key] + own[1][key]) / 2)
