"""A network and a start in, the network with these weights and a new head out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from histofast._words import did_you_mean, joined, text_of
from histofast.encoders import registry, sha256_of
from histofast.errors import ModelError
from histofast.learning import METRICS, read_json, read_record, unchanged
from histofast.networks.creation import create, resolved
from histofast.networks.known import architecture_of, names, no_such, whole
from histofast.networks.network import Network
from histofast.networks.slim import slim
from histofast.networks.starts.gabor import gabor_filters
from histofast.networks.starts.grammar import (
    AnyStart,
    File,
    Gabor,
    MeanVar,
    Merge,
    Random,
    Run,
    Slim,
    Start,
    Transfuse,
    parse,
)
from histofast.networks.starts.merging import ON_A_BASE, merge_states
from histofast.networks.timm_names import PREFIX as TIMM

WEIGHTS = "weights.safetensors"  # of a run of classify
_ANEW = "remove the run and run classify again with its arguments"
_MEAN_VAR = 7  # stream of random numbers


def begin(network: str, start: AnyStart, *, classes: int = 0, seed: int = 0) -> Network:
    """Build a network that begins so, in evaluation mode.

    Args:
        network: one of `networks.names()`, or one of these made slim, see `networks.create`.
        start: see the module; where it is slim or of slim ones, the network is of another name.
        classes: of a new linear head; 0: none.
        seed: of all that is random.

    Raises:
        FileNotFoundError: no such file or run.
        ModelError: as `network_of`; weights or a run of another network; a run that is not finished,
            or whose weights were changed since.
        ValueError: a start that is none.

    Determinism: by the seed and the content of the files.
    """
    network_of(network, start)
    begun = _begun(network, parse(start), seed)
    if not classes:
        return begun
    headed = _created(begun.architecture, classes=classes, bn_eps=eps_of(begun), seed=seed)
    headed.load_state_dict(headed.state_dict() | begun.state_dict())
    headed.mean, headed.std = begun.mean, begun.std
    return headed


def network_of(network: str, start: AnyStart) -> str:
    """Return the name of what a start makes of a network; no file is read.

    Raises:
        ModelError: no such network of histofast's own, or layer; a factor that cannot be; parts of a
            merge that are of several networks.
        ValueError: a start that is none.
    """
    match parse(start):
        case MeanVar(of):
            return network_of(network, of)
        case Transfuse(of, layer, _):
            inner = network_of(network, of)
            cuts = whole(inner).stage_names
            if layer not in cuts:
                raise ModelError(no_such("layer", layer, cuts, of=f" of {inner}"))
            return inner
        case Slim(of, layer, factor):
            return slim(architecture_of(network_of(network, of)), layer, factor).name
        case Merge(_, parts, _):
            made = list(dict.fromkeys(network_of(network, part) for part in parts))
            if len(made) > 1:
                raise ModelError(f"parts of a merge must be of one network, got {joined(made)}")
            return made[0]
    return _own(network)


def _own(network: str) -> str:
    network = text_of("network", network)
    if network.startswith(TIMM):
        near = did_you_mean(network.removeprefix(TIMM).partition(".")[0], names())
        raise ModelError(
            f"network must be one of histofast's own to be trained, {', '.join(names())}, got "
            f"{network!r}{near}"
        )
    return resolved(network)[0].name


def identity(
    start: AnyStart, *, planned: Mapping[str, str] = MappingProxyType({})
) -> dict[str, Any]:
    """Return what a start is, by the content of its files, as JSON holds it.

    Args:
        start: see the module.
        planned: what the weights of runs that are yet to be made will follow from, by folder.

    Raises:
        FileNotFoundError: no such file or run.
        ModelError: a run that is not finished, or whose weights were changed since.
        ValueError: a start that is none.
    """
    match parse(start):
        case Random(None):
            return {"kind": "random"}
        case Random(own_seed):
            return {"kind": "random", "seed": own_seed}
        case File(path):
            return {"kind": "file", "sha256": sha256_of(_file(path))}
        case Run(folder) if folder in planned:
            return {"kind": "run", "key": planned[folder]}
        case Run(folder):
            return {"kind": "file", "sha256": _finished(Path(folder)).sha256}
        case MeanVar(of):
            return {"kind": "mean-var", "of": identity(of, planned=planned)}
        case Transfuse(of, layer, mean_var):
            told = identity(of, planned=planned)
            return {"kind": "transfuse", "of": told, "layer": layer, "mean_var": mean_var}
        case Slim(of, layer, factor):
            told = identity(of, planned=planned)
            return {"kind": "slim", "of": told, "layer": layer, "factor": factor}
        case Gabor(seed):
            return {"kind": "gabor", "seed": seed}
        case Merge(method, parts, rank):
            parts_told = [identity(part, planned=planned) for part in parts]
            return {"kind": "merge", "method": method, "rank": rank, "parts": parts_told}


def runs_of(start: AnyStart) -> tuple[str, ...]:
    """Return the folders of the runs that a start needs."""
    match parse(start):
        case Run(folder):
            return (folder,)
        case MeanVar(of) | Transfuse(of, _, _) | Slim(of, _, _):
            return runs_of(of)
        case Merge(_, parts, _):
            return tuple(dict.fromkeys(f for part in parts for f in runs_of(part)))
    return ()


def is_merged(told: Mapping[str, Any]) -> bool:
    """Whether what `identity` told is of several networks: their BatchNorms are to be measured anew."""
    if told["kind"] in ("transfuse", "slim"):
        return is_merged(told["of"])
    return bool(told["kind"] == "merge")


def _begun(name: str, start: Start, seed: int) -> Network:
    match start:
        case Random(own_seed):
            return _created(name, seed=seed if own_seed is None else own_seed)
        case File(path):
            return _created(name, seed=seed, weights=_file(path))
        case Run(folder):
            return _of_run(name, folder, seed)
        case MeanVar(of):
            return _mean_var(_begun(name, of, seed), seed)
        case Transfuse(of, layer, mean_var):
            return _transfused(_begun(name, of, seed), layer, seed, mean_var=mean_var)
        case Slim(of, layer, _):
            return _slimmed(_begun(name, of, seed), layer, seed, name=network_of(name, start))
        case Gabor(bank_seed):
            return _gabor(_created(name, seed=seed), bank_seed)
        case Merge():
            return _merged(name, start, seed)


def _merged(name: str, start: Merge, seed: int) -> Network:
    parts = [_begun(name, part, seed) for part in start.parts]
    first = parts[0]
    refuse_unlike(parts, start.parts)
    states = [part.state_dict() for part in parts]
    base = states.pop(0) if start.method in ON_A_BASE else None
    first.load_state_dict(merge_states(states, start.method, base=base, rank=start.rank))
    return first


def refuse_unlike(parts: Sequence[Network], told: Sequence[Start]) -> None:
    """Refuse parts of a merge that see pixels or statistics of another scale than the first.

    Raises:
        ModelError: one of them standardises pixels otherwise, or has another eps of BatchNorms.
    """
    first = parts[0]
    for part, start in zip(parts, told, strict=True):
        if (part.mean, part.std) != (first.mean, first.std) or eps_of(part) != eps_of(first):
            raise ModelError(
                f"parts of a merge must standardise alike, {start} does not as {told[0]} does"
            )


def _created(name: str, **options: Any) -> Network:
    last = whole(resolved(name)[0].name).stage_names[-1]  # sources may take features before it
    network = create(name, layer=last, **options)
    assert isinstance(network, Network)
    return network


def _file(path: str) -> Path:
    file = Path(path)
    if file.is_dir():
        raise ModelError(f"start {path} must be a file, got a folder: a run is told as run:{path}")
    if not file.exists() and path in {*registry().sources, "imagenet"}:
        raise FileNotFoundError(
            f"start {path} must be given by its file: histofast brings no weights of whole networks; "
            "`histofast models list` says where to get them"
        )
    return file


@dataclass(frozen=True, kw_only=True, slots=True)
class _Finished:
    """A finished run: what its network is, and its weights as they were written."""

    network: dict[str, Any]
    weights: Path
    sha256: str


def _finished(folder: Path) -> _Finished:
    record = read_record(folder)
    if record is None:
        raise FileNotFoundError(f"no run of classify in {folder}: a start run: names its folder")
    if record.kind != "classify":
        raise ModelError(f"{folder} must be a run of classify, got one of {record.kind}")
    if not (folder / METRICS).is_file():
        raise ModelError(
            f"{folder} must be a finished run, got no {METRICS}: run classify again with its arguments"
        )
    sha256 = read_json(folder / METRICS, remedy=_ANEW)[WEIGHTS]
    return _Finished(
        network=record.identity["network"],
        weights=unchanged(folder / WEIGHTS, sha256, remedy=_ANEW),
        sha256=sha256,
    )


def _of_run(name: str, folder: str, seed: int) -> Network:
    found = _finished(Path(folder))
    told = found.network
    if told["name"] != name:
        raise ModelError(
            f"{folder} must be a run of {name}, got one of {told['name']}: name that network, or "
            "another run"
        )
    network = _created(name, seed=seed, weights=found.weights, bn_eps=told["bn_eps"])
    network.mean, network.std = tuple(told["mean"]), tuple(told["std"])
    return network


def eps_of(network: Network) -> float | None:
    """Return the eps of a network's BatchNorms, which weights files do not hold."""
    return next((m.eps for m in network.modules() if isinstance(m, nn.BatchNorm2d)), None)


