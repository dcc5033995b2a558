"""`histofast models export --precision`: an encoder that is exported and brought to lower precision in one go."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from histofast.cli import options
from histofast.cli.output import say

if TYPE_CHECKING:
    from histofast.encoders import EncoderSpec
    from histofast.graphs import Precision

PrecisionName = Annotated[
    str | None,
    typer.Option(
        "--precision",
        parser=options.one_of("int8", "fp16", "float16"),
        metavar="int8|fp16",
        help="integers for CPUs with VNNI, half precision for GPUs, if it agrees with float32's on patches of "
        "--calibrate [float32]",
    ),
]
Calibrate = Annotated[
    list[Path] | None,
    typer.Option(
        "--calibrate",
        "--slides",
        metavar="PATH",
        help="with --precision: slide, folder of slides or of patch images, or CSV list; repeatable",
    ),
]
Patches = Annotated[
    Path | None,
    typer.Option("--patches", metavar="CSV|FOLDER", help="patch images instead: file, bag[, ...]"),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Lowering:
    """A precision, and the patches that it is chosen and measured on."""

    precision: str
    calibrate: list[Path] | None
    patches: Path | None

    def write(
        self, make: Callable[[Path], EncoderSpec], out: Path, *, name: str, overwrite: bool
    ) -> EncoderSpec:
        """Write an encoder at the precision from one that `make` writes in float32, which is not kept."""
        from histofast import graphs

        if not out.parent.is_dir():
            raise FileNotFoundError(f"no folder {out.parent} to write {out.name} in")
        if out.exists() and not overwrite:
            raise FileExistsError(
                f"{out} exists: choose another name, or ask to overwrite it with --overwrite"
            )
        with tempfile.TemporaryDirectory(dir=out.parent) as folder:
            plain = make(Path(folder) / out.name)
            return graphs.quantize(
                plain.path,
                out=out,
                precision=cast("Precision", named(self.precision)),
                slides=self.calibrate,
                patches=self.patches,
                name=name,
                overwrite=overwrite,
            )


def named(precision: str) -> str:
    """Return a precision as encoders call it."""
    return "float16" if precision == "fp16" else precision


def lowering_of(
    precision: str | None,
    calibrate: list[Path] | None,
    patches: Path | None,
    *,
    layers: str | None,
    run: Path | None,
) -> Lowering | None:
    """Return what --precision asks for; None where it is not given.

    Raises:
        ValueError: no patches for it, or patches without it; with --layers or --run.
    """
    if precision is None:
        for flag, value in (("--calibrate", calibrate), ("--patches", patches)):
            if value is not None:
                raise ValueError(f"{flag} must come with --precision int8 or fp16")
        return None
    if calibrate is None and patches is None:
        raise ValueError(
            "--calibrate must name slides (or --patches a table) for --precision: nothing is guessed"
        )
    refused = {
        "--layers": (layers, "export each cut by itself with --layer"),
        "--run": (run, "export it, then histofast models quantize"),
    }
    for flag, (other, remedy) in refused.items():
        if other is not None:
            raise ValueError(f"--precision must not be given with {flag}: {remedy}")
    return Lowering(precision=precision, calibrate=calibrate, patches=patches)


def tell_lowered(out: Path, spec: EncoderSpec) -> None:
    said = json.loads(spec.agreement or "{}")
    say(
        f"{out}: {spec.name}, {spec.d} features, {spec.size_bytes / 1e6:.1f} MB; on "
        f"{said['n']} held-out patches median cosine {said['median_cosine']:.4f}, 1st percentile "
        f"{said['p1_cosine']:.4f}, debiased CKA {said['cka']:.4f} to float32"
    )
