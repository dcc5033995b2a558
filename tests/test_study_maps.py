"""study transfer --maps: pictures laid flat by their features, what stands beside it, and where it fails."""

from __future__ import annotations

import importlib.machinery
import json
import sys
import types
from dataclasses import replace

import numpy as np
import pytest

from extras import need
from labelled_pictures import write_pictures

torch = need("torch", "safetensors", "matplotlib", "jinja2", "sklearn")

from histofast import datasets
from histofast.classify import Runs, open_run
from histofast.datasets import decode
from histofast.errors import ModelError
from histofast.networks import starts
from histofast.studies import (
    FeatureMap,
    Made,
    Mapped,
    PictureSetting,
    Told,
    Way,
    answer_of_transfer,
    conduct,
    describe_transfer,
    flat,
    limits_of,
    map_methods,
    read_map,
)
from histofast.transferability import knn_probe
from small_transfers import FAST, NAMES, planted, rows_of, transfer

pytestmark = pytest.mark.usefixtures("one_thread")

NAN = float("nan")
NETWORK = "squeezenet1.1"


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    return [
        write_pictures(folder / name, n=48, px=24, seed=k) for k, name in enumerate(["aa", "bb"])
    ]


# --- Laying flat -----------------------------------------------------------------------------------


def clusters(n=20, d=8, apart=30.0):
    """Three clusters of n points, far from each other in direction."""
    rng = np.random.default_rng(0)
    of = np.repeat(np.arange(3), n)
    return rng.normal(size=(3 * n, d)) + apart * np.eye(3, d)[of], of


def test_neighbours_stay_neighbours_whatever_the_scale():
    features, of = clusters()
    points, how = flat(features, method="t-SNE")
    assert points.shape == (60, 2)
    assert how == "t-SNE, perplexity 19, seed 0"
    apart = np.linalg.norm(points[:, None] - points[None], axis=-1)
    np.fill_diagonal(apart, np.inf)
    assert (of[apart.argmin(axis=1)] == of).all()
    np.testing.assert_array_equal(points, flat(features, method="t-SNE")[0])
    many, _ = clusters(n=31)
    assert flat(many, method="t-SNE")[1] == "t-SNE, perplexity 30, seed 0"


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.eye(9), "pictures of a map must be at least 10, got 9"),
        (np.full((12, 3), 7.0), "features of a map must differ, got the same of all 12 pictures"),
        (np.full((12, 3), NAN), "features of a map must be finite, got NaN or infinity"),
    ],
)
def test_what_cannot_be_laid_flat(features, message):
    with pytest.raises(ValueError, match=message):
        flat(features, method="t-SNE")


def test_umap_is_used_where_it_is_installed(monkeypatch):
    assert map_methods()[0] == "t-SNE"
    asked = {}

    class UMAP:
        def __init__(self, **options):
            asked.update(options)

        def fit_transform(self, x):
            return x[:, :2]

    module = types.ModuleType("umap")
    module.UMAP = UMAP
    module.__spec__ = importlib.machinery.ModuleSpec("umap", None)
    monkeypatch.setitem(sys.modules, "umap", module)
    assert map_methods() == ["t-SNE", "UMAP"]
    features, _ = clusters(n=4)
    points, how = flat(features, method="UMAP")
    centred = features - features.mean(axis=0)
    wanted = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    np.testing.assert_allclose(points, wanted[:, :2])
    assert asked == {"n_neighbors": 11, "min_dist": 0.1, "random_state": 0, "n_jobs": 1}
    assert how == "UMAP, 11 neighbours, least distance 0.1, seed 0"
    monkeypatch.setitem(sys.modules, "umap", None)
    assert map_methods() == ["t-SNE"]


def test_without_scikit_learn_nothing_is_begun(sets, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ModuleNotFoundError, match=r"a map of features needs sklearn, .*\[train\]"):
        transfer(sets, tmp_path, maps=True)
    transfer(sets, tmp_path)


# --- A study -------------------------------------------------------------------------------------


