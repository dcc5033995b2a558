"""Two networks layer by layer on the same images, or encoders by their feature files.

Wide maps of many images fit nowhere, so debiased CKA is summed over batches of images: while a
network runs, each layer is reduced to the centred Gram of the batch, n_b x n_b numbers whatever the
width, and the products of all pairs of Grams are added up (Nguyen, Raghu, Kornblith, 2020). Memory
does not grow with the number of images. One loader feeds both networks.

Intervals resample groups of images (slides, patients): the pairs of images of a batch are weighted
by how often their groups are drawn; pairs across two draws of one group are left out, since they
are no independent evidence. The centring of each batch is kept, a first-order approximation.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from histofast._arrays import check
from histofast._files import replacing
from histofast.encoders import Tap
from histofast.errors import FeatureError
from histofast.features import read_features
from histofast.patches import BAG_COLUMNS, FILE_COLUMNS, read_table
from histofast.pipeline import PatchSample, sample_patches
from histofast.similarity import (
    CkaAccumulator,
    Comparison,
    cca,
    error_consistency,
    js_divergence,
    prediction_agreement,
    published_protocol,
    pwcca,
    svcca,
    top1_disagreement,
)
from histofast.similarity._gram import gram_products, packed_grams, unpack

Mode = Literal["flatten", "pool"]
Measure = Literal["cka", "cca", "svcca", "pwcca"]
Array = NDArray[np.float64]

MIN_IMAGES = 32
_BATCH = 64  # n_b: its Gram costs little beside the forward pass, and is debiased
_FAR = 1_000_003  # from the seeds that people give the networks they compare
_CONSTANT = 1e-9  # of the features' own norm: below it the centred Gram is rounding


class Source(Protocol):
    """What a network is to a comparison."""

    names: tuple[str, ...]

    def run(
        self, pixels: NDArray[np.uint8], consume: Callable[[str, NDArray[np.float32]], None]
    ) -> NDArray[np.float32]:
        """Run a batch, hand over each layer's activations, return what comes out at the end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SimilarityResult:
    """What `compare` found, and its report; the numbers are in `comparison`."""

    comparison: Comparison

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the matrix and the diagonal into a PNG, PDF or SVG file."""
        from histofast import report

        report.plot_comparison(self.comparison, Path(path))

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Write the report: one page that needs nothing else."""
        from histofast import report

        with replacing(Path(path), overwrite=True) as pending:
            pending.write_text(report.comparison_page(self.comparison), encoding="utf-8")

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write index.html, comparison.json, .csv, .png and .pdf into a folder, made if missing.

        The page comes last: where it is, all is.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in (
            ("comparison.json", self.comparison.to_json()),
            ("comparison.csv", self.comparison.to_csv()),
        ):
            with replacing(folder / name, overwrite=True) as pending:
                pending.write_text(text, encoding="utf-8", newline="")
        for suffix in (".png", ".pdf"):
            self.plot(folder / f"comparison{suffix}")
        self.to_html(folder / "index.html")


