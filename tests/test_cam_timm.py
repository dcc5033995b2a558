"""Maps of timm's networks: tokens before the patches are counted by the model, channels may come last."""

from __future__ import annotations

import numpy as np
import pytest

import reference_cam as reference
from extras import need
from timm_here import need_timm

torch = need("torch")
timm = need_timm()

from histofast.errors import ModelError
from histofast.explain import cam
from histofast.networks import adopt

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]
HALF = {"mean": (0.5,) * 3, "std": (0.25,) * 3}


def vit(**options):
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=3, **options)
    torch.nn.init.normal_(model.head.weight)
    return adopt(model, name="vit", classes=3, input_px=160, **HALF)


@pytest.mark.parametrize(
    ("prefix", "options"),
    [
        (0, {"class_token": False, "global_pool": "avg"}),
        (1, {}),
        (5, {"reg_tokens": 4}),
        (9, {"reg_tokens": 8}),
    ],
)
def test_tokens_before_the_patches_are_left_out(prefix, options):
    network = vit(**options)
    assert network.model.num_prefix_tokens == prefix
    pixels = np.random.default_rng(0).integers(0, 256, (2, 160, 160, 3), np.uint8)
    found = cam.cams(network, pixels, layer="blocks.3", classes=[1])
    kept = {}

    def keep(module, inputs, output):
        output.retain_grad()
        kept["tokens"] = output

    handle = network.model.blocks[3].register_forward_hook(keep)
    x = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25
    network(x)[:, 1].sum().backward()
    handle.remove()
    maps, slopes = (
        t.detach().numpy()[:, prefix:].transpose(0, 2, 1).reshape(2, -1, 10, 10)
        for t in (kept["tokens"], kept["tokens"].grad)
    )
    wanted = [reference.hires_cam(a, g) for a, g in zip(maps, slopes, strict=True)]
    np.testing.assert_allclose(found.maps["hirescam"][:, 0], wanted, rtol=1e-3, atol=1e-5)


def test_a_layer_after_which_only_the_class_token_is_read_is_refused():
    pixels = np.zeros((1, 160, 160, 3), np.uint8)
    with pytest.raises(
        ModelError, match=r"blocks.5 of vit must be one whose patches are read, got"
    ):
        cam.cams(vit(), pixels, layer="blocks.5")
    found = cam.cams(vit(), pixels, layer="blocks.5.norm1")
    assert found.maps["hirescam"].shape == (1, 1, 10, 10)
    with pytest.raises(ModelError, match=r"layer fc_norm of vit must give a map, got 1 x 64: take"):
        cam.cams(vit(), pixels, layer="fc_norm")
