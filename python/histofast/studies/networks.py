"""Which network: models of bags trained on the features of several encoders, and their likeness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from histofast.comparison import compare_features
from histofast.encoders import EncoderSpec, find, read_spec
from histofast.studies.plan import Candidate
from histofast.studies.rows import StudyRow
from histofast.studies.running import Question, extract_command, features_of
from histofast.studies.setting import Setting
from histofast.studies.slides import SlideStudy


@dataclass(frozen=True, kw_only=True)
class NetworkStudy(SlideStudy):
    """Train models of bags on the features of each encoder, and compare.

    Everything is kept in `setting.out` and taken from there when done again. All encoders see the
    same pixels; one that was made for another patch size or resolution is used at this one, and the
    page says so. The folder `similarity` has the report on how alike the features are.

    Attributes:
        encoders: names or files, at least two.
        setting: labels, slides, folder, training; `patch_px` and `mpp` are those of the first encoder
            when None.

    Raises:
        ValueError: fewer than two encoders, two of one name.
        FileNotFoundError, ModelError: an encoder that cannot be read or used.
    """

    encoders: Sequence[str | Path]
    setting: Setting

    def __post_init__(self) -> None:
        if len(self.encoders) < 2:
            raise ValueError(f"encoders must be at least 2, got {len(self.encoders)}")
        specs = self._specs
        names = [spec.name for spec in specs]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"encoders must have different names, got {name!r} twice")
        asked = self.setting
        px, um = asked.patch_px or specs[0].patch_px, asked.mpp or specs[0].mpp
        of_slides = asked.slides is not None
        asked = replace(asked, patch_px=px, mpp=um if of_slides else asked.mpp)
        object.__setattr__(self, "setting", asked)

    @property
    def _specs(self) -> list[EncoderSpec]:
        return [read_spec(find(encoder)) for encoder in self.encoders]

    @property
    def words(self) -> Question:
        """How it is told."""
        return Question(
            kind="networks",
            things="encoders",
            title=f"Which of {len(self.encoders)} encoders",
            question="Which encoder's features tell a model of slides most, and at what cost?",
        )

    def candidates(self) -> tuple[list[Candidate], list[str | Path]]:
        """Return the encoders, which are there."""
        specs = self._specs
        px, um = self.setting.patch_px, self.setting.mpp or specs[0].mpp
        found = [
            Candidate(
                row=StudyRow(
                    name=spec.name,
                    network=spec.network,
                    layer=spec.layer,
                    depth=None,
                    size_bytes=spec.size_bytes,
                    notes=""
                    if (spec.patch_px, spec.mpp) == (px, um)
                    else f"made for {spec.patch_px} px at {spec.mpp:g} um/px",
                ),
                encoder=spec.path,
                key=spec.name,
                commands=(("Encode slides with the chosen encoder", extract_command(encoder)),),
            )
            for encoder, spec in zip(self.encoders, specs, strict=True)
        ]
        return found, list(self.encoders)

    def looks_besides(self, candidates: Sequence[Candidate]) -> dict[str, str]:
        """Compare the features of the encoders with each other."""
        setting = self.setting
        setting.tell("comparing features")
        folders = [features_of(candidate.key, setting) for candidate in candidates]
        on_progress = setting.counting("comparing features")
        alike = compare_features(folders, intersect=True, progress=False, on_progress=on_progress)
        alike.save(setting.out / "similarity")
        return {"How alike the features are": "similarity/index.html"}
