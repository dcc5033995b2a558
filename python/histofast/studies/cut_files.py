"""The cuts of an encoder file as candidates of a study: whatever wrote it, cut in its graph."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from histofast.encoders import EncoderSpec, cut_name, read_spec, read_specs
from histofast.graphs import GraphCut, cuts, join_cuts, truncate
from histofast.studies.plan import Candidate
from histofast.studies.rows import StudyRow
from histofast.studies.running import extract_command, predict_command
from histofast.studies.setting import Setting

_LITTLE = 0.001  # of the work
_ASIDE = "other tensors go beside it in the whole network"


def cuts_of_file(
    name: str, file: Path, wanted: Sequence[str] | None, setting: Setting, *, pool: str
) -> tuple[list[Path], list[Candidate]]:
    """Cut an encoder file where that is not done yet.

    Args:
        name: what it is called in the study.
        file: in the pixel-in form.
        wanted: cuts, tensors or modules; None: see `worth_a_model`.
        setting: of the study.
        pool: see `graphs.truncate`.

    Returns:
        Files that compute the features, one of all cuts where that can be; a candidate for each
        cut, with a file of its own for later use.

    Raises:
        FileNotFoundError, ModelError: what `truncate` and `join_cuts` raise.
    """
    whole = read_spec(file)
    known = cuts(file, also=wanted or ())
    chosen = worth_a_model(known) if wanted is None else [c for c in known if c.name in set(wanted)]
    folder = setting.out / "encoders"
    files, found = [], []
    for cut in chosen:
        alone = folder / f"{cut_name(name, cut.name)}.onnx"
        if not _is_there(alone, whole, [cut.name]):
            truncate(file, at=cut.name, out=alone, pool=pool, overwrite=True)
        files.append(alone)
        found.append(_candidate(name, file, cut, alone, setting))
    if whole.precision != "int8" and len(chosen) > 1:  # whose cuts cannot be joined
        files = [folder / f"{cut_name(name, 'cuts')}.onnx"]
        names = [cut.name for cut in chosen]
        if not _is_there(files[0], whole, names):
            join_cuts(file, at=names, out=files[0], pool=pool, name=name, overwrite=True)
    return files, found


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
