"""What a page of a report holds, for tests."""

from __future__ import annotations

import base64
from html.parser import HTMLParser

_VOID = {"meta", "br", "img"}


class PageReader(HTMLParser):
    """Tags that are left open, references, tooltips, cells and what can be selected."""

    cell_tags = frozenset({"td"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: dict[str, str] = {}
        self.references: list[str] = []
        self.titles: list[str] = []
        self.cells: list[str] = []
        self.code: list[str] = []
        self.ids: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag not in _VOID:
            self.open.append(tag)
        if tag == "a" and "download" in given:
            self.links[given["download"]] = given["href"]
        self.references += [given[k] for k in ("src", "href", "xlink:href") if k in given]
        self.ids += [given["id"]] if "id" in given else []
        assert tag not in {"script", "link", "iframe", "object"}
        assert not any(name.startswith("on") for name in given)
        if tag == "svg":
            assert given.get("aria-label") or given.get("aria-hidden") == "true"
        if tag == "img":
            assert given["alt"]

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        where = self.open[-1] if self.open else ""
        if where == "title":
            self.titles.append(data)
        elif where in self.cell_tags:
            self.cells.append(data)
        elif where == "code":
            self.code.append(data)


def decoded(url: str) -> str:
    return base64.b64decode(url.partition("base64,")[2]).decode()
