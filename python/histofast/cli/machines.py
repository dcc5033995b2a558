"""Options of commands whose work other machines can do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from histofast.cli import options

if TYPE_CHECKING:
    from histofast.jobs import Cluster as RayCluster

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
