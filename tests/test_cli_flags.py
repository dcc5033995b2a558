"""Messages name arguments; the command line puts flags for them, and only those that it has."""

from __future__ import annotations

import ast
import doctest
import re
from pathlib import Path

import pytest
import typer

import histofast
from histofast import cli

PACKAGE = Path(histofast.__file__).parent
FLAGS = {"patch_px": "--patch-px", "strict": "--strict", "mpp": "--mpp", "device": "--device"}


def commands(group, path=()):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(commands(typer.main.get_command(cli.app)))
ARGUMENTS = cli.flags.arguments_of(typer.main.get_command(cli.app))


def test_examples():
    assert doctest.testmod(cli.flags).failed == 0


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("patch_px must be at least 1, got 0", "--patch-px must be at least 1, got 0"),
        ("ask for patch_px=224", "ask for --patch-px 224"),
        ("tile 3 is broken (strict=True)", "tile 3 is broken (--strict)"),
        ('take device="cpu"', "take --device cpu"),
        ("a: say overwrite=True", "a"),
        ("a: say overwrite=True, or take another", "a: take another"),
        ("a: take another, or say overwrite=True", "a: take another"),
        ("a: ask for patch_px=224, or label_column=x", "a: ask for --patch-px 224"),
        ("a: name it with label_column", "a"),
        ("label_column must be a column", "label column must be a column"),
        ("no patch has min_tissue of 1", "no patch has least share of tissue of 1"),
        ("tile 3 is broken (overwrite=True)", "tile 3 is broken (overwrite)"),
        ('a: leave it out with missing="skip"', "a"),
        # What looks like a name and is none, or stands for the thing itself.
        ("a/patch_px.h5 was made by something else (mpp: 1, not 2)", None),
        ("mpp of a.tif must be within 0.05..20", None),
        ("ask for a coarser mpp", None),
        ("sha256=ab12 must not be", None),
        ("a: use b, or rename my_file.svs", None),
    ],
)
def test_arguments_become_flags(said, told):
    assert cli.flags.with_flags(said, FLAGS, ARGUMENTS) == (told or said)


def test_a_flag_of_several_spellings_is_called_by_the_first():
    known = cli.flags.flags_of(COMMANDS["extract",])
    assert known["patch_size"] == known["patch_px"] == "--patch-px"
    assert known["overlap_px"] == "--overlap"


def literals(path):
    """Texts of a file as a reader meets them, docstrings left out."""
    tree = ast.parse(path.read_text())
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docs = {
        id(n.body[0].value)
        for n in ast.walk(tree)
        if isinstance(n, documented)
        if ast.get_docstring(n, clean=False)
    }
    joined = [n for n in ast.walk(tree) if isinstance(n, ast.JoinedStr)]
    parts = {id(v) for n in joined for v in n.values}
    for node in joined:
        yield "".join(v.value if isinstance(v, ast.Constant) else "{}" for v in node.values)
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if is_text and id(node) not in docs | parts:
            yield node.value


# Custom properties of CSS look like flags.
LIBRARY = [p for p in sorted(PACKAGE.rglob("*.py")) if not {"cli", "report"} & {*p.parts}]


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_the_command_line_speaks_of_flags(path):
    for text in literals(path):
        # Whole commands are what they are, whoever reads them.
        rest = re.sub(r"`histofast [^`]*`|^histofast .*|--weights \{\} --out.*", "", text)
        rest = re.sub(r"pip (un)?install.*|raw2ometiff --rgb", "", rest)
        assert not re.search(r"(?<![\w-])--[a-z][a-z]", rest), text


MODULES = {command.callback.__module__ for command in COMMANDS.values()}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_command_speaks_of_its_own_flags(module):
    own = {
        option
        for command in COMMANDS.values()
        if command.callback.__module__ == module
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    path = PACKAGE / "cli" / f"{module.rpartition('.')[2]}.py"
    for text in literals(path):
        rest = re.sub(r"`?histofast .*", "", text)
        for flag in re.findall(r"(?<![\w-])--[a-z][a-z0-9_-]*", rest):
            assert flag in own, f"{flag} in {text!r}"


@pytest.mark.parametrize("group", [(), ("study",), ("models",)])
def test_a_group_of_commands_alone_shows_its_help(cli, group):
    """`histofast study` printed its help in one line, as an error."""
    answer, asked = cli(*group), cli(*group, "--help")
    assert (answer.code, answer.err) == (asked.code, asked.err) == (0, [])
    assert answer.out == asked.out
    assert len(answer.out.splitlines()) > 8


# What only Python hands over: no command has an option for it, none passes one on.
PYTHONS = {
    *(
        "block_l0",
        "colour_axes",
        "coords_l0",
        "gram_x",
        "gram_y",
        "input_px",
        "log_risk",
        "packed_a",
        "packed_b",
    ),
    *("rbf_scale", "repeat_px", "slot_of", "statistic_of_rows", "test_share", "tile_px"),
    "unreadable_patches",
}
TABLE = {"tissue_fraction"}  # of feature files
OF_TIMM = {"img_size"}  # `--timm-arg` takes it as timm spells it


def parameters(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            yield from (a.arg for a in (*node.args.args, *node.args.kwonlyargs))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


def fields(path, name):
    """Fields of a class, which a file of options may have."""
    (made,) = (
        n
        for n in ast.parse(path.read_text()).body
        if isinstance(n, ast.ClassDef) and n.name == name
    )
    return {n.target.id for n in made.body if isinstance(n, ast.AnnAssign)}


# A recipe is a TOML file too, where fields are spelt so.
IN_TOML = fields(PACKAGE / "classify" / "recipe.py", "Recipe")
IN_TOML |= fields(PACKAGE / "datasets" / "augmenting.py", "Augmentation")
PARAMETERS = {name for path in LIBRARY for name in parameters(path)}


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_message_has_pythons_words_for_a_command(path):
    """Whichever command a message reaches: it names no argument as Python does."""
    for text in literals(path):
        if " " not in text or re.match(r"<\?xml|import ", text):
            continue
        # Forms that are no flag's: `missing 'skip'`, `kernel='linear'`, `x=True (in Python)`.
        for name in re.findall(r"\b([a-z]\w*)[= ]'\{?\w+", text):
            assert name not in ARGUMENTS, text
        for command, made in COMMANDS.items():
            said = cli.flags.with_flags(
                text.replace("{}", "7"), cli.flags.flags_of(made), ARGUMENTS
            )
            left = {
                *re.findall(r"(?<![\w./-])([a-z]+(?:_[a-z0-9]+)+)(?![\w./(])", said),
                *re.findall(r"(?<![\w./-])([a-z]\w*)=(?:True|False|None|\.\.\.|\")", said),
            }
            assert not left & PARAMETERS - PYTHONS - TABLE - OF_TIMM - IN_TOML, (
                command,
                text,
                said,
            )


OF_CLASSIFY = cli.flags.flags_of(COMMANDS["classify",])


@pytest.mark.parametrize("file", ["classify/recipe.py", "datasets/augmenting.py"])
def test_a_message_on_a_recipe_begins_with_what_has_a_flag(file):
    """Its fields may be of a file or of flags: who has typed a flag must find it in the sentence.

    Fields that are in TOML only are excused above, and hid flags that stood in the same sentence.
    """
    for text in literals(PACKAGE / file):
        subject = re.match(r"(\w+) must\b", text)
        if subject and subject[1] in IN_TOML - set(OF_CLASSIFY):
            assert not {*re.findall(r"[a-z_]+", text)} & IN_TOML & set(OF_CLASSIFY), text
