"""Labelled images of any size and scale in, a folder of crops of one size and scale out.

    run.json       what the crops follow from    images.csv     file, label, group, split, mpp, source
    images/<split>/<class>/<name>-<j>.png        dataset.json   counts, what was dropped; written last

Groups are divided before anything is cut, so no two sides of a split hold crops of one group. A run
that was interrupted goes on where it was: `parts.jsonl` tells what is done, by content.

Reference: the workflow of HistoKT (Sagi et al., 2022), with area averaging for interpolation, and by
group where it dealt crops.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from histofast._files import make_folder, path_of, replacing, write_error
from histofast._notes import noted
from histofast._numbers import whole_number
from histofast._stopping import stop_if_asked
from histofast._words import clipped, count, counted, one_line
from histofast.datasets.cutting import contrast, crops
from histofast.datasets.decoding import contents_of
from histofast.datasets.images import Images
from histofast.datasets.opening import open_images
from histofast.datasets.splitting import split
from histofast.datasets.standards import (
    Standard,
    Standardised,
    classes_of,
    label_cells,
    label_columns,
)
from histofast.errors import SlideError
from histofast.learning import (
    RunRecord,
    read_json,
    read_record,
    run_folder,
    write_csv,
    write_json,
)
from histofast.patches import STANDARDISED
from histofast.slides import quick_png, read_image

OnProgress = Callable[[int, int], None]

KIND = "standardise"
_REVISION = 1  # raised when the same pictures would give other crops
_PARTS = "parts.jsonl"
_ABOUT, _TABLE = STANDARDISED
_FILES = (_ABOUT, _TABLE, _PARTS, "images/*/*/*.png")
_LONGEST = 100  # characters of a name that is made of a path
_UNSAFE = re.compile(r"[^\w.-]+")


@noted
def standardise(
    images: Images | str | Path,
    *,
    out: str | Path,
    standard: Standard | None = None,
    folds: int | None = 5,
    fold: int = 0,
    seed: int = 0,
    threads: int = 2,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> Standardised:
    """Cut pictures to crops of one size and scale, divided by group beforehand.

    Args:
        images: from `open_images`, or what it opens.
        out: folder, new, empty or of this very call.
        standard: what crops are like; `Standard()` when None.
        folds: one group in so many tests, one in so many of the others validates, stratified by
            class. Splits that are told are kept. None: nothing is divided yet; groups are told all
            the same.
        fold: which of the folds tests.
        seed: of the draw.
        threads: that decode and cut.
        overwrite: replace what another call made.
        on_progress: called with the number of pictures that are done, and of all.

    Returns:
        What came of it. `open_images(out)` opens the crops.

    Raises:
        TypeError, ValueError: arguments out of range; as `open_images` and `split`; pictures whose
            scale is not told, or that are coarser than asked for; a folder of something else; no
            crop left.
        WriteError: the folder cannot be written, or its disk is full.

    Determinism: the same bytes on every machine, in any number of threads, interrupted or not.
    """
    standard = standard or Standard()
    threads = whole_number("threads", threads, at_least=1)
    out = path_of("out", out)
    if not isinstance(images, Images):
        images = open_images(images)
    scales = _scales(images, standard)
    splits = _splits(images, folds=folds, fold=fold, seed=seed)
    contents = contents_of(images, threads=threads)
    record = _record(images, standard, splits, contents)
    if (out / _ABOUT).is_file() and record.is_same(read_record(out)):
        return _opened(out)
    with run_folder(out, record, files=_FILES, overwrite=overwrite):
        plan = _plan(images, splits)
        parts = _parts(out, plan, scales, standard, threads=threads, on_progress=on_progress)
        return _written(out, images, standard, splits, plan, parts)


# --- Before anything is cut --------------------------------------------------------------------


def _scales(images: Images, standard: Standard) -> list[float]:
    """Return how many pixels of each picture make one of a crop."""
    if standard.mpp is None:
        return [1.0] * len(images)
    told = [standard.source_mpp if mpp is None else mpp for mpp in images.mpp]
    silent = [name for name, mpp in zip(images.names, told, strict=True) if mpp is None]
    if silent:
        raise ValueError(
            f"{images.path} must tell um per pixel to be rescaled to {standard.mpp:g}, got none for "
            f"{counted(silent)}: add a column mpp, or give source_mpp"
        )
    scales = [standard.mpp / float(mpp or 0) for mpp in told]
    coarse = [name for name, scale in zip(images.names, scales, strict=True) if scale < 1 - 1e-6]
    if coarse and not standard.allow_upsampling:
        raise ValueError(
            f"mpp must not be finer than the pictures', got {standard.mpp:g} for {counted(coarse)}: "
            "take a larger one, or accept interpolated pixels with allow_upsampling=True"
        )
    return scales


def _splits(images: Images, *, folds: int | None, fold: int, seed: int) -> tuple[str, ...]:
    if folds is None or not images.has_targets:
        return images.splits
    found = split(images, fold=fold, folds=folds, seed=seed)
    splits = [""] * len(images)
    for name in ("train", "validation", "test"):
        for row in getattr(found, name):
            splits[row] = name
    return tuple(splits)


def _record(
    images: Images, standard: Standard, splits: Sequence[str], contents: Sequence[str]
) -> RunRecord:
    return RunRecord(
        kind=KIND,
        identity={
            "revision": _REVISION,
            "standard": asdict(standard),
            "task": images.task,
            "classes": images.classes,
            "group_kind": images.group_kind,
            "images": {
                name: {
                    "content": content,
                    "group": group,
                    "split": part,
                    "target": cells,
                    "mpp": mpp,
                }
                for name, content, group, part, cells, mpp in zip(
                    images.names,
                    contents,
                    images.groups,
                    splits,
                    map(list, label_cells(images)),
                    images.mpp,
                    strict=True,
                )
            },
        },
        about={"path": str(images.path)},
    )


# --- Cutting -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Source:
    """A picture, and how its crops are called within the folder, without number and suffix."""

    name: str
    file: Path
    stem: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """What came of a picture: checksums of its crops, None where one was dropped; or why nothing."""

    crops: tuple[str | None, ...] = ()
    error: str = ""


def _plan(images: Images, splits: Sequence[str]) -> list[_Source]:
    taken: Counter[str] = Counter()
    sources = []
    for name, file, part, cells in zip(
        images.names, images.files, splits, label_cells(images), strict=True
    ):
        folder = _safe(str(cells[0])) if images.task == "classification" and cells else "all"
        plain = _safe(PurePosixPath(name.replace("\\", "/")).with_suffix("").as_posix())
        taken[plain.casefold()] += 1
        again = taken[plain.casefold()]
        stem = plain if again == 1 else f"{plain}~{again}"
        sources.append(
            _Source(name=name, file=file, stem=f"images/{part or 'all'}/{folder}/{stem}")
        )
    return sources


def _safe(text: str) -> str:
    """Return a name of a file or folder on any system that tells what it is of."""
    plain = _UNSAFE.sub("_", text).strip("._") or "_"
    if len(plain) <= _LONGEST and plain.isascii():
        return plain
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:10]
    return f"{plain.encode('ascii', 'ignore').decode()[: _LONGEST - 11]}-{digest}"


def _parts(
    out: Path,
    plan: Sequence[_Source],
    scales: Sequence[float],
    standard: Standard,
    *,
    threads: int,
    on_progress: OnProgress | None,
) -> list[_Part]:
    """Cut all pictures, but for those that were cut before."""
    found = _done_before(out, plan)
    for folder in {(out / source.stem).parent for source in plan}:
        make_folder(folder)
    left = [i for i in range(len(plan)) if i not in found]

    def cut(i: int) -> _Part:
        return _cut(out, plan[i], standard, scales[i])

    with (out / _PARTS).open("a") as parts, ThreadPoolExecutor(threads, "crops") as pool:
        todo = iter(left)
        waiting: deque[tuple[int, Future[_Part]]] = deque(
            (i, pool.submit(cut, i)) for i in islice(todo, 2 * threads)
        )
        try:
            while waiting:
                stop_if_asked()
                i, future = waiting.popleft()
                found[i] = future.result()
                waiting.extend((k, pool.submit(cut, k)) for k in islice(todo, 1))
                parts.write(json.dumps([i, found[i].crops, found[i].error]) + "\n")
                parts.flush()
                if on_progress is not None:
                    on_progress(len(found), len(plan))
        except OSError as error:
            raise write_error(out / _PARTS, error) from error
        finally:
            for _, future in waiting:
                future.cancel()
    return [found[i] for i in range(len(plan))]


def _cut(out: Path, source: _Source, standard: Standard, scale: float) -> _Part:
    try:
        image = read_image(source.file)
    except (SlideError, OSError) as error:
        return _Part(error=clipped(one_line(error), 300))
    sums: list[str | None] = []
    for batch in crops(image, side=standard.patch_px, overlap=standard.overlap, scale=scale):
        for crop in batch:
            if contrast(crop) < standard.min_contrast:
                sums.append(None)
                continue
            content = quick_png(crop)
            path = _crop_path(out, source, len(sums))
            try:
                path.write_bytes(content)
            except OSError as error:
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)  # half of it
                raise write_error(path, error, needs_bytes=len(content)) from error
            sums.append(hashlib.sha256(content).hexdigest())
    return _Part(crops=tuple(sums))


def _crop_path(out: Path, source: _Source, number: int) -> Path:
    return out / f"{source.stem}-{number}.png"


def _done_before(out: Path, plan: Sequence[_Source]) -> dict[int, _Part]:
    """Return what was cut before an interruption and is there as it was written."""
    done: dict[int, _Part] = {}
    lines: list[str] = []
    with contextlib.suppress(FileNotFoundError):
        lines = (out / _PARTS).read_text(errors="replace").splitlines()
    for line in lines:
        try:
            i, sums, error = json.loads(line)
            part = _Part(crops=tuple(sums), error=str(error))
            is_whole = not error and all(
                digest is None or _sha256(_crop_path(out, plan[i], j)) == digest
                for j, digest in enumerate(part.crops)
            )
        except (ValueError, TypeError, LookupError, OSError):  # half a line, or a crop is gone
            continue
        if is_whole:
            done[i] = part
    with replacing(out / _PARTS, overwrite=True) as pending:
        kept = [json.dumps([i, part.crops, part.error]) + "\n" for i, part in done.items()]
        pending.write_text("".join(kept))
    return done


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# --- What is told of it ------------------------------------------------------------------------


def _written(
    out: Path,
    images: Images,
    standard: Standard,
    splits: Sequence[str],
    plan: Sequence[_Source],
    parts: Sequence[_Part],
) -> Standardised:
    """Write the table, and dataset.json last."""
    rows: list[list[object]] = [["file", *label_columns(images), "group", "split", "mpp", "source"]]
    counts: dict[str, Counter[str]] = {
        name: Counter() for name in ("train", "validation", "test", "") if name in splits
    }
    dropped: Counter[str] = Counter()
    digest = hashlib.sha256()
    for i, (source, part, cells) in enumerate(zip(plan, parts, label_cells(images), strict=True)):
        mpp = standard.mpp or images.mpp[i] or standard.source_mpp or ""
        classes = classes_of(images, i)
        for number, found in enumerate(part.crops):
            if found is None:
                dropped.update(classes)
                continue
            counts[splits[i]].update(classes)
            digest.update(found.encode())
            name = f"{source.stem}-{number}.png"
            rows.append([name, *cells, images.groups[i], splits[i], mpp, source.name])
    if len(rows) == 1:
        raise ValueError(
            f"{images.path} must give crops with contrast, got none of {count(len(plan), 'picture')}: "
            "lower min_contrast, or look at the pictures"
        )
    about = {
        "kind": "dataset",
        "task": images.task,
        "classes": images.classes,
        "group_kind": images.group_kind,
        "pictures": len(plan),
        "crops": len(rows) - 1,
        "counts": counts,
        "dropped": dropped,
        "unreadable": [
            [source.name, part.error]
            for source, part in zip(plan, parts, strict=True)
            if part.error
        ],
        "standard": asdict(standard),
        "pixels": digest.hexdigest(),
        "notes": images.notes,
    }
    write_csv(out / _TABLE, rows)
    write_json(out / _ABOUT, about)
    (out / _PARTS).unlink(missing_ok=True)
    return _opened(out)


def _opened(out: Path) -> Standardised:
    about: dict[str, Any] = read_json(out / _ABOUT, remedy="standardise into another folder")
    unreadable = tuple((str(name), str(reason)) for name, reason in about["unreadable"])
    lost = [
        name
        for name in about["classes"]
        if not any(part.get(name) for part in about["counts"].values())
    ]
    notes = [*map(str, about["notes"])]
    if sum(about["dropped"].values()):
        told = ", ".join(
            f"{n} of {name}" if name else str(n) for name, n in about["dropped"].items()
        )
        notes.append(f"dropped crops without contrast: {told}")
    if unreadable:
        names = counted([name for name, _ in unreadable])
        notes.append(f"left out pictures that cannot be read: {names}: {unreadable[0][1]}")
    if lost:
        notes.append(f"no crop is left of {counted(lost)}")
    return Standardised(
        path=out,
        counts=about["counts"],
        dropped=about["dropped"],
        unreadable=unreadable,
        notes=tuple(notes),
    )
