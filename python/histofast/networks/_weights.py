"""Weights files in, state dicts out. Nothing in a file is ever executed."""

from __future__ import annotations

import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from histofast.errors import ModelError
from histofast.networks._network import Architecture

_SHOWN = 4  # keys named in a message


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read a state dict from a safetensors file or, with `weights_only`, from a torch file.

    Raises:
        FileNotFoundError: no such file.
        ModelError: neither kind of file, truncated, or holding anything but named tensors.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no weights file at {path}")
    try:
        state: Any = load_file(path) if path.suffix == ".safetensors" else _torch_file(path)
    except SafetensorError as error:
        raise ModelError(f"{path} is not a whole safetensors file: {error}") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        # torch writes a page; which class or instruction it refused stands at the end of it.
        said = re.search(r"WeightsUnpickler error:\s*(.+?)(?:\. |\n|$)", str(error))
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = said[1] if said else lines[0]
        raise ModelError(
            f"{path} is not a torch file of plain tensors ({reason}): save its state dict as "
            "safetensors where you trust it"
        ) from None
    if not isinstance(state, dict) or not all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in state.items()
    ):
        raise ModelError(f"{path} must hold named tensors only: save the state dict by itself")
    return state


def _torch_file(path: Path) -> Any:
    with warnings.catch_warnings():  # about the pickle protocol: it is read, or it raises
        warnings.simplefilter("ignore", UserWarning)
        return torch.load(path, map_location="cpu", weights_only=True)


def load_weights(
    network: nn.Module,
    state: dict[str, torch.Tensor],
    *,
    architecture: Architecture,
    all_keys: set[str],
    where: str,
) -> None:
    """Copy a state dict into a (cut) network; what belongs beyond the cut is left out.

    Args:
        network: its state dict names what is needed.
        state: what a file holds, maybe in half precision.
        architecture: for older spellings and the head's keys.
        all_keys: the keys of the whole network.
        where: what to call the file in messages.

    Raises:
        ModelError: keys missing, unknown, or of another shape; they are named.
    """
    state = {architecture.rename(key): value for key, value in state.items()}
    needed = network.state_dict()
    known = all_keys | set(architecture.head)
    # Training bookkeeping that encoding never reads; many files leave it out.
    counters = {key for key in known if key.endswith("num_batches_tracked")}
    if unknown := [key for key in state if key not in known]:
        raise ModelError(
            f"{where} has {len(unknown)} tensors that {architecture.name} has not "
            f"({_listed(unknown)}): is it of another network?"
        )
    if missing := [key for key in needed if key not in state and key not in counters]:
        raise ModelError(
            f"{where} lacks {len(missing)} tensors of {architecture.name} ({_listed(missing)}): "
            "is it cut shorter, or of another network?"
        )
    for key, wanted in needed.items():
        if key in state and state[key].shape != wanted.shape:
            raise ModelError(
                f"{where}: {key} must be of shape {tuple(wanted.shape)} for {architecture.name}, "
                f"got {tuple(state[key].shape)}"
            )
    network.load_state_dict({key: state.get(key, value) for key, value in needed.items()})


def _listed(keys: list[str]) -> str:
    return ", ".join(keys[:_SHOWN]) + (", ..." if len(keys) > _SHOWN else "")
