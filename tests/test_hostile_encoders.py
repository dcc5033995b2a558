"""ONNX files that claim what they have not, or that would lead out of the file: one line each."""

from __future__ import annotations

import os
import resource
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import foreign_models
from histofast import encoders, graphs
from histofast.errors import ModelError
from tiny_encoder import write_encoder

CHANNELS = {"mean": foreign_models.MEAN, "std": foreign_models.STD}


def features_through(model, *nodes):
    """Let the features of a model pass through nodes from `inner` to `features`."""
    model.graph.node[-1].output[0] = "inner"
    model.graph.node.extend(nodes)


def weights(model):
    return next(tensor for tensor in model.graph.initializer if tensor.name == "matrix")


def outside(location, **ends):
    def spoil(model):
        tensor = weights(model)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, **ends}.items():
            tensor.external_data.add(key=key, value=str(value))

    return spoil


def huge(dtype=TensorProto.FLOAT, *, dims=(1 << 33,), **data):
    def spoil(model):
        model.graph.initializer.append(TensorProto(name="big", data_type=dtype, dims=dims, **data))

    return spoil


def huge_attribute(model):
    value = TensorProto(data_type=TensorProto.FLOAT, dims=[1 << 33], raw_data=b"1234")
    model.graph.node.insert(0, helper.make_node("Constant", [], ["big"], value=value))


def huge_sparse(model):
    sparse = model.graph.sparse_initializer.add(dims=[1 << 33])
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(1, np.float32), "big"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.zeros(1, np.int64), "places"))


def functions(depth, calls, *, last="Identity"):
    """Functions that call the next one; the last calls `last`."""

    def spoil(model):
        model.opset_import.append(helper.make_opsetid("own", 1))
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
        for i in reversed(range(depth)):  # the last one first: nothing is known from above
            name, domain = (
                (f"f{i + 1}", "own") if i < depth - 1 else (last, "own" * (last[0] == "f"))
            )
            tensors = ["x", *(f"t{k}" for k in range(calls - 1)), "y"]
            nodes = [helper.make_node(name, [a], [b], domain=domain) for a, b in pairwise(tensors)]
            model.functions.append(
                helper.make_function("own", f"f{i}", ["x"], ["y"], nodes, opsets)
            )
        features_through(model, helper.make_node("f0", ["inner"], ["features"], domain="own"))

    return spoil


def nested(depth):
    """A graph within graphs."""

    def branch(name, level):
        inner = helper.make_node("Identity", ["inner"], [name])
        if level:
            both = {
                f"{b}_branch": branch(f"{name}{b[0]}", (level - 1) * (b == "then"))
                for b in ("then", "else")
            }
            inner = helper.make_node("If", ["yes"], [name], **both)
        return helper.make_graph([inner], name, [], [helper.make_empty_tensor_value_info(name)])

    def spoil(model):
        model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
        both = {"then_branch": branch("t", depth), "else_branch": branch("e", 0)}
        features_through(model, helper.make_node("If", ["yes"], ["features"], **both))

    return spoil


def an_engine(model):
    node = helper.make_node("EPContext", ["inner"], ["features"], domain="com.microsoft")
    features_through(model, node)


def sides(*shape):
    def spoil(model):
        for dim, size in zip(
            model.graph.input[0].type.tensor_type.shape.dim[1:3], shape, strict=True
        ):
            dim.dim_value = size

    return spoil


def width(d):
    def spoil(model):
        model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = d
        entry("d", str(d))(model)

    return spoil


def entry(key, value):
    def spoil(model):
        next(p for p in model.metadata_props if p.key == f"histofast.{key}").value = value

    return spoil


def cuts(value):
    def spoil(model):
        model.metadata_props.add(key="histofast.cuts", value=value)

    return spoil


def two_files(model):
    outside("a.data")(model)
    other = model.graph.initializer.add(name="b", data_type=1, dims=[1])
    other.data_location = TensorProto.EXTERNAL
    other.external_data.add(key="location", value="b.data")


