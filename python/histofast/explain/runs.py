"""A run and a slide in, what the run's models look at on the slide out."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from histofast._numbers import whole_number
from histofast.errors import FeatureError, ModelError, SlideError
from histofast.explain.maps import AttentionMap, Scale, attention_map, check_look
from histofast.features import FeatureFile, read_features, read_identity
from histofast.learning import unseen_folds
from histofast.slides import Slide, open_slide

if TYPE_CHECKING:
    from histofast.mil import Run
    from histofast.pipeline import Progress

_ENLARGED = 0.99  # um per pixel asked for, over the slide's own, below which pixels are made up


def attention_of_run(
    run: str | Path,
    slide: str | Path,
    *,
    features: str | Path | None = None,
    encoder: str | Path | None = None,
    fold: int | None = None,
    patch_l0: int | None = None,
    mpp_override: float | None = None,
    allow_upsampling: bool = False,
    scale: Scale = "rank",
    alpha: float = 0.5,
    on_progress: Callable[[Progress], None] | None = None,
) -> AttentionMap:
    """Put what the models of a run look at onto a slide.

    Args:
        run: folder of `train`.
        slide: the slide.
        features: its feature file; when None the slide is encoded as those of the run were.
        encoder: file that the run's features were made with; None: found by its name.
        fold: whose model to take; when None, those that did not see the slide, or else all.
        patch_l0: side of a patch in level-0 pixels, where the feature file does not tell it.
        mpp_override: level-0 um per pixel of the slide, instead of what it says.
        allow_upsampling: encode a slide that is coarser than the patches of the run; taken as said
            where the run's own were made so.
        scale: see `attention_map`.
        alpha: see `attention_map`.
        on_progress: see `extract`.

    Returns:
        The map; its `folds` are those whose models were taken.

    Raises:
        TypeError, ValueError: an argument out of range; a run that does not tell how its features
            were made, and no `features`.
        FileNotFoundError, SlideError, ModelError, FeatureError: what cannot be read or used, or is
            of another slide or encoder.
        KeyboardInterrupt: encoding was interrupted.
    """
    from histofast.mil import attention_of

    patch_l0 = whole_number("patch_l0", patch_l0, at_least=1)
    check_look(scale=scale, alpha=alpha, mpp=None)
    with run_on_slide(
        run,
        slide,
        features=features,
        encoder=encoder,
        fold=fold,
        patch_l0=patch_l0,
        mpp_override=mpp_override,
        allow_upsampling=allow_upsampling,
        on_progress=on_progress,
    ) as found:
        made = attention_map(
            found.slide,
            attention_of(found.run, found.file.features, folds=found.folds),
            coords_l0=found.coords_l0,
            patch_l0=found.patch_l0,
            scale=scale,
            alpha=alpha,
        )
    return replace(made, folds=found.folds)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class OnSlide:
    """A run and the features of a slide that fit it.

    Attributes:
        run: whose models look.
        slide: open as long as the context lasts.
        folds: of the models to take.
        file: features of the slide.
        coords_l0: (n, 2) int64 level-0 (x, y) of the patches.
        patch_l0: their side, level-0 px.
    """

    run: Run
    slide: Slide
    folds: tuple[int, ...]
    file: FeatureFile
    coords_l0: NDArray[np.int64]
    patch_l0: int


@contextmanager
def run_on_slide(
    run: str | Path,
    slide: str | Path,
    *,
    features: str | Path | None,
    encoder: str | Path | None,
    fold: int | None,
    patch_l0: int | None,
    mpp_override: float | None,
    allow_upsampling: bool,
    on_progress: Callable[[Progress], None] | None,
) -> Iterator[OnSlide]:
    """Open a run and a slide, and the slide's features, which are made where there are none.

    Args:
        run, slide, features, encoder, fold, patch_l0, mpp_override, allow_upsampling, on_progress:
            as `attention_of_run`.

    Raises:
        As `attention_of_run`.
    """
    from histofast.mil import open_run

    with open_slide(slide, mpp_override=mpp_override) as opened, ExitStack() as stack:
        asked = open_run(run)
        folds = _folds(asked, opened.name, fold)
        if features is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="histofast-"))
            features = _encode(
                asked,
                _made_of(asked, run),
                opened,
                Path(folder),
                encoder=encoder,
                mpp_override=mpp_override,
                allow_upsampling=allow_upsampling,
                on_progress=on_progress,
            )
        file = read_features(features)
        coords_l0, side_l0 = _checked(file, asked, opened, patch_l0)
        yield OnSlide(
            run=asked,
            slide=opened,
            folds=folds,
            file=file,
            coords_l0=coords_l0,
            patch_l0=side_l0,
        )


def _folds(run: Run, slide: str, fold: int | None) -> tuple[int, ...]:
    """Choose the models: those that did not see the slide, where there are any."""
    if fold is not None:
        n = len(run.folds)
        fold = whole_number("fold", fold)
        if not 0 <= fold < n:
            raise ValueError(f"fold must be within 0..{n - 1}, the folds of the run, got {fold}")
        return (fold,)
    return unseen_folds(slide, names=run.names, folds=run.folds)


def _made_of(run: Run, path: str | Path) -> list[dict[str, Any]]:
    """Return how the features of the run were made, of as many slides as still tell it."""
    identities = (read_identity(file) for file in run.paths if Path(file).is_file())
    made = [each for each in identities if each and isinstance(each.get("tissue"), dict)]
    if not made:
        raise ValueError(
            f"{path} does not tell how its features were made, for their files are gone or of "
            "another making: encode the slide with the same encoder, mpp and patch size, and give "
            "it features=FILE"
        )
    return made


def _is_enlarged(identity: Mapping[str, Any]) -> bool:
    """Whether a slide of the run was coarser than its patches."""
    level0_mpp = identity.get("level0_mpp")
    return level0_mpp is not None and identity["mpp"] < _ENLARGED * level0_mpp


def _encode(
    run: Run,
    made_of: list[dict[str, Any]],
    slide: Slide,
    out: Path,
    *,
    encoder: str | Path | None,
    mpp_override: float | None,
    allow_upsampling: bool,
    on_progress: Callable[[Progress], None] | None,
) -> Path:
    """Encode the slide as those were that the run was trained on."""
    from histofast.patches import StainOptions, TissueOptions
    from histofast.pipeline import extract

    made = made_of[0]
    if "select" in made:
        raise ValueError(
            f"{run.path} was trained on patches that another run chose: encode the slide in the same way, and "
            "give it features=FILE"
        )
    encoder = encoder or made["encoder"]["name"]
    _check_encoder(made["encoder"], encoder)
    report = extract(
        [slide.path],
        out=out,
        encoder=encoder,
        mpp=None if "mag" in made else made["mpp"],
        mag=made.get("mag"),
        patch_px=made["patch_px"],
        overlap_px=made["overlap"],
        min_tissue=made["min_tissue"],
        edge=made["edge"],
        resample=made.get("resample", "area"),
        tissue=TissueOptions.of_identity(made["tissue"]),
        stain=StainOptions.of_identity(made["stain"]) if "stain" in made else None,
        icc=made.get("icc"),
        mpp_override=mpp_override,
        allow_upsampling=allow_upsampling or any(map(_is_enlarged, made_of)),
        on_progress=on_progress,
    )
    if report.interrupted:
        raise KeyboardInterrupt
    errors = [each.error for each in report.slides if each.error] + [report.error]
    if any(errors):
        raise SlideError(next(filter(None, errors)))
    return Path(report.slides[0].outputs[0])


def _check_encoder(wanted: Mapping[str, Any], encoder: str | Path) -> None:
    """Refuse another encoder than the run's, and where that is not to be had by its name."""
    from histofast.encoders import load

    try:
        sha256 = load(encoder).spec.sha256
    except (ModelError, FileNotFoundError, ValueError) as error:
        if encoder != wanted["name"]:
            raise
        raise ModelError(
            f"{encoder}, the run's encoder, is none of the known ones: give its file, encoder=FILE, "
            "or the slide's features, features=FILE"
        ) from error
    if sha256 != wanted["sha256"]:
        raise ModelError(
            f"encoder must be {_named(wanted)}, the run's, got one of sha256 {sha256[:12]}: give its "
            "file, encoder=FILE"
        )


