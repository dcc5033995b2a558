"""A run and pictures in; where its network finds what it says of them, and what that is worth, out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from histofast._files import make_folder, path_of, regular_file, replacing
from histofast._notes import noted
from histofast._numbers import whole_number
from histofast._words import did_you_mean
from histofast.classify import Run, open_run, probabilities_of
from histofast.datasets import (
    Images,
    ImageTask,
    evenly,
    none_readable,
    open_images,
    read_in_batches,
    resampled,
)
from histofast.explain.cam.capture import BATCH, Cams, joined, of_batch
from histofast.explain.cam.definitions import Method, check_methods
from histofast.explain.cam.labels import ByLabels, by_labels
from histofast.explain.cam.worth import DRAWS, Measured, darkness, measure
from histofast.networks import Recorder, drawn_anew, pick_device
from histofast.slides import read_image

Pixels = NDArray[np.uint8]
Rows = NDArray[np.int64]
Means = Mapping[Method, NDArray[np.float32]]

_BRIGHT = 127  # a level above it is on the mask


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Explained:
    """Class activation maps of pictures, each beside its null.

    Attributes:
        architecture, layer: of the network.
        classes: of the run, in the order of the outputs.
        methods: of the maps.
        images: those that could be read, n.
        probabilities: (n, all classes) float64.
        shown_class: (n, c) int64 number of the class that each map is of.
        maps: (n, c, h, w) float32 by method.
        null: the same of the network with all weights drawn anew, for the same classes.
        thumbs: (px, px, 3) uint8 of pictures to show, by their row.
        px: side of the pictures that the network saw.
        unreadable: name and reason of each picture that was left out.
        notes: what else was, a line each.
        seed: of the weights drawn anew.
        random_seeds: how many such networks maps are held against; `null` is of the first.
        measured: what the maps are worth on a sample of the pictures; None: not asked for.
        by_labels: how well the mean of each source finds the pictures labelled with the one class that was
            asked for, among those of their group; None: no such labels, or not one class.
    """

    architecture: str
    layer: str
    classes: tuple[str, ...]
    methods: tuple[Method, ...]
    images: Images
    probabilities: NDArray[np.float64]
    shown_class: NDArray[np.int64]
    maps: Mapping[Method, NDArray[np.float32]]
    null: Mapping[Method, NDArray[np.float32]]
    thumbs: Mapping[int, Pixels]
    px: int
    unreadable: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    seed: int
    random_seeds: int
    measured: Measured | None = None
    by_labels: ByLabels | None = None


@noted
def explain_pictures(
    run: Run | str | Path,
    images: Images | str | Path,
    *,
    layer: str | None = None,
    methods: Sequence[str] = ("hirescam",),
    classes: Sequence[str] | None = None,
    shown: int = 12,
    sample: int = 32,
    masks: str | Path | None = None,
    random_seeds: int = DRAWS,
    seed: int = 0,
    device: str = "auto",
    threads: int = 2,
    on_progress: Callable[[int, int], None] | None = None,
) -> Explained:
    """Show where in pictures the network of a finished run finds what it says of them.

    Args:
        run: of `classify`, or its folder.
        images: or a folder or table of pictures; labels are not needed. They are resampled to the size
            that the run was trained at.
        layer: a stage or any module whose output is a map; None: the last stage.
        methods: "gradcam", "gradcam++", "hirescam".
        classes: names of classes of the run; None: for each picture the most probable one.
        shown: pictures to keep for looking at, evenly taken.
        sample: pictures to measure the maps on, evenly taken of all groups, with the first class of each; 0: none. Each
            costs about as many passes through the network as it has stages, and three hundred more.
        masks: folder with a picture of the name of each sampled one, `.png`, bright where its maps should lie.
        random_seeds: networks of the same form whose weights are all drawn anew, that maps are held against.
        seed: of the first of them.
        device: where the network runs.
        threads: that decode.
        on_progress: called with the number of pictures that are done, and of all.

    Raises:
        FileNotFoundError: no such run, pictures or mask.
        SlideError: a mask that cannot be read.
        ModelError: the run is not finished, or was changed since; as `cams`.
        ValueError: no such class or method; no picture can be read.
        Interrupted: asked to stop.

    Determinism: by the device and the seed; maps may differ in the last bits with the batch of 32.
    """
    shown = whole_number("shown", shown, at_least=0)
    sample = whole_number("sample", sample, at_least=0)
    random_seeds = whole_number("random_seeds", random_seeds, at_least=1)
    threads = whole_number("threads", threads, at_least=1)
    chosen = tuple(dict.fromkeys(check_methods(methods)))
    run = run if isinstance(run, Run) else open_run(run)
    wanted = None if classes is None else _numbers(run, classes)
    network = run.network().to(pick_device(device))
    recorder = Recorder(network, [network.layer if layer is None else layer])
    opened = images if isinstance(images, Images) else open_images(images, labelled=False)
    labelled = _labelled(run, wanted, opened)
    nulls = [
        Recorder(drawn_anew(network, seed=seed + k), recorder.names)
        for k in range(1 if labelled is None else random_seeds)
    ]
    every = np.arange(len(opened))
    by_group = np.argsort(np.array(opened.groups), kind="stable")
    met = _Met(
        shown=set(evenly(every, shown).tolist()),
        sampled=set(evenly(by_group, sample).tolist()),
        files=opened.files,
        masks_in=None if masks is None else Path(masks),
    )
    for places, pixels in read_in_batches(
        opened,
        px=run.px,
        size=BATCH,
        threads=threads,
        on_unreadable=lambda *told: met.unreadable.append(told),
        on_progress=on_progress,
    ):
        told = None if wanted is None else np.tile(wanted, (len(places), 1))
        met.real.append(of_batch(recorder, pixels, chosen, classes=told))
        anew = [of_batch(null, pixels, chosen, classes=met.real[-1].classes) for null in nulls]
        met.null.append(anew[0])
        met.anew.append([_means(one) for one in anew])
        met.darkness.append(darkness(pixels, (1, 1)).ravel())
        met.keep(places, pixels)
    if not met.rows:
        raise none_readable(opened, [reason for _, reason in met.unreadable])
    return _explained(run, network, met, opened, labelled, random_seeds=random_seeds, seed=seed)


def _explained(
    run: Run,
    network: Any,
    met: _Met,
    opened: Images,
    labelled: str | None,
    *,
    random_seeds: int,
    seed: int,
) -> Explained:
    """Put together what was met, and measure it."""
    real, fake = joined(met.real), joined(met.null)
    found_images = opened.part(met.rows)
    return Explained(
        architecture=run.architecture,
        layer=real.layer,
        classes=run.classes,
        methods=tuple(real.maps),
        images=found_images,
        probabilities=probabilities_of(torch.from_numpy(real.output), task=run.task),
        shown_class=real.classes,
        maps=real.maps,
        null=fake.maps,
        thumbs=met.thumbs,
        px=run.px,
        unreadable=tuple(met.unreadable),
        notes=opened.notes,
        seed=seed,
        random_seeds=random_seeds,
        measured=_measured(
            network, met, real, found_images, task=run.task, draws=random_seeds, seed=seed
        ),
        by_labels=None
        if labelled is None
        else by_labels(
            found_images,
            labelled,
            output=real.output[:, run.classes.index(labelled)],
            maps=_means(real),
            nulls=[_joined(each) for each in zip(*met.anew, strict=True)],
            dark=np.concatenate(met.darkness),
            seed=seed,
        ),
    )


def _labelled(run: Run, wanted: Rows | None, images: Images) -> str | None:
    """Return the one class that maps are asked for, if pictures have labels that tell it."""
    if wanted is None or len(wanted) != 1 or images.task != "classification":
        return None
    name = run.classes[int(wanted[0])]
    return name if name in images.classes else None


def _means(found: Cams) -> Means:
    """Return (n,) the mean of each picture's first map, by method."""
    return {method: maps[:, 0].mean((1, 2)) for method, maps in found.maps.items()}


