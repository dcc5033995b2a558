"""From candidates to what they are worth: features, speeds, models of bags, differences."""

from __future__ import annotations

import logging
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from histofast import report
from histofast._words import count
from histofast.errors import HistofastError
from histofast.features import feature_files
from histofast.graphs import bench
from histofast.jobs import Part
from histofast.mil import Bags
from histofast.pipeline import Progress, RunReport, extract
from histofast.studies.measures import judge
from histofast.studies.plan import Candidate, train_all
from histofast.studies.rows import Study, StudyRow
from histofast.studies.setting import CONFIDENCE, Setting

_BENCH_ROUNDS = 3
_TOKENS = (
    "mean over the picture of the map at the cut; of vision transformers the mean of the patches' tokens "
    "without registers (mean), the class token (cls) or both one after the other, through the network's "
    "last norm unless the cut says no-norm"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """How a study is told; see `Study` for `kind`, `title`, `question` and `remarks`.

    Attributes:
        things: what the candidates are, in progress messages.
    """

    kind: Literal["truncation", "networks"]
    things: str
    title: str
    question: str
    remarks: tuple[str, ...] = ()


def answer(
    candidates: Sequence[Candidate],
    encoders: Sequence[str | Path],
    setting: Setting,
    *,
    words: Question,
) -> Study:
    """Measure all candidates and hold them against the best.

    Args:
        candidates: at least one.
        encoders: names or files that compute the features of all of them.
        setting: what the study was told; features and runs come to its folder.
        words: how it is told.

    Raises:
        What `extract`, `bench` and `train_all` raise.
        HistofastError: a slide failed; features of other patch sizes are there.
    """
    _refuse_failures(compute_features(encoders, setting, words=words))
    features = [features_of(candidate.key, setting) for candidate in candidates]
    if setting.measure_speed:
        setting.tell(f"timing {count(len(candidates), 'encoder')}")
        candidates = _timed(candidates, setting)
    trained = train_all(candidates, features, setting)
    setting.tell("metrics, intervals and differences")
    verdict = judge(candidates, trained, setting)
    commands = [] if setting.command is None else [("Repeat the study", setting.command)]
    chosen = {row.name for row in verdict.rows if row.chosen}
    for candidate in candidates:
        if candidate.row.name in chosen:
            commands += candidate.commands
    if setting.slides is not None:
        looked = chosen or {_highest(verdict.rows, candidates)}
        for candidate, folder, made in zip(candidates, features, trained, strict=True):
            if candidate.row.name in looked:
                look = report.view_command(setting.slides, features=folder, run=made.runs[0].path)
                commands.append((f"Look at the slides with {candidate.row.name}", look))
    bags, folds = trained[0].bags, trained[0].runs[0].folds
    tested = bags.part(sorted({int(row) for fold in folds for row in fold.test}))
    return Study(
        kind=words.kind,
        title=words.title,
        question=words.question,
        metric=setting.metric_title,
        higher_is_better=True,
        confidence=CONFIDENCE,
        rows=verdict.rows,
        n_slides=len(tested),
        n_patients=len(set(tested.groups)),
        folds=len(folds),
        repeats=setting.repeats,
        unit=bags.unit,
        knee=verdict.knee,
        pools=verdict.pools,
        convention=_convention(setting, bags, has_tokens=any(row.pool for row in verdict.rows)),
        commands=tuple(commands),
        chance=setting.chance,
        remarks=(*words.remarks, *(f"{note[:1].upper()}{note[1:]}." for note in bags.notes)),
    )


def _highest(rows: Sequence[StudyRow], candidates: Sequence[Candidate]) -> str:
    """Return the name of the candidate of the highest value, the first where none has one."""
    values = {row.name: row.value for row in rows if row.is_defined}
    names = [candidate.row.name for candidate in candidates]
    return max(names, key=lambda name: values.get(name, -math.inf))


def extract_command(encoder: str | Path) -> str:
    """Return how a user computes features with an encoder."""
    return f"histofast extract slides/ --encoder {shlex.quote(str(encoder))} --out features/"


def predict_command(encoder: Path, out: Path) -> str:
    """Return how a user applies the models of an encoder's first repeat, in a study's folder."""
    run = shlex.quote(str(out / "runs" / encoder.stem / "repeat-0"))
    return f"histofast predict {run} features/ --other-encoder --out predictions.csv"


def features_of(key: str, setting: Setting) -> Path:
    """Return the folder of a candidate's feature files.

    Raises:
        HistofastError: there is none, or more than one.
    """
    found = _folders_of(key, setting)
    if len(found) != 1:
        raise HistofastError(
            f"{setting.out / 'features'} must hold one folder of {key}, got {len(found)}: studies of other patch "
            "sizes need folders of their own"
        )
    return found[0]


def _folders_of(key: str, setting: Setting) -> list[Path]:
    return sorted((setting.out / "features").glob(f"*/features_{key}"))


def lack_features(candidates: Sequence[Candidate], setting: Setting) -> bool:
    """Whether a slide has no file of a candidate's features; `extract` is who looks into those that are there.

    Raises:
        ValueError, FileNotFoundError, SlideError: slides that cannot be listed; FeatureError: a folder that cannot.
    """
    names = {f"{slide.name}.h5" for slide in setting.slide_jobs}
    for candidate in candidates:
        files = {
            file.name
            for folder in _folders_of(candidate.key, setting)
            for file in feature_files(folder)
        }
        if not files >= names:
            return True
    return False


def compute_features(
    encoders: Sequence[str | Path], setting: Setting, *, words: Question, part: Part | None = None
) -> RunReport:
    """Run `extract` on all slides, or on those of a part.

    Raises:
        What `extract` raises; HistofastError: what stopped it before its last slide; KeyboardInterrupt.
    """
    setting.tell(f"computing features of all {words.things}")

    def tell(progress: Progress) -> None:
        slide = progress.finished
        if slide is not None and slide.status != "skipped":
            done, total = progress.slides_done - 1, progress.slides_total
            doing = f"features of {slide.name}"
            setting.tell(doing, done=done, total=total, level=logging.DEBUG)

    found = extract(
        setting.slides,
        patches=setting.patches,
        out=setting.out / "features",
        encoder=list(encoders),
        patch_px=setting.patch_px,
        mpp=setting.mpp,
        min_tissue=setting.min_tissue,
        tissue=setting.tissue,
        stain=setting.stain,
        icc=setting.icc,
        allow_upsampling=setting.patches is not None,
        cluster=setting.cluster,
        shard=None if part is None else str(part),
        progress=False,
        on_progress=tell,
    )
    if found.interrupted:
        raise KeyboardInterrupt
    if found.error and not found.of("failed"):
        raise HistofastError(found.error)
    return found


def _refuse_failures(found: RunReport) -> None:
    failed = found.of("failed")
    if failed:
        raise HistofastError(
            f"{len(failed)} of {len(found.slides)} slides failed, the first, {failed[0].name}: "
            f"{failed[0].error}"
        )


def _timed(candidates: Sequence[Candidate], setting: Setting) -> list[Candidate]:
    asked = [c.encoder for c in candidates if c.encoder is not None]
    found = bench(
        asked,
        slides=setting.slides,
        patches=setting.patches,
        patch_px=setting.patch_px,
        tissue=setting.tissue,
        rounds=_BENCH_ROUNDS,
    )
    speeds = {path: times.patches_per_s for path, times in zip(asked, found.encoders, strict=True)}
    return [
        replace(c, row=replace(c.row, patches_per_s=speeds.get(c.encoder))) if c.encoder else c
        for c in candidates
    ]


def _colours(setting: Setting) -> str:
    """Return what was done to the colours of patches, as part of a line."""
    by_profile = ", in sRGB by the slides' ICC profiles" if setting.icc else ""
    if setting.stain is None:
        return by_profile
    return f"{by_profile}, stains by {setting.stain.method}"


def _convention(setting: Setting, bags: Bags, *, has_tokens: bool) -> dict[str, str]:
    kind = "of slides," if setting.patches is None else "images of a table, resized to"
    side = f"{setting.patch_px} px" if setting.patch_px else "of the encoders' size"
    config = setting.config
    return {
        "patches": f"{kind} {side}{_colours(setting)}",
        "features": _TOKENS if has_tokens else "mean over the picture of the map at the cut",
        "model": f"{setting.model}, at most {config.epochs} epochs, lr {config.lr:g}",
        "validation": f"{bags.unit}s that are not tested choose the epoch",
        "value": f"mean over folds and repeats of the {setting.metric_title} of the tested {bags.unit}s; "
        "ranks are compared only where the same model gave them",
        "interval of the way of training": f"corrected for the {bags.unit}s that folds share in training "
        "(Nadeau and Bengio, 2003)",
        f"interval over {bags.unit}s": f"1000 bootstrap draws of {bags.unit}s, the models as they are",
        "differences": "fold by fold, same folds and seeds; findings after Holm over the candidates",
        "depth": "share of the whole network's multiplications",
        "speed": "ONNX Runtime on this machine's CPUs, median of rounds in turns",
    }
