"""Vision transformers with one operator for attention, and graph surgery on such files."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from extras import need
from histofast import encoders, graphs

torch = need("torch", "onnxscript")

from torch import nn

from histofast import networks

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

TOKENS, WIDTH, HEADS, BLOCKS, PX = 17, 24, 3, 2, 32


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH)
        )

    def forward(self, x):
        n, tokens, _ = x.shape
        parts = self.qkv(self.norm1(x)).reshape(n, tokens, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(*parts.unbind(0))
        x = x + self.proj(mixed.transpose(1, 2).reshape(n, tokens, WIDTH))
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """Tokens of 8 px and one of the class, as in any vision transformer."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, WIDTH, 8, 8)
        self.cls = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.blocks = nn.Sequential(*(Block() for _ in range(BLOCKS)))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1)
        return self.norm(self.blocks(x))[:, 0]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    half = (0.5,) * 3
    return networks.adopt(Transformer().eval(), mean=half, std=half, name="vit", input_px=PX)


@pytest.fixture(scope="module")
def files(network, tmp_path_factory):
    """The network in both opsets."""
    folder = tmp_path_factory.mktemp("opsets")
    return {
        opset: networks.export(network, folder / f"{opset}.onnx", opset=opset) for opset in (18, 23)
    }


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(1).integers(0, 256, (7, PX, PX, 3), np.uint8)


def operators(path):
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def features(path, pixels):
    with encoders.load(path, device="cpu", threads=1) as encoder:
        return encoder.encode_together(pixels)


def of_norm(got, wanted):
    return (np.linalg.norm(got - wanted, axis=1) / np.linalg.norm(wanted, axis=1)).max()


@pytest.mark.parametrize(("opset", "attentions"), [(18, 0), (23, BLOCKS)])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_a_block_has_one_attention_and_agrees_with_torch(
    network, files, pixels, opset, attentions, n
):
    spec = files[opset]
    assert onnx.load(spec.path).opset_import[0].version == opset
    assert operators(spec.path)["Attention"] == attentions
    assert f", opset {opset}, " in spec.exporter
    with torch.inference_mode():
        x = torch.from_numpy(pixels[:n]).permute(0, 3, 1, 2) / 255
        wanted = network((x - 0.5) / 0.5).numpy()
    assert of_norm(features(spec.path, pixels[:n]), wanted) < 1e-5


def test_the_newer_is_what_is_written_where_nothing_is_said(network, files, tmp_path):
    spec = networks.export(network, tmp_path / "23.onnx")
    assert spec.sha256 == files[23].sha256


def test_attention_is_counted(files):
    """As many multiply-adds as queries, keys and values have by definition, in either spelling."""
    inner = 2 * BLOCKS * 2 * TOKENS * TOKENS * WIDTH
    counts = {opset: graphs.flops(spec.path, patch_px=PX) for opset, spec in files.items()}
    assert sum(counts[18].values()) == sum(counts[23].values())
    nodes = onnx.load(files[23].path).graph.node
    names = [node.output[0] for node in nodes if node.op_type == "Attention"]
    assert sum(counts[23][name] for name in names) == inner


@pytest.mark.parametrize(
    ("domain", "inputs", "heads", "counted"),
    [
        ("", ["x", "x", "v"], {"q_num_heads": 3, "kv_num_heads": 3}, 9 * 9 * 12 + 9 * 9 * 18),
        # ONNX Runtime's own has other inputs under the same name.
        ("com.microsoft", ["x", "w3", "b3"], {"num_heads": 3}, None),
    ],
)
def test_attention_without_an_axis_of_heads_is_counted_alike(domain, inputs, heads, counted):
    weights = {"w": (12, 18), "w3": (12, 36), "b3": (36,)}
    constants = [numpy_helper.from_array(np.ones(s, "f4"), name) for name, s in weights.items()]
    constants.append(numpy_helper.from_array(np.array([1, 9, 12]), "tokens"))
    nodes = [
        helper.make_node("Reshape", ["images", "tokens"], ["x"]),
        helper.make_node("MatMul", ["x", "w"], ["v"]),
        helper.make_node("Attention", inputs, ["y"], domain=domain, **heads),
    ]
    floats = onnx.TensorProto.FLOAT
    images = helper.make_tensor_value_info("images", floats, (1, 3, 6, 6))
    out = helper.make_tensor_value_info("y", floats, (1, 9, None))
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [images], [out], constants), opset_imports=opsets
    )
    model.ir_version = 10
    found = graphs.flops(model, patch_px=6)
    assert found.get("y") == (None if counted is None else 2 * counted)


