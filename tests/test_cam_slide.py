"""A slide's map is attention times the maps of its patches, and models that it cannot be said of are refused."""

from __future__ import annotations

import numpy as np
import pytest

from extras import need

torch = need("torch", "sklearn")

from histofast import mil
from histofast.explain import cam

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", ["attention", "gated"])
@pytest.mark.parametrize("number", [0, 1])
def test_with_attention_held_a_slide_moves_with_its_patches_as_what_is_said_of_each_alone(
    name, number
):
    """Autograd with attention detached is the definition: d output / d x_i = a_i d v_i / d x_i."""
    model = mil.create(name, d=6, outputs=2, seed=3)
    bag = torch.from_numpy(np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32))
    attention, slopes = cam.attention_and_slopes(model, bag, number=number)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert attention.sum().item() == pytest.approx(1)
    x = bag.clone().requires_grad_()
    held = model(x).attention.detach()
    said = torch.stack([model(x[i : i + 1]).output[number] for i in range(5)])
    output = (held * said).sum()
    assert output.item() == pytest.approx(model(bag).output[number].item(), abs=1e-6)
    output.backward()
    np.testing.assert_allclose(attention[:, None] * slopes, x.grad, rtol=1e-5, atol=1e-8)


def test_a_model_without_attention_or_whose_output_is_no_weighted_mean_is_refused():
    bag = torch.randn(5, 6)
    for name in ("mean", "max"):
        model = mil.create(name, d=6, outputs=2)
        with pytest.raises(
            ValueError, match=f"weighted by attention, got {name}: train one of att"
        ):
            cam.attention_and_slopes(model, bag, number=0)
        assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("flag", ["layer", "class", "encoder", "seed"])
def test_options_of_a_method_are_refused_without_one(cli, tmp_path, flag):
    (tmp_path / "run").mkdir()
    (tmp_path / "s.tif").write_bytes(b"")
    value = 1 if flag == "seed" else "x"
    asked = ("heatmap", tmp_path / "run", tmp_path / "s.tif", f"--{flag}", value)
    answer = cli(*asked, "--out", tmp_path / "m")
    assert answer.code == 2
    assert answer.err == [f"histofast: --{flag} must be given with --method: attention has none"]
