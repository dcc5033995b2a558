"""How Keras Applications spells the layers of its networks, and what its names tell of a file.

All of its versions: ResNet50 of before 2019 (`res2a_branch2a`, `bn2a_branch2a`) and since
(`conv2_block1_1_conv`), DenseNet with slashes (`conv1/conv`) and without, InceptionV3 by counting.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import torch

State = dict[str, torch.Tensor]

_HEADS = r"(?P<head>fc1000|predictions|probs)"
_OLD_RESNET = re.compile(
    r"(?P<kind>res|bn)(?P<group>[2-5])(?P<block>[a-z])_branch(?P<branch>1|2[abc])"
)
_RESNET = re.compile(
    r"conv(?P<group>[2-5])_block(?P<block>\d{1,3})_(?P<part>[0-3])_(?P<kind>conv|bn)"
)
_DENSENET = re.compile(
    r"conv(?P<group>[2-5])_block(?P<block>\d{1,3})_(?P<part>[0-2])_(?P<kind>conv|bn)"
)
_TRANSITION = re.compile(r"pool(?P<group>[2-4])_(?P<kind>conv|bn)")
_COUNTED = re.compile(r"(?P<kind>conv2d|batch_normalization)_(?P<number>\d{1,6})")
_STEMS = {"conv1_conv": "conv0", "conv1_bn": "norm0", "bn": "norm5"}
_EPS = 1e-3  # of Keras
_EPS_OF_APPLICATIONS = 1.001e-5  # of its ResNet since 2019 and its DenseNet


def usual_eps(keys: Iterable[str]) -> float | None:
    """Return the BatchNorm eps that Keras Applications gives layers of these names; None: not Keras'."""
    for key in keys:
        layer = _layer(key.rpartition(".")[0])[1]
        if _OLD_RESNET.fullmatch(layer) or _COUNTED.fullmatch(layer):
            return _EPS
        if _RESNET.fullmatch(layer):
            return _EPS_OF_APPLICATIONS
    return None


def respelt(key: str, spelling: Callable[[str], str | None], *, head: str) -> str:
    """Return a key with its layer as our network spells it; as it is where that is no name of Keras'."""
    path, _, parameter = key.rpartition(".")
    above, layer = _layer(path)
    own = head if re.fullmatch(_HEADS, layer) else spelling(layer)
    return key if own is None else f"{above}{own}.{parameter}"


def resnet(layer: str) -> str | None:
    """Return our name for a layer of ResNet50."""
    if layer in ("conv1_conv", "conv1"):
        return "conv1"
    if layer in ("conv1_bn", "bn_conv1"):
        return "bn1"
    if old := _OLD_RESNET.fullmatch(layer):
        branch = "0abc".index(old["branch"][1:] or "0")
        block, is_conv = ord(old["block"]) - ord("a"), old["kind"] == "res"
    elif new := _RESNET.fullmatch(layer):
        branch, block, is_conv = int(new["part"]), int(new["block"]) - 1, new["kind"] == "conv"
        old = new
    else:
        return None
    where = f"layer{int(old['group']) - 1}.{block}"
    if branch == 0:
        return f"{where}.downsample.{0 if is_conv else 1}"
    return f"{where}.{'conv' if is_conv else 'bn'}{branch}"


def densenet(layer: str) -> str | None:
    """Return our name for a layer of DenseNet."""
    if layer in _STEMS:
        return _STEMS[layer]
    if match := _TRANSITION.fullmatch(layer):
        kind = "norm" if match["kind"] == "bn" else "conv"
        return f"transition{int(match['group']) - 1}.{kind}"
    match = _DENSENET.fullmatch(layer)
    if match is None:
        return None
    # The BatchNorms are 0 and 1, the convolutions 1 and 2.
    part = int(match["part"])
    inner = f"norm{part + 1}" if match["kind"] == "bn" else f"conv{part}"
    return f"denseblock{int(match['group']) - 1}.denselayer{match['block']}.{inner}"


def by_counting(convolutions: tuple[str, ...]) -> Callable[[str], str | None]:
    """Return the naming of a network whose n-th convolution and BatchNorm Keras names by n.

    Args:
        convolutions: where they are, each a module with `conv` and `bn`, in the order of building.
    """

    def named(layer: str) -> str | None:
        match = _COUNTED.fullmatch(layer)
        number = int(match["number"]) if match else 0
        if match is None or not 1 <= number <= len(convolutions):
            return None
        return f"{convolutions[number - 1]}.{'conv' if match['kind'] == 'conv2d' else 'bn'}"

    return named


def _layer(path: str) -> tuple[str, str]:
    """Return what encloses a layer, with its dot, and its name; DenseNet's `conv1/conv` as `conv1_conv`."""
    path = re.sub(r"(^|\.)conv1[/.](conv|bn)$", r"\1conv1_\2", path)
    above, dot, layer = path.rpartition(".")
    return above + dot, layer
