"""What a run of `extract` is asked for: checked once, then handed on as it is."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from histofast._files import path_of
from histofast._machine import ONNX_RUNTIME, available_cpus, gpu_indices
from histofast._numbers import mpp_number, real_number, whole_number
from histofast.encoders import EncoderSet, EncoderSpec, device_problem, driver_gpu_count
from histofast.errors import ModelError
from histofast.features import Layout
from histofast.patches import Job, PatchImages, StainOptions, TissueOptions
from histofast.pipeline.selecting import Selection
from histofast.slides import Icc, checked_icc
from histofast.tiling import LEVEL_TOLERANCE, MAG_TOLERANCE, UM_AT_1X, Resample, mpp_at

DEFAULT_ENCODER = "densenet121-t2"

Edge = Literal["drop", "shift"]

_MIN_TISSUE = 0.25
STAGE_GB = 50.0
_LEAST_MAG, _MOST_MAG = 0.5, 200.0
_MPP, _PATCH_PX = 0.5, 256  # where no encoder says it

_FLAGS = (
    "allow_upsampling",
    "half",
    "nominal_level0",
    "strict",
    "fail_fast",
    "overwrite",
)
# What is of the run, and not of what it makes.
_OF_THE_RUN = (
    "encoders",
    "half",
    "fail_fast",
    "shard",
    "patches",
    "device",
    "threads",
    "workers",
    "stage",
    "stage_gb",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class StageOptions:
    """Where slides of buckets are copied to that must be files, and how many bytes may lie there at a time."""

    folder: Path
    most_bytes: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtractOptions:
    """All that `extract` is asked for, but for the slides; its docstring explains each.

    `mpp` is the nominal one where `mag` is given. `device` is one, of one process; `threads` and `workers` are
    the CPUs available when None was given.

    Raises:
        TypeError, ValueError: an argument of the wrong type, or out of range.
    """

    out: Path
    encoders: tuple[str | Path, ...] = (DEFAULT_ENCODER,)
    mpp: float | None = None
    mag: float | None = None
    patch_px: int | None = None
    overlap_px: int = 0
    min_tissue: float = _MIN_TISSUE
    edge: Edge = "drop"
    resample: Resample = "area"
    tissue: TissueOptions = field(default_factory=TissueOptions)
    stain: StainOptions | None = None
    icc: Icc | None = None
    select: Selection | None = None
    coords: Path | None = None
    mpp_override: float | None = None
    allow_upsampling: bool = False
    half: bool = False
    layout: Layout = "trident"
    nominal_level0: bool = False
    strict: bool = False
    fail_fast: bool = False
    overwrite: bool = False
    shard: str | None = None
    patches: PatchImages | None = None
    device: str = "auto"
    threads: int | None = None
    workers: int | None = None
    batch_size: int | None = None
    stage: Path | None = None
    stage_gb: float | None = None

    _least_patch_px: ClassVar[int] = 1

    def __post_init__(self) -> None:
        self._take_numbers()
        self._take_others()
        for name in ("threads", "workers"):
            self._set(name, getattr(self, name) or available_cpus())
        if not self.encoders:
            raise ValueError("encoder must name at least one encoder, got none")
        for name, known in (
            ("layout", get_args(Layout)),
            ("edge", get_args(Edge)),
            ("resample", get_args(Resample)),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}"
                )
        if self.nominal_level0 and self.of_bags:
            raise ValueError("nominal_level0 must not be given with patches, which have no level 0")
        if self.half and self.layout == "clam":
            raise ValueError(
                "half must be False for layout clam, whose readers want float32, got True"
            )

    @property
    def of_bags(self) -> bool:
        """Whether the patches are ready-made."""
        return self.patches is not None

    def _take_numbers(self) -> None:
        """Take numbers of other kinds as Python's own: NumPy's would not go into an identity."""
        for name in ("mpp", "mpp_override"):
            self._set(name, mpp_number(name, getattr(self, name)))
        self._set("mag", real_number("mag", self.mag))
        if self.mag is not None:
            if not _LEAST_MAG <= self.mag <= _MOST_MAG:
                raise ValueError(
                    f"mag must be within {_LEAST_MAG:g}..{_MOST_MAG:g}, got {self.mag:g}: 20 means "
                    "0.5 um per pixel"
                )
            self._set("mpp", UM_AT_1X / self.mag)
        for name in ("min_tissue", "overlap_px"):
            if getattr(self, name) is None:
                raise TypeError(f"{name} must be a number, got None")
        self._set("min_tissue", real_number("min_tissue", self.min_tissue))
        if not 0 <= self.min_tissue <= 1:
            raise ValueError(f"min_tissue must be within 0..1, got {self.min_tissue:g}")
        self._set("overlap_px", whole_number("overlap_px", self.overlap_px))
        least = {"patch_px": self._least_patch_px}
        for name in ("patch_px", "threads", "workers", "batch_size"):
            value = whole_number(name, getattr(self, name), at_least=least.get(name, 1))
            self._set(name, value)

    def _take_others(self) -> None:
        """The same for flags, paths and texts."""
        for name in _FLAGS:
            self._set(name, flag(name, getattr(self, name)))
        self._set("out", path_of("out", self.out))
        self._take_stage()
        for encoder in self.encoders:
            path_of("encoder", encoder)
        for name in ("device", "shard"):
            text = getattr(self, name)
            if not isinstance(text, str) and (text is not None or name == "device"):
                raise TypeError(f"{name} must be a text, got {text!r}")
        if not isinstance(self.tissue, TissueOptions):
            raise TypeError(f"tissue must be TissueOptions, got {self.tissue!r}")
        if self.of_bags and self.tissue.spec is not None:
            raise ValueError("tissue must not be given with patches, which are cut already")
        if not isinstance(self.stain, StainOptions | None):
            raise TypeError(f"stain must be StainOptions or None, got {self.stain!r}")
        if not isinstance(self.select, Selection | None):
            raise TypeError(f"select must be a Selection or None, got {self.select!r}")
        self._take_icc()
        self._take_coords()

    def _take_stage(self) -> None:
        stage_gb = real_number("stage_gb", self.stage_gb, above=0)
        if self.stage is None and stage_gb is not None:
            raise ValueError(f"stage_gb must be given with stage=..., got {stage_gb:g}")
        if self.stage is not None:
            self._set("stage", path_of("stage", self.stage))
            self._set("stage_gb", STAGE_GB if stage_gb is None else stage_gb)

    @property
    def staging(self) -> StageOptions | None:
        """Where slides of buckets are copied to that must be files."""
        if self.stage is None or self.stage_gb is None:
            return None
        return StageOptions(folder=self.stage, most_bytes=self.stage_gb * 1e9)

    def _take_icc(self) -> None:
        """Refuse a profile where there is none, or stains of other colours than the patches will have."""
        self._set("icc", checked_icc(self.icc))
        if self.icc is not None and self.of_bags:
            raise ValueError(
                "icc must not be given with patches, whose slides are not at hand, got 'srgb'"
            )
        target = None if self.stain is None else self.stain.target
        if target is not None and self.stain is not None and self.stain.icc != self.icc:
            raise ValueError(
                f"stain must be measured of {target} with icc={self.icc!r} as the slides, got "
                f"{self.stain.icc!r}: give StainOptions the same"
            )

    def _take_coords(self) -> None:
        """Refuse what is about tissue or a grid where every patch has its place."""
        if self.coords is None:
            return
        self._set("coords", path_of("coords", self.coords))
        if self.of_bags:
            raise ValueError("coords must not be given with patches, which are cut already")
        if self.select is not None:
            raise ValueError("select must not be given with coords, which name the patches")
        given = {
            "tissue": self.tissue != TissueOptions(),
            "min_tissue": self.min_tissue != _MIN_TISSUE,
            "overlap_px": self.overlap_px != 0,
        }
        for name, is_given in given.items():
            if is_given:
                raise ValueError(
                    f"{name} must not be given with coords: no tissue is looked for, and there is no grid"
                )

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)


@dataclass(frozen=True, kw_only=True, slots=True)
class Settled(ExtractOptions):
    """The options once the encoders are known, with what these were left to say.

    `patch_px` is 0 for bags whose patches have sizes of their own.
    """

    mpp: float
    patch_px: int
    batch_size: int
    is_mpp_given: bool

    _least_patch_px: ClassVar[int] = 0

    @property
    def dtype(self) -> Literal["float32", "float16"]:
        """Of the features in the files."""
        return "float16" if self.half or self.layout == "stamp" else "float32"

    @property
    def mag_known(self) -> bool:
        """Whether the scale of the patches is: nobody has told that of ready-made ones."""
        return not self.of_bags or self.is_mpp_given

    def mpp_on(self, slide_mpp: float) -> float:
        """Return the um per pixel of patches of a slide: what was asked for, or see `mpp_at`.

        Raises:
            ValueError: the slide is coarser than what was asked for.
        """
        if self.mag is None:
            self._refuse_nearly(slide_mpp)
            return self.mpp
        mpp = mpp_at(self.mag, slide_mpp)
        if mpp < slide_mpp and not self.allow_upsampling:
            raise ValueError(
                f"mag must be at most {UM_AT_1X / slide_mpp:.3g}, the slide's own, to within "
                f"{MAG_TOLERANCE:.0%}, got {self.mag:g}: ask for a lower one, or accept interpolated "
                "pixels with allow_upsampling=True"
            )
        return mpp

    def _refuse_nearly(self, slide_mpp: float) -> None:
        """Refuse an exact scale that is finer than the slide's by less than scanners differ."""
        mag = UM_AT_1X / self.mpp
        is_finer = self.mpp < slide_mpp * (1 - LEVEL_TOLERANCE)
        if is_finer and mpp_at(mag, slide_mpp) == slide_mpp and not self.allow_upsampling:
            raise ValueError(
                f"mpp must be at least the slide's own {slide_mpp:g}, got {self.mpp:g}: take what "
                f"scanners call so with mag={mag:g}, ask for a coarser mpp, or accept interpolated "
                "pixels with allow_upsampling=True"
            )

    def notes_on(self, slide_mpp: float) -> tuple[str, ...]:
        """Say which scale was taken for a magnification, where it is not the nominal one."""
        mpp = self.mpp_on(slide_mpp)
        taken, nominal = f"{mpp:.4g}", f"{self.mpp:.4g}"
        if taken == nominal:
            return ()
        return (f"{self.mag:g}x is the slide's own {taken} um per pixel, not {nominal}",)

    @property
    def described(self) -> dict[str, Any]:
        """What the report of a run says of the options."""
        options = asdict(replace(self, select=None))
        for name in (*_OF_THE_RUN, "is_mpp_given"):
            del options[name]
        images = self.patches and {**asdict(self.patches), "path": str(self.patches.path)}
        if self.stain is not None:
            options["stain"] = {**self.stain.identity, "file": str(self.stain.target or "")}
        options["tissue"] = self.tissue.described
        if self.select is not None:
            options["select"] = self.select.identity
        if self.coords is not None:
            options["coords"] = str(self.coords)
        told = {"out": str(self.out), "dtype": self.dtype, "mag_known": self.mag_known}
        return {**options, **told, "patches": images}


