"""`histofast view`: what it refuses, what it prints, and how it ends."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
from contextlib import closing
from urllib.parse import urlsplit

import pytest

from extras import need

COMMAND = [sys.executable, "-c", "from histofast.cli import main; main()", "view"]


def test_without_its_extra_it_says_what_to_install(cli, slides, monkeypatch):
    monkeypatch.setitem(sys.modules, "starlette", None)
    answer = cli("view", slides)
    assert answer.code == 2
    assert answer.err == [
        "histofast: histofast view needs starlette, which is not installed: pip install 'histofast[view]'"
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--host", "0.0.0.0"], "--host must be 127.0.0.1, got 0.0.0.0"),
        (["--host", "0.0.0.0"], "with --port 8000 here, or say --open-to-network"),
        (["--port", "x"], "must be a whole number, got 'x'"),
        (["--port", "70000"], "--port must be within 0..65535, got 70000"),
        (["--base-path", "x"], "--base-path must be a path such as /user/me/proxy/8000, got x"),
        (["--encoder", "uni"], "--encoder must come with features, got none: --features FOLDER"),
        (["--features", "nowhere"], "no such folder of features: nowhere"),
        (["--labels", "nowhere.csv"], "nowhere.csv"),
        (["--export", __file__], "--export must be a folder, "),
    ],
)
def test_what_it_refuses_in_one_line(cli, slides, arguments, said):
    need("starlette", "uvicorn")
    answer = cli("view", slides, "--no-browser", *arguments)
    assert answer.code == 2
    (line,) = answer.err
    assert said in line


def test_no_slide_is_one_line(cli, tmp_path):
    need("starlette", "uvicorn")
    answer = cli("view", tmp_path)
    assert (answer.code, len(answer.err)) == (1, 1)
    assert "no slide in" in answer.err[0]
    answer = cli("view", tmp_path / "nowhere.svs")
    assert (answer.code, len(answer.err)) == (2, 1)


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_it_prints_an_address_that_opens_and_ends_when_asked(slides, ending):
    need("starlette", "uvicorn")
    command = [*COMMAND, str(slides), "--no-browser"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
    ) as process:
        address = urlsplit(process.stdout.readline().strip())
        assert address.hostname == "127.0.0.1"
        with closing(http.client.HTTPConnection("127.0.0.1", address.port, timeout=20)) as asked:
            asked.request("GET", f"{address.path}?{address.query}")
            assert asked.getresponse().status == 200
            process.send_signal(ending)  # the browser has not gone away
            out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert out == ""
    assert err.splitlines() == ["3 slides, until Ctrl-C:", "stopped"]


def test_what_opens_a_browser_is_a_token_of_one_time(slides, tmp_path):
    """Command lines of processes are seen by all users of a machine."""
    need("starlette", "uvicorn")
    opened = tmp_path / "opened"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\nprintf "%s\\n" "$1" >> "{opened}"\n')
    browser.chmod(0o755)
    code = f"""
import pathlib, threading, time
def end():
    while not pathlib.Path({str(opened)!r}).exists():
        time.sleep(0.01)
    import os, signal
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=end, daemon=True).start()
from histofast.cli import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, "view", str(slides)],
        env={**os.environ, "BROWSER": f"{browser} %s"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 130, done.stderr
    printed, given = done.stdout.strip(), opened.read_text().strip()
    assert urlsplit(given).netloc == urlsplit(printed).netloc
    assert urlsplit(given).query != urlsplit(printed).query
