"""Who is like a patch among all slides: the definition over all rows, by slide and row where as alike."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import reference
from histofast.errors import FeatureError
from histofast.features import open_features
from histofast.viewer import Catalogue, Entry
from histofast.viewer.cohort import Busy, Cohort
from toy_bags import D, write_features

OTHER = {"name": "b", "sha256": "cd" * 32}


def catalogue_of(paths):
    entries = [
        Entry(
            index=i,
            name=f"slide {i}",
            slide=path.stem,
            path=path.with_suffix(".tif"),
            features=path,
        )
        for i, path in enumerate(paths)
    ]
    return Catalogue(entries)


@pytest.fixture
def files(tmp_path, rng):
    paths = [tmp_path / f"s{i}.h5" for i in range(3)]
    shared = rng.normal(size=(4, D))
    for i, path in enumerate(paths):
        write_features(
            path, np.concatenate([rng.normal(size=(20 + i, D)), shared]).astype(np.float32)
        )
    return paths


def test_a_cohort_is_searched_as_if_it_were_one_slide(files):
    whole = np.concatenate([open_features(path).features for path in files])
    at = [
        (i, row) for i, path in enumerate(files) for row in range(len(open_features(path).features))
    ]
    cohort = Cohort(catalogue_of(files))
    for index, row in ((0, 3), (1, 22), (2, 25)):
        wanted, cosines = reference.most_alike(whole, at.index((index, row)), k=10)
        found = cohort.similar(index, row, k=10, scope="cohort")
        assert [(item["slide"], item["row"]) for item in found["items"]] == [at[i] for i in wanted]
        np.testing.assert_allclose([item["cosine"] for item in found["items"]], cosines, atol=1e-12)
        assert found["same_slide"] == sum(at[i][0] == index for i in wanted)
        assert (found["searched"], found["k"], found["unread"]) == (len(whole) - 1, 10, 0)


def test_a_slide_is_searched_by_itself(files):
    wanted, _ = reference.most_alike(open_features(files[1]).features, 5, k=24)
    found = Cohort(catalogue_of(files)).similar(1, 5)
    assert [item["row"] for item in found["items"]] == wanted.tolist()
    assert found["same_slide"] == len(found["items"]) == found["searched"] == 24
    first = found["items"][0]
    x, y = open_features(files[1]).coords[wanted[0]].tolist()
    assert (first["slide"], first["name"], first["x"], first["y"]) == (1, "slide 1", x, y)


def test_features_of_another_encoder_are_not_compared_and_broken_files_are_counted(
    files, tmp_path, rng
):
    write_features(tmp_path / "other.h5", rng.normal(size=(9, D)).astype(np.float32), encoder=OTHER)
    (tmp_path / "broken.h5").write_bytes(files[0].read_bytes()[:500])
    cohort = Cohort(catalogue_of([*files, tmp_path / "other.h5", tmp_path / "broken.h5"]))
    found = cohort.similar(0, 0, scope="cohort", k=200)
    assert {item["slide"] for item in found["items"]} == {0, 1, 2}
    assert found["unread"] == 1
    with pytest.raises(FeatureError):
        cohort.similar(4, 0)


def test_what_has_no_neighbours_is_refused(tmp_path):
    features = np.ones((3, D), np.float32)
    features[1] = 0
    write_features(tmp_path / "s.h5", features)
    catalogue = catalogue_of([tmp_path / "s.h5"])
    cohort = Cohort(catalogue)
    assert [item["row"] for item in cohort.similar(0, 0)["items"]] == [2]
    with pytest.raises(
        ValueError, match="patch 1 is like no other: its features are all zero, or not finite"
    ):
        cohort.similar(0, 1)
    for k in (0, 201):
        with pytest.raises(ValueError, match="k must be"):
            cohort.similar(0, 0, k=k)
    for row in (-1, 3):
        with pytest.raises(ValueError, match="patch must be"):
            cohort.similar(0, row)
    with pytest.raises(ValueError, match="scope must be slide or cohort, got 'all'"):
        cohort.similar(0, 0, scope="all")


def test_few_wait_for_a_cohort(files, monkeypatch):
    monkeypatch.setattr("histofast.viewer.cohort.MOST_WAITING", 1)
    cohort, begun, go = Cohort(catalogue_of(files)), threading.Event(), threading.Event()

    def wait(*_):
        begun.set()
        assert go.wait(30)
        return {}

    monkeypatch.setattr(cohort, "_everywhere", wait)
    asking = threading.Thread(target=cohort.similar, args=(0, 0), kwargs={"scope": "cohort"})
    asking.start()
    try:
        assert begun.wait(30)
        with pytest.raises(Busy, match="the cohort is being searched: ask again when that is done"):
            cohort.similar(0, 0, scope="cohort")
        assert len(cohort.similar(0, 0)["items"]) == 23  # one slide does not wait
    finally:
        go.set()
        asking.join()
    assert cohort.similar(0, 0, scope="cohort")["items"] == []
