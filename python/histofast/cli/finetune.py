"""`histofast finetune`."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from histofast._files import regular_file
from histofast._machine import TORCH
from histofast.cli import machines, options
from histofast.cli.flags import told
from histofast.cli.output import counted, say, say_document

if TYPE_CHECKING:
    from histofast.learning import Metric
    from histofast.mil import FineTuned, FineTuneProgress
    from histofast.patches import PatchSample

_SAY_S = 10.0  # between lines about the work left
_COMPARED = 512  # patches of the similarity report


def finetune(
    run: options.Run,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FOLDER", help="of the tuned encoder")
    ],
    encoder: Annotated[
        str | None,
        typer.Option("--encoder", metavar="NAME|FILE", help="of the run [found by its name]"),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option("--weights", metavar="FILE", help="instead, what it was exported from"),
    ] = None,
    slides: Annotated[
        list[Path] | None,
        typer.Option("--slides", metavar="PATH", help="that the features are of; repeatable"),
    ] = None,
    patches: Annotated[
        Path | None,
        typer.Option(
            "--patches", metavar="CSV|FOLDER", help="patch images that the features are of"
        ),
    ] = None,
    bag_from: options.BagFrom = None,
    features: Annotated[
        Path | None,
        typer.Option("--features", metavar="FOLDER", help="of the run [where they were]"),
    ] = None,
    network: Annotated[
        str | None,
        typer.Option("--network", metavar="NAME", help="of the weights"),
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option("--layer", metavar="NAME", help="where the weights' network is cut"),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(
            "--top-k", parser=options.whole_number, metavar="K", help="patches a slide [64]"
        ),
    ] = None,
    unfreeze: Annotated[
        str | None,
        typer.Option("--unfreeze", metavar="A,B|all", help="stages that train [all]"),
    ] = None,
    epochs: options.Epochs = None,
    patience: Annotated[
        int | None,
        typer.Option(
            "--patience", parser=options.whole_number, metavar="N", help="epochs without gain [5]"
        ),
    ] = None,
    lr: Annotated[
        float | None, typer.Option("--lr", parser=options.number, metavar="RATE", help="[1e-5]")
    ] = None,
    patch_loss: Annotated[
        float | None,
        typer.Option(
            "--patch-loss",
            parser=options.number,
            metavar="W",
            help="weight of the loss of patches [0]",
        ),
    ] = None,
    reselect: Annotated[
        int | None,
        typer.Option(
            "--reselect",
            parser=options.whole_number,
            metavar="N",
            help="choose anew every N epochs [0]",
        ),
    ] = None,
    folds: Annotated[
        str | None, typer.Option("--folds", metavar="0,1,...", help="of the run, to tune [all]")
    ] = None,
    memory_gb: Annotated[
        float | None,
        typer.Option(
            "--memory-gb", parser=options.number, metavar="GB", help="for activations [8]"
        ),
    ] = None,
    most_hours: Annotated[
        float | None,
        typer.Option(
            "--most-hours", parser=options.number, metavar="H", help="refuse work beyond that [24]"
        ),
    ] = None,
    seed: options.Seed = None,
    device: Annotated[str, options.device(TORCH, help="where to tune")] = "auto",
    jobs: options.Jobs = None,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            parser=options.whole_number,
            metavar="N",
            help="of torch, in each job [the CPUs available, shared out among the jobs]",
        ),
    ] = None,
    cluster: machines.Cluster = None,
    cpus_per_worker: machines.CpusPerWorker = None,
    gpus_per_worker: machines.GpusPerWorker = None,
    part: machines.Part = None,
    similarity: Annotated[
        bool,
        typer.Option(
            "--similarity/--no-similarity", help="also compare frozen and tuned layer by layer"
        ),
    ] = True,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace what was tuned with other options")
    ] = False,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Train an encoder on the patches that a run attends to most; write the new encoder.

    histofast finetune runs/abmil --slides slides/ --out tuned/
    """
    asked = options.given(
        top_k=top_k,
        epochs=epochs,
        patience=patience,
        lr=lr,
        patch_loss=patch_loss,
        reselect=reselect,
        memory_gb=memory_gb,
        most_hours=most_hours,
        seed=seed,
        unfreeze=None if unfreeze is None else tuple(options.split(unfreeze)),
        folds=folds and tuple(options.whole_number(f) for f in options.split(folds)),
    )
    if weights is not None:
        regular_file(weights, kind="weights file")
    images = options.patch_images(patches, bag_from=bag_from, odd_patches=None)

    from histofast import mil

    config = mil.FineTuneConfig(device=device, **asked)
    given: mil.FineTuneArguments = {
        "encoder": encoder,
        "weights": weights,
        "slides": slides,
        "patches": images,
        "features": features,
        "network": network,
        "layer": layer,
        "config": config,
        "overwrite": overwrite,
        "on_progress": None if quiet else _reporter(),
        "on_note": None if quiet else lambda text: say(told(text), err=True),
        "cluster": machines.cluster_of(cluster, cpus_per_worker, gpus_per_worker),
        "jobs": jobs,
        "threads": threads,
    }
    if part is not None:
        machines.say_folds(part, mil.finetune_part(run, part, out=out, **given), did="tuned")
        return
    found = mil.finetune(run, out=out, **given)
    _tell(found, as_json=as_json)
    if not similarity:
        return
    if not quiet:
        say(
            "comparing frozen and tuned, layer by layer (--no-similarity leaves it out): reading "
            f"{_COMPARED} patches",
            err=True,
        )
    sample = mil.sample_of_run(
        mil.open_run(run), slides=slides, patches=images, features=features, n=_COMPARED
    )
    with counted("comparing images", quiet=quiet) as on_progress:
        page = _compare(found, sample, on_progress)
    if not as_json:
        say(f"frozen and tuned, layer by layer: {page}")


