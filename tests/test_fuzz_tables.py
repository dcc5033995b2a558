"""Broken copies of tables, of GeoJSON and of the registry: read or refused in one line."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import fuzzing
from fake_slides import FakeSlide
from histofast.datasets import Images, open_images, split
from histofast.encoders import read_registry
from histofast.explain import read_values
from histofast.learning import read_labels
from histofast.patches import (
    TissueOptions,
    list_jobs,
    read_patch_table,
    select_shard,
    survey_tissue,
    with_masks,
)
from histofast.slides import write_png
from histofast.tissue import MaskFile, Tissue
from test_registry import SMALL

pytestmark = pytest.mark.slow
SLIDES = [f"slide-{i}" for i in range(8)]


def read_classes(path: Path) -> None:
    """As `train` reads them, which leaves out what does not match where it is asked to."""
    found = read_labels(path, SLIDES, missing="skip")
    assert all("\n" not in note for note in found.notes)
    assert len(found.targets) == len(found.names) == len(found.patients) == len(found.splits)
    read_labels(path, SLIDES)


def read_values_of_slides(path: Path) -> None:
    found = read_labels(path, SLIDES, missing="skip", task="regression", label_column="age")
    assert np.isfinite(found.targets).all()
    survival = read_labels(path, SLIDES, missing="skip", task="survival")
    assert np.isfinite(survival.targets).all()


def read_patches(path: Path) -> None:
    for bag in read_patch_table(path):
        assert bag.coords.shape == (len(bag), 2)


def read_set(path: Path) -> None:
    """As `classify` reads it, and deals its groups."""
    check_set(open_images(path, labelled=False))
    images = open_images(path)
    check_set(images)
    fold = split(images, folds=2)
    sides = [{images.groups[i] for i in part} for part in (fold.train, fold.validation, fold.test)]
    assert sum(map(len, sides)) == len(set().union(*sides))


def read_set_of_columns(path: Path) -> None:
    check_set(open_images(path, labels=("tumour", "stroma"), group_column="slide"))


def check_set(images: Images) -> None:
    n = len(images)
    assert n == len(images.files) == len(images.groups) == len(images.splits) == len(images.mpp)
    assert len(set(images.names)) == n
    assert all(file.is_file() for file in images.files)
    assert all("\n" not in text for text in (*images.notes, *images.names, *images.classes))
    if images.has_targets:
        shape = (n,) if images.task == "classification" else (n, len(images.classes))
        assert images.targets.shape == shape
        wanted = range(len(images.classes)) if images.task == "classification" else (0, 1)
        assert set(images.targets[~np.isnan(images.targets)].tolist()) <= set(wanted)


def read_list(path: Path) -> None:
    for job in with_masks(select_shard(list_jobs(path), "1/1"), path.parent):
        with contextlib.suppress(FileNotFoundError):
            job.open(mpp=job.mpp)


def read_map(path: Path) -> None:
    found = read_values(path)
    assert found.coords_l0.shape == (len(found.values), 2)
    assert np.isfinite(found.values).all()


def survey(path: Path) -> Tissue:
    slide = FakeSlide(np.zeros((64, 96, 3), np.uint8), tile=(96, 64), mpp=8.0)
    with ThreadPoolExecutor(1) as pool:
        return survey_tissue(slide, TissueOptions(), MaskFile(path), pool).tissue


def read_geojson(path: Path) -> None:
    tissue = survey(path)
    again = path.with_name("again.geojson")
    again.write_text(json.dumps(tissue.geojson()))
    np.testing.assert_array_equal(survey(again).mask, tissue.mask)


LABELS = "Slide ID,label,patient,split,age,time,event,note\n" + "".join(
    f"{name}.svs,{'luad' if i % 2 else 'lusc'},p{i // 2},{'train' if i else 'test'},"
    f'{40 + i},{i + 0.5},{i % 2},"a, ""b"""\n'
    for i, name in enumerate(SLIDES)
)
PATCHES = "file,slide,patient,label,x,y,split\n" + "".join(
    f"a/{i}.png,s{i // 4},p{i // 8},{i % 2},{256 * i},-{i},train\n" for i in range(16)
)
SET = "file,Label,tumour,stroma,Patient ID,slide,mpp\n" + "".join(
    f"a/{i}.png,{'xy'[i % 2]},{i % 2},{i // 2 % 2 if i else 'NA'},p{i // 2},s{i},0.{i + 10}\n"
    for i in range(16)
)
LIST = "wsi,mpp,mask,patient\n" + "".join(
    f"{name}.svs,{0.25 + i / 100},{name}.png,{'=p' if i else ''}\n" for i, name in enumerate(SLIDES)
)


MAP = "x,y,'=share\n" + "".join(f"{256 * i},-{i}.0,{i / 16:g}e-3\n" for i in range(16))


def spellings(text: str) -> list[bytes]:
    """One table as different programs save it."""
    return [
        text.encode(),
        text.replace(",", ";").replace("\n", "\r\n").encode("utf-8-sig"),
        text.replace(",", "\t").encode("utf-16"),
    ]


def attacked(
    read: Callable[[Path], object], originals: list[bytes], suffix: str, folder: Path, mutants: int
) -> list[fuzzing.Stray]:
    paths = [folder / f"{number}{suffix}" for number in range(len(originals))]
    for path, content in zip(paths, originals, strict=True):
        path.write_bytes(content)
    broken = folder / "broken"
    broken.mkdir()
    pictures = folder / "a"  # what tables of pictures name
    pictures.mkdir()
    for number in range(16):
        write_png(pictures / f"{number}.png", np.zeros((2, 2, 3), np.uint8))
    (broken / "a").symlink_to(pictures)
    return fuzzing.attack(read, paths, broken, text=True, mutants=mutants)


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (read_classes, LABELS),
        (read_values_of_slides, LABELS),
        (read_patches, PATCHES),
        (read_set, SET),
        (read_set, SET.replace("y,", '"z; y ",')),
        (read_set_of_columns, SET),
        (read_list, LIST),
        (read_map, MAP),
    ],
)
def test_tables(read, text, tmp_path):
    strays = attacked(read, spellings(text), ".csv", tmp_path, fuzzing.MUTANTS // 4)
    assert not strays, fuzzing.told(strays)


def test_geojson(tmp_path):
    ring = [[8.5, 8], [80, 8], [80, 56], [8, 56.25], [8.5, 8]]
    hole = [[20, 20], [40, 20], [40, 40], [20, 20]]
    areas = [
        {"type": "Polygon", "coordinates": [ring, hole]},
        {"type": "MultiPolygon", "coordinates": [[ring], [hole]]},
        {"type": "GeometryCollection", "geometries": [{"type": "Polygon", "coordinates": [hole]}]},
    ]
    features = [
        {"type": "Feature", "geometry": area, "properties": {"name": "Tumour"}} for area in areas
    ]
    whole = {
        "type": "FeatureCollection",
        "features": [*features, {**features[0], "geometry": None}],
    }
    originals = [json.dumps(whole).encode(), json.dumps(areas[1], indent=1).encode("utf-8-sig")]
    strays = attacked(read_geojson, originals, ".geojson", tmp_path, fuzzing.MUTANTS)
    assert not strays, fuzzing.told(strays)


def test_registry(tmp_path):
    strays = attacked(read_registry, [SMALL.encode()], ".toml", tmp_path, fuzzing.MUTANTS // 4)
    assert not strays, fuzzing.told(strays)
