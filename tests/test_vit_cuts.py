"""Vision transformers of timm cut after a block: against timm's own intermediates."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import onnx
import pytest

from extras import need
from histofast import encoders
from histofast.errors import ModelError
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


@pytest.mark.parametrize("number", [1, 3, 4])
@pytest.mark.parametrize("pool", POOLS)
def test_a_cut_is_what_timm_has_there(number, pool):
    """Its own last norm applied; registers are in no mean."""
    whole = networks.create(VIT, timm_args=SMALL, seed=3)
    torch.nn.init.normal_(whole.model.norm.weight)
    cut = networks.create(VIT, timm_args=SMALL, layer=f"block{number}{pool}", seed=3)
    cut.model.norm.load_state_dict(whole.model.norm.state_dict())
    x = torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        ((patches, prefix),) = whole.model.forward_intermediates(
            x,
            indices=[number - 1],
            norm=True,
            output_fmt="NLC",
            return_prefix_tokens=True,
            intermediates_only=True,
        )
        assert patches.shape[1:] == (16, 64)
        torch.testing.assert_close(cut(x), POOLS[pool](prefix[:, 0], patches))
    assert len(cut.model.blocks) == number
    assert cut.layer == f"block{number}{pool}"


def test_the_last_class_token_is_the_whole():
    whole = networks.create(VIT, timm_args=SMALL, seed=3)
    cut = networks.create(VIT, timm_args=SMALL, layer="block4-cls", seed=3)
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(cut(x), whole(x))


def test_shares_count_every_product():
    """By hand: 64 wide, 2 heads, an MLP of 3 x 64 within each block, 16 patches of 16 px."""
    cuts = {cut.name: cut for cut in networks.layers(VIT, timm_args=SMALL)}
    tokens, d = 16 + 1 + 3, 64
    block = tokens * d * (3 * d + d + 2 * 3 * d) + 2 * tokens * tokens * d
    embedding = 16 * 16 * 16 * 3 * d
    for number in range(1, 5):
        wanted = (embedding + number * block) / (embedding + 4 * block)
        for pool in POOLS:
            cut = cuts[f"block{number}{pool}"]
            assert cut.flops_share == pytest.approx(wanted)
            assert cut.d == d * (1 + (pool == "-cls+mean"))
    assert len(cuts) == 4 * 3 + 1


def test_without_a_class_token_there_is_the_mean():
    arguments = {"class_token": False, "global_pool": "avg", "reg_tokens": 0, "depth": 2}
    names = [cut.name for cut in networks.layers(VIT, timm_args=arguments)]
    assert names == ["block1", "block2", "features"]
    with pytest.raises(ModelError, match="got 'block1-cls': did you mean block1"):
        networks.create(VIT, timm_args=arguments, layer="block1-cls")


def test_other_models_keep_their_stages():
    assert [cut.name for cut in networks.layers("timm:test_resnet")][-2:] == ["layer4", "features"]


def test_the_command_pools(cli, tmp_path):
    made = ("models", "export", VIT, "--random", "3", "--timm-arg", "img_size=64")
    out = tmp_path / "e.onnx"
    done = cli(*made, "--layer", "block2", "--pool", "cls+mean", "--out", out)
    assert done.code == 0, done.err
    spec = encoders.read_spec(out)
    assert (spec.layer, spec.d) == ("block2-cls+mean", 128)
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
        (["--pool", "cls", "--layers", "all"], "--pool must not be given with --layers: name cuts as"),
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
        assert (
            line == f"histofast: --pool must be given for a vision transformer of timm, got {name}"
        )
    without = f"{VIT}(class_token=False,global_pool='avg',depth=2)"
    assert networks.pooled_layer(without, pool="mean") == "block2"
    with pytest.raises(ModelError, match="has no class token: take the mean with pool=mean"):
        networks.pooled_layer(without, pool="cls")


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
