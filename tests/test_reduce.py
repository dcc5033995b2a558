"""Encoders of fewer features: what is in the file, when it is made, and by whom it is taken."""

from __future__ import annotations

import inspect
import json
import shutil
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest

import histofast
import reference
from histofast import encoders, encoding, graphs, pipeline
from histofast._files import Lock
from histofast.errors import FeatureError, ModelError
from histofast.pipeline import sample_features
from slide_files import overwrite, tile_extent
from small_slides import content, no_leftovers, run, write_slide
from tiny_encoder import write_encoder

PX = 16


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """An encoder of 8 features that lie in three directions, for patches of which there are many."""
    return write_encoder(tmp_path_factory.mktemp("encoder") / "tiny.onnx", patch_px=PX)


def colours(n=200, d=6, seed=0):
    rng = np.random.default_rng(seed)
    scale = np.array([9, 5, 3, 1, 0.5, 0.1])[:d]
    mixed = np.linalg.qr(rng.normal(size=(d, d)))[0]
    return (rng.normal(size=(n, d)) * scale @ mixed + 7).astype(np.float32)


# --- Axes ------------------------------------------------------------------------------------


def test_axes_are_those_of_the_definition():
    x = colours()
    found = graphs.principal_axes(x, 4)
    mean, axes = reference.principal_axes(x.astype(float), 4)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(found.axes, axes, atol=1e-9)
    np.testing.assert_allclose(found.of(x), (x - mean) @ axes.T, atol=1e-6)


def test_axes_by_construction():
    """Features that vary by 4, 2 and 1 along three known directions, and nowhere else."""
    signs = np.array([[i, j, k] for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)])
    known = np.linalg.qr(np.random.default_rng(1).normal(size=(5, 3)))[0].T
    x = (signs * [4, 2, 1] @ known + 10).astype(np.float32)
    found = graphs.principal_axes(x, 3)
    np.testing.assert_allclose(np.abs(found.axes @ known.T), np.eye(3), atol=1e-6)
    np.testing.assert_allclose(np.abs(found.of(x)), np.abs(signs * [4, 2, 1]), atol=1e-5)
    assert (found.axes[np.arange(3), np.abs(found.axes).argmax(axis=1)] > 0).all()
    kept = graphs.kept_by(graphs.principal_axes(x, 2), x)
    assert kept.variance == pytest.approx(20 / 21, abs=1e-6)


def test_all_axes_keep_everything():
    x = colours()
    kept = graphs.kept_by(graphs.principal_axes(x, 6), colours(seed=1))
    assert kept.variance == pytest.approx(1, abs=1e-6)
    assert kept.cka == pytest.approx(1, abs=1e-6)


def test_what_is_kept_is_that_of_the_definition():
    x, others = colours(), colours(seed=1)
    axes = graphs.principal_axes(x, 2)
    kept = graphs.kept_by(axes, others)
    assert kept.n == 200
    assert kept.variance == pytest.approx(
        reference.share_of_variance(others.astype(float), axes.axes), abs=1e-6
    )
    grams = reference.linear_gram(others.astype(float)), reference.linear_gram(axes.of(others))
    assert kept.cka == pytest.approx(reference.debiased_cka(*grams), abs=1e-4)


@pytest.mark.parametrize(
    ("x", "dims", "message"),
    [
        (colours(), 7, "dims must be at most 6, the features that there are, got 7"),
        (
            colours(5),
            5,
            "dims must be below the 5 patches that it is fitted on, got 5: "
            + "ask for fewer, or give more slides",
        ),
        (
            np.repeat(colours(50, 2), 3, axis=1),
            3,
            "dims must be at most 2, for these features lie in no more directions, got 3",
        ),
        (
            np.ones((50, 4), np.float32),
            1,
            "dims must be at most 0, for these features lie in no more directions, got 1",
        ),
    ],
)
def test_axes_that_there_are_not(x, dims, message):
    with pytest.raises(ValueError, match=r"^dims must be ") as error:
        graphs.principal_axes(x, dims)
    assert str(error.value) == message


# --- The file --------------------------------------------------------------------------------


def features_of(encoder, pixels):
    with encoders.load(encoder, device="cpu", threads=1) as opened:
        return opened.encode(pixels)


