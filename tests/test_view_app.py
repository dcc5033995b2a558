"""What the viewer answers: through the application, and by the real server with bytes on a socket."""

from __future__ import annotations

import asyncio
import http.client
import json
import shutil
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import imagecodecs
import numpy as np
import pytest

from extras import need
from small_slides import run as extract
from small_slides import write_slide

need("starlette", "uvicorn", "httpx2")
from starlette.testclient import TestClient

from fake_slides import FakeSlide, noise
from histofast import open_slide, read_features
from histofast.learning import write_json
from histofast.viewer import Catalogue, Entry, Listening, list_catalogue, open_viewer
from histofast.viewer.blocks import Abandoned
from histofast.viewer.catalogue import MOST_OPEN
from histofast.viewer.tile_queue import AT_A_TIME, MOST_WAITING, Crowded, TileQueue


@pytest.fixture(scope="module")
def features(slides, encoder, tmp_path_factory):
    out = tmp_path_factory.mktemp("features")
    assert extract(slides, out, encoder, patch_px=64, mpp=1.0).exit_code == 0
    return out


@contextmanager
def browser(viewer):
    """What asks the application of a viewer, with its cookie."""
    with TestClient(
        viewer.app, base_url="http://127.0.0.1", raise_server_exceptions=False
    ) as client:
        assert client.get("/", params={"t": viewer.app.access.token}).status_code == 200
        yield client
    viewer.server.stop()


def client_of(slides, **options):
    return browser(open_viewer(slides, **options))


@pytest.fixture
def client(slides, features):
    with client_of(slides, features=features) as client:
        yield client


def test_what_is_told_of_slides(client, slides, features):
    session = client.get("/api/session").json()
    assert session["cohort"] is True
    assert session["anonymous"] is session["can_export"] is False
    assert session["run"] is None
    assert session["title"] == slides.name
    listed = client.get("/api/slides").json()
    assert [(each["id"], each["name"]) for each in listed] == [(0, "s0"), (1, "s1"), (2, "s2")]
    assert {each["error"] for each in listed} == {None}
    about = client.get("/api/slide/1").json()
    with open_slide(slides / "s1.tif") as slide:
        assert (about["width"], about["height"]) == slide.dimensions
        assert about["mpp"] == slide.mpp
        assert tuple(about["origin"]) == slide.origin_l0
    assert about["tile_px"] == 512
    assert about["error"] is None
    (path,) = features.rglob("s1.h5")
    n = len(read_features(path).features)
    assert about["patches"]["n"] == n == client.get("/api/slides").json()[1]["patches"]
    assert (
        about["patches"]["side_l0"]
        == about["patches"]["step_l0"]
        == about["patches"]["patch_px"]
        == 64
    )
    assert about["patches"]["encoder"] == path.parent.name.removeprefix("features_")


def test_places_of_patches_are_those_of_the_feature_file(client, features):
    answer = client.get("/api/slide/2/patches")
    (path,) = features.rglob("s2.h5")
    assert answer.headers["content-type"] == "application/octet-stream"
    places = np.frombuffer(answer.content, "<i4").reshape(-1, 2)
    assert (places == read_features(path).coords).all()
    assert client.get("/api/slide/2/values/nothing").status_code == 404


def test_tissue_is_told_in_level_0_pixels(client):
    polygons = client.get("/api/slide/0/tissue").json()["polygons"]
    corners = np.concatenate([polygon["outer"] for polygon in polygons])
    assert corners.min() >= 48
    assert (corners.max(axis=0) <= [512 - 48, 640 - 48]).all()
    assert (corners.max(axis=0) >= [400, 500]).all()


