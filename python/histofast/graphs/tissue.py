"""A foreign network that maps an image to classes becomes a network of tissue: pixels in, a mask out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from histofast._files import path_of
from histofast._numbers import real_number, whole_number
from histofast.encoders import (
    INPUT,
    NOT_STATED,
    TISSUE,
    TISSUE_FORMAT,
    TissueMetadata,
    TissueSpec,
    read_tissue_spec,
)
from histofast.errors import ModelError
from histofast.graphs.graph import Graph
from histofast.graphs.images import ImageInput, image_input
from histofast.graphs.names import TensorNames
from histofast.graphs.onnx_file import OnnxFile, read_onnx
from histofast.graphs.original import Original
from histofast.graphs.proof import checked_out
from histofast.graphs.stained import stained_noise
from histofast.graphs.standardising import Channels, Standardising
from histofast.graphs.wrapping import OLDEST_OPSET, exporter_of, following, from_pixels
from histofast.graphs.writing import replacing_encoder, write_model

_AS_THEY_ARE = Standardising(mean=(0, 0, 0), std=(1 / 255,) * 3)  # pixels of 0..255
_TRIED = (1, 2)  # tiles at a time
_MOST_OFF = 1e-3  # of the pixels of a mask: scores that are equal but for their last bits
_AXES_ARE_INPUTS = 13  # from that opset on
_FINEST_UM = 4.0  # of a pixel of the mask: a finer one would be as large as the slide
_STEP_PX = 32  # of most networks: margins of other sizes would show at the seams


@dataclass(frozen=True, kw_only=True, slots=True)
class _Map:
    """What a network gives of a tile: where its classes are, and how many tiles' pixels one stands for.

    `axis` is of the scores, None of labels; `classes` how many scores there are, 0 where they are labels.
    """

    axis: int | None
    classes: int
    cell_px: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Choice:
    """What of a map is tissue: some classes, or what is above a score."""

    classes: tuple[int, ...]
    above: float | None

    def __str__(self) -> str:
        if self.above is not None:
            return f"above {self.above:g}"
        return f"class{'es' * (len(self.classes) > 1)} {', '.join(map(str, self.classes))}"

    def check(self, found: _Map, *, where: str) -> None:
        """Refuse a choice that a map does not offer.

        Raises:
            ValueError: it does not.
        """
        if found.classes == 1 and self.above is None:
            raise ValueError(
                f"above must be given, {where} is one score: 0 of logits, 0.5 of probabilities"
            )
        if found.classes != 1 and self.above is not None:
            many = f"{found.classes} scores" if found.classes else "labels"
            raise ValueError(f"tissue must be given instead of above, {where} are {many}")
        if found.classes and self.classes and max(self.classes) >= found.classes:
            raise ValueError(
                f"tissue must be within 0..{found.classes - 1}, of which {where} has scores, got "
                f"{max(self.classes)}"
            )


def wrap_tissue(
    path: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    mpp: float,
    tissue: Sequence[int] = (),
    above: float | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    channels: Channels = "rgb",
    scale: float = 1.0,
    tile_px: int | None = None,
    margin_px: int | None = None,
    output: str | None = None,
    name: str | None = None,
    provenance: str | None = None,
    licence: str | None = None,
    overwrite: bool = False,
) -> TissueSpec:
    """Turn an ONNX file that maps images to classes into a network of tissue, for `extract(tissue=)`.

    Scaling and standardising go in front, the choice of classes behind; before the file takes its name its
    masks are held against the original's, of one tile and of two. A pixel of the mask is at most 4 um: where
    the map is finer, squares of it are taken together, and are tissue where half of their pixels are.

    Args:
        path: its one input a batch of float or uint8 images, (n, 3, h, w) or (n, h, w, 3). What it gives has
            the images' size or a whole fraction of it: scores of classes, (n, c, h, w) or (n, h, w, c),
            logits or not; labels, integers of (n, h, w) or (n, 1, h, w); or one score.
        out: path of the .onnx file to write.
        mpp: um per pixel that it was trained at.
        tissue: which of the classes are, counted from 0.
        above: of one score: what is tissue has more; 0 of logits, 0.5 of probabilities.
        mean, std, channels, scale: what it wants of pixels, see `Standardising`; of bytes no mean.
        tile_px: side of the squares that it is to see. None: the file's own.
        margin_px: of these, on every side, what is context only, multiples of the network's steps; None: an
            eighth of the tile.
        output: which tensor is the map; None: the only output.
        name: what it is called; None: the stem of `out`.
        provenance: where the weights come from; None: the name of the file.
        licence: the terms of the weights; None: not stated.
        overwrite: replace an existing file.

    Raises:
        FileExistsError: `out` exists and `overwrite` is False.
        FileNotFoundError: no such file, or no folder to write in.
        ModelError: no ONNX file, no image input, no map of classes, no such class, several outputs; or its
            masks differ.
        TypeError, ValueError: an argument of another type, out of range, or missing.

    Determinism: the same file and arguments give the same bytes.
    """
    path, out = path_of("path", path), checked_out(out)
    chosen = tuple(whole_number("tissue", each, at_least=0) for each in tissue)
    above = real_number("above", above)
    if (above is None) == (not chosen):
        raise ValueError("tissue or above must say what is, and not both")
    file = _read(path)
    image = image_input(file.graph, bytes_too=True)
    wants = _wants(path, image, mean=mean, std=std, channels=channels, scale=scale)
    size_px, tile_px = _tile(path, image, whole_number("tile_px", tile_px, at_least=1))
    tensor = _tensor(file.graph, image, output)
    original = Original(file.graph, image, tensor, wants=wants)
    tiles = stained_noise(max(_TRIED), tile_px)
    values = original.run(tiles)
    found = _map_of(values, tile_px, image, where=f"{path}: {tensor!r}")
    choice = _Choice(classes=chosen, above=above)
    choice.check(found, where=f"{path}: {tensor!r}")
    if margin_px is None:
        margin_px = _margin(tile_px, found.cell_px)
    together = _together(found.cell_px, (tile_px, margin_px), mpp=mpp)
    metadata = TissueMetadata(
        name=out.stem if name is None else name,
        network="-".join(path.stem.split()),
        tissue=str(choice),
        mpp=mpp,
        tile_px=tile_px,
        margin_px=margin_px,
        cell_px=found.cell_px * together,
        weights_sha256=file.sha256,
        provenance=provenance or path.name,
        licence=licence or NOT_STATED,
        exporter=exporter_of(file.graph),
    )
    with replacing_encoder(out, overwrite=overwrite) as pending:
        graph, inner = from_pixels(file.graph, image, [tensor], size_px=size_px, wants=wants)
        _give_mask(graph, inner[tensor], found, choice, together)
        wanted = _mask_of(values, found, choice, together)
        _verify(graph, tiles, wanted, shown=out, of=path.name)
        graph.name, graph.props = metadata.name, metadata.to_props()
        write_model(graph.to_model(), pending)
        read_tissue_spec(pending)
    return read_tissue_spec(out)


def _read(path: Path) -> OnnxFile:
    file = read_onnx(path)
    if TISSUE_FORMAT in file.graph.props:
        raise ModelError(f"{path} is a network of tissue already: use it as it is")
    if file.is_encoder:
        raise ModelError(f"{path} is an encoder: wanted a network that maps pixels to classes")
    if file.graph.opset < OLDEST_OPSET:
        raise ModelError(
            f"{path} is of opset {file.graph.opset}, wanted {OLDEST_OPSET} or newer: convert it "
            "with onnx.version_converter, or export it again"
        )
    return file


def _wants(
    path: Path,
    image: ImageInput,
    *,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    channels: Channels,
    scale: float,
) -> Standardising:
    is_bytes = image.elem_type == onnx.TensorProto.UINT8
    if is_bytes and (mean is not None or std is not None):
        raise ValueError(f"mean must not be given, {path} takes bytes: leave out mean and std")
    if is_bytes:
        return Standardising(mean=_AS_THEY_ARE.mean, std=_AS_THEY_ARE.std, channels=channels)
    if mean is None or std is None:
        raise ValueError(f"mean and std must be given, {path} takes {image.dtype} images")
    return Standardising(mean=mean, std=std, channels=channels, scale=scale)


def _tile(path: Path, image: ImageInput, tile_px: int | None) -> tuple[int | None, int]:
    """Return the side that the file is fixed to, or None, and that of the tiles."""
    own = {px for px in (image.height_px, image.width_px) if px is not None}
    if len(own) == 2:
        raise ModelError(
            f"{path} takes {image.height_px} x {image.width_px} px, wanted squares: export it again"
        )
    own_px = next(iter(own), None)
    if own_px is not None and tile_px not in (None, own_px):
        raise ModelError(f"{path} takes {own_px} px only, tile_px is {tile_px}: leave it out")
    side_px = own_px or tile_px
    if side_px is None:
        raise ValueError(f"tile_px must be given, {path} takes images of any size")
    return own_px, side_px


def _tensor(graph: Graph, image: ImageInput, output: str | None) -> str:
    names = TensorNames(graph, image)
    if output is not None:
        return names.find(output)
    if len(graph.output_names) != 1:
        shown = ", ".join(map(repr, graph.output_names)) or "none"
        raise ModelError(
            f"{graph.where} has {len(graph.output_names)} outputs, {shown}: choose one with output"
        )
    return following(names, graph.output_names[0])


def _map_of(values: NDArray[Any], tile_px: int, image: ImageInput, *, where: str) -> _Map:
    """Return what kind of map a network gave of square tiles.

    Raises:
        ModelError: none.
    """
    kind, shape = values.dtype.kind, values.shape
    likeliest = (1, 3) if image.layout == "NCHW" else (3, 1)
    axes = {4: likeliest, 3: (None,)}.get(len(shape), ())
    for axis in axes:
        sides = [side for i, side in enumerate(shape) if i not in (0, axis)]
        classes = 1 if axis is None else shape[axis]
        if kind in "iub" and classes != 1:
            continue
        is_map = sides[0] == sides[1] > 1 and tile_px % sides[0] == 0
        if is_map and classes > 0:
            count = 0 if kind in "iub" else classes
            return _Map(axis=axis, classes=count, cell_px=tile_px // sides[0])
    told = f"{values.dtype} {shape} of {len(values)} tiles of {tile_px} px"
    is_one = len(shape) == 2 or shape[2:] == (1, 1)
    hint = (
        ", one answer for all of it: it is a classifier, take one that segments" if is_one else ""
    )
    raise ModelError(
        f"{where} must be a map of classes, (n, c, h, w) or (n, h, w), of the tile's size or a whole "
        f"fraction of it, got {told}{hint}"
    )


def _margin(tile_px: int, cell_px: int) -> int:
    """An eighth of a tile, in steps of most networks where there is room for one."""
    step_px = _STEP_PX if _STEP_PX % cell_px == 0 and tile_px >= 4 * _STEP_PX else cell_px
    return round(tile_px / 8 / step_px) * step_px


def _together(cell_px: int, sides_px: Sequence[int], *, mpp: float) -> int:
    """Return how many pixels of a map, across and down, become one of the mask: a power of two."""
    n = 1
    while 2 * n * cell_px * mpp <= _FINEST_UM and not any(
        side % (2 * n * cell_px) for side in sides_px
    ):
        n *= 2
    return n


def _mask_of(
    values: NDArray[Any], found: _Map, choice: _Choice, together: int
) -> NDArray[np.uint8]:
    """Return the mask that a map means: the definition of what is put behind the graph."""
    if found.classes > 1:
        values = np.argmax(values, axis=found.axis, keepdims=True).squeeze(found.axis)
    elif found.axis is not None:
        values = values.squeeze(found.axis)
    above = choice.above
    is_tissue = values > above if above is not None else np.isin(values, choice.classes)
    n, h, w = is_tissue.shape
    squares = is_tissue.reshape(n, h // together, together, w // together, together)
    mask: NDArray[np.uint8] = (squares.mean(axis=(2, 4)) >= 0.5).astype(np.uint8)
    return mask


def _give_mask(graph: Graph, x: str, found: _Map, choice: _Choice, together: int) -> None:
    """Put the choice of classes behind a map; the graph's one output is the mask then."""
    first = graph.constant(np.array(0, np.int64), name="tissue.first")
    if found.classes > 1:
        x = graph.add("ArgMax", [x], name="tissue.label", axis=found.axis, keepdims=0)
    elif found.axis is not None:
        x = graph.add("Gather", [x, first], name="tissue.one", axis=found.axis)
    x = _chosen(graph, x, choice)
    if together > 1:
        x = graph.add("Cast", [x], name="tissue.share", to=onnx.TensorProto.FLOAT)
        x = _with_channel(graph, x)
        sides = [together, together]
        x = graph.add("AveragePool", [x], name="tissue.squares", kernel_shape=sides, strides=sides)
        x = graph.add("Gather", [x, first], name="tissue.mean", axis=1)
        half = graph.constant(np.array(0.5, np.float32), name="tissue.half")
        x = graph.add("Not", [graph.add("Less", [x, half], name="tissue.less")], name="tissue.most")
    graph.nodes.append(
        helper.make_node("Cast", [x], [TISSUE], name=TISSUE, to=onnx.TensorProto.UINT8)
    )
    names = ["n", "mask_h", "mask_w"]
    graph.outputs = [helper.make_tensor_value_info(TISSUE, onnx.TensorProto.UINT8, names)]


