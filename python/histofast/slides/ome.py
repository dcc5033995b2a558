"""The text that makes a TIFF an OME-TIFF."""

from __future__ import annotations

from xml.sax.saxutils import quoteattr


def ome_xml(name: str, width: int, height: int, mpp_x: float, mpp_y: float) -> str:
    """Describe one RGB picture; ASCII, as TIFF wants its descriptions."""
    printable = "".join(letter for letter in name if letter.isprintable())
    quoted = quoteattr(printable).encode("ascii", "xmlcharrefreplace")
    schema = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        f'<OME xmlns="{schema}" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
        f'xsi:schemaLocation="{schema} {schema}/ome.xsd">'
        f'<Image ID="Image:0" Name={quoted.decode()}>'
        '<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" Interleaved="true" '
        f'SizeX="{width}" SizeY="{height}" SizeC="3" SizeZ="1" SizeT="1" '
        f'PhysicalSizeX="{mpp_x:.9g}" PhysicalSizeXUnit="&#181;m" '
        f'PhysicalSizeY="{mpp_y:.9g}" PhysicalSizeYUnit="&#181;m">'
        '<Channel ID="Channel:0:0" SamplesPerPixel="3"/>'
        '<TiffData IFD="0" PlaneCount="1"/></Pixels></Image></OME>'
    )
