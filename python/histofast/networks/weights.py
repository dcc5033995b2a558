"""Weights files in, state dicts out. Nothing in a file is ever executed."""

from __future__ import annotations

import pickle
import pickletools
import re
import struct
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from histofast.errors import ModelError
from histofast.networks.known import ARCHITECTURES
from histofast.networks.known import whole as shapes_of
from histofast.networks.network import LoadReport, listed

_DEEPEST = 8  # nested dicts in a checkpoint; a damaged one may contain itself
_FITS = 0.9  # share of tensors in common from which a network is offered
_COUNTER = "num_batches_tracked"  # of training; encoding never reads it, many files lack it

_ADVICE = ("Weights only load failed", "(1)", "(2)", "Check the documentation")  # torch's
_OF_TENSORS = ("torch.", "collections.", "numpy.")  # what a pickle of plain tensors imports
# What torch's reader of pickles stumbles over in a damaged one.
_DAMAGE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
)
# First words of what follows or accompanies a network: classifiers and auxiliary ones, projection
# heads and queues of MoCo, SimCLR, SwAV, BYOL and DINO.
_HEADS = re.compile(
    r"(fc|classif|head|last_linear|logits|linear|mlp|proj|pred|prototypes|queue|aux|\w+_head)\w*",
    re.IGNORECASE,
)
# Of two copies of a network the one that is evaluated: not DINO's student, MoCo's keys, BYOL's
# target.
_SECOND_COPIES = ("student", "encoder_k", "momentum_encoder", "target_encoder", "target_network")


# --- Files -----------------------------------------------------------------------------------


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read all tensors of a safetensors file or, with `weights_only`, of a torch file.

    Which of the two it is, the content tells. Keys of nested dicts are joined by dots; what is no
    tensor is left out.

    Raises:
        FileNotFoundError: no such file.
        ModelError: neither kind of file, truncated, holding code, or no tensors.
    """
    if path.is_dir():
        raise ModelError(f"{path} is a folder, not a weights file: name the file in it")
    if not path.is_file():
        raise FileNotFoundError(f"no weights file at {path}")
    if _is_safetensors(path):
        try:
            found: Any = load_file(path)
        except SafetensorError as error:
            raise ModelError(
                f"{path} is not a whole safetensors file ({error}): copy or download it again"
            ) from None
    else:
        found = _torch_file(path)
    state = dict(_tensors(found, "", _DEEPEST))
    if not state:
        raise ModelError(
            f"{path} holds no named tensors, but {_described(found)}: save the state dict"
        )
    return state


def _is_safetensors(path: Path) -> bool:
    """Tell safetensors from torch files, and refuse what is known to be neither."""
    with path.open("rb") as file:
        begin = file.read(512)
    text = begin.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not begin:
        raise ModelError(f"{path} is empty: copy or download it again")
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<!--")):
        raise ModelError(
            f"{path} is a web page, not a weights file: download it again, signed in if need be"
        )
    if text.startswith(b"version https://git-lfs"):
        raise ModelError(f"{path} is a Git LFS pointer, not the file: run `git lfs pull` for it")
    if begin.startswith(b"\x89HDF"):
        raise ModelError(
            f"{path} is an HDF5 file, as Keras writes, not a torch or safetensors file: convert it"
        )
    if begin.startswith(b"PK"):
        return False
    header_bytes = int.from_bytes(begin[:8], "little")
    by_content = begin[8:9] == b"{" and header_bytes < 100_000_000  # the format's own limit
    return by_content or path.suffix == ".safetensors"


def _torch_file(path: Path) -> Any:
    with path.open("rb") as file:
        is_zip = file.read(2) == b"PK"
    if is_zip:
        try:
            with zipfile.ZipFile(path) as archive:
                parts = {name.rpartition("/")[2] for name in archive.namelist()}
        except zipfile.BadZipFile:
            raise ModelError(
                f"{path} is a truncated torch file: copy or download it again"
            ) from None
        if "constants.pkl" in parts:
            raise ModelError(
                f"{path} is a TorchScript archive, which holds code: save the state dict of the "
                "module instead, where you trust it"
            )
    try:
        with warnings.catch_warnings(), path.open("rb") as file:  # by name the suffix would count
            warnings.simplefilter(
                "ignore", UserWarning
            )  # pickle protocol: it is read, or it raises
            return torch.load(file, map_location="cpu", weights_only=True)
    except _DAMAGE as error:
        refused = re.search(r"GLOBAL (\w[\w.]*\w)", str(error))
        if (name := refused[1] if refused else _first_global(path)) is not None:
            raise ModelError(
                f"{path} holds code ({name}), which is never executed: save its state dict alone, "
                "where you trust it"
            ) from None
        raise ModelError(
            f"{path} is not a torch file of plain tensors ({_reason(error)}): save its state dict "
            "as safetensors where you trust it"
        ) from None


def _reason(error: Exception) -> str:
    """Return the line that matters of the page that torch writes."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line for line in lines if line and not line.startswith(_ADVICE)]
    # A byte that no pickle begins with is told by its number only.
    first = told[0] if told and not told[0].isdigit() else "no pickle, or damaged"
    return first.removeprefix("WeightsUnpickler error: ").partition(". ")[0]


