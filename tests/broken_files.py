"""Contents that stand in the place of a file: nothing, text, other formats, JSON and TOML gone wrong."""

from __future__ import annotations

import gzip
import io
import json
import pickle

import numpy as np

PAGE = b"\n<!DOCTYPE html><html><body>Sign in</body></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n"
STAND_INS = {"a web page": PAGE, "a Git LFS pointer": POINTER}


def npy(array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def safetensors(header, data=b"", *, header_bytes=None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(text) if header_bytes is None else header_bytes
    return size.to_bytes(8, "little") + text + data


def tensor(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


WRONG_TENSORS = {
    "no tensor": {},
    "fewer bytes than its shape": {"a": tensor("F32", [10], 0, 4)},
    "a type of no name": {"a": tensor("FLOAT", [1], 0, 4)},
    "float8": {"a": tensor("F8_E4M3", [4], 0, 4)},
    "float4": {"a": tensor("F4", [8], 0, 4)},
    "complex": {"a": tensor("C64", [1], 0, 8)},
    "one place for two": {"a": tensor("F32", [1], 0, 4), "b": tensor("F32", [1], 0, 4)},
    "a gap": {"a": tensor("F32", [1], 4, 8)},
    "a negative size": {"a": tensor("F32", [-1], 0, 4)},
    "backwards": {"a": tensor("F32", [1], 4, 0)},
    "a name that steers": {"\u202e\0\x1b[2J\n": tensor("F32", [1], 0, 4)},
    "2^80 numbers": {"a": tensor("F32", [1 << 40, 1 << 40], 0, 4)},
    "no texts": {"__metadata__": {"a": 3}},
    "null": {"a": None},
}

CONTENTS = {
    "nothing": b"",
    "a line end": b"\n",
    "NULs": bytes(1000),
    "noise": np.random.default_rng(0).bytes(5000),
    "text": b"hello world, this is text\n",
    "UTF-16": "file,label\na,b\n".encode("utf-16"),
    "Latin-1": "fäle,läbel\nä,ö\n".encode("latin-1"),
    "a mark": b"\xef\xbb\xbf",
    "PDF": b"%PDF-1.7\n",
    "gzip": gzip.compress(b"hello"),
    "an empty archive": b"PK\x05\x06" + bytes(18),
    "a pickle": pickle.dumps({"a": [1, 2]}),
    "HDF5, cut": b"\x89HDF\r\n\x1a\n" + bytes(100),
    "TIFF, cut": b"II*\0\x08\0\0\0" + bytes(10),
    "BigTIFF": b"II+\0\x08\0\0\0" + b"\xff" * 20,
    "PNG, cut": b"\x89PNG\r\n\x1a\n",
    "JPEG, cut": b"\xff\xd8\xff\xe0",
    "NPY, cut": b"\x93NUMPY\x01\0",
    "NPY of 4 TB": b"\x93NUMPY\x01\0\x76\0"
    + b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 1024), }".ljust(117)
    + b"\n",
    **{
        f"NPY of {name}": npy(array)
        for name, array in {
            "objects": np.array([{1: 2}], object),
            "one number": np.float32(3),
            "texts": np.array(["a", "b"]),
            "complex": np.ones((3, 4), complex),
            "four axes": np.ones((1, 2, 3, 4), np.float32),
            "fields": np.zeros(3, [("a", "f4")]),
            "dates": np.zeros((3, 2), "M8[s]"),
        }.items()
    },
    "null": b"null",
    "a list": b"[]",
    "an object": b"{}",
    "lists without end": b"[" * 100_000,
    "lists in lists": b"[" * 20_000 + b"]" * 20_000,
    "objects in objects": b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
    "collections in collections": b'{"type":"GeometryCollection","geometries":[' * 3000
    + b"]}" * 3000,
    "a number of 5,000 digits": b"1" * 5000,
    "NaN": b"NaN",
    "infinity": b"1e999",
    "a key twice": b'{"type": "Polygon", "type": "Point"}',
    "an index of shards": json.dumps(
        {"metadata": {}, "weight_map": {"conv1.weight": "model-00001-of-00002.safetensors"}}
    ).encode(),
    "TOML, deep": b"a=" + b"[" * 20_000,
    "TOML, 5,000 digits": b"epochs = " + b"9" * 5000,
    "TOML, beyond floats": b"lr = " + b"9" * 400,
    "TOML, beyond floats inside": b"[augmentation]\nhed = " + b"9" * 400,
    "TOML, nan": b"lr = nan",
    "TOML, a date": b"epochs = 1979-05-27",
    "TOML, a table": b"[epochs]\na=1",
    "TOML, no table": b"augmentation = 3",
    "TOML, twice": b"epochs=1\nepochs=2",
    "TOML, a NUL": b"epochs=1\0",
    "CSV, no row": b"file,label\n",
    "CSV, an open quote": b'file,label\n"a,b\n',
    "CSV, a short row": b"file,label\na\n",
    "CSV, a NUL": b"file,label\na\0,b\n",
    "CSV, twice": b"file,file,label,label\na,b,c,d\n",
    "CSV, a long cell": b"a" * 3_000_000,
    "CSV, half a character": b"file,label\n\xed\xa0\x80,b\n",
    "CSV, far": b"x,y,value\n1e400,1,1\n",
    "CSV, farther": b"x,y,value\n99999999999999999999,1,1\n",
    "CSV, no value": b"x,y,value\n1,1,nan\n1,2,inf\n",
    "CSV, no place": b"slide,x,y\na,nan,1\na,,inf\n",
    "CSV, a place beyond floats": b"slide,x,y,size\na,1e400,1,-1\n",
    "a point beyond floats": b'{"type":"MultiPoint","coordinates":[[1' + b"0" * 400 + b",NaN]]}",
    "points of nothing": b'{"type":"MultiPoint","coordinates":[[],[null],[true,false]]}',
    "CSV, no scale": b"wsi,mpp\n/nonexistent.svs,abc\n",
    **{
        f"safetensors: {name}": safetensors(header, bytes(8))
        for name, header in WRONG_TENSORS.items()
    },
    "safetensors: a header of 2^63 bytes": safetensors(b"{", header_bytes=1 << 63),
    "safetensors: a header that is cut": safetensors(b"{", header_bytes=99_999_999),
    "safetensors: no JSON": safetensors(b"{hello}"),
    "safetensors: no text": safetensors(b'{"\xff":1}'),
    "safetensors: deep": safetensors(b'{"a":' * 5000),
    **STAND_INS,
}
