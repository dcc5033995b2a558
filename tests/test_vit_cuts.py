"""Vision transformers of timm cut after a block: against timm's own intermediates."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter

import numpy as np
import onnx
import pytest

from extras import need
from histofast import encoders, graphs
from histofast.errors import ModelError
from histofast.slides import write_png
from timm_here import need_timm

torch = need("torch", "onnxscript")
timm = need_timm()

from histofast import networks

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

VIT = "timm:test_vit"
SMALL = {"img_size": 64, "depth": 4, "reg_tokens": 3, "init_values": 0.5}
POOLS = {
    "": lambda cls, patches: patches.mean(1),
    "-cls": lambda cls, patches: cls,
    "-cls+mean": lambda cls, patches: torch.cat([cls, patches.mean(1)], 1),
}


NORMS = {"": True, "-no-norm": False}


def whole_vit(layer=None):
    """Random weights, those of the last norm too, so that it shows where that is applied."""
    network = networks.create(VIT, timm_args=SMALL, layer=layer, seed=3)
    if isinstance(network.model.norm, torch.nn.LayerNorm):
        generator = torch.Generator().manual_seed(1)
        torch.nn.init.normal_(network.model.norm.weight, generator=generator)
    return network


def intermediates(model, x, number, *, norm):
    """What timm has behind a block: tokens of patches, and those before them."""
    ((patches, prefix),) = model.forward_intermediates(
        x,
        indices=[number - 1],
        norm=norm,
        output_fmt="NLC",
        return_prefix_tokens=True,
        intermediates_only=True,
    )
    assert patches.shape[1:] == (16, 64)
    return patches, prefix


def largest_error(got, wanted):
    return float(((got - wanted).norm(dim=1) / wanted.norm(dim=1)).max())


@pytest.mark.parametrize("number", [1, 3, 4])
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("norm", NORMS)
def test_a_cut_is_what_timm_has_there(number, pool, norm):
    """Its own last norm applied, or not; registers are in no mean."""
    name = f"block{number}{pool}{norm}"
    whole, cut = whole_vit(), whole_vit(name)
    x = torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        patches, prefix = intermediates(whole.model, x, number, norm=NORMS[norm])
        assert largest_error(cut(x), POOLS[pool](prefix[:, 0], patches)) < 1e-5
    assert len(cut.model.blocks) == number
    assert cut.layer == name
    assert ("model.norm.weight" in cut.state_dict()) == NORMS[norm]


def test_the_last_block_is_the_whole():
    whole = whole_vit()
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        tokens = whole.model.forward_features(x)
        for pool, pooled in POOLS.items():
            wanted = pooled(tokens[:, 0], tokens[:, 4:])
            assert largest_error(whole_vit(f"block4{pool}")(x), wanted) < 1e-5
        assert largest_error(whole_vit("block4-cls")(x), whole(x)) < 1e-5
        assert largest_error(whole_vit("block4-cls-no-norm")(x), whole(x)) > 0.1


def test_what_a_cut_takes_by_hand():
    """64 wide, 2 heads, an MLP of 3 x 64 within each block, 16 patches of 16 px, LayerScale."""
    cuts = {cut.name: cut for cut in networks.layers(VIT, timm_args=SMALL)}
    tokens, d = 16 + 1 + 3, 64
    products = tokens * d * (3 * d + d + 2 * 3 * d) + 2 * tokens * tokens * d
    of_products = d * (3 * d + d + 2 * 3 * d) + (3 * d + d + 3 * d + d)  # weights and biases
    of_block = of_products + 2 * 2 * d + 2 * d  # two norms, two scales
    first_products = 16 * 16 * 16 * 3 * d
    # The kernel; class token and registers; positions.
    first = (16 * 16 * 3 + 1) * d + 4 * d + tokens * d
    norm = 2 * d
    whole = first + 4 * of_block + norm
    assert whole == sum(values.numel() for values in whole_vit().parameters())
    for number in range(1, 5):
        done = first_products + number * products
        for pool in POOLS:
            for suffix, has_norm in NORMS.items():
                cut = cuts[f"block{number}{pool}{suffix}"]
                assert cut.gmac == pytest.approx(done / 1e9)
                assert cut.flops_share == pytest.approx(done / (first_products + 4 * products))
                held = first + number * of_block + norm * has_norm
                assert cut.parameters == held
                assert cut.parameters_share == pytest.approx(held / whole)
                assert cut.d == d * (1 + (pool == "-cls+mean"))
    assert (cuts["features"].flops_share, cuts["features"].parameters) == (1, whole)
    assert len(cuts) == 4 * 3 * 2 + 1


def test_without_a_class_token_there_is_the_mean():
    arguments = {"class_token": False, "global_pool": "avg", "reg_tokens": 0, "depth": 2}
    names = [cut.name for cut in networks.layers(VIT, timm_args=arguments)]
    assert names == ["block1-no-norm", "block1", "block2-no-norm", "block2", "features"]
    with pytest.raises(ModelError, match="got 'block1-cls': did you mean block1"):
        networks.create(VIT, timm_args=arguments, layer="block1-cls")


def test_other_models_keep_their_stages():
    assert [cut.name for cut in networks.layers("timm:test_resnet")][-2:] == ["layer4", "features"]


# --- Several in one file --------------------------------------------------------------------------

SEVERAL = ["block3-cls", "block1-cls+mean-no-norm", "features", "block3", "block3-cls+mean"]


def standardised(network, pixels):
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (network.mean, network.std))
    return (x - mean) / std


def test_several_cuts_are_what_each_gives_alone(tmp_path):
    """One run: norms of some, none of others, and the whole."""
    whole = whole_vit()
    specs = networks.export_cuts(whole, tmp_path / "all.onnx", layers=SEVERAL, name="vit")
    assert [(s.layer, s.d) for s in specs] == [
        ("block1-cls+mean-no-norm", 128),
        ("block3-cls", 64),
        ("block3-cls+mean", 128),
        ("block3", 64),
        ("features", 64),
    ]
    assert [s.name for s in specs][1:3] == ["vit-block3-cls", "vit-block3-cls+mean"]
    assert {(s.network, s.patch_px, s.weights_sha256) for s in specs} == {
        (whole.architecture, 64, "random")
    }
    assert "opset 23" in specs[0].exporter
    cuts = {cut.name: cut for cut in networks.layers(whole.architecture)}
    assert [s.work for s in specs] == [cuts[s.layer].work for s in specs]
    told = json.loads(specs[1].work)
    assert told["gmac_share"] == pytest.approx(cuts["block3-cls"].flops_share, abs=1e-6)
    assert told["parameters"] == cuts["block3-cls"].parameters
    nodes = Counter(node.op_type for node in onnx.load(specs[0].path).graph.node)
    assert nodes["Attention"] == 4  # each block once
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    with encoders.load_all(specs[0].path) as together, torch.inference_mode():
        for spec, got in zip(specs, together.encode(pixels), strict=True):
            alone = whole_vit(spec.layer)
            wanted = alone(standardised(alone, pixels))
            assert largest_error(torch.from_numpy(got), wanted) < 1e-5, spec.layer


def test_several_cuts_need_no_more_than_the_last(tmp_path):
    """Built up to it; what it lacks is refused with the names that it has."""
    cut = whole_vit("block2")
    specs = networks.export_cuts(cut, tmp_path / "two.onnx", opset=18)
    assert [s.layer for s in specs] == ["block1", "block2"]
    assert onnx.load(specs[0].path).opset_import[0].version == 18
    for network, layer in ((cut, "block3"), (whole_vit("block2-no-norm"), "block2")):
        with pytest.raises(ModelError, match=rf"must be one of .*block1.*, got '{layer}'"):
            networks.export_cuts(network, tmp_path / "more.onnx", layers=[layer])
    assert not (tmp_path / "more.onnx").exists()


def test_stages_of_other_models_in_one_file(tmp_path):
    network = networks.create("timm:test_resnet", seed=2)
    specs = networks.export_cuts(network, tmp_path / "all.onnx", patch_px=64)
    assert [s.layer for s in specs] == ["act1", "layer1", "layer2", "layer3", "layer4", "features"]
    alone = networks.create("timm:test_resnet", layer="layer3", seed=2)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    with encoders.load_all(specs[0].path) as together, torch.inference_mode():
        got = torch.from_numpy(together.encode(pixels)[3])
        assert largest_error(got, alone(standardised(alone, pixels))) < 1e-5


def test_a_file_of_cuts_that_differs_is_not_written(tmp_path, monkeypatch):
    def wrong(network, layers, patches):
        found = wanted_of_cuts(network, layers, patches)
        return [
            each._replace(features=each.features | {"block2": 0 * each.features["block2"] + 1})
            for each in found
        ]

    module = sys.modules[networks.export_cuts.__module__]
    wanted_of_cuts = module.wanted_of_cuts
    monkeypatch.setattr(module, "wanted_of_cuts", wrong)
    with pytest.raises(ModelError, match=r"differ by .*: block2 is the first cut to do so"):
        networks.export_cuts(whole_vit(), tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_several(cli, tmp_path):
    out = tmp_path / "e.onnx"
    made = ("models", "export", VIT, "--random", "3", "--out", out, "--timm-arg", "img_size=64")
    done = cli(*made, "--layers", "block1,block3", "--pool", "cls,mean", "--no-norm")
    assert done.code == 0, done.err
    assert [spec.layer for spec in encoders.read_specs(out)] == [
        *("block1-cls-no-norm", "block1-no-norm", "block3-cls-no-norm", "block3-no-norm"),
    ]
    done = cli(*made, "--layers", "block1,block9", "--pool", "cls", "--overwrite")
    assert (done.code, len(done.err)) == (1, 1)
    assert "got 'block9'" in done.err[0]
    done = cli("models", "layers", VIT, "--timm-arg", "depth=3")
    lines = [line.split()[0] for line in done.out.splitlines()]
    assert lines[:5] == ["layer", "block1", "block2", "block3", "features"]
    assert "block1-cls-no-norm, block1-cls+mean-no-norm, block1-no-norm, block1-cls" in done.out


@pytest.mark.parametrize(
    ("given", "layers"),
    [
        (("--layers", "all", "--pool", "cls+mean"), ["block1-cls+mean", "block2-cls+mean"]),
        (("--layers", "block2", "--no-norm"), ["block2-no-norm"]),
        (("--layers", "all"), None),
        (("--layer", "block1", "--pool", "cls", "--no-norm"), "block1-cls-no-norm"),
        (("--no-norm",), "block2-no-norm"),
    ],
)
def test_the_commands_names_of_cuts(cli, tmp_path, monkeypatch, given, layers):
    asked = []

    def written(make, out, *, layers="one", **_):
        asked.append(make().layer if layers == "one" else layers)
        raise ModelError("enough")

    monkeypatch.setattr(networks, "export_cuts_made", written)
    monkeypatch.setattr(networks, "export_made", written)
    made = ("models", "export", VIT, "--random", "3", "--out", tmp_path / "e.onnx")
    done = cli(*made, "--timm-arg", "img_size=64", "--timm-arg", "depth=2", *given)
    assert (done.code, done.err) == (1, ["histofast: enough"])
    assert asked == [layers]


def test_the_command_pools(cli, tmp_path):
    made = ("models", "export", VIT, "--random", "3", "--timm-arg", "img_size=64")
    out = tmp_path / "e.onnx"
    done = cli(*made, "--layer", "block2", "--pool", "cls+mean", "--out", out)
    assert done.code == 0, done.err
    spec = encoders.read_spec(out)
    assert (spec.layer, spec.d) == ("block2-cls+mean", 128)
    (cut,) = (c for c in networks.layers(spec.network) if c.name == spec.layer)
    assert spec.work == cut.work
    share = f"{100 * cut.flops_share:.0f} % of the whole"
    assert f"block2-cls+mean: {cut.gmac:.3g} GMAC ({share}), " in done.out
    # A part of it takes less; what that is, nobody counted.
    part = graphs.cuts(out)[2].name
    assert graphs.truncate(out, at=part, pool="mean", out=tmp_path / "p.onnx").work is None
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    network = networks.create(spec.network, layer=spec.layer, seed=3)
    with encoders.load(out, device="cpu") as encoder, torch.inference_mode():
        x = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (network.mean, network.std))
        wanted = network((x - mean) / std).numpy()
        np.testing.assert_allclose(encoder.encode(pixels), wanted, rtol=1e-4, atol=1e-5)
    whole = cli(*made, "--pool", "cls+mean", "--out", tmp_path / "w.onnx")
    assert whole.code == 0, whole.err
    assert encoders.read_spec(tmp_path / "w.onnx").layer == "block6-cls+mean"
    refused = cli(*made, "--layer", "block20", "--out", tmp_path / "o.onnx")
    assert refused.code == 1
    assert "block20" in refused.err[0]
    assert len(refused.err) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--pool", "max"], r"--pool must be one of cls, cls\+mean, mean, got 'max'"),
        (["--pool", "cls", "--layer", "block13"], "must be one of block1, .*, block6, got 'block13'"),
        (["--pool", "cls", "--layer", "features"], "--layer must be blockN where a pool is given, got f"),
        (["--pool", "cls,max", "--layers", "block1"], r"--pool must be one of cls, .*, got 'max'"),
        (["--pool", "cls,mean", "--layer", "block1"], r"--pool must be one of cls, .*, got 'cls,mean'"),
        (["--no-norm", "--layers", "all,features"], "--layer must be blockN where a pool is given, got all"),
        (["--pool", "cls", "--classes", "2"], "--class(es)? must be 0 for a cut of timm:"),
    ],
)  # fmt: skip
def test_wrong_pools_are_refused(cli, tmp_path, options, message):
    out = tmp_path / "e.onnx"
    said = cli("models", "export", VIT, "--random", "3", "--out", out, *options)
    assert (said.code in (1, 2), len(said.err), out.exists()) == (True, 1, False)
    assert re.search(message, said.err[0])


def test_pools_of_what_has_no_tokens(cli, tmp_path):
    for name in ("resnet18", "timm:test_resnet"):
        said = cli("models", "export", name, "--random", "3", "--pool", "cls", "--out", tmp_path)
        (line,) = said.err
        assert line == (
            f"histofast: {name} is no vision transformer of timm: it has no tokens to pool"
        )
    without = f"{VIT}(class_token=False,global_pool='avg',depth=2)"
    assert networks.pooled_layer(without, pool="mean") == "block2"
    with pytest.raises(ModelError, match="has no class token: take the mean with pool=mean"):
        networks.pooled_layer(without, pool="cls")


def test_a_disk_that_is_full_while_torch_writes(cli, tmp_path):
    resource = pytest.importorskip("resource", reason="needs POSIX")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    out = tmp_path / "e.onnx"
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
        said = cli("models", "export", VIT, "--random", "3", "--out", out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    (line,) = said.err
    assert line.startswith(
        f"histofast: cannot write {out}: File too large: the file system or `uli"
    )
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_needs_more_memory_than_there_is(cli, tmp_path, monkeypatch):
    """Said before anything is written; a cut needs less."""
    out = tmp_path / "e.onnx"
    made = ("models", "export", VIT, "--random", "3", "--out", out)
    whole, cut = (
        sum(value.nbytes for value in networks.create(VIT, layer=layer).state_dict().values())
        for layer in (None, "block1")
    )
    monkeypatch.setattr("histofast.encoders.memory.memory_bytes", lambda: int(1.5 * whole))
    (line,) = cli(*made).err
    assert line == (
        f"histofast: the export of {VIT} needs {1.6 * whole / 1e9:.1f} GB of memory, this process may "
        f"use {1.5 * whole / 1e9:.1f} GB: cut it with --layer, or use a machine with more"
    )
    assert list(tmp_path.iterdir()) == []
    assert 1.6 * cut < 1.5 * whole
    assert cli(*made, "--layer", "block1").code == 0


# --- Lower precision in one go --------------------------------------------------------------------


@pytest.fixture
def table(tmp_path):
    """Enough patch images to calibrate and to measure, of stained noise."""
    rng = np.random.default_rng(0)
    lines = ["file,bag"]
    for i in range(72):
        coarse = rng.integers(60, 255, (8, 8, 3), dtype=np.uint8)
        write_png(tmp_path / f"p{i}.png", np.kron(coarse, np.ones((8, 8, 1), np.uint8)))
        lines.append(f"p{i}.png,bag{i % 9}")
    (tmp_path / "patches.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "patches.csv"


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_cut_is_pooled_and_lowered_in_one_export(cli, tmp_path, table, precision):
    out = tmp_path / "e.onnx"
    made = ("models", "export", VIT, "--random", "3", "--timm-arg", "img_size=64", "--out", out)
    lowered = ("--precision", precision, "--patches", table)
    done = cli(*made, "--layer", "block2", "--pool", "cls+mean", "--no-norm", *lowered)
    assert (done.code, done.err) == (0, [])
    spec = encoders.read_spec(out)
    assert spec.precision == {"fp16": "float16"}.get(precision, precision)
    assert (spec.name, spec.layer, spec.d) == ("e", "block2-cls+mean-no-norm", 128)
    assert spec.work is not None
    assert json.loads(spec.agreement)["median_cosine"] >= 0.99
    assert "held-out patches median cosine" in done.out
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix != ".png") == [
        *("e.onnx", "patches.csv"),  # what was there in float32 is not kept
    ]
    again = cli(*made, "--layer", "block2", *lowered)
    assert (again.code, len(again.err)) == (1, 1)
    assert "exists: choose another name" in again.err[0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--precision", "int8"), "--calibrate must name slides (or --patches a table) for --precision"),
        (("--patches", "p.csv"), "--patches must come with --precision int8 or fp16"),
        (
            ("--precision", "fp16", "--patches", "p.csv", "--layers", "block1"),
            "--precision must not be given with --layers: export each cut by itself with --layer",
        ),
        (
            ("--precision", "fp16", "--patches", "p.csv", "--run", "run"),
            "--precision must not be given with --run: export it, then histofast models quantize",
        ),
        (("--precision", "int4"), "'--precision': must be one of int8, fp16, float16, got 'int4'"),
    ],
)  # fmt: skip
def test_lower_precision_is_refused(cli, tmp_path, given, message):
    done = cli("models", "export", VIT, "--random", "3", "--out", tmp_path / "e.onnx", *given)
    assert (done.code, len(done.err)) == (2, 1)
    assert message in done.err[0]


def test_layer_scale_is_in_the_weights(tmp_path):
    """The same nodes with it and without; `export` holds the features against torch."""
    small = {"img_size": 64, "depth": 2}
    nodes = {}
    for values in (0.5, 0.0):
        network = networks.create(VIT, timm_args=small | {"init_values": values}, seed=3)
        spec = networks.export(network, tmp_path / f"{values}.onnx")
        nodes[values] = Counter(node.op_type for node in onnx.load(spec.path).graph.node)
    assert any(
        "ls1" in key for key in networks.create(VIT, timm_args={"init_values": 0.5}).state_dict()
    )
    assert nodes[0.5] == nodes[0.0]
