"""Networks of timm, under the names `timm:...`: built, and cut at timm's own feature stages.

timm knows how each of its models wants its pixels; the rest is as with the networks of our own.
timm is imported only for such names.
"""

# mypy: allow-subclassing-any
from __future__ import annotations

import hashlib
import inspect
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from histofast._words import did_you_mean, first_line
from histofast.encoders import NOT_STATED, RANDOM, sha256_of
from histofast.errors import ModelError
from histofast.networks.conv_stem import ConvStem
from histofast.networks.known import no_such
from histofast.networks.network import Cut, LoadReport, StandardisedBy
from histofast.networks.reading import read_weights
from histofast.networks.timm_cuts import Work, features_at, places_of, prune, work_of
from histofast.networks.timm_names import PREFIX, Value, parted
from histofast.networks.timm_positions import resample_positions
from histofast.networks.weights import load_weights

HUB = "hub"  # instead of a weights file: download what timm names
WHOLE = "features"  # the name of what timm itself calls the features of a model


class TimmNetwork(nn.Module):
    """A model of timm up to a cut, with what an export needs to know of it.

    Input (n, 3, `input_px`, `input_px`) float32, standardised with `mean` and `std`; output (n, d)
    float32: what timm pools at the end of a whole model (its logits if it has a head), at a cut
    what `timm_cuts` says. The argument `global_pool='cls+mean'`, which timm has not, is the class
    token and the mean of the patches' tokens, without registers, one after the other. Two more arguments
    are ours: `norm_eps`, of all LayerNorms, and `cropped_from_px`, the side of the pictures that it takes
    and sees the centre of.
    """

    prefix = "model."  # before timm's own keys in the state dict
    head = ""
    stage_keys: tuple[str, ...] = ()

    def __init__(self, architecture: str, model: nn.Module, *, layer: str, classes: int) -> None:
        super().__init__()
        config: dict[str, Any] = model.pretrained_cfg
        self.model = model
        self.architecture = architecture
        self.layer = layer
        self.classes = classes
        self.mean: tuple[float, float, float] = tuple(config["mean"])
        self.std: tuple[float, float, float] = tuple(config["std"])
        self.standardised_by: StandardisedBy = "network"
        arguments = parted(architecture)[1]
        self._seen_px = _side_of(model)
        self.input_px: int = _taken_px(arguments, self._seen_px)
        self.loaded: LoadReport | None = None
        self.origin = self.licence = RANDOM
        self.mpp: float | None = None  # that the weights are meant for, where it is known
        places = places_of(model)
        self._cut = next((place for place in places if place.name == layer), None)
        self._places = {
            place.name: place
            for place in places
            if self._cut is None
            or (place.at <= self._cut.at and (self._cut.norm or not place.norm))
        }
        self._pools_both = _pools_both(arguments)
        if self._cut is None:
            self.d = classes or int(model.head_hidden_size) * (1 + self._pools_both)
        else:
            self.d = self._cut.d
            prune(model, self._cut)

    @property
    def weights_sha256(self) -> str | None:
        """The SHA-256 of the weights, or None for random ones."""
        return None if self.loaded is None else self.loaded.sha256

    @property
    def stage_names(self) -> tuple[str, ...]:
        """The cuts that it has, in order; the last one of a whole model is that."""
        return (*self._places, *([WHOLE] if self._cut is None else []))

    def work_of(self, layer: str) -> str:
        """Return what one of its cuts takes, as `encoders.EncoderMetadata` keeps it."""
        return next(cut.work for cut in timm_layers(self.architecture) if cut.name == layer)

    def width_of(self, layer: str) -> int:
        """Return how many features one of its cuts has."""
        return self._places[layer].d if layer in self._places else self.d

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self._cut is None:
            return self._read(self.model(self._seen(x)))
        (features,), _ = features_at(self.model, [self._cut], self._seen(x))
        return features

    def features_of(self, layers: Sequence[str], x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the features of several of its cuts from one run, (n, d) each."""
        places = [self._places[layer] for layer in layers if layer != WHOLE]
        if not places:
            return (self.forward(x),)
        features, last = features_at(self.model, places, self._seen(x), whole=WHOLE in layers)
        found = dict(zip((place.name for place in places), features, strict=True))
        if last is not None:
            found[WHOLE] = self._read(last)
        return tuple(found[layer] for layer in layers)

    def _seen(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the model sees of pictures."""
        if self.input_px == self._seen_px:
            return x
        start = (self.input_px - self._seen_px) // 2
        return x[:, :, start : start + self._seen_px, start : start + self._seen_px]

    def _read(self, features: torch.Tensor) -> torch.Tensor:
        """Return the features of what the whole model gives."""
        if not self._pools_both:
            return features
        patches = features[:, self.model.num_prefix_tokens :]  # (n, tokens, d)
        return torch.cat([features[:, 0], patches.mean(1)], 1)


class TimmCuts(nn.Module):
    """A model of timm that gives the features of several of its cuts from one run, (n, d) each.

    `network` is built up to the last of them or beyond, `layers` are of its `stage_names`.
    """

    def __init__(self, network: TimmNetwork, layers: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self.layers = tuple(layers)
        self.architecture = network.architecture
        self.mean, self.std = network.mean, network.std

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.network.features_of(self.layers, x)


def timm_layers(name: str) -> tuple[Cut, ...]:
    """Return where a model of timm can be cut; the last cut is the whole, as timm pools it.

    Vision transformers are cut after their blocks: `block1`, the mean of the patches' tokens, and on;
    `block1-cls`, the class token, and `block1-cls+mean`, both; each with `-no-norm`, without the model's
    last norm.

    Raises:
        ModelError: timm has no such model.
    """
    return _layers(name)


@cache
def _layers(name: str) -> tuple[Cut, ...]:
    whole = _shapes_only(name)
    places = places_of(whole.model)
    work, all_work = work_of(whole.model, places, side_px=_side_of(whole.model))
    cuts = [_cut(place.name, place.d, work[place.name], all_work) for place in places]
    return (*cuts, _cut(WHOLE, whole.d, all_work, all_work))


def _cut(name: str, d: int, work: Work, all_work: Work) -> Cut:
    return Cut(
        name=name,
        d=d,
        gmac=work.multiply_adds / 1e9,
        flops_share=work.multiply_adds / all_work.multiply_adds,
        parameters=work.parameters,
        parameters_share=work.parameters / all_work.parameters,
    )


def check_layer(name: str, layer: str) -> None:
    """Refuse a place at which a model of timm cannot be cut.

    Raises:
        ModelError: timm has no such model, or it has no such cut; near ones are offered.
    """
    stages = (*(place.name for place in places_of(_shapes_only(name).model)), WHOLE)
    if layer not in stages:
        raise ModelError(no_such("layer", layer, stages, of=f" of {name}"))


def create_timm(
    name: str,
    *,
    weights: str | os.PathLike[str] | None,
    layer: str | None,
    classes: int,
    seed: int,
    partial: bool,
    state: dict[str, torch.Tensor] | None = None,
    sha256: str = "",
) -> TimmNetwork:
    """Build a model of timm up to a cut; see `create`, whose arguments these are.

    `state` is what was read from `weights`, where its keys had to become timm's first, and `sha256` the
    file's, where it is known already.

    Raises:
        FileNotFoundError, ModelError, ValueError: as `create`; also when `timm` is not installed or
            the hub cannot be reached.
    """
    whole = _shapes_only(name, classes)
    layer = WHOLE if layer is None else layer
    check_layer(name, layer)
    if classes and layer != WHOLE:
        raise ValueError(f"classes must be 0 for a cut of {name}, got {classes}")
    is_sequence = getattr(whole.model, "global_pool", None) == ""
    if layer == WHOLE and is_sequence and not _pools_both(parted(name)[1]):
        raise ModelError(
            f"global_pool='' gives no features but a sequence or maps: leave it out of {name}, or say "
            "token, avg or cls+mean"
        )
    from_hub = weights is not None and os.fspath(weights) == HUB
    if state is None and weights is not None and not from_hub:
        state = read_weights(Path(weights))
    side = None
    if state is not None:
        assert weights is not None
        sha256 = sha256 or sha256_of(Path(weights))
        side = resample_positions(state, whole.model, _timm().layers.resample_abs_pos_embed)
    if state is not None and not partial:
        found = _filled(whole, state, sha256=sha256, layer=layer, where=str(weights))
        if found is not None:
            return _told(found, side)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _model(name, classes, pretrained=from_hub)
    network = TimmNetwork(name, model, layer=layer, classes=classes)
    if from_hub:
        network.loaded = _hub_report(network)
        config = model.pretrained_cfg
        source = config.get("hf_hub_id") or config.get("url") or "its hub"
        network.origin = f"timm {_timm().__version__}: {source}"
        network.licence = config.get("license") or NOT_STATED
    elif state is not None:
        network.loaded = load_weights(
            network,
            state,
            whole=whole,
            sha256=sha256,
            partial=partial,
            where=str(weights),
        )
        network.origin = network.licence = NOT_STATED
    network.eval()
    return _told(network, side)


def _told(network: TimmNetwork, side: int | None) -> TimmNetwork:
    """Return a network that says what grid of patches its file's positions were resampled from."""
    if network.loaded is not None:
        network.loaded = replace(network.loaded, positions_of=side)
    return network


def _filled(
    whole: TimmNetwork, state: dict[str, torch.Tensor], *, sha256: str, layer: str, where: str
) -> TimmNetwork | None:
    """Return a network that has the tensors of a file for its own, so that they are in memory once.

    None where the file does not bring all that is in it: what it lacks must be made as timm does.
    """
    with torch.device("meta"):
        model = _model(whole.architecture, whole.classes)
    network = TimmNetwork(whole.architecture, model, layer=layer, classes=whole.classes)
    network.loaded = load_weights(
        network,
        state,
        whole=whole,
        sha256=sha256,
        partial=False,
        where=where,
        takes_over=True,
    )
    network.origin = network.licence = NOT_STATED
    network.eval()
    own = (*network.parameters(), *network.buffers())
    return None if any(tensor.is_meta for tensor in own) else network


def _timm() -> Any:
    try:
        import timm
    except (ImportError, RuntimeError) as error:  # torchvision raises both beside another torch
        raise ModelError(
            f"timm cannot be imported ({error}): pip install 'histofast[timm]', with a torchvision "
            "that fits torch"
        ) from None
    return timm


_BOTH = "cls+mean"
_EPS, _CROPPED = _OURS = ("norm_eps", "cropped_from_px")
# Arguments that are classes in timm, by their names there.
_MLPS = ("Mlp", "GluMlp", "GatedMlp", "SwiGLU", "SwiGLUPacked", "ConvMlp", "GlobalResponseNormMlp")
_STEMS = {"ConvStem": ConvStem}  # ours


def _model(name: str, classes: int, *, pretrained: bool = False) -> nn.Module:
    timm = _timm()
    of_timm, arguments = parted(name)
    on_hub = of_timm.startswith(("hf-hub:", "hf_hub:", "local-dir:"))
    if not on_hub and not timm.is_model(of_timm):
        near = did_you_mean(of_timm, timm.list_models())
        raise ModelError(f"timm {timm.__version__} has no model {of_timm!r}{near}")
    given = {key: _class_of(key, value) for key, value in arguments.items() if key not in _OURS}
    if _pools_both(arguments):
        given["global_pool"] = ""
        if classes:
            raise ValueError(f"classes must be 0 with global_pool='{_BOTH}', got {classes}")
    refused = (TypeError, KeyError, AttributeError, AssertionError, IndexError, ZeroDivisionError)
    try:
        model: nn.Module = timm.create_model(
            of_timm, pretrained=pretrained, num_classes=classes, **given
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelError(
            f"timm cannot make {name.removeprefix(PREFIX)}: {first_line(error)}"
        ) from None
    except refused as error:
        if not given:
            raise
        raise ModelError(_refusal(of_timm, arguments, error)) from None
    if _pools_both(arguments) and getattr(model, "cls_token", None) is None:
        raise ModelError(f"{of_timm} has no class token for global_pool='{_BOTH}': say avg")
    if _EPS in arguments:
        _set_norm_eps(model, of_timm, arguments[_EPS])
    return model.eval()


def _set_norm_eps(model: nn.Module, of_timm: str, eps: Value) -> None:
    """Give all LayerNorms an eps, which timm takes for none of its models."""
    if not isinstance(eps, float) or not 0 < eps < 1:
        raise ValueError(f"{_EPS} must be a number in 0..1, got {eps!r}")
    norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    if not norms:
        raise ModelError(f"{of_timm} has no LayerNorm for {_EPS}: leave it out")
    for norm in norms:
        norm.eps = eps


def _taken_px(arguments: Mapping[str, Value], seen_px: int) -> int:
    """Return the side of the pictures that a network takes, of which it sees the centre."""
    taken_px = arguments.get(_CROPPED, seen_px)
    if type(taken_px) is not int or taken_px < seen_px or (taken_px - seen_px) % 2:
        raise ValueError(
            f"{_CROPPED} must be {seen_px} px, which the network sees, and an even number more, got {taken_px!r}"
        )
    return taken_px


def _pools_both(arguments: Mapping[str, Value]) -> bool:
    return arguments.get("global_pool") == _BOTH


def _class_of(key: str, value: Value) -> Any:
    """Return an argument as timm wants it: of a closed list of names the class, else as it is."""
    layers: Any = _timm().layers
    if not isinstance(value, str):
        return value
    if key == "embed_layer":
        if value not in _STEMS:
            raise ModelError(no_such("embed_layer", value, _STEMS, of=""))
        return _STEMS[value]
    if key == "mlp_layer":
        if value not in _MLPS:
            raise ModelError(no_such("mlp_layer", value, _MLPS, of=" of timm"))
        return getattr(layers, value)
    found = {"act_layer": layers.get_act_layer, "norm_layer": layers.get_norm_layer}.get(key)
    if found is None:
        return value
    try:
        return found(value)
    except KeyError:
        raise ModelError(
            f"{key} must be called as in timm, such as gelu, silu, layernorm, got {value!r}"
        ) from None


def _refusal(of_timm: str, arguments: Mapping[str, Value], error: Exception) -> str:
    """Say which argument a model does not have, or what it makes of them."""
    unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if unknown and unknown[1] in arguments:
        with torch.device("meta"):
            kind = type(_timm().create_model(of_timm))
        known = set(inspect.signature(kind.__init__).parameters) - {"self", "kwargs"}
        return f"{of_timm} of timm has no argument {unknown[1]!r}{did_you_mean(unknown[1], known)}"
    listed = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    return f"timm cannot make {of_timm} with {listed}: {first_line(error)}"


def _side_of(model: nn.Module) -> int:
    """Return the side of the pictures that a model is made for, as its arguments have it."""
    side = getattr(getattr(model, "patch_embed", None), "img_size", None)
    sides = side if isinstance(side, tuple | list) else (side,)
    if side is None:
        sides = model.pretrained_cfg["input_size"][1:]
    if len(set(sides)) > 1:
        raise ModelError(f"img_size must be that of a square, got {tuple(sides)}")
    return int(sides[0])


@cache
def _shapes_only(name: str, classes: int = 0) -> TimmNetwork:
    with torch.device("meta"):
        model = _model(name, classes)
    return TimmNetwork(name, model, layer=WHOLE, classes=classes)


def _hub_report(network: TimmNetwork) -> LoadReport:
    digest = hashlib.sha256()
    for key, value in sorted(network.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.contiguous().numpy().tobytes())
    return LoadReport(
        sha256=digest.hexdigest(),
        prefix="",
        head="loaded" if network.classes else "none",
        dropped=(),
        missing=(),
        unexpected=(),
    )
