"""Publishers' vision transformers under timm's keys: the same tokens, from plain torch on their own tensors."""

from __future__ import annotations

import pytest

from extras import need
from histofast.errors import ModelError
from timm_here import need_timm

torch = need("torch", "safetensors")

import published
from histofast import networks

TOY = {"embed_dim": 32, "depth": 4, "num_heads": 4, "img_size": 28, "patch_size": 14}
GATED = {"mlp_layer": "SwiGLUPacked", "act_layer": "SiLU", "mlp_ratio": 3.0}
REGISTERS = {"reg_tokens": 3, "no_embed_class": True}
CASES = [
    ("hf-vit", {}, 1e-12),
    ("hf-dinov2", {"init_values": 1.0}, 1e-6),
    ("hf-dinov2", {"init_values": 1.0} | GATED, 1e-6),
    ("hf-dinov2", {"init_values": 1.0} | REGISTERS, 1e-6),
    ("hf-dinov2", {"init_values": 1.0} | REGISTERS | GATED, 1e-6),
    ("dinov2", {"init_values": 1.0}, 1e-6),
    ("dinov2", {"init_values": 1.0} | GATED, 1e-6),
    ("dinov2", {"init_values": 1.0} | REGISTERS | GATED, 1e-6),
]


@pytest.fixture(scope="module")
def timm():
    return need_timm()


@pytest.fixture
def toy(timm):
    """A small model of timm in float64 whose tensors are all drawn, none of them 0 or 1 throughout."""

    def toy(arguments, eps):
        name = networks.timm_name("timm:vit_base_patch16_224", TOY | arguments | {"norm_eps": eps})
        model = networks.create(name, seed=1).model.double()
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for value in model.parameters():
                value.copy_(0.3 * torch.randn(value.shape, generator=generator, dtype=value.dtype))
        return model

    return toy


@pytest.mark.parametrize(("kind", "arguments", "eps"), CASES)
def test_renamed_tensors_compute_what_the_published_ones_do(toy, kind, arguments, eps):
    model = toy(arguments, eps)
    theirs = published.published(model.state_dict(), kind, gated="mlp_layer" in arguments)
    x = torch.randn(2, 3, 28, 28, dtype=torch.float64)
    wanted = published.tokens(theirs, kind, x, heads=4, eps=eps)
    found = networks.renamed(theirs, kind)
    assert found.keys() == model.state_dict().keys()
    for value in model.parameters():
        value.data.zero_()
    model.load_state_dict(found)
    with torch.inference_mode():
        got = model.forward_features(x)
    assert got.shape == wanted.shape
    assert (got - wanted).abs().max() <= 1e-12


@pytest.mark.parametrize(("kind", "arguments", "eps"), [c for c in CASES if c[0] != "dinov2"])
def test_files_that_transformers_5_saved_again_are_the_same(toy, kind, arguments, eps):
    theirs = published.published(
        toy(arguments, eps).state_dict(), kind, gated="mlp_layer" in arguments
    )
    again = published.saved_again(theirs)
    assert again.keys() != theirs.keys()
    old, new = networks.renamed(theirs, kind), networks.renamed(again, kind)
    assert old.keys() == new.keys()
    for key, value in old.items():
        assert torch.equal(value, new[key].to(value.dtype)), key


def test_blocks_in_chunks_are_in_a_row(toy):
    state = toy({"init_values": 1.0} | REGISTERS, 1e-6).state_dict()
    theirs = published.published(state, "dinov2", chunk=2)
    assert {"blocks.0.0.norm1.weight", "blocks.1.3.norm1.weight"} <= theirs.keys()
    plain = networks.renamed(published.published(state, "dinov2"), "dinov2")
    found = networks.renamed(theirs, "dinov2")
    assert found.keys() == plain.keys() == state.keys()
    assert all(torch.equal(value, plain[key]) for key, value in found.items())


def test_the_teacher_is_taken_without_its_head():
    key = "patch_embed.proj.weight"
    file = {
        f"{who}.backbone.{key}": torch.full((1,), n) for n, who in enumerate(("student", "teacher"))
    }
    file |= {
        "teacher.dino_head.mlp.0.weight": torch.zeros(1),
        "teacher.backbone.mask_token": torch.zeros(1),
    }
    found = networks.renamed(file, "dinov2")
    assert list(found) == [key]
    assert found[key] == 1


def test_sums_of_half_precision_are_in_float32():
    ones = torch.ones(1, 1, 2, dtype=torch.bfloat16)
    file = {"cls_token": ones, "pos_embed": torch.full((1, 3, 2), 1e-3).bfloat16()}
    file |= {"register_tokens": ones, "patch_embed.proj.weight": ones}
    found = networks.renamed(file, "dinov2")
    assert found["cls_token"].dtype == torch.float32
    assert (found["cls_token"] > 1).all()
    assert found["pos_embed"].shape == (1, 2, 2)


@pytest.mark.parametrize(
    ("keys", "kind", "message"),
    [
        (["conv1.weight"], "dinov2", "it has no tensors of a network of the kind dinov2"),
        (
            ["cls_token", "patch_embed.proj.weight"],
            "hf-vit",
            "no tensors of a network of the kind hf-vit",
        ),
        (
            ["patch_embed.proj.weight", "blocks.0.0.norm1.bias", "blocks.1.0.norm1.bias"],
            "dinov2",
            "blocks.1.0.norm1.bias is a second blocks.0.norm1.bias",
        ),
        (
            [
                "embeddings.patch_embeddings.projection.weight",
                "encoder.layer.0.attention.attention.query.bias",
                "encoder.layer.0.attention.attention.value.bias",
            ],
            "hf-dinov2",
            "blocks.0.attn.qkv.bias lacks its key",
        ),
    ],
)
def test_tensors_that_are_of_no_such_network(keys, kind, message):
    with pytest.raises(ModelError, match=message):
        networks.renamed(dict.fromkeys(keys, torch.zeros(1)), kind)
