"""Names of timm's models with arguments: one text for one network, without timm."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extras import need

need("torch")

from histofast import networks
from histofast.errors import ModelError

NUMBERS = st.one_of(
    st.booleans(), st.integers(-9, 10**6), st.floats(allow_nan=False, allow_infinity=False)
)
VALUES = st.one_of(NUMBERS, st.text(max_size=12), st.lists(NUMBERS, max_size=3).map(tuple))
KEYS = st.sampled_from(["img_size", "depth", "reg_tokens", "act_layer", "depths"])


@given(st.dictionaries(KEYS, VALUES))
def test_a_name_says_its_arguments_again(arguments):
    name = networks.timm_name("timm:net", arguments)
    assert networks.timm_name(name, None) == name
    turned = dict(reversed(arguments.items()))
    assert networks.timm_name("timm:net", turned) == name
    # Argument by argument it is the same name.
    built = "timm:net"
    for key, value in arguments.items():
        built = networks.timm_name(built, {key: value})
    assert built == name


def test_names_are_told_apart():
    assert networks.timm_name("timm:net", {"depth": 1}) != networks.timm_name(
        "timm:net", {"depth": True}
    )
    assert networks.timm_name("timm:net", {"depths": [1]}) == "timm:net(depths=(1,))"
    stems = {networks.stem_of(f"timm:net(depth={i})") for i in range(50)}
    assert len(stems) == 50
    assert networks.stem_of("resnet18-slim-layer2-2") == "resnet18-slim-layer2-2"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("224", 224),
        ("1e-5", 1e-5),
        ("true", True),
        ("False", False),
        ("SwiGLUPacked", "SwiGLUPacked"),
        ("cls+mean", "cls+mean"),
        ('"token"', "token"),
        ("'token'", "token"),
        ("", ""),
        ("[2, 2, 6]", [2, 2, 6]),
        ("(96, 96)", (96, 96)),
        ("None", None),
    ],
)
def test_values_of_a_command_line(text, value):
    found = networks.timm_args_of([f"key={text}"])["key"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--network", "timm:net(depth=2,act_layer='SiLU')=w=1.pth"],
            "histofast: no such weights file of timm:net(depth=2,act_layer='SiLU'): w=1.pth",
        ),
        (
            ["--network", "resnet18={file}", "--timm-arg", "depth=2"],
            "histofast: --timm-arg must come with a network of timm, timm:NAME=WEIGHTS",
        ),
    ],
)
def test_commands_with_networks_and_arguments(cli, tmp_path, arguments, message):
    file = tmp_path / "w.pth"
    file.write_bytes(b"x")
    given = [text.format(file=file) for text in arguments]
    sets = ["--patches", str(file), "--labels", str(file), "--out", str(tmp_path / "s")]
    assert cli("study", "truncation", *given, *sets).err == [message]


def test_arguments_without_a_network(cli, tmp_path):
    done = cli("similarity", "--a", "a.pth", "--b", "b.pth", "--timm-arg", "depth=2")
    assert done.err == ["histofast: --timm-arg must come with --network, got none: timm:NAME"]


def test_a_date_is_no_argument():
    with pytest.raises(TypeError, match="timm_args must be numbers, flags, texts or several"):
        networks.timm_name("timm:net", networks.timm_args_of(["key=2020-01-01"]))


@pytest.mark.parametrize(
    "name", ["timm:net(", "timm:net()", "timm:net(**x)", "timm:net(a=1" + ")" * 3000]
)
def test_no_such_name(name):
    with pytest.raises(ModelError, match="network must be called timm:NAME or timm:NAME"):
        networks.timm_name(name, None)
