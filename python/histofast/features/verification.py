"""Feature files in, what is wrong with them out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from histofast._files import path_of, paths_of
from histofast._notebook import table
from histofast._notes import noted
from histofast._progress import shows
from histofast._words import count
from histofast.errors import FeatureError
from histofast.features.file import open_features, read_identity
from histofast.features.layouts import pt_path
from histofast.features.listing import find_features
from histofast.features.opening import (
    all_attributes,
    dataset_of,
    features_of,
    reading,
    states_origin,
)
from histofast.features.plain import is_plain
from histofast.features.seal import CHUNK_BYTES, is_seal_whole
from histofast.features.selection import misfit_of_selection
from histofast.features.tensors import TensorReader


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyReport:
    """What `verify` found.

    Attributes:
        files: number of files looked at.
        patches: rows in those without a problem.
        problems: by file, only files that have some; folders that cannot be read first.
        not_sealed: files of other tools without a problem. They state no checksum: that they open and are
            finite is all there is to see.
        notes: on files that were passed over, see `find_features`.
    """

    files: int
    patches: int
    problems: Mapping[Path, list[str]]
    not_sealed: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether no file has a problem."""
        return not self.problems

    @property
    def totals(self) -> str:
        """How many files are broken, and how many nobody sealed."""
        sealed = len(self.not_sealed)
        not_sealed = f", {sealed} of other tools and not sealed" if sealed else ""
        files = f"{count(self.files, 'feature file')}, {len(self.problems)} broken{not_sealed}"
        return f"{files}; {count(self.patches, 'patch')} in whole ones"

    @property
    def lines(self) -> tuple[str, ...]:
        """A line for each problem, with its file."""
        return tuple(
            problem if problem.startswith(str(path)) else f"{path}: {problem}"
            for path, found in self.problems.items()
            for problem in found
        )

    def __repr__(self) -> str:
        return f"VerifyReport({self.totals})"

    def _repr_html_(self) -> str:
        rows = [(path, "; ".join(found)) for path, found in self.problems.items()]
        notes = "".join(f"; {note}" for note in self.notes)
        return table(f"{self.totals}{notes}", ("file", "problem"), rows)


def problems_of(path: Path | str, *, encoders_sha256: Mapping[str, str] | None = None) -> list[str]:
    """Return what is wrong with a feature file, one line each; nothing means it is whole.

    Args:
        path: the file.
        encoders_sha256: see `verify`.
    """
    return _verify(path_of("path", path), encoders_sha256 or {}).problems


