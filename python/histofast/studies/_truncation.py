"""How much of a network is needed: models of bags trained on the features of every cut."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from histofast import report
from histofast._files import replacing
from histofast.bench import bench
from histofast.encoders import read_specs
from histofast.errors import HistofastError, ModelError
from histofast.mil import TrainConfig
from histofast.networks import Network, create, export, export_cuts, layers
from histofast.report import Study, StudyRow
from histofast.studies._judge import (
    CHANCE_OF,
    TITLE_OF,
    Candidate,
    Judged,
    OnProgress,
    StudyProgress,
    Verdict,
    against_best,
    check_labels,
    compute_features,
    judge,
)

_BENCH_ROUNDS = 3
NAN = float("nan")


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyResult:
    """A study's answer, and the folder that holds all of it (index.html is the page)."""

    study: Study
    path: Path


def truncation(
    networks: Mapping[str, str | Path],
    *,
    labels: str | Path,
    out: str | Path,
    slides: str | Path | Sequence[str | Path] | None = None,
    patches: str | Path | None = None,
    cuts: Sequence[str] | None = None,
    patch_px: int | None = None,
    mpp: float | None = None,
    model: str = "attention",
    task: Literal["classification", "regression", "survival"] = "classification",
    config: TrainConfig | None = None,
    missing: Literal["error", "skip"] = "error",
    random_weights: bool = True,
    measure_speed: bool = True,
    min_tissue: float = 0.25,
    command: str | None = None,
    on_progress: OnProgress | None = None,
) -> StudyResult:
    """Cut networks at every block, train a model of bags on each cut, and name the knee.

    Everything is kept in `out` and taken from there when called again: encoders, features, runs.

    Args:
        networks: weights file by the name of the network, one or several.
        labels: table of slides' labels, as `histofast.mil.open_bags` reads it.
        out: folder of the study.
        slides: to cut into patches.
        patches: instead, a table of patch images; they are enlarged to `patch_px` if smaller.
        cuts: layers, of all networks; None: the blocks of each, and its end.
        patch_px: side of the patches; None: what the networks' encoders say.
        mpp: um per pixel of patches from slides; None: likewise.
        model: of bags.
        task: what the labels are.
        config: how to train.
        missing: see `open_bags`.
        random_weights: also train on the features of each whole network with random weights.
        measure_speed: time every cut's encoder on patches of this study.
        min_tissue: least share of tissue in a patch of a slide.
        command: how a user would repeat it, for the page.
        on_progress: called before each part.

    Returns:
        The study; `out` has index.html, study.json, study.csv, study.png and .pdf, and folders
        encoders, features and runs.

    Raises:
        ValueError: no network, neither or both of slides and patches, options out of range; labels
            that do not fit (see `open_bags`).
        FileNotFoundError, ModelError, SlideError, FeatureError: what cannot be read or used. A slide
            that fails in extraction stops the study: its cuts would be of other slides.

    Reference: Sharma, Ehsan, Syed, Brown, 2021, HistoTransfer, for the question.
    """
    if not networks:
        raise ValueError("networks must name at least one network with its weights, got none")
    config = config or TrainConfig()
    for name in networks:
        layers(name)  # refuses a typing mistake before anything is written
    check_labels(slides, patches, labels=labels, task=task, missing=missing, config=config)
    out = Path(out)
    (out / "encoders").mkdir(parents=True, exist_ok=True)
    tell = on_progress or (lambda progress: None)

    candidates: list[Candidate] = []
    encoders: list[Path] = []
    for name, weights in networks.items():
        tell(StudyProgress(doing=f"exporting {name}", done=0, total=1))
        prepared = _Prepared.of(
            name, weights, cuts, out / "encoders", patch_px, mpp, random_weights
        )
        encoders += prepared.files
        candidates += prepared.candidates
    tell(StudyProgress(doing="computing features of all cuts", done=0, total=1))
    compute_features(
        encoders,
        slides=slides,
        patches=patches,
        out=out / "features",
        patch_px=patch_px,
        mpp=mpp,
        min_tissue=min_tissue,
    )
    candidates = [replace(c, features=folder_of(out / "features", c.key)) for c in candidates]
    if measure_speed:
        tell(StudyProgress(doing="timing encoders", done=0, total=1))
        candidates = timed(candidates, slides=slides, patches=patches, patch_px=patch_px)
    verdict = judge(
        candidates,
        labels=labels,
        out=out / "runs",
        model=model,
        task=task,
        config=config,
        missing=missing,
        on_progress=on_progress,
    )
    judged = [with_pooled(j, verdict) for j in verdict.judged]
    judged += pooled_baselines(verdict)
    rows = against_best(verdict, judged, seed=config.seed)
    study = Study(
        kind="truncation",
        title=f"How much of {' and '.join(networks)} is needed",
        question=(
            f"From which block on do {TITLE_OF[verdict.metric]} and cost of a model of slides no "
            "longer rise together?"
        ),
        metric=TITLE_OF[verdict.metric],
        higher_is_better=True,
        confidence=0.95,
        rows=rows,
        n_slides=len(verdict.tested),
        n_patients=len(set(verdict.bags.part(verdict.tested).groups)),
        folds=verdict.folds,
        convention=convention(verdict, model, config, patches is not None, patch_px),
        commands=_commands(rows, networks, out, command),
        chance=CHANCE_OF[verdict.metric],
        remarks=tuple(verdict.bags.notes),
    )
    save(study, out)
    return StudyResult(study=study, path=out)


