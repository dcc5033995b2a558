"""`histofast view --at`: the address that is printed leads to the place."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from urllib.parse import parse_qs

import pytest

from extras import need
from histofast.report import view_command
from small_slides import write_slide


@pytest.mark.parametrize("at", ["", "s0", "slide=s0&host=evil", "javascript:alert(1)"])
def test_what_is_no_place_is_refused(cli, tmp_path, at):
    answer = cli("view", tmp_path, "--at", at)
    assert answer.code == 2
    (line,) = answer.err
    assert line.startswith("histofast: --at must have some of slide, x, y, zoom, layer, patch, got")


def test_the_address_leads_to_the_place(tmp_path):
    need("starlette", "uvicorn")
    write_slide(tmp_path / "a b.tif")
    _, *asked = shlex.split(view_command(tmp_path, at={"slide": "a b", "x": 12, "y": 7}))
    code = "import sys; from histofast.cli import main; sys.exit(main())"
    with subprocess.Popen(
        [sys.executable, "-c", code, *asked, "--no-browser"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        address = process.stdout.readline().strip()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    place = address.partition("#")[2]
    assert parse_qs(place) == {"slide": ["a b"], "x": ["12"], "y": ["7"]}
    assert "?t=" in address.partition("#")[0]


def test_a_command_is_quoted_for_the_shell():
    assert view_command(["a b", "c"], features="f", at={"slide": "x'y&z", "x": 1}) == (
        "histofast view 'a b' c --features f --at 'slide=x%27y%26z&x=1'"
    )