@noted
@shows("verifying feature files")
def verify(
    paths: Path | str | Iterable[Path | str],
    *,
    encoders_sha256: Mapping[str, str] | None = None,
    progress: bool | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> VerifyReport:
    """Verify feature files, and all in folders and below them; see `find_features`.

    A file is whole when it opens, its datasets agree in length, every number is finite, everything has the
    checksum it had when written, and identity and attributes agree. A file of another tool states no
    checksum: it opens, its datasets agree in length and every number is finite.

    Args:
        paths: a file or folder, or several.
        encoders_sha256: sha256 of the encoder files to be had, by name; a file made by an encoder
            of one of these names must have been made by that very file.
        progress: show it as a line of text: True, False; None: in a notebook, unless `on_progress` hears it.
        on_progress: called with the number of files that are done, and of all.

    Raises:
        FileNotFoundError: one of `paths` is missing, or holds no feature file.

    Example:
        verify("features/").is_whole
    """
    given = paths_of("paths", paths)
    files, notes, not_sealed = list[Path](), list[str](), list[Path]()
    problems: dict[Path, list[str]] = {}
    for path in given:
        if path.is_dir():
            try:
                found = find_features(path, on_error=lambda at, why: problems.update({at: [why]}))
            except FileNotFoundError as error:
                notes.append(str(error))
                continue
            files += found.files
            notes += found.notes
        elif path.exists():
            files.append(path)
        else:
            raise FileNotFoundError(f"no such feature file or folder: {path}")
    files = list(dict.fromkeys(files))
    if not files and not problems:
        raise FileNotFoundError("; ".join(notes))
    expected = dict(encoders_sha256 or {})
    patches = 0
    unused = set(expected)
    for done, path in enumerate(files, 1):
        seen = _verify(path, expected)
        if seen.problems:
            problems[path] = seen.problems
        else:
            patches += seen.patches
            if not seen.is_sealed:
                not_sealed.append(path)
        if unused:
            encoder = (read_identity(path) or {}).get("encoder")
            unused.discard(encoder.get("name") if isinstance(encoder, dict) else encoder)
        if on_progress is not None:
            on_progress(done, len(files))
    # Nothing was compared with these: silence would pass for agreement.
    for name in sorted(unused):
        problems.setdefault(given[0], []).append(f"no file made by an encoder named {name}")
    return VerifyReport(
        files=len(files),
        patches=patches,
        problems=problems,
        not_sealed=tuple(not_sealed),
        notes=tuple(notes),
    )


class _Seen(NamedTuple):
    problems: list[str]
    patches: int = 0
    is_sealed: bool = True


def _verify(path: Path, encoders_sha256: Mapping[str, str]) -> _Seen:
    try:
        sealed = is_seal_whole(path)
        if sealed is False:
            return _Seen(["changed or damaged since it was written, outside the features"])
        if sealed is None and not _states_origin(path):
            return _verify_foreign(path)
        with reading(path) as file:
            dataset = features_of(file)
            if sealed is None:
                return _Seen(["no seal: changed since histofast wrote it"])
            coords = dataset_of(file, "coords", kinds="if")
            if dataset.ndim != 2 or coords is None or coords.shape != (dataset.shape[0], 2):
                of = "none" if coords is None else coords.shape
                return _Seen([f"features {dataset.shape} and coords {of} disagree"])
            problems = _verify_numbers(file, dataset)
            problems += _verify_origin(file, dataset, encoders_sha256)
            return _Seen(problems, dataset.shape[0])
    except (FileNotFoundError, FeatureError) as error:
        return _Seen([str(error)])


def _states_origin(path: Path) -> bool:
    if is_plain(path):
        return False
    with reading(path) as file:
        return states_origin(file)


def _verify_foreign(path: Path) -> _Seen:
    """What can be seen of another tool's file."""
    problems: list[str] = []
    done = 0
    for chunk in open_features(path).iter_chunks():
        problems = problems or _not_finite(chunk, done)
        done += len(chunk)
    return _Seen(problems, done, is_sealed=False)


def _not_finite(chunk: NDArray[Any], start: int) -> list[str]:
    """Name the first row of a chunk, which begins at row `start`, that is not finite."""
    bad = ~np.isfinite(chunk).all(axis=1)
    if not bad.any():
        return []
    return [f"features are not finite, first in row {start + int(bad.argmax())}"]


def _verify_numbers(file: h5py.File, dataset: h5py.Dataset) -> list[str]:
    """Everything that needs the features, in one pass over them."""
    n, d = dataset.shape
    sha256 = hashlib.sha256()
    not_finite: list[str] = []
    rows = max(1, CHUNK_BYTES // (dataset.dtype.itemsize * max(1, d)))
    pt = None
    if file.attrs.get("layout") == "clam":
        pt = TensorReader(pt_path(file.filename), (n, d))
    for start in range(0, n, rows):
        chunk = dataset[start : start + rows]
        sha256.update(chunk.data)
        if pt is not None:
            pt.compare(chunk)
        not_finite = not_finite or _not_finite(chunk, start)
    problems = [*(pt.close() if pt is not None else []), *not_finite]
    sha256.update(file["coords"][()].data)
    if sha256.hexdigest() != file.attrs["sha256"]:
        problems.append("features or coords do not have the checksum the file states")
    if "tissue_fraction" in file and file["tissue_fraction"].shape != (n,):
        problems.append(f"tissue_fraction {file['tissue_fraction'].shape} does not fit {n} patches")
    misfit = misfit_of_selection(file, n)
    if misfit is not None:
        problems.append(misfit)
    return problems


def _verify_origin(
    file: h5py.File, dataset: h5py.Dataset, encoders_sha256: Mapping[str, str]
) -> list[str]:
    """Is the file made by what it says?"""
    text = file.attrs["identity"]
    if hashlib.sha256(text.encode()).hexdigest() != file.attrs["identity_sha256"]:
        return ["the identity does not have the hash the file states"]
    identity = json.loads(text)
    attributes = all_attributes(dataset, file["coords"], file)
    attributes.update(d=dataset.shape[1], n=dataset.shape[0], dtype=dataset.dtype.name)
    # The encoder and the slide both have a name in the identity.
    problems = [
        f"{key} is {attributes[key]!r}, but the identity says {value!r}"
        for key, value in _leaves(identity)
        if key in attributes and key != "name" and not _same(attributes[key], value)
    ]
    encoder = identity.get("encoder")
    if isinstance(encoder, Mapping):
        name, sha256 = encoder.get("name"), encoder.get("sha256")
        stated = attributes.get("encoder", name)
        if stated != name:
            problems.append(f"encoder is {stated!r}, but the identity says {name!r}")
        wanted = encoders_sha256.get(str(name), sha256)
        if wanted != sha256:
            problems.append(
                f"made by another file of encoder {name}: sha256 {str(sha256)[:12]} instead of "
                f"{str(wanted)[:12]}"
            )
    return problems


def _leaves(value: Mapping[str, Any]) -> Iterator[tuple[str, str | int | float]]:
    """Names and values at any depth; checksums have their own names and are left out."""
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _leaves(inner)
        elif isinstance(inner, str | int | float) and not key.endswith("sha256"):
            yield key, inner


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        return str(one) == str(other)
    return bool(one == other)
