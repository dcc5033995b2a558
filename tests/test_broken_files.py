"""Whatever stands in the place of a file: read, or refused in one line by an error of ours.

`pytest -k fuzz` changes bytes of good files; here are whole other files, and well-formed ones that say
something else than their reader needs.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import fuzzing
from broken_files import CONTENTS, STAND_INS
from extras import need
from fake_slides import FakeSlide
from histofast import encoders, explain, features, graphs
from histofast.datasets import open_images
from histofast.errors import HistofastError, ModelError
from histofast.learning import Each, misfit, read_labels
from histofast.patches import (
    Job,
    TissueOptions,
    list_jobs,
    read_given,
    read_patch_table,
    survey_tissue,
    with_coords,
)
from histofast.slides import open_slide
from histofast.tissue import MaskFile

CHANNELS = {"mean": (0.5,) * 3, "std": (0.5,) * 3}


def wrap(path):
    graphs.wrap(path, out=path.with_name("out.onnx"), patch_px=16, **CHANNELS, overwrite=True)


def wrap_tissue(path):
    out = path.with_name("out.onnx")
    graphs.wrap_tissue(path, out=out, mpp=8, tissue=[1], tile_px=16, **CHANNELS, overwrite=True)


def truncate(path):
    graphs.truncate(path, at="a", out=path.with_name("out.onnx"), overwrite=True)


def read_mask(path):
    slide = FakeSlide(np.zeros((64, 96, 3), np.uint8), tile=(96, 64), mpp=8.0)
    with ThreadPoolExecutor(1) as pool:
        survey_tissue(slide, TissueOptions(), MaskFile(path), pool)


def read_places(path):
    (job,) = with_coords([Job(name="a", path=path)], path)
    slide = FakeSlide(np.zeros((640, 960, 3), np.uint8), tile=(96, 64), mpp=0.5)
    if job.coords is not None:
        given = read_given(job.coords)
        given.plan(slide, mpp=0.5, patch_px=8, edge="drop", allow_upsampling=False, resample="area")


def read_slide_labels(path):
    read_labels(path, ["a", "b"], missing="skip")


READERS = [
    (encoders.read_specs, "x.onnx"),
    (encoders.read_tissue_spec, "x.onnx"),
    (wrap, "x.onnx"),
    (wrap_tissue, "x.onnx"),
    (truncate, "x.onnx"),
    (graphs.cuts, "x.onnx"),
    *(
        (open_slide, f"x.{suffix}")
        for suffix in ("svs", "tif", "png", "jpg", "ndpi", "mrxs", "dcm")
    ),
    *((read_mask, f"x.{suffix}") for suffix in ("png", "tif", "geojson")),
    *((read_places, f"x.{suffix}") for suffix in ("csv", "h5", "geojson")),
    (read_patch_table, "x.csv"),
    (list_jobs, "x.csv"),
    (read_slide_labels, "x.csv"),
    (open_images, "x.csv"),
    *((features.read_features, f"x.{suffix}") for suffix in ("h5", "pt", "npy")),
    *((features.verify, f"x.{suffix}") for suffix in ("h5", "pt", "npy")),
    (encoders.read_registry, "x.toml"),
]


def strays_of(read, path):
    """How contents strayed; all of them in one test, for most readers are done at once."""
    found = {}
    for name, content in CONTENTS.items():
        path.write_bytes(content)
        what = fuzzing.how_it_strayed(read, path)
        left = [each.name for each in path.parent.iterdir() if each != path]
        if what is not None or left:
            found[name] = what or f"left {left}"
    return found


@pytest.mark.parametrize(("read", "name"), READERS)
def test_no_content_strays(read, name, tmp_path):
    assert not strays_of(read, tmp_path / name)


@pytest.mark.parametrize("what", STAND_INS)
@pytest.mark.parametrize(("read", "name"), [r for r in READERS if r[0] is not features.verify])
def test_what_a_download_left_is_named(read, name, what, tmp_path):
    path = tmp_path / name
    path.write_bytes(STAND_INS[what])
    if read is encoders.read_registry:  # nobody downloads one
        return
    with pytest.raises(
        (HistofastError, ValueError), match=f"{re.escape(name)} is {what}, not the file: "
    ) as told:
        read(path)
    assert "\n" not in str(told.value)


# --- ONNX files that are well formed ---------------------------------------------------------------


def graph_of(nodes, outputs, *, inputs=None, constants=()):
    given = inputs or [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 16, 16])]
    graph = helper.make_graph(nodes, "g", given, outputs, list(constants))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def ended(*nodes, constants=(), dtype=TensorProto.FLOAT, shape=("n", 3), name="z"):
    """A graph of pooled images, `y`, with more nodes behind."""
    start = [
        helper.make_node("GlobalAveragePool", ["x"], ["p"]),
        helper.make_node("Flatten", ["p"], ["y"]),
    ]
    output = helper.make_tensor_value_info(name, dtype, shape)
    return graph_of([*start, *nodes], [output], constants=constants)


def of_type(number):
    model = ended(name="y")
    model.graph.input[0].type.tensor_type.elem_type = number
    return model


def without_outputs():
    model = ended(name="y")
    model.graph.ClearField("output")
    return model


def constant(name, *values, dtype=np.float32):
    return numpy_helper.from_array(np.array(values, dtype), name)


def ending_in_a_list():
    model = ended(helper.make_node("SequenceConstruct", ["y"], ["z"]))
    kind = helper.make_tensor_sequence_value_info("z", TensorProto.FLOAT, None)
    model.graph.output[0].CopyFrom(kind)
    return model


FOLLOW = (
    "must follow from the image, got what is the same for all of them, or the image itself: choose"
)
FORMS = {
    "a type of no name": (of_type(99), r"got 'x' of type 99 \(\?, 3, 16, 16\)"),
    "no type": (of_type(0), r"got 'x' of unknown type of unknown type|got 'x' of unknown type"),
    "double": (
        of_type(TensorProto.DOUBLE),
        r"must have one float32 or float16 input .* got 'x' float64",
    ),
    "no outputs": (without_outputs(), "has no outputs: export it again"),
    "the image itself": (
        ended(name="x", shape=("n", 3, 16, 16)),
        f"'x' {FOLLOW} another output",
    ),
    "a constant": (
        ended(helper.make_node("Identity", ["c"], ["z"]), constants=[constant("c", 1, 2, 3)]),
        f"'z' {FOLLOW} another output",
    ),
    "a list": (
        ending_in_a_list(),
        "'z' must be a tensor, got a sequence or nothing: choose another",
    ),
    "infinity": (
        ended(helper.make_node("Div", ["y", "c"], ["z"]), constants=[constant("c", 0)]),
        "'z' gives NaN or infinity for patches that are looked at: cut elsewhere, or export",
    ),
    "NaN": (
        ended(
            helper.make_node("Mul", ["y", "c"], ["m"]),
            helper.make_node("Sub", ["m", "m"], ["z"]),
            constants=[constant("c", np.inf)],
        ),
        "'z' gives NaN or infinity for patches that are looked at",
    ),
    "no features": (
        ended(
            helper.make_node("Slice", ["y", "from", "to", "axis"], ["z"]),
            shape=("n", 0),
            constants=[
                constant(n, v, dtype=np.int64) for n, v in (("from", 0), ("to", 0), ("axis", 1))
            ],
        ),
        r"'z' is of shape \(7, 0\), wanted features: cut elsewhere",
    ),
    "whole numbers": (
        ended(
            helper.make_node("Cast", ["y"], ["z"], to=TensorProto.INT64), dtype=TensorProto.INT64
        ),
        "'z' holds int64, wanted float32 or float16: cut elsewhere",
    ),
    "an unknown operator": (
        ended(helper.make_node("Frobnicate", ["y"], ["z"])),
        "cannot be loaded by onnxruntime .* No Op registered for Frobnicate",
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_graph_that_is_no_encoder_is_refused_in_words(name, tmp_path):
    model, match = FORMS[name]
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ModelError, match=match) as told:
            wrap(path)
    assert str(path) in str(told.value)
    assert "\n" not in str(told.value)
    assert list(tmp_path.iterdir()) == [path]
    for read in (encoders.read_specs, graphs.cuts, lambda p: graphs.flops(p, patch_px=16)):
        assert fuzzing.how_it_strayed(read, path) is None


def test_a_sound_graph_is_taken(tmp_path):
    path = tmp_path / "net.onnx"
    onnx.save(ended(name="y"), path)
    wrap(path)
    assert encoders.read_spec(tmp_path / "out.onnx").d == 3


# --- JSON of another form --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "form", "said"),
    [
        ({"a": 1, "b": "x"}, {"a": int}, ""),
        ({"a": 1}, {"a": float}, ""),
        (
            {"a": True},
            {"a": (int, float)},
            "a must be a whole number or a number, got true or false",
        ),
        ({"a": 10**400}, {"a": float}, "a must be a number, got a whole number"),
        ({"a": {"b": None}}, {"a": {"b": [int]}}, "a.b must be a list, got null"),
        ({"a": [1, "x"]}, {"a": [int]}, "a[1] must be a whole number, got a text"),
        ({"a": [1.0]}, {"a": [float] * 3}, "a must have 3 values, got 1"),
        ({"a": [1.0, 2, 3]}, {"a": [float] * 3}, ""),
        ({"a": {"x": 1, "y\n": []}}, {"a": Each(int)}, r"a.y\n must be a whole number, got a list"),
        ({}, {"a": int}, "a must be there, got none"),
        ([], {"a": int}, "all of it must be an object, got a list"),
    ],
)
def test_what_does_not_fit_a_form(value, form, said):
    assert misfit(value, form) == said


WRONG = [
    None,
    True,
    -1,
    1e308,
    10**400,
    "",
    "x",
    "\0",
    [],
    [None],
    [[]],
    {},
    {"": None},
    1 << 63,
    1.5,
]


def places(value, at=()):
    if at:
        yield at
    inner = list(value.items())[:6] if isinstance(value, dict) else []
    inner = list(enumerate(value))[:2] if isinstance(value, list) else inner
    for key, part in inner:
        yield from places(part, (*at, key))


def changed(value, at, new):
    value = copy.deepcopy(value)
    part = value
    for key in at[:-1]:
        part = part[key]
    if new is KeyError:
        del part[at[-1]]
    else:
        part[at[-1]] = new
    return value


def seal(path, value):
    """Write JSON as a run does: with a checksum that fits what is wrong with it."""
    text = json.dumps(value, sort_keys=True)
    path.write_text(json.dumps({**value, "sha256": hashlib.sha256(text.encode()).hexdigest()}))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The run.json of a run of each kind, without its seal, and what opens it."""
    need("torch", "sklearn")
    from histofast import classify, mil
    from labelled_pictures import write_pictures
    from toy_bags import write_toy

    folder = tmp_path_factory.mktemp("runs")
    config = mil.TrainConfig(folds=2, epochs=1, device="cpu", model_options={"hidden": 8})
    mil.train(*write_toy(folder, b=8), out=folder / "train", config=config)
    recipe = classify.Recipe(epochs=1, batch_size=8, px=24, freeze="head")
    table = write_pictures(folder / "pictures", n=24)
    classify.train(table, network="resnet18", recipe=recipe, out=folder / "classify", device="cpu")
    found = {}
    for kind, opened in (("train", mil.open_run), ("classify", classify.open_run)):
        value = json.loads((folder / kind / "run.json").read_text())
        value.pop("sha256")
        found[kind] = value, opened
    return found