def compare(
    a: Any,
    b: Any,
    images: NDArray[np.uint8] | PatchSample | str | Path | Sequence[str | Path],
    *,
    layers_a: Sequence[str] | None = None,
    layers_b: Sequence[str] | None = None,
    mode: Mode = "flatten",
    measure: Measure = "cka",
    preset: Literal["published"] | None = None,
    n: int = 512,
    patch_px: int | None = None,
    mpp: float | None = None,
    groups: Sequence[Any] | None = None,
    labels: NDArray[np.integer[Any]] | None = None,
    batch_size: int = _BATCH,
    resamples: int = 1000,
    permutations: int = 99,
    random_null: bool = True,
    confidence: float = 0.95,
    seed: int = 0,
    label_a: str | None = None,
    label_b: str | None = None,
) -> SimilarityResult:
    """Compare the layers of two networks on the same images.

    Args:
        a, b: networks of `histofast.networks.create`, or encoders by name or path.
        images: (n, h, w, 3) uint8, a sample of patches, or slides or a CSV table of patch images to
            draw `n` from.
        layers_a, layers_b: names of layers; None: the blocks (of an encoder file: its cuts).
        mode: "flatten" compares whole maps, "pool" their means over the picture.
        measure: "cka" is debiased and linear; the others need mode "pool" and n well above the
            widths of two layers.
        preset: "published" repeats the protocol of Raghu 2019 and Juodelyte 2023 on layers of the
            same name instead: mean CCA of 64 channels at 10,000 places, 5 repeats.
        n: images to draw from slides or a table.
        patch_px: their side; None: what network a was designed for.
        mpp: um per pixel of patches from slides; None: 0.5.
        groups: (n,) what images belong together; None: their slides or bags, else each by itself.
        labels: (n,) true classes, for networks with a head.
        batch_size: images whose Grams are taken together.
        resamples: of the groups, for the interval of layers of the same name; 0: none.
        permutations: of network b's images, for the null; 0: none.
        random_null: also compare a with a randomly initialised network of its architecture.
        confidence: of interval and null.
        seed: of everything random.
        label_a, label_b: what to call the two.

    Raises:
        ModelError: no such layer, or a network that fails.
        TypeError, ValueError: fewer than 32 images, arguments out of range, NaN or infinity in a
            layer (it is named).
    """
    _check_options(mode, measure, preset, batch_size, resamples, permutations, confidence)
    first, second = _source(a, layers_a), _source(b, layers_b)
    sample, ids = _images(images, a, n=n, patch_px=patch_px, mpp=mpp, seed=seed)
    pixels = sample.pixels
    if len(pixels) < MIN_IMAGES:
        raise ValueError(f"images must be at least {MIN_IMAGES}, got {len(pixels)}")
    if groups is not None and len(groups) != len(pixels):
        raise ValueError(f"groups must be {len(pixels)}, one per image, got {len(groups)}")
    _, group_of = np.unique(
        np.asarray(sample.sources if groups is None else groups).astype(str), return_inverse=True
    )
    pairs = np.array(
        [
            (i, second.names.index(name))
            for i, name in enumerate(first.names)
            if name in second.names
        ],
        np.int64,
    ).reshape(-1, 2)
    order = np.random.default_rng(seed).permutation(len(pixels))  # batches mix the groups
    kept: dict[str, Any] = {
        "label_a": label_a or _label(a, "a"),
        "label_b": label_b or _label(b, "b"),
        "names_a": first.names,
        "names_b": second.names,
        "n": len(pixels),
        "groups": int(group_of.max()) + 1,
        "images_sha256": hashlib.sha256("\n".join(ids[i] for i in order).encode()).hexdigest(),
        "pairs": pairs,
        "confidence": confidence,
    }
    common = {"loader": "the same images for both networks, in one order"}
    if preset == "published":
        kept |= _by_protocol(first, second, pixels[order], pairs, seed=seed)
    elif measure == "cka":
        random = _random_twin(a, layers_a, seed=seed + _FAR) if random_null else None
        sums = _Sums(
            first,
            second,
            random,
            pairs,
            mode=mode,
            group_of=group_of,
            resamples=resamples,
            permutations=permutations,
            seed=seed,
        )
        for batch in _batches(order, batch_size):
            sums.add(pixels[batch], batch)
        kept |= sums.result(confidence, batch_size)
        outputs = [np.concatenate(found) for found in sums.outputs]
        kept["predictions"] = _predictions(a, b, outputs, labels, order)
    else:
        kept |= _by_pooled_features(first, second, pixels[order], measure, batch_size)
    kept["convention"] = {**kept["convention"], **common}
    return SimilarityResult(comparison=Comparison(**kept))


