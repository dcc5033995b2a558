"""The routes of single patches answer what the functions behind them do, and refusals in one sentence."""

from __future__ import annotations

import json
import socket
from contextlib import contextmanager

import numpy as np
import pytest

from extras import need

httpx = need("httpx2", "starlette", "uvicorn")

from histofast.slides import read_image
from histofast.viewer import Layers, open_viewer
from histofast.viewer.cohort import Cohort
from histofast.viewer.inspecting import about_patch, pixels_of_patch
from small_viewers import catalogue_of, write_cohort

PAGE = {"sec-fetch-site": "same-origin"}
SQUARE = [[10, 10], [50, 10], [50, 50], [10, 50]]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory, encoder):
    folder = tmp_path_factory.mktemp("cohort")
    write_cohort(folder, encoder)
    (folder / "slides" / "broken.tif").write_bytes(b"II*\0")
    return folder


@pytest.fixture
def catalogue(cohort):
    with catalogue_of(cohort) as opened:
        yield opened


@contextmanager
def client_of(cohort, export=None):
    viewer = open_viewer(cohort / "slides", features=cohort / "features", export=export)
    with (
        viewer.server as server,
        httpx.Client(base_url=f"http://127.0.0.1:{server.port}") as client,
    ):
        assert client.get(server.address()).status_code == 200  # and a cookie
        yield client


@pytest.fixture
def client(cohort, tmp_path):
    with client_of(cohort, tmp_path / "out") as opened:
        yield opened


def index_of(catalogue, slide):
    return next(entry.index for entry in catalogue.entries if entry.slide == slide)


def refused(answer):
    """Status and sentence of a refusal."""
    assert list(answer.json()) == ["error"]
    assert "\n" not in answer.json()["error"]
    return answer.status_code, answer.json()["error"]


def test_a_patch_is_told(client, catalogue):
    index = index_of(catalogue, "s1")
    told = client.get(f"/api/slide/{index}/patch/4").json()
    assert told == json.loads(json.dumps(about_patch(catalogue, Layers(catalogue), index, 4)))


