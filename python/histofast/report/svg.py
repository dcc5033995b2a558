"""SVG of matplotlib into SVG of a page: its text, its colours, its ids, and what can be pointed at."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence

from histofast.report.style import VARIABLES

_PX_PER_PT = 4 / 3
_LEAST = 0.7  # of its size a drawing with letters shrinks to before it scrolls: to 8 px
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]")  # may be in names, not in XML
_LONG = re.compile(r"-?\d+\.\d{3,}")


def for_page(svg: bytes, *, name: str, alt: str, tips: Mapping[str, Sequence[str]]) -> str:
    """Return an svg element that a page can hold.

    Args:
        svg: as matplotlib writes it.
        name: begins every id.
        alt: what it shows, in words.
        tips: of each mark of a group, in order, by the group's id; "": none.
    """
    root = ET.fromstring(_CONTROL.sub(b"", svg))
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        attributes = dict(element.attrib)
        element.attrib.clear()
        element.attrib.update({key.rpartition("}")[2]: v for key, v in attributes.items()})
    for child in list(root):
        if child.tag in ("metadata", "defs") and child.find("style") is not None:
            root.remove(child)  # its rules would hold for the whole page
    for group in root.iter("g"):
        if group.get("id") in tips:
            _add_tips(group, tips[group.attrib["id"]])
    _rename(root, name)
    for element in root.iter():
        _restyle(element)
    _, _, width, _ = (float(side) for side in root.attrib["viewBox"].split())
    shown = width * _PX_PER_PT
    least = _LEAST * shown if root.find(".//text") is not None else 0.0
    box = root.attrib["viewBox"]
    root.attrib.clear()
    root.attrib.update(
        {
            "class": "chart",
            "viewBox": box,
            "style": f"width:{shown:.0f}px;min-width:{least:.0f}px",
            "role": "img",
            "aria-label": alt,
        }
    )
    return ET.tostring(root, encoding="unicode")


def _add_tips(group: ET.Element, tips: Sequence[str]) -> None:
    """Put a title into each mark of a group."""
    hidden = {inner for defs in group.iter("defs") for inner in defs.iter()}
    for tag in ("use", "text", "path"):
        marks = [mark for mark in group.iter(tag) if mark not in hidden]
        if marks:
            break
    for mark, tip in zip(marks, tips, strict=True):
        if tip:
            title = ET.Element("title")
            title.text = tip
            mark.insert(0, title)


def _rename(root: ET.Element, name: str) -> None:
    """Keep the ids that something refers to, begun with `name`; ids of ours become classes."""
    texts = [text for element in root.iter() for text in element.attrib.values()]
    used = {found for text in texts for found in _REFERENCE.findall(text)}
    used |= {text[1:] for text in texts if text.startswith("#")}
    for element in root.iter():
        identity = element.attrib.pop("id", None)
        if identity in used:
            element.set("id", f"{name}-{identity}")
        elif identity is not None and "." in identity:
            element.set("class", identity.partition(".")[0])
        for key, text in element.attrib.items():
            if key == "href" and text.startswith("#"):
                element.set(key, f"#{name}-{text[1:]}")
            elif "url(#" in text:
                element.set(key, _REFERENCE.sub(rf"url(#{name}-\1)", text))


def _restyle(element: ET.Element) -> None:
    """Take colours and letters from the page, and write places without the noise of digits."""
    style = element.get("style")
    if style is not None:
        style = re.sub(r"font: ?(?:(\w+) )?([\d.]+px)[^;]*", _font, style)
        style = re.sub(r"font-family:[^;]*;? ?", "", style)
        for color, variable in VARIABLES.items():
            style = style.replace(color, f"var({variable})")
        element.set("style", style)
    elif element.tag == "text":
        element.set("style", "")
    for key in ("d", "x", "y", "points"):
        if key in element.attrib:
            short = _LONG.sub(lambda m: f"{float(m[0]):.2f}", element.attrib[key])
            element.set(key, " ".join(short.split()))


def _font(found: re.Match[str]) -> str:
    weight = f"; font-weight: {found[1]}" if found[1] else ""
    return f"font-size: {found[2]}{weight}"
