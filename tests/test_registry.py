"""The registry: what it says of the files that come with it, of weights to fetch, and what it refuses."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace

import pytest

from conftest import ROOT
from extras import need
from histofast import encoders, graphs
from histofast.errors import ModelError

REGISTRY = encoders.registry()
SOURCES = list(REGISTRY.sources)
ALIKE = {  # those that spell their keys as another one does
    "lunit-swav-resnet50": "lunit-bt-resnet50",
    "lunit-moco-resnet50": "lunit-bt-resnet50",
    "retccl": "lunit-bt-resnet50",
    "torchvision-resnet34": "torchvision-resnet18",
    "torchvision-resnet50": "torchvision-resnet18",
}

SMALL = """
[weights.w]
sha256 = "00"
network = "densenet121"
bn_eps = 1e-5
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
licence = "MIT"
provenance = "made up"

[encoders.big]
file = "big.onnx"
sha256 = "00"
size_bytes = 1
network = "densenet121"
layer = "pool0"
d = 64
patch_px = 256
mpp = 0.5
precision = "float32"
licence = "MIT"
weights = "w"

[encoders.big-int8]
file = "big-int8.onnx"
sha256 = "01"
size_bytes = 1
network = "densenet121"
layer = "pool0"
d = 64
patch_px = 256
mpp = 1
precision = "int8"
licence = "MIT"
weights = "w"
gflop = 7.9
made = "histofast models quantize big"
parent = "big"

