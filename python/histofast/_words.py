"""Words of messages and of what commands print: one line, near names, durations, counts, lists."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Sequence

_SHOWN = 3  # names of a list
_WIDEST = 100  # characters of each
# Format characters that words are written with: joiners of Persian and Indian scripts and of
# emoji, and the signs of Arabic, Syriac and Kaithi that stand before a number.
_OF_WORDS = frozenset(
    "\u200c\u200d\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2"
    "\U000110bd\U000110cd"
)
# Of addresses: a user with a password; what follows the path of a web page, where signatures are.
_USER = re.compile(r"\b([a-z][a-z0-9+.-]*:/{1,2})[^\s/'\"]*@", re.IGNORECASE)
_QUERY = re.compile(r"\b(https?:/{1,2}[^\s?#'\"]*)[?#][^\s'\"]*", re.IGNORECASE)
_STEERING = frozenset(["Cc", "Cf", "Cs", "Zl", "Zp"])  # categories of Unicode


def printable(text: str, *, encoding: str | None = None, keep: str = "") -> str:
    r"""Return a text with what could steer a terminal or hide shown as JSON escapes it.

    That is: control characters with line ends, escapes and tabs, marks of direction, characters
    without width that no word needs, and bytes of file names that are no text. Letters of all
    scripts stay.

    Args:
        text: a name or message of the outside world.
        encoding: of the terminal; letters that it lacks are escaped too.
        keep: characters that stay in any case.

    Example:
        >>> print(printable("caf\u00e9 \u001b[31mred.svs"), printable("\u00e9", encoding="ascii"))
        café \u001b[31mred.svs \u00e9
    """
    if encoding is None and text.isprintable():
        return text
    return "".join(
        each if each in keep or _is_shown(each, encoding) else json.dumps(each)[1:-1]
        for each in text
    )


def _is_shown(character: str, encoding: str | None) -> bool:
    if unicodedata.category(character) in _STEERING and character not in _OF_WORDS:
        return False
    return encoding is None or bool(character.encode(encoding, "ignore"))


def without_secrets(text: str) -> str:
    """Return a text, such as a command, with the addresses in it as they may be shown.

    Example:
        >>> without_secrets("read https://me:hunter2@host/x.svs?X-Amz-Signature=ab12 now")
        'read https://host/x.svs now'
    """
    return _QUERY.sub(r"\1", _USER.sub(r"\1", text))


def text_of(name: str, value: object) -> str:
    """Return an argument that is a text.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a text, got {value!r}")
    return value


def one_line(what: object) -> str:
    """Return a name, message or error of the outside world without line ends.

    An error that says nothing gives its type, one of the operating system what went wrong where.
    """
    if isinstance(what, OSError) and what.strerror:  # without its [Errno 13]
        what = f"{what.filename}: {what.strerror}" if what.filename else what.strerror
    return " ".join(str(what).split()) or type(what).__name__


def first_line(error: BaseException) -> str:
    """Return the first line of an error of a library that writes pages, or its type."""
    lines = (line.strip() for line in str(error).splitlines())
    return next(filter(None, lines), type(error).__name__)


def clipped(text: str, width: int) -> str:
    """Return at most `width` characters of a text, with dots where some are left out."""
    return text if len(text) <= width else text[: width - 3] + "..."


def did_you_mean(got: str, known: Iterable[str]) -> str:
    """Return `: did you mean a or b?`, the end of a message, or nothing if no name is near.

    Example:
        >>> did_you_mean("resnet5O", ["resnet50", "vgg16"])
        ': did you mean resnet50?'
    """
    import difflib  # not before somebody has mistyped

    near = difflib.get_close_matches(got, list(known), n=3)
    return f": did you mean {' or '.join(near)}?" if near else ""


def duration(seconds: float) -> str:
    """Return `3.2 s`, `45 s`, `12 min`, `5.0 h`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def count(n: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun.

    Args:
        n: the number.
        one: the noun.
        many: its plural; what English does with most nouns when None.

    Example:
        >>> count(1, "patch"), count(2, "patch"), count(0, "slide"), count(3, "mouse", "mice")
        ('1 patch', '2 patches', '0 slides', '3 mice')
    """
    if n == 1:
        return f"{n} {one}"
    return f"{n} {many or one + ('es' if one.endswith(('ch', 'sh', 's', 'x')) else 's')}"


def listed(names: Sequence[str], *, most: int = _SHOWN) -> str:
    """Return the first few names, the long ones cut short, and how many more there are.

    Example:
        >>> listed(["a", "b"]), listed(["a", "b", "c", "d", "e"])
        ('a, b', 'a, b, c and 2 more')
    """
    more = len(names) - most
    shown = (clipped(printable(one_line(name)), _WIDEST) for name in names[:most])
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def joined(names: Sequence[str]) -> str:
    """Return names as a sentence has them.

    Example:
        >>> joined(["a"]), joined(["a", "b", "c"])
        ('a', 'a, b and c')
    """
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def counted(names: Sequence[str], *, most: int = _SHOWN) -> str:
    """Return how many names there are, and the first few.

    Example:
        >>> counted(["a", "b", "c", "d"])
        '4 (a, b, c, ...)'
    """
    return f"{len(names)} ({', '.join(names[:most])}{', ...' if len(names) > most else ''})"
