"""A finished run in, an encoder file out, which `extract` runs."""

from __future__ import annotations

import json
import os
from typing import Any

from histofast import networks
from histofast.classify.runs import Run
from histofast.encoders import EncoderSpec, registry


def export(
    run: Run,
    out: str | os.PathLike[str],
    *,
    layer: str | None = None,
    head: bool = False,
    **options: Any,
) -> EncoderSpec:
    """Write the network of a run as an encoder file.

    Args:
        run: finished.
        out: of the .onnx file; its folder must exist.
        layer: the last stage, one of `networks.layers(run.architecture)`; None: the last of all.
        head: keep the head and give its logits, in the order of `run.classes`, instead of features.
        options: see `networks.export`. Patch size, resolution, origin and terms are those of the run
            where they are not told: 0.5 um/px where `run.mpp` is None.

    Raises:
        FileExistsError, FileNotFoundError, ValueError: as `networks.export`.
        ModelError: the run is not finished, or its weights were changed since; no such layer.
    """
    network = run.network(layer=layer, head=head)
    return networks.export(network, out, **(_origin(run) | _told(options)))


def export_cuts(
    run: Run,
    out: str | os.PathLike[str],
    *,
    layers: list[str] | None = None,
    **options: Any,
) -> tuple[EncoderSpec, ...]:
    """Write many cuts of the network of a run as one file, as `networks.export_cuts` does.

    Args:
        run: finished.
        out: of the .onnx file; its folder must exist.
        layers: of `networks.layers(run.architecture)`, in any order; None: all.
        options: as for `export`.

    Raises:
        FileExistsError, FileNotFoundError, ValueError: as `networks.export_cuts`.
        ModelError: the run is not finished, or its weights were changed since; no such layer.
    """
    network = run.network(head=False)
    return networks.export_cuts(network, out, layers=layers, **(_origin(run) | _told(options)))


def _told(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _origin(run: Run) -> dict[str, Any]:
    """Return what an encoder of a run is meant for and where its weights come from."""
    start = run.record.identity["start"]
    known = registry().weights_of(str(start.get("sha256")))
    began = json.dumps(start, sort_keys=True) if known is None else known.provenance
    return {
        "patch_px": run.px,
        "mpp": run.mpp,
        "provenance": f"run {run.record.sha256} of classify: {run.architecture}, {began}",
        "licence": None if known is None else known.licence,
    }
