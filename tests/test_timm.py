"""Models of timm: the same road from name to encoder file as the networks of our own."""

from __future__ import annotations

import numpy as np
import pytest

from extras import need
from histofast import encoders, graphs
from histofast.errors import ModelError
from timm_here import need_timm

torch = need("torch", "onnxscript")
need_timm()

from histofast import networks

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

VIT, CNN = "timm:test_vit", "timm:test_resnet"


@pytest.fixture
def weights(tmp_path):
    """A checkpoint of the CNN as training scripts leave it."""
    model = networks.create(CNN, seed=5).model
    state = {f"module.{key}": value for key, value in model.state_dict().items()}
    path = tmp_path / "checkpoint.pth"
    torch.save({"epoch": 3, "state_dict": state | {"module.fc.weight": torch.ones(9, 4)}}, path)
    return path


@pytest.mark.parametrize("name", [VIT, CNN])
def test_layers_are_in_order_with_widths(name):
    cuts = networks.layers(name)
    shares = [cut.flops_share for cut in cuts]
    assert shares == sorted(shares)
    assert (cuts[-1].name, shares[-1]) == ("features", 1.0)
    for cut in cuts:
        network = networks.create(name, layer=cut.name)
        x = torch.zeros(1, 3, network.input_px, network.input_px)
        with torch.inference_mode():
            assert network(x).shape == (1, cut.d) == (1, network.d)


def test_a_cut_is_what_the_whole_computes_there(rng):
    whole, cut = networks.create(CNN), networks.create(CNN, layer="layer2")
    seen = {}
    whole.model.layer2.register_forward_hook(lambda m, i, out: seen.update(out=out))
    x = torch.from_numpy(rng.normal(size=(2, 3, 160, 160)).astype("f4"))
    with torch.inference_mode():
        whole(x)
        torch.testing.assert_close(cut(x), seen["out"].mean((2, 3)))
    assert not any(key.startswith("model.layer3") for key in cut.state_dict())


@pytest.mark.parametrize(
    ("name", "layer"), [(VIT, None), (VIT, "block3"), (VIT, "block2-cls+mean"), (CNN, "layer3")]
)
def test_export(tmp_path, rng, name, layer):
    network = networks.create(name, layer=layer)
    spec = networks.export(network, tmp_path / "e.onnx", licence="Apache-2.0")
    assert (spec.network, spec.layer) == (name, layer or "features")
    assert spec.height_px == spec.width_px == spec.patch_px == network.input_px
    assert (spec.weights_sha256, spec.provenance) == ("random", "random weights")
    assert (spec.licence, spec.made_from) == ("Apache-2.0", None)
    px = spec.patch_px
    pixels = rng.integers(0, 256, (3, px, px, 3), dtype=np.uint8)
    with encoders.load(spec.path, device="cpu") as encoder, torch.inference_mode():
        got = encoder.encode(pixels)
        x = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255).float()
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (network.mean, network.std))
        wanted = network((x - mean) / std).numpy()
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())


def test_weights_from_a_checkpoint(weights):
    network = networks.create(CNN, weights=weights, layer="layer2", seed=1)
    wanted = networks.create(CNN, layer="layer2", seed=5)
    for key, value in wanted.state_dict().items():
        assert torch.equal(network.state_dict()[key], value)
    assert network.loaded.prefix == "state_dict.module."
    assert "state_dict.module.fc.weight" in network.loaded.dropped
    assert network.weights_sha256 == encoders.sha256_of(weights)


def test_bad_arguments(weights, tmp_path):
    with pytest.raises(
        ModelError, match=r"timm .* has no model 'test_vti': did you mean .*test_vit"
    ):
        networks.create("timm:test_vti")
    with pytest.raises(ModelError, match="got 'layer9': did you mean layer"):
        networks.create(CNN, layer="layer9")
    with pytest.raises(ValueError, match="classes must be 0 for a cut of timm:test_resnet, got 3"):
        networks.create(CNN, layer="layer2", classes=3)
    with pytest.raises(ValueError, match="bn_eps must be left to timm"):
        networks.create(CNN, bn_eps=1e-3)
    with pytest.raises(ModelError, match=r"checkpoint\.pth lacks .* tensors of timm:test_vit"):
        networks.create(VIT, weights=weights)
    network = networks.create(VIT)
    with pytest.raises(
        ModelError, match=r"timm:test_vit takes patches of .* 16 px, got 90 px: .* 80 or 96"
    ):
        networks.export(network, tmp_path / "e.onnx", patch_px=90)
    assert not (tmp_path / "e.onnx").exists()