def test_cuts_of_both_are_alike(files):
    shares = {
        opset: {cut.name: cut.flops_share for cut in graphs.cuts(spec.path) if cut.is_part}
        for opset, spec in files.items()
    }
    assert shares[23]
    assert shares[23] == pytest.approx(shares[18])


def test_truncating_and_joining(files, pixels, tmp_path):
    whole = files[23].path
    cut = graphs.truncate(whole, at="model.blocks.0", out=tmp_path / "cut.onnx", pool="mean")
    assert operators(cut.path)["Attention"] == 1
    other = graphs.truncate(
        files[18].path, at="model.blocks.0", out=tmp_path / "18.onnx", pool="mean"
    )
    wanted = features(cut.path, pixels)
    assert of_norm(features(other.path, pixels), wanted) < 1e-5
    graphs.join_cuts(
        whole, at=["model.blocks.0", "model.blocks.1"], out=tmp_path / "both.onnx", pool="mean"
    )
    with encoders.load_all(tmp_path / "both.onnx", device="cpu", threads=1) as both:
        got = both.encode_together(pixels)
    assert of_norm(got[0], wanted) < 1e-5


def test_halves_agree_and_keep_their_attention(files, tmp_path):
    held_out = graphs.stained_noise(graphs.MIN_PATCHES, PX)
    half = graphs.write_quantized(
        files[23].path, out=tmp_path / "half.onnx", precision="float16", held_out=held_out
    )
    assert operators(tmp_path / "half.onnx")["Attention"] == BLOCKS
    assert half.precision == "float16"


@pytest.mark.parametrize("opset", [18, 23])
def test_integers_leave_attention_as_it_is(files, tmp_path, opset):
    made = graphs.stained_noise(2 * graphs.MIN_PATCHES, PX)
    calibration, held_out = made[::2].copy(), made[1::2].copy()
    small = graphs.write_quantized(
        files[opset].path,
        out=tmp_path / "int8.onnx",
        precision="int8",
        calibration=calibration,
        held_out=held_out,
    )
    before, after = operators(files[opset].path), operators(small.path)
    assert after["MatMulInteger"] == 4 * BLOCKS
    for kind in ("Attention", "Softmax", "LayerNormalization", "Gelu", "Conv"):
        assert after[kind] == before[kind]
    assert after["Attention"] == (BLOCKS if opset == 23 else 0)
    assert json.loads(small.agreement)["median_cosine"] > 0.999


@pytest.mark.parametrize(
    ("opset", "error", "message"),
    [
        (17, ValueError, "opset must be 23 or 18 for vit, got 17"),
        (22, ValueError, "opset must be 23 or 18 for vit, got 22"),
        (0, ValueError, "opset must be at least 1, got 0"),
        ("18", TypeError, "opset must be a whole number"),
    ],
)
def test_opsets_that_are_refused(network, tmp_path, opset, error, message):
    with pytest.raises(error, match=message):
        networks.export(network, tmp_path / "e.onnx", opset=opset)
    assert not (tmp_path / "e.onnx").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--opset", "23"), "histofast: --opset must be 18 for cbr-tiny, got 23"),
        (
            ("--opset", "23", "--layers", "all"),
            "histofast: --opset must be 18 for cbr-tiny, got 23",
        ),
    ],
)
def test_the_command_refuses(cli, tmp_path, given, message):
    done = cli(
        "models", "export", "cbr-tiny", "--random", "0", "--out", tmp_path / "e.onnx", *given
    )
    assert (done.code, done.err) == (2, [message])


def test_networks_of_our_own_are_of_the_older(cli, tmp_path):
    done = cli(
        *("models", "export", "cbr-tiny", "--random", "0", "--out", tmp_path / "e.onnx"),
        *("--opset", "18"),
    )
    assert done.code == 0, done.err
    assert onnx.load(tmp_path / "e.onnx").opset_import[0].version == 18


@pytest.mark.parametrize(
    "given",
    [
        ("--pool", "cls"),
        ("--no-norm",),
        ("--layers", "all", "--pool", "cls"),
        ("--layer", "layer3", "--no-norm"),
    ],
)
def test_networks_of_our_own_have_no_tokens(cli, tmp_path, given):
    done = cli(
        "models", "export", "resnet18", "--random", "0", "--out", tmp_path / "e.onnx", *given
    )
    assert (done.code, done.err) == (
        2,
        ["histofast: resnet18 is no vision transformer of timm: it has no tokens to pool"],
    )
