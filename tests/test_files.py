from __future__ import annotations

import pytest

from histofast._files import replacing


def test_replacing_is_all_or_nothing(tmp_path):
    path = tmp_path / "a.onnx"

    def fail() -> None:
        with replacing(path, overwrite=True) as pending:
            pending.write_bytes(b"half")
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        fail()
    assert list(tmp_path.iterdir()) == []
    with replacing(path, overwrite=False) as pending:
        pending.write_bytes(b"whole")
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileExistsError, match="exists"), replacing(path, overwrite=False):
        pass
    missing = tmp_path / "none" / "a.onnx"
    with pytest.raises(FileNotFoundError, match="no folder"):
        replacing(missing, overwrite=False).__enter__()
