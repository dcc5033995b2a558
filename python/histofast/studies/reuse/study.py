"""What features of a pretrained network are reused for: the parts of `explain` for a start and what became of it.

Reuse.plan -> channels and maps of each layer, concepts, likeness, each a job -> ReuseFound -> page
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from histofast._files import path_of
from histofast._numbers import whole_number
from histofast.classify import Run, Runs, open_run, torch_threads
from histofast.datasets import Images, contents_of, open_images
from histofast.errors import ModelError
from histofast.explain import channels, concepts
from histofast.jobs import Job, canonical
from histofast.networks import Recorder, starts
from histofast.report import Answer
from histofast.studies.pictures import Conditions, Done
from histofast.studies.reuse.parts import (
    METHOD,
    MOST_COMPARED,
    Given,
    compare_ends,
    show_channels,
    show_maps,
    tell_concepts,
)

LEAST_PICTURES = 32  # that networks are compared on
_REVISION = 2  # raised when the same would give other parts
_SCALES = 4  # of which the last block is shown, where no layers are named
_TIMED = 16  # pictures of a pass that is timed
# Passes of a picture that parts are worth beside those of all pictures; for the time only.
_SEARCH_STEP, _MAP, _CURVES, _CHANGES, _SLOPES = 5.0, 8.0, 18.0, 60.0, 4.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ReuseJobs:
    """The parts, as jobs; of each layer by its name."""

    channels: Mapping[str, Job]
    maps: Mapping[str, Job]
    concepts: Job
    likeness: Job

    def __iter__(self) -> Iterator[tuple[str, Job]]:
        """Yield what each is, and the job."""
        yield "How much changed", self.likeness
        yield "Concepts", self.concepts
        for layer, job in self.channels.items():
            yield f"Channels of {layer}", job
        for layer, job in self.maps.items():
            yield f"Maps of {layer}", job


def last_of_scales(sides: Mapping[str, int]) -> tuple[str, ...]:
    """Return the layers after which maps have another side.

    Args:
        sides: of the maps of layers, px, from the pixels to the end.
    """
    following = [*list(sides.values())[1:], 0]
    return tuple(
        name for (name, px), after in zip(sides.items(), following, strict=True) if px != after
    )


@dataclass(frozen=True, kw_only=True)
class Reuse:
    """A study of what features look for, where, which concepts they tell, and what tuning changed of it.

    Attributes:
        setting: of the jobs.
        network: architecture of both networks.
        weights: file that tuning began with.
        tuned: folder of a finished run of `classify`, the same network.
        images: or a folder or table of pictures; labels are not needed.
        layers: that give maps, stages or any modules; (): the last block of each of the last four scales.
        channels: of each layer to show, evenly taken.
        steps: of the search for each channel's picture.
        pictures: at most, drawn at random.
        concepts: as of `explain.concepts`; (): its usual ones.
        folds, permutations: of their regression and its null.
        random_seeds: networks with random weights, the null of concepts and of maps.
        shown: pictures whose maps are shown for each layer.
        sample: pictures that maps are measured on.
        with_trained: also pictures that the run was trained on, which are left out else.
        seed: of all that is drawn.

    Raises:
        TypeError, ValueError: numbers that are none, or out of range; too few pictures; no such concept.
        FileNotFoundError: no such weights, run or pictures.
        ModelError: weights of another network, a run that is of another one or not finished; no such layer.
    """

    setting: Conditions
    network: str
    weights: str | Path
    tuned: Run | str | Path
    images: Images | str | Path
    layers: Sequence[str] = ()
    channels: int = 3
    steps: int = 128
    pictures: int = 400
    concepts: Sequence[str] = ()
    folds: int = 5
    permutations: int = 20
    random_seeds: int = 5
    shown: int = 3
    sample: int = 24
    with_trained: bool = False
    seed: int = 0

    name = "reuse"
    layer_metrics = False

    def __post_init__(self) -> None:
        least = {"channels": 1, "steps": 1, "pictures": LEAST_PICTURES, "folds": 3}
        least |= {"permutations": 0, "random_seeds": 1, "shown": 0, "sample": 1, "seed": 0}
        for name, at_least in least.items():
            value = whole_number(name, getattr(self, name), at_least=at_least)
            object.__setattr__(self, name, value)
        object.__setattr__(self, "weights", path_of("weights", self.weights))
        concepts.check_concepts(self.concepts or None)
        wanted = starts.network_of(self.network, self.start)
        if wanted != self.run.architecture:
            raise ModelError(
                f"tuned must be a run of {wanted}, the network of the weights, got one of "
                f"{self.run.architecture}"
            )
        _ = self.chosen, self.given  # refuse before the work

    @property
    def start(self) -> starts.File:
        """What tuning began with."""
        return starts.File(str(self.weights))

    @cached_property
    def run(self) -> Run:
        """The tuned network as it lies in its folder."""
        return self.tuned if isinstance(self.tuned, Run) else open_run(self.tuned)

    @cached_property
    def opened(self) -> Images:
        """All pictures, before any is left out or drawn."""
        if isinstance(self.images, Images):
            return self.images
        return open_images(self.images, labelled=False)

    @cached_property
    def _untold(self) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """The rows of pictures that did not train the run, and the contents of all."""
        contents = contents_of(self.opened)
        told = list(self.run.record.identity["images"].values())
        seen = {told[row]["content"] for row in self.run.fold.train}
        return tuple(i for i, one in enumerate(contents) if one not in seen), contents

    @property
    def trained(self) -> int:
        """How many of all pictures trained the run."""
        return len(self.opened) - len(self._untold[0])

    @cached_property
    def _drawn(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The rows of the pictures that parts look at."""
        rows = np.arange(len(self.opened)) if self.with_trained else np.array(self._untold[0], int)
        if len(rows) < LEAST_PICTURES:
            left = "" if self.with_trained else f" that {self.run.path.name} was not trained on"
            remedy = ": have with_trained=True to look at all" if self.trained and left else ""
            raise ValueError(
                f"images must be at least {LEAST_PICTURES}{left}, got {len(rows)}{remedy}"
            )
        order = np.random.default_rng(self.seed).permutation(len(rows))
        return rows[np.sort(order[: self.pictures])]

    @cached_property
    def given(self) -> Given:
        """What all parts look at."""
        return Given(
            network=self.run.architecture,
            start=self.start,
            tuned=self.run.path,
            images=self.opened.part(self._drawn),
            px=self.run.px,
            seed=self.seed,
            device=self.setting.device,
        )

    # --- Layers ------------------------------------------------------------------------------------

    @cached_property
    def _looked(self) -> tuple[dict[str, int], float]:
        """Sides of the maps of the layers there are to show, px, and the seconds of a picture's pass."""
        begun = starts.begin(self.network, self.start, seed=self.seed)
        recorder = Recorder(begun, list(self.layers) or None)
        px = self.run.px
        pixels = np.zeros((_TIMED, px, px, 3), np.uint8)
        sides: dict[str, int] = {}
        # With the threads that a part will have: others, waiting for each other, mislead by far
        # where the machine has more to do. The first pass makes ready what the second needs.
        with torch_threads(self.setting.threads, torch.device("cpu")):
            recorder.run(pixels, lambda name, maps: sides.update({name: maps.shape[-1]}))
            begin = time.perf_counter()
            recorder.run(pixels, lambda *_: None)
            return sides, (time.perf_counter() - begin) / _TIMED

    @cached_property
    def chosen(self) -> tuple[str, ...]:
        """The layers that are shown, from the pixels to the end."""
        sides, _ = self._looked
        return tuple(sides) if self.layers else last_of_scales(sides)[-_SCALES:]

    # --- The plan ----------------------------------------------------------------------------------

    def plan(self, runs: Runs) -> None:
        """Ask for all parts."""
        self.jobs(runs)

    def jobs(self, runs: Runs) -> ReuseJobs:
        """Ask for the parts; what was asked for before is the same again."""
        return ReuseJobs(
            likeness=self._ask(
                runs,
                compare_ends,
                name="how much changed",
                kind="likeness",
                passes=2 * min(len(self.given.images), MOST_COMPARED),
                told={"layers": self.chosen},
            ),
            concepts=self._concepts(runs),
            channels={layer: self._channels(runs, layer) for layer in self.chosen},
            maps={layer: self._maps(runs, layer) for layer in self.chosen},
        )

    def _concepts(self, runs: Runs) -> Job:
        return self._ask(
            runs,
            tell_concepts,
            name="concepts",
            kind="concepts",
            passes=len(self.given.images) * (2 + self.random_seeds + _SLOPES),
            told={
                "layers": self.chosen,
                "names": list(self.concepts) or None,
                "folds": self.folds,
                "permutations": self.permutations,
                "random_seeds": self.random_seeds,
            },
        )

    def _channels(self, runs: Runs, layer: str) -> Job:
        options = channels.Options(
            n=self.channels,
            px=self.given.px,
            steps=self.steps,
            pictures=len(self.given.images),
            seed=self.seed,
        )
        searched = 2 * self.channels * self.steps * _SEARCH_STEP
        return self._ask(
            runs,
            show_channels,
            name=f"channels of {layer}",
            kind="channels",
            passes=2 * len(self.given.images) + searched,
            told={"layer": layer, "options": asdict(options)},
            options=options,
            threads=self.setting.threads,
        )

    def _maps(self, runs: Runs, layer: str) -> Job:
        # Maps, darkness, and as many draws of networks without weights as of random order.
        measured = _CHANGES + _CURVES * 2 * (1 + self.random_seeds)
        return self._ask(
            runs,
            show_maps,
            name=f"maps of {layer}",
            kind="maps",
            passes=_MAP * len(self.given.images) + measured * self.sample,
            told={
                "layer": layer,
                "shown": self.shown,
                "sample": self.sample,
                "random_seeds": self.random_seeds,
            },
        )

    def _ask(
        self,
        runs: Runs,
        function: Callable[..., None],
        *,
        name: str,
        kind: str,
        passes: float,
        told: Mapping[str, Any],
        **aside: Any,
    ) -> Job:
        """Ask for a part: `told` are arguments that its numbers depend on, `aside` has others, or objects."""
        return runs.plan.add(
            function,
            name=name,
            kind=kind,
            arguments={"given": self.given, **told, **aside},
            identity={**self._identity, "part": kind, "method": METHOD, **told},
            cost=passes * self._looked[1],
        )

    @cached_property
    def _identity(self) -> dict[str, Any]:
        """What every part follows from: networks, pictures, the draw."""
        images, contents = self.given.images, self._untold[1]
        shown = canonical(
            {
                "contents": [contents[row] for row in self._drawn],
                "names": list(images.names),
                "groups": list(images.groups),
            }
        )
        return {
            "revision": _REVISION,
            "network": self.given.network,
            "start": starts.identity(self.given.start),
            "tuned": starts.identity(self.given.end),
            "pictures": hashlib.sha256(shown.encode()).hexdigest(),
            "px": self.given.px,
            "seed": self.seed,
        }

    def answer(self, done: Done) -> Answer:
        """Measure what was done, and say what it means."""
        from histofast.studies.reuse.answers import answer_of_reuse
        from histofast.studies.reuse.found import found_of

        return answer_of_reuse(self, found_of(self, done))
