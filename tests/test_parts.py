"""Parts of networks that others go beside, as in a U-Net: where they end, and which sizes go in."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

import foreign_models
import histofast
from extras import need
from histofast import encoders, graphs
from histofast.encoders import PatchSizes, sizes_around, sizes_near
from histofast.errors import ModelError
from small_slides import write_slide

STANDARD = {"mean": foreign_models.MEAN, "std": foreign_models.STD}
PARTS = [
    *(f"down_layers.{i}" for i in range(4)),
    "bottom",
    *(f"up_layers.{i}" for i in range(4)),
    "last",
]


@pytest.fixture(scope="module")
def unet(tmp_path_factory):
    return foreign_models.unet(tmp_path_factory.mktemp("unet") / "unet.onnx")


@pytest.fixture(scope="module")
def wrapped(unet):
    out = unet.with_name("wrapped.onnx")
    graphs.wrap(unet, out=out, patch_px=96, **STANDARD)
    return out


@pytest.fixture
def patches(rng):
    return rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)


def value_of(file, tensor, patches):
    """What ONNX's own evaluator, which is not ONNX Runtime, has in a tensor."""
    model = onnx.load(file)
    model.graph.output.append(onnx.ValueInfoProto(name=tensor))
    found = ReferenceEvaluator(model).run([tensor], {"x": foreign_models.planes(patches)})
    return found[0].astype(np.float64)


# --- where parts end ------------------------------------------------------------------------------


def test_parts_that_others_go_beside_are_listed(unet):
    cuts = graphs.cuts(unet)
    by_alias = {alias: cut for cut in cuts for alias in (cut.name, *cut.aliases)}
    assert [part for part in by_alias if part in PARTS] == PARTS  # in the order of the graph
    assert by_alias["down_layers.3"].tensor == "/down_layers.3/relu/Relu_output_0"
    assert by_alias["down_layers.3"].shape == (1, 7, 28, 28)
    beside = [part for part in PARTS if not by_alias[part].carries_all]
    # All that is skipped past `down_layers.0` comes from its end.
    assert beside == [*PARTS[1:5], "up_layers.0", "up_layers.1", "up_layers.2"]
    # What lies in a part is not listed, and can be cut at.
    assert "down_layers.3.conv" not in by_alias
    also = {cut.name: cut for cut in graphs.cuts(unet, also=["down_layers.3.conv"])}
    assert also["down_layers.3.conv"].shape == (1, 7, 28, 28)
    shares = [by_alias[part].flops_share for part in PARTS]
    assert shares == sorted(shares)
    counted = graphs.flops(unet, patch_px=224)
    down = [n for name, n in counted.items() if name.startswith("/down_layers")]
    assert by_alias["down_layers.3"].flops_share == pytest.approx(sum(down) / sum(counted.values()))


@pytest.mark.parametrize("at", ["down_layers.0", "down_layers.3", "bottom", "up_layers.1"])
def test_a_part_is_what_the_whole_computes_there(unet, wrapped, patches, tmp_path, at):
    spec = graphs.truncate(wrapped, at=at, out=tmp_path / "part.onnx")
    wanted = value_of(unet, f"/{at}/relu/Relu_output_0", patches).mean((2, 3))
    with encoders.load(spec.path, device="cpu") as encoder:
        got = encoder.encode(patches)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    assert spec.layer == at


