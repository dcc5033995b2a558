"""Bags and patches as data sets of torch."""

from __future__ import annotations

import doctest
import pickle
import sys

import numpy as np
import pytest

from extras import need

torch = need("torch", "sklearn")

import histofast
from histofast import mil
from histofast.features import read_features
from histofast.mil import BagDataset, PatchDataset
from histofast.patches import PatchReader
from small_slides import run
from toy_bags import write_toy

torch_datasets = sys.modules[BagDataset.__module__]
PLAN = {"mpp": 2.0, "patch_px": 32, "min_tissue": 0.1}
WORKERS = [("fork", 2), ("spawn", 1)]


def test_examples():
    assert doctest.testmod(torch_datasets).failed == 0


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return write_toy(tmp_path_factory.mktemp("toy"), b=6)


@pytest.mark.parametrize("task", ["classification", "regression", "survival"])
def test_bags_are_the_files_and_their_labels(tmp_path, task):
    features, labels = write_toy(tmp_path, b=6, task=task)
    dataset = BagDataset(features, labels, task=task)
    bags = mil.open_bags(features, labels, task=task)
    assert len(dataset) == len(bags) == 6
    for i, item in enumerate(dataset[i] for i in range(6)):
        assert item["name"] == bags.names[i]
        assert item["features"].dtype == torch.float32
        assert np.array_equal(item["features"], read_features(bags.paths[i]).features)
        assert item["target"].shape == bags.targets[i].shape
        assert np.array_equal(item["target"], bags.targets[i].astype(item["target"].numpy().dtype))
    assert item["target"].dtype == (torch.int64 if task == "classification" else torch.float32)


def test_bags_without_labels_and_from_bags(toy):
    features, labels = toy
    assert "target" not in BagDataset(features)[0]
    bags = mil.open_bags(features, labels).part([4, 1])
    assert [BagDataset(bags)[i]["name"] for i in (0, -1)] == ["s04", "s01"]
    with pytest.raises(ValueError, match="labels must not be given with Bags"):
        BagDataset(bags, labels)
    with pytest.raises(IndexError, match=r"index must be within -2\.\.1, got 2"):
        BagDataset(bags)[2]


def test_what_is_read_may_be_written(toy):
    """And changes no file."""
    dataset = BagDataset(*toy)
    before = dataset[0]["features"].clone()
    dataset[0]["features"].zero_()
    assert torch.equal(dataset[0]["features"], before)


@pytest.mark.parametrize(("how", "workers"), WORKERS)
def test_bags_come_from_workers(toy, how, workers):
    dataset = BagDataset(*toy)
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_size=4,
        num_workers=workers,
        multiprocessing_context=how,
        collate_fn=dataset.collate,
    )
    batches = [*loader]
    assert [len(batch["name"]) for batch in batches] == [4, 2]
    seen = 0
    for batch in batches:
        for features, mask, target in zip(
            batch["features"], batch["mask"], batch["target"], strict=True
        ):
            item = dataset[seen]
            assert torch.equal(features[mask], item["features"])
            assert not features[~mask].any()
            assert torch.equal(target, item["target"])
            seen += 1


# --- Patches ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", [{}, {"stain": "reinhard"}], ids=["plain", "stain"])
def test_patches_are_what_the_encoder_sees(slides, encoder, tmp_path, plan):
    dataset = PatchDataset(slides, **PLAN, **plan)
    report = run(slides, tmp_path, encoder, **PLAN, **plan)
    files = {slide.name: read_features(slide.outputs[0]) for slide in report.slides}
    assert len(dataset) == report.patches
    order = np.random.default_rng(0).permutation(len(dataset))[:12]
    with PatchReader(slides) as reader:
        for i in order.tolist():
            item = dataset[i]
            file = files[item["slide"]]
            (row,) = np.flatnonzero((file.coords == item["coords"].numpy()).all(axis=1))
            (seen,) = reader.read(file, np.array([row]))
            assert item["index"] == i
            assert item["pixels"].dtype == torch.uint8
            assert np.array_equal(item["pixels"].permute(1, 2, 0), seen)
    names = [dataset[i]["slide"] for i in range(len(dataset))]
    assert names == sorted(names)
    dataset.close()
    assert dataset[-1]["slide"] == "s2"
    with pytest.raises(IndexError):
        dataset[len(dataset)]


def halved(pixels):
    return pixels.float() / 2


@pytest.mark.parametrize(("how", "workers"), WORKERS)
def test_patches_come_from_workers(slides, how, workers):
    dataset = PatchDataset(slides, transform=halved, **PLAN)
    here = [dataset[i]["pixels"] for i in range(len(dataset))]  # opened before a fork
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=16, num_workers=workers, multiprocessing_context=how
    )
    there = torch.cat([batch["pixels"] for batch in loader])
    assert torch.equal(there, torch.stack(here))


def test_few_slides_are_open_at_a_time(slides, monkeypatch):
    monkeypatch.setattr(torch_datasets, "_OPEN", 2)
    dataset = PatchDataset(slides, **PLAN)
    for i in (0, len(dataset) - 1, len(dataset) // 2, 0):
        assert dataset[i]["pixels"].shape == (3, 32, 32)
        assert len(dataset._open) <= 2
    again = pickle.loads(pickle.dumps(dataset))
    assert len(again._open) == 0
    assert torch.equal(again[3]["pixels"], dataset[3]["pixels"])


def test_patches_of_own_coordinates(slides, tmp_path):
    (tmp_path / "c.csv").write_text("slide,x,y\ns1,10,20\ns1,300,100\n")
    dataset = PatchDataset(slides / "s1.tif", coords=tmp_path / "c.csv", mpp=2.0, patch_px=32)
    assert [item["coords"].tolist() for item in (dataset[0], dataset[1])] == [[10, 20], [300, 100]]


def test_no_patches(slides):
    dataset = PatchDataset(slides / "s0.tif", mpp=16.0, patch_px=32, min_tissue=1.0)
    assert len(dataset) == 0
    with pytest.raises(IndexError):
        dataset[0]
    with pytest.raises(FileNotFoundError):
        PatchDataset(slides / "none.tif")
    assert histofast.mil.PatchDataset is PatchDataset
