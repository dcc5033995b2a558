"""Keras weights files in, state dicts out: layers by name, kernels as torch has them.

Read are `.h5` of weights or of a whole model, `.weights.h5` and `.keras` of Keras 3. Nothing in a file is
executed: of a model's config only names and classes of layers are read, and only where the weights
have no names. Optimizers are left out.

Keys are `<layer>.weight` and so on, names of enclosing models before them. Layers that Keras named by
counting (`conv2d_7`) are counted from 1, for where it began depends on what was built before.
"""

from __future__ import annotations

import json
import re
import tempfile
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from histofast._words import clipped, listed, one_line
from histofast.errors import FeatureError, ModelError
from histofast.features import ForeignArrays, read_arrays

WEIGHTS, _CONFIG = "model.weights.h5", "config.json"
_MOST_CONFIG_BYTES = 16 << 20
_DEEPEST = 16  # models within models
_BLOCK_BYTES = 1 << 20
_SHOWN = 200  # characters of what a library says
_OPTIMIZERS = ("optimizer", "optimizer_weights")
_PARAMETERS = {
    "kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_BATCH_NORM = ("gamma", "beta", "moving_mean", "moving_variance")
_COUNTED = re.compile(r"(?P<kind>conv2d|batch_normalization|dense)(?:_(?P<number>\d{1,6}))?")

Arrays = dict[str, NDArray[Any]]


def is_keras_archive(path: Path) -> bool:
    """Tell a `.keras` file from other zip archives."""
    try:
        with zipfile.ZipFile(path) as archive:
            return WEIGHTS in archive.namelist()
    except Exception:  # noqa: BLE001  # zipfile raises whatever a number in the directory leads to
        return False  # what is wrong with it is said by who reads it as a torch file


def read_keras(path: Path) -> dict[str, torch.Tensor]:
    """Read all weights of an HDF5 or `.keras` file.

    Raises:
        ModelError: damaged, claiming more than it has, or weights without names.
    """
    if not zipfile.is_zipfile(path):
        return _state(_arrays(path, shown=str(path)), {}, shown=str(path))
    with tempfile.TemporaryDirectory(prefix="histofast-") as folder:
        inner = Path(folder) / WEIGHTS
        config = _unpack(path, inner)
        shown = f"{path}: {WEIGHTS}"
        return _state(_arrays(inner, shown=shown), _names_in(config, path), shown=shown)


def _arrays(path: Path, *, shown: str) -> ForeignArrays:
    try:
        return read_arrays(path, kind="weights file", left=_OPTIMIZERS)
    except FeatureError as error:
        told = str(error).replace(str(path), shown)
        raise ModelError(f"{told}: copy or download it again") from None


def _unpack(path: Path, inner: Path) -> bytes:
    """Write the weights of a `.keras` file to `inner`; return its config."""
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            config = b""
            if _CONFIG in archive.namelist():
                config = _part(archive, _CONFIG, min(size, _MOST_CONFIG_BYTES)).read()
            stream = _part(archive, WEIGHTS, size)
            with inner.open("wb") as file:
                while block := stream.read(_BLOCK_BYTES):
                    file.write(block)
            return config
    except (ModelError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001  # zipfile raises whatever damaged bytes lead to
        why = clipped(one_line(error) or type(error).__name__, _SHOWN)
        raise ModelError(
            f"{path} is not a whole .keras file ({why}): copy or download it again"
        ) from None


def _part(archive: zipfile.ZipFile, name: str, most: int) -> Any:
    entry = archive.getinfo(name)
    if entry.compress_type != zipfile.ZIP_STORED:
        raise ModelError(
            f"{archive.filename}: {name} is compressed, which Keras does not write: save it again"
        )
    if entry.file_size > most:
        raise ModelError(
            f"{archive.filename}: {name} must have at most {most} bytes, got {entry.file_size}"
        )
    return archive.open(entry)


# --- Names of layers -------------------------------------------------------------------------


def _names_in(config: bytes, path: Path) -> dict[str, str]:
    """Return the names of layers by the path of their group, as the config of a model has them.

    Keras writes the n-th layer of a class under the name of the class and n.
    """
    try:
        read = json.loads(config or b"{}")
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"{path}: {_CONFIG} is not JSON ({clipped(one_line(error), _SHOWN)}): save it again"
        ) from None
    names: dict[str, str] = {}
    _name_layers(read, "layers", names, _DEEPEST)
    return names


def _name_layers(model: Any, place: str, names: dict[str, str], depth: int) -> None:
    config = model.get("config") if isinstance(model, dict) else None
    layers = config.get("layers") if isinstance(config, dict) else None
    if not isinstance(layers, list) or depth == 0:
        return
    seen: Counter[str] = Counter()
    for layer in layers:
        kind = layer.get("class_name") if isinstance(layer, dict) else None
        inner = layer.get("config") if isinstance(layer, dict) else None
        name = inner.get("name") if isinstance(inner, dict) else None
        if not isinstance(kind, str) or not isinstance(name, str):
            continue
        group = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", kind)
        group = re.sub(r"([a-z])([A-Z])", r"\1_\2", group).lower()
        number, seen[group] = seen[group], seen[group] + 1
        here = f"{place}/{group}_{number}" if number else f"{place}/{group}"
        names[f"{here}/vars"] = name
        _name_layers(layer, f"{here}/layers", names, depth - 1)


def _state(
    found: ForeignArrays, names: Mapping[str, str], *, shown: str
) -> dict[str, torch.Tensor]:
    layers: defaultdict[tuple[str, ...], Arrays] = defaultdict(dict)
    nameless: dict[str, None] = {}
    for path in list(found.arrays):
        group, _, variable = path.rpartition("/")
        if group.endswith("/vars"):
            name = found.names.get(group) or names.get(group)
            if name is None:
                nameless[group] = None
                continue
            above = [part for part in group.split("/")[:-2] if part != "layers"]
            layer = (*above, name)
        else:
            layer = _layer_of(group.split("/"))
        layers[layer][variable.removesuffix(":0")] = found.arrays.pop(path)
    if nameless:
        raise ModelError(
            f"{shown} has {len(nameless)} layers without names ({listed(list(nameless))}): save the whole "
            "model as .keras"
        )
    counted = _recounted(layers)
    return {
        ".".join((*counted[layer], key)): value
        for layer, arrays in layers.items()
        for key, value in _tensors(arrays)
    }


def _layer_of(parts: list[str]) -> tuple[str, ...]:
    """Return a layer's name, and those of the models around it, from where its weights lie.

    A weight `a/kernel` of a layer `a` lies under `a/a/kernel`; a slash may belong to the name.
    """
    if parts[0] == "model_weights" and len(parts) > 1:
        parts = parts[1:]
    half = len(parts) // 2
    return tuple(part for part in (parts[half:] if parts[:half] == parts[half:] else parts) if part)


def _recounted(layers: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], tuple[str, ...]]:
    """Return the layers with those that were named by counting counted from 1, kind by kind."""
    counted: defaultdict[tuple[tuple[str, ...], str], list[tuple[int, tuple[str, ...]]]]
    counted = defaultdict(list)
    given = {}
    for layer in layers:
        given[layer] = layer
        match = _COUNTED.fullmatch(layer[-1]) if layer else None
        if match is not None:
            counted[layer[:-1], match["kind"]].append((int(match["number"] or 0), layer))
    for (above, kind), found in counted.items():
        for number, (_, layer) in enumerate(sorted(found), start=1):
            given[layer] = (*above, f"{kind}_{number}")
    return given


