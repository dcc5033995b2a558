"""What goes with a release agrees with what is in the package."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import subprocess
import sys
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def sbom(*options: str) -> str:
    command = [sys.executable, str(ROOT / "scripts/sbom.py"), *options]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_the_citation_and_the_changelog_are_of_this_version():
    version, day = re.search(
        r"\nversion: (.+)\ndate-released: (.+)\n", (ROOT / "CITATION.cff").read_text()
    ).groups()
    assert version == PROJECT["version"]
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert next(head for head in headings if head != "Unreleased") == f"{version} - {day}"


def test_the_bill_of_materials_has_what_is_bundled():
    bill = json.loads(sbom())
    assert bill["metadata"]["component"]["version"] == PROJECT["version"]
    names = {component["name"]: component for component in bill["components"]}
    for model in (ROOT / "models").glob("*.onnx"):
        assert names[model.name]["hashes"] == [
            {"alg": "SHA-256", "content": hashlib.sha256(model.read_bytes()).hexdigest()}
        ]
    vendored = (ROOT / "python/histofast/viewer/static/vendor").glob("*.js")
    for script in vendored:
        digest = hashlib.sha256(script.read_bytes()).hexdigest()
        name = script.name.partition("-")[0]
        assert names[name]["hashes"][0]["content"] == digest
        assert names[name]["version"] in script.name
    assert {"numpy", "onnx", "tifffile", "nanobind", "libc++"} <= names.keys()


def test_everything_bundled_has_a_licence_that_is_told():
    rows = sbom("--table").splitlines()[2:]
    assert len(rows) >= 5
    assert all(row.split("|")[3].strip() for row in rows)


# --- Links to others ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def links():
    spec = importlib.util.spec_from_file_location("links", ROOT / "scripts/links.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_links_are_found_as_a_reader_sees_them(links):
    text = """See [it](https://doi.org/10.1/a_(b)), <https://a.org>, https://b.org/x. And http://c.org/?q=1;
https://host/slide.svs and https:// are words."""
    assert links.links_of(text) == [
        "https://doi.org/10.1/a_(b)",
        "https://a.org",
        "https://b.org/x",
        "http://c.org/?q=1",
    ]


def test_every_link_to_others_is_whole_and_safe(links):
    found = links.external_links()
    assert len(found) >= 40
    assert "models/registry.toml" in found["https://github.com/mahmoodlab/HIPT"]
    for link, files in found.items():
        parts = urlsplit(link)
        assert parts.scheme == "https", f"{files}: {link}"
        assert parts.username is None, f"{files}: {link}"
        assert parts.port is None, f"{files}: {link}"
        placeholder = r"example\.(com|org)|localhost|todo|xxx|your-|OWNER|[{}<>$]|\.\.\."
        assert not re.search(placeholder, link, re.IGNORECASE), f"{files}: {link}"


class _Server(BaseHTTPRequestHandler):
    """A path is what it answers to HEAD and to GET."""

    def _answer(self, which):
        code = int(self.path.split("/")[which])
        self.send_response(code)
        if code == 302:
            self.send_header("Location", "/200/200")
        self.end_headers()

    def do_HEAD(self):
        self._answer(1)

    def do_GET(self):
        self._answer(2)

    def log_message(self, *_):
        pass


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/200/404", ""),
        ("/405/200", ""),
        ("/302/404", ""),
        ("/404/404", "404 Not Found"),
        ("/403/200", "403 Forbidden"),
    ],
)
def test_what_an_address_answers(links, path, says):
    with HTTPServer(("127.0.0.1", 0), _Server) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            assert links.answer_of(f"http://127.0.0.1:{server.server_port}{path}") == says
        finally:
            server.shutdown()
            thread.join()


def test_an_address_where_nobody_listens(links):
    with HTTPServer(("127.0.0.1", 0), _Server) as server:
        port = server.server_port
    assert "refused" in links.answer_of(f"http://127.0.0.1:{port}/")
