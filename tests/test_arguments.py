"""What is no path, or no name, is refused in one line that says which argument it is."""

from __future__ import annotations

import pytest

import histofast
from extras import need
from histofast import encoders, features, graphs, learning, patches, slides
from histofast._files import path_of, paths_of, regular_file
from histofast._words import text_of

ONE = [
    (histofast.open_slide, "slide"),
    (slides.read_image, "path"),
    (slides.read_mask, "path"),
    (histofast.load_encoder, "encoder"),
    (encoders.load_all, "encoder"),
    (encoders.read_spec, "path"),
    (encoders.read_specs, "path"),
    (features.read_features, "path"),
    (features.read_summary, "path"),
    (features.read_identity, "path"),
    (features.problems_of, "path"),
    (features.pt_path, "path"),
    (graphs.cuts, "encoder"),
    (patches.read_patch_table, "patches"),
    (patches.list_bags, "patches"),
]
SEVERAL = [
    (slides.find_slides, "paths"),
    (patches.list_jobs, "slides"),
    (features.verify, "paths"),
]


@pytest.mark.parametrize("given", [None, 3, b"x", 1.5])
@pytest.mark.parametrize(("function", "name"), ONE, ids=lambda f: getattr(f, "__name__", f))
def test_what_is_no_path(function, name, given):
    with pytest.raises(TypeError, match=rf"^{name} must be a (name or a )?path, got {given!r}$"):
        function(given)


@pytest.mark.parametrize("given", [None, 3, b"x", [None], ["a", 3]])
@pytest.mark.parametrize(("function", "name"), SEVERAL, ids=lambda f: getattr(f, "__name__", f))
def test_what_is_no_list_of_paths(function, name, given):
    with pytest.raises(TypeError, match=rf"^{name} must be a path"):
        function(given)


@pytest.mark.parametrize("given", [None, 3, b"densenet121", ["densenet121"]])
def test_what_is_no_name_of_a_network(given):
    need("torch")
    from histofast import mil, networks

    for call in (
        lambda: networks.create(given),
        lambda: networks.layers(given),
        lambda: mil.create(given, d=4, outputs=2),
    ):
        with pytest.raises(TypeError, match=r"^name must be a text, got "):
            call()


def test_what_is_no_path_of_learning():
    need("torch")
    from histofast import mil

    for given in (None, 3, b"x"):
        with pytest.raises(TypeError, match=r"^features must be a path or several, got"):
            mil.open_bags(given, None)
        with pytest.raises(TypeError, match=r"^path must be a path, got"):
            mil.open_run(given)
        with pytest.raises(TypeError, match=r"^path must be a path, got"):
            learning.read_labels(given, ["a"], task="classification")


def test_paths_and_texts_stay(tmp_path):
    assert path_of("p", str(tmp_path)) == path_of("p", tmp_path) == tmp_path
    assert paths_of("p", str(tmp_path)) == paths_of("p", (tmp_path,)) == [tmp_path]
    assert text_of("name", "a") == "a"
    with pytest.raises(TypeError, match=r"^mask must be a path, got None$"):
        regular_file(None, kind="mask")
