"""The tensors of a weights file into a network: found under whatever prefix and spelling."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from histofast._words import listed
from histofast.errors import ModelError
from histofast.networks.known import ARCHITECTURES
from histofast.networks.known import whole as shapes_of
from histofast.networks.network import LoadReport

_FITS = 0.9  # share of tensors in common from which a network is offered
_PRECISIONS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_COUNTER = "num_batches_tracked"  # of training; encoding never reads it, many files lack it
# First words of what follows or accompanies a network: classifiers and auxiliary ones, projection
# heads and queues of MoCo, SimCLR, SwAV, BYOL and DINO.
_HEADS = re.compile(
    r"(fc|classif|head|last_linear|logits|linear|mlp|proj|pred|prototypes|queue|aux|\w+_head)\w*"
    r"|dense_\d+",
    re.IGNORECASE,
)
_PART = re.compile(r"-(\d{1,5})-of-(\d{1,5})\.\w+$")  # of a file of Hugging Face's in several parts
# Of two copies of a network the one that is evaluated: not DINO's student, MoCo's keys, BYOL's
# target.
SECOND_COPIES = ("student", "encoder_k", "momentum_encoder", "target_encoder", "target_network")


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

    def load_state_dict(
        self, state: dict[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
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
        return n, -sum(word in prefix.split(".") for word in SECOND_COPIES)

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
    takes_over: bool = False,
) -> LoadReport:
    """Copy the tensors of a file into a (cut) network; what belongs beyond the cut is left out.

    Args:
        network: its state dict names what is needed.
        state: what `read_weights` gave, as the network spells it today, maybe in half precision.
        whole: the network without a cut, shapes only.
        sha256: of the file.
        partial: missing and unexpected tensors are reported instead of refused.
        where: what to call the file in messages.
        takes_over: the network's own become those of the file, not copies; others are not touched.

    Raises:
        ModelError: tensors missing, unexpected, of another shape or type, or not finite; they are
            named, and the network that the file fits, if it is another one.
    """
    name = network.architecture
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

    hint = functools.partial(_hint, state, name, where)
    under = f" under '{listed([place.prefix])}'" if place.prefix else ""
    if place.matched == 0 and not missing:
        raise ModelError(
            f"{where} has no tensor of {name}{under} in its shape: "
            + hint("is it of another network?")
        )
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
            _check_tensor(
                f"{where}: {listed([key_of[own]])}", value, needed[own], name=name, hint=hint
            )
    _put_in(network, taken, needed, takes_over=takes_over)
    return LoadReport(
        sha256=sha256,
        prefix=place.prefix,
        head=("loaded" if has_head else "new") if head else "none",
        dropped=tuple(dropped),
        missing=tuple(missing),
        unexpected=tuple(unexpected),
    )


def _hint(state: dict[str, torch.Tensor], name: str, where: str, otherwise: str) -> str:
    """Return the remedy for a file that does not fit a network."""
    if part := part_of_several(where):
        return part
    fits = fitting(state)
    return otherwise if fits in (None, name) else f"it fits {fits}"


def part_of_several(where: str) -> str | None:
    """Return the remedy for a file whose name says that it is one of several; None for others.

    Example:
        >>> part_of_several("model-00001-of-00002.safetensors")
        'it is part 1 of 2, save all of them as one file'
    """
    part = _PART.search(where)
    return part and f"it is part {int(part[1])} of {int(part[2])}, save all of them as one file"


def _put_in(
    network: Loadable,
    taken: dict[str, torch.Tensor],
    needed: dict[str, torch.Tensor],
    *,
    takes_over: bool,
) -> None:
    if not takes_over:
        network.load_state_dict(needed | taken)
        return
    for own, value in taken.items():
        taken[own] = value.to(needed[own].dtype).contiguous()
    network.load_state_dict(taken, strict=False, assign=True)


def _check_tensor(
    what: str, value: torch.Tensor, wanted: torch.Tensor, *, name: str, hint: Callable[[str], str]
) -> None:
    """Refuse a tensor of a file that is of another shape or type, or not finite."""
    if value.shape != wanted.shape:
        raise ModelError(
            f"{what} must be of shape {tuple(wanted.shape)} for {name}, got "
            f"{tuple(value.shape)}: " + hint("is it of another network?")
        )
    if not wanted.is_floating_point():  # the places of an attention's biases, in models of timm
        if value.is_floating_point():
            raise ModelError(f"{what} must be whole numbers for {name}, got {value.dtype}")
        return
    if value.dtype not in _PRECISIONS:  # floats of a byte know no comparison
        raise ModelError(f"{what} must be floating point of 16 bits or more, got {value.dtype}")
    if not value.isfinite().all():
        raise ModelError(f"{what} holds NaN or infinity: copy or train it again")


def fitting(state: dict[str, torch.Tensor]) -> str | None:
    """Return the network that a file fits best, if it fits one."""
    shares = {}
    for name, architecture in ARCHITECTURES.items():
        respelt = architecture.respell(state)
        shares[name] = _place(shapes_of(name), respelt).share(respelt)
    best = max(shares, key=lambda name: shares[name])
    return best if shares[best] >= _FITS else None