def _first_global(path: Path) -> str | None:
    """Return the first foreign thing that a plain pickle would import, not importing it."""
    texts: list[str] = []
    try:
        with path.open("rb") as file:
            for opcode, argument, _ in pickletools.genops(file):
                name = ""
                if opcode.name == "GLOBAL":
                    name = str(argument).replace(" ", ".")
                elif opcode.name == "STACK_GLOBAL":
                    name = ".".join(texts[-2:])
                elif isinstance(argument, str):
                    texts.append(argument)
                if name and not name.startswith(_OF_TENSORS):
                    return name
    except _DAMAGE:  # no pickle, or cut short
        pass
    return None


def _tensors(value: Any, prefix: str, depth: int) -> Iterator[tuple[str, torch.Tensor]]:
    if not isinstance(value, dict) or depth == 0:
        return
    for key, inner in value.items():
        if not isinstance(key, str):  # the state of an optimizer
            continue
        if isinstance(inner, torch.Tensor):
            yield prefix + key, inner
        else:
            yield from _tensors(inner, f"{prefix}{key}.", depth - 1)


def _described(value: Any) -> str:
    if isinstance(value, dict):
        return f"a dict of {listed([str(key) for key in value]) or 'nothing'}"
    return f"a {type(value).__name__}"


# --- From a file's keys to a network's -------------------------------------------------------


class Loadable(Protocol):
    """What of a network matters to its weights: `Network` has it, and so has a model of timm."""

    architecture: str
    layer: str
    prefix: str
    head: str
    stage_keys: tuple[str, ...]

    def state_dict(self) -> dict[str, Any]:
        """Return tensors by key."""

    def load_state_dict(self, state: dict[str, Any]) -> Any:
        """Take tensors by key."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """Where a file holds a network: the prefix before its keys there, and how they are spelt.

    `spelling` maps keys without the prefix to the network's; `matched` are tensors in the right
    place and shape, `copies` the prefixes of further copies of the network.
    """

    network: Loadable
    prefix: str
    spelling: dict[str, str]
    matched: int
    copies: tuple[str, ...] = ()

    def own_key(self, key: str) -> str | None:
        inside = key.startswith(self.prefix)
        return self.spelling.get(key.removeprefix(self.prefix)) if inside else None

    def is_other_part(self, key: str) -> bool:
        """Tell heads, copies and other modules from what claims to be part of the network."""
        if not key.startswith(self.prefix) or key.startswith(self.copies):
            return True
        first = key.removeprefix(self.prefix).partition(".")[0]
        # In a Sequential the head comes after the stages.
        after = first.isdigit() and int(first) >= len(self.network.stage_keys)
        return after or _HEADS.fullmatch(first) is not None

    def share(self, state: dict[str, torch.Tensor]) -> float:
        """Return the tensors that file and network have in common, of all in either of them."""
        in_network = sum(_COUNTER not in key for key in self.spelling)
        only_in_file = sum(
            self.own_key(key) is None and not self.is_other_part(key) for key in state
        )
        return self.matched / (in_network + only_in_file)


def _place(network: Loadable, state: dict[str, torch.Tensor]) -> _Place:
    """Find the prefix and spelling under which most of a whole network lies in the right shapes."""
    shapes = {key: value.shape for key, value in network.state_dict().items()}
    places: list[tuple[int, str, dict[str, str]]] = []
    for spelling in _spellings(network):
        found: Counter[str] = Counter()  # by prefix, in the order of the file
        for key, value in state.items():
            parts = key.split(".")
            for i in range(len(parts)):
                own = spelling.get(".".join(parts[i:]))
                if own is not None and _COUNTER not in own and value.shape == shapes[own]:
                    found["".join(f"{part}." for part in parts[:i])] += 1
        places += [(n, prefix, spelling) for prefix, n in found.items()]
    if not places:
        return _Place(network=network, prefix="", spelling=next(_spellings(network)), matched=0)

    def rank(place: tuple[int, str, dict[str, str]]) -> tuple[int, int]:
        n, prefix, _ = place
        return n, -sum(word in prefix.split(".") for word in _SECOND_COPIES)

    matched, prefix, spelling = max(places, key=rank)  # of equals the first
    copies = tuple(p for n, p, s in places if s is spelling and p != prefix and 2 * n > matched)
    return _Place(network=network, prefix=prefix, spelling=spelling, matched=matched, copies=copies)


def _spellings(network: Loadable) -> Iterator[dict[str, str]]:
    """Yield how files spell a network's keys: as it does, without its prefix, as a Sequential."""
    keys = list(network.state_dict())
    yield {key: key for key in keys}
    yield {key.removeprefix(network.prefix): key for key in keys}
    if not network.stage_keys:
        return
    by_index = {}
    for key in keys:
        stage, _, rest = key.removeprefix(network.prefix).partition(".")
        by_index[f"{network.stage_keys.index(stage)}.{rest}"] = key
    yield by_index


