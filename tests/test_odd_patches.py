"""Patch images of other sizes than the encoder's, or than the rest of their bag: what becomes of them."""

from __future__ import annotations

import numpy as np
import pytest

import histofast
import reference
from histofast.errors import SlideError
from histofast.features import problems_of, read_features
from histofast.patches import (
    PatchImages,
    PatchReader,
    fit_bag,
    read_patch_table,
    sample_patches,
)
from histofast.slides import write_png
from tiny_encoder import write_encoder

ODD = {
    "a.png": (40, 40),
    "b.png": (40, 40),
    "c.png": (40, 28),
    "d.png": (24, 24),
    "e.png": (40, 40),
}


def picture(seed, width, height):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def bag_of(folder, sizes):
    """A table of one bag with x and y, and its pictures."""
    rows, pictures = ["file,slide,label,x,y"], {}
    for i, (name, (width, height)) in enumerate(sizes.items()):
        pictures[name] = picture(i, width, height)
        write_png(folder / name, pictures[name])
        rows.append(f"{name},s,{i % 2},{40 * i},0")
    (folder / "t.csv").write_text("\n".join(rows) + "\n")
    return folder / "t.csv", pictures


def extract(table, encoder, *, odd_patches="error", **options):
    out, images = table.parent / "f", PatchImages(table, odd_patches=odd_patches)
    return histofast.extract(None, out=out, encoder=encoder, patches=images, **options)


def resampled(image, side):
    height, width = image.shape[:2]
    return reference.cut_patch(image, (0, 0, width, height), side)


def padded(image):
    white = np.full((40, 40, 3), 255, np.uint8)
    white[: image.shape[0], : image.shape[1]] = image
    return white


@pytest.mark.parametrize("odd", ["skip", "pad", "resize"])
def test_odd_pictures_are_treated_as_asked(tmp_path, odd):
    table, pictures = bag_of(tmp_path, ODD)
    encoder = write_encoder(tmp_path / "e.onnx", patch_px=40)
    (slide,) = extract(table, encoder, odd_patches=odd).slides
    wanted = {
        "skip": {name: image for name, image in pictures.items() if name in "a.png b.png e.png"},
        "pad": {name: padded(image) for name, image in pictures.items()},
        "resize": {name: resampled(image, 40) for name, image in pictures.items()},
    }[odd]
    note = {
        "skip": "left out what is not 40 x 40 px like most: 2 (c.png, d.png)",
        "pad": "padded with white to 40 x 40 px: 2 (c.png, d.png)",
        "resize": "resampled to 40 x 40 px from other sizes: 2 (c.png, d.png)",
    }[odd]
    assert (slide.status, slide.notes) == ("done", [note])
    file = read_features(slide.outputs[0])
    assert file.files == tuple(wanted)
    assert file.labels == tuple(str("abcde".index(name[0]) % 2) for name in wanted)
    assert file.coords[:, 0].tolist() == [40 * "abcde".index(name[0]) for name in wanted]
    assert file.identity["odd_patches"] == odd
    assert problems_of(slide.outputs[0]) == []
    with PatchReader(patches=table) as reader:
        rows = np.array([2, 0])
        pixels = reader.read(file, rows)
        for row, pixel in zip(rows, pixels, strict=True):
            np.testing.assert_allclose(pixel, list(wanted.values())[row], atol=1)
        everything = reader.read(file, np.arange(len(wanted)))
    with histofast.load_encoder(encoder) as loaded:
        np.testing.assert_array_equal(file.features, loaded.encode(everything))


def test_by_default_all_of_them_are_named(tmp_path):
    table, _ = bag_of(tmp_path, ODD)
    (slide,) = extract(table, write_encoder(tmp_path / "e.onnx")).slides
    assert slide.error == (
        "patches of bag s must be squares of one size, got 2 of 5 that are not 40 x 40 px like most, "
        'c.png (40 x 28), d.png (24 x 24): leave them out with odd_patches="skip", or fill them up with '
        'odd_patches="pad", or resample them with odd_patches="resize"'
    )


def test_a_bag_without_odd_pictures_is_the_same_whatever_was_asked(tmp_path):
    table, _ = bag_of(tmp_path, {"a.png": (40, 40), "b.png": (40, 40)})
    encoder = write_encoder(tmp_path / "e.onnx", patch_px=40)
    states = [extract(table, encoder, odd_patches=odd).slides[0].status for odd in ("pad", "error")]
    assert states == ["done", "skipped"]