def test_vision_transformers_are_quantised_in_their_products(tmp_path):
    """Random weights tell patches apart too little for the gate; the graph is the same."""
    patches = graphs.stained_noise(8, 160)
    out = networks.export(networks.create(VIT), tmp_path / "vit.onnx").path
    writer = graphs.Int8Writer(graphs.read_model(out), patches)
    assert len(writer.layers) == 6 * 4  # four products in each block
    data = graphs.to_bytes(writer.write())
    assert len(data) < 0.5 * out.stat().st_size
    with encoders.load(out, device="cpu") as whole, whole.sibling(data) as small:
        a, b = whole.encode(patches), small.encode(patches)
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert cosines.min() > 0.97


# --- arguments ------------------------------------------------------------------------------------

DEEPER = "timm:test_vit(depth=3,reg_tokens=2)"


def test_arguments_are_a_part_of_the_name():
    made = networks.create(VIT, timm_args={"reg_tokens": 2, "depth": 3}, seed=1)
    named = networks.create("timm:test_vit( reg_tokens = 2, depth=3 )", seed=1)
    assert made.architecture == named.architecture == DEEPER
    assert networks.timm_name(VIT, {}) == VIT
    assert networks.timm_name("resnet18", None) == "resnet18"
    for key, value in made.state_dict().items():
        assert torch.equal(value, named.state_dict()[key])
    twin = networks.twin(made, seed=4)
    assert twin.architecture == DEEPER
    assert networks.stem_of(DEEPER) != networks.stem_of(VIT) == "timm-test_vit"
    assert "(" not in networks.stem_of(DEEPER)