def test_the_pixels_of_a_patch_are_a_jpeg_of_them(client, catalogue, tmp_path):
    index = index_of(catalogue, "s1")
    answer = client.get(f"/patch/{index}/4.jpg")
    assert answer.headers["content-type"] == "image/jpeg"
    (tmp_path / "a.jpg").write_bytes(answer.content)
    shown, wanted = read_image(tmp_path / "a.jpg"), pixels_of_patch(catalogue, index, 4)
    assert shown.shape == wanted.shape == (32, 32, 3)
    assert np.abs(shown.astype(int) - wanted).mean() < 4
    again = client.get(f"/patch/{index}/4.jpg", headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get(f"/patch/{index}/5.jpg").headers["etag"] != answer.headers["etag"]


def test_similar_patches_are_those_of_the_cohort(client, catalogue):
    index = index_of(catalogue, "s0")
    for scope in ("slide", "cohort"):
        found = client.get(
            "/api/similar", params={"slide": index, "patch": 2, "k": 7, "scope": scope}
        )
        assert found.json() == Cohort(catalogue).similar(index, 2, k=7, scope=scope)


@pytest.mark.parametrize(
    ("query", "status", "sentence"),
    [
        ("patch=0", 400, "slide must be a whole number"),
        ("slide=1", 400, "patch must be a whole number"),
        ("slide=1&patch=-1", 400, "patch must be a whole number"),
        ("slide=1&patch=0x1", 400, "patch must be a whole number"),
        ("slide=1&patch=%C2%B2", 400, "patch must be a whole number"),
        ("slide=99&patch=0", 404, "there is no such slide"),
        ("slide=1&patch=99999", 400, "patch must be"),
        ("slide=1&patch=0&k=1000", 400, "k must be"),
        ("slide=1&patch=0&scope=../etc", 400, "scope must be slide or cohort"),
    ],
)
def test_what_is_no_question_is_refused(client, query, status, sentence):
    code, said = refused(client.get(f"/api/similar?{query}"))
    assert (code, said[: len(sentence)]) == (status, sentence)


def test_what_is_not_there_is_not_found(client, catalogue):
    index = index_of(catalogue, "s0")
    assert refused(client.get("/api/slide/99/patch/0"))[0] == 404
    assert refused(client.get(f"/api/slide/{index}/patch/99999"))[0] == 404
    assert refused(client.get("/patch/99/0.jpg"))[0] == 404
    assert refused(client.get(f"/patch/{index}/99999.jpg"))[0] == 404
    for path in ("/api/slide/-1/patch/0", "/api/slide/0/patch/x", f"/patch/{index}/..%2f0.jpg"):
        assert client.get(path).status_code == 404


def test_a_broken_slide_has_one_sentence(client, catalogue):
    index = index_of(catalogue, "broken")
    for path in (f"/patch/{index}/0.jpg", f"/api/slide/{index}/patch/0"):
        assert refused(client.get(path))[0] in (404, 422)


def test_a_region_is_written_once(client, tmp_path):
    body = {"slide": 1, "name": "a/../b", "polygon": SQUARE}
    answer = client.post("/api/export", json=body, headers=PAGE)
    assert answer.json() == {"file": "a_.._b.geojson", "objects": 1}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a_.._b.geojson"]
    code, said = refused(client.post("/api/export", json=body, headers=PAGE))
    assert (code, said) == (409, "a_.._b.geojson exists: choose another name")


def test_patches_between_values_are_written(client, tmp_path):
    body = {"slide": 1, "name": "t", "layer": "tissue", "low": 0.0, "high": 1.0}
    answer = client.post("/api/export", json=body, headers=PAGE).json()
    document = json.loads((tmp_path / "out" / "t.geojson").read_text())
    assert answer["objects"] == len(document["features"]) > 0


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[" * 100_000, 400),
        (b"[]", 400),
        (b"{}", 400),
        (b'{"slide": "1", "name": "a", "polygon": []}', 400),
        (b'{"slide": true, "name": "a", "polygon": []}', 400),
        (b'{"slide": 1, "name": "a", "polygon": []}', 400),
        (b'{"slide": 1, "name": 3, "polygon": [[0,0],[1,0],[1,1]]}', 400),
        (b'{"slide": 1, "name": "a"}', 400),
        (b'{"slide": 1, "name": "a", "path": "/etc", "polygon": [[0,0],[1,0],[1,1]]}', 400),
        (b'{"slide": 1, "name": "a", "layer": "tissue", "low": NaN, "high": 1}', 400),
        (b'{"slide": 1, "name": "a", "layer": "no", "low": 0, "high": 1}', 404),
        (b'{"slide": 99, "name": "a", "polygon": [[0,0],[1,0],[1,1]]}', 404),
        (b'{"slide": -1, "name": "a", "polygon": [[0,0],[1,0],[1,1]]}', 404),
    ],
)
def test_what_cannot_be_written_is_refused(client, tmp_path, body, status):
    headers = {**PAGE, "content-type": "application/json"}
    assert refused(client.post("/api/export", content=body, headers=headers))[0] == status
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_other_pages_write_nothing(client, tmp_path):
    body = {"slide": 1, "name": "a", "polygon": SQUARE}
    for site in ("cross-site", "same-site", "none"):
        assert (
            refused(client.post("/api/export", json=body, headers={"sec-fetch-site": site}))[0]
            == 403
        )
    assert refused(client.post("/api/export", json=body))[0] == 403
    assert client.get("/api/export").status_code == 405
    assert not (tmp_path / "out").exists()


def test_without_a_folder_nothing_is_written(cohort):
    with client_of(cohort) as client:
        code, said = refused(
            client.post(
                "/api/export", json={"slide": 1, "name": "a", "polygon": SQUARE}, headers=PAGE
            )
        )
    assert (code, said) == (
        403,
        "no folder to write into was named: `histofast view SLIDES --export DIR`",
    )


def test_answers_are_sent_at_once(cohort):
    """asyncio turns off the waiting for fuller packets (Nagle's) of sockets that are named TCP only."""
    viewer = open_viewer(cohort / "slides")
    try:
        assert viewer.server._socket.proto == socket.IPPROTO_TCP
    finally:
        viewer.server.stop()
        viewer.catalogue.close()