def compare_features(folders: Sequence[str | Path], *, intersect: bool = False) -> SimilarityResult:
    """Compare encoders by their feature files: debiased linear CKA of all patches.

    Args:
        folders: two or more folders of feature files (searched through), one per encoder; files
            belong together by name.
        intersect: take the slides that all have; else different slides are refused.

    Raises:
        FeatureError: a file that cannot be read, or files of one slide with other patches.
        FileNotFoundError: a folder without feature files.
        ValueError: fewer than two folders, other slides.
    """
    if len(folders) < 2:
        raise ValueError(f"folders must be at least 2, got {len(folders)}")
    found = [_feature_files(Path(folder)) for folder in folders]
    shared = set.intersection(*(set(files) for files in found))
    missing = {
        str(f): len(set().union(*found)) - len(files)
        for f, files in zip(folders, found, strict=True)
    }
    if any(missing.values()) and not intersect:
        told = ", ".join(f"{folder} lacks {count}" for folder, count in missing.items() if count)
        raise ValueError(
            f"folders must have the same slides, {told}: take the {len(shared)} that all have "
            "with intersect (--intersect)"
        )
    if not shared:
        raise ValueError("folders must have a slide in common, got none")
    size = len(found)
    sums = {(i, j): CkaAccumulator() for i in range(size) for j in range(i + 1, size)}
    ids = hashlib.sha256()
    n = 0
    for slide in sorted(shared):
        files = [read_features(files[slide], mmap=True) for files in found]
        for file in files[1:]:
            same = len(file.features) == len(files[0].features) and (
                file.coords is None
                or files[0].coords is None
                or np.array_equal(file.coords, files[0].coords)
            )
            if not same:
                raise FeatureError(
                    f"{file.path} must be of the same patches as {files[0].path}, got "
                    f"{len(file.features)} and {len(files[0].features)} on another grid or slide"
                )
        ids.update(f"{slide}:{len(files[0].features)}\n".encode())
        n += len(files[0].features)
        for start in range(0, len(files[0].features), 4096):
            blocks = [np.asarray(file.features[start : start + 4096], np.float32) for file in files]
            for (i, j), accumulator in sums.items():
                accumulator.update(blocks[i], blocks[j])
    matrix = np.eye(size)
    for (i, j), accumulator in sums.items():
        matrix[i, j] = matrix[j, i] = accumulator.value()
    names = _names_of([Path(folder) for folder in folders])
    return SimilarityResult(
        comparison=Comparison(
            label_a="encoders",
            label_b="encoders",
            names_a=names,
            names_b=names,
            matrix=matrix,
            measure="debiased linear CKA",
            convention={
                "features": "as stored, a row per patch",
                "estimator": "debiased, over all patches at once",
                "interval": "none: not computed for feature files",
            },
            n=n,
            groups=len(shared),
            images_sha256=ids.hexdigest(),
            pairs=np.array(list(sums), np.int64),
        )
    )


# --- What is compared --------------------------------------------------------------------------


def _source(network: Any, layers: Sequence[str] | None) -> Source:
    if isinstance(network, str | os.PathLike):
        return Tap(network, layers)
    from histofast.networks import Recorder

    return Recorder(network, layers)


def _random_twin(network: Any, layers: Sequence[str] | None, *, seed: int) -> Source | None:
    """Return the same architecture with random weights, where the network says what it is."""
    if isinstance(network, str | os.PathLike):
        return None
    from histofast.networks import create

    twin = create(network.architecture, layer=network.layer, seed=seed)
    twin.mean, twin.std = network.mean, network.std
    return _source(twin, layers)


def _label(network: Any, otherwise: str) -> str:
    if isinstance(network, str | os.PathLike):
        return Path(network).stem
    return f"{network.architecture} {otherwise}"


def _images(
    images: Any, network: Any, *, n: int, patch_px: int | None, mpp: float | None, seed: int
) -> tuple[PatchSample, list[str]]:
    if isinstance(images, np.ndarray):
        check("images", images, "uint8", ("n", "h", "w", 3))
        images = PatchSample(pixels=images, sources=tuple(f"image {i}" for i in range(len(images))))
    elif not isinstance(images, PatchSample):
        given = [images] if isinstance(images, str | Path) else list(images)
        if patch_px is None:
            own = getattr(network, "input_px", None) or Tap(network).spec.patch_px
            patch_px = int(own)
        table = given[0] if len(given) == 1 and _is_patch_table(given[0]) else None
        images = sample_patches(
            None if table else given,
            patches=table,
            n=n,
            patch_px=patch_px,
            mpp=mpp or 0.5,
            seed=seed,
        )
    digests = [hashlib.sha256(patch.tobytes()).hexdigest() for patch in images.pixels]
    return images, [f"{s}:{d}" for s, d in zip(images.sources, digests, strict=True)]


