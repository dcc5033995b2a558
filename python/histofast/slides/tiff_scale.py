"""What the tags and texts of a TIFF file say of its picture's scale and objective."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from xml.parsers import expat

import tifffile

# um per unit. The micro sign and the Greek letter look the same; both are written.
UM_PER = {
    **dict.fromkeys(("\u00b5m", "\u03bcm", "um", "micron", "microns"), 1.0),
    **dict.fromkeys(("micrometer", "micrometre", "micrometers", "micrometres"), 1.0),
    **dict.fromkeys(("pm", "picometer"), 1e-6),
    **dict.fromkeys(("\u00c5", "angstrom"), 1e-4),
    **dict.fromkeys(("nm", "nanometer"), 1e-3),
    **dict.fromkeys(("mm", "millimeter"), 1e3),
    **dict.fromkeys(("cm", "centimeter"), 1e4),
    **dict.fromkeys(("dm", "decimeter"), 1e5),
    **dict.fromkeys(("m", "meter"), 1e6),
    **dict.fromkeys(("in", "inch", "inches"), 25400.0),
}
_RESOLUTION_UNITS = {2: 25400.0, 3: 10000.0}  # um per inch and centimetre
_INCH = 2  # what a file means that does not say its unit
_OME_BYTES, _OME_STEP_BYTES = 1 << 22, 1 << 14  # of its XML: looked through, at a time
_MOST_OME_IMAGES = 1000

Scale = tuple[float, float]


def mpp_of(
    page: tifffile.TiffPage,
    *,
    first: tifffile.TiffPage,
    vendor: str,
    ome: Ome | None,
    file_name: str,
) -> tuple[Scale | None, str]:
    """Return um per pixel along x and y, and where that stands.

    Args:
        page: that shows the picture.
        first: page of the file, whose text speaks for all of them.
        vendor: as `TiffLayout` has it.
        ome: what the text of an OME file says.
        file_name: OME files in several parts name those that a picture is in.
    """
    if ome is not None:
        image = _ome_image(page, ome.images, file_name)
        if image is not None and (said := _ome_mpp(image.pixels)) is not None:
            return said, "OME PhysicalSizeX"
    if vendor == "aperio" and (match := re.search(r"\bMPP\s*=\s*([\d.,eE+-]+)", page.description)):
        try:
            value = float(match[1].replace(",", "."))
        except ValueError:
            return None, ""
        return (value, value), "Aperio MPP"
    um_per_unit: tuple[float | None, float | None]
    source = "TIFF resolution tags"
    if first.is_imagej and (units := _imagej_units(first.description)) is not None:
        um_per_unit, source = units, "ImageJ's unit"
    else:
        um_per_unit = (_RESOLUTION_UNITS.get(_unit(page)),) * 2
    scale = []
    for um, code in zip(um_per_unit, (282, 283), strict=True):
        try:
            numerator, denominator = page.tags.valueof(code)
            scale.append(um * denominator / numerator)
        except (TypeError, ValueError, ZeroDivisionError):
            return None, ""
    return (scale[0], scale[1]), source


def _unit(page: tifffile.TiffPage) -> int:
    value = page.tags.valueof(296, _INCH)
    return int(value) if isinstance(value, int) else 1


def _imagej_units(description: str) -> tuple[float | None, float | None] | None:
    """Return um per unit of x and y as ImageJ wrote them; None where it says no unit."""
    said = dict(re.findall(r"^(unit|yunit)=(.{1,40})$", description, re.MULTILINE))
    if "unit" not in said:
        return None
    # It escapes what is not ASCII.
    units = {
        name: value.strip().replace("\\u00B5", "\u00b5").replace("\\u00b5", "\u00b5")
        for name, value in said.items()
    }
    x, y = units["unit"], units.get("yunit", units["unit"])
    return UM_PER.get(x, UM_PER.get(x.lower())), UM_PER.get(y, UM_PER.get(y.lower()))


@dataclass(kw_only=True, slots=True)
class OmeImage:
    """A picture as OME-XML describes it.

    Attributes:
        name: as the scanner calls it.
        pixels: attributes of its Pixels.
        blocks: (first page or None, number of pages or None, file or "") of each TiffData.
        objective: ID of the objective, where one is named.
    """

    name: str = ""
    pixels: Mapping[str, str] = field(default_factory=dict)
    blocks: list[tuple[int | None, int | None, str]] = field(default_factory=list)
    objective: str = ""

    def is_in(self, page: int, file_name: str) -> bool:
        """Whether the picture is said to lie in a page of the file."""
        for first, count, name in self.blocks:
            if name and name != file_name:
                continue
            if first is None and count is None:  # all there are
                return True
            if (first or 0) <= page < (first or 0) + (1 if count is None else count):
                return True
        return False

    def is_of(self, width: int, height: int) -> bool:
        """Whether it has that size, or says none."""
        said = self.pixels.get("SizeX", str(width)), self.pixels.get("SizeY", str(height))
        return said == (str(width), str(height))


@dataclass(kw_only=True, slots=True)
class Ome:
    """What there is in an OME-XML text: pictures in their order, magnifications by objective."""

    images: list[OmeImage] = field(default_factory=list)
    magnifications: dict[str, str] = field(default_factory=dict)


def read_ome(description: str) -> Ome:
    """Read an OME-XML text as far as it is sound, and no further than 4 MiB."""
    found = Ome()

    def start(name: str, attributes: dict[str, str]) -> None:
        tag = name.rpartition("}")[2]
        image = found.images[-1] if found.images else None
        if tag == "Image" and len(found.images) < _MOST_OME_IMAGES:
            found.images.append(OmeImage(name=attributes.get("Name", "")))
        elif tag == "Objective" and "NominalMagnification" in attributes:
            magnification = attributes["NominalMagnification"]
            found.magnifications[attributes.get("ID", "")] = magnification
        elif image is None:
            return
        elif tag == "Pixels":
            image.pixels = attributes
        elif tag in ("ObjectiveSettings", "ObjectiveRef"):
            image.objective = attributes.get("ID", "")
        elif tag == "TiffData":
            block = (_whole(attributes.get("IFD")), _whole(attributes.get("PlaneCount")), "")
            image.blocks.append(block)
        elif tag == "UUID" and image.blocks:
            image.blocks[-1] = (*image.blocks[-1][:2], attributes.get("FileName", ""))

    text = description.encode()[:_OME_BYTES]
    parser = expat.ParserCreate(namespace_separator="}")
    parser.StartElementHandler = start
    try:
        for at in range(0, len(text), _OME_STEP_BYTES):
            parser.Parse(text[at : at + _OME_STEP_BYTES], False)
    except expat.ExpatError:
        return found
    return found


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() and len(text) < 10 else None


def _ome_image(page: tifffile.TiffPage, images: list[OmeImage], file_name: str) -> OmeImage | None:
    """The picture that a page shows: by its place if the size agrees, else by its size alone.

    None where several of its size are left whose scales differ.
    """
    fitting = [image for image in images if image.is_of(page.imagewidth, page.imagelength)]
    placed = [image for image in fitting if image.is_in(page.index, file_name)]
    chosen = placed or fitting
    if len({_ome_mpp(image.pixels) for image in chosen}) != 1:
        return None
    return chosen[0]


def _ome_mpp(pixels: Mapping[str, str]) -> Scale | None:
    scale = []
    for axis in "XY":
        unit = pixels.get(f"PhysicalSize{axis}Unit", "\u00b5m")
        try:
            scale.append(float(pixels.get(f"PhysicalSize{axis}", "")) * UM_PER[unit])
        except (KeyError, ValueError):
            return None
    return scale[0], scale[1]


def ome_magnification(page: tifffile.TiffPage, *, ome: Ome, file_name: str) -> str | None:
    """Return the nominal magnification of the objective that took a page of an OME file."""
    image = _ome_image(page, ome.images, file_name)
    if image is not None and image.objective in ome.magnifications:
        return ome.magnifications[image.objective]
    different = set(ome.magnifications.values())
    return different.pop() if len(different) == 1 and len(ome.images) == 1 else None
