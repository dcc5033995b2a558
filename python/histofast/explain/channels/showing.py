"""Two networks and real pictures in; pictures that excite their channels, and a page, out."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast import jobs, report
from histofast._files import make_folder, path_of
from histofast._notes import noted
from histofast._words import text_of
from histofast.datasets import Decoded, Images, decode, unreadable_note
from histofast.explain.channels.answers import answer_of
from histofast.explain.channels.exciting import Excitations, excitations
from histofast.explain.channels.look import STRONGEST, Look, Options, Side
from histofast.explain.channels.looks import Looks, looks_of
from histofast.explain.channels.search import search
from histofast.jobs import Job, Local, Plan, Told
from histofast.learning import read_json, write_json
from histofast.networks import Network, pick_device, starts
from histofast.slides import read_image, write_png

OnProgress = Callable[[str, int, int], None]  # what is done, how much of it, of how much

_REVISION = 1  # raised when the same would give other pictures
_FOUND, _PIXELS = "found", "pixels"  # folders
_PICTURE, _NUMBERS = "picture.png", "found.json"
_EVERY = 16  # steps that are told at once


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Begun:
    """A network before the work: its weights, where it runs, and what it is by content."""

    name: str
    start: str
    identity: Mapping[str, Any]
    network: Network


@noted
def show(
    network: str,
    weights: starts.AnyStart,
    *,
    layer: str,
    images: Images,
    out: str | Path,
    options: Options | None = None,
    against: starts.AnyStart | None = None,
    device: str = "auto",
    jobs: int = 1,
    threads: int | None = None,
    command: str = "",
    on_progress: OnProgress | None = None,
) -> Look:
    """Search for pictures that excite channels; show each beside the real ones that excite it most.

    Writes a page, `index.html`, with what is on it: `channels.csv`, `strongest.csv`, `layer.csv`, figures as
    PNG and PDF, `channels.json`; and `found/`, a folder for each channel and network. What is found there
    of the same weights, layer, options and real pictures is not searched again: whoever was interrupted
    begins at the channel at hand.

    Args:
        network: one of histofast's own, as of `networks.starts.begin`.
        weights: a file, `run:FOLDER`, or any other start.
        layer: a stage of it that gives maps, or any module in it.
        images: real pictures; their largest centred squares are resampled to `options.px`.
        out: folder, made where there is none.
        options: what is asked for; None: the defaults.
        against: weights of the same network whose channels are shown beside.
        device: where networks run.
        jobs: channels that are searched side by side in processes.
        threads: of torch, in each.
        command: that does it again, for the page.
        on_progress: called with what is done, how much of it, and of how much.

    Raises:
        FileNotFoundError, ModelError: weights that cannot be used; no such network or layer (close names are
            offered).
        ModuleNotFoundError: matplotlib or jinja2 is not installed.
        ValueError: a layer without maps, a channel that it does not have, under 9 pictures that can be
            read, pictures of one colour.

    Determinism: the same pictures by the seed on one CPU with the same number of threads; on a GPU not.
    """
    options = options or Options()
    report.check_installed()  # before the work
    out = path_of("out", out)
    layer = text_of("layer", layer)
    begun = _begun(network, weights, against, seed=options.seed, device=device)
    channels = _chosen(begun[0].network, layer, options)
    make_folder(out)
    some = _drawn(images, options)
    found = decode(
        some, cache=out / _PIXELS, px=options.px, on_progress=_of("reading pictures", on_progress)
    )
    _refuse_few(images, len(found.rows))
    real = [_real(each, layer, found.pixels, on_progress) for each in begun]
    looks = looks_of(found.pixels) if options.prior == "own" else None
    sides = _searched(
        begun,
        real,
        channels,
        layer=layer,
        looks=looks,
        options=options,
        folder=out / _FOUND,
        device=device,
        engine=Local(processes=jobs, threads=threads),
        on_progress=on_progress,
    )
    read = some.part(found.rows)
    look = Look(
        network=begun[0].network.architecture,
        layer=layer,
        options=options,
        channels=channels,
        sides=sides,
        images=images.path,
        names=read.names,
        groups=read.groups,
        of=len(images),
        pixels=np.array(found.pixels),
        notes=_notes(images, found),
    )
    report.save(answer_of(look, command=command), out)
    del found
    shutil.rmtree(out / _PIXELS, ignore_errors=True)
    return look


def _chosen(network: Network, layer: str, options: Options) -> tuple[int, ...]:
    """Return the channels to show, once a blank picture has shown how many there are."""
    blank = np.zeros((1, options.px, options.px, 3), np.uint8)
    return options.chosen(excitations(network, layer, blank).channels, layer=layer)


def _drawn(images: Images, options: Options) -> Images:
    """Return the real pictures to look at."""
    order = np.random.default_rng(options.seed).permutation(len(images))
    return images.part(np.sort(order[: options.pictures]))


def _notes(images: Images, found: Decoded) -> tuple[str, ...]:
    return tuple(filter(None, (*images.notes, *found.notes, unreadable_note(found))))


def _begun(
    network: str,
    weights: starts.AnyStart,
    against: starts.AnyStart | None,
    *,
    seed: int,
    device: str,
) -> list[_Begun]:
    told = [weights] if against is None else [weights, against]
    names = [_name(starts.parse(start)) for start in told]
    if len(set(names)) < len(names):
        names = [str(start) for start in told]
    if len(set(names)) < len(names):
        raise ValueError(f"against must be other weights, got {names[0]} twice")
    where = pick_device(device)
    return [
        _Begun(
            name=name,
            start=str(start),
            identity=starts.identity(start),
            network=starts.begin(network, start, seed=seed).to(where),
        )
        for name, start in zip(names, told, strict=True)
    ]


def _name(start: starts.Start) -> str:
    match start:
        case starts.File(path) | starts.Run(path):
            return Path(path).stem
    return str(start)


def _refuse_few(images: Images, readable: int) -> None:
    if readable < STRONGEST:
        raise ValueError(
            f"{images.path} must have at least {STRONGEST} pictures that can be read, got {readable}: "
            "each channel is shown beside so many"
        )


def _real(
    begun: _Begun, layer: str, pixels: NDArray[np.uint8], on_progress: OnProgress | None
) -> Excitations:
    what = f"running pictures through {begun.name}"
    return excitations(begun.network, layer, pixels, on_progress=_of(what, on_progress))


def _of(what: str, on_progress: OnProgress | None) -> Callable[[int, int], None] | None:
    return None if on_progress is None else lambda done, of: on_progress(what, done, of)


# --- The searches, as jobs ---------------------------------------------------------------------


def _searched(
    begun: Sequence[_Begun],
    real: Sequence[Excitations],
    channels: tuple[int, ...],
    *,
    layer: str,
    looks: Looks | None,
    options: Options,
    folder: Path,
    device: str,
    engine: Local,
    on_progress: OnProgress | None,
) -> tuple[Side, ...]:
    """Search for the channels of all networks that are not dead, but for those that are there."""
    plan = Plan(folder)
    planned: dict[tuple[int, int], Job] = {}
    identity = {
        "revision": _REVISION,
        "network": begun[0].network.architecture,
        "layer": layer,
        "stages": [asdict(stage) for stage in options.stages],
        "px": options.px,
        "looks": None if looks is None else looks.sha256,
        "seed": options.seed,
    }
    arguments = {"layer": layer, "options": options, "looks": looks, "device": device}
    for channel in channels:
        for k, each in enumerate(begun):
            if not real[k].dead[channel]:
                planned[k, channel] = plan.add(
                    _find,
                    name=f"channel {channel} of {each.name}",
                    kind=f"{channel:05d}",
                    arguments={
                        **arguments,
                        "network": identity["network"],
                        "start": each.start,
                        "channel": channel,
                    },
                    identity={**identity, "start": each.identity, "channel": channel},
                )
    steps = sum(stage.steps for stage in options.stages)
    listen = None if on_progress is None else _Listener(plan, steps, on_progress)
    jobs.values_of(jobs.run(plan.jobs, engine=engine, on_event=listen, fail_fast=True))
    return tuple(
        _side(each, real[k], [planned.get((k, channel)) for channel in channels])
        for k, each in enumerate(begun)
    )


class _Listener:
    """Adds up the steps of all searches that are not there yet."""

    def __init__(self, plan: Plan, steps: int, on_progress: OnProgress) -> None:
        self._steps = dict.fromkeys((job.name for job in plan.left()), 0)
        self._of = steps * len(self._steps)
        self._on_progress = on_progress

    def __call__(self, event: jobs.Event) -> None:
        if isinstance(event, Told) and isinstance(event.what, int):
            self._steps[event.name] = event.what
            self._on_progress("searching, steps", sum(self._steps.values()), self._of)


def _find(
    *,
    network: str,
    start: str,
    layer: str,
    channel: int,
    options: Options,
    looks: Looks | None,
    device: str,
    out: Path,
) -> None:
    """Do one search, and write what was found into its folder."""
    begun = starts.begin(network, start, seed=options.seed).to(pick_device(device))
    last = sum(stage.steps for stage in options.stages)

    def on_step(done: int) -> None:
        if done % _EVERY == 0 or done == last:
            jobs.tell(done)

    picture = search(
        begun,
        layer,
        channel,
        stages=options.stages,
        px=options.px,
        looks=looks,
        seed=options.seed,
        on_step=on_step,
    )
    value = float(excitations(begun, layer, picture[np.newaxis]).means[0, channel])
    write_png(out / _PICTURE, picture)
    write_json(out / _NUMBERS, {"value": value, "steps": last})


def _side(begun: _Begun, real: Excitations, planned: Sequence[Job | None]) -> Side:
    pictures: list[NDArray[np.uint8] | None] = []
    values: list[float] = []
    for job in planned:
        if job is None:
            pictures.append(None)
            values.append(float("nan"))
            continue
        assert job.folder is not None
        pictures.append(read_image(job.folder / _PICTURE))
        told = read_json(job.folder / _NUMBERS, remedy=f"remove {job.folder} and ask again")
        values.append(float(told["value"]))
    return Side(
        name=begun.name,
        weights=begun.start,
        real=real,
        found=tuple(pictures),
        values=tuple(values),
    )
