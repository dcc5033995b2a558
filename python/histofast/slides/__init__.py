"""Slides and images: paths in, tiles and pictures out. The door to tifffile, imagecodecs, OpenSlide, zarr."""

from __future__ import annotations

from histofast.slides.converting import Converted, convert
from histofast.slides.icc import ColourTable, Icc, checked_icc, profile_of_picture, srgb_table
from histofast.slides.images import (
    TIFF_MAGIC,
    ImageForm,
    image_size,
    quick_png,
    read_image,
    read_image_and_form,
    write_png,
)
from histofast.slides.jpeg import find_damage
from histofast.slides.listing import SLIDE_SUFFIXES, ListedSlide, find_slides
from histofast.slides.masks import read_mask
from histofast.slides.metadata import pyramid_downsample
from histofast.slides.ome import ome_xml
from histofast.slides.opening import open_slide
from histofast.slides.openslide import OpenSlideSlide
from histofast.slides.remote import NeedsFile
from histofast.slides.remote_parts import RemoteParts, remote_parts
from histofast.slides.resizing import resize_image, resize_patches
from histofast.slides.slide import Level, Slide, Survey
from histofast.slides.stream import LOOKAHEAD, Schedule, Unreadable, stream_boxes
from histofast.slides.tiff import TiffSlide
from histofast.slides.write import (
    average_blocks,
    encode_tile,
    level_sizes,
    write_array_pyramid,
    write_averaged_pyramid,
    write_pyramid,
)
from histofast.slides.zarr_store import is_zarr, slide_name

__all__ = [
    "LOOKAHEAD",
    "SLIDE_SUFFIXES",
    "TIFF_MAGIC",
    "ColourTable",
    "Converted",
    "Icc",
    "ImageForm",
    "Level",
    "ListedSlide",
    "NeedsFile",
    "OpenSlideSlide",
    "RemoteParts",
    "Schedule",
    "Slide",
    "Survey",
    "TiffSlide",
    "Unreadable",
    "average_blocks",
    "checked_icc",
    "convert",
    "encode_tile",
    "find_damage",
    "find_slides",
    "image_size",
    "is_zarr",
    "level_sizes",
    "ome_xml",
    "open_slide",
    "profile_of_picture",
    "pyramid_downsample",
    "quick_png",
    "read_image",
    "read_image_and_form",
    "read_mask",
    "remote_parts",
    "resize_image",
    "resize_patches",
    "slide_name",
    "srgb_table",
    "stream_boxes",
    "write_array_pyramid",
    "write_averaged_pyramid",
    "write_png",
    "write_pyramid",
]


def __dir__() -> list[str]:
    return __all__