# --- Into a network --------------------------------------------------------------------------


def load_weights(
    network: Loadable,
    state: dict[str, torch.Tensor],
    *,
    whole: Loadable,
    sha256: str,
    partial: bool,
    where: str,
) -> LoadReport:
    """Copy the tensors of a file into a (cut) network; what belongs beyond the cut is left out.

    Args:
        network: its state dict names what is needed.
        state: what `read_weights` gave, maybe in half precision.
        whole: the network without a cut, shapes only.
        sha256: of the file.
        partial: missing and unexpected tensors are reported instead of refused.
        where: what to call the file in messages.

    Raises:
        ModelError: tensors missing, unexpected, of another shape or type, or not finite; they are
            named, and the network that the file fits, if it is another one.
    """
    name = network.architecture
    if name in ARCHITECTURES:
        rename = ARCHITECTURES[name].rename
        state = {rename(key): value for key, value in state.items()}
    place = _place(whole, state)
    key_of = {own: key for key in state if (own := place.own_key(key)) is not None}
    needed = network.state_dict()
    head = {key: place.prefix + key for key in needed if key.startswith(f"{network.head}.")}
    has_head = (
        bool(head)
        and network.layer == whole.layer
        and all(key in state and state[key].shape == needed[own].shape for own, key in head.items())
    )
    if has_head:
        key_of |= head
    used = set(key_of.values())
    rest = [key for key in state if key not in used]
    dropped = [key for key in rest if place.is_other_part(key)]
    unexpected = [key for key in rest if not place.is_other_part(key)]
    missing = [key for key in needed if key not in key_of.keys() | head and _COUNTER not in key]

    def hint(otherwise: str) -> str:
        fitting = _fitting(state)
        return otherwise if fitting in (None, name) else f"it fits {fitting}"

    under = f" under {place.prefix!r}" if place.prefix else ""
    if place.matched == 0 or (missing and not partial):
        raise ModelError(
            f"{where} lacks {len(missing)} tensors of {name}{under} ({listed(missing)}): "
            + hint("is it cut shorter, or of another network?")
        )
    if unexpected and not partial:
        raise ModelError(
            f"{where} has {len(unexpected)} tensors{under} that {name} has not "
            f"({listed(unexpected)}): " + hint("is it of another network?")
        )
    taken = {own: state[key_of[own]] for own in needed if own in key_of}
    for own, value in taken.items():
        if _COUNTER not in own:
            _check_tensor(f"{where}: {key_of[own]}", value, needed[own], name=name, hint=hint)
    network.load_state_dict(needed | taken)
    return LoadReport(
        sha256=sha256,
        prefix=place.prefix,
        head=("loaded" if has_head else "new") if head else "none",
        dropped=tuple(dropped),
        missing=tuple(missing),
        unexpected=tuple(unexpected),
    )


def _check_tensor(
    what: str, value: torch.Tensor, wanted: torch.Tensor, *, name: str, hint: Callable[[str], str]
) -> None:
    """Refuse a tensor of a file that is of another shape or type, or not finite."""
    if value.shape != wanted.shape:
        raise ModelError(
            f"{what} must be of shape {tuple(wanted.shape)} for {name}, got "
            f"{tuple(value.shape)}: " + hint("is it of another network?")
        )
    if not value.is_floating_point():
        raise ModelError(f"{what} must be floating point, got {value.dtype}")
    if not value.isfinite().all():
        raise ModelError(f"{what} holds NaN or infinity: copy or train it again")


def _fitting(state: dict[str, torch.Tensor]) -> str | None:
    """Return the network that a file fits best, if it fits one."""
    shares = {}
    for name, architecture in ARCHITECTURES.items():
        renamed = {architecture.rename(key): value for key, value in state.items()}
        shares[name] = _place(shapes_of(name), renamed).share(renamed)
    best = max(shares, key=lambda name: shares[name])
    return best if shares[best] >= _FITS else None
