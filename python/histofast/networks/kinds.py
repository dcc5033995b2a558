"""What a network is here, whatever it comes of: one type for all that takes any."""

from __future__ import annotations

from histofast.networks.adopted import AdoptedNetwork
from histofast.networks.network import Network
from histofast.networks.timm import TimmNetwork

AnyNetwork = Network | TimmNetwork | AdoptedNetwork
