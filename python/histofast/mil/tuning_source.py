"""Where the network that is fine-tuned comes from: the run's encoder, or the weights behind it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histofast.encoders import find, read_spec
from histofast.errors import ModelError
from histofast.learning import sha256_of
from histofast.mil.runs import Run
from histofast.networks import Network, create, restore


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """An encoder file, or a weights file and the network that it is of."""

    path: Path
    is_encoder: bool
    network: str
    layer: str | None
    mpp: float | None = None
    licence: str | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """What the network follows from: the content of the file, not its name."""
        return {"weights": sha256_of(self.path), "name": self.network, "layer": self.layer}

    def build(self) -> Network:
        """Return the network as it is in the file."""
        return restore(self.path) if self.is_encoder else self.with_weights(self.path)

    def with_weights(self, weights: Path) -> Network:
        """Return the same network with other weights.

        Raises:
            ModelError: it is none of histofast's own, or the weights do not fit.
        """
        network = create(self.network, weights=weights, layer=self.layer)
        if not isinstance(network, Network):
            raise ModelError(
                f"network must be one of histofast's own to be tuned, got {self.network}"
            )
        return network


def source_of(
    run: Run,
    *,
    encoder: str | Path | None,
    weights: str | Path | None,
    network: str | None,
    layer: str | None,
) -> Source:
    """Find the network of a run; the arguments are those of `finetune`.

    Raises:
        ValueError: arguments that do not go together, or too few.
        FileNotFoundError, ModelError: no such encoder, or a broken one.
    """
    if encoder is not None and weights is not None:
        raise ValueError("encoder and weights must not both be given: an encoder holds its weights")
    if weights is not None:
        if network is None:
            raise ValueError(f"network must be named that {Path(weights).name} holds weights of")
        return Source(path=Path(weights), is_encoder=False, network=network, layer=layer)
    if network is not None or layer is not None:
        raise ValueError("network and layer belong to weights: an encoder knows its own")
    name = str(run.encoder.get("name", ""))
    try:
        path = find(name if encoder is None else encoder)
    except (ModelError, FileNotFoundError, ValueError):
        if encoder is not None:
            raise
        raise ValueError(
            f"encoder must be named: the run's, {name or 'unknown'}, is not one that histofast "
            "comes with"
        ) from None
    spec = read_spec(path)
    return Source(
        path=path,
        is_encoder=True,
        network=spec.network,
        layer=spec.layer,
        mpp=spec.mpp,
        licence=spec.terms,
    )
