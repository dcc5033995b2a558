"""A run and the slides behind it in, an encoder that has learnt from the patches that matter out.

HistoTransfer's second stage, its leaks mended; see `fold_tuning` for what happens in a fold.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypedDict, Unpack

import numpy as np
import torch

from histofast._files import path_of
from histofast._machine import available_cpus
from histofast._notes import log_of, note, noted
from histofast._progress import shows
from histofast.errors import ModelError
from histofast.jobs import Cluster, Local, Part, engine_for
from histofast.learning import (
    OnNote,
    RunRecord,
    fold_folder,
    folds_of,
    parts_of_config,
    run_folder,
    sha256_of,
    work_on_folds,
)
from histofast.mil.bags import Bags, Paths
from histofast.mil.end_to_end import encode
from histofast.mil.fold_tuning import (
    FOLD,
    NETWORK,
    FineTuneConfig,
    OnProgress,
    Tuning,
    tune_fold,
    unfreeze,
)
from histofast.mil.pixels import Pixels, Slides, bags_of
from histofast.mil.reading import threads_of_torch
from histofast.mil.runs import LOG, MODEL, STATE, Run, open_run
from histofast.mil.tuning_answer import ENCODER, FineTuned, answer
from histofast.mil.tuning_source import source_of
from histofast.networks import Network, PixelsIn, pick_device
from histofast.patches import PatchImages

_log = log_of(__name__)

KIND = "finetune"
FILES = (ENCODER, *(f"fold-*/{name}" for name in (FOLD, NETWORK, MODEL, LOG, STATE)))

# Raised whenever the same input would give other numbers than before; part of every run's identity.
REVISION = 1

_SAME = 0.15  # of the norm: int8 encoders differ from their networks by half of it, others by all
_LOOKED_AT = 8  # patches to compare network and encoder on


class FineTuneArguments(TypedDict, total=False):
    """The arguments of `finetune`, but for run and folder, where each is explained."""

    encoder: str | Path | None
    weights: str | Path | None
    slides: Slides
    patches: str | Path | PatchImages | None
    features: Paths | None
    network: str | None
    layer: str | None
    config: FineTuneConfig | None
    overwrite: bool
    jobs: int | None
    threads: int | None
    cluster: Cluster | str | None
    progress: bool | None
    on_progress: OnProgress | None
    on_note: OnNote | None


@shows()
@noted
def finetune(
    run: Run | str | Path,
    *,
    out: str | Path,
    encoder: str | Path | None = None,
    weights: str | Path | None = None,
    slides: Slides = None,
    patches: str | Path | PatchImages | None = None,
    features: Paths | None = None,
    network: str | None = None,
    layer: str | None = None,
    config: FineTuneConfig | None = None,
    overwrite: bool = False,
    jobs: int | None = None,
    threads: int | None = None,
    cluster: Cluster | str | None = None,
    progress: bool | None = None,
    on_progress: OnProgress | None = None,
    on_note: OnNote | None = None,
) -> FineTuned:
    """Train encoder and model of bags end to end on the patches of highest attention.

    Called again with the same arguments it goes on after the last epoch; folds that are done are
    kept, also when others are asked for.

    Args:
        run: a finished run of `train`, or its folder.
        out: folder to write to: encoder.onnx, run.json, predictions.csv, metrics.json and a folder
            for each fold.
        encoder: the run's encoder, by name or file; its weights are in it. None: what histofast
            has under the name that the run tells.
        weights: instead, the weights file that the encoder was exported from.
        slides: the slides that the features are of.
        patches: instead, the patch images that they are of, as `extract` was given them.
        features: the run's feature files; None: where they were when the run was trained.
        network, layer: of `weights`: which network, cut where.
        config: how to tune.
        overwrite: replace what was tuned from other weights, features or options.
        jobs: folds at a time, side by side in processes; None: 1.
        threads: of torch, in each; None: all CPUs, shared out among the jobs.
        cluster: tune the folds on the machines of a Ray cluster, as `extract` encodes slides there; test
            slides are predicted here.
        progress: show it as lines of text: True, False; None: in a notebook, unless somebody hears it.
        on_progress: called after every step.
        on_note: called with a line on what is done besides steps, or had to be begun anew.

    Raises:
        ValueError: options that do not fit, a survival run, stages that the network has not; work
            that would take longer than `config.most_hours`; a folder of something else.
        FileNotFoundError: a run, slide, feature file or weights file that is not there.
        FeatureError: features that are not of this run, or of other slides.
        ModelError: a network that gives other features than the run's encoder; a loss that is not
            finite; a run that is not finished; another process works in this folder.
        OSError: the disk is full; epochs that are done stay.

    Determinism: bitwise on one CPU with one number of threads, interrupted or not, whichever folds are
    tuned beside each other; not guaranteed on CUDA.

    Reference: Sharma, Ehsan, Syed, Brown, 2021, HistoTransfer.
    """
    told: FineTuneArguments = {
        "encoder": encoder,
        "weights": weights,
        "slides": slides,
        "patches": patches,
        "features": features,
        "network": network,
        "layer": layer,
        "config": config,
        "overwrite": overwrite,
        "jobs": jobs,
        "threads": threads,
        "cluster": cluster,
        "on_progress": on_progress,
        "on_note": on_note,
    }
    with _tuned(run, out=out, part=None, **told) as (tuning, frozen, pixels):
        doing = "writing encoder.onnx, and metrics of test slides with intervals"
        note(_log, doing, to=on_note, level=logging.INFO)
        return answer(tuning, frozen=frozen, pixels=pixels)


@shows()
def finetune_part(
    run: Run | str | Path,
    part: str,
    *,
    out: str | Path,
    **arguments: Unpack[FineTuneArguments],
) -> tuple[int, ...]:
    """Tune some of the folds, as other processes or machines tune the others; `finetune` does what is left, and measures.

    Args:
        run, out, arguments: as of `finetune`, the same for all parts.
        part: "i/n": of the folds to tune those of part i of n.

    Returns:
        The numbers of its folds, which are tuned.

    Raises:
        ValueError: it says no part; what `finetune` raises. ModelError: another process is at this part.

    Determinism: as of `finetune`, whichever parts are done in whatever order.
    """
    mine = Part.told(part)
    with _tuned(run, out=out, part=mine, **arguments) as (tuning, _, _):
        return tuning.folds


@contextmanager
def _tuned(
    run: Run | str | Path,
    *,
    out: str | Path,
    part: Part | None,
    **told: Unpack[FineTuneArguments],
) -> Iterator[tuple[Tuning, Network, Pixels]]:
    """Tune the folds of a part, None: all, and give what measures them; the folder is held meanwhile."""
    config = told.get("config") or FineTuneConfig()
    out, jobs, threads = path_of("out", out), told.get("jobs"), told.get("threads")
    if threads is None and jobs is not None and jobs > 1:
        threads = max(1, available_cpus() // jobs)
    engine = engine_for(folder=out, jobs=jobs, threads=threads, cluster=told.get("cluster"))
    is_here = isinstance(engine, Local) and engine.side_by_side == 1
    run = _checked(run, config)
    on_note = told.get("on_note")
    note(_log, "looking at features, slides and network", to=on_note, level=logging.INFO)
    bags, slides, patches = (
        bags_of(run, told.get("features")),
        told.get("slides"),
        told.get("patches"),
    )
    source = source_of(
        run,
        encoder=told.get("encoder"),
        weights=told.get("weights"),
        network=told.get("network"),
        layer=told.get("layer"),
    )
    tuning = Tuning(
        run=run,
        bags=bags,
        config=config,
        source=source,
        slides=slides,
        patches=patches,
        out=out,
    )
    frozen = source.build()
    unfreeze(frozen, config.unfreeze)  # refused now, not after reading all slides
    device, overwrite = pick_device(config.device), told.get("overwrite", False)
    with Pixels(bags, slides=slides, patches=patches) as pixels, threads_of_torch(threads):
        _check_same(frozen, bags, pixels, device)
        record = record_of(tuning, pixels)
        with run_folder(out, record, files=FILES, overwrite=overwrite, part=part):
            tuning = _of_part(tuning, part)
            work_on_folds(
                partial(tune_fold, tuning, pixels=pixels if is_here else None, threads=threads),
                [fold for fold in tuning.folds if not tuning.is_tuned(fold)],
                engine=engine,
                on_progress=told.get("on_progress"),
                on_note=on_note,
            )
            yield tuning, frozen, pixels


def _of_part(tuning: Tuning, part: Part | None) -> Tuning:
    """Return what tunes those of the folds that are of a part."""
    folds = tuple(tuning.folds[place] for place in folds_of(part, len(tuning.folds)))
    return tuning if part is None else replace(tuning, config=replace(tuning.config, folds=folds))


def _checked(run: Run | str | Path, config: FineTuneConfig) -> Run:
    """Open a run; refuse one that cannot be tuned, or folds that it has not."""
    if not isinstance(run, Run):
        run = open_run(run)
    run.predictions()  # refuses a run that is not finished, or not as it was written
    if run.task == "survival":
        raise ValueError("run must be of classification or regression, got survival")
    for fold in config.folds or ():
        if not 0 <= fold < len(run.folds):
            raise ValueError(f"folds must be in 0..{len(run.folds) - 1}, got {fold}")
    return run


def record_of(tuning: Tuning, pixels: Pixels) -> RunRecord:
    """Return what run.json holds.

    Raises:
        OSError: weights or models that cannot be read.
    """
    from histofast import __version__

    run = tuning.run
    numbers, aside = parts_of_config(tuning.config)
    models = {
        str(fold): {"model": sha256_of(fold_folder(run.path, fold) / MODEL)}
        for fold in range(len(run.folds))
    }
    return RunRecord(
        kind=KIND,
        identity={
            "revision": REVISION,
            "config": numbers,
            "network": tuning.source.identity,
            "run": run.record.identity,
            "folds": models,
            "slides": pixels.contents(),
        },
        about={
            "versions": {"histofast": __version__, "torch": torch.__version__},
            "config": aside,
            "run": str(run.path.resolve()),
            "from": str(tuning.source.path),
        },
    )


def _check_same(frozen: Network, bags: Bags, pixels: Pixels, device: torch.device) -> None:
    """Refuse a network whose features are not those that the run was trained on."""
    rows = np.arange(min(_LOOKED_AT, int(bags.sizes[0])))
    module = PixelsIn(frozen).to(device).eval()
    got = encode(module, pixels.read(0, rows).to(device), chunk=len(rows)).cpu().numpy()
    frozen.to("cpu")
    wanted = np.asarray(bags.read(0)[rows], np.float32)
    if got.shape != wanted.shape:
        raise ModelError(
            f"network must give the run's {wanted.shape[1]} features, got {got.shape[1]}: name "
            "the layer that its encoder was cut at"
        )
    error = float(np.linalg.norm(got - wanted)) / max(float(np.linalg.norm(wanted)), 1e-30)
    if not error <= _SAME:
        raise ModelError(
            f"network must give the features of the run's encoder, got others by {error:.0%} of "
            "their norm: other weights, or another layer"
        )