def _mean_var(network: Network, seed: int) -> Network:
    """Draw every parameter anew; statistics are those of no data. A constant tensor stays."""
    for i, parameter in enumerate(network.parameters()):
        rng = np.random.default_rng([_MEAN_VAR, seed, i])
        values = parameter.detach().double()
        mean, deviation = float(values.mean()), float(values.std(correction=0))
        drawn = mean + deviation * rng.standard_normal(tuple(parameter.shape))
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(drawn))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    return network


def _up_to(network: Network, layer: str) -> dict[str, Tensor]:
    """Return the tensors of a network up to and with a layer."""
    keys = network.stage_keys[: network.stage_names.index(layer) + 1]
    kept = tuple(f"{network.prefix}{key}." for key in keys)
    return {
        key: value.clone() for key, value in network.state_dict().items() if key.startswith(kept)
    }


def _transfused(network: Network, layer: str, seed: int, *, mean_var: bool) -> Network:
    own = _up_to(network, layer)
    if mean_var:
        rest = _mean_var(network, seed).state_dict()
    else:
        rest = _created(network.architecture, seed=seed, bn_eps=eps_of(network)).state_dict()
    network.load_state_dict(rest | own)
    return network


def _slimmed(network: Network, layer: str, seed: int, *, name: str) -> Network:
    made = _created(name, seed=seed, bn_eps=eps_of(network))
    made.load_state_dict(made.state_dict() | _up_to(network, layer))
    made.mean, made.std = network.mean, network.std
    return made


def _gabor(network: Network, seed: int) -> Network:
    first = next(m for m in network.modules() if isinstance(m, nn.Conv2d))
    bank = gabor_filters(first.out_channels, px=first.kernel_size[0], seed=seed)
    # As large as He's: what follows sees the scale that it is made for.
    with torch.no_grad():
        scale = float(first.weight.std(correction=0)) / float(bank.std())
        first.weight.copy_(torch.from_numpy(bank * scale))
    return network