def test_maps_are_of_the_features_of_all_sets_and_neighbours_of_these(sets, tmp_path, monkeypatch):
    planning = sys.modules["histofast.classify.planning"]
    whole = planning.train_asked

    def fails(asked, **more):
        if asked.images.path == sets[1] and not isinstance(asked.start, starts.Run):
            raise ModelError("loss must be finite, got nan in step 3")
        return whole(asked, **more)

    monkeypatch.setattr(planning, "train_asked", fails)
    monkeypatch.setitem(sys.modules, "umap", None)
    study = transfer(sets, tmp_path, repeats=1, maps=True, network=NETWORK)
    found = conduct(study)
    runs = Runs(tmp_path / "runs", threads=1)
    trained = study.trained(runs)
    jobs = study.mapped(runs, trained)
    ways = [Way(start="random"), *(Way(start="random", target=name) for name in ("aa", "bb"))]
    assert list(jobs) == [Mapped(way=way, method="t-SNE") for way in ways]
    failed = {row["job"]: row["reason"] for row in rows_of(found.path, "failed")}
    assert failed["random, bb: map of features by t-SNE"] == (
        "random, bb: map of features by t-SNE needs random, bb, seed 0, fold 0, which failed: loss must be "
        "finite, got nan in step 3"
    )
    assert {row["way"] for row in rows_of(found.path, "neighbours")} == {"random", "random, aa"}

    asked = [trained[Way(start="random", target=name)][0].asked for name in ("aa", "bb")]
    networks = {
        "random": starts.begin(NETWORK, "random"),
        "random, aa": open_run(trained[ways[1]][0].job.folder).network(head=False),
    }
    for way, network in networks.items():
        parts, labels, groups = [], [], []
        for k, one in enumerate(asked):
            images = datasets.open_images(sets[k])
            pixels = decode(images, cache=runs.cache, px=24).pixels[one.fold.test]
            x = torch.from_numpy(pixels.astype(np.float32)).permute(0, 3, 1, 2) / 255
            mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (network.mean, network.std))
            with torch.no_grad():
                parts.append(network.eval()((x - mean) / std).double().numpy())
            labels.append(images.targets[one.fold.test])
            groups.append([images.groups[i] for i in one.fold.test])
        rows = [row for row in rows_of(found.path, "neighbours") if row["way"] == way]
        assert [row["told"] for row in rows] == ["data set", "class in aa", "class in bb"]
        both = knn_probe(
            np.concatenate(parts),
            np.repeat([0, 1], [len(p) for p in parts]),
            groups=[f"{k}{g}" for k, of in enumerate(groups) for g in of],
            n=min(5, *(len(set(of)) for of in groups)),
        )
        assert float(rows[0]["balanced_accuracy"]) == pytest.approx(both.balanced_accuracy.value)
        assert float(rows[0]["auroc"]) == pytest.approx(both.auroc.value)
        assert float(rows[0]["chance"]) == 0.5
        assert float(rows[0]["pictures"]) == sum(map(len, labels))
        for row, of in zip(rows[1:], groups, strict=True):  # one patient of a class, if any
            assert float(row["groups"]) == len(set(of))
            assert (row["balanced_accuracy"] == "nan") == bool(row["reason"])
        (job,) = [job for which, job in jobs.items() if str(which.way) == way]
        told = read_map(job)
        points, how = flat(np.concatenate(parts), method="t-SNE")
        assert (told.how, told.points.shape) == (how, points.shape)
        assert told.sets == ("aa",) * len(parts[0]) + ("bb",) * len(parts[1])
        assert told.pictures == tuple(one.images.names[i] for one in asked for i in one.fold.test)
    panels = [p for f in found.answer.figures if f.name == "maps" for p in f.panels]
    assert [panel.title for panel in panels] == [
        "random, by data set: t-SNE",
        "random, by class: t-SNE",
        "random, aa, by data set: t-SNE",
        "random, aa, by class: t-SNE",
    ]

    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").glob("map-*/map.json")}
    assert len(kept) == 2
    monkeypatch.setattr(planning, "train_asked", whole)
    again = conduct(study)
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    assert {row["way"] for row in rows_of(again.path, "neighbours")} == {
        "random",
        "random, aa",
        "random, bb",
    }
    (changed, *_) = kept
    changed.write_text(changed.read_text().replace("bb", "cc"))
    with pytest.raises(ModelError, match=r"map\.json must be as it was written"):
        conduct(study)


# --- The page ------------------------------------------------------------------------------------


