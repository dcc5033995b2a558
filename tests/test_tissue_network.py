"""Networks of tissue: the definition's mask, tiles against the whole, exact scale, whole runs, bad input."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import onnxruntime
import pytest

import histofast
from histofast.encoders import read_spec, read_tissue_spec
from histofast.errors import FeatureError, ModelError
from histofast.features import options_of, read_features
from histofast.graphs import IMAGENET, wrap_tissue
from histofast.patches import TissueOptions
from histofast.pipeline import check_slides
from histofast.slides import open_slide, read_mask, write_png
from histofast.tissue import find_tissue_by
from slide_files import half, overwrite, tile_extent, write_tiff
from small_slides import content, run
from tiny_encoder import write_encoder
from tissue_networks import DARK, brightness, convolutions

RAW = {"mean": (0, 0, 0), "std": (1, 1, 1), "scale": 255}  # images of 0..255
MEAN, STD = IMAGENET.mean, IMAGENET.std


@pytest.fixture
def pool():
    with ThreadPoolExecutor(2) as threads:
        yield threads


def dark_and_light(height, width, *, seed=0):
    """A picture far from DARK everywhere, means of blocks of 8 x 8 too."""
    rng = np.random.default_rng(seed)
    is_dark = np.kron(rng.random((-(-height // 16), -(-width // 16))) < 0.4, np.ones((16, 16)))
    noise = rng.integers(0, 40, (height, width, 3))
    return np.where(is_dark[:height, :width, None] > 0, 60 + noise, 210 + noise).astype(np.uint8)


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """A slide of 2 um per pixel in three levels, its networks, and an encoder."""
    folder = tmp_path_factory.mktemp("tissue")
    image = dark_and_light(512, 640)
    write_tiff(folder / "a.tif", [image, half(image), half(image, 2)], mpp=2.0)
    write_tiff(folder / "b.tif", [dark_and_light(512, 640, seed=1)], mpp=2.0)
    brightness(folder / "dark.onnx")
    wrap_tissue(folder / "dark.onnx", out=folder / "t.onnx", mpp=8.0, tissue=[1], tile_px=64, **RAW)
    write_encoder(folder / "tiny.onnx", mpp=2.0)
    return folder


def mask_of(slide, network, pool):
    with open_slide(slide) as opened:
        return find_tissue_by(opened, network, workers=pool).tissue.mask


# --- The definition ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["logits", "last", "labels", "flat", "score"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("is_bytes", [False, True])
def test_what_is_dark_is_the_definitions_mask(stage, tmp_path, pool, kind, layout, is_bytes):
    path = brightness(tmp_path / "n.onnx", kind=kind, layout=layout, is_bytes=is_bytes)
    choice = {"above": 0.0} if kind == "score" else {"tissue": [1]}
    spec = wrap_tissue(
        path, out=tmp_path / "t.onnx", mpp=8.0, tile_px=64, **choice, **({} if is_bytes else RAW)
    )
    assert (spec.tile_px, spec.margin_px, spec.cell_px) == (64, 8, 1)
    with open_slide(stage / "a.tif") as slide:
        overview = slide.overview(mpp=8.0)
    wanted = overview.mean(axis=-1) < DARK
    found = mask_of(stage / "a.tif", spec.path, pool)
    np.testing.assert_array_equal(found, wanted)
    assert 0.2 < wanted.mean() < 0.6


def test_either_class_or_both_is_tissue(stage, tmp_path, pool):
    masks = {}
    for classes in ((0,), (1,), (0, 1)):
        spec = wrap_tissue(
            *(stage / "dark.onnx",),
            out=tmp_path / f"t{len(classes)}{classes[0]}.onnx",
            mpp=8.0,
            tissue=classes,
            tile_px=64,
            **RAW,
        )
        masks[classes] = mask_of(stage / "a.tif", spec.path, pool)
    np.testing.assert_array_equal(masks[0,], 1 - masks[1,])
    assert masks[0, 1].all()
    assert spec.tissue == "classes 0, 1"


@pytest.mark.parametrize("kind", ["last", "flat", "score"])
@pytest.mark.parametrize(("mpp", "together"), [(1.0, 4), (0.9, 4), (2.0, 2), (2.1, 1)])
def test_of_a_fine_map_squares_are_taken_together(tmp_path, pool, kind, mpp, together):
    image = np.where(np.random.default_rng(0).random((96, 132, 1)) < 0.5, 60, 240)
    slide = write_tiff(tmp_path / "s.tif", [image.repeat(3, axis=2).astype(np.uint8)], mpp=mpp)
    network = brightness(tmp_path / "n.onnx", kind=kind)
    choice = {"above": 0.0} if kind == "score" else {"tissue": [1]}
    spec = wrap_tissue(network, out=tmp_path / "t.onnx", mpp=mpp, tile_px=64, **choice, **RAW)
    assert spec.cell_px == together
    squares = (image[..., 0] < DARK).reshape(96 // together, together, 132 // together, together)
    wanted = squares.mean(axis=(1, 3)) >= 0.5
    np.testing.assert_array_equal(mask_of(slide, spec.path, pool), wanted)


def whole(network, image, margin_px, step_px):
    """What the network itself gives of a whole picture in white, without tiles: classes of every cell."""
    h, w = image.shape[:2]
    pad = [(margin_px, margin_px + -side % step_px) for side in (h, w)]
    padded = np.pad(image, [*pad, (0, 0)], constant_values=255)
    x = ((padded / 255 - MEAN) / STD).astype(np.float32).transpose(2, 0, 1)[None]
    session = onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"])
    scores = session.run(None, {"image": x})[0][0]
    cell_px = x.shape[-1] // scores.shape[-1]
    m = margin_px // cell_px
    return scores[:, m : m + h // cell_px, m : m + w // cell_px]


@pytest.mark.parametrize(
    ("halvings", "tile_px", "margin_px"), [(0, 40, 8), (1, 48, 12), (2, 96, 24)]
)
def test_tiles_give_the_mask_of_the_whole(stage, tmp_path, pool, halvings, tile_px, margin_px):
    cell_px = 2**halvings
    network = convolutions(tmp_path / "n.onnx", halvings=halvings)
    options = {"mpp": 8.0, "tissue": [1], "mean": MEAN, "std": STD}
    found = {}
    for tile, margin in ((tile_px, margin_px), (512, margin_px), (tile_px, 0)):
        spec = wrap_tissue(
            network,
            out=tmp_path / f"t{tile}-{margin}.onnx",
            tile_px=tile,
            margin_px=margin,
            **options,
        )
        assert spec.cell_px == cell_px
        found[tile, margin] = mask_of(stage / "a.tif", spec.path, pool)
    with open_slide(stage / "a.tif") as slide:
        scores = whole(network, slide.overview(mpp=8.0), margin_px, 2 * cell_px)
    wanted = scores.argmax(axis=0) == 1
    first, second = np.sort(scores, axis=0)[:-3:-1]
    is_clear = first - second > 1e-4  # last bits hang on the size of what is convolved
    assert is_clear.mean() > 0.99
    assert 0.05 < wanted.mean() < 0.95
    tiled = found[tile_px, margin_px]
    assert tiled.shape == wanted.shape
    np.testing.assert_array_equal(tiled[is_clear], wanted[is_clear])
    np.testing.assert_array_equal(found[512, margin_px][is_clear], wanted[is_clear])
    # Without margins the seams show.
    assert (found[tile_px, 0] != wanted)[is_clear].any()


@pytest.mark.parametrize(("mpp", "cell_px"), [(8.0, 1), (8.0, 4), (13.2, 1), (6.8, 2), (2.0, 8)])
def test_the_scale_is_exact(tmp_path, pool, mpp, cell_px):
    image = np.full((700, 900, 3), 240, np.uint8)
    left, top, right, bottom = 211, 97, 689, 583
    image[top:bottom, left:right] = 60
    slide = write_tiff(tmp_path / "s.tif", [image, half(image)], mpp=2.0)
    network = brightness(tmp_path / "n.onnx", cell_px=cell_px)
    spec = wrap_tissue(
        network, out=tmp_path / "t.onnx", mpp=mpp, tissue=[1], tile_px=64, margin_px=8, **RAW
    )
    with open_slide(slide) as opened:
        tissue = find_tissue_by(opened, spec.path, workers=pool).tissue
    # A cell of the mask is the network's to within the rounding of the slide to whole cells.
    for side, cells in ((900, tissue.mask.shape[1]), (700, tissue.mask.shape[0])):
        assert abs(side / cells - cell_px * mpp / 2) <= 0.5 * cell_px * mpp / 2 / cells + 1e-9
    rows, columns = np.nonzero(tissue.mask)
    edges = [
        columns.min() * tissue.downsample_x,
        rows.min() * tissue.downsample_y,
        (columns.max() + 1) * tissue.downsample_x,
        (rows.max() + 1) * tissue.downsample_y,
    ]
    cell_l0 = cell_px * mpp / 2
    assert np.abs(np.array(edges) - (left, top, right, bottom)).max() <= 0.75 * cell_l0 + 1
    assert tissue.mask.sum() == np.ptp([columns.min(), columns.max() + 1]) * np.ptp(
        [rows.min(), rows.max() + 1]
    )


def test_beside_the_slide_is_white(tmp_path, pool):
    """A slide dark all over, of no whole tiles, seen by a network that looks around itself."""
    image = np.full((150, 130, 3), 40, np.uint8)
    slide = write_tiff(tmp_path / "s.tif", [image], mpp=8.0)
    network = convolutions(tmp_path / "n.onnx")
    spec = wrap_tissue(
        network, out=tmp_path / "t.onnx", mpp=8.0, tissue=[1], tile_px=64, mean=MEAN, std=STD
    )
    scores = whole(network, image, spec.margin_px, 1)
    first, second = np.sort(scores, axis=0)[:-3:-1]
    is_clear = first - second > 1e-4
    found = mask_of(slide, spec.path, pool)
    np.testing.assert_array_equal(found[is_clear], (scores.argmax(axis=0) == 1)[is_clear])
    assert len(np.unique(scores.argmax(axis=0)[20:-20, 20:-20])) == 1


# --- Whole runs --------------------------------------------------------------------------------------


def features_in(folder, slide):
    return read_features(folder / "5x_32px_0px_overlap" / "features_tiny" / f"{slide}.h5")


def test_patches_are_those_of_its_mask(stage, tmp_path, pool):
    slides, network = [stage / "a.tif", stage / "b.tif"], stage / "t.onnx"
    report = run(slides, tmp_path / "f", stage / "tiny.onnx", tissue=network, min_tissue=0.5)
    assert [slide.status for slide in report.slides] == ["done", "done"]
    write_png(tmp_path / "a.png", mask_of(stage / "a.tif", network, pool) * 255)
    run(slides[:1], tmp_path / "m", stage / "tiny.onnx", mask=tmp_path / "a.png", min_tissue=0.5)
    file, masked = features_in(tmp_path / "f", "a"), features_in(tmp_path / "m", "a")
    np.testing.assert_array_equal(file.coords, masked.coords)
    np.testing.assert_array_equal(file.features, masked.features)
    spec = read_tissue_spec(network)
    assert file.identity["tissue"] == {"revision": 1, "network": "t", "sha256": spec.sha256}
    assert options_of(file)["tissue.sha256"] == spec.sha256
    told = json.loads((tmp_path / "f" / "run.json").read_text())["about"]["options"]["tissue"]
    assert (told["file"], told["tissue"]) == (str(network), "class 1")


def test_the_same_bytes_and_others_are_refused(stage, tmp_path):
    one, network = [stage / "a.tif"], stage / "t.onnx"
    for out, threads in (("a", 1), ("b", 3)):
        run(one, tmp_path / out, stage / "tiny.onnx", tissue=network, workers=threads)
    assert content(tmp_path / "a") == content(tmp_path / "b")
    again = run(one, tmp_path / "a", stage / "tiny.onnx", tissue=TissueOptions(network=network))
    assert [slide.status for slide in again.slides] == ["skipped"]
    other = wrap_tissue(
        stage / "dark.onnx", out=tmp_path / "t.onnx", mpp=16.0, tissue=[1], tile_px=64, **RAW
    )
    for tissue, said in (
        (None, "tissue.network none"),
        (other.path, f"sha256 {other.sha256[:12]}"),
    ):
        with pytest.raises(FeatureError, match=f"made with tissue.* asked for is .*{said}"):
            run([stage / "b.tif"], tmp_path / "a", stage / "tiny.onnx", tissue=tissue)
    run(one, tmp_path / "c", stage / "tiny.onnx")
    with pytest.raises(FeatureError, match=r"made with tissue\.network none"):
        run([stage / "b.tif"], tmp_path / "c", stage / "tiny.onnx", tissue=network)


def colourful(path, *, mpp=1.0):
    """A slide of tissue that the native mask sees, too light for DARK but for a corner."""
    image = np.full((640, 640, 3), 245, np.uint8)
    image[64:-64, 64:-64] = (235, 150, 205)
    image[64:160, 64:160] = (150, 60, 120)
    return write_tiff(path, [image, half(image, 2)], mpp=mpp)


def test_what_removes_most_of_the_tissue_says_so(stage, tmp_path):
    slide = colourful(tmp_path / "s.tif")
    report = run([slide], tmp_path / "f", stage / "tiny.onnx", tissue=stage / "t.onnx", mpp=1.0)
    (note,) = report.slides[0].notes
    assert note.startswith("t takes 97 % of what is tissue without it for none: look at both with")
    every = wrap_tissue(
        stage / "dark.onnx", out=tmp_path / "e.onnx", mpp=8.0, tissue=[0, 1], tile_px=64, **RAW
    )
    report = run([slide], tmp_path / "g", stage / "tiny.onnx", tissue=every.path, mpp=1.0)
    assert report.slides[0].notes == []


def test_a_slide_without_its_tissue_is_empty_and_says_why(stage, tmp_path):
    glass = np.full((256, 256, 3), 250, np.uint8)
    write_tiff(tmp_path / "glass.tif", [glass], mpp=2.0)
    report = run(
        [tmp_path / "glass.tif"], tmp_path / "f", stage / "tiny.onnx", tissue=stage / "t.onnx"
    )
    assert (report.slides[0].status, report.slides[0].reason) == ("empty", "t marks no tissue")


def test_a_coarser_slide_fails_alone(stage, tmp_path):
    write_tiff(tmp_path / "coarse.tif", [dark_and_light(128, 128)], mpp=12.0)
    report = run(
        [tmp_path / "coarse.tif", stage / "a.tif"],
        tmp_path / "f",
        stage / "tiny.onnx",
        tissue=stage / "t.onnx",
        allow_upsampling=True,
    )
    found = {slide.name: slide for slide in report.slides}
    assert found["a"].status == "done"
    assert "must have at most 8 um per pixel, which t sees, got 12" in found["coarse"].error


def test_what_cannot_be_decoded_is_listed(stage, tmp_path, pool):
    image = dark_and_light(256, 256)
    slide = write_tiff(tmp_path / "s.tif", [image], mpp=8.0, compression="jpeg")
    offset, _ = tile_extent(slide, 5)
    overwrite(slide, offset, bytes(40))
    with open_slide(slide) as opened:
        found = find_tissue_by(opened, stage / "t.onnx", workers=pool)
    assert found.unreadable_l0.tolist() == [[64, 64, 64, 64]]
    assert found.reason
    assert not found.tissue.mask[64:128, 64:128].any()


def test_it_can_be_looked_at(stage, tmp_path):
    ((_, found),) = check_slides(
        [stage / "a.tif"], out=tmp_path, tissue=stage / "t.onnx", mpp=2.0, device="cpu"
    )
    mask = read_mask(tmp_path / "a_mask.png", size_wanted=(160, 128))
    with open_slide(stage / "a.tif") as slide:
        np.testing.assert_array_equal(mask != 0, slide.overview(mpp=8.0).mean(axis=-1) < DARK)
    assert found["threshold"] is None


# --- Bad input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "options", "kind", "said"),
    [
        ({"kind": "classifier"}, {}, ModelError, 
         r"must be a map of classes, .*\(2, 2\) of 2 tiles of 64 px, one answer for .* is a classifier"),
        ({"channels": 4}, {}, ModelError, r"must have one uint8, float32 or float16 input of shape .*4"),
        ({"also": ("aux",)}, {}, ModelError, "has 2 outputs, 'out', 'aux': choose one with output"),
        ({}, {"tissue": [2]}, ValueError, r"tissue must be within 0\.\.1, of which .* has scores, got 2"),
        ({}, {"tissue": []}, ValueError, "tissue or above must say what is, and not both"),
        ({}, {"above": 0.0}, ValueError, "tissue or above must say what is, and not both"),
        ({}, {"tissue": [], "above": 0.0}, ValueError, "tissue must be given instead of above, .* 2 scores"),
        ({"kind": "flat"}, {"tissue": [], "above": 0.0}, ValueError, "instead of above, .* are labels"),
        ({"kind": "score"}, {}, ValueError, "above must be given, .* is one score: 0 of logits"),
        ({}, {"tile_px": None}, ValueError, r"tile_px must be given, .*n\.onnx takes images of any size"),
        ({"side": 32}, {}, ModelError, "takes 32 px only, tile_px is 64: leave it out"),
        ({"cell_px": 3}, {}, ModelError, "of the tile's size or a whole fraction"),
        ({}, {"margin_px": 32}, ValueError, "margin_px must leave something of a tile of 64 px, got 32"),
        ({"cell_px": 4}, {"margin_px": 6}, ValueError, "margin_px must be a multiple of 4 px, which a pixel"),
        ({}, {"mean": None}, ValueError, "mean and std must be given, .* takes float32 images"),
        ({"is_bytes": True}, {}, ValueError, "mean must not be given, .* takes bytes"),
        ({}, {"mpp": 0.001}, ValueError, "mpp must be within"),
        ({}, {"output": "none"}, ModelError, "none"),
    ],
)  # fmt: skip
def test_what_is_no_such_network_is_one_line(tmp_path, network, options, kind, said):
    path = brightness(tmp_path / "n.onnx", **network)
    given = {"mpp": 8.0, "tissue": [1], "tile_px": 64, **RAW, **options}
    with pytest.raises(kind, match=said) as error:
        wrap_tissue(path, out=tmp_path / "t.onnx", **given)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "t.onnx").exists()


def test_a_fixed_batch_is_freed(stage, tmp_path, pool):
    path = brightness(tmp_path / "n.onnx", batch=1, side=64)
    spec = wrap_tissue(path, out=tmp_path / "t.onnx", mpp=8.0, tissue=[1], **RAW)
    assert spec.tile_px == 64
    found = mask_of(stage / "a.tif", spec.path, pool)
    np.testing.assert_array_equal(found, mask_of(stage / "a.tif", stage / "t.onnx", pool))


def test_files_that_are_no_networks_of_tissue(stage, tmp_path):
    def refused(path, said, kind=ModelError):
        with pytest.raises(kind, match=said):
            run([stage / "a.tif"], tmp_path / "f", stage / "tiny.onnx", tissue=path)

    refused(tmp_path / "none.onnx", r"no such network of tissue: .*none\.onnx", FileNotFoundError)
    refused(
        stage / "dark.onnx",
        r"dark\.onnx lacks the metadata of a network of tissue \('histofast\.tissue_format'\): wrap it "
        "with `histofast models add --tissue CLASSES`",
    )
    refused(stage / "tiny.onnx", r"tiny\.onnx is an encoder, wanted a network of tissue")
    (tmp_path / "text.onnx").write_text("none")
    refused(tmp_path / "text.onnx", "is not an ONNX file")
    for entry, value, said in (
        (
            "tissue_format",
            "2",
            "is of tissue format 2, this histofast reads 1: update histofast, or",
        ),
        ("tile_px", "many", "'histofast.tile_px' must be int, got 'many'"),
        ("tile_px", "0", "metadata: tile_px must be"),
        ("margin_px", "50", "metadata: margin_px must leave something of a tile of 64 px"),
        ("mpp", "nan", "metadata: mpp must be"),
        ("name", "\x1b[2J", "metadata: name must be 1..200 printable characters"),
        ("cell_px", None, "lacks the metadata entry 'histofast.cell_px'"),
    ):
        model = onnx.load(stage / "t.onnx")
        props = {each.key: each.value for each in model.metadata_props}
        if value is None:
            del props[f"histofast.{entry}"]
        else:
            props[f"histofast.{entry}"] = value
        onnx.helper.set_model_props(model, props)
        onnx.save(model, tmp_path / "odd.onnx")
        refused(tmp_path / "odd.onnx", said)
    with pytest.raises(ModelError, match=r"t\.onnx is a network of tissue, wanted an encoder"):
        read_spec(stage / "t.onnx")
    with pytest.raises(ModelError, match=r"t\.onnx is a network of tissue, wanted an encoder"):
        run([stage / "a.tif"], tmp_path / "f", stage / "t.onnx")
    with pytest.raises(ModelError, match="is a network of tissue already"):
        wrap_tissue(stage / "t.onnx", out=tmp_path / "u.onnx", mpp=8.0, tissue=[1], **RAW)
    with pytest.raises(ModelError, match="is an encoder: wanted a network that maps pixels"):
        wrap_tissue(stage / "tiny.onnx", out=tmp_path / "u.onnx", mpp=8.0, tissue=[1], **RAW)


def test_a_network_that_does_not_do_as_it_says_ends_the_slide(stage, tmp_path):
    model = onnx.load(stage / "t.onnx")
    props = {each.key: each.value for each in model.metadata_props} | {"histofast.cell_px": "2"}
    onnx.helper.set_model_props(model, props)
    onnx.save(model, tmp_path / "odd.onnx")
    report = run(
        [stage / "a.tif"], tmp_path / "f", stage / "tiny.onnx", tissue=tmp_path / "odd.onnx"
    )
    assert "network of tissue t gave masks of uint8 (1, 64, 64), but says uint8 (1, 32, 32)" in (
        report.slides[0].error
    )


def test_what_cannot_be_asked_for_together(stage, tmp_path):
    network = stage / "t.onnx"
    with pytest.raises(
        ValueError, match="threshold must not be given where a network finds tissue"
    ):
        TissueOptions(network=network, threshold=5)
    with pytest.raises(
        ValueError, match=r"ink must not be given where a network finds .* got 'keep'"
    ):
        TissueOptions(network=network, ink="keep")
    write_png(tmp_path / "m.png", np.ones((64, 80), np.uint8))
    given = {"encoder": stage / "tiny.onnx", "out": tmp_path / "f", "tissue": network}
    with pytest.raises(
        ValueError, match=r"mask must not be given where t finds tissue, got .*m\.png"
    ):
        histofast.extract([stage / "a.tif"], mask=tmp_path / "m.png", **given)
    (tmp_path / "l.csv").write_text(f"wsi,mask\n{stage / 'a.tif'},{tmp_path / 'm.png'}\n")
    with pytest.raises(ValueError, match="mask must not be given where t finds tissue"):
        histofast.extract(tmp_path / "l.csv", **given)
    with pytest.raises(ValueError, match="mask must not be given where t finds tissue"):
        next(check_slides([stage / "a.tif"], out=tmp_path, mask=tmp_path / "m.png", tissue=network))
    with pytest.raises(ValueError, match="tissue must not be given with patches"):
        histofast.extract(patches=tmp_path, **given)
    with pytest.raises(TypeError, match="tissue must be TissueOptions or a network's file, got 5"):
        histofast.extract([stage / "a.tif"], **{**given, "tissue": 5})


def test_options_of_an_identity(stage):
    for options in (TissueOptions(), TissueOptions(mpp=4.0, threshold=9, ink="keep")):
        told = json.loads(json.dumps(options.identity))
        assert TissueOptions.of_identity(told) == options
    told = TissueOptions(network=stage / "t.onnx").identity
    with pytest.raises(
        ValueError, match=r"tissue was found by the network t \(sha256 \w{12}\), which"
    ):
        TissueOptions.of_identity(told)


def test_the_commands(cli, stage, tmp_path):
    made = tmp_path / "t.onnx"
    add = (
        "models",
        "add",
        stage / "dark.onnx",
        "--out",
        made,
        "--patch-px",
        "64",
        "--mean",
        "0,0,0",
    )
    add = (*add, "--std", "1,1,1", "--scale", "255")
    answer = cli(*add, "--tissue", "1", "--mpp", "8", "--margin", "8")
    assert answer.code == 0, answer.err
    assert "tissue is class 1 of dark, tiles of 64 px with margins of 8 px at 8 um per pixel" in (
        answer.out
    )
    assert made.read_bytes() == (stage / "t.onnx").read_bytes()
    common = (stage / "a.tif", "-o", tmp_path / "f", "--tissue")
    encoder = ("-e", stage / "tiny.onnx")
    assert cli("extract", *common, made, *encoder).code == 0
    assert features_in(tmp_path / "f", "a").identity["tissue"]["network"] == "t"
    answer = cli(
        "tissue", stage / "a.tif", "--mpp", "2", "--out", tmp_path / "qc", "--tissue", made
    )
    assert answer.code == 0
    assert (tmp_path / "qc" / "a_mask.png").is_file()
    for arguments, said in (
        ((*add, "--tissue", "1"), "--mpp must be given: the scale that the network was trained at"),
        ((*add, "--tissue", "7", "--mpp", "8"), "--tissue must be within 0..1, of which"),
        ((*add, "--tissue", "x", "--mpp", "8"), "must be indices such as 0,1, got 'x'"),
        ((*add, "--tissue", "1", "--mpp", "8"), "exists"),
        ((*add, "--tissue", "1", "--mpp", "8", "--pool", "cls"), "--pool must not be given with --tissue"),
        ((*add, "--margin", "8"), "--margin must be given with --tissue"),
        (("extract", *common, made, *encoder, "--threshold", "9"), "--threshold must not be given where"),
        (("extract", *common, made, *encoder, "--mask", made), "--mask must not be given where t finds"),
        (("extract", *common, stage / "dark.onnx", *encoder), "lacks the metadata of a network of tissue"),
        (("extract", *common, tmp_path / "no.onnx", *encoder), "no such network of tissue"),
        (("tissue", *common, made, "--ink", "keep"), "--ink must not be given where a network"),
    ):  # fmt: skip
        answer = cli(*arguments)
        assert answer.code in (1, 2), arguments
        assert said in answer.err[-1]
        assert len(answer.err) == 1