[sources.s]
network = "densenet121"
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
licence = "not stated"
where = "f.pth from https://example.org/"
keys = "torchvision's"
tested = false
note = ""
"""


@pytest.fixture
def read(tmp_path):
    def read(text: str) -> encoders.Registry:
        path = tmp_path / "registry.toml"
        path.write_text(text)
        return encoders.read_registry(path)

    return read


# --- What is read ------------------------------------------------------------------------------


def test_what_is_left_out_is_none(read, tmp_path):
    small = read(SMALL)
    big, int8 = small.encoders["big"], small.encoders["big-int8"]
    assert big.path == tmp_path / "big.onnx"
    assert (big.gflop, big.made, big.parent, big.speed_class) == (None, None, None, None)
    assert (int8.parent, int8.made, int8.mpp) == ("big", "histofast models quantize big", 1)
    source = small.sources["s"]
    assert (source.name, source.tested, source.mean) == ("s", False, (0.5, 0.5, 0.5))
    assert (source.layer, source.bn_eps, source.patch_px, source.mpp) == (None,) * 4
    assert small.weights_of("00") is small.weights["w"]
    assert read("").sources == {}


@pytest.mark.parametrize(
    ("gflop", "wanted"),
    [(0.1, "fast"), (1.99, "fast"), (2.0, "medium"), (7.9, "medium"), (8.0, "slow"), (90, "slow")],
)
def test_speed_classes(read, gflop, wanted):
    entry = read(SMALL).encoders["big"]
    assert replace(entry, gflop=gflop).speed_class == wanted


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[encoders.", "[encodings.", "unknown table 'encodings', wanted one of encoders, weights"),
        ("d = 64", 'd = "64"', "encoders.big: d must be int, got '64'"),
        ("d = 64\n", "", "encoders.big: key 'd' is missing"),
        ("d = 64", "d = true", "encoders.big: d must be int, got True"),
        ("d = 64", "d = 64\nspeed = 1", "encoders.big: unknown key 'speed'"),
        ("d = 64", 'd = 64\nname = "x"', "encoders.big: unknown key 'name'"),
        ("d = 64", 'd = 64\npath = "x"', "encoders.big: unknown key 'path'"),
        ("file = ", "files = ", "encoders.big: unknown key 'files'"),
        ('file = "big.onnx"', "file = 1", "encoders.big: file must be Path, got 1"),
        ('file = "big.onnx"\n', "", "encoders.big: key 'file' is missing"),
        ('weights = "w"', 'weights = "other"', "encoders.big: no table weights.other"),
        ('precision = "int8"', 'precision = "int4"', "must be one of float32, float16, int8, got"),
        ('parent = "big"', 'parent = "bigger"', "parent must be another encoder, got 'bigger'"),
        ('parent = "big"', 'parent = "big-int8"', "parent must be another encoder, got 'big-int8'"),
        ('parent = "big"', "parent = 3", "encoders.big-int8: parent must be str, got 3"),
        ("gflop = 7.9", 'gflop = "7.9"', "encoders.big-int8: gflop must be float, got '7.9'"),
        ("gflop = 7.9", "gflop = 0", "encoders.big-int8: gflop must be positive, got 0"),
        ("gflop = 7.9", "gflop = nan", "encoders.big-int8: gflop must be positive, got nan"),
        ("std = [0.5, 0.5, 0.5]\nlicence = \"MIT", "std = [0.2]\nlicence = \"MIT", "std must be tuple"),
        ("bn_eps = 1e-5\n", "", "weights.w: key 'bn_eps' is missing"),
        ("[sources.s]", "[sources]\ns = 3\n[sources.t]", "sources.s must be a table, got 3"),
        ("\n[weights.w]", "sources = 3\n[sources.t]", "cannot be read"),
        ("tested = false", "tested = 0", "sources.s: tested must be bool, got 0"),
        ("tested = false\n", "", "sources.s: key 'tested' is missing"),
        ("tested = false", "tested = false\nmpp = '0.5'", "sources.s: mpp must be float, got '0.5'"),
        ("tested = false", "tested = false\npatch_px = 2.5", "patch_px must be int, got 2.5"),
        ("tested = false", "tested = false\nurl = ''", "sources.s: unknown key 'url'"),
        ("mean = [0.5, 0.5, 0.5]\nstd = [0.5, 0.5, 0.5]\nlicence = \"not",
         "mean = 0.5\nstd = [0.5, 0.5, 0.5]\nlicence = \"not", "sources.s: mean must be tuple"),
        ("https://example", "ask example", "sources.s: where must name a file and its https:// page"),
    ],
)  # fmt: skip
def test_spoiled_registry_is_refused(read, tmp_path, old, new, message):
    assert old in SMALL
    with pytest.raises(ModelError, match=re.escape(message)) as told:
        read(SMALL.replace(old, new))
    assert str(told.value).startswith(f"{tmp_path / 'registry.toml'}")
    assert "\n" not in str(told.value)


def test_table_that_is_none(read):
    with pytest.raises(ModelError, match="sources must be a table of entries, got 3"):
        read("sources = 3")


def test_unreadable_registry(tmp_path):
    for content in (b"]", b"\xff\xfe"):
        path = tmp_path / "registry.toml"
        path.write_bytes(content)
        with pytest.raises(ModelError, match=r"registry\.toml cannot be read"):
            encoders.read_registry(path)
    with pytest.raises(ModelError, match=r"none\.toml cannot be read"):
        encoders.read_registry(tmp_path / "none.toml")


# --- The encoders that come with histofast ------------------------------------------------------


@pytest.mark.parametrize("name", REGISTRY.encoders)
def test_every_file_is_what_its_entry_says(name):
    entry = REGISTRY.encoders[name]
    spec = encoders.read_spec(entry.path)
    assert encoders.sha256_of(entry.path) == entry.sha256
    assert entry.path.stat().st_size == entry.size_bytes
    for key in ("name", "sha256", "size_bytes", "network", "layer", "d", "patch_px", "mpp"):
        assert getattr(spec, key) == getattr(entry, key), key
    assert (spec.precision, spec.licence) == (entry.precision, entry.licence)
    assert (spec.height_px, spec.width_px) == (None, None)
    known = REGISTRY.weights[entry.weights]
    assert (spec.weights_sha256, spec.provenance) == (known.sha256, known.provenance)
    assert known.network == entry.network
    parent = None if entry.parent is None else REGISTRY.encoders[entry.parent]
    assert spec.made_from == (None if parent is None else parent.sha256)
    assert (spec.agreement is None) == (parent is None)


@pytest.mark.parametrize("name", REGISTRY.encoders)
def test_every_encoder_has_its_terms_its_making_and_its_cost(name):
    entry = REGISTRY.encoders[name]
    assert (entry.path.parent / f"LICENSE-{entry.weights}").is_file()
    assert entry.made is not None
    assert entry.made.startswith("histofast models ")
    of = entry if entry.parent is None else REGISTRY.encoders[entry.parent]
    operations = graphs.total_flops(str(of.path), patch_px=entry.patch_px)
    assert entry.gflop == pytest.approx(operations / 1e9, rel=1e-2)


def test_the_default_is_registered():
    assert encoders.DEFAULT in REGISTRY.encoders


# --- Its README --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def readme():
    text = (ROOT / "models" / "README.md").read_text()  # not installed
    return re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)


@pytest.mark.parametrize("name", REGISTRY.encoders)
def test_readme_tells_of_every_encoder(readme, name):
    entry = REGISTRY.encoders[name]
    (section,) = (part for part in readme.split("\n## ") if part.startswith(entry.path.name))
    for told in (entry.licence, entry.made, f"{entry.size_bytes / 1e6:.1f} MB", "patches/s"):
        assert told in section, told


@pytest.mark.parametrize("name", SOURCES)
def test_readme_tells_of_every_source(readme, name):
    source = REGISTRY.sources[name]
    (row,) = (line for line in readme.splitlines() if line.startswith(f"| `{name}` |"))
    network = source.network + (f" to {source.layer}" if source.layer else "")
    stated = [source.patch_px and f"{source.patch_px} px", source.mpp and f"{source.mpp:g} um/px"]
    meant = " at ".join(filter(None, stated)) or "not stated"
    assert row == f"| `{name}` | {network} | {meant} | {source.licence} | {source.where} |"


def test_readme_says_whether_the_loaders_are_tested(readme):
    untested = not any(source.tested for source in REGISTRY.sources.values())
    assert ("No loader of this table has been run on the real file" in readme) == untested


# --- Sources as networks -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def networks():
    need("torch", "safetensors")
    from histofast import networks

    return networks


@pytest.fixture
def weights_file(networks, tmp_path):
    """Write a torch file of made-up weights in the spelling that a source's `keys` tells of."""
    torch = need("torch")

    def positions(network):
        return {stage: str(i) for i, stage in enumerate(network.stage_names)}

    def write(name: str):
        network = networks.create(REGISTRY.sources[name].network, seed=7)
        state = network.state_dict()
        if name == "kimianet":
            state = {f"module.model.0.{k.removeprefix('features.')}": v for k, v in state.items()}
            state["module.fc_4.weight"] = torch.zeros(30, network.d)
            state["module.fc_4.bias"] = torch.zeros(30)
        elif name == "ciga-simclr-resnet18":
            state |= {f"fc.{i}.weight": torch.zeros(512, 512) for i in (1, 3)}
            state = {"state_dict": {f"model.resnet.{k}": v for k, v in state.items()}}
        elif name == "radimagenet-resnet50":
            number = positions(network)
            split = {k: k.partition(".") for k in state}
            state = {f"backbone.{number[split[k][0]]}.{split[k][2]}": v for k, v in state.items()}
            assert {"backbone.0.weight", "backbone.4.0.conv1.weight"} <= state.keys()
        elif name == "torchvision-densenet121":
            state = {
                re.sub(r"(layer\d+\.(norm|conv))(\d)", r"\1.\3", k): v for k, v in state.items()
            }
            assert "features.denseblock1.denselayer1.norm.1.weight" in state
            state["classifier.weight"] = torch.zeros(1000, network.d)
        elif name == "torchvision-inception-v3":
            state |= {"AuxLogits.conv0.conv.weight": torch.zeros(128, 768, 1, 1)}
            state |= {"fc.weight": torch.zeros(1000, network.d)}
        elif name == "torchvision-squeezenet1.1":
            state["classifier.1.weight"] = torch.zeros(1000, network.d, 1, 1)
        elif name.startswith("torchvision-"):
            state["fc.weight"] = torch.zeros(1000, network.d)
        path = tmp_path / "weights.pth"
        torch.save(state, path)
        return path, network

    return write


