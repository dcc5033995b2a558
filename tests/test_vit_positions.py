"""Position embeddings for another size of pictures: what timm does while it runs, done once."""

from __future__ import annotations

import pytest

from extras import need
from histofast.errors import ModelError
from timm_here import need_timm

torch = need("torch", "onnxscript")
timm = need_timm()

from histofast import networks

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def published(tmp_path, *, prefix="", **arguments):
    """A model as its authors have it, and its file."""
    torch.manual_seed(4)
    model = timm.create_model("test_vit", num_classes=0, dynamic_img_size=True, **arguments).eval()
    for tensor in (model.pos_embed, model.cls_token):
        torch.nn.init.normal_(tensor)
    path = tmp_path / "w.pth"
    torch.save({prefix + key: value for key, value in model.state_dict().items()}, path)
    return model, path


@pytest.mark.parametrize("px", [64, 96, 224])
@pytest.mark.parametrize(
    "arguments",
    [{}, {"reg_tokens": 3}, {"reg_tokens": 3, "no_embed_class": True}],
    ids=["class token", "registers", "positions of patches only"],
)
@pytest.mark.parametrize("prefix", ["", "teacher.backbone."])
def test_the_same_as_timm_while_it_runs(tmp_path, px, arguments, prefix):
    theirs, path = published(tmp_path, prefix=prefix, **arguments)  # of 160 px, 10 x 10 patches
    ours = networks.create("timm:test_vit", weights=path, timm_args=arguments | {"img_size": px})
    assert ours.input_px == px
    assert "position embeddings of 10 x 10 patches are resampled" in ours.loaded.remarks()
    x = torch.randn(2, 3, px, px)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-6)


def test_positions_of_the_same_size_are_as_in_the_file(tmp_path):
    theirs, path = published(tmp_path)
    ours = networks.create("timm:test_vit", weights=path)
    assert torch.equal(ours.model.pos_embed, theirs.pos_embed)
    assert ours.loaded.positions_of is None
    assert ours.loaded.remarks() == []


@pytest.mark.parametrize(
    ("made", "wanted"),
    [
        ({}, {"img_size": 96, "no_embed_class": True}),  # 101 positions are of no square
        ({"img_size": 96, "embed_dim": 32}, {"img_size": 64}),
    ],
    ids=["class token", "width"],
)
def test_positions_that_do_not_fit_are_refused(tmp_path, made, wanted):
    _, path = published(tmp_path, **made)
    with pytest.raises(ModelError, match=r"w\.pth"):
        networks.create("timm:test_vit", weights=path, timm_args=wanted)


def test_the_command_says_so(cli, tmp_path):
    _, path = published(tmp_path)
    done = cli(
        *("models", "export", "timm:test_vit", "--timm-arg", "img_size=64", "--weights", path),
        *("--out", tmp_path / "e.onnx"),
    )
    assert done.code == 0, done.err
    assert f"{path}: position embeddings of 10 x 10 patches are resampled" in done.out
