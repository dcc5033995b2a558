"""Files of cuts: one run that gives the features of many layers, each an encoder of its own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import foreign_models
import histofast
from extras import need
from histofast import encoders, features, graphs
from histofast.encoders import spec as spec_module
from histofast.errors import FeatureError, ModelError
from histofast.graphs import joining, set_metadata
from slide_files import overwrite, tile_extent
from small_slides import content, run, write_slide
from tiny_encoder import write_encoder

CUTS = ["conv1", "relu", "layer1", "layer2.relu"]
SIDE = 32


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A small residual network as an encoder of any size."""
    folder = tmp_path_factory.mktemp("net")
    net = foreign_models.residual(folder / "net.onnx")
    out = folder / "whole.onnx"
    graphs.wrap(
        net, out=out, mean=foreign_models.MEAN, std=foreign_models.STD, patch_px=SIDE, mpp=2.0
    )
    return out


@pytest.fixture(scope="module")
def joined(whole):
    out = whole.with_name("net.cuts.onnx")
    graphs.join_cuts(whole, at=CUTS, out=out, name="net")
    return out


@pytest.fixture
def pixels(rng):
    return rng.integers(0, 256, (9, SIDE, SIDE, 3), dtype=np.uint8)


def changed(path, out, **props):
    """A copy whose metadata entries are others; None leaves one out."""
    model = onnx.load(path)
    own = {p.key: p.value for p in model.metadata_props}
    own |= {f"histofast.{key}": value for key, value in props.items()}
    set_metadata(model, {key: value for key, value in own.items() if value is not None})
    onnx.save(model, out)
    return out


# --- the file -------------------------------------------------------------------------------------


def test_a_file_of_cuts_says_what_is_in_it(whole, joined):
    specs = encoders.read_specs(joined)
    assert [(s.name, s.layer, s.d, s.output) for s in specs] == [
        ("net-conv1", "conv1", 4, "features.conv1"),
        ("net-relu", "relu", 4, "features.relu"),
        ("net-layer1", "layer1", 4, "features.layer1"),
        ("net-layer2.relu", "layer2.relu", 6, "features.layer2.relu"),
    ]
    original = encoders.read_spec(whole)
    for spec in specs:
        assert spec.is_cut
        assert (spec.made_from, spec.sha256) == (original.sha256, encoders.sha256_of(joined))
        assert (spec.patch_px, spec.mpp, spec.precision) == (SIDE, 2.0, "float32")
    props = {p.key: p.value for p in onnx.load(joined).metadata_props}
    assert "histofast.d" not in props
    assert json.loads(props["histofast.cuts"])[0] == {
        "output": "features.conv1", "name": "net-conv1", "layer": "conv1", "d": 4,
    }  # fmt: skip
    # What lies behind the last cut is not in it.
    assert not any("fc" in node.name for node in onnx.load(joined).graph.node)


def test_any_other_file_is_one_encoder(whole, pixels):
    (spec,) = encoders.read_specs(whole)
    assert spec == encoders.read_spec(whole)
    assert not spec.is_cut
    with encoders.load_all(whole) as together, encoders.load(whole) as alone:
        (features,) = together.encode(pixels)
        np.testing.assert_array_equal(features, alone.encode(pixels))
        assert together.name == spec.name


def test_each_cut_is_what_its_own_file_gives(whole, joined, pixels, tmp_path):
    with encoders.load_all(joined) as together:
        found = together.encode(pixels)
        assert repr(together).startswith("EncoderSet(net-conv1, net-relu, net-layer1, net-layer2")
    for cut, got in zip(CUTS, found, strict=True):
        graphs.truncate(whole, at=cut, out=tmp_path / "one.onnx", overwrite=True)
        with encoders.load(tmp_path / "one.onnx") as alone:
            np.testing.assert_allclose(got, alone.encode(pixels), rtol=1e-4, atol=1e-6)


def test_rows_depend_on_their_pixels_only(joined, pixels):
    with encoders.load_all(joined, device="cpu", threads=1) as one:
        wanted = one.encode(pixels)
        alone = [one.encode(pixels[i : i + 1]) for i in range(len(pixels))]
    for rows, whole in zip(zip(*alone, strict=True), wanted, strict=True):
        np.testing.assert_array_equal(np.concatenate(rows), whole)
    with encoders.load_all(joined, device="cpu", threads=3) as three:
        for got, whole in zip(three.encode(pixels[::-1].copy()), wanted, strict=True):
            np.testing.assert_array_equal(got[::-1], whole)
        assert [f.shape for f in three.encode(pixels[:0])] == [(0, 4), (0, 4), (0, 4), (0, 6)]


