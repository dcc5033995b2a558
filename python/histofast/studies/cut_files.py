"""The cuts of an encoder file as candidates of a study: whatever wrote it, cut in its graph."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from histofast.encoders import EncoderSpec, cut_name, read_spec, read_specs
from histofast.graphs import GraphCut, cuts, join_cuts, truncate
from histofast.studies.plan import Candidate
from histofast.studies.rows import StudyRow
from histofast.studies.running import extract_command, predict_command
from histofast.studies.setting import Setting

_LITTLE = 0.001  # of the work
_ASIDE = "other tensors go beside it in the whole network"


@dataclass(frozen=True, kw_only=True, slots=True)
class CutFile:
    """The cuts of an encoder file, in files of a study.

    Attributes:
        name: what it is called in the study.
        file: in the pixel-in form.
        whole: what it says of itself.
        chosen: the cuts.
        setting: of the study.
        pool: see `graphs.truncate`.
    """

    name: str
    file: Path
    whole: EncoderSpec
    chosen: Sequence[GraphCut]
    setting: Setting
    pool: str

    @classmethod
    def of(
        cls, name: str, file: Path, wanted: Sequence[str] | None, setting: Setting, *, pool: str
    ) -> CutFile:
        """Read what can be cut; `wanted` are cuts, tensors or modules, None: see `worth_a_model`.

        Raises:
            FileNotFoundError, ModelError: it is no encoder file, or has not what is wanted.
        """
        known, whole = cuts(file, also=wanted or ()), read_spec(file)
        chosen = [cut for cut in known if cut.name in set(wanted or ())]
        if wanted is None:
            chosen = worth_a_model(known)
        return cls(name=name, file=file, whole=whole, chosen=chosen, setting=setting, pool=pool)

    def _path(self, what: str) -> Path:
        return self.setting.out / "encoders" / f"{cut_name(self.name, what)}.onnx"

    @property
    def _is_joined(self) -> bool:
        """Whether one file computes all cuts; those of integers cannot be joined."""
        return self.whole.precision != "int8" and len(self.chosen) > 1

    def lacking(self) -> list[Callable[[], object]]:
        """Return what makes the files that are not there yet, of each cut, and of all together."""
        makers: list[Callable[[], object]] = []
        told: dict[str, Any] = {"pool": self.pool, "overwrite": True}
        names = [cut.name for cut in self.chosen]
        for at in names:
            if not _is_there(self._path(at), self.whole, [at]):
                makers.append(partial(truncate, self.file, at=at, out=self._path(at), **told))
        if self._is_joined and not _is_there(self._path("cuts"), self.whole, names):
            told |= {"out": self._path("cuts"), "name": self.name}
            makers.append(partial(join_cuts, self.file, at=names, **told))
        return makers

    def candidates(self) -> tuple[list[Path], list[Candidate]]:
        """Return what the files are good for, once they are there.

        Returns:
            Files that compute the features, one of all cuts where that can be; a candidate for each
            cut, with a file of its own for later use.
        """
        alone = [self._path(cut.name) for cut in self.chosen]
        found = [
            _candidate(self.name, self.file, cut, path, self.setting)
            for cut, path in zip(self.chosen, alone, strict=True)
        ]
        return [self._path("cuts")] if self._is_joined else alone, found


def refuse_strange_cuts(file: Path, wanted: Sequence[str] | None) -> None:
    """Refuse what is no encoder file, and cuts that it has not.

    Raises:
        FileNotFoundError, ModelError: it is none, or it has them not.
    """
    read_spec(file)
    cuts(file, also=wanted or ())


def worth_a_model(known: Sequence[GraphCut]) -> list[GraphCut]:
    """Return where the parts of a network end, or all cuts where hardly any part is known.

    Of those that cost the same the last one: norms, activations and pooling add nothing.
    """
    parts = [cut for cut in known if cut.is_part]
    if parts and known[-1].flops_share - parts[-1].flops_share > _LITTLE:
        parts.append(known[-1])
    among = parts if len(parts) > 1 else list(known)
    following = [cut.flops_share for cut in among[1:]] + [2.0]
    return [
        cut
        for cut, after in zip(among, following, strict=True)
        if after - cut.flops_share > _LITTLE or not cut.carries_all
    ]


def _is_there(path: Path, whole: EncoderSpec, layers: Sequence[str]) -> bool:
    """Whether a file is there already, of this encoder and these cuts."""
    if not path.exists():
        return False
    specs = read_specs(path)
    made_from = {spec.made_from for spec in specs}
    return made_from == {whole.sha256} and [spec.layer for spec in specs] == list(layers)


def _candidate(name: str, file: Path, cut: GraphCut, alone: Path, setting: Setting) -> Candidate:
    row = StudyRow(
        name=f"{name} {cut.name}",
        network=name,
        layer=cut.name,
        depth=min(1.0, cut.flops_share),
        size_bytes=read_spec(alone).size_bytes,
        notes="" if cut.carries_all else _ASIDE,
    )
    cut_it = (
        f"histofast models truncate {shlex.quote(str(file))} --at {shlex.quote(cut.name)} "
        f"--out {shlex.quote(alone.name)}"
    )
    commands = (
        ("Encode slides with the chosen cut", extract_command(alone)),
        ("Predict them with the models of the first repeat", predict_command(alone, setting.out)),
        ("Cut it anew", cut_it),
    )
    return Candidate(row=row, encoder=alone, key=alone.stem, commands=commands)