def test_inner_modules_are_cut_at_alone_and_together(unet, wrapped, patches, tmp_path):
    at = ["up_layers.2", "down_layers.3.conv", "down_layers.1"]
    specs = graphs.join_cuts(wrapped, at=at, out=tmp_path / "all.onnx")
    assert [spec.layer for spec in specs] == ["down_layers.1", "down_layers.3.conv", "up_layers.2"]
    with encoders.load_all(tmp_path / "all.onnx", device="cpu") as joined:
        features = joined.encode(patches)
    tensors = [
        "/down_layers.1/relu/Relu_output_0",
        "/down_layers.3/conv/Conv_output_0",
        "/up_layers.2/relu/Relu_output_0",
    ]
    for got, tensor in zip(features, tensors, strict=True):
        wanted = value_of(unet, tensor, patches).mean((2, 3))
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("dynamo", [False, True])
def test_a_module_ends_where_torch_says(tmp_path, patches, dynamo):
    torch = need("torch", "onnxscript")
    network, seen = foreign_models.torch_unet(), {}
    modules = {f"down_layers.{i}": module for i, module in enumerate(network.down_layers)}
    modules |= {"bottom": network.bottom, "down_layers.2.1": network.down_layers[2][1]}
    for name, module in modules.items():
        module.register_forward_hook(lambda m, i, out, name=name: seen.update({name: out}))
    file = foreign_models.torch_export(
        network, tmp_path / "u.onnx", side_px=32, dynamo=dynamo, batch=None
    )
    listed = {name for cut in graphs.cuts(file) for name in (cut.name, *cut.aliases)}
    assert {"down_layers.0", "down_layers.3", "bottom", "up_layers.3"} <= listed
    graphs.wrap(file, out=tmp_path / "e.onnx", **STANDARD)
    with torch.inference_mode():
        network(torch.from_numpy(foreign_models.planes(patches)))
    specs = graphs.join_cuts(tmp_path / "e.onnx", at=list(modules), out=tmp_path / "c.onnx")
    with encoders.load_all(tmp_path / "c.onnx", device="cpu") as joined:
        features = dict(zip([s.layer for s in specs], joined.encode(patches), strict=True))
    for name, maps in seen.items():
        wanted = maps.mean((2, 3)).numpy()
        np.testing.assert_allclose(features[name], wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_sizes_end_no_module(tmp_path):
    """A module whose last node asks for the size of what it made, as joins with skips do."""
    s = foreign_models.Sketch()
    x = s.add("/one/relu/Relu", [s.conv("one/conv", "x", 3, 4)])
    size = s.add("/one/Shape", [x])
    end = s.add("/two/Reshape", [s.conv("two/conv", x, 4, 4), size])
    path = s.save(tmp_path / "sizes.onnx", ["n", 3, 8, 8], {end: ["n", 4, 8, 8]})
    by_name = {cut.name: cut.tensor for cut in graphs.cuts(path, also=["one"])}
    assert by_name["one"] == "/one/relu/Relu_output_0"


# --- which sizes go in ----------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(1, 300), st.integers(0, 39))
def test_sizes_are_those_that_are_taken(step, asked, offset):
    """By definition: a network that takes `offset` more than multiples of `step`, tried alone."""

    def takes(px):
        return px > 0 and (px - offset) % step == 0

    known = offset % step + 3 * step
    found = sizes_around(takes, known)
    assert (found.px, found.step_px) == (known, step)
    assert all(found.takes(px) == takes(px) for px in range(1, 200))
    below = [px for px in range(1, asked + 1) if takes(px)][-1:]
    above = next(px for px in range(asked, asked + 41) if takes(px))
    assert found.nearest(asked) == tuple(dict.fromkeys([*below, above]))
    if not takes(asked):
        near = sizes_near(takes, asked)
        assert near.nearest(asked) == found.nearest(asked)


def test_sizes_that_are_rounded_down_are_no_step():
    """A net of two strides that are joined nowhere, then two that are: 96..99, 112..115 ..."""
    assert sizes_around(lambda px: px // 4 % 4 == 0, 96) == PatchSizes(px=96, step_px=16)


def test_sizes_in_words():
    assert str(PatchSizes(px=224, step_px=1)) == "any size"
    assert str(PatchSizes(px=224, step_px=0)) == "224 px"
    assert str(PatchSizes(px=96, step_px=16)) == "multiples of 16 px"
    assert str(PatchSizes(px=380, step_px=16)) == "multiples of 16 px and 12 px more"
    assert PatchSizes(px=224, step_px=0).nearest(100) == (224,)
    assert not PatchSizes(px=224, step_px=0).takes(100)
    assert sizes_near(lambda px: False, 100) is None
    assert sizes_around(lambda px: px == 64, 64) == PatchSizes(px=64, step_px=0)


def test_a_size_that_does_not_go_in_is_refused_with_the_nearest(unet, tmp_path):
    told = (
        r"unet\.onnx takes patches of multiples of 16 px, got 100 px: the nearest is 96 or 112 px"
    )
    with pytest.raises(ModelError, match=told):
        graphs.wrap(unet, out=tmp_path / "w.onnx", patch_px=100, **STANDARD)
    with pytest.raises(ModelError, match=told):
        graphs.cuts(unet, patch_px=100)
    with pytest.raises(ModelError, match=told):
        graphs.flops(unet, patch_px=100)
    assert not (tmp_path / "w.onnx").exists()


def test_the_encoder_knows_its_sizes(unet, wrapped, tmp_path, rng):
    assert encoders.read_spec(wrapped).step_px == 16
    assert graphs.patch_sizes(wrapped) == PatchSizes(px=96, step_px=16)
    assert graphs.patch_sizes(unet) == PatchSizes(px=224, step_px=16)
    assert graphs.patch_sizes(unet, patch_px=100).step_px == 16
    pixels = rng.integers(0, 256, (1, 48, 48, 3), dtype=np.uint8)
    with encoders.load(wrapped, device="cpu") as encoder:
        wanted = value_of(unet, "/last/Conv_output_0", pixels).mean((2, 3))
        got = encoder.encode(pixels)
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
        with pytest.raises(
            ModelError,
            match=r"encoder wrapped takes patches of multiples of 16 px, got 40 px: .* 32 or 48 px",
        ):
            encoder.encode(np.zeros((1, 48, 40, 3), np.uint8))


def test_a_part_before_the_joins_takes_any_size(wrapped, tmp_path):
    assert graphs.truncate(wrapped, at="bottom", out=tmp_path / "a.onnx").step_px is None
    assert graphs.truncate(wrapped, at="up_layers.1", out=tmp_path / "b.onnx").step_px == 16
    specs = graphs.join_cuts(wrapped, at=["up_layers.0", "bottom"], out=tmp_path / "c.onnx")
    assert {spec.step_px for spec in specs} == {16}


def test_a_module_of_torch_is_exported_at_a_size_it_takes(tmp_path):
    need("torch", "onnxscript")
    network = histofast.networks.adopt(foreign_models.torch_unet(), **STANDARD)
    with pytest.raises(
        ModelError,
        match=r"^UNet takes patches of multiples of 16 px, got 100 px: the nearest is 96 or 112 px$",
    ):
        histofast.export(network, tmp_path / "u.onnx", patch_px=100)
    assert histofast.export(network, tmp_path / "u.onnx", patch_px=96).height_px == 96


def test_extract_refuses_the_size_before_the_work(wrapped, tmp_path):
    slide = write_slide(tmp_path / "s.tif")
    with pytest.raises(
        ValueError,
        match=r"patch_px must fit: wrapped takes patches of multiples of 16 px, got 100 px: the nearest is",
    ):
        histofast.extract(slide, out=tmp_path / "f", encoder=wrapped, patch_px=100)


def test_the_command_says_it(cli, unet):
    done = cli("models", "truncate", str(unet), "--list")
    (line,) = [line for line in done.out.splitlines() if "down_layers.3" in line]
    assert line == (
        "down_layers.3.relu (also down_layers, down_layers.3): 7 features, 7 x 28 x 28, "
        "27.4% of the FLOPs, others go beside it"
    )
    assert f"{unet} takes patches of multiples of 16 px" in done.out