def test_tiles_show_the_slide_and_are_cropped(client, slides):
    about = client.get("/api/slide/0").json()
    z = about["max_level"]
    with open_slide(slides / "s0.tif") as slide:
        for x, y in ((0, 0), (0, 1)):
            answer = client.get(f"/tile/0/{z}/{x}_{y}.jpg")
            assert answer.headers["content-type"] == "image/jpeg"
            shown = imagecodecs.jpeg8_decode(answer.content).astype(int)
            part = slide.read_region((512 * x, 512 * y), 0, (512, 512 if y == 0 else 640 - 512))
            assert shown.shape == part.shape
            assert np.abs(shown - part).mean() < 12  # JPEG of colourful noise
            moved = np.abs(shown - np.roll(part, 3, axis=1)).mean()
            assert moved > 1.5 * np.abs(shown - part).mean()


def test_tiles_are_kept_by_the_browser_until_the_slide_changes(slides, tmp_path):
    shutil.copy(slides / "s0.tif", tmp_path / "a.tif")
    with client_of(tmp_path) as client:
        first = client.get("/tile/0/0/0_0.jpg")
        assert "immutable" in first.headers["cache-control"]
        assert "private" in first.headers["cache-control"]
        tag = first.headers["etag"]
        again = client.get("/tile/0/0/0_0.jpg", headers={"If-None-Match": tag})
        assert again.status_code == 304
        assert again.content == b""
        assert again.headers["etag"] == tag
        assert client.get("/tile/0/1/0_0.jpg").headers["etag"] != tag
    with client_of(tmp_path) as client:  # another run of the command
        assert client.get("/tile/0/0/0_0.jpg").headers["etag"] == tag
    shutil.copy(slides / "s1.tif", tmp_path / "a.tif")
    with client_of(tmp_path) as client:
        assert client.get("/tile/0/0/0_0.jpg").headers["etag"] != tag


@pytest.mark.parametrize(
    "path",
    [
        "/tile/0/99/0_0.jpg",
        "/tile/0/0/1_0.jpg",
        "/tile/0/0/0_1.jpg",
        "/tile/9/0/0_0.jpg",
        "/tile/0/0/-1_0.jpg",
        "/tile/0/0/0_0.png",
        "/tile/0/0/0_x.jpg",
        f"/tile/{'9' * 1500}/0/0_0.jpg",
        f"/tile/0/{'9' * 1500}/0_0.jpg",
        f"/tile/0/0/{'9' * 1500}_0.jpg",
        "/tile/../0/0_0.jpg",
        "/api/slide/3",
        "/api/slide/s0",
        "/api/slide/3/tissue",
        "/api/slide/0/..%2f..",
        "/api/slide/0/values/..%2f..%2fetc%2fpasswd",
        "/static/../app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e/app.py",
        "/static//etc/passwd",
        "/static/%2fetc%2fpasswd",
        "/static/..\\app.py",
        "/static/",
        "/static/%00",
        "/app.py",
        "/etc/passwd",
    ],
)
def test_what_is_not_there_is_not_found(client, path):
    answer = client.get(path)
    assert answer.status_code == 404
    assert set(answer.json()) == {"error"}
    assert "content-security-policy" in answer.headers


def test_only_export_is_written_to(client):
    headers = {"Sec-Fetch-Site": "same-origin"}
    for path in ("/", "/api/slides", "/tile/0/0/0_0.jpg"):
        assert client.post(path, json={}, headers=headers).status_code == 405


def test_the_page_and_its_files(client):
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["cache-control"] == "no-store"
    first = client.get("/static/app.css")
    assert first.headers["content-type"].startswith("text/css")
    tag = first.headers["etag"]
    assert client.get("/static/app.css", headers={"If-None-Match": tag}).status_code == 304


# --- What is broken --------------------------------------------------------------------------------


