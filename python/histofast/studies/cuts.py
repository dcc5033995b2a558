"""How much of a network is needed: models of bags trained on the features of every cut."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from histofast.encoders import read_specs
from histofast.errors import ModelError
from histofast.mil import TrainConfig
from histofast.networks import Network, create, export, export_cuts, layers
from histofast.studies.judging import Candidate, known_row
from histofast.studies.running import StudyResult, answer, extract_command, save
from histofast.studies.setting import OnProgress, Setting


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
    for name in networks:
        layers(name)  # refuses a typing mistake before anything is written
    setting = Setting(
        labels=labels,
        out=Path(out),
        slides=slides,
        patches=patches,
        patch_px=patch_px,
        mpp=mpp,
        model=model,
        task=task,
        config=config or TrainConfig(),
        missing=missing,
        measure_speed=measure_speed,
        min_tissue=min_tissue,
        command=command,
        on_progress=on_progress,
    )
    setting.check()
    (setting.out / "encoders").mkdir(parents=True, exist_ok=True)
    candidates: list[Candidate] = []
    encoders: list[Path] = []
    for name, weights in networks.items():
        setting.tell(f"exporting {name}")
        files, found = _prepared(name, weights, cuts, setting, random_weights=random_weights)
        encoders += files
        candidates += found
    study = answer(
        candidates,
        encoders,
        setting,
        kind="truncation",
        things="cuts",
        title=f"How much of {' and '.join(networks)} is needed",
        question=(
            f"From which block on do {setting.metric_title} and cost of a model of slides no "
            "longer rise together?"
        ),
    )
    return save(study, setting.out)


def _prepared(
    name: str,
    weights: str | Path,
    cuts: Sequence[str] | None,
    setting: Setting,
    *,
    random_weights: bool,
) -> tuple[list[Path], list[Candidate]]:
    """Export what is not there yet.

    Returns:
        Files that compute the features, one of all cuts where that can be; a candidate for each
        cut, with a file of its own for later use.
    """
    shares = {cut.name: cut.flops_share for cut in layers(name)}
    wanted = list(cuts) if cuts is not None else _blocks(name)
    for layer in wanted:
        if layer not in shares:
            raise ModelError(f"cuts of {name} must be of {', '.join(shares)}, got {layer!r}")
    wanted.sort(key=list(shares).index)
    folder = setting.out / "encoders"
    stem = name.replace(":", "-")
    size: dict[str, Any] = {"patch_px": setting.patch_px, "mpp": setting.mpp, "overwrite": True}
    networks = {layer: create(name, weights=weights, layer=layer) for layer in wanted}
    last = networks[wanted[-1]]
    files, found = [], []
    for layer in wanted:
        alone = folder / f"{stem}-{layer}.onnx"
        if not _is_of(alone, last.weights_sha256):
            export(networks[layer], alone, **size)
        files.append(alone)
        row = known_row(
            name=f"{name} {layer}",
            network=name,
            layer=layer,
            depth=min(1.0, shares[layer]),
            size_bytes=alone.stat().st_size,
        )
        commands = _commands(name, layer, weights, alone, setting.out)
        found.append(Candidate(row=row, encoder=alone, key=alone.stem, commands=commands))
    if isinstance(last, Network):
        files = [folder / f"{stem}-cuts.onnx"]
        if not _is_of(files[0], last.weights_sha256, cuts=wanted):
            export_cuts(last, files[0], layers=wanted, name=stem, **size)
    if random_weights:
        layer = wanted[-1]
        never = folder / f"{stem}-{layer}-random.onnx"
        if not never.exists():
            export(create(name, layer=layer, seed=0), never, **size)
        files.append(never)
        row = known_row(
            name=f"{name}, random weights",
            network=name,
            layer=layer,
            depth=min(1.0, shares[layer]),
            size_bytes=never.stat().st_size,
            notes="never trained",
            baseline=True,
        )
        found.append(Candidate(row=row, encoder=None, key=never.stem))
    return files, found


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


def _commands(
    network: str, layer: str, weights: str | Path, file: Path, out: Path
) -> tuple[tuple[str, str], ...]:
    """Return what to do with a cut that is chosen."""
    run = shlex.quote(str(out / "runs" / file.stem))
    export_it = (
        f"histofast models export {network} --layer {layer} "
        f"--weights {shlex.quote(str(weights))} --out {file.name}"
    )
    return (
        ("Encode slides with the chosen cut", extract_command(file)),
        (
            "Predict them with the models of this study",
            f"histofast predict {run} features/ --other-encoder --out predictions.csv",
        ),
        ("Export the chosen cut anew", export_it),
    )
