"""`histofast explain measure`: concepts of the patches of slides, as layers of `histofast view`."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest

import histofast
from histofast.explain import read_values
from histofast.explain.concepts import (
    CONCEPTS,
    check_concepts,
    measure,
    measure_slides,
)
from small_slides import run, write_slide
from tiny_encoder import write_encoder

MPP, PATCH_PX = 1.0, 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Slides a and b with features; c without."""
    folder = tmp_path_factory.mktemp("measured")
    (folder / "slides").mkdir()
    for seed, name in enumerate("ab"):
        write_slide(folder / "slides" / f"{name}.tif", seed=seed)
    write_encoder(folder / "tiny.onnx", patch_px=PATCH_PX, mpp=MPP)
    run(folder / "slides", folder / "features", folder / "tiny.onnx")
    write_slide(folder / "slides" / "c.tif", seed=2)
    return folder


def patches_of(folder, name):
    """What the encoder saw, by another way: box by box."""
    (path,) = (folder / "features").rglob(f"{name}.h5")
    coords = histofast.read_features(path).coords
    with histofast.open_slide(folder / "slides" / f"{name}.tif") as slide:
        boxes = [slide.read_region((x, y), 0, (PATCH_PX, PATCH_PX)) for x, y in coords.tolist()]
    return coords, np.stack(boxes)


def test_values_are_those_of_the_patches_that_were_encoded(folder):
    told = []
    found = dict(
        measure_slides(
            folder / "slides",
            folder / "features",
            on_progress=lambda *each: told.append(each),
        )
    )
    for name in "ab":
        coords, pixels = patches_of(folder, name)
        assert found[name].concepts == check_concepts(None)
        np.testing.assert_array_equal(found[name].coords_l0, coords)
        np.testing.assert_allclose(found[name].values, measure(pixels), rtol=1e-12)
        assert (name, len(coords), len(coords)) in told
    assert "c has no feature file" in str(found["c"])


def test_a_table_holds_a_concept_at_the_places_of_its_patches(folder, cli, tmp_path):
    answer = cli(
        *("explain", "measure", folder / "slides" / "a.tif", "--features", folder / "features"),
        *("--out", tmp_path / "c", "--concepts", "contrast,eosin", "--json"),
    )
    assert answer.code == 0
    (said,) = json.loads(answer.out)
    assert said["slide"] == "a"
    coords, pixels = patches_of(folder, "a")
    assert said["patches"] == len(coords)
    table = read_values(tmp_path / "c" / "a" / "eosin.csv")
    assert table.name == "eosin"
    np.testing.assert_array_equal(table.coords_l0, coords)
    np.testing.assert_allclose(table.values, measure(pixels, names=["eosin"])[:, 0], rtol=1e-12)
    assert (tmp_path / "c" / "a" / "contrast.csv").is_file()


def test_a_slide_that_fails_is_one_line_and_the_others_are_measured(folder, cli, tmp_path):
    arguments = ("--features", folder / "features", "--out", tmp_path / "c", "--concepts", "eosin")
    answer = cli("explain", "measure", folder / "slides", *arguments)
    assert answer.code == 1
    assert any(line.startswith("c: failed: c has no feature file") for line in answer.err)
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["a", "b"]


def test_a_typo_and_two_encoders_are_refused(folder, cli, tmp_path):
    arguments = ("explain", "measure", folder / "slides", "--out", tmp_path / "c")
    answer = cli(*arguments, "--features", folder / "features", "--concepts", "eosine")
    assert answer.code != 0
    assert "did you mean eosin" in answer.err[-1]
    assert "eosin" in CONCEPTS
    for each in ("one", "other"):
        shutil.copytree(folder / "features", tmp_path / "f" / each)
    answer = cli(*arguments, "--features", tmp_path / "f")
    assert answer.code != 0
    assert "name the folder of one encoder" in answer.err[-1]
    assert not (tmp_path / "c").exists()


def test_patches_that_could_not_be_decoded_are_left_out(folder, tmp_path, monkeypatch):
    on_slides = sys.modules[measure_slides.__module__]
    opened = on_slides.open_features
    bad = np.array([1, 4], np.int64)
    monkeypatch.setattr(
        on_slides, "open_features", lambda path: replace(opened(path), unreadable_patches=bad)
    )
    ((_, found),) = measure_slides(
        folder / "slides" / "a.tif", folder / "features", names=["eosin"]
    )
    coords, pixels = patches_of(folder, "a")
    assert found.left_out == 2
    np.testing.assert_array_equal(found.coords_l0, np.delete(coords, bad, axis=0))
    np.testing.assert_allclose(found.values, np.delete(measure(pixels, names=["eosin"]), bad, 0))