OUTSIDE = "names weights outside its folder: export it again, or copy both files"
ONE_CUT = '{"output": "features", "name": "a", "layer": "b", "d": 8}'
HOSTILE = {
    "an absolute path": (outside("/etc/passwd"), OUTSIDE),
    "a path out of the folder": (outside("../../a"), OUTSIDE),
    "a path in the folder": (outside("./a.data"), OUTSIDE),
    "a device": (outside("/dev/zero"), OUTSIDE),
    "no name": (outside(""), OUTSIDE),
    "not there": (
        outside("a.data"),
        "keeps its weights in a.data, which is missing: put it beside",
    ),
    "itself": (outside("hostile.onnx", length=96), "does not say which weights belong to it: wrap"),
    "beyond the end": (outside("hostile.onnx", offset=1 << 40), "hostile.onnx is truncated: copy"),
    "no number": (outside("hostile.onnx", offset="x"), "does not say where its weights lie"),
    "another length": (outside("hostile.onnx", length=95), "a tensor of 96 bytes and 95 bytes for"),
    "two files": (two_files, "keeps its weights in 2 files, an encoder has at most one beside it"),
    "4 bytes for 32 GB": (huge(raw_data=b"1234"), "claims 8589934592 numbers and has 4 bytes"),
    "none for 32 GB": (huge(), "a tensor claims 8589934592 numbers and has 0"),
    "2 for 32 GB": (huge(float_data=[1, 2]), "a tensor claims 8589934592 numbers and has 2"),
    "texts": (huge(TensorProto.STRING, string_data=[b"a"]), "claims 8589934592 numbers and has 1"),
    "2^96 numbers": (huge(dims=(1 << 32,) * 3), "claims 79228162514264337593543950336 numbers"),
    "a negative size": (huge(dims=(-1, -1)), "a tensor has a negative size"),
    "a type of no name": (huge(99, dims=(0,)), "a tensor is of the unknown type 99"),
    "too much for a type": (huge(dims=(1,), raw_data=bytes(5)), "claims 1 numbers and has 5 bytes"),
    "in a node": (huge_attribute, "claims 8589934592 numbers and has 4 bytes"),
    "sparse": (huge_sparse, "its sparse tensors are 34359738368 bytes in full, over 2147483647"),
    "a function that calls itself": (functions(1, 1, last="f0"), "call functions, over 30 deep"),
    "functions in a circle": (functions(2, 1, last="f0"), "call functions, over 30 deep"),
    "a stack of functions": (functions(5000, 1), "call functions, over 30 deep"),
    "2^24 nodes": (functions(24, 2), "it has over 1,000,000 nodes, functions put in"),
    "graphs in graphs": (nested(31), "graphs within graphs, over 30 deep"),
    "an engine": (an_engine, r"it holds a compiled engine \(EPContext\), which is never run"),
    "0 px": (sides(0, 16), r"\(n, 0, 16, 3\), wanted sides of 1\.\.16384 px: wrap"),
    "2^40 px": (sides(1 << 40, 1 << 40), r"wanted sides of 1\.\.16384 px: wrap"),
    "2^40 features": (width(1 << 40), r"d must be within 1\.\.1e\+06, got 1099511627776"),
    "patches of 2^40 px": (entry("patch_px", str(1 << 40)), r"patch_px must be within 1\.\.16384"),
    "a number of 9999 digits": (entry("d", "9" * 9999), "'histofast.d' must be int, got '999"),
    "not a number": (entry("mpp", "nan"), "mpp must be"),
    "the folder above": (
        entry("name", ".."),
        r"name must be 1\.\.200 .*, not only dots, got '\.\.'",
    ),
    "an escape": (entry("name", "a\x1b[2J"), r"name must be .*, got 'a\\x1b\[2J'"),
    "from right to left": (entry("name", "a\u202eb"), r"name must be .*, got 'a\\u202eb'"),
    "a name of 10,000": (entry("name", "a" * 10_000), r"name must be .*, got 'aaa.*\.\.\.: export"),
    "a format of lines": (entry("format", "1\n2" * 999), "is of encoder format 1 2"),
    "lists in lists": (cuts("[" * 100_000), "'histofast.cuts' is not a list of cuts"),
    "no JSON": (cuts("{"), "'histofast.cuts' is not a list of cuts"),
    "a type of JSON": (cuts('{"output": 1}'), "'histofast.cuts' is not a list of cuts"),
    "cuts of one name": (
        cuts(f"[{ONE_CUT}, {ONE_CUT.replace('features', 'f')}]"),
        "'histofast.cuts' is not a list of cuts",
    ),
}
OF_THE_GRAPH = [
    name for name, (_, match) in HOSTILE.items() if "it " in match or "a tensor" in match
]
BESIDE = [name for name, (spoil, _) in HOSTILE.items() if "outside" in spoil.__qualname__]
MOST_KB = 200_000  # that a refusal takes


def spoiled(path, spoil):
    model = onnx.load(write_encoder(path, side=16))
    spoil(model)
    path.write_bytes(model.SerializeToString())
    return path


def use(path):
    encoders.read_specs(path)
    encoders.load_all(path, device="cpu", threads=1)