def _checked(
    file: FeatureFile, run: Run, slide: Slide, patch_l0: int | None
) -> tuple[NDArray[np.int64], int]:
    """Return coordinates and side of the patches, if they are of the slide and the run's encoder."""
    identity: Mapping[str, Any] = file.identity or {}
    made_by, wanted = identity.get("encoder", {}), run.encoder
    if made_by and wanted and made_by["sha256"] != wanted["sha256"]:
        raise FeatureError(
            f"{file.path} must hold features of {_named(wanted)}, which the run was trained on, "
            f"got {_named(made_by)}"
        )
    size = tuple(file.attributes.get(f"level0_{side}") for side in ("width", "height"))
    base = slide.levels[0]
    is_other = "slide" in identity and identity["slide"] != slide.identity
    if is_other or (None not in size and size != (base.width, base.height)):
        raise FeatureError(
            f"{file.path} must be of {slide.path}, got features of another slide "
            f"({file.attributes.get('name', 'unknown')})"
        )
    if file.coords is None or not file.attributes.get("coords_known", True):
        raise FeatureError(f"{file.path} must tell where its patches lie, got no coordinates")
    if len(file.coords) == 0:
        raise FeatureError(
            f"{slide.path} must have patches to look at, got none: was no tissue found?"
        )
    told = file.patch_l0
    if told is None and patch_l0 is None:
        raise ValueError(f"patch_l0 must be given: {file.path} does not tell the side of a patch")
    if told is not None and patch_l0 not in (None, told):
        raise ValueError(f"patch_l0 must be {told}, as {file.path} says, got {patch_l0}")
    side_l0 = patch_l0 if told is None else told
    assert side_l0 is not None
    return file.coords, side_l0


def _named(encoder: Mapping[str, Any]) -> str:
    return f"{encoder['name']} (sha256 {encoder['sha256'][:12]})"