@pytest.mark.parametrize("name", ALIKE)
def test_sources_said_to_be_alike_are(name):
    alike = REGISTRY.sources[ALIKE[name]]
    assert REGISTRY.sources[name].keys == alike.keys


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_is_a_network_here(networks, name):
    source = REGISTRY.sources[name]
    assert source.network in networks.names()
    assert name not in networks.names()
    cuts = networks.layers(name)
    assert cuts == networks.layers(source.network)
    assert source.layer in (None, *(cut.name for cut in cuts))


# Those of Keras load in tests/test_keras_weights.py.
@pytest.mark.parametrize("name", [n for n in SOURCES if n not in ALIKE and n[-6:] != "-keras"])
def test_sources_load_in_their_spelling(networks, weights_file, name):
    torch = need("torch")
    source = REGISTRY.sources[name]
    path, made_up = weights_file(name)
    network = networks.create(name, weights=path)
    assert (network.architecture, network.source) == (source.network, name)
    assert (network.mean, network.std) == (source.mean, source.std)
    assert network.layer == (source.layer or networks.layers(name)[-1].name)
    assert (network.loaded.missing, network.loaded.unexpected) == ((), ())
    eps = {m.eps for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)}
    assert eps == (set() if source.bn_eps is None else {source.bn_eps})
    wanted = made_up.state_dict()
    for key, value in network.state_dict().items():
        assert torch.equal(value, wanted[key]), key


