"""How much of a network is needed: models of bags trained on the features of every cut."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from histofast._numbers import whole_number
from histofast.encoders import read_spec, read_specs
from histofast.errors import ModelError
from histofast.networks import Network, create, export, export_cuts, layers, stem_of
from histofast.studies.cut_files import cuts_of_file, refuse_strange_cuts
from histofast.studies.dependence import with_robustness
from histofast.studies.plan import Candidate
from histofast.studies.rows import StudyRow
from histofast.studies.running import (
    StudyResult,
    answer,
    extract_command,
    predict_command,
    save,
)
from histofast.studies.setting import Setting


def truncation(
    networks: Mapping[str, str | Path],
    setting: Setting,
    *,
    cuts: Sequence[str] | None = None,
    random_seeds: int = 5,
    pool: str = "auto",
) -> StudyResult:
    """Cut networks at every block, train models of bags on each cut, and name the knee.

    The knee is the cheapest cut that is shown to lose less than `setting.tolerance` to the highest.
    Everything is kept in `setting.out` and taken from there when called again: encoders, features,
    runs.

    Args:
        networks: weights file by the name of the network, one or several; or an encoder file (.onnx)
            by whatever it is to be called, which is cut in its graph.
        setting: labels, slides, folder, training.
        cuts: layers, of all networks; of an encoder file what `graphs.cuts` lists, or any tensor or
            module. None: the blocks of each, and its end.
        random_seeds: also train on the features of each whole network with random weights, of so
            many seeds, which are shown as their range; 0: none. Encoder files cannot be drawn anew.
        pool: of the tensors of encoder files, see `graphs.truncate`.

    Returns:
        The study; the folder has index.html, study.json, study.csv, study.png and .pdf, and folders
        encoders, features and runs.

    Raises:
        ValueError: no network, options out of range; labels that do not fit (see `open_bags`).
        FileNotFoundError, ModelError, SlideError, FeatureError: what cannot be read or used. A slide
            that fails in extraction stops the study: its cuts would be of other slides.

    Reference: Sharma, Ehsan, Syed, Brown, 2021, HistoTransfer, for the question.
    """
    if not networks:
        raise ValueError("networks must name at least one network with its weights, got none")
    random_seeds = whole_number("random_seeds", random_seeds)
    if random_seeds < 0:
        raise ValueError(f"random_seeds must be at least 0, got {random_seeds}")
    files = {name: Path(file) for name, file in networks.items() if _is_file(file)}
    for file in files.values():
        refuse_strange_cuts(file, cuts)
    for name in networks:
        if name not in files:
            layers(name)  # refuses a typing mistake before anything is written
    if pool != "auto" and len(files) < len(networks):
        raise ValueError(f"pool must be auto for networks that are not encoder files, got {pool!r}")
    setting.check()
    (setting.out / "encoders").mkdir(parents=True, exist_ok=True)
    candidates: list[Candidate] = []
    encoders: list[Path] = []
    for name, weights in networks.items():
        setting.tell(f"exporting {name}")
        made, found = (
            cuts_of_file(name, files[name], cuts, setting, pool=pool)
            if name in files
            else _prepared(name, weights, cuts, setting, random_seeds=random_seeds)
        )
        encoders += made
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
        remarks=[
            f"{name} is an encoder file, of which there is none with random weights."
            for name in files
            if random_seeds
        ],
    )
    study, links = with_robustness(study, candidates, setting)
    return save(study, setting.out, links=links)


def _is_file(weights: str | Path) -> bool:
    """Whether what stands for the weights of a network is the whole of it."""
    return Path(weights).suffix.lower() == ".onnx"


def _prepared(
    name: str,
    weights: str | Path,
    cuts: Sequence[str] | None,
    setting: Setting,
    *,
    random_seeds: int,
) -> tuple[list[Path], list[Candidate]]:
    """Export what is not there yet.

    Returns:
        Files that compute the features, one of all cuts where that can be; a candidate for each
        cut, with a file of its own for later use.
    """
    shares = {cut.name: cut.flops_share for cut in layers(name)}
    wanted = list(cuts) if cuts is not None else blocks_of(name)
    for layer in wanted:
        if layer not in shares:
            raise ModelError(f"cuts of {name} must be of {', '.join(shares)}, got {layer!r}")
    wanted.sort(key=list(shares).index)
    folder = setting.out / "encoders"
    stem = stem_of(name)
    size: dict[str, Any] = {"patch_px": setting.patch_px, "mpp": setting.mpp, "overwrite": True}
    networks = {layer: create(name, weights=weights, layer=layer) for layer in wanted}
    last = networks[wanted[-1]]
    files, found = [], []
    for layer in wanted:
        alone = folder / f"{stem}-{layer}.onnx"
        if not _is_of(alone, last.weights_sha256):
            export(networks[layer], alone, **size)
        files.append(alone)
        row = StudyRow(
            name=f"{name} {layer}",
            network=name,
            layer=layer,
            depth=min(1.0, shares[layer]),
            size_bytes=read_spec(alone).size_bytes,
        )
        commands = _commands(name, layer, weights, alone, setting.out)
        found.append(Candidate(row=row, encoder=alone, key=alone.stem, commands=commands))
    if isinstance(last, Network):
        files = [folder / f"{stem}-cuts.onnx"]
        if not _is_of(files[0], last.weights_sha256, cuts=wanted):
            export_cuts(last, files[0], layers=wanted, name=stem, **size)
    layer = wanted[-1]
    for seed in range(random_seeds):
        never = folder / f"{stem}-{layer}-random-{seed}.onnx"
        if not never.exists():
            export(create(name, layer=layer, seed=seed), never, **size)
        files.append(never)
        row = StudyRow(
            name=f"{name}, random weights {seed}",
            network=name,
            layer=layer,
            depth=min(1.0, shares[layer]),
            size_bytes=read_spec(never).size_bytes,
            baseline=True,
        )
        of_all = f"{name}, random weights"
        found.append(Candidate(row=row, encoder=None, key=never.stem, null=of_all))
    return files, found


def _is_of(path: Path, weights_sha256: str | None, cuts: Sequence[str] | None = None) -> bool:
    """Whether a file is there already, of these weights and these cuts."""
    if not path.exists():
        return False
    specs = read_specs(path)
    return {spec.weights_sha256 for spec in specs} == {weights_sha256} and (
        cuts is None or [spec.layer for spec in specs] == list(cuts)
    )


def blocks_of(name: str) -> list[str]:
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
    export_it = (
        f"histofast models export {shlex.quote(network)} --layer {layer} "
        f"--weights {shlex.quote(str(weights))} --out {file.name}"
    )
    return (
        ("Encode slides with the chosen cut", extract_command(file)),
        ("Predict them with the models of the first repeat", predict_command(file, out)),
        ("Export the chosen cut anew", export_it),
    )