def _chosen(graph: Graph, x: str, choice: _Choice) -> str:
    """Return what of labels, or of one score, is tissue."""
    if choice.above is not None:
        x = graph.add("Cast", [x], name="tissue.score", to=onnx.TensorProto.FLOAT)
        limit = graph.constant(np.array(choice.above, np.float32), name="tissue.limit")
        return graph.add("Greater", [x, limit], name="tissue.above")
    x = graph.add("Cast", [x], name="tissue.whole", to=onnx.TensorProto.INT64)
    matches = [
        graph.add(
            "Equal",
            [x, graph.constant(np.array(each, np.int64), name=f"tissue.class{each}")],
            name=f"tissue.is{each}",
        )
        for each in choice.classes
    ]
    found = matches[0]
    for each, other in zip(choice.classes[1:], matches[1:], strict=True):
        found = graph.add("Or", [found, other], name=f"tissue.or{each}")
    return found


def _with_channel(graph: Graph, x: str) -> str:
    """Return (n, 1, h, w) of (n, h, w)."""
    if graph.opset < _AXES_ARE_INPUTS:
        return graph.add("Unsqueeze", [x], name="tissue.plane", axes=[1])
    axes = graph.constant(np.array([1], np.int64), name="tissue.axes")
    return graph.add("Unsqueeze", [x, axes], name="tissue.plane")


def _verify(
    graph: Graph, tiles: NDArray[np.uint8], wanted: NDArray[np.uint8], *, shown: Path, of: str
) -> None:
    """Refuse a file whose masks are not those of the original."""
    part = graph.sibling()
    part.where = str(shown)
    opened = part.opened()
    for n in _TRIED:
        (got,) = opened.run({INPUT: tiles[:n]}, [TISSUE])
        if got.shape != wanted[:n].shape or (got != wanted[:n]).mean() > _MOST_OFF:
            raise ModelError(
                f"{shown} is not written: its masks differ from those of {of} in a batch of {n}: export "
                f"{of} with a free batch axis"
            )