def test_a_broken_slide_is_a_sentence_and_the_others_are_shown(slides, tmp_path):
    shutil.copy(slides / "s0.tif", tmp_path / "good.tif")
    (tmp_path / "bad.svs").write_bytes(b"II*\0" + b"\xff" * 100)
    (tmp_path / "gone.tif").symlink_to(tmp_path / "nowhere.tif")
    with client_of(tmp_path) as client:
        bad, gone, good = client.get("/api/slides").json()
        assert (bad["name"], good["name"]) == ("bad", "good")
        for each in (bad, gone):
            about = client.get(f"/api/slide/{each['id']}").json()
            assert about["error"]
            assert "\n" not in about["error"]
            assert about["width"] is None
            for path in (f"/tile/{each['id']}/0/0_0.jpg", f"/api/slide/{each['id']}/tissue"):
                answer = client.get(path)
                assert answer.status_code == 422
                assert answer.json()["error"] == about["error"]
        assert client.get(f"/tile/{good['id']}/0/0_0.jpg").status_code == 200


def test_a_slide_that_breaks_while_it_is_shown_is_grey_and_said(tmp_path):
    path = write_slide(tmp_path / "a.tif", size=(1100, 1100))
    with client_of(tmp_path) as client:
        assert client.get("/api/slide/0").json()["notes"] == []
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size // 4)
        found = [client.get(f"/tile/0/2/{x}_{y}.jpg") for y in range(3) for x in range(3)]
        assert {answer.status_code for answer in found} == {200}
        bad = [answer for answer in found if "x-unreadable" in answer.headers]
        assert bad
        for answer in bad:  # it may have been a bad moment
            assert "etag" not in answer.headers
            assert answer.headers["cache-control"] == "no-store"
        (note,) = client.get("/api/slide/0").json()["notes"]
        assert "cannot be decoded, shown in grey" in note
        assert "a.tif" in note


def test_a_slide_that_goes_while_the_server_runs_is_a_sentence(slides, tmp_path):
    shutil.copy(slides / "s0.tif", tmp_path / "a.tif")
    shutil.copy(slides / "s1.tif", tmp_path / "b.tif")
    with client_of(tmp_path) as client:
        (tmp_path / "a.tif").unlink()
        assert "a.tif" in client.get("/api/slide/0").json()["error"]
        assert client.get("/tile/0/0/0_0.jpg").status_code == 422
        assert client.get("/tile/1/0/0_0.jpg").status_code == 200


def test_broken_features_are_a_note_and_the_slide_is_shown(slides, features, tmp_path):
    folder = tmp_path / "features"
    shutil.copytree(features, folder)
    viewer = open_viewer(slides, features=folder)
    (path,) = folder.rglob("s0.h5")
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 100)
    with browser(viewer) as client:
        about = client.get("/api/slide/0").json()
        assert about["patches"] is None
        assert about["error"] is None
        assert len(about["notes"]) == 1
        assert client.get("/api/slide/0/patches").status_code == 422
        assert client.get("/tile/0/0/0_0.jpg").status_code == 200


def test_a_slide_without_a_scale_is_shown_without_one(tmp_path):
    write_slide(tmp_path / "a.tif", mpp=None)
    with client_of(tmp_path) as client:
        about = client.get("/api/slide/0").json()
        assert about["mpp"] is None
        assert about["error"] is None
        (note,) = about["notes"]
        assert "without a scale" in note
        assert client.get("/api/slide/0/tissue").json() == {"polygons": []}
        assert client.get("/tile/0/0/0_0.jpg").status_code == 200
    with client_of(tmp_path, mpp_override=0.5) as client:
        assert client.get("/api/slide/0").json()["mpp"] == 0.5


def test_a_mistake_of_ours_is_said_without_its_words(slides, monkeypatch):
    viewer = open_viewer(slides)
    with browser(viewer) as client:
        monkeypatch.setattr(viewer.catalogue, "mpp", lambda index: 1 / 0)
        answer = client.get("/api/slide/0")
        assert answer.status_code == 500
        assert "division" not in answer.text
        assert client.get("/api/slides").status_code == 200


# --- Names -----------------------------------------------------------------------------------------


