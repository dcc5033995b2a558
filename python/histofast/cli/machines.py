"""Options of commands whose work other machines can do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from histofast._words import count
from histofast.cli import options
from histofast.cli.flags import told
from histofast.cli.output import say

if TYPE_CHECKING:
    from histofast.jobs import Cluster as RayCluster
    from histofast.jobs import Outcome

Cluster = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="auto|HOST:PORT|ray://HOST:PORT|local:N",
        help="work on the machines of a Ray cluster, which share all folders",
    ),
]
CpusPerWorker = Annotated[
    int | None,
    typer.Option(
        "--cpus-per-worker",
        parser=options.whole_number,
        metavar="N",
        help="of the cluster [for runs --threads; for slides those of a machine, or its share for each GPU]",
    ),
]
GpusPerWorker = Annotated[
    float | None,
    typer.Option(
        "--gpus-per-worker",
        parser=options.number,
        metavar="G",
        help="of the cluster [1 where it has any]",
    ),
]

Part = Annotated[
    str | None,
    typer.Option(
        "--part",
        metavar="I/N",
        help="do part i of n only, as other tasks of an array do the others; without it what is left",
    ),
]
CountLevels = Annotated[bool, typer.Option("--count-levels", hidden=True)]


def say_part(part: str, outcomes: Sequence[Outcome]) -> None:
    """Say what was done of a part; a command with one that failed has failed."""
    done = [outcome.job.name for outcome in outcomes if outcome.status != "failed"]
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    for outcome in failed:
        say(f"{outcome.job.name} failed: {told(outcome.error)}", err=True)
    say(f"part {part}: {count(len(done), 'job')} of it done; what is left is done without --part")
    if failed:
        raise typer.Exit(1)


def say_folds(part: str, folds: Sequence[int], *, did: str) -> None:
    """Say which folds are of a part, and what was done with them."""
    which = (
        f"fold{'s' if len(folds) > 1 else ''} {', '.join(map(str, folds))}" if folds else "no fold"
    )
    say(f"part {part}, {which}: {did}; the run is finished without --part")


def say_trained(part: str, n: int) -> None:
    """Say that the folds of a part of n are trained."""
    from histofast.jobs import Part
    from histofast.learning import folds_of

    say_folds(part, folds_of(Part.told(part), n), did="trained")


def cluster_of(address: str | None, cpus: int | None, gpus: float | None) -> RayCluster | None:
    """Return the cluster that is asked for.

    Raises:
        ValueError: what is of its workers without it, or out of range.
    """
    if address is None:
        for name, value in (("cpus_per_worker", cpus), ("gpus_per_worker", gpus)):
            if value is not None:
                raise ValueError(f"{name} must be given with cluster only, got {value:g}")
        return None
    from histofast.jobs import Cluster

    return Cluster(address=address, cpus_per_worker=cpus, gpus_per_worker=gpus)