@pytest.mark.parametrize(
    ("arguments", "seen"),
    [
        ({"img_size": 96}, lambda m: m.patch_embed.grid_size == (6, 6)),
        ({"reg_tokens": 3}, lambda m: m.num_prefix_tokens == 4),
        (
            {"init_values": 1e-5},
            lambda m: float(m.blocks[0].ls1.gamma.detach()[0]) == pytest.approx(1e-5),
        ),
        ({"act_layer": "SiLU"}, lambda m: type(m.blocks[0].mlp.act).__name__ == "SiLU"),
        (
            {"mlp_layer": "SwiGLUPacked", "act_layer": "silu", "mlp_ratio": 5.34375},
            lambda m: type(m.blocks[0].mlp).__name__ == "GluMlp",
        ),
        ({"global_pool": "avg"}, lambda m: m.global_pool == "avg"),
        (
            {"class_token": False, "global_pool": "avg", "reg_tokens": 0},
            lambda m: m.cls_token is None,
        ),
        ({"depth": 2, "no_embed_class": True}, lambda m: len(m.blocks) == 2),
        ({"norm_layer": "rmsnorm"}, lambda m: type(m.norm).__name__ == "RmsNorm"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_arguments_change_the_network(arguments, seen):
    """Each of those that the published foundation models need, against timm's own call."""
    timm = need("timm")
    network = networks.create(VIT, timm_args=arguments, seed=2)
    assert seen(network.model)
    assert network.architecture != VIT
    classes = {
        "act_layer": torch.nn.SiLU,
        "mlp_layer": timm.layers.SwiGLUPacked,
        "norm_layer": timm.layers.RmsNorm,
    }
    theirs = timm.create_model(
        "test_vit", num_classes=0, **{k: classes.get(k, v) for k, v in arguments.items()}
    ).eval()
    theirs.load_state_dict(network.model.state_dict())
    x = torch.randn(2, 3, network.input_px, network.input_px)
    with torch.inference_mode():
        torch.testing.assert_close(network(x), theirs(x))
    assert network.input_px == arguments.get("img_size", 160)
    assert [cut.name for cut in networks.layers(VIT, timm_args=arguments)][-1] == "features"


def test_class_token_and_mean_without_registers(tmp_path):
    """As Virchow2 is pooled; registers in the mean would be other features."""
    arguments = {"reg_tokens": 4, "global_pool": "cls+mean", "img_size": 96}
    network = networks.create(VIT, timm_args=arguments, seed=3)
    x = torch.randn(3, 3, 96, 96)
    with torch.inference_mode():
        tokens = network.model.forward_features(x)
        got = network(x)
    assert tokens.shape[1] == 1 + 4 + 36
    torch.testing.assert_close(got[:, :64], tokens[:, 0])
    torch.testing.assert_close(got[:, 64:], tokens[:, 5:].mean(1))
    with_registers = tokens[:, 1:].mean(1)
    assert (got[:, 64:] - with_registers).abs().max() > 1e-3
    spec = networks.export(network, tmp_path / "e.onnx")
    assert (spec.d, network.d, networks.layers(spec.network)[-1].d) == (128, 128, 128)
    assert "global_pool='cls+mean'" in spec.network
    with pytest.raises(
        ModelError, match=r"test_vit has no class token for global_pool='cls\+mean'"
    ):
        networks.create(VIT, timm_args={"class_token": False, "global_pool": "cls+mean"})
    with pytest.raises(ValueError, match=r"classes must be 0 with global_pool='cls\+mean', got 2"):
        networks.create(VIT, timm_args={"global_pool": "cls+mean"}, classes=2)


def test_eps_of_norms_is_an_argument_of_ours():
    """As Hugging Face's ViT has it; small inputs show it."""
    usual = networks.create(VIT, seed=3)
    network = networks.create(VIT, timm_args={"norm_eps": 1e-12}, seed=3)
    norms = [m for m in network.modules() if isinstance(m, torch.nn.LayerNorm)]
    assert len(norms) == 2 * len(network.model.blocks) + 1
    assert {norm.eps for norm in norms} == {1e-12}
    x = 1e-3 * torch.randn(1, 3, 160, 160)
    with torch.inference_mode():
        assert not torch.equal(network(x), usual(x))
        for module in usual.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.eps = 1e-12
        assert torch.equal(network(x), usual(x))


def test_centre_is_cropped_in_the_graph(tmp_path, rng):
    """As GigaPath is read: pictures of 256 px, their centre of 224; here 128 and 96."""
    seen = networks.create(VIT, timm_args={"img_size": 96}, seed=3)
    network = networks.create(VIT, timm_args={"img_size": 96, "cropped_from_px": 128}, seed=3)
    assert (seen.input_px, network.input_px) == (96, 128)
    x = torch.randn(2, 3, 128, 128)
    with torch.inference_mode():
        assert torch.equal(network(x), seen(x[:, :, 16:112, 16:112]))
    assert networks.layers(network.architecture) == networks.layers(seen.architecture)
    spec = networks.export(network, tmp_path / "e.onnx")
    assert (spec.patch_px, spec.height_px, spec.width_px) == (128, 128, 128)
    inner = networks.export(seen, tmp_path / "inner.onnx").path
    patches = rng.integers(0, 256, (3, 128, 128, 3), dtype=np.uint8)
    spoiled = patches.copy()
    spoiled[:, :16] = 0
    with (
        encoders.load(spec.path, device="cpu") as whole,
        encoders.load(inner, device="cpu") as part,
    ):
        np.testing.assert_array_equal(whole.encode(patches), whole.encode(spoiled))
        centre = np.ascontiguousarray(patches[:, 16:112, 16:112])
        np.testing.assert_allclose(whole.encode(patches), part.encode(centre), rtol=1e-4, atol=1e-5)


def test_arguments_are_in_the_encoder(tmp_path, rng):
    network = networks.create(VIT, timm_args={"img_size": 96, "reg_tokens": 2}, seed=3)
    spec = networks.export(network, tmp_path / "e.onnx")
    assert spec.network == "timm:test_vit(img_size=96,reg_tokens=2)"
    assert (spec.height_px, spec.patch_px) == (96, 96)
    assert encoders.read_spec(spec.path).network == spec.network
    # The same name makes the same network again.
    again = networks.create(spec.network, seed=3)
    for key, value in network.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"reg_token": 4},
            ModelError,
            "test_vit of timm has no argument 'reg_token': did you mean reg_tokens",
        ),
        (
            {"mlp_layer": "SwiGLUPaked"},
            ModelError,
            "mlp_layer of timm must be one of Mlp, .*SwiGLUPacked",
        ),
        (
            {"act_layer": "gelo"},
            ModelError,
            "act_layer must be called as in timm, such as gelu, .*'gelo'",
        ),
        ({"embed_dim": "wide"}, ModelError, r"timm cannot make test_vit with embed_dim='wide': "),
        (
            {"depth": None},
            TypeError,
            "timm_args must be numbers, flags, texts or several .*depth=None",
        ),
        ({"depth": float("nan")}, ValueError, "timm_args must be finite, got depth=nan"),
        ({"num_classes": 3}, ValueError, "timm_args must not have num_classes: say classes"),
        (
            {"in_chans": 4},
            ValueError,
            "timm_args must not have in_chans: patches have three channels",
        ),
        ({"img_size": (96, 64)}, ModelError, r"img_size must be that of a square, got \(96, 64\)"),
        ({"global_pool": ""}, ModelError, "global_pool='' gives no features but"),
        ({"norm_eps": 0.0}, ValueError, r"norm_eps must be a number in 0..1, got 0.0"),
        ({"norm_eps": "small"}, ValueError, r"norm_eps must be a number in 0..1, got 'small'"),
        (
            {"cropped_from_px": 150},
            ValueError,
            "cropped_from_px must be 160 px, which the network sees, and an even number more, got 150",
        ),
        ({"cropped_from_px": 161}, ValueError, "an even number more, got 161"),
        ({"cropped_from_px": True}, ValueError, "an even number more, got True"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_arguments_that_are_refused(arguments, error, message):
    with pytest.raises(error, match=message) as told:
        networks.create(VIT, timm_args=arguments)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "name",
    [
        "timm:test_vit(",
        "timm:test_vit()",
        "timm:test_vit(3)",
        "timm:test_vit(depth=open('x'))",
        "timm:test_vit(depth=2)x",
    ],
)
def test_names_that_cannot_be_read(name):
    with pytest.raises(ModelError, match=r"network must be called timm:NAME or timm:NAME\(arg"):
        networks.create(name)


def test_eps_of_norms_that_are_not_there():
    with pytest.raises(ModelError, match="test_resnet has no LayerNorm for norm_eps: leave it out"):
        networks.create(CNN, timm_args={"norm_eps": 1e-6})


def test_arguments_of_others():
    with pytest.raises(ValueError, match="timm_args must be given with a network of timm"):
        networks.create("resnet18", timm_args={"depth": 3})
    with pytest.raises(ValueError, match="timm_args must have each argument once, got depth twice"):
        networks.create(DEEPER, timm_args={"depth": 2})


def test_the_command_takes_arguments(cli, tmp_path):
    made = [
        *("models", "export", VIT, "--random", "3", "--out", tmp_path / "e.onnx"),
        *("--timm-arg", "img_size=96", "--timm-arg", "act_layer=SiLU"),
        *("--timm-arg", "no_embed_class=true", "--timm-arg", "init_values=1e-5"),
    ]
    done = cli(*made)
    assert done.code == 0, done.err
    wanted = {"img_size": 96, "act_layer": "SiLU", "no_embed_class": True, "init_values": 1e-5}
    spec = encoders.read_spec(tmp_path / "e.onnx")
    assert spec.network == networks.timm_name(VIT, wanted)
    other = networks.export(
        networks.create(VIT, timm_args=wanted, seed=3), tmp_path / "o.onnx", name="e"
    )
    assert other.sha256 == spec.sha256
    listed = cli("models", "layers", VIT, "--timm-arg", "depth=2")
    assert "block1-cls+mean" in listed.out
    assert "block2" in listed.out
    assert "block3" not in listed.out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("depth",), "histofast: --timm-arg must be KEY=VALUE, got 'depth': img_size=224"),
        (
            ("depth=3)",),
            "histofast: --timm-arg must have a number, a flag, a word or several, got depth=3)",
        ),
        (
            ("depth=2", "depth=3"),
            "histofast: --timm-arg must have each argument once, got depth twice",
        ),
        (("depht=2",), "histofast: test_vit of timm has no argument 'depht': did you mean depth?"),
        (
            ("in_chans=1",),
            "histofast: --timm-arg must not have in_chans: patches have three channels",
        ),
    ],
)
def test_commands_refuse_arguments(cli, tmp_path, given, message):
    flags = [part for text in given for part in ("--timm-arg", text)]
    done = cli("models", "export", VIT, "--random", "0", "--out", tmp_path / "e.onnx", *flags)
    assert (done.code, done.err) == (1 if "depht" in given[0] else 2, [message])


