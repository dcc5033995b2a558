"""A run and pictures in; where its network finds what it says of them, and what that is worth, out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from histofast._files import make_folder, path_of, replacing
from histofast._numbers import whole_number
from histofast._words import did_you_mean
from histofast.classify import Run, open_run
from histofast.datasets import Images, evenly, none_readable, open_images, read_in_batches
from histofast.explain.cam.capture import BATCH, Cams, joined, of_batch
from histofast.explain.cam.definitions import Method, check_method
from histofast.networks import Recorder, pick_device, twin

Pixels = NDArray[np.uint8]
Rows = NDArray[np.int64]


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


def explain_pictures(
    run: Run | str | Path,
    images: Images | str | Path,
    *,
    layer: str | None = None,
    methods: Sequence[str] = ("hirescam",),
    classes: Sequence[str] | None = None,
    shown: int = 12,
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
        seed: of the null, a network of the same form whose weights are all drawn anew.
        device: where the network runs.
        threads: that decode.
        on_progress: called with the number of pictures that are done, and of all.

    Raises:
        FileNotFoundError: no such run or pictures.
        ModelError: the run is not finished, or was changed since; as `cams`.
        ValueError: no such class or method; no picture can be read.
        Interrupted: asked to stop.

    Determinism: by the device and the seed; maps may differ in the last bits with the batch of 32.
    """
    shown = whole_number("shown", shown, at_least=0)
    threads = whole_number("threads", threads, at_least=1)
    chosen = tuple(dict.fromkeys(check_method(method) for method in methods))
    run = run if isinstance(run, Run) else open_run(run)
    wanted = None if classes is None else _numbers(run, classes)
    network = run.network().to(pick_device(device))
    recorder = Recorder(network, [network.layer if layer is None else layer])
    null = Recorder(twin(network, seed=seed), recorder.names)
    opened = images if isinstance(images, Images) else open_images(images, labelled=False)
    keep = set(evenly(np.arange(len(opened)), shown).tolist())
    met = _Met()
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
        met.null.append(of_batch(null, pixels, chosen, classes=met.real[-1].classes))
        met.thumbs |= {
            len(met.rows) + i: pixels[i].copy() for i, place in enumerate(places) if place in keep
        }
        met.rows += places
    if not met.rows:
        raise none_readable(opened, [reason for _, reason in met.unreadable])
    real, fake = joined(met.real), joined(met.null)
    logits = torch.from_numpy(real.output).double()
    is_one = run.task == "classification"
    return Explained(
        architecture=run.architecture,
        layer=real.layer,
        classes=run.classes,
        methods=chosen,
        images=opened.part(met.rows),
        probabilities=(logits.softmax(1) if is_one else logits.sigmoid()).numpy(),
        shown_class=real.classes,
        maps=real.maps,
        null=fake.maps,
        thumbs=met.thumbs,
        px=run.px,
        unreadable=tuple(met.unreadable),
        notes=opened.notes,
        seed=seed,
    )


@dataclass(kw_only=True, slots=True)
class _Met:
    """What was met of the pictures so far."""

    rows: list[int] = field(default_factory=list)
    real: list[Cams] = field(default_factory=list)
    null: list[Cams] = field(default_factory=list)
    thumbs: dict[int, Pixels] = field(default_factory=dict)
    unreadable: list[tuple[str, str]] = field(default_factory=list)


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