@pytest.fixture
def made(small, tmp_path):
    pixels = graphs.stained_noise(120, PX)
    x = features_of(small, pixels)
    spec = graphs.write_reduced(
        small,
        out=tmp_path / "two.onnx",
        dims=2,
        features=x[:80],
        held_out=x[80:],
        told={"why": "t"},
    )
    return spec, pixels, x


def test_the_graph_is_the_projection(made, small):
    spec, pixels, x = made
    mean, axes = reference.principal_axes(x[:80].astype(float), 2)
    wanted = (x - mean) @ axes.T
    got = features_of(spec.path, pixels)
    assert got.dtype == np.float32
    assert np.abs(got - wanted).max() < 1e-5 * np.linalg.norm(x, axis=1).max()
    model = onnx.load(spec.path)
    onnx.checker.check_model(model, full_check=True)
    before = [node.op_type for node in onnx.load(small).graph.node]
    assert [node.op_type for node in model.graph.node] == [*before, "Gemm"]


def test_the_file_says_what_it_keeps(made, small):
    spec, _, x = made
    original = encoders.read_spec(small)
    assert (spec.name, spec.d, spec.layer) == ("tiny-pca2", 2, original.layer)
    assert spec.made_from == original.sha256
    assert spec.sha256 != original.sha256
    assert (spec.patch_px, spec.mpp, spec.licence) == (PX, original.mpp, original.licence)
    told = json.loads(spec.reduction)
    _, axes = reference.principal_axes(x[:80].astype(float), 2)
    assert told.pop("variance") == pytest.approx(
        reference.share_of_variance(x[80:].astype(float), axes), abs=1e-5
    )
    assert 0.9 < told.pop("cka") <= 1
    assert told == {"of": 8, "patches": 80, "held_out": 40, "why": "t"}


def test_what_is_made_of_a_reduced_encoder_says_so_only_where_it_is_still_true(made, tmp_path):
    spec, pixels, _ = made
    model = onnx.load(spec.path)
    props = {entry.key: entry.value for entry in model.metadata_props}
    graphs.set_metadata(model, {**props, "histofast.precision": "float32"})
    onnx.save(model, spec.path)
    half = graphs.write_quantized(
        spec.path, out=tmp_path / "h.onnx", precision="float16", held_out=pixels[:40]
    )
    assert half.reduction == spec.reduction
    cut = graphs.truncate(spec.path, at="m", out=tmp_path / "cut.onnx")
    assert cut.reduction is None


def test_features_far_from_zero_are_centred_without_loss(tmp_path):
    """A thousand deviations off: what is left is exact to what float32 knows of the whole."""
    small = write_encoder(tmp_path / "far.onnx", patch_px=PX, scale=1000 / 255)
    pixels = 250 + graphs.stained_noise(120, PX) // 64
    x = features_of(small, pixels)
    spec = graphs.write_reduced(
        small, out=tmp_path / "o.onnx", dims=3, features=x[:80], held_out=x[80:]
    )
    mean, axes = reference.principal_axes(x[:80].astype(float), 3)
    assert np.linalg.norm(mean) > 100 * x.std(axis=0).max()
    off = np.linalg.norm(features_of(spec.path, pixels) - (x - mean) @ axes.T, axis=1)
    assert (off < 1e-5 * np.linalg.norm(x, axis=1)).all()


def test_an_encoder_that_yields_nothing_to_measure(small, tmp_path):
    x = features_of(small, graphs.stained_noise(120, PX))
    still = np.repeat(x[:1], 40, axis=0)
    with pytest.raises(ModelError, match="tiny cannot be measured on these patches: "):
        graphs.write_reduced(small, out=tmp_path / "o.onnx", dims=2, features=x, held_out=still)
    with pytest.raises(ModelError, match="tiny gives NaN or infinity on these patches"):
        graphs.write_reduced(
            small, out=tmp_path / "o.onnx", dims=2, features=x * np.float32(np.inf), held_out=x
        )
    with pytest.raises(ValueError, match="patches to measure on must be at least 32, got 31"):
        graphs.write_reduced(small, out=tmp_path / "o.onnx", dims=2, features=x, held_out=x[:31])
    with pytest.raises(ValueError, match=r"features must be .* \(n, 8\)"):
        graphs.write_reduced(
            small, out=tmp_path / "o.onnx", dims=2, features=x[:, :4].copy(), held_out=x
        )
    assert not (tmp_path / "o.onnx").exists()


# --- The sample ------------------------------------------------------------------------------