def test_names_that_are_hidden_are_in_no_answer(slides, features, tmp_path):
    folder = tmp_path / "SECRET-folder"
    folder.mkdir()
    shutil.copy(slides / "s0.tif", folder / "SECRET-1.tif")
    (folder / "SECRET-2.svs").write_bytes(b"II*\0" + b"\xff" * 100)
    (folder / "SECRET-3.tif").symlink_to(folder / "SECRET.tif")
    write_slide(folder / "SECRET-4.tif", mpp=None)
    path = write_slide(folder / "SECRET-5.tif", size=(1100, 1100))
    (where,) = {found.parent for found in features.rglob("*.h5")}
    of = tmp_path / where.name
    of.mkdir()
    (of / "SECRET-1.h5").write_bytes((where / "s0.h5").read_bytes()[:-50])
    viewer = open_viewer(folder, features=of, anonymous=True)
    assert "SECRET" not in str(viewer.notes)
    with browser(viewer) as client:
        n = len(client.get("/api/slides").json())
        with path.open("r+b") as file:
            assert client.get(f"/api/slide/{n - 1}").json()["error"] is None
            file.truncate(path.stat().st_size // 4)
        paths = ["/", "/api/session", "/api/slides"]
        for index in range(n):
            paths += [
                f"/api/slide/{index}{what}" for what in ("", "/tissue", "/patches", "/values/a")
            ]
            paths += [f"/tile/{index}/{z}/0_0.jpg" for z in (0, 2, 9)]
        for path in paths:
            answer = client.get(path)
            told = f"{answer.text} {answer.headers}"
            assert "SECRET" not in told, path
        names = [each["name"] for each in client.get("/api/slides").json()]
        assert names == [f"slide {index + 1}" for index in range(n)]
        assert client.get(f"/api/slide/{n - 1}").json()["notes"]


def test_names_that_are_hidden_are_in_nothing_that_is_said_of_patches(slides, features, tmp_path):
    for folder in ("SECRET-slides", "heat", "out"):
        (tmp_path / folder).mkdir()
    (where,) = {found.parent for found in features.rglob("*.h5")}
    of = tmp_path / where.name
    of.mkdir()
    for i in range(2):
        shutil.copy(slides / f"s{i}.tif", tmp_path / "SECRET-slides" / f"SECRET-{i}.tif")
        shutil.copy(where / f"s{i}.h5", of / f"SECRET-{i}.h5")
    places = read_features(of / "SECRET-0.h5").coords
    table = "x,y,value\n" + "".join(f"{x},{y},{k}\n" for k, (x, y) in enumerate(places))
    for name in ("SECRET-0", "SECRET-elsewhere"):
        (tmp_path / "heat" / name).mkdir()
        (tmp_path / "heat" / name / "attention.csv").write_text(table)
    (tmp_path / "heat" / "SECRET-0.csv").write_text("x,y,value\n1,x,3\n")
    with client_of(
        tmp_path / "SECRET-slides",
        features=of,
        explain=tmp_path / "heat",
        export=tmp_path / "out",
        anonymous=True,
    ) as client:
        layers = client.get("/api/slide/0").json()["layers"]
        assert layers
        paths = [
            f"/api/slide/{i}{what}" for i in (0, 1, 2) for what in ("", "/patch/0", "/patch/9999")
        ]
        paths += [f"/api/slide/0/values/{layer['id']}" for layer in layers]
        paths += ["/patch/0/0.jpg", "/patch/0/9999.jpg", "/patch/2/0.jpg"]
        paths += [
            f"/api/similar?slide=0&patch=0&k=5&scope={scope}" for scope in ("slide", "cohort", "x")
        ]
        for path in paths:
            answer = client.get(path)
            assert "SECRET" not in f"{answer.text} {answer.headers}", path
        ring = [[0, 0], [100, 0], [100, 100]]
        asked = {"slide": 0, "name": "here", "polygon": ring}
        answer = client.post("/api/export", json=asked, headers={"Sec-Fetch-Site": "same-origin"})
        assert answer.status_code == 200, answer.text
        assert "SECRET" not in answer.text
        for path in (tmp_path / "out").iterdir():
            assert "SECRET" not in path.name + path.read_text()
        answer = client.post(
            "/api/export", json={**asked, "name": "../x"}, headers={"Sec-Fetch-Site": "same-origin"}
        )
        assert "SECRET" not in answer.text


def test_hostile_names_are_data(slides, tmp_path):
    name = "<img src=x onerror=alert(1)>\"'&"
    shutil.copy(slides / "s0.tif", tmp_path / f"{name}.tif")
    with client_of(tmp_path) as client:
        answer = client.get("/api/slides")
        assert answer.json()[0]["name"] == name
        assert answer.headers["content-type"] == "application/json"
        assert name not in client.get("/").text


# --- Which features --------------------------------------------------------------------------------


def test_features_of_one_encoder_are_found_by_themselves(slides, features):
    listed = list_catalogue(slides, features=features)
    assert listed.notes == ()
    assert all(entry.features.stem == entry.slide for entry in listed.catalogue.entries)


def test_of_several_encoders_one_is_to_be_named(slides, features, tmp_path):
    (where,) = {path.parent for path in features.rglob("*.h5")}
    for name in ("features_a", "features_b"):
        shutil.copytree(where, tmp_path / "20x" / name)
    with pytest.raises(ValueError, match=r"encoder must be told .* has a, b: encoder=NAME"):
        list_catalogue(slides, features=tmp_path)
    listed = list_catalogue(slides, features=tmp_path, encoder="b")
    assert {entry.features.parent.name for entry in listed.catalogue.entries} == {"features_b"}
    assert listed.catalogue.encoder == "b"
    with pytest.raises(ValueError, match=r"encoder must be one of those in .*, got c: a, b"):
        list_catalogue(slides, features=tmp_path, encoder="c")
    run = tmp_path / "run"
    run.mkdir()
    for named, meant in (("a", "a"), ("elsewhere", None)):
        about = {"encoder": {"name": named}}
        write_json(run / "run.json", {"kind": "train", "identity": {}, "about": about})
        if meant is None:
            with pytest.raises(ValueError, match="encoder must be told"):
                list_catalogue(slides, features=tmp_path, run=run)
        else:
            assert list_catalogue(slides, features=tmp_path, run=run).catalogue.encoder == meant
    shutil.copytree(where, tmp_path / "10x" / "features_b")
    with pytest.raises(
        ValueError, match=r"one encoder and scale, .* has 10x/features_b, 20x/features_b"
    ):
        list_catalogue(slides, features=tmp_path, encoder="b")


def test_slides_without_features_and_features_without_slides_are_told(slides, features, tmp_path):
    shutil.copy(slides / "s0.tif", tmp_path)
    write_slide(tmp_path / "new.tif")
    viewer = open_viewer(tmp_path, features=features)
    assert viewer.notes == (
        "no feature file of 1 (new): without layers",
        "no slide for the features of 2 (s1, s2): passed over",
    )
    with browser(viewer) as client:
        assert client.get("/api/slide/0").json()["layers"] == []
        assert client.get("/api/slide/0/patches").status_code == 404


def test_labels_are_those_of_the_table(slides, tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("slide,label\ns0,tumour\ns2,\nelsewhere,x\n")
    with client_of(slides, labels=table) as client:
        assert [each["label"] for each in client.get("/api/slides").json()] == [
            "tumour",
            None,
            None,
        ]


# --- What is open ----------------------------------------------------------------------------------


@pytest.fixture
def fakes(monkeypatch):
    """A catalogue of 40 slides in memory, those that were opened by name."""
    opened = {}

    def open_fake(path, *, mpp_override=None):
        slide = FakeSlide(noise(600, 600), name=path.stem)
        opened.setdefault(path.stem, []).append(slide)
        return slide

    monkeypatch.setattr("histofast.viewer.catalogue.open_slide", open_fake)
    paths = [Path(f"{index}.svs") for index in range(40)]
    entries = [Entry(index=i, name=p.stem, slide=p.stem, path=p) for i, p in enumerate(paths)]
    return Catalogue(entries), opened


def test_few_slides_are_open_at_a_time(fakes):
    catalogue, opened = fakes
    for index in (*range(40), *range(39, -1, -1)):
        assert catalogue.tile(index, 0, 0, 0).data
        still = [slide for each in opened.values() for slide in each if not slide.closed]
        assert len(still) <= MOST_OPEN
    assert sum(map(len, opened.values())) == 40 + 40 - MOST_OPEN
    catalogue.close()
    assert all(slide.closed for each in opened.values() for slide in each)


def test_no_slide_is_closed_that_somebody_reads(fakes):
    catalogue, _ = fakes
    with catalogue.slide(0) as slide:
        for index in range(1, 40):
            catalogue.tile(index, 0, 0, 0)
        assert not slide.closed
    for index in range(1, 1 + MOST_OPEN):
        catalogue.tile(index, 0, 0, 0)
    assert slide.closed


def test_slides_are_read_by_many_while_others_are_closed(fakes):
    catalogue, opened = fakes

    def look(start):
        return [
            catalogue.tile((start * 7 + step * 3) % 40, 1, step % 2, 0).unreadable
            for step in range(60)
        ]

    with ThreadPoolExecutor(6) as pool:
        for unreadable in pool.map(look, range(6)):
            assert not any(unreadable)
    still = [slide for each in opened.values() for slide in each if not slide.closed]
    assert len(still) <= MOST_OPEN


# --- The queue -------------------------------------------------------------------------------------


class Asking:
    """A request whose browser goes away when it is told to."""

    def __init__(self):
        self.gone = asyncio.Event()

    async def receive(self):
        await self.gone.wait()
        return {"type": "http.disconnect"}


def test_too_many_tiles_are_refused_and_a_few_are_made_at_a_time():
    at_work, most, ends = [], [], threading.Event()
    lock = threading.Lock()

    def work(is_wanted):
        with lock:
            at_work.append(1)
            most.append(len(at_work))
        ends.wait(10)
        with lock:
            at_work.pop()
        return "made"

    async def ask_all():
        queue = TileQueue()
        asked = [
            asyncio.ensure_future(queue.run(Asking(), work))
            for _ in range(AT_A_TIME + MOST_WAITING)
        ]
        await asyncio.sleep(0.1)
        with pytest.raises(Crowded):
            await queue.run(Asking(), work)
        ends.set()
        assert set(await asyncio.gather(*asked)) == {"made"}
        assert await queue.run(Asking(), lambda is_wanted: "room again") == "room again"
        queue.close()

    asyncio.run(ask_all())
    assert max(most) == AT_A_TIME


def test_who_goes_away_frees_a_place_and_ends_the_work():
    ended = threading.Event()

    def work(is_wanted):
        while is_wanted():
            time.sleep(0.001)
        ended.set()
        raise Abandoned

    async def leave():
        queue, asking = TileQueue(), [Asking() for _ in range(AT_A_TIME + 5)]
        asked = [asyncio.ensure_future(queue.run(each, work)) for each in asking]
        await asyncio.sleep(0.05)
        assert queue.waiting == len(asking)
        for each in asking:
            each.gone.set()
        for each in asked:
            with pytest.raises(Abandoned):
                await each
        assert await queue.run(Asking(), lambda is_wanted: "room again") == "room again"
        while queue.waiting:
            await asyncio.sleep(0.001)
        queue.close()

    asyncio.run(leave())
    assert ended.is_set()


# --- The real server -------------------------------------------------------------------------------


@pytest.fixture
def served(slides, features):
    viewer = open_viewer(slides, features=features)
    with viewer.server as server:
        yield server


def fetch(server, path, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


def test_a_browser_gets_in_by_the_address_alone(served):
    path = served.address().removeprefix(f"http://127.0.0.1:{served.port}")
    answer, body = fetch(served, path)
    assert answer.status == 200
    assert b"<html" in body
    cookie = answer.getheader("set-cookie").partition(";")[0]
    answer, body = fetch(served, "/api/slides", Cookie=cookie)
    assert len(json.loads(body)) == 3
    assert answer.getheader("server") is None
    assert fetch(served, "/tile/0/0/0_0.jpg", Cookie=cookie)[1][:2] == b"\xff\xd8"
    for path, headers in (
        ("/api/slides", {}),
        ("/api/slides", {"Cookie": f"{cookie}x"}),
        ("/tile/0/0/0_0.jpg", {}),
        ("/?t=", {}),
    ):
        assert fetch(served, path, **headers)[0].status == 403
    assert fetch(served, "/api/slides", Cookie=cookie, Host="evil.example")[0].status == 400


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /../../etc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"GET /?t=\xff\xfe HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n",
        b"\x16\x03\x01\x02\x00" * 20 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
        b"POST /api/export HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999999999\r\n\r\n",
        b"GET /api/slides HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    ],
)
def test_hostile_bytes_get_nothing_and_the_server_goes_on(served, sent):
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as link:
        link.sendall(sent)
        link.settimeout(5)
        got = b""
        try:
            while b"\r\n\r\n" not in got and (part := link.recv(65536)):
                got += part
        except OSError:
            pass
    assert not got.startswith(b"HTTP/1.1 2")
    assert b"root:" not in got
    assert b"s0" not in got
    assert fetch(served, "/api/slides")[0].status == 403


def test_a_browser_that_goes_away_ends_the_work_on_its_tile(slides, monkeypatch):
    class Slow(FakeSlide):
        def read_tile(self, level, column, row, out):
            time.sleep(0.002)
            super().read_tile(level, column, row, out)

    slow = Slow(np.zeros((4096, 4096, 3), np.uint8))
    monkeypatch.setattr("histofast.viewer.catalogue.open_slide", lambda path, mpp_override: slow)
    viewer = open_viewer(slides)
    ask = (
        f"GET /tile/0/0/0_0.jpg HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: {viewer.app.access.cookie}="
    )
    with viewer.server as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as link:
            link.sendall(f"{ask}{viewer.app.access.token}\r\n\r\n".encode())
            for _ in range(2000):
                time.sleep(0.01 if not slow.decoded else 0)
        before = -1
        while len(slow.decoded) > before:  # until nothing more is decoded
            before = len(slow.decoded)
            time.sleep(0.3)
    assert 0 < len(slow.decoded) < slow.levels[0].rows * slow.levels[0].columns / 2


def test_the_server_listens_here_only_and_ends(slides):
    viewer = open_viewer(slides)
    with viewer.server as server:
        assert fetch(server, "/")[0].status == 403
        with pytest.raises(ValueError, match=f"port must be one that is free, got {server.port}"):
            open_viewer(slides, listening=Listening(port=server.port))
    with pytest.raises(OSError, match="refused"):
        fetch(server, "/")
    assert not server.is_up()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"host": "0.0.0.0"}, "host must be 127.0.0.1, got 0.0.0.0"),
        ({"host": "::"}, "host must be 127.0.0.1, got ::"),
        ({"host": "192.168.0.7"}, "ssh -L 8000:127.0.0.1:8000"),
        ({"port": 70000}, "port must be within"),
        ({"base_path": "user"}, "base_path must be a path"),
        ({"base_path": "/a; Domain=evil"}, "base_path must be a path"),
        ({"base_path": "/a\r\nX: y"}, "base_path must be a path"),
    ],
)
def test_where_it_must_not_listen(options, said):
    with pytest.raises(ValueError, match=said):
        Listening(**options)


def test_another_host_is_listened_at_only_when_that_is_said():
    listening = Listening(host="0.0.0.0", open_to_network=True, allow_hosts=["Box.example"])
    assert listening.access().hosts == {"127.0.0.1", "localhost", "0.0.0.0", "box.example"}
