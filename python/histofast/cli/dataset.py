"""`histofast dataset`: labelled images made ready for training."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from histofast._words import count
from histofast.cli import flags, options
from histofast.cli.flags import told
from histofast.cli.output import counted, say, say_document

if TYPE_CHECKING:
    from histofast.datasets import Look

app = typer.Typer(
    cls=flags.Group, help="Make labelled images ready for training.", rich_markup_mode=None
)

Source = Annotated[
    Path,
    typer.Argument(
        metavar="FOLDER|CSV",
        help="a folder for each class, or a table: file, label[, patient, slide, split, mpp]",
    ),
]


@app.command(short_help="Cut pictures to crops of one size and scale.")
def standardise(
    source: Source,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="of the crops")],
    mpp: options.Mpp = None,
    patch_px: options.PatchPx = None,
    overlap: Annotated[
        float | None,
        typer.Option(
            "--overlap",
            parser=options.number,
            metavar="SHARE",
            help="overlap of neighbours, a share of the side [0.25]",
        ),
    ] = None,
    source_mpp: Annotated[
        float | None,
        typer.Option(
            "--source-mpp",
            parser=options.number,
            metavar="UM",
            help="um per pixel of pictures whose table does not tell it",
        ),
    ] = None,
    min_contrast: Annotated[
        float | None,
        typer.Option(
            "--min-contrast",
            parser=options.number,
            metavar="SHARE",
            help="least range of luminance in a crop, 0..1 [0.1]",
        ),
    ] = None,
    allow_upsampling: Annotated[
        bool,
        typer.Option("--allow-upsampling", help="take pictures that are coarser than the crops"),
    ] = False,
    labels: options.ImageLabels = None,
    label_column: options.LabelColumn = None,
    group_column: options.GroupColumn = None,
    folds: Annotated[
        int | None,
        typer.Option(
            "--folds",
            parser=options.whole_number,
            metavar="N",
            help="one group in N tests, one in N of the others validates [5]",
        ),
    ] = None,
    fold: Annotated[
        int,
        typer.Option(
            "--fold", parser=options.whole_number, metavar="I", help="which of them tests"
        ),
    ] = 0,
    seed: options.Seed = None,
    no_split: Annotated[
        bool, typer.Option("--no-split", help="leave it to the training to divide groups")
    ] = False,
    threads: Annotated[
        int,
        typer.Option("--threads", parser=options.whole_number, metavar="N", help="that cut"),
    ] = 2,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace what was made with other options")
    ] = False,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Cut pictures to crops of one size and scale, and divide them by group.

    \b
      histofast dataset standardise raw/ --out std/ --mpp 1.0 --source-mpp 0.5

    Groups (patients, slides) are divided before anything is cut: no two sides of the split hold crops
    of one. Crops without contrast are glass, and dropped. What was interrupted goes on where it was.
    """
    from histofast.datasets import Standard
    from histofast.datasets import standardise as run

    images = options.read_images(
        source, labels=labels, label_column=label_column, group_column=group_column
    )
    standard = Standard(
        allow_upsampling=allow_upsampling,
        **options.given(
            mpp=mpp,
            patch_px=patch_px,
            overlap=overlap,
            source_mpp=source_mpp,
            min_contrast=min_contrast,
        ),
    )
    with counted("cutting pictures", quiet=quiet) as on_progress:
        made = run(
            images,
            out=out,
            standard=standard,
            folds=None if no_split else 5 if folds is None else folds,
            fold=fold,
            seed=seed or 0,
            threads=threads,
            overwrite=overwrite,
            on_progress=on_progress,
        )
    for note in () if quiet else made.notes:
        say(f"note: {told(note)}", err=True)
    if as_json:
        say_document(json.dumps({**asdict(made), "path": str(made.path)}))
        return
    total = sum(sum(part.values()) for part in made.counts.values())
    say(f"{made.path}: {count(total, 'crop')} of {count(len(images), 'picture')}")
    for name, part in made.counts.items():
        shown = ", ".join(f"{n} {label}".strip() for label, n in sorted(part.items()))
        say(f"  {name or 'not divided'}: {shown}")


@app.command(short_help="Count, look at and check a labelled set.")
def show(
    source: Source,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="of the look")],
    labels: options.ImageLabels = None,
    label_column: options.LabelColumn = None,
    group_column: options.GroupColumn = None,
    columns: Annotated[
        int,
        typer.Option(
            "--columns",
            parser=options.whole_number,
            metavar="N",
            help="pictures shown of each class",
        ),
    ] = 8,
    seed: options.Seed = None,
    threads: Annotated[
        int, typer.Option("--threads", parser=options.whole_number, metavar="N", help="that decode")
    ] = 2,
    overwrite: options.IntoFolder = False,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Count, look at and check a labelled set: classes, sizes, colours, a contact sheet, copies.

    \b
      histofast dataset show std/ --out look/                        # and open look/index.html

    A picture that is on two sides of the split, under whatever name, turned or mirrored, is a leak: the
    command ends with 1. Where no split is told, so is one that is of two groups.
    """
    from histofast.datasets import show as run

    folder = options.out_folder(out, of="the look", overwrite=overwrite)
    images = options.read_images(
        source, labels=labels, label_column=label_column, group_column=group_column
    )
    with counted("looking at pictures", quiet=quiet) as on_progress:
        look = run(
            images,
            out=folder,
            columns=columns,
            seed=seed or 0,
            threads=threads,
            on_progress=on_progress,
        )
    if as_json:
        say_document(
            json.dumps({**look.to_dict(), "page": str(look.path / "index.html")}, indent=1)
        )
    else:
        _tell(look, quiet=quiet)
    raise typer.Exit(1 if any(copy.is_leak for copy in look.copies) else 0)


def _tell(look: Look, *, quiet: bool) -> None:
    for note in () if quiet else look.notes:
        say(f"note: {told(note)}", err=True)
    width = max(24, *(len(share.label) + 2 for share in look.shares))
    say(f"{'split':12}{'class':{width}}{'pictures':>9}{'groups':>8}  mean colour (spread)")
    for share in look.shares:
        mean = ", ".join(
            f"{m:.0f} ({s:.0f})"
            for m, s in zip(share.mean_rgb or (), share.sd_rgb or (), strict=True)
        )
        say(
            f"{share.split or '-':12}{share.label or '-':{width}}{share.images:9}{share.groups:8}  {mean}"
        )
    for name, reason in look.unreadable:
        say(f"cannot read {name}: {reason}", err=True)
    for sentence in look.findings:
        say(sentence)
    say(f"page: {look.path / 'index.html'}")