@pytest.mark.parametrize("kind", ["train", "classify"])
def test_a_run_of_another_form_is_refused_or_opened(runs, kind, tmp_path):
    value, opened = runs[kind]
    path = tmp_path / "run.json"
    strays = []
    for at in places(value):
        for new in [*WRONG, KeyError, float("nan")]:
            seal(path, changed(value, at, new))
            what = fuzzing.how_it_strayed(opened, tmp_path)
            if what is not None:
                strays.append((at, new, what))
    assert not strays


@pytest.mark.parametrize(
    ("kind", "at", "new", "said"),
    [
        ("train", ("about", "encoder"), "uni", "about.encoder must be an object, got a text"),
        ("train", ("about", "options"), KeyError, "about.options must be there, got none"),
        ("train", ("identity", "classes"), "", "identity.classes must be a list, got a text"),
        ("train", ("identity", "d"), True, "identity.d must be a whole number, got true or false"),
        (
            "classify",
            ("identity", "network", "mean"),
            [0.5],
            "network.mean must have 3 values, got 1",
        ),
        (
            "classify",
            ("identity", "network", "name"),
            None,
            "network.name must be a text, got null",
        ),
        ("classify", ("about", "mpp"), 0.5, "about.mpp must be a list, got a number"),
    ],
)
def test_a_run_of_another_form_says_what_is_wrong(runs, kind, at, new, said, tmp_path):
    value, opened = runs[kind]
    seal(tmp_path / "run.json", changed(value, at, new))
    match = rf"run\.json must be of a run of `{kind}`, got another \(.*{re.escape(said)}\): choose"
    with pytest.raises(ModelError, match=match):
        opened(tmp_path)


