"""Encoders side by side on this machine: speed, share of what the machine can do, agreement."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histofast import encoders
from histofast._arrays import check
from histofast._machine import available_cpus
from histofast._numbers import whole_number
from histofast.encoders import Encoder
from histofast.errors import ModelError
from histofast.graphs.agreeing import agreement
from histofast.graphs.operations import total_flops
from histofast.graphs.peak import Gemm
from histofast.graphs.stained import stained_noise
from histofast.patches import PatchImages, TissueOptions, sample_patches
from histofast.similarity import cka

_PATCHES = 64
_ROUND_S = 0.4  # long enough for the clock, short enough that a busy neighbour hits few


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderTimes:
    """One encoder's figures.

    `patches_per_s` is the median over the rounds, `fastest` the best of them; `gflop` the
    operations per patch in billions; `gemm_share` what share of them per second a float32 product
    of large matrices reaches on the same threads (above 1 for int8, whose operations are smaller);
    `median_cosine` is to the first encoder's features (None where their widths differ), `cka` the
    debiased CKA with them.
    """

    name: str
    network: str
    layer: str
    precision: str
    d: int
    size_bytes: int
    provider: str
    patches_per_s: float
    fastest: float
    gflop: float
    gemm_share: float
    median_cosine: float | None
    cka: float


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchReport:
    """Encoders in the order asked for; the first is what the others are compared with."""

    patch_px: int
    patches: str
    threads: int
    rounds: int
    gemm_gflops: float
    encoders: tuple[EncoderTimes, ...]

    def to_json(self) -> str:
        """Return all of it."""
        return json.dumps(asdict(self), indent=1)


def bench(
    names_or_paths: Sequence[str | os.PathLike[str]],
    *,
    slides: str | Path | Sequence[str | Path] | None = None,
    patches: str | Path | PatchImages | None = None,
    patch_px: int | None = None,
    tissue: TissueOptions | None = None,
    device: str = "cpu",
    threads: int | None = None,
    rounds: int = 7,
) -> BenchReport:
    """Time encoders in turns on the same patches, and compare their features.

    Args:
        names_or_paths: encoders; the first is the reference of the others' features.
        slides: slides to draw patches from, see `sample_patches`.
        patches: instead, patch images, as `extract` takes them. With neither, patches are made up, and the
            agreement says less.
        patch_px: side of the patches; None: what the first encoder is meant for.
        tissue: how tissue of the slides is found.
        device: "cpu", "cuda", "cuda:1" or "auto", see `histofast.encoders.load`.
        threads: patches encoded at a time on the CPU; None: the CPUs this process may use.
        rounds: how often each is timed, in turns.

    Raises:
        What `encoders.load` and `sample_patches` raise.
        ModelError: an encoder that takes another patch size.
        ValueError: no encoder, one twice, rounds below 1.
    """
    if not names_or_paths:
        raise ValueError("encoders must name at least one, got none")
    if len({os.fspath(name) for name in names_or_paths}) < len(names_or_paths):
        raise ValueError("encoders must be given once each")
    rounds = whole_number("rounds", rounds, at_least=1)
    patch_px = whole_number("patch_px", patch_px, at_least=1)
    threads = whole_number("threads", threads, at_least=1) or available_cpus()
    with ExitStack() as stack:
        loaded = [
            stack.enter_context(encoders.load(name, device=device, threads=threads))
            for name in names_or_paths
        ]
        first = loaded[0].spec
        patch_px = patch_px or first.height_px or first.patch_px
        pixels = _pixels(slides, patches, patch_px=patch_px, mpp=first.mpp, tissue=tissue)
        features = [encoder.encode(pixels) for encoder in loaded]  # also warms up
        gemm = Gemm(threads=threads)
        seconds: list[list[float]] = [[] for _ in loaded]
        products: list[float] = []
        for _ in range(rounds):
            for encoder, times in zip(loaded, seconds, strict=True):
                times.append(_time_round(encoder, pixels))
            products.append(min(gemm.run() for _ in range(5)))
        gemm_flops_per_s = gemm.flops / statistics.median(products)
        entries = [
            _entry(encoder, times, found, features[0], pixels, gemm_flops_per_s)
            for encoder, times, found in zip(loaded, seconds, features, strict=True)
        ]
    return BenchReport(
        patch_px=patch_px,
        patches="made up" if slides is None and patches is None else "real",
        threads=threads,
        rounds=rounds,
        gemm_gflops=gemm_flops_per_s / 1e9,
        encoders=tuple(entries),
    )


def _pixels(
    slides: str | Path | Sequence[str | Path] | None,
    patches: str | Path | PatchImages | None,
    *,
    patch_px: int,
    mpp: float,
    tissue: TissueOptions | None,
) -> NDArray[np.uint8]:
    if slides is None and patches is None:
        return stained_noise(_PATCHES, patch_px)
    sample = sample_patches(
        slides, patches=patches, n=_PATCHES, patch_px=patch_px, mpp=mpp, tissue=tissue
    )
    return sample.pixels


def _time_round(encoder: Encoder, pixels: NDArray[np.uint8]) -> float:
    """Return the seconds per patch."""
    n, _, _ = check("pixels", pixels, "uint8", ("n", "h", "w", 3))
    batch = np.ascontiguousarray(pixels[np.arange(encoder.preferred_batch) % n])
    done, began = 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < _ROUND_S:
        encoder.encode(batch)
        done += len(batch)
    return passed / done


def _entry(
    encoder: Encoder,
    seconds: list[float],
    features: NDArray[np.float32],
    reference: NDArray[np.float32],
    pixels: NDArray[np.uint8],
    gemm_flops_per_s: float,
) -> EncoderTimes:
    spec = encoder.spec
    operations = total_flops(spec.path, patch_px=pixels.shape[1])
    per_patch = statistics.median(seconds)
    try:
        if features.shape == reference.shape:
            found = agreement(reference, features)
            cosine, similarity = found.median_cosine, found.cka
        else:
            cosine, similarity = None, cka(reference, features)
    except ValueError as error:
        raise ModelError(f"{spec.name} cannot be compared on these patches: {error}") from None
    return EncoderTimes(
        name=spec.name,
        network=spec.network,
        layer=spec.layer,
        precision=spec.precision,
        d=spec.d,
        size_bytes=spec.size_bytes,
        provider=encoder.provider,
        patches_per_s=1 / per_patch,
        fastest=1 / min(seconds),
        gflop=operations / 1e9,
        gemm_share=operations / per_patch / gemm_flops_per_s,
        median_cosine=cosine,
        cka=similarity,
    )
