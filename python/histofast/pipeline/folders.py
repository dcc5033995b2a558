"""The options that all feature files of one folder share, kept beside it: two sets never mix there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from histofast._files import Lock, regular_file, replacing
from histofast.errors import FeatureError
from histofast.features import (
    Layout,
    differences_of_options,
    feature_files,
    options_in,
    read_summary,
)
from histofast.patches import Job

WAIT_S = 30.0  # for a run that looks at the same folder now
LOOKED_AT = 8  # feature files, where nothing is beside them


@dataclass(frozen=True, kw_only=True, slots=True)
class Folder:
    """A folder of feature files, and the options that a run makes them with, by their names."""

    path: Path
    options: Mapping[str, Any]

    @property
    def record(self) -> Path:
        """The file that keeps them; readers of the folder meet feature files only."""
        return self.path.with_name(f"{self.path.name}.json")

    def claim(self, *, overwrite: bool) -> None:
        """Enter the options for who comes after.

        Raises:
            FeatureError: others are there, and `overwrite` is False; or nobody can tell.
            WriteError: the folder cannot be written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = Lock(self.record)
        if not lock.acquire(wait_s=WAIT_S):
            raise FeatureError(
                f"{self.record} is held by {lock.holder() or 'another process'}: end that process, "
                "or choose another output folder"
            )
        with lock:
            known = self._known() if overwrite else self.refuse_others()
            together = {**known, **self.options}
            if together != known or not self.record.exists():
                with replacing(self.record, overwrite=True) as pending:
                    pending.write_text(json.dumps(together, indent=1, sort_keys=True) + "\n")

    def refuse_others(self) -> dict[str, Any]:
        """Return the options known so far.

        Raises:
            FeatureError: others than those of the run are there, or nobody can tell.
        """
        known = self._known()
        there, asked = differences_of_options(known, self.options)
        if there:
            raise FeatureError(
                f"{self.path} is for features made with {there}, asked for is {asked}: choose "
                "another output folder, or replace them with overwrite=True"
            )
        return known

    def _known(self) -> dict[str, Any]:
        """What the record says, or feature files where there is none."""
        try:
            record = regular_file(self.record, kind="record of options", error=FeatureError)
            known = json.loads(record.read_text())
        except FileNotFoundError:
            found = feature_files(self.path)[:LOOKED_AT]
            summaries = filter(None, map(read_summary, found))
            return next((options_in(summary.identity) for summary in summaries), {})
        except (OSError, ValueError, RecursionError) as error:
            raise FeatureError(f"{self.record} cannot be read: remove it ({error})") from error
        if not isinstance(known, dict):
            raise FeatureError(f"{self.record} must be a JSON object: remove it")
        return known


def folder_of(file: Path, layout: Layout) -> Path:
    """Return the folder of an encoder that a feature file lies in."""
    return file.parent.parent if layout == "clam" else file.parent


def folders_for(folders: Sequence[Folder], slides: Sequence[Job]) -> list[Folder]:
    """Return the folders with the options that count for these slides.

    How tissue is found does where one of them has no mask.
    """
    if not all(slide.mask for slide in slides):
        return list(folders)
    return [
        replace(
            folder,
            options={k: v for k, v in folder.options.items() if not k.startswith("tissue.")},
        )
        for folder in folders
    ]
