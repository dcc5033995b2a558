"""Ranks of the layers of a network in training: layers.csv of a run."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from extras import need
from labelled_pictures import write_pictures

torch = need("torch", "safetensors")

from histofast import similarity
from histofast.classify import Recipe, train, train_folds
from histofast.errors import ModelError
from histofast.networks import starts

pytestmark = pytest.mark.usefixtures("one_thread")

FAST = Recipe(epochs=2, batch_size=8, px=24, lr=2e-3, freeze="all", ema=0.5, every=3)
NETWORK = "squeezenet1.1"  # of the small ones
ASKED = {"network": NETWORK, "recipe": FAST, "layer_metrics": True}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def run(table, tmp_path_factory):
    return train(table, out=tmp_path_factory.mktemp("run") / "r", **ASKED)


class Killed(BaseException):
    pass


def stopped(table, out, *, evaluations, **asked):
    """Train till so many evaluations are saved."""

    def stop(progress):
        nonlocal evaluations
        evaluations -= progress.finished is not None
        if not evaluations:
            raise Killed

    with pytest.raises(Killed):
        train(table, out=out, on_progress=stop, **asked)


def near(layers, network):
    """Whether layers are those of a network, to the digits of the table."""
    state = {name: value.detach().numpy() for name, value in network.state_dict().items()}
    wanted = similarity.layer_metrics(state)
    assert [layer.layer for layer in layers] == [layer.layer for layer in wanted]
    for found, other in zip(layers, wanted, strict=True):
        values, others = ({**asdict(each), "layer": 0} for each in (found, other))
        assert values == pytest.approx(others, rel=1e-7)
    return True


def test_every_epoch_and_the_start_have_their_rows(run):
    epochs = run.layers()
    assert [epoch.epoch for epoch in epochs] == [0, 1, 2]
    last = int(run.log()["step"][-1])
    assert [epoch.step for epoch in epochs] == [0, last // 2, last]
    assert last // 2 % FAST.every  # an epoch ends between two evaluations
    assert near(epochs[0].layers, starts.begin(NETWORK, "random", classes=2))
    header = (run.path / "layers.csv").read_text().splitlines()[0]
    assert header == (
        "epoch,step,layer,stable_rank,effective_rank,rank_in,rank_out,rank_ratio_in,"
        "rank_ratio_out,knowledge_gain"
    )


def test_rows_are_of_the_weights_that_train(table, tmp_path):
    recipe = replace(FAST, epochs=1, every=None, ema=0.0)
    done = train(table, out=tmp_path / "r", **{**ASKED, "recipe": recipe})
    assert near(done.layers()[1].layers, done.network())
    averaged = replace(recipe, ema=0.999)
    other = train(table, out=tmp_path / "a", **{**ASKED, "recipe": averaged})
    assert (other.path / "layers.csv").read_bytes() == (done.path / "layers.csv").read_bytes()
    first, second = (run.network().state_dict() for run in (done, other))
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_the_numbers_of_a_run_do_not_depend_on_it(run, table, tmp_path):
    plain = train(table, out=tmp_path / "r", network=NETWORK, recipe=FAST)
    assert plain.record.is_same(run.record)
    for name in ("weights.safetensors", "predictions.csv"):
        assert (plain.path / name).read_bytes() == (run.path / name).read_bytes()
    assert not (plain.path / "layers.csv").exists()
    remedy = "layer_metrics must be asked for when a run is begun, .* into another folder"
    with pytest.raises(ValueError, match=remedy):
        plain.layers()
    with pytest.raises(ValueError, match=remedy):
        train(table, out=plain.path, **ASKED)
    assert train(table, out=run.path, network=NETWORK, recipe=FAST).layers() == run.layers()


@pytest.mark.parametrize("evaluations", [1, 2])
def test_stopped_and_resumed_has_the_same_rows(run, table, tmp_path, evaluations):
    stopped(table, tmp_path / "r", evaluations=evaluations, **ASKED)
    again = train(table, out=tmp_path / "r", **ASKED)
    assert (again.path / "layers.csv").read_bytes() == (run.path / "layers.csv").read_bytes()


def test_weights_that_are_not_finite_have_no_ranks(table, tmp_path):
    wild = replace(FAST, lr=1e30, every=None)
    with pytest.raises(ModelError, match=r"loss must be finite.* step \d+ at a learning rate"):
        train(table, out=tmp_path / "r", **{**ASKED, "recipe": wild})


def test_a_run_that_goes_on_otherwise_than_it_began(table, tmp_path):
    plain = {"network": NETWORK, "recipe": FAST}
    stopped(table, tmp_path / "a", evaluations=1, **plain)
    with pytest.raises(ValueError, match="layer_metrics must be asked for when a run is begun"):
        train(table, out=tmp_path / "a", **ASKED)
    stopped(table, tmp_path / "b", evaluations=2, **ASKED)
    assert (tmp_path / "b" / "layers.csv").is_file()
    notes = []
    train(table, out=tmp_path / "b", on_note=notes.append, **plain)
    assert [note for note in notes if "layers.csv is removed: the run goes on without" in note]
    assert not (tmp_path / "b" / "layers.csv").exists()


def test_a_table_that_was_changed_is_refused(table, tmp_path):
    recipe = replace(FAST, epochs=1)
    folds = train_folds(table, out=tmp_path, folds=2, **{**ASKED, "recipe": recipe})
    done = folds.runs[1]
    assert len(done.layers()) == 2
    path = done.path / "layers.csv"
    path.write_text(path.read_text().replace("squeeze", "expand", 1))
    with pytest.raises(ModelError, match=r"layers\.csv must be as it was written"):
        done.layers()
