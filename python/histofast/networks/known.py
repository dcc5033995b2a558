"""All architectures by name, and what can be said of them without building one in memory."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

import torch
from torch import nn

from histofast._words import did_you_mean
from histofast.errors import ModelError
from histofast.networks import cbr, densenet, inception, resnet, resnet_keras, squeezenet
from histofast.networks.network import Architecture, Cut, Network
from histofast.networks.slim import parted, slim

ARCHITECTURES: dict[str, Architecture] = {
    architecture.name: architecture
    for family in (densenet, resnet, resnet_keras, cbr, squeezenet, inception)
    for architecture in family.ARCHITECTURES
}


def _spelt(name: str) -> str:
    return re.sub(r"[-_.]", "", name.lower())


# As torchvision and others spell them: ResNet50, squeezenet1_1, inception_v3, and its class Inception3.
_SPELT = {_spelt(name): architecture for name, architecture in ARCHITECTURES.items()}
_SPELT["inception3"] = ARCHITECTURES["inception-v3"]


def names() -> tuple[str, ...]:
    """Return the names of all networks."""
    return tuple(ARCHITECTURES)


def architecture_of(name: str, *, others: Iterable[str] = ()) -> Architecture:
    """Return an architecture by its name, that of a slim network too.

    Args:
        name: of the network, in any case, with any of `-_.` or none.
        others: names that would do as well, for the message.

    Raises:
        ModelError: no such network (close names are offered).
    """
    known = _SPELT.get(_spelt(name))
    if known is not None:
        return known
    told = parted(name)
    if told is None:
        raise ModelError(no_such("network", name, [*ARCHITECTURES, *others], of=""))
    whole, layer, factor = told
    found = slim(architecture_of(whole), layer, factor)
    if found.name != name:
        raise ModelError(f"network must be called {found.name}, got {name!r}")
    return found


@cache
def cuts_of(name: str) -> tuple[Cut, ...]:
    """Return where a network of our own can be cut; see `layers`."""
    network = whole(name)
    x = torch.empty(1, 3, network.input_px, network.input_px, device="meta")
    done, held, reached = 0, 0, []

    def count(conv: nn.Conv2d, _: object, out: torch.Tensor) -> None:
        nonlocal done
        done += out.numel() * conv.weight[0].numel()

    hooks = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, nn.Conv2d)]
    for stage in network.stage_names:
        x = network.stage(stage)(x)
        held += sum(values.numel() for values in network.stage(stage).parameters())
        reached.append((stage, x.shape[1], done, held))
    for hook in hooks:
        hook.remove()
    return tuple(
        Cut(
            name=stage,
            d=d,
            gmac=products / 1e9,
            flops_share=products / done,
            parameters=parameters,
            parameters_share=parameters / held,
        )
        for stage, d, products, parameters in reached
    )


@cache
def whole(name: str) -> Network:
    """Return a whole network without a head and without memory: shapes only."""
    architecture = architecture_of(name)
    with torch.device("meta"):
        network = Network(architecture, list(architecture.stages(architecture.bn_eps)))
    network.eval()
    return network


def no_such(
    what: str, got: str, known: Iterable[str], *, of: str, others: Iterable[str] = ()
) -> str:
    """Return a message that names the known ones and offers those that are close.

    `others` would do as well and may be offered, but are too many to be named.
    """
    known = list(known)
    near = did_you_mean(got, dict.fromkeys([*known, *others]))
    return f"{what}{of} must be one of {', '.join(known)}, got {got!r}{near}"
