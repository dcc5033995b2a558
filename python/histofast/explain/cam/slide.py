"""A run of slides and a slide in; where within its patches the slide's prediction comes from, out.

With attention a_i held where it is, a slide's output is sum_i a_i v_i of what is said of each patch alone, and
its gradient by the maps of patch i is a_i times that of v_i: attention times the patch's own map.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from histofast import report
from histofast._numbers import whole_number
from histofast._stopping import stop_if_asked
from histofast._words import count, did_you_mean
from histofast.encoders import find, read_spec
from histofast.errors import ModelError
from histofast.explain.cam.capture import BATCH, as_maps
from histofast.explain.cam.definitions import METHODS, NAMES, Method, check_method
from histofast.explain.cam.scores import rank_correlations
from histofast.explain.cam.worth import UNCHANGED
from histofast.explain.maps import AttentionMap, Scale, attention_map, check_look
from histofast.explain.runs import OnSlide, run_on_slide
from histofast.mil import BagModel, create
from histofast.networks import Recorder, gradients, pick_device, restore, twin
from histofast.patches import PatchReader

if TYPE_CHECKING:
    from histofast.pipeline import Progress

_AGREE = 1e-3  # of what is said of a patch, how far the weighted mean may be off
_SIDE_PX = 1000  # of a picture on the page
_CHUNK = 256  # patches whose graphs are held at a time

Read = Callable[[NDArray[np.int64]], NDArray[np.uint8]]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SlideCam:
    """A slide's class activation map, and its null.

    Attributes:
        method: of the maps.
        layer: of the network.
        shown_class: name of the class; "" for a value or a risk.
        map: of the run's models and encoder, a value for each place of a patch.
        null: the same of an encoder and models with all weights drawn anew.
        agreement: rank correlation of the two.
    """

    method: Method
    layer: str
    shown_class: str
    map: AttentionMap
    null: AttentionMap
    agreement: float


def cam_of_slide(
    run: str | Path,
    slide: str | Path,
    *,
    method: str = "hirescam",
    layer: str | None = None,
    class_name: str | None = None,
    encoder: str | Path | None = None,
    features: str | Path | None = None,
    fold: int | None = None,
    patch_l0: int | None = None,
    mpp_override: float | None = None,
    allow_upsampling: bool = False,
    scale: Scale = "minmax",
    alpha: float = 0.5,
    seed: int = 0,
    device: str = "auto",
    on_progress: Callable[[Progress], None] | None = None,
) -> SlideCam:
    """Show where on a slide, finer than its patches, a prediction comes from.

    A map's values are attention times the patch's class activation map, on average over the models.

    Args:
        run: folder of `train`, of a model that attends to patches and scores each (attention, gated).
        slide: the slide.
        method: "gradcam", "gradcam++" or "hirescam".
        layer: of the encoder's network; None: the last stage.
        class_name: of the run; None: the one that the slide is predicted to be.
        encoder: file that the run's features were made with; None: found by its name.
        features, fold, patch_l0, mpp_override, allow_upsampling, on_progress: as `attention_of_run`.
        scale, alpha: as `attention_map`.
        seed: of the weights drawn anew.
        device: where the network runs.

    Raises:
        ValueError: no such method or class; a model whose output is no weighted mean of its patches'.
        ModelError: an encoder that cannot be made a network again, or another one than the run's; a layer
            without a map.
        As `attention_of_run`.

    Determinism: by the device and the seed.
    """
    chosen = check_method(method)
    patch_l0 = whole_number("patch_l0", patch_l0, at_least=1)
    check_look(scale=scale, alpha=alpha, mpp=None)
    with (
        run_on_slide(
            run,
            slide,
            features=features,
            fold=fold,
            patch_l0=patch_l0,
            mpp_override=mpp_override,
            allow_upsampling=allow_upsampling,
            on_progress=on_progress,
        ) as found,
        PatchReader([found.slide.path]) as reader,
    ):
        bag = torch.from_numpy(np.array(found.file.features, np.float32, order="C"))
        models = [found.run.models()[k] for k in found.folds]
        number = _number(found, models, bag, class_name)
        network = _network(found, encoder).to(pick_device(device))
        recorder = Recorder(network, [network.layer if layer is None else layer])
        read = partial(reader.read, found.file)
        whole = _maps(recorder, models, bag, read, method=chosen, number=number)
        null = _null(recorder, models, read, n=len(bag), method=chosen, number=number, seed=seed)
        shown_class = found.run.classes[number] if found.run.classes else ""
        name = NAMES[chosen] + (f" of {shown_class}" if shown_class else "")
        drawn = [
            _drawn(found, values, name=label, scale=scale, alpha=alpha)
            for values, label in ((whole, name), (null, f"{name}, weights drawn anew"))
        ]
    return SlideCam(
        method=chosen,
        layer=recorder.names[0],
        shown_class=shown_class,
        map=drawn[0],
        null=drawn[1],
        agreement=float(rank_correlations(whole.reshape(1, 1, -1), null.reshape(1, 1, -1))[0]),
    )


def _null(
    recorder: Recorder,
    models: Sequence[BagModel],
    read: Read,
    *,
    n: int,
    method: Method,
    number: int,
    seed: int,
) -> NDArray[np.float64]:
    """Return what encoder and models show whose weights are all drawn anew."""
    other = Recorder(twin(recorder.network, seed=seed), recorder.names)
    anew = [
        create(model.name, d=model.d, outputs=model.outputs, seed=seed + k, **model.options)
        for k, model in enumerate(models)
    ]
    bag = _encoded(other, n, read)
    return _maps(other, anew, bag, read, method=method, number=number)


def _network(found: OnSlide, encoder: str | Path | None) -> Any:
    """Return the network that made the features."""
    made = found.run.encoder
    name = str(made.get("name", "")) if encoder is None else encoder
    sha256 = read_spec(find(name)).sha256
    wanted = made.get("sha256")
    if wanted is not None and sha256 != wanted:
        raise ModelError(
            f"encoder must be {made.get('name')} (sha256 {str(wanted)[:12]}), the run's, got one of sha256 "
            f"{sha256[:12]}"
        )
    return restore(find(name))


def _number(found: OnSlide, models: Sequence[BagModel], bag: Tensor, class_name: str | None) -> int:
    """Return the number of the output to explain."""
    classes = found.run.classes
    if class_name is None:
        with torch.inference_mode():
            outputs = torch.stack([model(bag).output for model in models])
        return int(outputs.softmax(1).mean(0).argmax()) if classes else 0
    if class_name not in classes:
        raise ValueError(
            f"class_name must be of the run ({', '.join(classes) or 'which has none'}), got {class_name!r}"
            f"{did_you_mean(class_name, classes)}"
        )
    return classes.index(class_name)


def _batches(n: int) -> Iterator[NDArray[np.int64]]:
    for first in range(0, n, BATCH):
        stop_if_asked()
        yield np.arange(first, min(n, first + BATCH))


def _encoded(recorder: Recorder, n: int, read: Read) -> Tensor:
    """Return (n, d) what a network gives for all patches."""
    parts = [torch.from_numpy(recorder.run(read(r), lambda *_: None)) for r in _batches(n)]
    return torch.cat(parts)


def _maps(
    recorder: Recorder,
    models: Sequence[BagModel],
    bag: Tensor,
    read: Read,
    *,
    method: Method,
    number: int,
) -> NDArray[np.float64]:
    """Return (n, h, w) attention times the map of each patch, the mean over models."""
    told = [attention_and_slopes(model, bag, number=number) for model in models]
    layer, found = recorder.names[0], []
    for rows in _batches(len(bag)):
        pixels = read(rows)
        slopes = [slope[rows] for _, slope in told]
        out = gradients(recorder, pixels, partial(_along, slopes))
        size = pixels.shape[1:3]
        maps = as_maps(recorder.network, layer, out.activations[layer], size)
        total = torch.zeros(())
        for (attention, _), slope in zip(told, out.gradients, strict=True):
            cam = METHODS[method](maps, as_maps(recorder.network, layer, slope[layer], size))
            total = total + attention[rows, None, None] * cam.double().cpu()
        found.append((total / len(told)).numpy())
    joined: NDArray[np.float64] = np.concatenate(found)
    return joined


def _along(slopes: Sequence[Tensor], output: Tensor) -> list[Tensor]:
    return [slope.to(output) for slope in slopes]


def attention_and_slopes(model: BagModel, bag: Tensor, *, number: int) -> tuple[Tensor, Tensor]:
    """Return attention and how what a model says of each patch alone moves with its features.

    Args:
        model: in evaluation mode.
        bag: (n, d) float32.
        number: of the output.

    Returns:
        (n,) float64 a_i, and (n, d) gradients of v_i, what the model says of a slide of patch i alone.

    Raises:
        ValueError: a model without attention, or whose output is not sum_i a_i v_i.
    """
    were = [p for p in model.parameters() if p.requires_grad]
    try:
        for parameter in were:
            parameter.requires_grad_(False)
        with torch.inference_mode(False), torch.enable_grad():
            features = bag.detach().clone()
            whole = model(features)
            parts = [_alone(model, part, number) for part in features.split(_CHUNK)]
    finally:
        for parameter in were:
            parameter.requires_grad_(True)
    said, slopes = (torch.cat(each) for each in zip(*parts, strict=True))
    output = float(whole.output[number])
    off = 1.0
    if whole.attention is not None:
        added = float((whole.attention.double() * said.double()).sum())
        off = abs(added - output) / (1e-6 + float(said.abs().max()))
    if off > _AGREE:
        raise ValueError(
            "method must be of a run whose models say of a slide the mean of what they say of its patches, "
            f"weighted by attention, got {model.name}: train one of attention or gated"
        )
    assert whole.attention is not None
    return whole.attention.double(), slopes


def _alone(model: BagModel, part: Tensor, number: int) -> tuple[Tensor, Tensor]:
    features = part.clone().requires_grad_()
    said = torch.stack([model(features[i : i + 1]).output[number] for i in range(len(part))])
    (slope,) = torch.autograd.grad(said.sum(), features)
    return said.detach(), slope


def _drawn(
    found: OnSlide, values: NDArray[np.float64], *, name: str, scale: Scale, alpha: float
) -> AttentionMap:
    """Put the places of all patches onto the slide, each as a square."""
    _, h, w = values.shape
    rows, columns = np.meshgrid(np.arange(h), np.arange(w), indexing="ij")
    within = np.stack([columns.ravel() / w, rows.ravel() / h], 1) * found.patch_l0  # (h * w, 2)
    places = found.coords_l0[:, None] + np.floor(within).astype(np.int64)
    made = attention_map(
        found.slide,
        values.ravel(),
        coords_l0=places.reshape(-1, 2),
        patch_l0=-(-found.patch_l0 // max(h, w)),
        name=name,
        scale=scale,
        alpha=alpha,
    )
    return dataclasses.replace(made, folds=found.folds, stem="cam")


def save(
    found: SlideCam, folder: str | Path, *, overwrite: bool = False, command: str = ""
) -> Path:
    """Write the map's files into a folder, those of its null into null/ within, and a page of both.

    Args:
        found: what to write.
        folder: made where there is none.
        overwrite: replace files of these names.
        command: that made it, for the page.

    Returns:
        The page's path.

    Raises:
        As `AttentionMap.save`.
    """
    folder = Path(folder)
    found.map.save(folder, overwrite=overwrite)
    found.null.save(folder / "null", overwrite=overwrite)
    return report.save(_answer(found, command), folder)


def _answer(found: SlideCam, command: str) -> report.Answer:
    what = f"{found.map.name}, layer {found.layer}"
    pictures = tuple(
        report.Picture(
            pixels=_smaller(each.overlay()),
            title=each.name[:1].upper() + each.name[1:],
            caption="From its lowest to its highest value, grey under the colours."
            if each.scale == "minmax"
            else "",
            alt=f"{each.name} on {each.slide}",
        )
        for each in (found.map, found.null)
    )
    agreement = "undefined" if np.isnan(found.agreement) else report.number(found.agreement)
    unchanged = found.agreement > UNCHANGED
    return report.Answer(
        name="slide",
        title=f"Where the prediction of {found.map.slide} comes from",
        basis=f"{count(len(found.map.values), 'place')} of patches, {what}; {count(len(found.map.folds), 'model')}",
        findings=(
            f"The map and that of an encoder and models with all weights drawn anew have a rank correlation of "
            f"{agreement}"
            + (": this map hardly depends on what was learnt." if unchanged else "."),
        ),
        limits=(
            "A map says where the output of these models comes from, not where the disease is.",
            "How attention itself moves with the pixels is not in it: attention is held where it is.",
            "Colours of two maps are not to be compared: each has a scale of its own.",
        ),
        figures=(report.Figure(name="maps", panels=pictures, stacked=True),),
        commands=(("This map", command),) if command else (),
        method={
            "value of a place": "attention to its patch times the patch's class activation map, mean over models",
            "null": "encoder and models of the same form, all weights drawn anew, the encoder's features for them",
            "scale": found.map.scale,
        },
    )


def _smaller(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return every k-th pixel of a picture, so that its longer side is at most 1,000."""
    k = -(-max(pixels.shape[:2]) // _SIDE_PX)
    return pixels[::k, ::k]