def test_no_squares(tmp_path):
    table, pictures = bag_of(tmp_path, {"a.png": (40, 28), "b.png": (40, 28)})
    (bag,) = read_patch_table(table)
    message = "got 2 of 2 that are not square, a.png .40 x 28., b.png .40 x 28.: leave"
    with pytest.raises(SlideError, match=message):
        fit_bag(bag)
    message = (
        r"^bag s must have a square image, got none of 2: fill them up with odd_patches=\"pad\""
    )
    with pytest.raises(SlideError, match=message):
        fit_bag(bag, odd="skip")
    assert fit_bag(bag, odd="pad").patch_px == 40
    fitted = fit_bag(bag, odd="resize")
    patch = fitted.load(bag.files[0])
    np.testing.assert_allclose(patch, resampled(pictures["a.png"], 28), atol=1)


def test_an_encoder_of_one_size_gets_it(tmp_path):
    table, pictures = bag_of(tmp_path, {"a.png": (48, 48), "b.png": (48, 48)})
    encoder = write_encoder(tmp_path / "e.onnx", side=32, patch_px=32)
    report = extract(table, encoder)
    assert "patch images of 48 px are resampled to 32 px by area averaging" in report.notes
    file = read_features(report.slides[0].outputs[0])
    assert (file.attributes["patch_size"], file.attributes["picture_px"]) == (32, 48)
    with PatchReader(patches=table) as reader:
        for pixels, image in zip(reader.read(file, np.arange(2)), pictures.values(), strict=True):
            np.testing.assert_allclose(pixels, resampled(image, 32), atol=1)


def test_small_pictures_are_not_enlarged_unasked(tmp_path):
    table, _ = bag_of(tmp_path, {"a.png": (24, 24)})
    encoder = write_encoder(tmp_path / "e.onnx", side=32, patch_px=32)
    (slide,) = extract(table, encoder).slides
    assert slide.error == (
        "patches of bag s are 24 px, asked for 32 px: use a smaller patch_px where the encoder takes "
        "one, or accept interpolated pixels with allow_upsampling=True"
    )
    report = extract(table, encoder, allow_upsampling=True)
    assert "patch images of 24 px are resampled to 32 px by linear interpolation" in report.notes
    (slide,) = report.slides
    assert read_features(slide.outputs[0]).attributes["picture_px"] == 24


def test_an_encoder_of_any_size_gets_the_pictures_as_they_are(tmp_path):
    table, pictures = bag_of(tmp_path, {"a.png": (50, 50), "b.png": (50, 50)})
    encoder = write_encoder(tmp_path / "e.onnx", patch_px=96)
    report = extract(table, encoder)
    note = (
        "patch images of 50 px are taken as they are, encoder tiny was made for 96 px: resample them "
        "with patch_px=96 and allow_upsampling=True"
    )
    assert report.notes.count(note) == 1
    file = read_features(report.slides[0].outputs[0])
    assert (file.attributes["patch_size"], file.attributes["picture_px"]) == (50, 50)
    with histofast.load_encoder(encoder) as loaded:
        wanted = loaded.encode(np.stack(list(pictures.values())))
    np.testing.assert_array_equal(file.features, wanted)
    smaller = write_encoder(tmp_path / "s.onnx", name="small", patch_px=32)
    told = " ".join(extract(table, smaller).notes)
    assert "was made for 32 px: resample them with patch_px=32" in told
    assert "allow_upsampling" not in told


def test_images_are_told_in_one_way(tmp_path):
    message = "^odd_patches must be one of error, skip, pad, resize, got 'crop'$"
    with pytest.raises(ValueError, match=message):
        PatchImages(tmp_path / "t.csv", odd_patches="crop")
    with pytest.raises(TypeError, match=r"^patches must be a path, got 3"):
        PatchImages(3)
    with pytest.raises(TypeError, match=r"^bag_from must be a text, got 3"):
        PatchImages(tmp_path, bag_from=3)


@pytest.mark.parametrize("odd", ["skip", "pad", "resize"])
def test_a_sample_treats_odd_pictures_as_an_extraction_does(tmp_path, odd):
    """Which are odd depends on all of the bag, and not on those that are drawn."""
    table, pictures = bag_of(tmp_path, ODD)
    wanted = {
        "skip": [pictures[name] for name in ("a.png", "b.png", "e.png")],
        "pad": [padded(image) for image in pictures.values()],
        "resize": [resampled(image, 40) for image in pictures.values()],
    }[odd]
    images = PatchImages(table, odd_patches=odd)
    every = sample_patches(patches=images, n=9, patch_px=40, mpp=0.5)
    np.testing.assert_allclose(every.pixels, wanted, rtol=0, atol=0.5 + 1e-6)
    asked = {"patches": images, "n": 1, "patch_px": 40, "mpp": 0.5}
    some = [sample_patches(**asked, seed=seed).pixels[0] for seed in range(12)]
    assert all(any(np.array_equal(each, one) for one in every.pixels) for each in some)
    with pytest.raises(SlideError, match="must be squares of one size, got 2 of 5"):
        sample_patches(patches=table, n=9, patch_px=40, mpp=0.5)
