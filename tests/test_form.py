"""What a file says of its graph, read without its weights: as onnx reads it, whatever the file."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import foreign_models
from histofast import encoders, graphs
from histofast.encoders.form import form_of, read_form
from histofast.encoders.opening import open_file
from histofast.errors import ModelError
from tiny_encoder import write_encoder

TINY = graphs.to_bytes(graphs.tiny_encoder())
REFUSED = "is not an ONNX file, or is truncated: copy or export it again"


def by_onnx(path: Path):
    """Inputs, outputs and metadata by the whole file's parser."""
    model = onnx.load(path)
    constants = {tensor.name for tensor in model.graph.initializer}

    def value(info):
        kind = info.type.tensor_type
        sizes = [
            d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in kind.shape.dim
        ]
        return info.name, str(helper.tensor_dtype_to_np_dtype(kind.elem_type)), tuple(sizes)

    inputs = [value(info) for info in model.graph.input]
    return (
        inputs if len(inputs) == 1 else [value for value in inputs if value[0] not in constants],
        [value(info) for info in model.graph.output],
        {entry.key: entry.value for entry in model.metadata_props},
    )


def plain(values):
    return [(value.name, value.dtype, value.shape) for value in values]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("files")
    channels = {"mean": foreign_models.MEAN, "std": foreign_models.STD}
    plain_net = foreign_models.residual(folder / "net.onnx")
    graphs.wrap(plain_net, out=folder / "wrapped.onnx", patch_px=32, **channels)
    graphs.join_cuts(folder / "wrapped.onnx", out=folder / "joined.onnx")
    foreign_models.residual(folder / "old.onnx", ir_version=3, batch=4, sides=(32, 32))
    foreign_models.residual(folder / "half.onnx", half=True, channels_last=True, end="both")
    foreign_models.tokens(folder / "tokens.onnx")
    write_encoder(folder / "tiny.onnx", side=16)
    old = onnx.load(plain_net)
    old.graph.input.extend(  # as files of IR 3 do it
        helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in old.graph.initializer
    )
    onnx.save(old, folder / "inputs.onnx")
    return [*sorted(encoders.models_folder().glob("*.onnx")), *sorted(folder.glob("*.onnx"))]


def test_the_form_is_what_onnx_reads(files):
    assert len(files) >= 10
    for path in files:
        form = read_form(path)
        inputs, outputs, props = by_onnx(path)
        assert (plain(form.inputs), plain(form.outputs), form.props) == (inputs, outputs, props)


def test_the_form_of_an_encoder_is_what_onnx_runtime_says(files):
    some = [path for path in files if f"{encoders.PREFIX}format" in read_form(path).props]
    assert len(some) >= 5
    for path in some:
        assert read_form(path) == form_of(open_file(path, kind="cpu", gpu=0).session)


def test_no_onnx_runtime_is_opened():
    code = (
        "import sys\nfrom histofast import encoders\n"
        "spec = encoders.read_spec(encoders.find(encoders.DEFAULT))\n"
        "print(spec.d, not {'onnx', 'onnxruntime'} & sys.modules.keys())"
    )
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert answer.stdout.split() == [b"512", b"True"]


def test_an_output_of_unstated_width_is_asked_of_onnx_runtime(tmp_path):
    model = graphs.tiny_encoder()
    model.graph.output[0].ClearField("type")
    path = tmp_path / "unstated.onnx"
    onnx.save(model, path)
    assert read_form(path).outputs[0].shape == ()
    assert encoders.read_spec(path).d == 3


def test_a_file_cut_anywhere_is_refused_or_lacks_metadata(tmp_path):
    path = tmp_path / "cut.onnx"
    whole = len(TINY)
    for end in range(1, whole):
        path.write_bytes(TINY[:end])
        with pytest.raises(ModelError) as told:
            encoders.read_spec(path)
        assert REFUSED in str(told.value) or "lacks the metadata" in str(told.value)
        assert "\n" not in str(told.value)
    path.write_bytes(b"")
    with pytest.raises(ModelError, match=r"cut\.onnx is empty: copy or export it again"):
        encoders.read_spec(path)


def field(number: int, kind: int, *data: bytes) -> bytes:
    return bytes([number << 3 | kind]) + b"".join(data)


HOSTILE = {
    "a letter": b"Dear all, please find the encoder attached.\n",
    "zeros": bytes(1000),
    "a length beyond the file": field(7, 2, b"\xff\xff\xff\xff\xff\xff\xff\x7f"),
    "a number without end": field(1, 0, b"\xff" * 40),
    "a graph that is a number": field(7, 0, b"\x05"),
    "no graph": field(1, 0, b"\x08"),
    "an empty graph": field(7, 2, b"\x00"),
    "a group": field(7, 3, b"\x00\x01"),
    "a node beyond its graph": field(7, 2, b"\x03", field(1, 2, b"\x7f"), b"\x00"),
    "a name that is no text": TINY.replace(b"pixels", b"\xffixels"),
    "fields without end": field(1, 0, b"\x08") * 110_000,
    "nodes without end": field(7, 2, b"\xe0\xb6\x0d", field(1, 2, b"\x00") * 110_000),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_files_are_refused(tmp_path, data):
    path = tmp_path / "hostile.onnx"
    path.write_bytes(data)
    del data
    tracemalloc.start()
    with pytest.raises(ModelError) as told:
        encoders.read_spec(path)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert str(told.value) == f"{path} {REFUSED}"
    assert peak_bytes < 4 << 20


def test_an_endless_text_is_not_read(tmp_path):
    model = graphs.tiny_encoder()
    model.metadata_props.add(key="histofast.note", value="x" * (20 << 20))
    path = tmp_path / "long.onnx"
    onnx.save(model, path)
    tracemalloc.start()
    with pytest.raises(ModelError, match=REFUSED):
        read_form(path)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 1 << 20


@settings(max_examples=300)
@given(at=st.integers(0, len(TINY) - 1), byte=st.integers(0, 255))
def test_a_changed_byte_is_read_or_refused(tmp_path_factory, at, byte):
    path = tmp_path_factory.getbasetemp() / "changed.onnx"
    path.write_bytes(TINY[:at] + bytes([byte]) + TINY[at + 1 :])
    try:
        encoders.read_spec(path)
    except ModelError as error:
        assert "\n" not in str(error)  # noqa: PT017  # most are refused, some are the same


def test_weights_beyond_2_gb_are_skipped(tmp_path):
    size = 3 << 30  # a hole in a sparse file
    weights = TensorProto(name="big", dims=[size], data_type=TensorProto.UINT8)
    head = weights.SerializeToString() + field(9, 2, b"\x80\x80\x80\x80\x0c")
    graph = graphs.tiny_encoder().graph.SerializeToString()
    model = graphs.tiny_encoder()
    model.ClearField("graph")

    def length(number: int) -> bytes:
        out = b""
        while number > 127:
            out, number = out + bytes([number & 127 | 128]), number >> 7
        return out + bytes([number])

    tensor = length(len(head) + size)
    inner = len(graph) + 1 + len(tensor) + len(head) + size
    path = tmp_path / "big.onnx"
    with path.open("wb") as file:
        file.write(field(7, 2, length(inner), graph, field(5, 2, tensor), head))
        file.seek(size, 1)
        file.write(model.SerializeToString())
    assert path.stat().st_size > size
    form = read_form(path)
    assert [value.name for value in form.outputs] == ["features"]
    assert form.props["histofast.name"] == "mean-colour"
    with path.open("rb+") as file:
        file.truncate(size)
    with pytest.raises(ModelError, match=REFUSED):
        read_form(path)