def peak_kb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.parametrize("name", HOSTILE)
def test_what_a_file_claims_is_refused_before_room_is_made(tmp_path, name):
    spoil, match = HOSTILE[name]
    path = spoiled(tmp_path / "hostile.onnx", spoil)
    before = peak_kb()
    with pytest.raises(ModelError, match=match) as told:
        use(path)
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 500
    assert peak_kb() - before < MOST_KB


@pytest.mark.parametrize("name", OF_THE_GRAPH)
def test_graphs_are_looked_at_as_encoders_are(tmp_path, name):
    spoil, match = HOSTILE[name]
    path = spoiled(tmp_path / "hostile.onnx", spoil)
    for model in (path, *[path.read_bytes()] * (name not in BESIDE)):
        with pytest.raises(ModelError, match=match):
            graphs.capture(model, ["inner"], np.zeros((1, 16, 16, 3), np.uint8))


def test_bytes_have_no_file_beside_them(tmp_path):
    path = spoiled(tmp_path / "hostile.onnx", outside("hostile.onnx"))
    with pytest.raises(ModelError, match="it keeps weights in other files, which its checksum is"):
        graphs.capture(path.read_bytes(), ["m"], np.zeros((1, 16, 16, 3), np.uint8))


def test_what_is_sound_is_used(tmp_path):
    """Functions, graphs in graphs, and numbers of every kind that a file may hold them in."""
    plain = encoders.load(write_encoder(tmp_path / "plain.onnx", side=16), device="cpu")
    pixels = np.full((1, 16, 16, 3), 7, np.uint8)
    arrays = {
        "int4": helper.make_tensor("a", TensorProto.INT4, [3], [1, 2, 3]),
        "half": helper.make_tensor("a", TensorProto.FLOAT16, [3], [1, 2, 3]),
        "double": helper.make_tensor("a", TensorProto.DOUBLE, [3], [1, 2, 3]),
        "long": helper.make_tensor("a", TensorProto.INT64, [3], [1, -2, 3]),
        "bool": helper.make_tensor("a", TensorProto.BOOL, [3], [1, 0, 1]),
        "complex": helper.make_tensor("a", TensorProto.COMPLEX64, [2], [1j, 2]),
        "raw int4": helper.make_tensor("a", TensorProto.INT4, [3], b"\1\2", raw=True),
        "empty": helper.make_tensor("a", TensorProto.FLOAT, [0, 1 << 40], []),
        "texts": helper.make_tensor("a", TensorProto.STRING, [2], [b"x", b""]),
    }
    sound = [functions(3, 2), functions(30, 1), nested(20)]
    sound += [lambda model, a=a: model.graph.initializer.append(a) for a in arrays.values()]
    for spoil in sound[:3]:
        path = spoiled(tmp_path / "sound.onnx", spoil)
        with encoders.load(path, device="cpu", threads=1) as encoder:
            assert np.array_equal(encoder.encode(pixels), plain.encode(pixels))
    for spoil in sound[3:]:
        path = spoiled(tmp_path / "sound.onnx", spoil)
        graphs.capture(path, ["y"], pixels)


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.onnx")
    for path, got in ((tmp_path, "a folder"), (tmp_path / "pipe.onnx", "a named pipe")):
        for read in (encoders.read_spec, lambda p: encoders.load(str(p), device="cpu")):
            with pytest.raises(ModelError, match=f"encoder file .* must be a file, got {got}"):
                read(path)
        with pytest.raises(ModelError, match=f"file .* must be a file, got {got}"):
            encoders.sha256_of(path)
        with pytest.raises(ModelError, match=f"ONNX file .* must be a file, got {got}"):
            graphs.wrap(path, out=tmp_path / "out.onnx", patch_px=16, **CHANNELS)


# --- What a graph does when it runs ----------------------------------------------------------


def test_features_of_another_size_than_stated_are_refused(tmp_path):
    """ONNX Runtime takes the graph's word for the sizes of an output that it cannot infer."""

    def spoil(model):
        sizes = {"size": [2, 4], "nothing": [0, 0]}
        for name, values in sizes.items():
            array = np.array(values, np.int64)
            model.graph.initializer.append(numpy_helper.from_array(array, name))
        features_through(  # sizes that depend on the pixels: nothing is added to them
            model,
            helper.make_node("ReduceMax", ["inner"], ["most"], keepdims=0),
            helper.make_node("Cast", ["most"], ["whole"], to=TensorProto.INT64),
            helper.make_node("Mul", ["whole", "nothing"], ["zeros"]),
            helper.make_node("Add", ["zeros", "size"], ["sum"]),
            helper.make_node("Reshape", ["inner", "sum"], ["features"]),
        )

    path = spoiled(tmp_path / "other.onnx", spoil)
    with encoders.load(path, device="cpu", threads=1) as encoder:
        for encode in (encoder.encode, encoder.encode_together):
            with pytest.raises(ModelError, match=r"gave features of shape \(2, 4\) for 1 patches"):
                encode(np.zeros((1, 16, 16, 3), np.uint8))