def _is_patch_table(path: str | Path) -> bool:
    if Path(path).suffix.lower() != ".csv":
        return False
    _, header = read_table(Path(path))
    return (
        bool(set(header) & set(FILE_COLUMNS))
        and len(set(header) & {*FILE_COLUMNS, *BAG_COLUMNS}) > 1
    )


def _check_options(
    mode: str,
    measure: str,
    preset: str | None,
    batch_size: int,
    resamples: int,
    permutations: int,
    confidence: float,
) -> None:
    if mode not in ("flatten", "pool"):
        raise ValueError(f"mode must be flatten or pool, got {mode!r}")
    if measure not in ("cka", "cca", "svcca", "pwcca"):
        raise ValueError(f"measure must be cka, cca, svcca or pwcca, got {measure!r}")
    if preset not in (None, "published"):
        raise ValueError(f"preset must be 'published' or None, got {preset!r}")
    if measure != "cka" and mode != "pool" and preset is None:
        raise ValueError(
            f"mode must be pool for {measure}, got {mode!r}: CCA of whole maps would need more "
            "images than numbers in a map"
        )
    if batch_size < 8:
        raise ValueError(f"batch_size must be at least 8, got {batch_size}")
    for name, value in (("resamples", resamples), ("permutations", permutations)):
        if value < 0:
            raise ValueError(f"{name} must be at least 0, got {value}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in 0..1, got {confidence}")