_GATED = {"mlp_layer": "SwiGLUPacked", "act_layer": "SiLU", "init_values": 1e-5, "img_size": 224}
_GIANT = {"embed_dim": 1536, "num_heads": 24, "mlp_ratio": 5.33334, "init_values": 1e-5}


@pytest.mark.parametrize(
    ("model", "arguments", "tensors", "d"),
    [
        (  # UNI2-h
            "vit_giant_patch14_224",
            _GATED
            | _GIANT
            | {"patch_size": 14, "depth": 24, "no_embed_class": True, "reg_tokens": 8},
            343,
            1536,
        ),
        (  # Virchow2
            "vit_huge_patch14_224",
            _GATED | {"reg_tokens": 4, "mlp_ratio": 5.3375, "global_pool": "cls+mean"},
            455,
            2560,
        ),
        (  # H0-mini
            "vit_base_patch14_reg4_dinov2",
            _GATED | {"mlp_ratio": 5.33334, "global_pool": "cls+mean"},
            175,
            1536,
        ),
        (  # GigaPath
            "vit_giant_patch14_dinov2",
            _GIANT | {"img_size": 224, "patch_size": 16, "depth": 40},
            566,
            1536,
        ),
    ],
)
def test_published_models_have_as_many_tensors_and_features_as_their_files(
    model, arguments, tensors, d
):
    """Without memory for their weights; the numbers are of the published checkpoints."""
    with torch.device("meta"):
        network = networks.create(f"timm:{model}", timm_args=arguments)
    assert len(network.state_dict()) == tensors
    assert (network.d, network.input_px) == (d, 224)
    assert len(networks.stem_of(network.architecture)) < 60  # a name of files


def test_an_export_that_spends_the_network_writes_the_same(tmp_path, weights):
    kept = networks.create(CNN, weights=weights)
    networks.export(kept, tmp_path / "kept.onnx", name="e")
    made = []

    def make():
        made.append(networks.create(CNN, weights=weights))
        return made[0]

    networks.export_made(make, tmp_path / "made.onnx", name="e")
    assert (tmp_path / "made.onnx").read_bytes() == (tmp_path / "kept.onnx").read_bytes()
    assert sum(tensor.numel() for tensor in made[0].parameters()) == 0
    assert sum(tensor.numel() for tensor in kept.parameters()) > 0


def test_tensors_of_a_file_become_the_network_s_own(tmp_path):
    """They are in memory once; a file in half precision is widened as before."""
    model = networks.create(VIT, seed=5).model
    for dtype in (torch.float32, torch.float16):
        state = {key: value.to(dtype) for key, value in model.state_dict().items()}
        torch.save(state, tmp_path / "w.bin")
        found = networks.create(VIT, weights=tmp_path / "w.bin")
        for key, value in found.model.state_dict().items():
            assert value.dtype == torch.float32
            assert torch.equal(value, state[key].float())
            assert not value.is_meta
        assert not found.training