def _joined(parts: Sequence[Means]) -> Means:
    return {method: np.concatenate([part[method] for part in parts]) for method in parts[0]}


@dataclass(kw_only=True, slots=True)
class _Met:
    """What was met of the pictures so far.

    `shown` and `sampled` are numbers of pictures to keep; of the latter also the masks, where there is a
    folder of them: one that is missing ends the work as its picture is met. `null` has the maps of the first
    network with weights drawn anew, `anew` the means of those of all.
    """

    shown: set[int]
    sampled: set[int]
    files: Sequence[Path]
    masks_in: Path | None
    rows: list[int] = field(default_factory=list)
    real: list[Cams] = field(default_factory=list)
    null: list[Cams] = field(default_factory=list)
    anew: list[list[Means]] = field(default_factory=list)
    thumbs: dict[int, Pixels] = field(default_factory=dict)
    examined: dict[int, Pixels] = field(default_factory=dict)
    masks: list[NDArray[np.bool_]] = field(default_factory=list)
    darkness: list[NDArray[np.float64]] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)

    def keep(self, places: Sequence[int], pixels: Pixels) -> None:
        """Keep the pixels of those that are wanted, by their row among those that could be read."""
        for row, (place, image) in enumerate(zip(places, pixels, strict=True), len(self.rows)):
            if place in self.shown:
                self.thumbs[row] = image.copy()
            if place in self.sampled:
                self.examined[row] = image.copy()
                if self.masks_in is not None:
                    self.masks.append(_mask(self.masks_in, self.files[place], len(image)))
        self.rows += places


