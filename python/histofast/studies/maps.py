"""Features of pictures of several sets through one network, laid flat for looking at, as a job that comes after its run.

A map keeps neighbours, and neither distances between clusters nor their sizes. So beside it stands what does
not depend on it: how well neighbours in the features themselves tell the set, and the class, of a picture.
Reference: van der Maaten, Hinton, 2008, Visualizing data using t-SNE, JMLR 9; McInnes, Healy, Melville,
2018, UMAP (arXiv 1802.03426).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast._lazy import is_installed
from histofast._words import one_line
from histofast.classify import Asked, Runs, logits_of
from histofast.datasets import decode
from histofast.errors import missing_extra
from histofast.jobs import Job, canonical
from histofast.learning import Metric, read_json, with_nan, without_nan, write_json
from histofast.networks import pick_device
from histofast.studies.likeness import Side
from histofast.studies.scoring import headless
from histofast.transferability import knn_probe

SEED = 0
PERPLEXITY, NEIGHBOURS = 30, 15  # of t-SNE and UMAP; fewer of few pictures
TSNE, UMAP = "t-SNE", "UMAP"
DATA_SET = "data set"  # what a probe tells, beside the classes of each set

_REVISION = 1  # raised when the same network and pictures would give other numbers
_FILE = "map.json"
_MOST = 200  # test pictures of each set
_LEAST = 10  # pictures of a map
_FOLDS = 5  # of a probe, at most
_PASSES = 3  # of each picture that laying flat is worth; for the time only

Values = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """How well the nearest neighbours in features tell something of a picture.

    Attributes:
        what: `DATA_SET`, or the name of a set whose classes they are.
        kinds: that there are to tell; chance is one in so many.
        value, low, high: balanced accuracy over folds by group, and its interval over groups; NaN: `reason`.
        auroc: of the same votes, which the sizes of classes do not pull down to chance, 0.5.
        pictures, groups: that it is of.
        reason: why there is none.
    """

    what: str
    kinds: int
    value: float
    low: float
    high: float
    auroc: float
    pictures: int
    groups: int
    reason: str = ""

    @property
    def chance(self) -> float:
        """Balanced accuracy without any knowledge."""
        return 1 / self.kinds


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FeatureMap:
    """Pictures on a plane.

    Attributes:
        points: (n, 2); only which are near each other means something.
        sets, classes, pictures: (n) names of each.
        how: settings of the method, in words.
        told: by nearest neighbours in the features, not on the plane.
    """

    points: Values
    sets: tuple[str, ...]
    classes: tuple[str, ...]
    pictures: tuple[str, ...]
    how: str
    told: tuple[Told, ...]


def methods() -> list[str]:
    """Return what maps are made by: t-SNE, and UMAP where it is installed.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
    """
    if not is_installed("sklearn"):
        raise missing_extra("sklearn", by="a map of features")
    return [TSNE, *([UMAP] if is_installed("umap") else [])]


def plan_map(
    runs: Runs, side: Side, *, shown: Mapping[str, Asked], method: str, device: str, name: str
) -> Job:
    """Have test pictures of several sets laid flat by the features of a network; asked for twice it is done once.

    Args:
        runs: the plan.
        side: the network, without its head.
        shown: runs by name of the set, whose test pictures are shown; of many, some, evenly taken.
        method: one of `methods()`.
        device: where features are computed.
        name: for people.
    """
    told, needs = side.told(runs)
    pictures = sum(min(_MOST, len(asked.fold.test)) for asked in shown.values())
    return runs.look(
        measure_map,
        like=side.like(runs),
        pictures=(1 + _PASSES) * pictures,
        name=name,
        kind="map",
        arguments={
            "side": side,
            "shown": dict(shown),
            "method": method,
            "cache": runs.cache,
            "device": device,
        },
        identity={
            "revision": _REVISION,
            "side": told,
            "method": method,
            "shown": {
                name: hashlib.sha256(
                    canonical(asked.told(runs.contents_of(asked.images))).encode()
                ).hexdigest()
                for name, asked in shown.items()
            },
        },
        needs=needs,
    )


def measure_map(
    *,
    side: Side,
    shown: Mapping[str, Asked],
    method: str,
    cache: Path,
    device: str,
    out: Path,
) -> None:
    """Compute features, lay them flat, ask their neighbours, and write it."""
    where = pick_device(device)
    network = headless(side).to(where)
    parts = [_of_set(network, name, asked, cache, where) for name, asked in shown.items()]
    features = np.concatenate([part.features for part in parts])
    points, how = flat(features, method=method)
    write_json(
        out / _FILE,
        {
            "points": points.tolist(),
            "sets": [part.name for part in parts for _ in part.pictures],
            "classes": [each for part in parts for each in part.classes],
            "pictures": [each for part in parts for each in part.pictures],
            "how": how,
            "told": [without_nan(asdict(each)) for each in _told_by_neighbours(features, parts)],
        },
    )


def flat(features: Values, *, method: str) -> tuple[Values, str]:
    """Lay features flat by their directions from the mean.

    Args:
        features: (n, d) float64.
        method: "t-SNE" or "UMAP".

    Returns:
        (n, 2) float64, and the settings in words.

    Raises:
        ValueError: fewer than 10 pictures, or features that do not differ or are not finite.

    Determinism: by the seed; the last bits, and so where t-SNE ends, may depend on the BLAS library and its threads.
    """
    n = len(features)
    if n < _LEAST:
        raise ValueError(f"pictures of a map must be at least {_LEAST}, got {n}")
    if not np.isfinite(features).all():
        raise ValueError("features of a map must be finite, got NaN or infinity")
    centred = features - features.mean(axis=0)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    if lengths.max() <= 1e-9 * max(1.0, float(np.abs(features).max())):
        raise ValueError(f"features of a map must differ, got the same of all {n} pictures")
    directions = centred / np.where(lengths > 0, lengths, 1)
    if method == UMAP:
        import umap

        near = min(NEIGHBOURS, n - 1)
        made: Any = umap.UMAP(n_neighbors=near, min_dist=0.1, random_state=SEED, n_jobs=1)
        how = f"UMAP, {near} neighbours, least distance 0.1, seed {SEED}"
    else:
        from sklearn.manifold import TSNE as Embedding

        perplexity = min(PERPLEXITY, (n - 1) // 3)
        made = Embedding(perplexity=perplexity, init="pca", random_state=SEED, n_jobs=1)
        how = f"t-SNE, perplexity {perplexity}, seed {SEED}"
    return np.asarray(made.fit_transform(directions), np.float64), how


def read_map(job: Job) -> FeatureMap:
    """Return what a job found.

    Raises:
        ModelError: its file was changed since.
    """
    assert job.folder is not None
    found = read_json(job.folder / _FILE, remedy=f"remove {job.folder} to make it anew")
    return FeatureMap(
        points=np.array(found["points"], np.float64),
        how=found["how"],
        told=tuple(Told(**with_nan(each)) for each in found["told"]),
        **{name: tuple(found[name]) for name in ("sets", "classes", "pictures")},
    )


# --- How it is done ----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Part:
    """The test pictures of a set."""

    name: str
    features: Values
    labels: NDArray[np.int64] | None  # None: several of each
    classes: tuple[str, ...]
    groups: tuple[str, ...]
    pictures: tuple[str, ...]


def _of_set(network: Any, name: str, asked: Asked, cache: Path, where: Any) -> _Part:
    images = asked.images
    found = decode(images, cache=cache, px=asked.px)
    places = found.places_of(asked.fold.test, most=_MOST)
    rows = found.rows[places]
    labels = images.targets[rows] if images.task == "classification" else None
    return _Part(
        name=name,
        features=logits_of(network, found.pixels, places, device=where).double().numpy(),
        labels=labels,
        classes=tuple(
            "several labels" if labels is None else images.classes[labels[k]]
            for k in range(len(rows))
        ),
        groups=tuple(images.groups[i] for i in rows),
        pictures=tuple(images.names[i] for i in rows),
    )


def _told_by_neighbours(features: Values, parts: Sequence[_Part]) -> list[Told]:
    """Ask which set a picture is of, and of which class in each set."""
    of_set = np.repeat(np.arange(len(parts)), [len(part.pictures) for part in parts])
    groups = [f"{part.name}/{group}" for part in parts for group in part.groups]
    found = [_probed(DATA_SET, features, of_set, groups, kinds=len(parts))]
    for part in parts:
        if part.labels is not None:
            kinds = len(np.unique(part.labels))
            found.append(_probed(part.name, part.features, part.labels, part.groups, kinds=kinds))
    return found


def _probed(
    what: str,
    features: Values,
    labels: NDArray[np.int64],
    groups: Sequence[str],
    *,
    kinds: int,
) -> Told:
    fewest = min(
        len({group for group, label in zip(groups, labels, strict=True) if label == kind})
        for kind in np.unique(labels)
    )
    found, auroc, reason = Metric(value=math.nan, low=math.nan, high=math.nan), math.nan, ""
    try:
        folds = min(max(fewest, 2), _FOLDS)
        probe = knn_probe(features, labels, groups=groups, n=folds, seed=SEED)
        found, auroc = probe.balanced_accuracy, probe.auroc.value
    except ValueError as error:  # one class, or too few groups of one
        reason = one_line(error)
    return Told(
        what=what,
        kinds=kinds,
        value=found.value,
        low=found.low,
        high=found.high,
        auroc=auroc,
        pictures=len(labels),
        groups=len(set(groups)),
        reason=reason,
    )
