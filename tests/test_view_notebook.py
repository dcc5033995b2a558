"""In a notebook the page is in a frame, with the token in its path, until the kernel ends."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

import histofast
from extras import need

httpx = need("httpx2", "starlette", "uvicorn")

from small_viewers import write_cohort


@pytest.fixture(scope="module")
def cohort(tmp_path_factory, encoder):
    folder = tmp_path_factory.mktemp("cohort")
    write_cohort(folder, encoder)
    return folder


@pytest.fixture
def shown(cohort):
    with histofast.view(cohort / "slides", features=cohort / "features") as found:
        yield found


def frame_of(shown):
    (src,) = re.findall(r'<iframe src="([^"]+)"', shown._repr_html_())
    return src


def test_the_frame_shows_the_page_without_a_cookie(shown):
    src = frame_of(shown)
    assert src == shown.url
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/t/[\w-]{40,}/", src)
    page = httpx.get(src)
    assert page.status_code == 200
    assert "set-cookie" not in page.headers
    assert len(httpx.get(f"{src}api/slides").json()) == 2
    assert httpx.get(f"{src}api/slide/0/patch/0").json()["row"] == 0


def test_only_the_token_opens_it(shown):
    base = shown.url.partition("/t/")[0]
    for path in ("/", "/api/slides", "/t/", "/t/x/api/slides", f"/t/{'A' * 43}/api/slides"):
        assert httpx.get(base + path).status_code == 403


def test_other_names_of_hosts_are_taken_with_the_token_alone(shown):
    base = shown.url.partition("/t/")[0]
    proxy = {"host": "hub.example.org"}
    assert httpx.get(f"{shown.url}api/slides", headers=proxy).status_code == 200
    assert httpx.get(f"{base}/api/slides", headers=proxy).status_code == 400


def test_pages_of_this_machine_and_of_editors_may_frame_it(shown):
    headers = httpx.get(shown.url).headers
    policy = headers["content-security-policy"]
    assert (
        "frame-ancestors 'self' http://localhost:* http://127.0.0.1:* https://localhost:* https://127.0.0.1:* "
        "vscode-webview:;" in f"{policy};"
    )
    assert "x-frame-options" not in headers
    assert "default-src 'none'" in policy


def test_it_ends_when_it_is_closed(shown):
    address = shown.url
    shown.close()
    shown.close()
    with pytest.raises(httpx.ConnectError):
        httpx.get(address)
    assert "<iframe" not in shown._repr_html_()
    assert repr(shown) == "<2 slides in the viewer of histofast, closed>"


def test_an_open_slide_is_shown(cohort):
    with (
        histofast.open_slide(cohort / "slides" / "s1.tif") as slide,
        histofast.view(slide, features=cohort / "features") as shown,
    ):
        (listed,) = httpx.get(f"{shown.url}api/slides").json()
    assert listed["name"] == "s1"


def test_behind_a_proxy_the_address_is_of_its_origin(cohort, monkeypatch):
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/user/me@x/")
    with histofast.view(cohort / "slides") as shown:
        assert re.fullmatch(r"/user/me@x/proxy/\d+/t/[\w-]+/", frame_of(shown))
    with histofast.view(cohort / "slides", proxy="/node/7/proxy", height_px=300) as shown:
        assert re.fullmatch(r"/node/7/proxy/\d+/t/[\w-]+/", frame_of(shown))
        assert 'height="300"' in shown._repr_html_()


def test_what_does_not_fit_together_is_noted(cohort, tmp_path):
    (tmp_path / "slides").mkdir()
    (tmp_path / "slides" / "s9.tif").write_bytes((cohort / "slides" / "s0.tif").read_bytes())
    with histofast.view(tmp_path / "slides", features=cohort / "features") as shown:
        assert "no feature file of 1 (s9): without layers" in shown.notes


def test_arguments_are_checked(cohort):
    with pytest.raises(ValueError, match="height_px must be at least 200, got 5"):
        histofast.view(cohort / "slides", height_px=5)
    with pytest.raises(FileNotFoundError):
        histofast.view(cohort / "none")


def test_it_ends_with_the_kernel(cohort):
    code = (
        "import sys, urllib.request, histofast\n"
        "shown = histofast.view(sys.argv[1])\n"
        "print(urllib.request.urlopen(shown.url).status)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, cohort / "slides"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert (ended.stdout, ended.stderr) == ("200\n", "")