def settle(options: ExtractOptions, encoders: Sequence[EncoderSet]) -> Settled:
    """Take from the encoders what the options leave to them.

    Raises:
        ValueError: encoders that differ in it, or have one name; patches that none of them takes.
    """
    given: dict[str, Any] = {each.name: getattr(options, each.name) for each in fields(options)}
    if options.mpp is None:
        given["mpp"] = _agreed(encoders, "mpp")
    if options.patch_px is None:
        given["patch_px"] = (
            _fixed_px(encoders) if options.of_bags else _agreed(encoders, "patch_px")
        )
    if options.batch_size is None:
        given["batch_size"] = min(encoder.preferred_batch for encoder in encoders)
    settled = Settled(**given, is_mpp_given=options.mpp is not None)
    _refuse_overlap(settled)
    patch_px = settled.patch_px
    specs = specs_of(encoders)
    names = [spec.name for spec in specs]
    if len(set(names)) < len(names):
        raise ValueError(f"encoders must have different names, got {', '.join(names)}")
    for spec in specs:
        fixed = spec.height_px
        if patch_px and fixed and fixed != patch_px:
            raise ValueError(f"patch_px must be {fixed} for encoder {spec.name}, got {patch_px}")
        if patch_px and not spec.sizes.takes(patch_px):
            raise ValueError(f"patch_px must fit: {spec.name} {spec.sizes.refusal(patch_px)}")
    return settled