def test_source_without_weights_says_where_they_are(networks):
    wanted = "weights must be given for kimianet: get KimiaNetPyTorchWeights.pth from https://kimia"
    with pytest.raises(ValueError, match=re.escape(wanted)):
        networks.create("kimianet")


def test_unknown_name_offers_sources_too(networks):
    with pytest.raises(ModelError, match=r"network must be one of .*did you mean kimianet\?"):
        networks.create("kimia-net")
    with pytest.raises(ModelError, match=r"did you mean lunit-bt-resnet50"):
        networks.layers("lunit-bt-resnet5")


def test_known_file_of_other_weights_is_refused(networks, data):
    path = data / "weights" / "densenet121_imagenet.safetensors"
    with pytest.raises(ModelError, match="holds weights of densenet121, not of kimianet"):
        networks.create("kimianet", weights=path)


def with_source(monkeypatch, **changes):
    source = replace(REGISTRY.sources["ciga-simclr-resnet18"], name="mine", **changes)
    changed = replace(REGISTRY, sources=REGISTRY.sources | {"mine": source})
    for module in ("creation", "exporting"):
        monkeypatch.setattr(f"histofast.networks.{module}.registry", lambda: changed)
    return source


def test_source_of_a_network_that_is_none(networks, monkeypatch):
    with_source(monkeypatch, network="resnet1")
    with pytest.raises(
        ModelError, match=r"^network of source mine must be one of .*'resnet1': did"
    ):
        networks.create("mine", weights="f.pth")


def test_explicit_arguments_win(networks, weights_file):
    path, _ = weights_file("ciga-simclr-resnet18")
    network = networks.create("ciga-simclr-resnet18", weights=path, layer="bn1", bn_eps=1e-3)
    assert (network.layer, network.bn1.eps) == ("bn1", 1e-3)
    assert networks.create("resnet18", layer="bn1").source is None


def test_export_takes_from_the_source_what_is_not_given(
    networks, monkeypatch, weights_file, tmp_path
):
    path, _ = weights_file("ciga-simclr-resnet18")
    source = with_source(monkeypatch, layer="maxpool", patch_px=64, mpp=1.0)
    network = networks.create("mine", weights=path)
    spec = networks.export(network, tmp_path / "a.onnx")
    assert (spec.network, spec.layer, spec.patch_px, spec.mpp) == ("resnet18", "maxpool", 64, 1.0)
    assert (spec.provenance, spec.licence) == (f"mine: {source.where}", source.licence)
    assert spec.weights_sha256 == encoders.sha256_of(path)
    told = {"patch_px": 32, "mpp": 0.25, "provenance": "a friend", "licence": "CC0"}
    spec = networks.export(network, tmp_path / "b.onnx", **told)
    assert {key: getattr(spec, key) for key in told} == told


def test_export_defaults_where_the_source_states_nothing(
    networks, monkeypatch, weights_file, tmp_path
):
    path, _ = weights_file("ciga-simclr-resnet18")
    with_source(monkeypatch, layer="maxpool", patch_px=None)
    spec = networks.export(networks.create("mine", weights=path), tmp_path / "a.onnx")
    assert (spec.patch_px, spec.mpp) == (256, 0.5)


# --- The command line --------------------------------------------------------------------------


