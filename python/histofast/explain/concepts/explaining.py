"""A network and pictures in, what concepts each of its layers tells, beside what chance would tell."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from histofast import networks
from histofast._arrays import to_numpy
from histofast._notes import noted
from histofast._numbers import whole_number
from histofast._stopping import stop_if_asked
from histofast._words import did_you_mean, listed
from histofast.classify import Run, open_run
from histofast.datasets import Decoded, Images, decode, open_images
from histofast.errors import ModelError
from histofast.explain.concepts.measures import NUCLEI_THRESHOLD, check_concepts, measure
from histofast.explain.concepts.ridge import Regression, deal, is_constant, regress
from histofast.explain.concepts.sensitivity import RANDOM_DIRECTIONS, Sensitivity, sensitivity
from histofast.learning import Difference, differences_of_sums

Float = NDArray[np.float64]
_Recorders = Mapping[str, networks.Recorder]
Progress = Callable[[str, int, int], None]
BATCH = 32
DIRECTIONS = ("filter", "pattern")
_DRAWS_OF_A_TEST = 20  # random directions: with fewer no p could survive the correction


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Explained:
    """What layers tell of concepts.

    Attributes:
        images: the pictures that could be read.
        px: side of the pictures, as networks and concepts see them.
        architecture: of the networks.
        layers: in the order of the network.
        concepts: (k) that vary.
        constant: the others, and their value.
        values: (n, k) of the concepts.
        found: of each network by its name and layer, the regression.
        random: of each layer, those of networks with random weights, one for each seed.
        moved: of each layer and kind of direction, how the output of the trained network moves.
        target: class of that output; "": there is none.
        folds, seed: of the regressions.
        unreadable: name and reason of pictures that were left out.
        notes: what else was, a line each.
    """

    images: Images
    px: int
    architecture: str
    layers: tuple[str, ...]
    concepts: tuple[str, ...]
    constant: Mapping[str, float]
    values: Float
    found: Mapping[str, Mapping[str, Regression]]
    random: Mapping[str, tuple[Regression, ...]]
    moved: Mapping[str, Mapping[str, Sensitivity]]
    target: str
    folds: int
    seed: int
    unreadable: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]

    @property
    def changed(self) -> dict[tuple[str, str], Difference]:
        """By concept and layer, R2 of the second network less that of the first, after Holm; {} of one network.

        Over the same draws of groups, the models fixed.
        """
        if len(self.found) < 2:
            return {}
        before, after = self.found.values()
        keys = {(c, layer): k for k, c in enumerate(self.concepts) for layer in self.layers}
        return differences_of_sums(
            {
                (c, layer): before[layer].errors[:, k] - after[layer].errors[:, k]
                for (c, layer), k in keys.items()
            },
            {(c, layer): before[layer].totals[:, k] for (c, layer), k in keys.items()},
            seed=self.seed,
        )


@noted
def explain_concepts(
    images: Images | str | Path,
    *,
    network: str | None = None,
    weights: str | Path | None = None,
    run: Run | str | Path | None = None,
    layers: Sequence[str] | None = None,
    concepts: Sequence[str] | None = None,
    px: int | None = None,
    target: str | None = None,
    folds: int = 5,
    permutations: int = 20,
    random_seeds: int = 5,
    nuclei_threshold: float = NUCLEI_THRESHOLD,
    seed: int = 0,
    device: str = "auto",
    threads: int = 2,
    on_progress: Progress | None = None,
) -> Explained:
    """Regress concepts of pictures on the features of the layers of networks.

    The features of a layer are the means of its maps over the picture. Groups are what `open_images`
    says; every number is of groups that trained nothing.

    Args:
        images: or a table or folder of pictures; labels are not needed.
        network: architecture of the weights; None: that of the run.
        weights: of a pretrained network.
        run: of `classify`, or its folder: the network as it was trained, and its head for sensitivities.
        layers: stages or any modules; None: all blocks.
        concepts: of `CONCEPTS`; None: all but those that are measured only where asked for.
        px: side that pictures are resampled to; None: that of the run, without one they stay.
        target: class of the run whose logit is followed; None: the last.
        folds, permutations: see `regress`.
        random_seeds: networks with random weights, at least 1.
        nuclei_threshold: see `measure`.
        seed: of all that is drawn.
        device: where networks run.
        threads: that decode and count.
        on_progress: called with what is being done, how much of it is, and of how much.

    Raises:
        FileNotFoundError: no such pictures, weights or run.
        TypeError: numbers of another kind.
        ValueError: neither weights nor a run, an architecture that is not the run's, no such class or
            concept, pictures of several sizes without `px`, fewer groups than folds, no concept varies.
        ModelError: no such layer; weights that do not fit; a run that is not finished or was changed.
        Interrupted: asked to stop.

    Determinism: by the seed and the device; features may differ in the last bits with the batch.
    """
    random_seeds = whole_number("random_seeds", random_seeds, at_least=1)
    threads = whole_number("threads", threads, at_least=1)
    chosen = check_concepts(concepts)
    opened = run if isinstance(run, Run) or run is None else open_run(run)
    named = _named(network, weights, opened, device)
    at = _target(opened, target)
    shown = images if isinstance(images, Images) else open_images(images, labelled=False)
    recorders = {name: networks.Recorder(net, layers) for name, net in named.items()}
    with tempfile.TemporaryDirectory(prefix="histofast-concepts-") as cache:
        wanted = px if px is not None or opened is None else opened.px
        decoded = decode(shown, cache=cache, px=wanted, threads=threads)
        read = shown.part(decoded.rows)
        deal(read.groups, folds=folds, seed=seed)  # refuses before the work
        tell = on_progress and functools.partial(on_progress, "concepts")
        count = functools.partial(measure, threads=threads, on_progress=tell)
        values = count(decoded.pixels, names=chosen, nuclei_threshold=nuclei_threshold)
        kept, constant = _parted(values, chosen)
        work = _Work(
            decoded, values[:, kept], read.groups, folds=folds, seed=seed, on_progress=on_progress
        )
        found, random, moved = work.all(recorders, permutations, random_seeds, at)
    first = next(iter(recorders.values()))
    return Explained(
        images=read,
        px=decoded.px,
        architecture=first.network.architecture,
        layers=first.names,
        concepts=tuple(chosen[k] for k in kept),
        constant=constant,
        values=values[:, kept],
        found=found,
        random=random,
        moved=moved,
        target="" if at is None or opened is None else opened.classes[at],
        folds=folds,
        seed=seed,
        unreadable=decoded.unreadable,
        notes=(*shown.notes, *decoded.notes),
    )


_PRETRAINED, _TRAINED = "pretrained", "trained"


def _named(
    network: str | None, weights: str | Path | None, run: Run | None, device: str
) -> dict[str, Any]:
    """Return the networks, by the names they have on the page."""
    if weights is None and run is None:
        raise ValueError(
            "weights must be given, or a run: networks with random weights are the null"
        )
    if run is not None and network not in (None, run.architecture):
        raise ValueError(f"network must be that of the run, {run.architecture}, got {network}")
    architecture = network or (None if run is None else run.architecture)
    if architecture is None:
        raise ValueError("network must name the architecture of the weights")
    where = networks.pick_device(device)
    found: dict[str, Any] = {}
    if weights is not None:
        found[_PRETRAINED] = networks.create(architecture, weights=weights).to(where).eval()
    if run is not None:
        found[_TRAINED] = run.network(head=True).to(where)
    return found


def _target(run: Run | None, target: str | None) -> int | None:
    """Return the number of the output that is followed; None without a run."""
    if run is None:
        if target is not None:
            raise ValueError(f"target must be left out without a run, got {target!r}")
        return None
    if target is None:
        return len(run.classes) - 1
    if target not in run.classes:
        raise ValueError(
            f"target must be a class of the run ({', '.join(run.classes)}), got {target!r}"
            f"{did_you_mean(target, run.classes)}"
        )
    return run.classes.index(target)


def _parted(values: Float, names: Sequence[str]) -> tuple[NDArray[np.int64], dict[str, float]]:
    """Return the columns of concepts that vary, and the others with their value."""
    constant = is_constant(values)
    if constant.all():
        raise ValueError(
            f"concepts must vary, got the same values in all pictures: {listed(names)}"
        )
    others = {names[k]: float(values[0, k]) for k in np.flatnonzero(constant).tolist()}
    return np.flatnonzero(~constant), others


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    """Pictures and their concepts, for one network after the other."""

    decoded: Decoded
    values: Float
    groups: Sequence[str]
    folds: int
    seed: int
    on_progress: Progress | None

    def all(
        self, recorders: _Recorders, permutations: int, seeds: int, at: int | None
    ) -> tuple[
        dict[str, dict[str, Regression]],
        dict[str, tuple[Regression, ...]],
        dict[str, dict[str, Sensitivity]],
    ]:
        """Return what `Explained` has as found, random and moved."""
        found = {
            name: self.regressed(recorder, name, permutations)
            for name, recorder in recorders.items()
        }
        random = self.of_random(next(iter(recorders.values())), seeds)
        if at is None:
            return found, random, {}
        return found, random, self.moved(recorders[_TRAINED], at, found[_TRAINED])

    def regressed(
        self, recorder: networks.Recorder, what: str, permutations: int
    ) -> dict[str, Regression]:
        """Return the regression of every layer; features are let go of one after the other."""
        pooled, found = self._pooled(recorder, what), {}
        for layer in recorder.names:
            stop_if_asked()
            found[layer] = regress(
                pooled.pop(layer),
                self.values,
                groups=self.groups,
                folds=self.folds,
                permutations=permutations,
                seed=self.seed,
            )
        return found

    def of_random(
        self, recorder: networks.Recorder, seeds: int
    ) -> dict[str, tuple[Regression, ...]]:
        """Return those of networks with random weights, by layer."""
        each = []
        for k in range(seeds):
            other = networks.drawn_anew(recorder.network, seed=self.seed + 1 + k)
            what = f"random network {k + 1} of {seeds}"
            each.append(self.regressed(networks.Recorder(other, recorder.names), what, 0))
        return {layer: tuple(one[layer] for one in each) for layer in recorder.names}

    def moved(
        self, recorder: networks.Recorder, at: int, found: Mapping[str, Regression]
    ) -> dict[str, dict[str, Sensitivity]]:
        """Return how an output moves along the directions of every layer's concepts."""
        tests = len(found) * len(DIRECTIONS) * self.values.shape[1]
        draws = max(RANDOM_DIRECTIONS, 2 * _DRAWS_OF_A_TEST * tests)
        return {
            layer: {
                kind: sensitivity(
                    slopes,
                    along,
                    r2=found[layer].r2,
                    spread=found[layer].spread,
                    draws=draws,
                    seed=self.seed,
                )
                for kind, along in zip(
                    DIRECTIONS, (found[layer].filters, found[layer].patterns), strict=True
                )
            }
            for layer, slopes in self._gradients(recorder, at).items()
        }

    def _batches(self, what: str) -> Iterator[NDArray[np.uint8]]:
        n = len(self.decoded.rows)
        for first in range(0, n, BATCH):
            stop_if_asked()
            yield np.array(self.decoded.pixels[first : first + BATCH])  # torch wants to write
            if self.on_progress is not None:
                self.on_progress(what, min(first + BATCH, n), n)

    def _pooled(self, recorder: networks.Recorder, what: str) -> dict[str, NDArray[np.float32]]:
        """Return (n, d) means over the places of each layer's maps."""
        parts: dict[str, list[NDArray[np.float32]]] = {name: [] for name in recorder.names}

        def keep(name: str, values: Any) -> None:
            array = to_numpy(values)
            axes = _places(recorder, name, array.ndim)
            parts[name].append(array.mean(axis=axes, dtype=np.float32))

        for pixels in self._batches(what):
            recorder.run(pixels, keep)
        return {name: np.concatenate(each) for name, each in parts.items()}

    def _gradients(self, recorder: networks.Recorder, at: int) -> dict[str, NDArray[np.float32]]:
        """Return (n, d) gradients of an output by each layer, summed over its places."""
        parts: dict[str, list[NDArray[np.float32]]] = {name: [] for name in recorder.names}

        def directions(output: torch.Tensor) -> list[torch.Tensor]:
            direction = torch.zeros_like(output)
            direction[:, at] = 1
            return [direction]

        for pixels in self._batches("gradients"):
            found = networks.gradients(recorder, pixels, directions).gradients[0]
            for name in recorder.names:
                slope = found[name].float().cpu().numpy()
                parts[name].append(slope.sum(axis=_places(recorder, name, slope.ndim)))
        return {name: np.concatenate(each) for name, each in parts.items()}


def _places(recorder: networks.Recorder, layer: str, ndim: int) -> tuple[int, ...]:
    """Return the axes of a layer's places: of maps, tokens (n, t, d), features (n, d)."""
    of_maps = (1, 2) if networks.channels_last(recorder.network) else (2, 3)
    axes = {2: (), 3: (1,), 4: of_maps}.get(ndim)
    if axes is None:
        raise ModelError(
            f"layer {layer} of {recorder.network.architecture} must give maps or features, got "
            f"{ndim} axes: leave it out"
        )
    return axes
