"""Options of encoders, graphs and networks: NumPy's numbers are taken, other types refused in a line."""

from __future__ import annotations

import numpy as np
import pytest

import foreign_models
from histofast import encoders, graphs
from tiny_encoder import write_encoder

CHANNELS = {"mean": foreign_models.MEAN, "std": foreign_models.STD}


@pytest.fixture
def net(tmp_path):
    return foreign_models.residual(tmp_path / "net.onnx")


@pytest.fixture
def tiny(tmp_path):
    return write_encoder(tmp_path / "tiny.onnx")


def wrap(net, **changes):
    options = {"out": net.with_name("out.onnx"), "patch_px": 32, "overwrite": True} | CHANNELS
    return graphs.wrap(net, **options | changes)


REFUSED = {
    "wrap patch_px": (wrap, {"patch_px": "32"}, "patch_px must be a whole number, got '32'"),
    "wrap size_px": (wrap, {"size_px": 32.0}, r"size_px must be a whole number, got 32\.0"),
    "wrap mpp": (wrap, {"mpp": "0.5"}, "mpp must be a number, got '0.5'"),
    "wrap mean": (wrap, {"mean": "123"}, "mean must be three finite numbers, got '123'"),
    "wrap std": (wrap, {"std": None}, "std must be three finite numbers, got None"),
    "cuts": (graphs.cuts, {"patch_px": "32"}, "patch_px must be a whole number, got '32'"),
    "flops": (graphs.flops, {"patch_px": 32.5}, r"patch_px must be a whole number, got 32\.5"),
}


@pytest.mark.parametrize(("call", "changes", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_another_type_is_refused(net, call, changes, message):
    with pytest.raises(TypeError, match=f"^{message}$"):
        call(net, **changes)


def test_encoders_refuse_another_type(tiny):
    with pytest.raises(TypeError, match=r"^threads must be a whole number, got '2'$"):
        encoders.load(tiny, threads="2")
    with pytest.raises(ValueError, match=r"^device must be one of auto, .*, got 0$"):
        encoders.load(tiny, device=0)
    with pytest.raises(TypeError, match=r"^rounds must be a whole number, got '3'$"):
        graphs.bench([tiny], rounds="3")
    with pytest.raises(TypeError, match=r"^n must be a whole number, got '64'$"):
        graphs.quantize(tiny, out=tiny.with_name("out.onnx"), n="64")


def test_numbers_of_numpy_are_taken(net, tiny):
    plain = wrap(net, patch_px=32, mpp=0.5)
    given = wrap(
        net,
        patch_px=np.int64(32),
        mpp=np.float64(0.5),
        mean=np.array(foreign_models.MEAN),
        std=np.array(foreign_models.STD),
    )
    assert given == plain
    assert type(wrap(net, mpp=np.float32(0.5)).mpp) is float
    assert graphs.cuts(net, patch_px=np.uint16(32)) == graphs.cuts(net, patch_px=32)
    with encoders.load(tiny, device="cpu", threads=np.int32(2)) as encoder:
        assert encoder.threads == 2


def test_paths_may_be_text(tiny):
    assert encoders.read_spec(str(tiny)) == encoders.read_spec(tiny)
    assert encoders.sha256_of(str(tiny)) == encoders.read_spec(tiny).sha256


def test_networks_take_numbers_of_numpy_and_refuse_other_types(tmp_path):
    need_torch()
    from histofast import networks

    with pytest.raises(TypeError, match=r"^classes must be a whole number, got '2'$"):
        networks.create("cbr-tiny", classes="2")
    with pytest.raises(TypeError, match=r"^bn_eps must be a number, got '1e-5'$"):
        networks.create("cbr-tiny", bn_eps="1e-5")
    with pytest.raises(TypeError, match=r"^seed must be a whole number, got 0\.5$"):
        networks.create("cbr-tiny", seed=0.5)
    network = networks.create("resnet18", layer="layer1", seed=np.int64(1), classes=np.int16(0))
    for name, changes in (("patch_px", {"patch_px": "64"}), ("mpp", {"mpp": "0.5"})):
        with pytest.raises(TypeError, match=rf"^{name} must be a .*number, got '"):
            networks.export(network, tmp_path / "a.onnx", **changes)
    given = networks.export(network, tmp_path / "a.onnx", patch_px=np.int64(64), mpp=np.float64(1))
    assert (given.patch_px, type(given.patch_px), given.mpp) == (64, int, 1.0)


def need_torch():
    from extras import need

    need("torch")