def _tell(found: FineTuned, *, as_json: bool) -> None:
    """Say what tuning was worth."""
    if as_json:
        say_document(json.dumps(found.metrics(), indent=1))
        return
    say(*_table(found))
    for note in found.notes:
        say(f"note: {told(note)}")
    say(f"encoder: {found.encoder}")


def _reporter() -> Callable[[FineTuneProgress], None]:
    """Say every epoch, and now and then how much is left."""
    said = 0.0

    def tell(progress: FineTuneProgress) -> None:
        nonlocal said
        is_due = time.monotonic() - said > _SAY_S and not math.isnan(progress.remaining_s)
        if progress.finished is not None or is_due:
            said = time.monotonic()
            say(str(progress), err=True)

    return tell


def _compare(
    found: FineTuned, sample: PatchSample, on_progress: Callable[[int, int], None] | None
) -> Path:
    """Compare the encoder before and after, on patches as the run's features know them."""
    from histofast.comparison import compare

    result = compare(
        found.frozen_network,
        found.tuned_network,
        sample,
        label_a="frozen",
        label_b="tuned",
        on_progress=on_progress,
    )
    result.save(found.path / "similarity")
    return found.path / "similarity" / "index.html"


def _table(found: FineTuned) -> list[str]:
    width = max(map(len, found.frozen))
    lines = [f"{'':{width}}   frozen    tuned     gain  95 % by patients  95 % by training"]
    for name, before in found.frozen.items():
        after, gain, training = found.tuned[name], found.gain[name], found.gain_of_folds[name]
        lines.append(
            f"{name:{width}}  {before.value:7.3f}  {after.value:7.3f}  {gain.value:+7.3f}  "
            f"{_range(gain):>16}  {_range(training):>16}"
        )
    return lines


def _range(metric: Metric) -> str:
    return "undefined" if math.isnan(metric.low) else f"{metric.low:+.3f} to {metric.high:+.3f}"
