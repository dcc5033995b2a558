"""Networks as torch modules, cut where a study says, and their way into an encoder file.

The only part of histofast that imports torch. `create` builds, `export` writes, `export_encoder`
does both; `export_cuts` writes many cuts as one file.
"""

from __future__ import annotations

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError:
    raise ModuleNotFoundError(
        "histofast.networks needs torch, which is not installed: pip install 'histofast[train]'",
        name="torch",
    ) from None

from histofast.networks._adopt import AdoptedNetwork, adopt
from histofast.networks._create import create, layers
from histofast.networks._device import pick_device
from histofast.networks._export import PixelsIn, export, export_cuts, export_encoder
from histofast.networks._known import names
from histofast.networks._network import Architecture, Cut, LoadReport, Network, Stage
from histofast.networks._record import Recorder
from histofast.networks._restore import restore
from histofast.networks._timm import TimmNetwork

__all__ = [
    "AdoptedNetwork",
    "Architecture",
    "Cut",
    "LoadReport",
    "Network",
    "PixelsIn",
    "Recorder",
    "Stage",
    "TimmNetwork",
    "adopt",
    "create",
    "export",
    "export_cuts",
    "export_encoder",
    "layers",
    "names",
    "pick_device",
    "restore",
]
