"""Weights files and runs of one network in, one merged weights file out."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from histofast._files import path_of, paths_of, replacing
from histofast._notes import noted
from histofast._words import counted
from histofast.classify.loop import standardised
from histofast.datasets import Decoded, Images, decode, evenly, open_images, split
from histofast.errors import ModelError
from histofast.learning import RUN, metrics, read_record
from histofast.networks import Network, create, fitting, read_weights, starts

_BATCH = 128  # images at a time, without a graph
_MEASURED = 2048  # images that statistics of BatchNorms are taken from
_RIDGE = 0.1  # of the number of training images

Paths = Sequence[str | os.PathLike[str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Merged:
    """A merged weights file.

    Attributes:
        path: of the file.
        network: name of the architecture.
        notes: what is to be known of it, a line each.
    """

    path: Path
    network: str
    notes: tuple[str, ...]


@noted
def merge(
    parts: Paths,
    *,
    out: str | os.PathLike[str],
    method: str,
    network: str | None = None,
    base: str | os.PathLike[str] | None = None,
    rank: starts.Rank | None = None,
    scale: float = 1.0,
    images: Images | str | Path | None = None,
    data: Images | str | Path | None = None,
    px: int | None = None,
    overwrite: bool = False,
) -> Merged:
    """Merge checkpoints of one network into a safetensors file, without their heads.

    Args:
        parts: weights files, or folders of finished runs of classify; two or more.
        out: of the file.
        method, rank, scale: see `networks.starts.merge_states`.
        network: its name; None: of the run, or the one that the first file fits.
        base: what all parts began with, a file or a run; for task, ties, stock and iso.
        images: pictures of the target, from which the statistics of BatchNorms are measured anew.
        data: labelled images for greedy. Our reading of its score: the AUROC of validation images under a
            ridge regression on the features of training images, for heads of different tasks cannot be
            compared.
        px: side that pictures are resampled to; None: as they are.
        overwrite: replace a file that exists.

    Returns:
        The file and what is to be known of it.

    Raises:
        FileExistsError: `out` is there and `overwrite` is False.
        FileNotFoundError: a part that is not there.
        ModelError: parts of different networks, or broken ones.
        ValueError: options that do not fit, as `merge_states`.
    """
    out = path_of("out", out)
    given = [_start_of(path) for path in paths_of("parts", parts)]
    begun = None if base is None else _start_of(path_of("base", base))
    name = network or _network_of(given[0])
    loaded = [starts.begin(name, start) for start in given]
    first = loaded[0]
    based = None if begun is None else starts.begin(name, begun)
    starts.refuse_unlike(
        loaded if based is None else [based, *loaded], given if begun is None else [begun, *given]
    )
    state = starts.merge_states(
        [part.state_dict() for part in loaded],
        method,
        base=None if based is None else based.state_dict(),
        rank=rank,
        scale=scale,
        score=None if data is None else _scorer(first, data, px),
    )
    merged = create(name, bn_eps=starts.eps_of(first))
    assert isinstance(merged, Network)
    merged.load_state_dict(state)
    merged.mean, merged.std = first.mean, first.std
    notes = _equal_parts(loaded, given)
    if images is not None:
        notes.append(_measured(merged, images, px))
    elif starts.eps_of(merged) is not None:
        notes.append(
            "statistics of BatchNorms are the means of the parts': measure them anew with images of the "
            "target, or the network may look useless"
        )
    told = {
        "method": method,
        "rank": rank,
        "scale": scale,
        "parts": [starts.identity(start) for start in given],
        "base": None if begun is None else starts.identity(begun),
    }
    content = save(
        {k: v.detach().contiguous() for k, v in merged.state_dict().items()},
        metadata={"histofast.merge": json.dumps(told)},
    )
    with replacing(out, overwrite=overwrite) as pending:
        pending.write_bytes(content)
    return Merged(path=out, network=name, notes=tuple(notes))


def _start_of(path: Path) -> starts.Start:
    if path.is_dir():
        return starts.Run(str(path))
    if not path.exists():
        raise FileNotFoundError(f"no such weights file: {path}")
    return starts.File(str(path))


def _network_of(start: starts.Start) -> str:
    if isinstance(start, starts.Run):
        record = read_record(Path(start.folder))
        if record is None:
            raise FileNotFoundError(f"no {RUN}, as classify writes it, in {start.folder}")
        return str(record.identity["network"]["name"])
    found = fitting(read_weights(Path(str(start))))
    if found is None:
        raise ModelError(
            f"{start} must be of a network of histofast's, and fits none as published: tell "
            "network=..., one from a slim start by its name, such as resnet18-slim-layer2-2"
        )
    return found


def _equal_parts(parts: Sequence[Network], given: Sequence[starts.Start]) -> list[str]:
    first = parts[0].state_dict()
    equal = [
        str(start)
        for part, start in zip(parts[1:], given[1:], strict=True)
        if all(torch.equal(value, first[key]) for key, value in part.state_dict().items())
    ]
    return [f"parts that are equal to {given[0]}: {counted(equal)}"] if equal else []


# --- Images ------------------------------------------------------------------------------------


def _measured(network: Network, images: Images | str | Path, px: int | None) -> str:
    shown = images if isinstance(images, Images) else open_images(images, labelled=False)
    with tempfile.TemporaryDirectory(prefix="histofast-") as cache:
        found = decode(shown, cache=cache, px=px)
        chosen = evenly(np.arange(len(found.rows)), _MEASURED)
        n = starts.estimate_batchnorm(network, _batches(network, found, chosen))
        del found
    return f"statistics of BatchNorms are of {n} pictures of {shown.path}"


def _batches(network: Network, found: Decoded, chosen: NDArray[np.int64]) -> Iterator[Tensor]:
    for first in range(0, len(chosen), _BATCH):
        pixels = found.pixels[chosen[first : first + _BATCH]]
        yield standardised(pixels, network, torch.device("cpu"))


def _scorer(
    like: Network, data: Images | str | Path, px: int | None
) -> Callable[[starts.State], float]:
    """Return what says how good a candidate's features are."""
    images = data if isinstance(data, Images) else open_images(data)
    if images.task != "classification":
        raise ValueError("data must be of classes for greedy, got several labels a picture")
    with tempfile.TemporaryDirectory(prefix="histofast-") as cache:
        found = decode(images, cache=cache, px=px)
        found = replace(found, pixels=np.array(found.pixels))  # its file goes
    part = split(images)
    network = create(like.architecture, bn_eps=starts.eps_of(like))
    assert isinstance(network, Network)
    network.mean, network.std = like.mean, like.std

    def features(numbers: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        at = found.places_of(numbers)
        with torch.inference_mode():
            values = [
                network(
                    standardised(found.pixels[at[i : i + _BATCH]], network, torch.device("cpu"))
                )
                for i in range(0, len(at), _BATCH)
            ]
        return torch.cat(values).double().numpy(), found.rows[at]

    def score(state: starts.State) -> float:
        network.load_state_dict(dict(state))
        network.eval()
        (x, train), (y, validation) = features(part.train), features(part.validation)
        outputs = _ridge(x, images.targets[train], y, classes=len(images.classes))
        told = metrics(
            "classification",
            images.targets[validation],
            outputs,
            groups=[images.groups[i] for i in validation],
            resamples=0,
        )
        return told["auroc"].value

    return score


def _ridge(
    x: NDArray[np.float64], targets: NDArray[np.int64], y: NDArray[np.float64], *, classes: int
) -> NDArray[np.float64]:
    """Return (b, c) softmax of the scores that a ridge regression on x gives y."""
    mean, deviation = x.mean(0), x.std(0)
    deviation = np.where(deviation > 0, deviation, 1)
    x, y = (x - mean) / deviation, (y - mean) / deviation
    wanted = np.eye(classes)[targets]
    gram = x.T @ x + _RIDGE * len(x) * np.eye(x.shape[1])
    scores = y @ np.linalg.solve(gram, x.T @ (wanted - wanted.mean(0))) + wanted.mean(0)
    grown = np.exp(scores - scores.max(1, keepdims=True))
    found: NDArray[np.float64] = grown / grown.sum(1, keepdims=True)
    return found
