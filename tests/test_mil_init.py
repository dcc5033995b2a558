"""Training that starts from a published head: whose tensors are whose, and what does not fit."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

import reference
from extras import need
from histofast.errors import ModelError
from histofast.features import read_features
from toy_bags import D, write_toy

torch = need("torch", "sklearn")
from safetensors.torch import load_file, save_file

from histofast.mil import TrainConfig, create, open_bags, open_run, read_start, train, train_fold

pytestmark = pytest.mark.usefixtures("one_thread")

HIDDEN, ATTENTION = 12, 5
# So slow that a model stays where it began, to well below what is compared.
STILL = TrainConfig(folds=2, epochs=1, lr=1e-12)
MIL_LAB = {
    "first": "patch_embed.0",
    "value": "global_attn.attention_a.0",
    "gate": "global_attn.attention_b.0",
    "score": "global_attn.attention_c",
}
CLAM = {
    "first": "attention_net.0",
    "value": "attention_net.3.attention_a.0",
    "gate": "attention_net.3.attention_b.0",
    "score": "attention_net.3.attention_c",
}
PUBLISHED = {
    "MIL-Lab, Hugging Face's": (MIL_LAB, "model.", {"model.classifier": (108, HIDDEN)}),
    "MIL-Lab, bare": (MIL_LAB, "", {}),
    "CLAM": (CLAM, "", {"classifiers": (2, HIDDEN), "instance_classifiers.0": (2, HIDDEN)}),
    "CLAM without dropout": (
        {k: v.replace(".3.", ".2.") for k, v in CLAM.items()},
        "",
        {"classifiers": (2, HIDDEN)},
    ),
}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return write_toy(tmp_path_factory.mktemp("toy"))


def layers(d=D, hidden=HIDDEN, attention=ATTENTION, heads=1, seed=3):
    """Weights and biases of the layers of gated attention, by the arguments of the definition."""
    rng = np.random.default_rng(seed)
    shapes = {
        "first": (hidden, d),
        "value": (attention, hidden),
        "gate": (attention, hidden),
        "score": (heads, attention),
    }
    return {
        name: (rng.normal(size=shape).astype("f4"), rng.normal(size=shape[0]).astype("f4"))
        for name, shape in shapes.items()
    }


def publish(path, found, names=MIL_LAB, before="model.", more=None):
    """Write layers as others spell them."""
    state = {}
    for name, (weight, bias) in found.items():
        state[f"{before}{names[name]}.weight"] = torch.tensor(weight)
        state[f"{before}{names[name]}.bias"] = torch.tensor(bias)
    for name, shape in (more or {}).items():
        state[f"{name}.weight"], state[f"{name}.bias"] = torch.ones(shape), torch.ones(shape[0])
    save_file(state, path)
    return path


@pytest.mark.parametrize("model", ["gated", "clam"])
@pytest.mark.parametrize("whose", PUBLISHED)
def test_the_attention_is_that_of_the_published_weights(toy, tmp_path, whose, model):
    """A forward pass in NumPy with the file's tensors, and the model's own head."""
    found = layers()
    names, before, more = PUBLISHED[whose]
    file = publish(tmp_path / "head.safetensors", found, names, before, more)
    notes = []
    run = train(
        *toy, out=tmp_path / "run", model=model, init=file, config=STILL, on_note=notes.append
    )
    bag = read_features(run.paths[0]).features
    for built in run.models():
        assert {k: built.options[k] for k in ("hidden", "attention")} == {
            "hidden": HIDDEN,
            "attention": ATTENTION,
        }
        head = [p.detach().numpy() for p in (built.head.weight, built.head.bias)]
        wanted = reference.gated_attention(bag, **found, head=head)
        got = built(torch.tensor(bag))
        for have, want in zip((got.output, got.attention, got.scores), wanted, strict=True):
            np.testing.assert_allclose(have.detach(), want, atol=3e-5)
    (note,) = [line for line in notes if "starts from" in line]
    spelling = whose.partition(",")[0]
    assert note.startswith(
        f"every fold starts from 8 tensors of {file} (names of {spelling}), its head"
    )
    for left_out in more:
        assert f"{left_out}.weight" in note


def test_a_run_knows_its_start(toy, tmp_path):
    file = publish(tmp_path / "head.safetensors", layers())
    other = publish(tmp_path / "other.safetensors", layers(seed=4))
    options = {"out": tmp_path / "run", "model": "gated", "config": STILL}
    run = train(*toy, init=file, **options)
    told = json.loads((tmp_path / "run" / "run.json").read_text())
    assert told["identity"]["init"] == run.init
    assert run.init["names"] == "MIL-Lab"
    assert told["about"]["init"] == str(file)
    assert open_run(tmp_path / "run").init == run.init
    for another in ({"init": other}, {}):
        with pytest.raises(ValueError, match="holds another run"):
            train(*toy, **another, **options)
    assert train(*toy, out=tmp_path / "plain", model="gated", config=STILL).init is None


def test_a_fold_of_ours_is_a_start(toy, tmp_path):
    before = train(
        *toy,
        out=tmp_path / "before",
        model="clam",
        config=TrainConfig(folds=2, epochs=2, model_options={"hidden": 9, "attention": 4}),
    )
    file = tmp_path / "before" / "fold-1" / "model.safetensors"
    run = train(*toy, out=tmp_path / "run", model="gated", init=file, config=STILL)
    began, now = before.models()[1], run.models()[0]
    bag = torch.tensor(read_features(run.paths[0]).features)
    assert torch.allclose(began(bag).attention, now(bag).attention, atol=1e-6)
    assert not torch.allclose(began.head.weight, now.head.weight)
    assert run.init["names"] == "histofast"


def test_torch_files_and_half_precision(toy, tmp_path):
    found = layers()
    names = publish(tmp_path / "x.safetensors", found)
    half = {key: tensor.half() for key, tensor in load_file(names).items()}
    torch.save({"state_dict": half}, tmp_path / "head.pt")
    run = train(*toy, out=tmp_path / "run", model="gated", init=tmp_path / "head.pt", config=STILL)
    weight = run.models()[0].embed[0].weight.detach().numpy()
    np.testing.assert_allclose(weight, found["first"][0].astype("f2"), atol=1e-9)


def test_folds_side_by_side_and_gone_on_with_start_alike(toy, tmp_path):
    file = publish(tmp_path / "head.safetensors", layers())
    config = TrainConfig(folds=2, epochs=2)
    train(*toy, out=tmp_path / "a", model="gated", init=file, config=config)
    train(*toy, out=tmp_path / "b", model="gated", init=file, config=config, jobs=2)
    shutil.rmtree(tmp_path / "b" / "fold-1")
    (tmp_path / "b" / "metrics.json").unlink()
    train(*toy, out=tmp_path / "b", model="gated", init=file, config=config)
    for fold in ("fold-0", "fold-1"):
        a, b = ((tmp_path / x / fold / "model.safetensors").read_bytes() for x in "ab")
        assert a == b


def test_a_kept_start_that_was_changed_is_refused(toy, tmp_path):
    file = publish(tmp_path / "head.safetensors", layers())
    run = train(*toy, out=tmp_path / "run", model="gated", init=file, config=STILL)
    shutil.rmtree(tmp_path / "run" / "fold-1")
    bags = open_bags(*toy)
    for spoil in (
        lambda path: shutil.copy(publish(tmp_path / "o.safetensors", layers(seed=9)), path),
        lambda path: path.write_bytes(path.read_bytes()[:100]),
        lambda path: path.unlink(),
    ):
        spoil(tmp_path / "run" / "init.safetensors")
        with pytest.raises(ModelError, match="remove the folder and train again with the same"):
            train_fold(run, bags, fold=1)


@pytest.mark.parametrize(
    ("made", "options", "error", "message"),
    [
        (
            {"found": layers(d=D + 2)},
            {},
            ModelError,
            (
                f"FILE is for features of width {D + 2}, these have {D}: extract features with the encoder "
                "that it was trained on"
            ),
        ),
        (
            {},
            {"model": "attention"},
            ValueError,
            "model must be gated or clam with init, which is gated attention, got attention",
        ),
        (
            {},
            {"config": TrainConfig(folds=2, model_options={"hidden": 64})},
            ValueError,
            f"hidden must be {HIDDEN} with FILE, got 64",
        ),
        (
            {"found": layers(heads=4)},
            {},
            ModelError,
            "FILE must hold attention of one head, got 4 of them",
        ),
        (
            {"more": {"model.patch_embed.3": (HIDDEN, HIDDEN)}},
            {},
            ModelError,
            (
                "FILE must hold gated attention with one linear layer before it, and nothing else but "
                "classifiers, got model.patch_embed.3.bias, model.patch_embed.3.weight too"
            ),
        ),
        (
            {"found": {k: v for k, v in layers().items() if k != "gate"}},
            {},
            ModelError,
            (
                "FILE must hold gated attention with one linear layer before it, under the names of MIL-Lab, "
                "lacks model.global_attn.attention_b.0.weight, model.global_attn.attention_b.0.bias"
            ),
        ),
        (
            {"found": {}, "more": {"blocks.0.norm": (3, 3)}},
            {},
            ModelError,
            (
                "FILE must hold gated attention with one linear layer before it, under the names of histofast, "
                "MIL-Lab and CLAM, got tensors such as blocks.0.norm.bias, blocks.0.norm.weight"
            ),
        ),
        (
            {"found": layers() | {"gate": layers(attention=ATTENTION + 1)["gate"]}},
            {},
            ModelError,
            (
                f"FILE must hold layers that go together, gate.weight of shape {(ATTENTION, HIDDEN)}, got "
                f"{(ATTENTION + 1, HIDDEN)}"
            ),
        ),
        (
            {"found": layers() | {"score": (np.ones((1, 1, 5), "f4"), np.ones(1, "f4"))}},
            {},
            ModelError,
            "FILE must hold linear layers, last.weight is of shape (1, 1, 5)",
        ),
        (
            {"found": layers() | {"score": (np.full((1, 5), np.nan, "f4"), np.ones(1, "f4"))}},
            {},
            ModelError,
            "FILE holds NaN or infinity in last.weight: copy or download it again",
        ),
    ],
)
def test_what_does_not_fit(toy, tmp_path, made, options, error, message):
    file = publish(tmp_path / "head.safetensors", **({"found": layers()} | made))
    given = {"model": "gated", "config": TrainConfig(folds=2)} | options
    with pytest.raises(error) as refused:
        train(*toy, out=tmp_path / "run", init=file, **given)
    assert str(refused.value) == message.replace("FILE", str(file))
    assert not (tmp_path / "run").exists()


def test_files_that_are_none(toy, tmp_path):
    (tmp_path / "page.bin").write_text("<!DOCTYPE html><html>log in</html>")
    with pytest.raises(ModelError, match="web page"):
        train(*toy, out=tmp_path / "run", model="gated", init=tmp_path / "page.bin")
    with pytest.raises(FileNotFoundError):
        train(*toy, out=tmp_path / "run", model="gated", init=tmp_path / "none.pt")


def test_the_command(cli, toy, tmp_path):
    need("matplotlib")
    file = publish(tmp_path / "head.safetensors", layers())
    arguments = ("train", toy[0], "--labels", toy[1], "--folds", 2, "--epochs", 1, "--init", file)
    answer = cli(*arguments, "--model", "gated", "--out", tmp_path / "run")
    assert answer.code == 0
    assert f"every fold starts from 8 tensors of {file}" in " ".join(answer.err)
    answer = cli(*arguments, "--out", tmp_path / "other")
    assert answer.code == 2
    assert answer.err[-1] == (
        "histofast: --model must be gated or clam with init, which is gated attention, got attention"
    )


def test_a_head_of_uni_is_taken_as_it_is_published(tmp_path):
    """Widths of abmil.base.conch_v15: 768 features, 512 and 384 units, 108 classes; no slide is read."""
    found = layers(d=768, hidden=512, attention=384)
    file = publish(tmp_path / "h.safetensors", found, more={"model.classifier": (108, 512)})
    start = read_start(file, model="gated", d=768, options={})
    assert start.options == {"hidden": 512, "attention": 384}
    assert (start.taken, start.left_out) == (
        8,
        ("model.classifier.bias", "model.classifier.weight"),
    )
    model = create("gated", d=768, outputs=2, **start.options)
    _, strange = model.load_state_dict(start.state, strict=False)
    assert not strange
