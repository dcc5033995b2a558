"""Slides and a folder of features in, a catalogue out: which file is of which slide and encoder."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from histofast._files import path_of
from histofast._remote import Address, Place
from histofast._tables import is_missing, read_table
from histofast._words import count, counted, listed, one_line
from histofast.features import find_features
from histofast.patches import Job, list_jobs
from histofast.viewer.catalogue import Catalogue, Entry

_PREFIXES = ("features_", "clam_", "stamp_")
_INNER = ("h5_files", "pt_files")


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """What there is to look at.

    Attributes:
        catalogue: the slides.
        notes: what does not fit together.
    """

    catalogue: Catalogue
    notes: tuple[str, ...] = ()


def list_catalogue(
    slides: str | Place | Sequence[str | Place],
    *,
    features: str | Path | None = None,
    encoder: str | None = None,
    run: str | Path | None = None,
    labels: str | Path | None = None,
    recursive: bool = False,
    mpp_override: float | None = None,
    anonymous: bool = False,
    words: Callable[[object], str] = one_line,
) -> Listed:
    """Find slides, their feature files and their labels.

    Args:
        slides: files, folders, globs, addresses or CSV lists, as `extract` takes them.
        features: a folder of feature files, those of one encoder or, with `encoder`, of several.
        encoder: name of the encoder whose features are looked at.
        run: folder of `train`: where features are of several encoders and none is named, its own is meant.
        labels: CSV with columns slide and label.
        recursive: look for slides in sub-folders too.
        mpp_override: level-0 um per pixel, instead of what the slides say.
        anonymous: call the slides by numbers.
        words: puts an error for the page.

    Raises:
        FileNotFoundError, SlideError, FeatureError: nothing is there.
        TypeError, ValueError: as `list_jobs`; several encoders and none named, or one that is not there.
    """
    jobs = list_jobs(slides, recursive=recursive)
    if encoder is not None and features is None:
        raise ValueError("encoder must come with features, got none: features=FOLDER")
    files, chosen, notes = _features_of(features, encoder, run)
    of_slides = {} if labels is None else _read_labels(Path(labels))
    entries = [
        Entry(
            index=index,
            name=f"slide {index + 1}" if anonymous else job.name,
            slide=job.name,
            path=job.path,
            mpp=mpp_override if job.mpp is None else job.mpp,
            features=files.get(job.name),
            label=of_slides.get(job.name),
            error=_problem(job, index, anonymous=anonymous),
        )
        for index, job in enumerate(jobs)
    ]
    if features is not None:
        notes += _unmatched(entries, files, anonymous=anonymous)
    title = "" if anonymous else _title(slides, len(jobs))
    catalogue = Catalogue(entries, title=title, anonymous=anonymous, encoder=chosen, words=words)
    return Listed(catalogue=catalogue, notes=tuple(notes))


def _problem(job: Job, index: int, *, anonymous: bool) -> str | None:
    if not job.problem:
        return None
    return f"slide {index + 1} cannot be read" if anonymous else job.problem


def _title(slides: str | Place | Sequence[str | Place], n: int) -> str:
    """Return what one folder or file is called, or how many slides there are."""
    given = [slides] if isinstance(slides, str | Path | Address) else slides
    if len(given) != 1:
        return count(n, "slide")
    name = given[0].name if isinstance(given[0], Address) else Path(given[0]).name
    return name or count(n, "slide")


def _features_of(
    folder: str | Path | None, encoder: str | None, run: str | Path | None
) -> tuple[Mapping[str, Path], str | None, list[str]]:
    """Return the feature files of one encoder by slide, its name, and notes."""
    if folder is None:
        return {}, None, []
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"no such folder of features: {folder}")
    found = find_features(folder)
    folders: dict[Path, list[Path]] = {}
    for path in found.files:
        folders.setdefault(path.parent, []).append(path)
    names = {each: encoder_of(each) for each in folders}
    there = listed(sorted(set(names.values())))
    if encoder is None and run is not None and len(folders) > 1:
        encoder = _encoder_of_run(run, names.values())
    if encoder is not None:
        folders = {each: paths for each, paths in folders.items() if names[each] == encoder}
        if not folders:
            raise ValueError(f"encoder must be one of those in {folder}, got {encoder}: {there}")
    if len(folders) > 1:
        if encoder is None and len(set(names.values())) == len(folders):
            raise ValueError(
                f"encoder must be told where features has those of several, {folder} has {there}: "
                "encoder=NAME"
            )
        several = listed([str(each.relative_to(folder)) for each in sorted(folders)])
        raise ValueError(
            f"features must be of one encoder and scale, {folder} has {several}: name one of these folders"
        )
    ((where, paths),) = folders.items()
    return {path.stem: path for path in paths}, names[where], list(found.notes)


def _encoder_of_run(run: str | Path, names: Collection[str]) -> str | None:
    """Return the encoder whose features a run has learnt from, if it is one of these."""
    from histofast.learning import read_record

    record = read_record(path_of("run", run))
    told = {} if record is None else record.about.get("encoder", {})
    name = told.get("name") if isinstance(told, dict) else None
    return name if name in names else None


def encoder_of(folder: Path) -> str:
    """Return the encoder that a folder of feature files is called after, whoever wrote them."""
    name = folder.parent.name if folder.name in _INNER else folder.name
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _read_labels(path: Path) -> dict[str, str]:
    """Read the label of each slide that has one."""
    table = read_table(path)
    slide, label = table.needed("slide"), table.needed("label")
    return {
        table.told(line, slide, row[slide]): row[label]
        for line, row in table.lines()
        if not is_missing(row[label])
    }


def _unmatched(
    entries: Sequence[Entry], files: Mapping[str, Path], *, anonymous: bool
) -> list[str]:
    """Say which slides have no features, and which features no slide."""
    notes = []
    without = [entry.name for entry in entries if entry.features is None]
    if without:
        notes.append(f"no feature file of {counted(without)}: without layers")
    others = sorted(set(files) - {entry.slide for entry in entries})
    if others:
        told = count(len(others), "file") if anonymous else counted(others)
        notes.append(f"no slide for the features of {told}: passed over")
    return notes
