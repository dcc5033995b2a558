"""Networks as torch modules, cut where a study says, and their way into an encoder file.

The only part of histofast that imports torch. `create` builds, `export` writes, `export_encoder`
does both; `export_cuts` writes many cuts as one file.
"""

from __future__ import annotations

from histofast.errors import missing_extra

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError:
    raise missing_extra("torch", by=__name__) from None

from histofast.networks import starts
from histofast.networks.adopted import AdoptedNetwork, adopt
from histofast.networks.brought import encoder_file
from histofast.networks.creation import create, layers, pooled_layer
from histofast.networks.device import pick_device, workers_on
from histofast.networks.exporting import (
    check_size,
    export,
    export_encoder,
    export_made,
)
from histofast.networks.exporting_cuts import export_cuts, export_cuts_made
from histofast.networks.foundation import create_foundation, foundation_name
from histofast.networks.gradients import Gradients, frozen, gradients
from histofast.networks.kinds import AnyNetwork
from histofast.networks.known import names
from histofast.networks.network import Architecture, Cut, LoadReport, Network, Stage
from histofast.networks.reading import read_weights
from histofast.networks.recorder import Recorder, channels_last
from histofast.networks.renaming import RENAMES, renamed
from histofast.networks.restored import restore
from histofast.networks.reuse import feature_reuse
from histofast.networks.timm import TimmNetwork
from histofast.networks.timm_cuts import BlockCut, block_cut, block_of
from histofast.networks.timm_names import stem_of, timm_args_of, timm_name
from histofast.networks.twins import drawn_anew, never_trained, randomised, twin
from histofast.networks.verifying import PixelsIn
from histofast.networks.weights import fitting

__all__ = [
    "RENAMES",
    "AdoptedNetwork",
    "AnyNetwork",
    "Architecture",
    "BlockCut",
    "Cut",
    "Gradients",
    "LoadReport",
    "Network",
    "PixelsIn",
    "Recorder",
    "Stage",
    "TimmNetwork",
    "adopt",
    "block_cut",
    "block_of",
    "channels_last",
    "check_size",
    "create",
    "create_foundation",
    "drawn_anew",
    "encoder_file",
    "export",
    "export_cuts",
    "export_cuts_made",
    "export_encoder",
    "export_made",
    "feature_reuse",
    "fitting",
    "foundation_name",
    "frozen",
    "gradients",
    "layers",
    "names",
    "never_trained",
    "pick_device",
    "pooled_layer",
    "randomised",
    "read_weights",
    "renamed",
    "restore",
    "starts",
    "stem_of",
    "timm_args_of",
    "timm_name",
    "twin",
    "workers_on",
]


def __dir__() -> list[str]:
    return __all__
