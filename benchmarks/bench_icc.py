"""Colours by an ICC profile beside the encoding of the same patches, and how near they are to littleCMS.

    pytest benchmarks/bench_icc.py -s

CPU seconds of one thread, in turns: what counts is the share of one in the other. The table is made once
for a profile; its share is told of one slide of its own.
"""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path

import imagecodecs
import numpy as np
from PIL import Image, ImageCms

from histofast import graphs, load_encoder
from histofast.slides import srgb_table

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
from compare import in_turns

N, PX = 32, 224
SLIDE = 2_000  # patches of a slide that the making of its table is shared by
GOAL = 0.03
ADOBE = (0.64, 0.33, 1.0, 0.21, 0.71, 1.0, 0.15, 0.06, 1.0)


def by_the_cpu(function):
    began = time.process_time()
    function()
    return time.process_time() - began


def by_littlecms(pixels, profile):
    image = ImageCms.profileToProfile(
        Image.fromarray(pixels.reshape(-1, PX, 3)),
        ImageCms.ImageCmsProfile(io.BytesIO(profile)),
        ImageCms.createProfile("sRGB"),
        outputMode="RGB",
    )
    return np.asarray(image).reshape(pixels.shape)


def test_share_of_encoding(table, benchmark):
    pixels = graphs.stained_noise(N, PX)
    profile = bytes(
        imagecodecs.cms_profile("rgb", whitepoint=[0.3127, 0.3290, 1.0], primaries=ADOBE, gamma=2.2)
    )
    began = time.process_time()
    colours = srgb_table(profile, of="it")
    once = time.process_time() - began
    apart = np.abs(colours.apply(pixels).astype(int) - by_littlecms(pixels, profile))
    print(
        f"\nfrom Pillow's littleCMS: {apart.max()} at most, {(apart > 0).mean():.2%} of the values"
    )
    with (
        load_encoder("densenet121-t2", threads=1) as whole,
        load_encoder("densenet121-t2-int8", threads=1) as quick,
    ):
        seconds = in_turns(
            {
                "table": lambda: colours.apply(pixels),
                "littleCMS": lambda: by_littlecms(pixels, profile),
                whole.spec.name: lambda: whole.encode(pixels),
                quick.spec.name: lambda: quick.encode(pixels),
            },
            rounds=5,
            seconds_of=by_the_cpu,
        )
    taken = {name: float(np.median(values)) for name, values in seconds.items()}
    rival = 1e3 * taken["littleCMS"] / N
    print(f"table made in {once:.2f} s; Pillow's littleCMS {rival:.2f} ms a patch")
    own = taken["table"] / N + once / SLIDE
    for name in (whole.spec.name, quick.spec.name):
        share = own / (taken[name] / N)
        print(
            f"icc: {1e3 * taken['table'] / N:.2f} ms a patch, {share:.1%} of {name} with the table"
        )
        table.add(
            what=f"ICC to sRGB, patches of {PX} px, a table for {SLIDE:,}, of encoding with {name}",
            ours=f"{100 * share:.1f} %",
            rival="3 % of it",
            theirs=f"{1e3 * taken[name] / N:.1f} ms a patch",
            ratio=GOAL / share,
            goal=1.0,
        )
    benchmark.pedantic(lambda: None, rounds=1)