def _measured(
    network: Any,
    met: _Met,
    real: Cams,
    images: Images,
    *,
    task: ImageTask,
    draws: int,
    seed: int,
) -> Measured | None:
    """Put the maps of the sampled pictures to the measured."""
    rows = list(met.examined)
    if not rows:
        return None
    return measure(
        network,
        np.stack(list(met.examined.values())),
        layer=real.layer,
        methods=tuple(real.maps),
        classes=real.classes[rows, 0],
        groups=[images.groups[row] for row in rows],
        task=task,
        masks=np.stack(met.masks) if met.masks else None,
        draws=draws,
        seed=seed,
    )


def _mask(folder: Path, file: Path, px: int) -> NDArray[np.bool_]:
    """Read the mask of a picture as the picture is read: its largest square, resampled."""
    path = regular_file(folder / f"{file.stem}.png", kind="mask")
    found: NDArray[np.bool_] = resampled(read_image(path), px).mean(2) > _BRIGHT
    return found


def _numbers(run: Run, classes: Sequence[str]) -> Rows:
    """Return the numbers of classes of a run."""
    if not classes:
        raise ValueError(f"classes must name at least one of {', '.join(run.classes)}, got none")
    for name in classes:
        if name not in run.classes:
            raise ValueError(
                f"classes must be of the run ({', '.join(run.classes)}), got {name!r}"
                f"{did_you_mean(name, run.classes)}"
            )
    return np.array([run.classes.index(name) for name in dict.fromkeys(classes)], np.int64)


def save_maps(found: Explained, path: str | Path) -> None:
    """Write all maps as a NumPy archive: name, group, class and, by method, map and null.

    Raises:
        WriteError: it cannot be written, or its disk is full.
    """
    path = path_of("path", path)
    make_folder(path.parent)
    arrays: dict[str, NDArray[Any]] = {
        "name": np.array(found.images.names),
        "group": np.array(found.images.groups),
        "class": np.array(found.classes)[found.shown_class],
        "probabilities": found.probabilities,
        **{f"{method}": values for method, values in found.maps.items()},
        **{f"{method} null": values for method, values in found.null.items()},
    }
    with replacing(path, overwrite=True) as pending, pending.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
