"""The proof that an encoder file computes what the torch network computes."""

# mypy: allow-subclassing-any
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from histofast._machine import available_cpus
from histofast._notes import log_of
from histofast.encoders import load, load_all
from histofast.errors import ModelError
from histofast.graphs import BATCHES, capture
from histofast.networks.kinds import AnyNetwork
from histofast.networks.network import Network
from histofast.networks.timm import TimmCuts, TimmNetwork

_log = log_of(__name__)

MAX_RELATIVE_ERROR = 1e-5
_TALLER_PX = 5
_SHORTER: tuple[int, ...] = BATCHES[:-1]  # of the same patches as the longest
_AT_ODDS = "torch's exporter and ONNX Runtime are at odds"


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreed:
    """How near a file's features are to torch's: the worst row of all that were compared."""

    relative_error: float = 0.0
    cosine: float = 1.0
    difference: float = 0.0

    def worse(self, error: float, got: NDArray[np.float32], wanted: torch.Tensor) -> Agreed:
        """Return it with further rows: (n, d) features, and those of torch."""
        rows = wanted.numpy().reshape(len(got), -1).astype(np.float64)
        norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(got.astype(np.float64), axis=1)
        cosines = (rows * got).sum(1) / np.maximum(norms, np.finfo("f4").tiny)
        return Agreed(
            relative_error=max(self.relative_error, error),
            cosine=min(self.cosine, float(cosines.min())),
            difference=max(self.difference, float(np.abs(got - rows).max())),
        )

    def __str__(self) -> str:
        return (
            f"ONNX Runtime and torch differ by {self.relative_error:.1e} of the norm at most, by "
            f"{self.difference:.1e} in a feature, cosine at least {self.cosine:.7f}"
        )


class PixelsIn(nn.Module):
    """A network as its encoder file computes it: uint8 (n, h, w, 3) in, float32 (n, d) out, or several."""

    def __init__(self, network: AnyNetwork | TimmCuts) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", 255 * torch.tensor(network.mean).view(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(network.std).view(1, 3, 1, 1))

    def forward(self, pixels: torch.Tensor) -> Any:
        x = pixels.permute(0, 3, 1, 2).to(torch.float32)  # (n, 3, h, w)
        features: Any = self.network((x - self.mean) / self.std)
        return features


class Wanted(NamedTuple):
    """What torch gives for a batch of pixels; `norms` (n,) is what errors are held against if not it."""

    pixels: NDArray[np.uint8]
    features: torch.Tensor
    norms: NDArray[np.float64] | None

    def first(self, n: int) -> Wanted:
        """Return it of the first patches alone."""
        norms = None if self.norms is None else self.norms[:n]
        return Wanted(self.pixels[:n], self.features[:n], norms)


def wanted_of(network: AnyNetwork, patches: NDArray[np.uint8]) -> list[Wanted]:
    """Return what a file of a network must compute: batches of 1, 2 and 7, and maybe a rectangle.

    Torch computes the longest of those that are the same patches; what a row is must not hang on the others.
    Logits may cancel to next to nothing: they are held against the terms that they are sums of.
    """
    module = PixelsIn(network).eval()
    found = []
    with torch.inference_mode(), _terms_of_logits(network) as terms:
        for case in _cases(patches, of_any_size=isinstance(network, Network)):
            features = module(torch.from_numpy(case))
            found.append(Wanted(case, features, terms.get("norm")))
    return [*map(found[0].first, _SHORTER), *found]


def verify(
    file: Path,
    network: AnyNetwork,
    patches: NDArray[np.uint8],
    *,
    stage_of_tensor: Mapping[str, str] | None = None,
    shown: Path,
) -> Agreed:
    """Refuse a file whose features differ from torch's; of a network of ours the stage is named.

    Returns:
        How near the features are.

    Raises:
        ModelError: by more than the tolerance.
    """
    return verify_against(
        file,
        wanted_of(network, patches),
        shown=shown,
        are_logits=bool(network.classes),
        blame=lambda case: (
            _first_wrong_stage(file, network, case, stage_of_tensor=stage_of_tensor or {})
            if isinstance(network, Network)
            else _AT_ODDS
        ),
    )


def verify_against(
    file: Path,
    wanted: Sequence[Wanted],
    *,
    shown: Path,
    are_logits: bool,
    blame: Callable[[NDArray[np.uint8]], str] = lambda case: _AT_ODDS,
) -> Agreed:
    """Refuse a file whose features differ from those wanted.

    Returns:
        How near the features are.

    Raises:
        ModelError: by more than the tolerance.
    """
    found = Agreed()
    norm = "logits' terms" if are_logits else "features' norm"
    with load(file, device="cpu", threads=1) as encoder, _in_threads() as pool:
        run = pool.map(encoder.encode_together, [each.pixels for each in wanted])
        for (case, features, norms), got in zip(wanted, run, strict=True):
            error = _largest_error(got, features, of=norms)
            found = found.worse(error, got, features)
            if error <= MAX_RELATIVE_ERROR:  # false for NaN
                continue
            n, h, w, _ = case.shape
            raise ModelError(
                f"{shown} is not written: ONNX Runtime and torch differ by {error:.1e} of the "
                f"{norm} (batch of {n}, {h} x {w} px), wanted at most "
                f"{MAX_RELATIVE_ERROR:.0e}: {blame(case)}"
            )
    _log.info("%s: %s", shown, found)
    return found


def _in_threads() -> ThreadPoolExecutor:  # the graph takes one thread a batch
    return ThreadPoolExecutor(available_cpus(), thread_name_prefix="histofast-verify")


