"""Slides and images: paths in, tiles and pictures out. The door to tifffile, imagecodecs, OpenSlide."""

from histofast.slides._image import read_image, read_mask, write_png
from histofast.slides._open import SLIDE_SUFFIXES, find_slides, open_slide
from histofast.slides._slide import Level, Slide, Survey
from histofast.slides._write import write_array_pyramid, write_averaged_pyramid, write_pyramid

__all__ = [
    "SLIDE_SUFFIXES",
    "Level",
    "Slide",
    "Survey",
    "find_slides",
    "open_slide",
    "read_image",
    "read_mask",
    "write_array_pyramid",
    "write_averaged_pyramid",
    "write_png",
    "write_pyramid",
]
