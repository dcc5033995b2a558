"""Weights files in, state dicts out. Nothing in a file is ever executed."""

from __future__ import annotations

import re
import warnings
import zipfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from histofast._files import refuse_stand_in, regular_file
from histofast._words import clipped, listed, one_line
from histofast.encoders import refuse_too_large
from histofast.errors import ModelError
from histofast.networks.claims import BadClaimsError, HoldsCodeError, check_claims
from histofast.networks.keras import is_keras_archive, read_keras

_DEEPEST = 8  # nested dicts in a checkpoint; a damaged one may contain itself
_MOST = 1_000_000  # entries of a checkpoint; dicts that share their inner ones never end
_MORE_MEMORY = "use a machine with more, and bring the encoder that is made there"
_WIDEST = 200  # characters of a reason; libraries quote what they read
_ADVICE = ("Weights only load failed", "(1)", "(2)", "Check the documentation")  # torch's


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read all tensors of a safetensors file, of a torch file (with `weights_only`) or of a Keras one.

    Which of them it is, the content tells. Keys of nested dicts are joined by dots; what is no
    tensor is left out. No more memory is taken than the file accounts for: what it claims beyond
    that is found before it is loaded. How those of Keras are spelt: `networks/keras.py`.

    Raises:
        FileNotFoundError: no such file.
        ModelError: no such kind of file, truncated or damaged, claiming more than it has, larger than
            the memory, holding code, or no tensors.
    """
    regular_file(path, kind="weights file", error=ModelError)
    kind = _kind(path)
    refuse_unreadable(path)
    found = _READERS[kind](path)
    state = {}
    for n, (key, value) in enumerate(_entries(found, "", _DEEPEST)):
        if n == _MOST:
            raise ModelError(f"{path} holds over {_MOST:,} entries: save the state dict alone")
        if isinstance(value, torch.Tensor):
            state[key] = _plain(value, f"{path}: {listed([key])}")
    if not state:
        raise ModelError(
            f"{path} holds no named tensors, but {_described(found)}: save the state dict"
        )
    return state


def refuse_unreadable(path: Path) -> None:
    """Refuse a file that is larger than the memory, in which all of it is to be.

    Raises:
        ModelError: it is.
    """
    refuse_too_large(f"{path}, to be read,", path.stat().st_size, remedy=_MORE_MEMORY)


def _kind(path: Path) -> str:
    """Tell safetensors, torch and Keras files by their content, and refuse what is known to be none."""
    with path.open("rb") as file:
        begin = file.read(512)
    if not begin:
        raise ModelError(f"{path} is empty: copy or download it again")
    refuse_stand_in(path, error=ModelError)
    if (begin.startswith(b"{") and b'"weight_map"' in begin) or path.name.endswith(".index.json"):
        raise ModelError(
            f"{path} is an index of weights in several files, not weights: save them as one file"
        )
    if begin.startswith(b"\x89HDF"):
        return "keras"
    if begin.startswith(b"PK"):
        return "keras" if is_keras_archive(path) else "torch"
    header_bytes = int.from_bytes(begin[:8], "little")
    by_content = begin[8:9] == b"{" and header_bytes < 100_000_000  # the format's own limit
    return "safetensors" if by_content or path.suffix == ".safetensors" else "torch"


def _safetensors_file(path: Path) -> dict[str, torch.Tensor]:
    # It holds what its header claims against its size by itself.
    try:
        found: dict[str, torch.Tensor] = load_file(path)
    except Exception as error:  # noqa: BLE001  # of a dtype that torch has not it raises what comes
        raise ModelError(
            f"{path} is not a whole safetensors file ({_shown(error)}): copy or download it again"
        ) from None
    return found


def _torch_file(path: Path) -> Any:
    _check_archive(path)
    try:
        check_claims(path)
        with (
            warnings.catch_warnings(),
            torch.serialization.safe_globals([Namespace]),  # DINO's: how it was asked for
            path.open("rb") as file,  # by name the suffix would count
        ):
            warnings.simplefilter(
                "ignore", UserWarning
            )  # pickle protocol: it is read, or it raises
            return torch.load(file, map_location="cpu", weights_only=True)
    except HoldsCodeError as error:
        raise _holds_code(path, str(error)) from None
    except BadClaimsError as error:
        raise _no_torch_file(path, str(error)) from None
    except Exception as error:  # noqa: BLE001  # torch's reader raises whatever damaged bytes lead to
        refused = re.search(r"GLOBAL (\w[\w.]*\w)", str(error))
        if refused is not None:
            raise _holds_code(path, refused[1]) from None
        raise _no_torch_file(path, _reason(error)) from None


_READERS: dict[str, Callable[[Path], Any]] = {
    "safetensors": _safetensors_file,
    "torch": _torch_file,
    "keras": read_keras,
}


def _check_archive(path: Path) -> None:
    """Refuse truncated archives and those of TorchScript."""
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            return
    try:
        with zipfile.ZipFile(path) as archive:
            parts = {name.rpartition("/")[2] for name in archive.namelist()}
    except zipfile.BadZipFile:
        raise ModelError(f"{path} is a truncated torch file: copy or download it again") from None
    except Exception as error:  # noqa: BLE001  # it raises whatever a number in the directory leads to
        raise _no_torch_file(path, str(error)) from None
    if "constants.pkl" in parts:
        raise ModelError(
            f"{path} is a TorchScript archive, which holds code: save the state dict of the "
            "module instead, where you trust it"
        )


def _holds_code(path: Path, name: str) -> ModelError:
    return ModelError(
        f"{path} holds code ({listed([name])}), which is never executed: save its state dict alone, "
        "where you trust it"
    )


def _no_torch_file(path: Path, reason: str) -> ModelError:
    return ModelError(
        f"{path} is not a torch file of plain tensors ({_shown(reason)}): save its state dict "
        "as safetensors where you trust it"
    )


def _shown(reason: object) -> str:
    return clipped(one_line(reason), _WIDEST)


def _reason(error: Exception) -> str:
    """Return the line that matters of the page that torch writes."""
    said = str(error).rpartition("WeightsUnpickler error:")[2]
    lines = [line.strip() for line in said.splitlines()]
    told = [line for line in lines if line and not line.startswith(_ADVICE)]
    # A byte that no pickle begins with is told by its number only.
    first = told[0] if told and not told[0].isdigit() else "no pickle, or damaged"
    return first.partition(". ")[0]


def _entries(value: Any, prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    """Yield all entries of a dict and of those within it; the dicts too, so that all are counted."""
    if not isinstance(value, dict) or depth == 0:
        return
    for key, inner in value.items():
        if not isinstance(key, str):  # the state of an optimizer
            continue
        yield prefix + key, inner
        yield from _entries(inner, f"{prefix}{key}.", depth - 1)


def _plain(value: torch.Tensor, what: str) -> torch.Tensor:
    """Return a tensor that has its numbers in memory.

    Raises:
        ModelError: it is sparse, nested, or of shapes only.
    """
    if value.layout != torch.strided or value.device.type != "cpu" or value.is_nested:
        raise ModelError(
            f"{what} must be a plain tensor, got one of layout {value.layout} on {value.device}: "
            "save it as one"
        )
    return value


def _described(value: Any) -> str:
    if isinstance(value, dict):
        return f"a dict of {listed([str(key) for key in value]) or 'nothing'}"
    return f"a {type(value).__name__}"