def _batches(order: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    """Cut into batches; a last one of fewer than 8 images goes into the one before."""
    cuts = list(range(size, len(order), size))
    if cuts and len(order) - cuts[-1] < 8:
        cuts.pop()
    return np.split(order, cuts)


# --- Debiased CKA over batches -----------------------------------------------------------------


class _Sums:
    """Everything that is added up over the batches."""

    def __init__(
        self,
        a: Source,
        b: Source,
        random: Source | None,
        pairs: NDArray[np.int64],
        *,
        mode: Mode,
        group_of: NDArray[np.int64],
        resamples: int,
        permutations: int,
        seed: int,
    ) -> None:
        self._a, self._b, self._random, self._pairs = a, b, random, pairs
        self._mode, self._group_of = mode, group_of
        la, lb, k = len(a.names), len(b.names), len(pairs)
        self._cross, self._square_a, self._square_b = np.zeros((la, lb)), np.zeros(la), np.zeros(lb)
        self._own_a, self._own_b = np.zeros(la), np.zeros(lb)  # before centring
        self._to_random, self._square_random = np.zeros(la), np.zeros(la)
        n_groups = int(group_of.max()) + 1
        rng = np.random.default_rng(seed + 1)
        self._draws = rng.multinomial(
            n_groups, np.full(n_groups, 1 / n_groups), size=resamples
        ).astype(np.float64)
        self._resampled = np.zeros((3, resamples, k))
        self._permuted = np.zeros((permutations, k))
        self._rng = rng
        self.outputs: tuple[list[Any], list[Any]] = ([], [])

    def add(self, pixels: NDArray[np.uint8], rows: NDArray[np.int64]) -> None:
        """Run one batch through the networks."""
        pixels = np.ascontiguousarray(pixels)
        a, own_a, out_a = self._grams(self._a, pixels)
        b, own_b, out_b = self._grams(self._b, pixels)
        self.outputs[0].append(out_a)
        self.outputs[1].append(out_b)
        self._cross += gram_products(a, b)
        self._square_a += [2 * float(x @ x) for x in a]
        self._square_b += [2 * float(x @ x) for x in b]
        self._own_a += own_a
        self._own_b += own_b
        if self._random is not None:
            r, _, _ = self._grams(self._random, pixels)
            self._to_random += [2 * float(x @ y) for x, y in zip(a, r, strict=True)]
            self._square_random += [2 * float(x @ x) for x in r]
        same = self._group_of[rows][:, None] == self._group_of[rows]
        drawn = self._draws[:, self._group_of[rows]]  # (resamples, n_b)
        shuffles = [self._rng.permutation(len(rows)) for _ in range(len(self._permuted))]
        for k, (i, j) in enumerate(self._pairs):
            x, y = unpack(a[i]), unpack(b[j])
            for s, product in enumerate((x * y, x * x, y * y)):
                self._resampled[s, :, k] += ((drawn @ product) * drawn).sum(axis=1)
                # Within one draw of a group its pairs count once.
                within = (product * same).sum(axis=1)
                self._resampled[s, :, k] += (drawn - drawn**2) @ within
            for p, shuffle in enumerate(shuffles):
                self._permuted[p, k] += np.vdot(x, y[np.ix_(shuffle, shuffle)])

    def _grams(
        self, source: Source, pixels: NDArray[np.uint8]
    ) -> tuple[Array, Array, NDArray[np.float32]]:
        n = len(pixels)
        found: dict[str, tuple[Array, float]] = {}

        def reduce(name: str, values: NDArray[np.float32]) -> None:
            if values.ndim == 4 and self._mode == "pool":
                values = values.mean((2, 3))
            packed, own = packed_grams(
                [np.ascontiguousarray(values.reshape(n, -1))], names=[f"layer {name}"]
            )
            found[name] = packed[0].astype(np.float64), float(own[0])

        out = source.run(pixels, reduce)
        grams = np.stack([found[name][0] for name in source.names])
        return grams, np.array([found[name][1] for name in source.names]), out

    def result(self, confidence: float, batch_size: int) -> dict[str, Any]:
        """Return what goes into a `Comparison`."""
        defined_a = self._square_a > _CONSTANT * self._own_a
        defined_b = self._square_b > _CONSTANT * self._own_b
        norm_a = np.where(defined_a, np.sqrt(np.maximum(self._square_a, 0)), np.nan)
        norm_b = np.where(defined_b, np.sqrt(np.maximum(self._square_b, 0)), np.nan)
        values: dict[str, Any] = {
            "matrix": self._cross / (norm_a[:, None] * norm_b),
            "measure": "debiased linear CKA",
        }
        i, j = self._pairs.T
        tail = (1 - confidence) / 2
        if len(self._draws):
            cross, square_a, square_b = self._resampled
            bounds = np.full((2, len(i)), np.nan)
            for k in np.flatnonzero(defined_a[i] & defined_b[j]):
                squares = square_a[:, k] * square_b[:, k]
                # A resample of one group alone has no pairs.
                drawn = cross[squares > 0, k] / np.sqrt(squares[squares > 0])
                if len(drawn):
                    bounds[:, k] = np.quantile(drawn, (tail, 1 - tail))
            values["low"], values["high"] = bounds
        if len(self._permuted):
            null = self._permuted / (norm_a[i] * norm_b[j])
            values["permuted"] = np.quantile(null, confidence, axis=0)
        if self._random is not None:
            with np.errstate(invalid="ignore", divide="ignore"):
                values["random"] = (self._to_random / (norm_a * np.sqrt(self._square_random)))[i]
        values["convention"] = {
            "mode": {
                "flatten": "flatten: an image's whole map is one row",
                "pool": "pool: the mean of the map over the picture is one row",
            }[self._mode],
            "kernel": "linear",
            "estimator": f"debiased HSIC, summed over batches of {batch_size} images",
            "interval": f"{confidence:.0%}, {len(self._draws)} resamples of groups of images"
            if len(self._draws)
            else "none",
            "null": f"{len(self._permuted)} shuffles of network b's images within batches"
            if len(self._permuted)
            else "none",
        }
        return values


# --- Other measures ----------------------------------------------------------------------------


def _by_pooled_features(
    a: Source, b: Source, pixels: NDArray[np.uint8], measure: Measure, batch_size: int
) -> dict[str, Any]:
    def pooled(source: Source) -> list[NDArray[np.float32]]:
        found: dict[str, list[NDArray[np.float32]]] = {name: [] for name in source.names}

        def keep(name: str, values: NDArray[np.float32]) -> None:
            found[name].append(values.mean((2, 3)) if values.ndim == 4 else values.copy())

        for start in range(0, len(pixels), batch_size):
            source.run(np.ascontiguousarray(pixels[start : start + batch_size]), keep)
        return [np.concatenate(found[name]) for name in source.names]

    def value(x: NDArray[np.float32], y: NDArray[np.float32]) -> float:
        if measure == "cca":
            return cca(x, y).mean_rho
        return svcca(x, y).value if measure == "svcca" else pwcca(x, y).x_to_y

    layers_a, layers_b = pooled(a), pooled(b)
    named = {
        "cca": "mean CCA",
        "svcca": "SVCCA (99 % of the squared singular values)",
        "pwcca": "PWCCA, a to b",
    }
    return {
        "matrix": np.array([[value(x, y) for y in layers_b] for x in layers_a]),
        "measure": named[measure],
        "convention": {"mode": "pool: the mean of the map over the picture is one row"},
    }


def _by_protocol(
    a: Source, b: Source, pixels: NDArray[np.uint8], pairs: NDArray[np.int64], *, seed: int
) -> dict[str, Any]:
    """Apply the published protocol to layers of the same name, one after the other."""
    matrix = np.full((len(a.names), len(b.names)), np.nan)
    for i, j in pairs:
        maps = []
        for source, name in ((a, a.names[i]), (b, b.names[j])):
            found: list[NDArray[np.float32]] = []

            def keep(
                got: str,
                values: NDArray[np.float32],
                name: str = name,
                found: list[NDArray[np.float32]] = found,
            ) -> None:
                if got == name:
                    found.append(values.copy())

            needed = len(pixels)
            start = 0
            while start < needed:
                source.run(np.ascontiguousarray(pixels[start : start + 8]), keep)
                start += 8
                if found[0].ndim != 4:
                    raise ValueError(
                        f"layer {name} must give maps (n, c, h, w), got {found[0].shape}"
                    )
                needed = min(len(pixels), round(10_000 / (found[0][0, 0].size)) + 1)
            maps.append(np.concatenate(found))
        matrix[i, j] = published_protocol(maps[0], maps[1], seed=seed).value
    return {
        "matrix": matrix,
        "measure": "mean CCA by the published protocol",
        "convention": {
            "protocol": "10,000 places of shuffled images, 64 channels, 5 repeats (Raghu 2019, "
            "Juodelyte 2023); layers of the same name only",
        },
    }


def _predictions(
    a: Any,
    b: Any,
    outputs: Sequence[NDArray[np.float32]],
    labels: NDArray[np.integer[Any]] | None,
    order: NDArray[np.int64],
) -> Mapping[str, float]:
    """Return how alike two classifiers answer; empty where one of them has no head."""
    if not (getattr(a, "classes", 0) and getattr(a, "classes", 0) == getattr(b, "classes", 0)):
        return {}
    first, second = (_softmax(found) for found in outputs)
    found = {
        "Jensen-Shannon divergence (bits)": js_divergence(first, second),
        "share with another class": top1_disagreement(first, second),
    }
    if labels is not None:
        agreement = prediction_agreement(first, second, labels[order])
        found |= {
            "both right or both wrong": agreement.observed,
            "the same by chance": agreement.chance,
            "error consistency (kappa)": error_consistency(first, second, labels[order]),
        }
    return found


def _softmax(logits: NDArray[np.float32]) -> Array:
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    probabilities: Array = powers / powers.sum(axis=1, keepdims=True)
    return probabilities


# --- Feature files -----------------------------------------------------------------------------


def _feature_files(folder: Path) -> dict[str, Path]:
    """Return the feature files under a folder, by the name of the slide."""
    files = [folder] if folder.is_file() else sorted(folder.rglob("*.h5"))
    if not files:
        raise FileNotFoundError(f"no feature file (.h5) in {folder}")
    found: dict[str, Path] = {}
    for file in files:
        if file.stem in found:
            raise ValueError(
                f"{folder} must hold one file per slide, got {found[file.stem]} and {file}: name "
                "the folder of one encoder"
            )
        found[file.stem] = file
    return found


def _names_of(folders: Sequence[Path]) -> tuple[str, ...]:
    short = [folder.name.removeprefix("features_") for folder in folders]
    return tuple(short if len(set(short)) == len(short) else map(str, folders))
