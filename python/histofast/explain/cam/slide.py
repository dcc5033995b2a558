"""A run of slides and a slide in; where within its patches the slide's prediction comes from, out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from histofast import report
from histofast._numbers import whole_number
from histofast._words import count, did_you_mean
from histofast.encoders import find, read_spec
from histofast.errors import ModelError
from histofast.explain.cam.bags import cams_of_bag
from histofast.explain.cam.definitions import NAMES, Method, check_method
from histofast.explain.cam.scores import rank_correlations
from histofast.explain.cam.worth import UNCHANGED
from histofast.explain.maps import AttentionMap, Scale, attention_map, check_look
from histofast.explain.runs import OnSlide, run_on_slide
from histofast.mil import BagModel
from histofast.networks import pick_device, restore
from histofast.patches import PatchReader

if TYPE_CHECKING:
    from histofast.pipeline import Progress

_SIDE_PX = 1000  # of a picture on the page


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where a slide and its run lie, and a folder of the slide's features, None where there is none."""

    slide: str
    run: Path
    features: Path | None


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
        source: what it was made from.
    """

    method: Method
    layer: str
    shown_class: str
    map: AttentionMap
    null: AttentionMap
    agreement: float
    source: Source


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
        features, encoder, fold, patch_l0, mpp_override, allow_upsampling, on_progress: as `attention_of_run`.
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
            encoder=encoder,
            fold=fold,
            patch_l0=patch_l0,
            mpp_override=mpp_override,
            allow_upsampling=allow_upsampling,
            on_progress=on_progress,
        ) as found,
        PatchReader([found.slide.path]) as reader,
    ):
        models = [model for k, model in enumerate(found.run.models()) if k in found.folds]
        bag = np.array(found.file.features, np.float32, order="C")
        number = _number(found, models, bag, class_name)
        made = cams_of_bag(
            _network(found, encoder).to(pick_device(device)),
            models,
            features=bag,
            read=partial(reader.read, found.file),
            number=number,
            methods=[chosen],
            layer=layer,
            seed=seed,
        )
        shown_class, name = _named(found, chosen, number)
        drawn = _drawn(found, made.maps[chosen], name=name, scale=scale, alpha=alpha)
        return SlideCam(
            method=chosen,
            layer=made.layer,
            shown_class=shown_class,
            map=drawn,
            null=drawn.with_values(made.null[chosen].ravel(), name=f"{name}, weights drawn anew"),
            agreement=_agreement(made.maps[chosen], made.null[chosen]),
            source=_source(found, features),
        )


def _named(found: OnSlide, method: Method, number: int) -> tuple[str, str]:
    """Return the name of the class, "" of a value or a risk, and that of its map."""
    shown_class = found.run.classes[number] if found.run.classes else ""
    return shown_class, NAMES[method] + (f" of {shown_class}" if shown_class else "")


def _source(found: OnSlide, features: str | Path | None) -> Source:
    """Return what stays: of features those that were given, or the run's own."""
    own = dict(zip(found.run.names, found.run.paths, strict=True)).get(found.slide.name)
    file = Path(features) if features is not None else own
    folder = file.parent if file is not None and file.is_file() else None
    return Source(slide=str(found.slide.path), run=found.run.path, features=folder)


def _agreement(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    return float(rank_correlations(one.reshape(1, 1, -1), other.reshape(1, 1, -1))[0])


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


def _number(
    found: OnSlide, models: Sequence[BagModel], bag: NDArray[np.float32], class_name: str | None
) -> int:
    """Return the number of the output to explain."""
    classes = found.run.classes
    if class_name is None:
        with torch.inference_mode():
            outputs = torch.stack([model(torch.from_numpy(bag)).output for model in models])
        return int(outputs.softmax(1).mean(0).argmax()) if classes else 0
    if class_name not in classes:
        raise ValueError(
            f"class_name must be of the run ({', '.join(classes) or 'which has none'}), got {class_name!r}"
            f"{did_you_mean(class_name, classes)}"
        )
    return classes.index(class_name)


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
    return report.save(_answer(found, command, _look(found, folder)), folder)


def _look(found: SlideCam, folder: Path) -> str:
    """Return how the slide is opened where the map is highest."""
    shown = found.map
    x, y = (shown.coords_l0[shown.values.argmax()] + shown.patch_l0 // 2).tolist()
    return report.view_command(
        found.source.slide,
        features=found.source.features,
        run=found.source.run,
        explain=folder,
        at={"slide": shown.slide, "x": x, "y": y},
    )


def _answer(found: SlideCam, command: str, look: str) -> report.Answer:
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
            f"The map and that of one encoder and its models with all weights drawn anew have a rank correlation of "
            f"{agreement}"
            + (": how much of this map was learnt is in doubt." if unchanged else "."),
        ),
        limits=(
            "A map says where the output of these models comes from, not where the disease is.",
            "The null is of one draw of weights, which is no level of chance: another seed gives another.",
            "How attention itself moves with the pixels is not in it: attention is held where it is.",
            "Colours of two maps are not to be compared: each has a scale of its own.",
        ),
        figures=(report.Figure(name="maps", panels=pictures, stacked=True),),
        commands=(
            *((("This map", command),) if command else ()),
            ("Look at the slide where the map is highest", look),
        ),
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