def save(study: Study, out: Path, *, links: Mapping[str, str] | None = None) -> None:
    """Write study.json, .csv, .png, .pdf and, last, index.html."""
    for name, text in (("study.json", study.to_json()), ("study.csv", study.to_csv())):
        with replacing(out / name, overwrite=True) as pending:
            pending.write_text(text, encoding="utf-8", newline="")
    for suffix in (".png", ".pdf"):
        report.plot_study(study, out / f"study{suffix}")
    with replacing(out / "index.html", overwrite=True) as pending:
        pending.write_text(report.study_page(study, links=links), encoding="utf-8")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Prepared:
    """A network's encoders: one file of all cuts for this study, and one of each for later use."""

    files: tuple[Path, ...]
    candidates: tuple[Candidate, ...]

    @classmethod
    def of(
        cls,
        name: str,
        weights: str | Path,
        cuts: Sequence[str] | None,
        folder: Path,
        patch_px: int | None,
        mpp: float | None,
        random_weights: bool,
    ) -> _Prepared:
        """Export what is not there yet."""
        shares = {cut.name: cut.flops_share for cut in layers(name)}
        wanted = list(cuts) if cuts is not None else _blocks(name)
        for layer in wanted:
            if layer not in shares:
                raise ModelError(f"cuts of {name} must be of {', '.join(shares)}, got {layer!r}")
        wanted.sort(key=list(shares).index)
        stem = name.replace(":", "-")
        size: dict[str, Any] = {"patch_px": patch_px, "mpp": mpp, "overwrite": True}
        networks = {layer: create(name, weights=weights, layer=layer) for layer in wanted}
        sha256 = networks[wanted[-1]].weights_sha256
        found = []
        for layer in wanted:
            alone = folder / f"{stem}-{layer}.onnx"
            if not _is_of(alone, sha256):
                export(networks[layer], alone, **size)
            row = _row(f"{name} {layer}", name, layer, shares[layer], alone)
            found.append(Candidate(row=row, features=Path(), encoder=alone, key=f"{stem}-{layer}"))
        files = [c.encoder for c in found if c.encoder is not None]
        last = networks[wanted[-1]]
        if isinstance(last, Network):
            files = [folder / f"{stem}-cuts.onnx"]
            if not _is_of(files[0], sha256, cuts=wanted):
                export_cuts(last, files[0], layers=wanted, name=stem, **size)
        if random_weights:
            layer = wanted[-1]
            never = folder / f"{stem}-{layer}-random.onnx"
            if not never.exists():
                export(create(name, layer=layer, seed=0), never, **size)
            files.append(never)
            row = _row(f"{name}, random weights", name, layer, shares[layer], never)
            row = replace(row, baseline=True, notes="never trained")
            found.append(Candidate(row=row, features=Path(), encoder=None, key=never.stem))
        return cls(files=tuple(files), candidates=tuple(found))


def _is_of(path: Path, weights_sha256: str | None, cuts: Sequence[str] | None = None) -> bool:
    """Whether a file is there already, of these weights and these cuts."""
    if not path.exists():
        return False
    specs = read_specs(path)
    return {spec.weights_sha256 for spec in specs} == {weights_sha256} and (
        cuts is None or [spec.layer for spec in specs] == list(cuts)
    )