def laid(value=0.9, low=0.8, high=0.95, reason=""):
    """A map of two pictures of each of three sets."""
    told = [
        Told(
            what=what,
            kinds=kinds,
            value=value,
            low=low,
            high=high,
            auroc=value,
            pictures=60,
            groups=20,
            reason=reason,
        )
        for what, kinds in (("data set", 3), ("a", 2), ("b", 2), ("c", 4))
    ]
    return FeatureMap(
        points=np.arange(12.0).reshape(6, 2),
        sets=tuple(np.repeat(NAMES, 2)),
        classes=("x", "y") * 3,
        pictures=tuple("123456"),
        how="t-SNE, perplexity 30, seed 0",
        told=tuple(told),
    )


def with_maps(**of):
    """Planted numbers with maps of the start and of two targets; that of the third failed."""
    ways = [Way(start="random"), *(Way(start="random", target=name) for name in NAMES)]
    told = [laid(0.9), laid(0.7, 0.6, 0.8), laid(0.8), None]
    return replace(
        planted(),
        maps={Mapped(way=w, method="t-SNE"): one for w, one in zip(ways, told, strict=True)},
        **of,
    )


def test_a_map_says_what_it_does_not_mean_and_what_does_not_depend_on_it(tmp_path):
    data = [write_pictures(tmp_path / name, n=16, px=24, groups=8) for name in NAMES]
    setting = PictureSetting(data=data, out=tmp_path / "out", recipe=FAST)
    made = Made(
        way=Way(start="random", target="a"), place=0, seed=0, fold=0, folder="r", command="c"
    )
    found = with_maps()
    answer = answer_of_transfer(found, setting=setting, runs=[made])
    (figure,) = [one for one in answer.figures if one.name == "maps"]
    by_set, by_class, *_ = figure.panels
    assert len(figure.panels) == 6
    assert all(panel.is_map for panel in figure.panels)
    assert [series.name for series in by_set.series] == ["a", "b", "c"]
    assert [series.name for series in by_class.series] == [
        f"{name}: {kind}" for name in NAMES for kind in "xy"
    ]
    assert [(p.place, p.value) for p in by_class.series[3].points] == [(6.0, 7.0)]
    assert "t-SNE, perplexity 30, seed 0." in by_set.caption
    assert "mean nothing in t-SNE" in by_set.caption
    assert "tell the data set with balanced accuracy 0.900, 0.800 to 0.950 (chance 0.333)" in (
        by_set.caption
    )
    assert "tell the class in c with balanced accuracy 0.900, 0.800 to 0.950 (chance 0.250)" in (
        by_class.caption
    )
    tables = {table.name: table for table in answer.tables}
    assert len(tables["neighbours"].rows) == 3 * 4
    assert len(tables["maps"].rows) == 3 * 6
    assert tables["maps"].records()[7] == {
        "way": "random, a",
        "method": "t-SNE",
        "data_set": "a",
        "picture": "2",
        "class": "y",
        "x": 2.0,
        "y": 3.0,
    }
    (said,) = [one for one in describe_transfer(found) if "nearest neighbours" in one]
    assert said == (
        "From random, the nearest neighbours in the features tell which set a test picture is of with balanced "
        "accuracy 0.900 before, and 0.700 to 0.800 after training on a target (chance 0.333; one split, so no "
        "difference is shown)."
    )
    assert any(one.startswith("Maps of features are for looking at") for one in limits_of(found))
    assert not any("Maps" in one for one in limits_of(planted()))


def test_what_neighbours_cannot_tell_says_why(tmp_path):
    one = laid(NAN, NAN, NAN, "n must be at most the number of groups, 1, got 2")
    found = replace(planted(), maps={Mapped(way=Way(start="random"), method="UMAP"): one})
    data = [write_pictures(tmp_path / name, n=16, px=24, groups=8) for name in NAMES]
    setting = PictureSetting(data=data, out=tmp_path / "out", recipe=FAST)
    made = Made(
        way=Way(start="random", target="a"), place=0, seed=0, fold=0, folder="r", command="c"
    )
    answer = answer_of_transfer(found, setting=setting, runs=[made])
    (figure,) = [one for one in answer.figures if one.name == "maps"]
    assert "mean little in UMAP" in figure.panels[0].caption
    assert "tell the data set is not measured." in figure.panels[0].caption
    (table,) = [one for one in answer.tables if one.name == "neighbours"]
    assert table.records()[0]["reason"].startswith("n must be at most the number of groups")
    assert not any("nearest neighbours" in one for one in describe_transfer(found))
    assert json.loads(answer.to_json())["neighbours"][0]["balanced_accuracy"] is None