def test_a_sample_has_the_features_that_extract_writes(slides, small, tmp_path):
    sample = sample_features(slides, encoder=small, n=90, min_tissue=0.1)
    assert sorted(sample.sources) == ["s0"] * 30 + ["s1"] * 30 + ["s2"] * 30
    report = run(slides, tmp_path, small)
    known = {
        row.tobytes()
        for slide in report.slides
        for row in histofast.read_features(slide.outputs[0]).features
    }
    assert {row.tobytes() for row in sample.features} <= known
    again = sample_features(slides, encoder=small, n=90, min_tissue=0.1)
    assert np.array_equal(sample.features, again.features)


def test_a_sample_takes_every_argument_of_extract(slides, small):
    """Those of runs are passed over, whichever there are."""
    names = inspect.signature(pipeline.extract).parameters
    given = {name: p.default for name, p in names.items() if p.default is not p.empty}
    del given["slides"], given["encoder"]
    sample = sample_features(slides, encoder=small, n=4, **given | {"min_tissue": 0.1})
    assert len(sample.features) == 4


def test_a_slide_that_fails_is_left_out_and_said(slides, small, tmp_path):
    (tmp_path / "s").mkdir()
    shutil.copy(slides / "s0.tif", tmp_path / "s")
    (tmp_path / "s" / "bad.tif").write_bytes((slides / "s1.tif").read_bytes()[:500])
    notes = []
    sample = sample_features(tmp_path / "s", encoder=small, n=20, on_note=notes.append)
    assert set(sample.sources) == {"s0"}
    assert len(sample.features) == 20
    (note,) = notes
    assert note.startswith("bad is left out of the sample: ")


def test_what_cannot_be_read_is_not_in_a_sample(small, tmp_path):
    path = write_slide(tmp_path / "a.tif")
    whole = sample_features(path, encoder=small, n=10_000)
    offset, size = tile_extent(path, 3 * 8 + 4)  # column 4, row 3 of level 0
    overwrite(path, offset, b"\xff\xd8" + bytes(size - 2))
    some = sample_features(path, encoder=small, n=10_000)
    assert len(some.features) < len(whole.features)
    known = {row.tobytes() for row in whole.features}
    assert {row.tobytes() for row in some.features} <= known


# --- Runs ------------------------------------------------------------------------------------


def test_a_run_is_made_with_the_projection(slides, small, tmp_path):
    report = run(slides, tmp_path / "out", small, dims=2)
    assert [slide.status for slide in report.slides] == ["done"] * 3
    spec = encoders.read_spec(tmp_path / "out" / "encoders" / "tiny-pca2.onnx")
    whole = run(slides, tmp_path / "whole", small)
    told = graphs.reduction_of(spec)
    assert (told["slides"], told["patches"], told["held_out"]) == (3, 384, 128)
    for slide, other in zip(report.slides, whole.slides, strict=True):
        file, all_of_it = (histofast.read_features(each.outputs[0]) for each in (slide, other))
        assert Path(slide.outputs[0]).parent.name == "features_tiny-pca2"
        assert file.identity["encoder"]["sha256"] == spec.sha256
        assert file.attributes["reduction"] == spec.reduction
        assert "reduction" not in all_of_it.attributes
        np.testing.assert_array_equal(file.coords, all_of_it.coords)
        centred = all_of_it.features - all_of_it.features.mean(axis=0)
        along = file.features - file.features.mean(axis=0)
        assert (along**2).sum() / (centred**2).sum() == pytest.approx(told["variance"], abs=0.05)
    assert no_leftovers(tmp_path)
    assert not histofast.verify(tmp_path / "out").problems


def test_who_comes_later_takes_the_axes_that_are_there(slides, small, tmp_path):
    run(slides / "s0.tif", tmp_path, small, dims=2)
    before = (tmp_path / "encoders" / "tiny-pca2.onnx").read_bytes()
    first = content(tmp_path)
    notes = []
    heard = run(slides, tmp_path, small, dims=2, on_progress=lambda p: notes.append(p.note))
    assert sorted(slide.status for slide in heard.slides) == ["done", "done", "skipped"]
    assert (tmp_path / "encoders" / "tiny-pca2.onnx").read_bytes() == before
    assert content(tmp_path).items() >= first.items()
    (note,) = filter(None, notes)
    assert "tiny-pca2.onnx was fitted on " in note
    assert " patches of 1 slide: 2 of 8 features, " in note


