"""Networks whose weights are drawn anew: all of them, or from the output down, part by part."""

from __future__ import annotations

import copy
from collections.abc import Iterator

from histofast.encoders import FoundationEntry, registry
from histofast.networks.adopted import AdoptedNetwork
from histofast.networks.creation import create
from histofast.networks.foundation import foundation_name
from histofast.networks.kinds import AnyNetwork
from histofast.networks.network import Network
from histofast.networks.recorder import stages_of
from histofast.networks.timm import TimmNetwork


def twin(network: AnyNetwork, *, seed: int) -> AnyNetwork | None:
    """Return the same architecture with random weights, on the same device.

    None for an adopted module that does not say how its weights are drawn.
    """
    if isinstance(network, AdoptedNetwork):
        return network.twin(seed=seed)
    other = create(network.architecture, layer=network.layer, classes=network.classes, seed=seed)
    other.mean, other.std = network.mean, network.std
    moved: AnyNetwork = other.to(next(network.parameters()).device)
    return moved


def never_trained(name: str, *, layer: str, seed: int) -> Network | TimmNetwork:
    """Return a network with random weights that takes pixels as the weights of its name want them.

    Args:
        name: as for `create`; that of published weights too, for which `create` wants their file.
        layer: the last stage.
        seed: of the weights.

    Raises:
        ModelError: no such network or layer.
    """
    known = registry()
    entry = known.foundation.get(name) or known.sources.get(name)
    if entry is None:
        return create(name, layer=layer, seed=seed)
    of = foundation_name(entry) if isinstance(entry, FoundationEntry) else entry.network
    network = create(of, layer=layer, seed=seed)
    network.mean, network.std = entry.mean, entry.std
    return network


def drawn_anew(network: AnyNetwork, *, seed: int) -> AnyNetwork:
    """Return the `twin` of a network, if it has one.

    Raises:
        ValueError: an adopted module that does not say how its weights are drawn.
    """
    other = twin(network, seed=seed)
    if other is None:
        raise ValueError(
            f"network must say how its weights are drawn anew, {network.architecture} has modules "
            "without reset_parameters"
        )
    return other


def randomised(network: AnyNetwork, *, seed: int) -> Iterator[tuple[str, AnyNetwork]]:
    """Draw the weights of a network anew from the output down, a part more each time.

    Parts are the network's stages, what is before or after them by the names of the outermost modules. What is
    yielded is one network that changes from step to step; `network` itself is left as it is.

    Args:
        network: of `create` or `adopt`.
        seed: of the new weights.

    Yields:
        The name of the part that has just lost its weights, and the network with all of those above it.

    Raises:
        ValueError: an adopted module that does not say how its weights are drawn.

    Reference: Adebayo et al., 2018, Sanity checks for saliency maps (cascading randomisation).
    """
    fresh = drawn_anew(network, seed=seed).state_dict()
    changing = copy.deepcopy(network)
    state = changing.state_dict()  # shares its memory with the network
    for name, keys in reversed(_parts(network)):
        for key in keys:
            state[key].copy_(fresh[key])
        yield name, changing


def _parts(network: AnyNetwork) -> list[tuple[str, list[str]]]:
    """Return the keys of a network's state by part, from pixels to the output."""
    names = {id(module): name for name, module in stages_of(network).items()}
    roots = {
        name: names[id(module)] for name, module in network.named_modules() if id(module) in names
    }
    inner = "" if isinstance(network, Network) else "model."
    found: dict[str, list[str]] = {}
    for key in network.state_dict():
        stage = next((roots[root] for root in roots if key.startswith(f"{root}.")), None)
        found.setdefault(stage or key.removeprefix(inner).split(".")[0], []).append(key)
    return list(found.items())
