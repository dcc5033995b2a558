"""Which sizes of patches a graph can be run on: found by running it."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np

from histofast.encoders import (
    EncoderSpec,
    PatchSizes,
    find,
    read_specs,
    sizes_around,
    sizes_near,
)
from histofast.errors import ModelError
from histofast.graphs.graph import Graph
from histofast.graphs.images import ImageInput, image_input
from histofast.graphs.onnx_file import read_onnx

_USUAL_PX = 224


def patch_sizes(path: str | os.PathLike[str], *, patch_px: int | None = None) -> PatchSizes:
    """Return which sizes of patches an ONNX file takes.

    Args:
        path: any ONNX file of one image input, or the name of a registered encoder.
        patch_px: a size that it may take; None: 224. An encoder says itself.

    Raises:
        FileNotFoundError: no such file.
        ModelError: no ONNX file of one image input, or none of the sizes near `patch_px` is taken.
    """
    file = read_onnx(find(path))
    if file.is_encoder:
        return read_specs(file.path)[0].sizes
    image = image_input(file.graph)
    if image.height_px is not None:
        return PatchSizes(px=image.height_px, step_px=0)
    takes = runs_on(file.graph, image)
    meant_px = patch_px or _USUAL_PX
    sizes = sizes_around(takes, meant_px) if takes(meant_px) else sizes_near(takes, meant_px)
    if sizes is None:
        raise ModelError(f"{file.path} takes no patches of about {meant_px} px: choose others")
    return sizes


def runs_on(graph: Graph, image: ImageInput) -> Callable[[int], bool]:
    """Return what tells whether a graph can be run on patches of a size.

    Raises:
        ModelError: ONNX Runtime refuses the graph.
    """
    opened = graph.opened()

    def takes(patch_px: int) -> bool:
        patches = np.zeros(image.shape(batch=image.batch or 1, patch_px=patch_px), image.dtype)
        try:
            opened.run({image.name: patches}, graph.output_names)
        except ModelError:
            return False
        return True

    return takes


def refuse_size(where: str, takes: Callable[[int], bool], patch_px: int) -> None:
    """Refuse patches of a size that a graph cannot be run on, where it can on others.

    Raises:
        ModelError: with the nearest sizes.
    """
    if takes(patch_px):
        return
    sizes = sizes_near(takes, patch_px)
    if sizes is not None:
        raise ModelError(f"{where} {sizes.refusal(patch_px)}")


def step_of(part: Graph, whole: EncoderSpec) -> int | None:
    """Return the step of the sizes that a part of an encoder takes; None: it needs none."""
    if whole.step_px is None:
        return None
    step_px = sizes_around(runs_on(part, image_input(part)), whole.patch_px).step_px
    return step_px if step_px > 1 else None