def test_models_list(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    answer = cli("models", "list")
    assert (answer.code, answer.err) == (0, [])
    lines = answer.out.splitlines()
    assert max(map(len, lines)) <= 100
    first, second = answer.out.split("\n\n")
    assert first.splitlines()[0].split() == (
        ["encoder", "d", "px", "mpp", "type", "MB", "GFLOP", "speed", "licence", "weights", "here"]
    )
    row = next(line for line in lines if line.startswith(encoders.DEFAULT + " ")).split()
    wanted = f"{encoders.DEFAULT} 512 256 0.5 float32 5.2 5.0 medium MIT densenet121-imagenet yes"
    assert row == wanted.split()
    words = second.split()
    for name, source in REGISTRY.sources.items():
        assert re.search(
            rf"^{name} +{source.network} +untested +{re.escape(source.licence)}$",
            second,
            re.MULTILINE,
        )
        assert set(source.where.split()) <= set(words)


def test_models_list_of_an_incomplete_installation(cli, monkeypatch, read, tmp_path):
    small = read(SMALL.replace("tested = false", "tested = true"))
    monkeypatch.setattr("histofast.encoders.registry", lambda: small)
    (tmp_path / "big-int8.onnx").touch()
    answer = cli("models", "list")
    assert re.search(r"^big +64 .* MIT +w +no$", answer.out, re.MULTILINE)
    assert re.search(r"^big-int8 +64 .* int8 .* 7\.9 +medium .* yes$", answer.out, re.MULTILINE)
    assert re.search(r"^s +densenet121 +tested +not stated$", answer.out, re.MULTILINE)


def test_models_list_as_json(cli):
    said = json.loads(cli("models", "list", "--json").out)
    assert {kind: [e["name"] for e in said[kind]] for kind in said} == {
        "encoders": list(REGISTRY.encoders),
        "weights": list(REGISTRY.weights),
        "sources": SOURCES,
        "foundation": list(REGISTRY.foundation),
        "elsewhere": list(REGISTRY.elsewhere),
    }
    default = next(e for e in said["encoders"] if e["name"] == encoders.DEFAULT)
    assert (default["speed"], default["present"], default["gflop"]) == ("medium", True, 4.96)
    assert default["path"] == str(REGISTRY.encoders[encoders.DEFAULT].path)
    assert said["sources"][0]["mean"] == list(REGISTRY.sources[SOURCES[0]].mean)


def test_models_export_of_a_source(cli, weights_file, tmp_path):
    path, _ = weights_file("ciga-simclr-resnet18")
    out = tmp_path / "ciga.onnx"
    arguments = ("--weights", path, "--layer", "maxpool", "--out", out)
    answer = cli("models", "export", "ciga-simclr-resnet18", *arguments)
    assert (answer.code, answer.err) == (0, [])
    spec = encoders.read_spec(out)
    assert (spec.network, spec.patch_px, spec.mpp) == ("resnet18", 224, 0.5)
    assert spec.provenance.startswith("ciga-simclr-resnet18: pytorchnative_tenpercent_resnet18")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = " + "[" * 9999, r"registry\.toml cannot be read: its arrays are nested too deeply"),
        ("a = " + "1" * 5000, r"registry\.toml cannot be read: Exceeds the limit"),
        (".".join("a" * 9999) + " = 1", r"registry\.toml, line 1: must have at most 100 points"),
        ("#" * (1 << 21), r"registry\.toml must have at most 1048576 bytes, got 2097152"),
        ("x = 1\0", r"registry\.toml cannot be read: "),
        ('["a\\nb"]', r"unknown table 'a\\nb'"),
        (
            SMALL.replace('"densenet121"', f'["{"x" * 9999}"]', 1),
            r"network must be str, got \['x+\.\.\.",
        ),
        ('["weights"."a\\nb\\u001b"]', r"weights\.a\\nb\\u001b: key 'sha256' is missing"),
    ],
)
def test_whatever_a_registry_holds_is_refused_in_one_short_line(read, text, message):
    with pytest.raises(ModelError, match=message) as error:
        read(text)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_a_registry_that_is_no_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "r.toml")
    with pytest.raises(ModelError, match=r"registry .*r\.toml must be a file, got a named pipe"):
        encoders.read_registry(tmp_path / "r.toml")