def test_numbers_that_json_does_not_have_are_no_json(runs, tmp_path):
    value, opened = runs["train"]
    seal(tmp_path / "run.json", changed(value, ("identity", "d"), float("nan")))
    with pytest.raises(ModelError, match=r"run\.json must be JSON, got NaN for a number: choose"):
        opened(tmp_path)


@pytest.mark.parametrize("kind", ["train", "classify"])
def test_no_content_of_a_run_strays(runs, kind, tmp_path):
    _, opened = runs[kind]
    assert not strays_of(lambda path: opened(path.parent), tmp_path / "run.json")


# --- Recipes and weights ----------------------------------------------------------------------------


def test_no_content_of_a_recipe_strays(tmp_path):
    need("torch")
    from histofast.classify import Recipe

    path = tmp_path / "x.toml"
    assert not strays_of(Recipe.read, path)
    for text, said in (
        ("lr = " + "9" * 400, f"lr must be a number, got {'9' * 57}..."),
        (
            "[augmentation]\nhed = " + "9" * 400,
            f"augmentation.hed must be a number, got {'9' * 57}...",
        ),
        ("epochs = [1]", "epochs must be a whole number, got [1]"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=re.escape(f"{path}: {said}")):
            Recipe.read(path)
    path.write_bytes(b"\xef\xbb\xbfepochs = 7\n")  # as Windows' editor writes it
    assert Recipe.read(path).epochs == 7


@pytest.mark.parametrize("suffix", ["pth", "safetensors", "h5", "keras", "bin"])
def test_no_content_of_weights_strays(suffix, tmp_path):
    need("torch", "safetensors")
    from histofast import networks

    def read(path):
        networks.create("squeezenet1.1", weights=path)

    assert not strays_of(read, tmp_path / f"x.{suffix}")


def test_weights_in_several_files_are_told(tmp_path):
    torch = need("torch")
    from histofast import networks

    state = networks.create("squeezenet1.1").state_dict()
    part = tmp_path / "model-00002-of-00003.bin"
    torch.save(dict(list(state.items())[:20]), part)
    with pytest.raises(
        ModelError, match=r"lacks 30 tensors .*: it is part 2 of 3, save all of them as"
    ):
        networks.create("squeezenet1.1", weights=part)
    index = tmp_path / "model.safetensors.index.json"
    index.write_bytes(CONTENTS["an index of shards"])
    with pytest.raises(
        ModelError, match="is an index of weights in several files, not weights: save"
    ):
        networks.create("squeezenet1.1", weights=index)
    torch.save({key: torch.tensor(1.0) for key in state}, tmp_path / "w.pth")
    with pytest.raises(
        ModelError, match=r"has no tensor of squeezenet1\.1 in its shape: is it of another"
    ):
        networks.create("squeezenet1.1", weights=tmp_path / "w.pth")


def test_values_of_a_heatmap(tmp_path):
    need("torch")
    assert not strays_of(explain.read_values, tmp_path / "x.csv")
