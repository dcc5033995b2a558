"""Every command on something else in the place of a file: one line that names it, and nothing left behind."""

from __future__ import annotations

import numpy as np
import pytest

from broken_files import CONTENTS, STAND_INS
from extras import need
from test_cli_no_files import COMMANDS, WITH_EXTRAS, stage  # noqa: F401  # a fixture
from toy_bags import write_features

# These say first that the labels are not of the same slides, or of one class.
OTHERS_FIRST = ("resnet18=X.pth", "X.h5")
ASKED = [c for c in COMMANDS if c[0] == "verify" or not any(part in c for part in OTHERS_FIRST)]
TRIED = (*STAND_INS, "nothing", "noise", "lists in lists")


@pytest.mark.parametrize("content", TRIED)
@pytest.mark.parametrize("command", ASKED, ids=" ".join)
def test_what_is_another_file(cli, command, content, stage, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    (name,) = (part for word in command for part in word.split("=") if part.startswith("X."))
    for file in stage.iterdir():
        if file.name not in ("f", "labels.csv"):
            (tmp_path / file.name).symlink_to(file)
    (tmp_path / "labels.csv").write_text("slide,label\ns,0\nX,1\n")
    (tmp_path / "f").mkdir()
    write_features(tmp_path / "f" / "s.h5", np.ones((4, 8), np.float32))
    if any(word in WITH_EXTRAS for word in command[:2]):
        need("torch", "matplotlib")
    (tmp_path / name).write_bytes(CONTENTS[content])
    answer = cli(*command)
    said = [*answer.err, *answer.out.splitlines()]
    assert answer.code in (1, 2), said
    assert not any("Traceback" in line for line in said), said
    assert any(name in line for line in said if len(line) < 600), said
    if answer.code == 2:
        assert len(answer.err) == 1, said
    if content in STAND_INS:
        assert any(f"{name} is {content}, not the file: " in line for line in said), said
    assert (tmp_path / name).read_bytes() == CONTENTS[content]
    assert not list(tmp_path.rglob("*.tmp"))
    for made in ("q.onnx", "w.onnx", "m", "r", "run"):
        assert not (tmp_path / made).exists(), made