def _blocks(name: str) -> list[str]:
    """Return the cuts worth a model: those that are wider or deeper by a block of layers."""
    known = layers(name)
    kept = []
    before = -1.0
    for i, cut in enumerate(known):
        following = known[i + 1].flops_share if i + 1 < len(known) else 2.0
        # Of stages that cost nothing (norms, ReLUs, pooling) the last one stands for all.
        if following - cut.flops_share > 0.001 and cut.flops_share - before > 0.001:
            kept.append(cut.name)
            before = cut.flops_share
    return kept


def _row(name: str, network: str, layer: str, depth: float, path: Path) -> StudyRow:
    return StudyRow(
        name=name,
        network=network,
        layer=layer,
        depth=min(1.0, depth),
        d=1,
        value=NAN,
        low=NAN,
        high=NAN,
        patches_per_s=None,
        size_bytes=path.stat().st_size,
    )


def folder_of(features: Path, encoder: str) -> Path:
    found = sorted(features.rglob(f"features_{encoder}"))
    if len(found) != 1:
        raise HistofastError(
            f"{features} must hold one folder of {encoder}, got {len(found)}: studies of other patch "
            "sizes need folders of their own"
        )
    return found[0]


def timed(
    candidates: Sequence[Candidate],
    *,
    slides: Any,
    patches: str | Path | None,
    patch_px: int | None,
) -> list[Candidate]:
    asked = [c.encoder for c in candidates if c.encoder is not None]
    found = bench(asked, slides=slides, patches=patches, patch_px=patch_px, rounds=_BENCH_ROUNDS)
    speeds = {path: times.patches_per_s for path, times in zip(asked, found.encoders, strict=True)}
    return [
        replace(c, row=replace(c.row, patches_per_s=speeds.get(c.encoder))) if c.encoder else c
        for c in candidates
    ]


def with_pooled(judged: Judged, verdict: Verdict) -> Judged:
    """Add what mean pooling reaches on the same features."""
    pooled = verdict.pooled.get(judged.row.name)
    if pooled is None:
        return judged
    title = f"{TITLE_OF[verdict.metric]}, mean pooling"
    return replace(judged, row=replace(judged.row, extra={title: pooled.row.value}))


def pooled_baselines(verdict: Verdict) -> list[Judged]:
    """Take the best of mean pooling as a baseline: attention has to beat that."""
    if not verdict.pooled:
        return []
    best = max(verdict.pooled.values(), key=lambda j: j.row.value)
    row = replace(
        best.row,
        name="mean pooling and logistic regression",
        notes=f"where it does best: on {best.row.name.removeprefix('mean pooling, ')}",
    )
    return [replace(best, row=row)]


def convention(
    verdict: Verdict, model: str, config: TrainConfig, is_table: bool, patch_px: int | None
) -> dict[str, str]:
    side = f"{patch_px} px" if patch_px else "of the encoders' size"
    return {
        "patches": f"{'images of a table, resized to' if is_table else 'of slides,'} {side}",
        "features": "mean over the picture of the map at the cut",
        "model": f"{model}, at most {config.epochs} epochs, lr {config.lr:g}",
        "validation": "patients that are not tested choose the epoch",
        "value": f"{TITLE_OF[verdict.metric]} of out-of-fold predictions",
        "interval": "95 %, 1000 bootstrap draws of patients; differences on the same draws",
        "depth": "share of the whole network's multiplications",
        "speed": "ONNX Runtime on this machine's CPUs, median of rounds in turns",
    }


def _commands(
    rows: Sequence[StudyRow], networks: Mapping[str, str | Path], out: Path, command: str | None
) -> tuple[tuple[str, str], ...]:
    found = [] if command is None else [("Repeat the study", command)]
    chosen = next((row for row in rows if row.chosen), None)
    if chosen is not None:
        file = out / "encoders" / f"{chosen.network}-{chosen.layer}.onnx"
        run = shlex.quote(str(out / "runs" / file.stem))
        predict_it = f"histofast predict {run} features/ --other-encoder --out predictions.csv"
        export_it = (
            f"histofast models export {chosen.network} --layer {chosen.layer} "
            f"--weights {shlex.quote(str(networks[chosen.network]))} "
            f"--out {chosen.network}-{chosen.layer}.onnx"
        )
        found += [
            (
                "Encode slides with the chosen cut",
                f"histofast extract slides/ --encoder {shlex.quote(str(file))} --out features/",
            ),
            (
                "Predict them with the models of this study",
                predict_it,
            ),
            (
                "Export the chosen cut anew",
                export_it,
            ),
        ]
    return tuple(found)