@contextmanager
def _terms_of_logits(
    network: AnyNetwork,
) -> Iterator[dict[str, NDArray[np.float64]]]:
    """Keep, under "norm", (n,) the norm of |w| |x| + |b| of the last batch that a head of ours saw."""
    kept: dict[str, NDArray[np.float64]] = {}
    if not isinstance(network, Network) or not network.classes:
        yield kept
        return

    def keep(head: nn.Linear, inputs: tuple[torch.Tensor]) -> None:
        terms = inputs[0].double().abs() @ head.weight.double().abs().T + head.bias.double().abs()
        kept["norm"] = terms.norm(dim=1).numpy()

    handle = network.get_submodule(network.head).register_forward_pre_hook(keep)
    try:
        yield kept
    finally:
        handle.remove()


class WantedCuts(NamedTuple):
    """What torch gives for a batch of pixels at each cut, (n, d)."""

    pixels: NDArray[np.uint8]
    features: Mapping[str, torch.Tensor]

    def first(self, n: int) -> WantedCuts:
        """Return it of the first patches alone."""
        return WantedCuts(self.pixels[:n], {cut: rows[:n] for cut, rows in self.features.items()})


def wanted_of_cuts(
    network: Network | TimmNetwork, layers: Sequence[str], patches: NDArray[np.uint8]
) -> list[WantedCuts]:
    """Return what a file of cuts of a network must compute, for the batches of `wanted_of`."""
    cases = _cases(patches, of_any_size=isinstance(network, Network))
    found = []
    with torch.inference_mode():
        if isinstance(network, TimmNetwork):
            together = PixelsIn(TimmCuts(network, layers)).eval()
            for case in cases:
                features = together(torch.from_numpy(case))
                found.append(WantedCuts(case, dict(zip(layers, features, strict=True))))
            return [*map(found[0].first, _SHORTER), *found]
        with _pooled_stages(network, layers) as pooled:
            module = PixelsIn(network).eval()
            for case in cases:
                module(torch.from_numpy(case))
                found.append(WantedCuts(case, dict(pooled)))
    return [*map(found[0].first, _SHORTER), *found]


@contextmanager
def _pooled_stages(network: Network, layers: Sequence[str]) -> Iterator[dict[str, torch.Tensor]]:
    """Keep the mean over the picture of what leaves stages when the network runs."""
    kept: dict[str, torch.Tensor] = {}

    def keep(layer: str) -> Callable[[nn.Module, Any, torch.Tensor], None]:
        return lambda _, inputs, maps: kept.update({layer: maps.mean((2, 3))})

    with ExitStack() as hooks:
        for layer in layers:
            handle = network.stage(layer).register_forward_hook(keep(layer))
            hooks.callback(handle.remove)
        yield kept


def verify_cuts(file: Path, wanted: Sequence[WantedCuts], *, shown: Path) -> None:
    """Refuse a file of cuts whose features differ from those wanted.

    Raises:
        ModelError: those of a cut, which is named, by more than the tolerance.
    """
    with load_all(file, device="cpu", threads=1) as joined:
        for case, features in wanted:
            for spec, got in zip(joined.specs, joined.encode_together(case), strict=True):
                error = _largest_error(got, features[spec.layer])
                if error <= MAX_RELATIVE_ERROR:  # false for NaN
                    continue
                n, h, w, _ = case.shape
                raise ModelError(
                    f"{shown} is not written: ONNX Runtime and torch differ by {error:.1e} of the "
                    f"features' norm (batch of {n}, {h} x {w} px), wanted at most "
                    f"{MAX_RELATIVE_ERROR:.0e}: {spec.layer} is the first cut to do so"
                )


def _cases(patches: NDArray[np.uint8], *, of_any_size: bool) -> list[NDArray[np.uint8]]:
    """Return the longest batch to compare on, and maybe one of rectangles."""
    cases = [patches[: max(BATCHES)]]
    if of_any_size:
        cases.append(np.concatenate([patches[:2], patches[:2, :_TALLER_PX]], axis=1))
    return cases


def _first_wrong_stage(
    file: Path, network: Network, pixels: NDArray[np.uint8], *, stage_of_tensor: Mapping[str, str]
) -> str:
    wanted: dict[str, torch.Tensor] = {}

    def keep(stage: str) -> Callable[[nn.Module, Any, torch.Tensor], None]:
        return lambda module, inputs, output: wanted.update({stage: output})

    hooks = [network.stage(s).register_forward_hook(keep(s)) for s in stage_of_tensor.values()]
    with torch.inference_mode():
        PixelsIn(network).eval()(torch.from_numpy(pixels))
    for hook in hooks:
        hook.remove()
    got = capture(file, list(stage_of_tensor), pixels)
    for tensor, stage in stage_of_tensor.items():
        error = _largest_error(got[tensor], wanted[stage])
        if not error <= MAX_RELATIVE_ERROR:
            return f"{stage} is the first stage to do so, by {error:.1e}"
    return "all stages agree, it is what follows them"


def _largest_error(
    got: NDArray[np.float32], wanted: torch.Tensor, *, of: NDArray[np.float64] | None = None
) -> float:
    """Return the largest error of a row, relative to the norm of the row wanted, or to `of`."""
    rows = wanted.numpy().reshape(len(got), -1).astype(np.float64)
    norms = np.linalg.norm(rows, axis=1) if of is None else of
    errors = np.linalg.norm(got.reshape(len(got), -1) - rows, axis=1)
    return float((errors / np.maximum(norms, np.finfo("f4").tiny)).max())