# --- Weights of a layer ----------------------------------------------------------------------


def _tensors(arrays: Arrays) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors of a layer by torch's names; a BatchNorm without scale has one of ones."""
    arrays = _named(arrays)
    if "moving_variance" in arrays:
        ones = np.ones_like(arrays["moving_variance"], dtype=np.float32)
        arrays = {"gamma": ones, "beta": 0 * ones} | arrays
    for name, value in arrays.items():
        if name == "kernel" and value.ndim == 4:  # (h, w, in, out)
            value = value.transpose(3, 2, 0, 1)
        elif name == "kernel" and value.ndim == 2:  # (in, out)
            value = value.T
        native = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("="))
        yield _PARAMETERS.get(name, name), torch.from_numpy(native)


def _named(arrays: Arrays) -> Arrays:
    """Return weights that have numbers only, as Keras 3 writes them, by the names of their places."""
    if not all(name.isdigit() and len(name) < 7 for name in arrays):
        return arrays
    values = [arrays[name] for name in sorted(arrays, key=int)]
    if values[0].ndim > 1:
        names: tuple[str, ...] = ("kernel", "bias")
    elif len(values) == len(_BATCH_NORM):
        names = _BATCH_NORM
    elif len(values) == len(_BATCH_NORM) - 1:
        names = _BATCH_NORM[1:]
    else:
        return arrays
    return dict(zip(names, values, strict=False)) if len(values) <= len(names) else arrays