@pytest.mark.parametrize("name", [b"matrix", b"MatMul", b"keepdims", b"tiny", b"features"])
def test_names_that_are_no_text_are_one_line(tmp_path, name):
    path = write_encoder(tmp_path / "named.onnx", side=16)
    assert name in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(name, name[:-1] + b"\xff"))
    for read in (use, lambda p: graphs.capture(p, ["m"], np.zeros((1, 16, 16, 3), np.uint8))):
        with pytest.raises(ModelError, match="is not an ONNX file, or is truncated: copy or"):
            read(path)


# --- Weights in other files ------------------------------------------------------------------


def kept_outside(folder, change) -> Path:
    """Return an ONNX file that keeps its weights beside it, its entries changed."""
    path = foreign_models.residual(
        folder / "net.onnx", save_as_external_data=True, location="net.data", size_threshold=0
    )
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        entries = {entry.key: entry for entry in tensor.external_data}
        change(tensor, entries)
    path.write_bytes(model.SerializeToString())
    return path


def pointing(location):
    return lambda tensor, entries: setattr(entries["location"], "value", location)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (pointing("/etc/passwd"), "names weights outside its folder: export it again"),
        (pointing("../net.data"), "names weights outside its folder"),
        (pointing("link.data"), "names weights outside its folder"),
        (pointing("circle.data"), "names weights outside its folder|cannot look at weights file"),
        (pointing("a\0b"), "names weights outside its folder"),
        (pointing("a" * 5000), "cannot look at weights file|names weights outside"),
        (pointing("pipe.data"), r"weights file .*pipe\.data must be a file, got a named pipe"),
        (pointing("."), "names weights outside its folder"),
        (pointing("nothing.data"), r"keeps its weights in nothing\.data, which is missing"),
        (lambda t, e: setattr(e["length"], "value", "9" * 5000), "does not say where its weights"),
        (
            lambda t, e: setattr(e["length"], "value", "3"),
            r"a tensor of \d+ bytes and 3 bytes for it",
        ),
        (lambda t, e: setattr(e["offset"], "value", str(1 << 62)), "is truncated: copy or export"),
    ],
)
def test_weights_that_lie_elsewhere(tmp_path, change, match):
    folder = tmp_path / "in"
    folder.mkdir()
    path = kept_outside(folder, change)
    (tmp_path / "net.data").write_bytes((folder / "net.data").read_bytes())
    (folder / "link.data").symlink_to(tmp_path / "net.data")
    (folder / "circle.data").symlink_to(folder / "circle.data")
    os.mkfifo(folder / "pipe.data")
    with pytest.raises(ModelError, match=match) as told:
        graphs.wrap(path, out=tmp_path / "out.onnx", patch_px=16, **CHANNELS)
    assert "\n" not in str(told.value)


def test_the_same_bytes_named_again_and_again(tmp_path):
    """Each tensor fits its file; all of them together are what is read."""

    def change(tensor, entries):
        if tensor.data_type != TensorProto.FLOAT:
            return
        tensor.dims[:] = [1 << 18]
        entries["offset"].value, entries["length"].value = "0", str(1 << 20)

    path = kept_outside(tmp_path, change)
    (tmp_path / "net.data").write_bytes(bytes(1 << 20))
    with pytest.raises(
        ModelError, match=r"reads \d+ bytes from 1048576 beside it: export it again"
    ):
        graphs.wrap(path, out=tmp_path / "out.onnx", patch_px=16, **CHANNELS)


def test_weights_in_other_files_of_functions_and_sparse_tensors(tmp_path):
    def of_a_function(model):
        functions(1, 1)(model)
        constant = helper.make_node("Constant", [], ["c"], value=TensorProto(data_type=1, dims=[1]))
        constant.attribute[0].t.data_location = TensorProto.EXTERNAL
        constant.attribute[0].t.external_data.add(key="location", value="hostile.onnx")
        model.functions[0].node.append(constant)

    def sparse(model):
        huge_sparse(model)
        values = model.graph.sparse_initializer[0].values
        values.ClearField("raw_data")
        values.data_location = TensorProto.EXTERNAL
        values.external_data.add(key="location", value="hostile.onnx")

    for spoil in (of_a_function, sparse):
        path = spoiled(tmp_path / "hostile.onnx", spoil)
        with pytest.raises(ModelError, match="it keeps weights in other files"):
            use(path)
