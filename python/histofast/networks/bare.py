"""Networks that torch's own exporter writes: those of timm, and modules of one's own."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from histofast._numbers import whole_number
from histofast.encoders import OUTPUT, refuse_too_large, sizes_near
from histofast.errors import ModelError
from histofast.networks.adopted import AdoptedNetwork
from histofast.networks.kinds import AnyNetwork
from histofast.networks.network import Network
from histofast.networks.scales import fold_scales
from histofast.networks.timm import TimmCuts, TimmNetwork

# The first has an operator for attention, and one for GELU; TensorRT and older runtimes take the second.
OPSETS = (23, 18)
_PEAK = 1.6  # of an export, over the weights; benchmarks/bench_big_encoders.py holds it to that


def opset_of(network: AnyNetwork, opset: int | None) -> int:
    """Return the version of ONNX's operators that a network is written in: as told, else the first it can.

    Raises:
        TypeError: no whole number.
        ValueError: one that it is not written in.
    """
    known = OPSETS[1:] if isinstance(network, Network) else OPSETS
    opset = whole_number("opset", opset, at_least=1)
    if opset is None:
        return known[0]
    if opset not in known:
        listed = " or ".join(map(str, known))
        raise ValueError(f"opset must be {listed} for {network.architecture}, got {opset}")
    return opset


def write_bare(
    network: TimmNetwork | TimmCuts | AdoptedNetwork,
    path: Path,
    *,
    patch_px: int,
    opset: int,
    outputs: Sequence[str] = (OUTPUT,),
) -> None:
    """Write an ONNX file of the network alone, float32 (n, 3, p, p) to (n, d), or several of that.

    Its weights come to a second file: torch writes them one by one then, and holds them once.
    Scales of layers are in their weights.

    Raises:
        ModelError: torch cannot export it, or not in this memory; onnxscript, which it needs for that,
            is not installed.
    """
    weights_bytes = sum(value.nbytes for value in network.state_dict().values())
    refuse_too_large(
        f"the export of {network.architecture}",
        _PEAK * weights_bytes,
        remedy="cut it with layer=..., or use a machine with more",
    )
    example = torch.zeros(2, 3, patch_px, patch_px)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            torch.inference_mode(),
        ):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network,
                (example,),
                path,
                input_names=["x"],
                output_names=list(outputs),
                dynamic_shapes=({0: "n"},),
                external_data=True,
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
        _let_go(program)
        fold_scales(path)
    except ModuleNotFoundError as error:
        raise ModelError(
            f"{network.architecture} cannot be exported without {error.name}: "
            "pip install 'histofast[timm]'"
        ) from None
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        _refuse_size(network, patch_px)
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise ModelError(
            f"{network.architecture} cannot be exported at {patch_px} px: "
            f"{lines[0] if lines else type(error).__name__}"
        ) from None


def _let_go(program: Any) -> None:
    """Take views of the weights out of what was exported: onnxscript holds on to the last graph."""
    for value in program.model.graph.initializers.values():
        value.const_value = None


def _refuse_size(network: TimmNetwork | TimmCuts | AdoptedNetwork, patch_px: int) -> None:
    """Refuse patches of a size that a network cannot be run on, where it can on others."""

    def takes(px: int) -> bool:
        try:
            with torch.inference_mode():
                network(torch.zeros(1, 3, px, px))
        except (RuntimeError, AssertionError, ValueError, TypeError, IndexError):
            return False
        return True

    sizes = None if takes(patch_px) else sizes_near(takes, patch_px)
    if sizes is not None:
        raise ModelError(f"{network.architecture} {sizes.refusal(patch_px)}")