def test_shards_are_of_one_encoder(slides, small, tmp_path):
    for shard in ("1/2", "2/2"):
        run(slides, tmp_path / "parts", small, dims=2, shard=shard)
    run(slides, tmp_path / "whole", small, dims=2)
    assert content(tmp_path / "parts") == content(tmp_path / "whole")


def test_other_axes_do_not_mix(slides, small, tmp_path):
    run(slides / "s0.tif", tmp_path, small, dims=2)
    (tmp_path / "encoders" / "tiny-pca2.onnx").unlink()
    with pytest.raises(FeatureError, match=r"is for features made with encoder\.sha256"):
        run(slides / "s1.tif", tmp_path, small, dims=2)


def test_another_encoder_of_the_name_is_refused(slides, small, tmp_path):
    run(slides, tmp_path / "out", small, dims=2)
    other = write_encoder(tmp_path / "other.onnx", patch_px=PX, scale=2 / 255)
    with pytest.raises(ModelError) as error:
        run(slides, tmp_path / "out", other, dims=2)
    assert str(error.value) == (
        f"{tmp_path}/out/encoders/tiny-pca2.onnx was made from another encoder than {other}, whose name "
        "is the same: choose another output folder, or name the reduced encoder itself, without dims=..."
    )


@pytest.mark.parametrize(
    ("options", "was", "wanted"),
    [
        ({"mpp": 3.0}, "mpp 2.0", "mpp 3.0"),
        ({"patch_px": 24}, "patch_px 16", "patch_px 24"),
        ({"resample": "bicubic"}, "resample area", "resample bicubic"),
        ({"stain": "reinhard"}, "stain None", "stain reinhard"),
        ({"icc": "srgb"}, "icc None", "icc srgb"),
    ],
)
def test_axes_of_other_pixels_are_refused(slides, small, tmp_path, options, was, wanted):
    run(slides, tmp_path, small, dims=2)
    with pytest.raises(ModelError, match=f"patches of {was}, asked for is {wanted}: "):
        run(slides, tmp_path, small, dims=2, **options)


def test_stained_pixels_are_what_axes_are_fitted_on(slides, small, tmp_path):
    report = run(slides, tmp_path, small, dims=2, stain="reinhard")
    file = histofast.read_features(report.slides[0].outputs[0])
    assert json.loads(file.attributes["reduction"])["pixels"]["stain"]["method"] == "reinhard"
    plain = sample_features(slides, encoder=small, n=50)
    stained = sample_features(slides, encoder=small, n=50, stain="reinhard")
    assert not np.array_equal(plain.features, stained.features)


def test_one_makes_it_and_the_other_waits(slides, small, tmp_path):
    made = encoding.reduce(small, out=tmp_path / "made.onnx", dims=2, slides=slides)
    path = tmp_path / "out" / "encoders" / "tiny-pca2.onnx"
    path.parent.mkdir(parents=True)
    waits, notes = threading.Event(), []

    def hear(progress):
        notes.append(progress.note)
        if progress.note.startswith("waiting for process"):
            waits.set()

    lock = Lock(path)
    assert lock.acquire()
    work = threading.Thread(
        target=lambda: run(slides, tmp_path / "out", small, dims=2, on_progress=hear)
    )
    work.start()
    assert waits.wait(60)
    shutil.copy(made.path, path)
    lock.release()
    work.join(60)
    files = [histofast.read_features(p) for p in (tmp_path / "out").rglob("*.h5")]
    assert {file.identity["encoder"]["sha256"] for file in files} == {made.sha256}


def test_dry_run_writes_nothing(slides, small, tmp_path):
    report = run(slides, tmp_path / "out", small, dims=2, dry_run=True)
    assert [slide.status for slide in report.slides] == ["planned"] * 3
    assert not (tmp_path / "out").exists()


def test_a_broken_reduced_encoder_is_refused(slides, small, tmp_path):
    run(slides, tmp_path, small, dims=2)
    path = tmp_path / "encoders" / "tiny-pca2.onnx"
    model = onnx.load(path)
    props = {entry.key: entry.value for entry in model.metadata_props}
    for text in ("{", '{"of": "many"}', "[]"):
        graphs.set_metadata(model, {**props, "histofast.reduction": text})
        onnx.save(model, path)
        with pytest.raises(ModelError, match="must say what its features were reduced from"):
            run(slides, tmp_path, small, dims=2)


