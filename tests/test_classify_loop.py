"""The parts of the loop of classify against their definitions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import reference_classify as reference
from extras import need
from labelled_pictures import write_pictures

torch = need("torch", "safetensors")

from histofast.classify import Recipe
from histofast.classify.evaluation import Evaluation, has_ended, is_better
from histofast.classify.loop import Lesson
from histofast.classify.optimisers import AdamP, optimiser_of, rate_at
from histofast.classify.state import TrainingState
from histofast.classify.task import Goal
from histofast.datasets import Augmentation, open_images
from histofast.networks import starts

pytestmark = pytest.mark.usefixtures("one_thread")

PLAIN = Recipe(epochs=4, batch_size=8, freeze="all", head_epochs=0)


def lesson(n=21, *, seed=0, recipe=PLAIN):
    pixels = np.random.default_rng(0).integers(0, 256, (n, 8, 8, 3), np.uint8)
    rows = np.arange(n)
    goal = Goal(
        task="classification",
        targets=torch.zeros(n, dtype=torch.int64),
        weights=torch.ones(2),
        smoothing=0.0,
    )
    return Lesson(
        pixels=pixels,
        images=rows + 100,
        train=rows,
        validation=rows[:2],
        test=rows[:0],
        goal=goal,
        recipe=recipe,
        seed=seed,
        metric="loss",
        score=lambda _: {},
    )


# --- Batches -------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 7, 8, 9, 16, 17, 18, 21])
def test_an_epoch_has_every_image_once_and_no_batch_of_one(n):
    shown = lesson(n)
    batches = list(shown.batches(0))
    assert len(batches) == shown.steps == 4 * shown.steps_per_epoch
    for epoch in range(4):
        part = batches[epoch * shown.steps_per_epoch : (epoch + 1) * shown.steps_per_epoch]
        assert sorted(np.concatenate(part).tolist()) == list(range(n))
        assert min(map(len, part)) >= 2
        assert max(map(len, part)) <= 9
    if n > 8:
        first, second = (np.concatenate(batches[i :: shown.steps_per_epoch]) for i in (0, 1))
        assert first.tolist() != second.tolist()


def test_batches_from_a_step_on_are_those_of_the_whole():
    shown = lesson()
    every = [part.tolist() for part in shown.batches(0)]
    for step in (0, 1, 2, 3, 7, len(every)):
        assert [part.tolist() for part in shown.batches(step)] == every[step:]
    other = [part.tolist() for part in lesson(seed=1).batches(0)]
    assert other != every


def test_an_image_is_augmented_the_same_in_every_batch():
    recipe = replace(PLAIN, augmentation=Augmentation(flips=True, rotate_deg=30.0, hed=0.2))
    shown = lesson(recipe=recipe)
    together = shown.prepared(np.arange(21), 3)
    for i in (0, 7, 20):
        np.testing.assert_array_equal(shown.prepared(np.array([i]), 3)[0], together[i])
    assert (shown.prepared(np.arange(21), 4) != together).any()


# --- Rates, optimisers, averages -----------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["constant", "cosine", "step"])
@pytest.mark.parametrize("freeze", ["all", "head", "head-then-all"])
def test_rates_match_their_definition(schedule, freeze):
    recipe = Recipe(
        epochs=10,
        lr=0.5,
        schedule=schedule,
        warmup=0.1,
        step_epochs=3,
        step_factor=0.25,
        freeze=freeze,
        head_epochs=2,
    )
    found = [rate_at(recipe, step, steps_per_epoch=7) for step in range(70)]
    alone = 14 if freeze == "head-then-all" else 0
    wanted = [5.0] * alone + [
        reference.rate(
            step, 70 - alone, top=0.5, schedule=schedule, warmup=0.1, every=21, factor=0.25
        )
        for step in range(70 - alone)
    ]
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


@pytest.mark.parametrize("shape", [(5, 4, 3, 3), (6, 7), (9,)])
def test_adamp_matches_its_definition(shape):
    rng = np.random.default_rng(0)
    begin = rng.normal(size=shape)
    parameter = torch.nn.Parameter(torch.from_numpy(begin.copy()))
    optimiser = AdamP([parameter], lr=0.1, weight_decay=0.3)
    gradients = rng.normal(size=(12, *shape))
    # Some are orthogonal to the weight, as behind a BatchNorm, so that steps are projected.
    current, projected = begin, 0
    for step, gradient in enumerate(gradients):
        weight = parameter.detach().numpy().reshape(shape[0], -1)
        rows = gradient.reshape(shape[0], -1)
        if step % 2 and len(shape) > 1:
            rows -= weight * ((rows * weight).sum(1) / (weight**2).sum(1))[:, None]
        parameter.grad = torch.from_numpy(gradient)
        optimiser.step()
        current, was = reference.adamp(begin, gradients[: step + 1], lr=0.1, weight_decay=0.3)
        projected += was
        np.testing.assert_allclose(parameter.detach().numpy(), current, rtol=1e-7, atol=1e-7)
    assert bool(projected) == (len(shape) > 1)


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "adamp"])
def test_every_optimiser_goes_down(name):
    parameter = torch.nn.Parameter(torch.full((3, 4), 2.0))
    recipe = replace(PLAIN, optimiser=name, lr=0.05, weight_decay=0.0)
    optimiser = optimiser_of(recipe, [parameter])
    for _ in range(60):
        optimiser.zero_grad()
        (parameter**2).sum().backward()
        optimiser.step()
    assert float((parameter.detach() ** 2).sum()) < 12


def test_the_average_matches_its_definition():
    network = starts.begin("resnet18", "random", classes=2)
    state = TrainingState(network, replace(PLAIN, ema=0.9))
    seen = [network.fc.weight.detach().numpy().astype(np.float64)]
    for step in range(30):
        with torch.no_grad():
            network.fc.weight += 0.01 * (step + 1)
            network.bn1.num_batches_tracked += 1
        state.average(step)
        seen.append(network.fc.weight.detach().numpy().astype(np.float64))
    with state.averaged() as shown:
        np.testing.assert_allclose(
            shown.fc.weight.detach().numpy(), reference.average(seen, decay=0.9), rtol=1e-5
        )
        assert int(shown.bn1.num_batches_tracked) == 30
    np.testing.assert_array_equal(network.fc.weight.detach().numpy(), seen[-1])


# --- Losses --------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_losses_of_classes_match_their_definition(smoothing):
    rng = np.random.default_rng(1)
    logits, targets = rng.normal(size=(9, 3)), rng.integers(0, 3, 9)
    weights = np.array([0.5, 1.0, 2.0])
    goal = Goal(
        task="classification",
        targets=torch.from_numpy(targets),
        weights=torch.from_numpy(weights),
        smoothing=smoothing,
    )
    found = goal.loss(torch.from_numpy(logits), goal.targets)
    wanted = reference.cross_entropy(logits, targets, weights=weights, smoothing=smoothing)
    assert float(found) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_losses_of_several_labels_leave_out_what_is_not_known(smoothing):
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(9, 3))
    targets = rng.integers(0, 2, (9, 3)).astype(np.float64)
    targets[rng.random((9, 3)) < 0.3] = np.nan
    weights = np.array([0.5, 1.0, 4.0])
    goal = Goal(
        task="multilabel",
        targets=torch.from_numpy(targets),
        weights=torch.from_numpy(weights),
        smoothing=smoothing,
    )
    x = torch.from_numpy(logits).requires_grad_()
    found = goal.loss(x, goal.targets)
    wanted = reference.several_labels(logits, targets, weights=weights, smoothing=smoothing)
    assert float(found.detach()) == pytest.approx(wanted, rel=1e-12)
    found.backward()
    assert bool((x.grad[goal.targets.isnan()] == 0).all())
    unknown = torch.full_like(goal.targets, torch.nan)
    assert float(goal.loss(x.detach(), unknown)) == 0


@pytest.mark.parametrize("several", [False, True])
def test_weights_of_classes_and_of_labels(tmp_path, several):
    path = write_pictures(tmp_path, several=several)
    images = open_images(path, labels=("light", "stripes") if several else None)
    rows = np.arange(0, 41)

    def weights(which):
        recipe = replace(PLAIN, class_weights=which)
        return Goal.of(images, rows, recipe, torch.device("cpu")).weights.numpy()

    targets = images.targets[rows]
    if several:
        # N / n_c of what is known of each label.
        balanced = [1 / np.mean(column[~np.isnan(column)]) for column in targets.T]
    else:
        balanced = [41 / (2 * (targets == c).sum()) for c in (0, 1)]
    np.testing.assert_allclose(weights("all"), balanced, rtol=1e-6)
    np.testing.assert_allclose(weights("labels"), balanced if several else [1, 1], rtol=1e-6)
    np.testing.assert_array_equal(weights("none"), [1, 1])


# --- Ends ----------------------------------------------------------------------------------------


def evaluation(step, loss, auroc=float("nan")):
    return Evaluation(
        step=step, epoch=step, loss=1.0, validation_loss=loss, metrics={"auroc": auroc}, lr=0.1
    )


def test_patience_counts_evaluations_without_a_better_one():
    told = []
    for step, loss in enumerate([3.0, 2.0, 2.5, 2.2, 1.9, 2.0, 2.0, 2.0], start=1):
        found = evaluation(step, loss)
        told.append(replace(found, is_best=is_better(found, told, "loss")))
    assert [found.step for found in told if found.is_best] == [1, 2, 5]
    recipe = replace(PLAIN, patience=3)
    assert [has_ended(told[:i], recipe) for i in range(1, 9)] == [False] * 7 + [True]
    assert not has_ended(told, PLAIN)


def test_equal_metrics_are_told_apart_by_the_loss():
    first = replace(evaluation(1, 2.0, 0.8), is_best=True)
    assert is_better(evaluation(2, 1.0, 0.8), [first], "auroc")
    assert not is_better(evaluation(2, 2.0, 0.8), [first], "auroc")
    assert not is_better(evaluation(2, 0.1), [first], "auroc")


def test_a_batch_of_one_is_refused_where_batchnorms_measure_it():
    with pytest.raises(ValueError, match=r"batch_size must be at least 2 .* batchnorm eval"):
        replace(PLAIN, batch_size=1)
    assert replace(PLAIN, batch_size=1, batchnorm="eval").batch_size == 1
    assert replace(PLAIN, batch_size=1, freeze="head").batch_size == 1