def test_a_set_refuses_what_an_encoder_refuses(joined, tmp_path):
    together = encoders.load_all(joined, threads=1)
    with pytest.raises(TypeError, match="pixels must be"):
        together.encode(np.zeros((1, 8, 8, 3), np.float32))
    together.close()
    with pytest.raises(ValueError, match="encoder is closed: load it again"):
        together.encode(np.zeros((1, 8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="threads must be at least 1, got 0"):
        encoders.load_all(joined, threads=0)
    with pytest.raises(FileNotFoundError, match="no such encoder file: "):
        encoders.read_specs(tmp_path / "none.onnx")


def test_a_cut_that_yields_infinity_is_named(joined, pixels, tmp_path):
    model = onnx.load(joined)
    for i, tensor in enumerate(model.graph.initializer):
        if list(tensor.dims) == [6]:
            spoiled = np.full(6, np.inf, np.float32)
            model.graph.initializer[i].CopyFrom(onnx.numpy_helper.from_array(spoiled, tensor.name))
    onnx.save(model, tmp_path / "inf.onnx")
    with (
        encoders.load_all(tmp_path / "inf.onnx", threads=2) as together,
        pytest.raises(
            ModelError, match=r"encoder net-layer2\.relu gave NaN or infinity for 9 of 9"
        ),
    ):
        together.encode(pixels)


@pytest.mark.parametrize("reader", ["load", "read_spec", "cuts", "truncate", "join_cuts"])
def test_who_wants_one_encoder_refuses_a_file_of_cuts(joined, tmp_path, reader):
    more = {"truncate": {"at": "relu"}}.get(reader, {})
    more |= {"out": tmp_path / "x.onnx"} if reader in ("truncate", "join_cuts") else {}
    with pytest.raises(ModelError) as told:
        getattr(encoders if reader in ("load", "read_spec") else graphs, reader)(joined, **more)
    assert str(told.value) == (
        f"{joined} computes 4 cuts in one run (conv1, relu, layer1, layer2.relu), wanted one "
        "encoder: use it with extract or encoders.load_all, or export the one cut by itself"
    )


@pytest.mark.parametrize(
    ("props", "message"),
    [
        ({"cuts": "["}, "metadata entry 'histofast.cuts' is not a list of cuts: export it again"),
        ({"cuts": "[]"}, "is not a list of cuts"),
        ({"cuts": '[{"layer": "a"}]'}, "is not a list of cuts"),
        ({"licence": None}, "lacks the metadata entry 'histofast.licence': export it again"),
        ({"format": "2"}, "is of encoder format 2, this histofast reads 1"),
    ],
)
def test_a_spoiled_file_of_cuts_is_refused(joined, tmp_path, props, message):
    with pytest.raises(ModelError, match=message):
        encoders.read_specs(changed(joined, tmp_path / "spoiled.onnx", **props))


def test_what_cuts_take_is_theirs(joined, tmp_path):
    """In a list of cuts it is optional, and no other's; what is no text is refused."""
    props = {p.key: p.value for p in onnx.load(joined).metadata_props}
    listed = json.loads(props["histofast.cuts"])
    listed[1]["work"] = '{"gmac": 1.0}'
    path = changed(joined, tmp_path / "told.onnx", cuts=json.dumps(listed))
    specs = encoders.read_specs(path)
    assert [spec.work for spec in specs] == [None, '{"gmac": 1.0}', None, None]
    written = encoders.cuts_to_props({s.output: s.derived() for s in specs}, name="net")
    assert json.loads(written["histofast.cuts"]) == listed
    assert "histofast.work" not in written
    listed[1]["work"] = 1.0
    with pytest.raises(ModelError, match=r"is not a list of cuts: export it again"):
        encoders.read_specs(changed(joined, path, cuts=json.dumps(listed)))


def test_cuts_that_are_not_the_outputs_are_refused(joined, tmp_path):
    props = {p.key: p.value for p in onnx.load(joined).metadata_props}
    listed = json.loads(props["histofast.cuts"])
    wider = [entry | {"d": entry["d"] + 1} for entry in listed]
    for entries in (listed[:3], wider):
        path = changed(joined, tmp_path / "spoiled.onnx", cuts=json.dumps(entries))
        with pytest.raises(
            ModelError, match=r"has outputs 'features.conv1' float32 \(n, 4\).*says"
        ):
            encoders.load_all(path)


# --- join_cuts ------------------------------------------------------------------------------------


def test_all_cuts_of_a_graph(whole, tmp_path):
    specs = graphs.join_cuts(whole, out=tmp_path / "all.onnx")
    assert [s.layer for s in specs] == ["conv1", "relu", "fc"]  # no dot; the pooling is left out
    again = graphs.join_cuts(whole, out=tmp_path / "again.onnx", name="all")
    assert [s.sha256 for s in again] == [s.sha256 for s in specs]
    specs = graphs.join_cuts(whole, at=["layer2", "conv1"], out=tmp_path / "two.onnx")
    assert [s.name for s in specs] == ["two-conv1", "two-layer2"]  # in the order of the graph


def test_names_of_cuts_can_be_folders():
    assert spec_module.cut_name("net", "layer1.0.relu") == "net-layer1.0.relu"
    assert spec_module.cut_name("net", "/layer1/layer1.0/Relu_output 0") == (
        "net-layer1-layer1.0-Relu_output-0"
    )


def test_join_cuts_refuses(whole, tmp_path):
    out = tmp_path / "x.onnx"
    with pytest.raises(ModelError, match=r"whole\.onnx has no tensor 'layr1': did you mean layer1"):
        graphs.join_cuts(whole, at=["conv1", "layr1"], out=out)
    with pytest.raises(ValueError, match="at must name at least one cut, got none"):
        graphs.join_cuts(whole, at=[], out=out)
    with pytest.raises(ValueError, match=r"out must end in \.onnx"):
        graphs.join_cuts(whole, out=tmp_path / "x.bin")
    with pytest.raises(ValueError, match="pool must be one of auto, nchw"):
        graphs.join_cuts(whole, out=out, pool="best")
    with pytest.raises(
        ModelError, match=r"is int8, whose inner tensors are not the layers' values"
    ):
        graphs.join_cuts("densenet121-t2-int8", out=out)
    out.write_bytes(b"")
    with pytest.raises(FileExistsError, match=r"x\.onnx exists"):
        graphs.join_cuts(whole, out=out)
    assert out.read_bytes() == b""


def test_cuts_whose_encoders_would_have_one_name(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(joining, "cut_name", lambda name, cut: name)
    with pytest.raises(ValueError, match="cuts must have different names, got x, x"):
        graphs.join_cuts(whole, at=["conv1", "relu"], out=tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_join_that_differs_is_not_written(whole, tmp_path, monkeypatch):
    add = joining.add_features

    def mixed_up(model, tensor, values, pool, *, output):
        return add(model, "/relu/Relu_output_0", values, pool, output=output)

    monkeypatch.setattr(joining, "add_features", mixed_up)
    with pytest.raises(ModelError, match=r"is not written: its features differ from 'conv1' of .*"):
        graphs.join_cuts(whole, at=["conv1", "relu"], out=tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []


# --- extract --------------------------------------------------------------------------------------


def test_extract_writes_a_folder_per_cut(slides, whole, joined, tmp_path):
    report = run(slides, tmp_path / "f", joined)
    assert [s.status for s in report.slides] == ["done"] * 3
    assert [e["name"] for e in report.about["encoders"]] == [f"net-{cut}" for cut in CUTS]
    for cut in CUTS:
        folder = tmp_path / "f" / "5x_32px_0px_overlap" / f"features_net-{cut}"
        file = histofast.read_features(folder / "s0.h5")
        assert file.attributes["encoder"] == f"net-{cut}"
        assert file.identity["encoder"] == {
            "name": f"net-{cut}",
            "sha256": encoders.sha256_of(joined),
            "provider": "CPUExecutionProvider",
            "layer": cut,
        }
        one = tmp_path / f"{cut}.onnx"
        graphs.truncate(whole, at=cut, out=one)
        (alone,) = run(slides / "s0.tif", tmp_path / "g", one).slides
        wanted = histofast.read_features(alone.outputs[0])
        assert "layer" not in wanted.identity["encoder"]
        np.testing.assert_array_equal(file.coords, wanted.coords)
        np.testing.assert_allclose(file.features, wanted.features, rtol=1e-4, atol=1e-6)
    sha256 = {spec.name: spec.sha256 for spec in encoders.read_specs(joined)}
    verified = features.verify([tmp_path / "f"], encoders_sha256=sha256)
    assert (verified.files, verified.is_whole) == (12, True)


def test_bytes_do_not_depend_on_threads_shards_or_company(slides, joined, tmp_path):
    tiny = write_encoder(tmp_path / "tiny.onnx")
    run(slides, tmp_path / "a", joined)
    run(slides, tmp_path / "b", [tiny, joined], threads=1, workers=4, batch_size=5)
    for i in (1, 2):
        run(slides, tmp_path / "c", joined, shard=f"{i}/2")
    wanted = content(tmp_path / "a")
    assert len(wanted) == 12
    assert content(tmp_path / "c") == wanted
    mixed = content(tmp_path / "b")
    assert {name: mixed[name] for name in wanted} == wanted
    assert sum("features_tiny" in name for name in mixed) == 3


def test_only_missing_cuts_are_written_again(slides, joined, tmp_path, monkeypatch):
    run(slides, tmp_path, joined)
    before = content(tmp_path)
    times = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.h5")}
    gone = tmp_path / "5x_32px_0px_overlap" / "features_net-layer1" / "s1.h5"
    gone.unlink()
    submit, calls = encoders.EncoderSet.submit, []

    def counted(self, pixels):
        calls.append(len(pixels))
        return submit(self, pixels)

    monkeypatch.setattr(encoders.EncoderSet, "submit", counted)
    report = run(slides, tmp_path, joined)
    assert {s.name: s.status for s in report.slides} == {
        "s0": "skipped", "s1": "done", "s2": "skipped",
    }  # fmt: skip
    assert sum(calls) == report.patches > 0  # once for all, and only for this slide
    assert content(tmp_path) == before
    assert {p for p, t in times.items() if p.stat().st_mtime_ns != t} == {gone}
    calls.clear()
    assert len(run(slides, tmp_path, joined).of("skipped")) == 3
    assert calls == []


def test_files_of_another_making_are_in_the_way(slides, whole, joined, tmp_path):
    run(slides / "s0.tif", tmp_path / "f", joined)
    before = content(tmp_path / "f")
    other = tmp_path / "other.onnx"
    graphs.join_cuts(whole, at=["relu", "conv1"], out=other, name="net")
    with pytest.raises(FeatureError, match=r"is for features made with encoder\.sha256 "):
        run(slides / "s0.tif", tmp_path / "f", other)
    assert content(tmp_path / "f") == before
    # One cut by itself under the name that it has in the file of cuts is something else too.
    alone = tmp_path / "alone.onnx"
    graphs.truncate(whole, at="relu", out=alone, name="net-relu")
    with pytest.raises(
        FeatureError, match=r"features_net-relu is for features made with encoder\.sha256 "
    ):
        run(slides / "s0.tif", tmp_path / "f", alone)
    assert content(tmp_path / "f") == before
    (slide,) = run(slides / "s0.tif", tmp_path / "f", other, overwrite=True).slides
    assert slide.status == "done"
    after = content(tmp_path / "f")
    assert {name for name in before if after[name] != before[name]} == {
        f"5x_32px_0px_overlap/features_net-{cut}/s0.h5" for cut in ("conv1", "relu")
    }


def test_strict_looks_at_every_cut(joined, tmp_path):
    path = write_slide(tmp_path / "hurt.tif")
    offset, length = tile_extent(path, 3 * 8 + 4)
    overwrite(path, offset, b"\0" * length)
    (slide,) = run(path, tmp_path / "f", joined).slides
    assert (slide.status, slide.unreadable) == ("done", 1)
    for output in slide.outputs[1:]:
        Path(output).unlink()
    (slide,) = run(path, tmp_path / "f", joined, strict=True).of("failed")
    assert "lists 1 unreadable region, which strict=True refuses: " in slide.error
    assert len(content(tmp_path)) == 1


def test_a_cut_and_an_encoder_of_one_name_are_refused(slides, whole, joined, tmp_path):
    alone = tmp_path / "alone.onnx"
    graphs.truncate(whole, at="relu", out=alone, name="net-relu")
    with pytest.raises(
        ValueError, match="encoders must have different names, got net-conv1, net-relu"
    ):
        run(slides, tmp_path / "f", [joined, alone])
    assert not (tmp_path / "f").exists()


def test_dry_run_and_layouts(slides, joined, tmp_path):
    report = run(slides, tmp_path, joined, dry_run=True)
    assert report.about["estimated_patches_per_s"] > 0
    assert len(report.slides[0].outputs) == 4
    run(slides / "s0.tif", tmp_path, joined, layout="clam")
    assert len(list(tmp_path.rglob("clam_net-*/pt_files/s0.pt"))) == 4
    assert features.verify([tmp_path]).is_whole


def test_verify_knows_every_cut(cli, slides, joined, whole, tmp_path):
    run(slides / "s0.tif", tmp_path / "f", joined)
    assert cli("verify", tmp_path / "f", "--encoder", joined).code == 0
    other = tmp_path / "other.onnx"
    graphs.join_cuts(whole, at=["relu"], out=other, name="net")
    answer = cli("verify", tmp_path / "f", "--encoder", other)
    assert answer.code == 1
    assert "made by another file of encoder net-relu" in answer.out


# --- networks -------------------------------------------------------------------------------------

PATCH_PX = {"cbr-tiny": 92}  # the smallest


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("resnet18", None),
        ("densenet121", "transition1"),
        ("squeezenet1.1", None),
        ("cbr-tiny", None),
    ],
)
def test_every_cut_agrees_with_torch_and_with_its_own_file(tmp_path, rng, name, last):
    torch = need("torch")
    from histofast import networks
    from lively import lively

    network = lively(name, layer=last)
    cuts = [c for c in networks.layers(name) if c.name in network.stage_names]
    patch_px = PATCH_PX.get(name, 64)
    specs = networks.export_cuts(network, tmp_path / "all.onnx", patch_px=patch_px)
    assert [(s.layer, s.d) for s in specs] == [(c.name, c.d) for c in cuts]
    assert [s.name for s in specs] == [f"all-{c.name}" for c in cuts]
    pixels = rng.integers(0, 256, (2, patch_px + 3, patch_px, 3), dtype=np.uint8)
    with encoders.load_all(tmp_path / "all.onnx") as together:
        found = together.encode(pixels)
    for spec, got in list(zip(specs, found, strict=True))[:: max(1, len(specs) // 4)]:
        shorter = networks.create(name, layer=spec.layer)
        shorter.load_state_dict({k: network.state_dict()[k] for k in shorter.state_dict()})
        with torch.inference_mode():
            wanted = networks.PixelsIn(shorter)(torch.from_numpy(pixels)).numpy()
        error = np.linalg.norm(got - wanted, axis=1) / np.linalg.norm(wanted, axis=1)
        assert error.max() < 1e-5, spec.layer
        one = tmp_path / "one.onnx"
        networks.export(shorter, one, patch_px=patch_px, overwrite=True)
        with encoders.load(one) as alone:
            np.testing.assert_allclose(got, alone.encode(pixels), rtol=1e-3, atol=1e-5)


@pytest.fixture
def resnet():
    need("torch")
    from histofast import networks

    return networks.create("resnet18", layer="layer1")


def test_some_cuts_hold_nothing_of_what_lies_beyond(resnet, tmp_path):
    from histofast import networks

    path = tmp_path / "r.onnx"
    specs = networks.export_cuts(resnet, path, layers=["relu", "bn1"], name="r18", patch_px=32)
    assert [s.name for s in specs] == ["r18-bn1", "r18-relu"]
    assert (specs[0].weights_sha256, specs[0].mpp, specs[0].patch_px) == ("random", 0.5, 32)
    assert not any("layer1" in node.name for node in onnx.load(path).graph.node)
    again = networks.export_cuts(
        resnet, tmp_path / "a.onnx", layers=["bn1", "relu"], name="r18", patch_px=32
    )
    assert again[0].sha256 == specs[0].sha256


def test_export_cuts_refuses(resnet, tmp_path, monkeypatch):
    torch = need("torch")
    from histofast import networks
    from histofast.networks import writing

    out = tmp_path / "x.onnx"
    with pytest.raises(ModelError, match=r"layer of resnet18 must be one of conv1, .*'layr1': did"):
        networks.export_cuts(resnet, out, layers=["layr1"])
    with pytest.raises(ValueError, match="layers must name at least one, got none"):
        networks.export_cuts(resnet, out, layers=[])
    with pytest.raises(ValueError, match=r"out must end in \.onnx"):
        networks.export_cuts(resnet, tmp_path / "x")
    with pytest.raises(ValueError, match="network must have no head, got one of 2 classes"):
        networks.export_cuts(networks.create("resnet18", layer="conv1", classes=2), out)
    adopted = networks.adopt(torch.nn.Conv2d(3, 4, 3), mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(
        TypeError, match=r"architectures or of timm to write its cuts, got AdoptedNetwork: exp"
    ):
        networks.export_cuts(adopted, out)
    with pytest.raises(FileNotFoundError, match="no folder"):
        networks.export_cuts(resnet, tmp_path / "none" / "x.onnx", patch_px=32)
    with pytest.raises(ValueError, match="network must be in evaluation mode"):
        networks.export_cuts(networks.create("resnet18", layer="conv1").train(), out)
    fold = writing._affine
    monkeypatch.setattr(writing, "_affine", lambda norm: (fold(norm)[0] * 1.1, fold(norm)[1]))
    with pytest.raises(ModelError, match=r"differ by .*: bn1 is the first cut to do so"):
        networks.export_cuts(resnet, out, patch_px=32)
    assert list(tmp_path.iterdir()) == []


# --- the command line -----------------------------------------------------------------------------


def test_models_export_layers(cli, slides, tmp_path):
    need("torch")
    out = tmp_path / "cuts.onnx"
    arguments = ("models", "export", "resnet18", "--random", 0, "--patch-px", 32, "-o", out)
    answer = cli(*arguments, "--layers", "bn1, maxpool", "--mpp", 2, "--name", "r")
    assert (answer.code, answer.err) == (0, [])
    lines = answer.out.splitlines()
    stem = "0.118 GMAC (7 % of the whole), 0.00954 M parameters (0 %)"
    assert lines[:2] == [
        f"r-bn1: 64 features from bn1, {stem}",
        f"r-maxpool: 64 features from maxpool, {stem}",
    ]
    assert lines[2].startswith(f"{out}: 2 cuts, ")
    assert "verified against torch, sha256 " in lines[2]
    answer = cli("extract", slides / "s0.tif", "-o", tmp_path / "f", "-e", out, "--min-tissue", 0.1)
    assert answer.code == 0
    assert len(list((tmp_path / "f").rglob("features_r-*/s0.h5"))) == 2
    for more, message in (
        (("--layers", "all", "--layer", "bn1"), "--layer and --layers must not be given together"),
        (("--layers", ","), "--layers must name at least one, got none: leave it out for all"),
    ):
        answer = cli(*arguments, *more, "--overwrite")
        assert (answer.code, answer.err) == (2, [f"histofast: {message}"])
    answer = cli(*arguments, "--layers", "bn1,layr1", "--overwrite")
    assert "got 'layr1': did you mean layer1" in answer.err[0]


def test_models_layers_tells_of_it(cli):
    need("torch")
    answer = cli("models", "layers", "resnet18")
    assert "histofast models export resnet18 --weights FILE --layers all" in answer.out
    assert len(json.loads(cli("models", "layers", "resnet18", "--json").out)) == 8


def test_models_truncate_layers(cli, whole, tmp_path):
    out = tmp_path / "cuts.onnx"
    answer = cli("models", "truncate", whole, "--layers", "relu,layer1", "--out", out)
    assert (answer.code, answer.err) == (0, [])
    assert answer.out.splitlines()[0] == "cuts-relu: 4 features from relu"
    assert answer.out.splitlines()[2].startswith(f"{out}: 2 cuts, ")
    answer = cli("models", "truncate", whole, "--layers", "all", "--at", "relu", "--out", out)
    assert answer.err == ["histofast: --at and --layers must not be given together"]