def settled_without_encoders(options: ExtractOptions, *, batch_size: int) -> Settled:
    """Return options of a run without encoders: patches of 256 px at 0.5 um per pixel, unless asked for otherwise."""
    given: dict[str, Any] = {each.name: getattr(options, each.name) for each in fields(options)}
    for name, default in (("mpp", _MPP), ("patch_px", _PATCH_PX), ("batch_size", batch_size)):
        if given[name] is None:
            given[name] = default
    settled = Settled(**given, is_mpp_given=True)
    _refuse_overlap(settled)
    return settled


def _refuse_overlap(settled: Settled) -> None:
    patch_px = settled.patch_px
    if patch_px and not 0 <= settled.overlap_px < patch_px:
        raise ValueError(f"overlap_px must be within 0..{patch_px - 1}, got {settled.overlap_px}")


def _agreed(encoders: Sequence[EncoderSet], what: Literal["mpp", "patch_px"]) -> Any:
    values = {spec.name: getattr(spec, what) for spec in specs_of(encoders)}
    if len(set(values.values())) > 1:
        listed = ", ".join(f"{name}: {value:g}" for name, value in values.items())
        raise ValueError(f"{what} must be given when encoders differ in it ({listed})")
    return next(iter(values.values()))


def _fixed_px(encoders: Sequence[EncoderSet]) -> int:
    """Side of the patches that an encoder takes, 0 where all take any."""
    return next((spec.height_px for spec in specs_of(encoders) if spec.height_px), 0)