@pytest.mark.parametrize(
    ("dims", "error", "message"),
    [
        (9, ValueError, "dims must be at most 8, the features of tiny, got 9"),
        (0, ValueError, "dims must be at least 1, got 0"),
        (
            4,
            ValueError,
            "dims must be at most 3, for these features lie in no more directions, got 4",
        ),
        ("2", TypeError, "dims must be a whole number, got '2'"),
        (True, TypeError, "dims must be a whole number, got True"),
    ],
)
def test_wrong_dims(slides, small, tmp_path, dims, error, message):
    with pytest.raises(error) as refused:
        run(slides, tmp_path / "out", small, dims=dims)
    assert str(refused.value) == message
    assert not content(tmp_path)


def test_too_few_patches(slides, tmp_path):
    wide = write_encoder(tmp_path / "wide.onnx", d=300, patch_px=64)
    with pytest.raises(ValueError, match=r"^slides must give") as error:
        encoding.reduce(wide, out=tmp_path / "o.onnx", dims=2, slides=slides, n=40)
    assert str(error.value) == (
        "slides must give at least 32 patches to measure 2 dims on, got 10 of 40 patches of 3 slides: "
        "draw more with n=..., or give more slides"
    )
    small = write_encoder(tmp_path / "small.onnx", d=300, patch_px=PX)
    with pytest.raises(ValueError, match=r"^dims must be") as error:
        encoding.reduce(small, out=tmp_path / "o.onnx", dims=250, slides=slides, n=160)
    assert str(error.value) == (
        "dims must be below the patches that they are fitted on, 120 of 160 patches of 3 slides, got "
        "250: ask for fewer, or give more slides"
    )


def test_a_file_of_cuts_is_refused(slides, tmp_path, small):
    graphs.join_cuts(small, at=["m", "features"], out=tmp_path / "cuts.onnx")
    with pytest.raises(ModelError, match="computes 2 cuts in one run, dims is for one encoder: "):
        run(slides, tmp_path / "out", tmp_path / "cuts.onnx", dims=2)


# --- The command line --------------------------------------------------------------------------


def test_models_reduce(cli, slides, small, tmp_path):
    out = tmp_path / "two.onnx"
    arguments = ("models", "reduce", small, "--dims", 2, "--calibrate", slides, "--out", out)
    answer = cli(*arguments)
    assert (answer.code, answer.err) == (0, [])
    assert answer.out.startswith(f"{out}: tiny-pca2, 2 of 8 features, 9")
    assert " of the variance and debiased CKA 0.9" in answer.out
    answer = cli(*arguments)
    assert answer.err == [f"histofast: {out} exists: choose another name, or ask to overwrite it"]
    answer = cli(*arguments, "--overwrite", "--json")
    assert json.loads(answer.out)["reduction"]["of"] == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--dims", "2"),
            "--calibrate must name slides (or --patches a table): nothing is guessed",
        ),
        (
            ("--dims", "9", "--calibrate", "S"),
            "--dims must be at most 8, the features of tiny, got 9",
        ),
        (
            ("--dims", "2", "--calibrate", "S", "--n", "40"),
            "--calibrate must give at least 32 patches to measure 2 dims on, got 10 of 40 patches "
            + "of 3 slides: draw more with --n, or give more slides",
        ),
    ],
)
def test_models_reduce_refuses(cli, slides, small, tmp_path, arguments, message):
    given = [slides if word == "S" else word for word in arguments]
    answer = cli("models", "reduce", small, *given, "--out", tmp_path / "o.onnx")
    assert answer.code == 2
    assert answer.err == [f"histofast: {message}"]
    assert not list(tmp_path.iterdir())


def test_extract_dims(cli, slides, small, tmp_path):
    arguments = ("extract", slides, "--encoder", small, "--out", tmp_path / "f")
    answer = cli(*arguments, "--dims", 2)
    assert answer.code == 0
    assert any("tiny-pca2.onnx was fitted on 384 patches of 3 slides: " in x for x in answer.err)
    answer = cli(*arguments, "--dims", 2, "--mpp", 3)
    assert answer.code == 1
    assert answer.err == [
        f"histofast: {tmp_path}/f/encoders/tiny-pca2.onnx was fitted on patches of mpp 2.0, asked "
        + "for is mpp 3.0: choose another output folder, or name the reduced encoder itself, without --dims"
    ]