def specs_of(encoders: Sequence[EncoderSet]) -> list[EncoderSpec]:
    """All encoders of all files."""
    return [spec for together in encoders for spec in together.specs]


def refuse_two_scales(*, mpp: float | None, mag: float | None) -> None:
    """Refuse a scale that is said twice: one of them is exact, the other is not.

    Raises:
        ValueError: it is.
    """
    if mpp is not None and mag is not None:
        raise ValueError(f"mag must not be given beside mpp={mpp}, which is exact, got {mag}")


def refuse_masks(slides: Sequence[Job], tissue: TissueOptions) -> None:
    """Refuse ready masks where a network is to find tissue.

    Raises:
        ValueError: a slide has one.
    """
    masks = [slide.mask for slide in slides if slide.mask]
    if tissue.spec is not None and masks:
        raise ValueError(
            f"mask must not be given where {tissue.spec.name} finds tissue, got {masks[0]}"
        )


def refuse_masks_beside_coords(slides: Sequence[Job]) -> None:
    """Refuse ready masks where every patch has its place.

    Raises:
        ValueError: a slide has one.
    """
    masks = [slide.mask for slide in slides if slide.mask]
    if masks:
        raise ValueError(
            f"mask must not be given with coords, which name the patches, got {masks[0]}"
        )


def encoders_of(encoder: str | Path | Sequence[str | Path]) -> tuple[str | Path, ...]:
    """Take one encoder or several.

    Raises:
        TypeError: neither.
    """
    if isinstance(encoder, str | os.PathLike):
        return (encoder,)
    if not isinstance(encoder, Iterable):
        raise TypeError(f"encoder must be a name, a path or several, got {encoder!r}")
    return tuple(encoder)


def flag(name: str, value: object) -> bool:
    """Take a flag, NumPy's too.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def devices_of(device: str, gpus: Sequence[int] | None) -> list[str]:
    """Return one device for each process of a run.

    Raises:
        TypeError, ValueError: GPUs that cannot be meant.
        ModelError: the kind of device does not work here.
    """
    if gpus is None:
        return [device]
    kind = "cuda" if device == "auto" else device
    if kind not in ONNX_RUNTIME:
        raise ValueError(f"device must be auto, cuda or tensorrt with gpus, got {device!r}")
    indices = gpu_indices(gpus)
    problem = device_problem(kind)
    if problem is not None:
        raise ModelError(f"device {kind} does not work: {problem}")
    offered = driver_gpu_count() or 0
    if max(indices) >= offered:
        raise ValueError(
            f"gpus must be within 0..{offered - 1}, the GPUs that the driver offers, "
            f"got {max(indices)}"
        )
    return [f"{kind}:{index}" for index in indices]
