"""Ask every address that README, the pages, notebooks and the registry of weights link to whether it answers.

    python scripts/links.py           # needs a network; exits 1 where one is gone
    python scripts/links.py --list    # the addresses alone

Not in CI: others' servers are no property of a change. tests/test_release.py looks at the form of each.
Servers that refuse programs (401, 403, 429) are listed for a look by hand.
"""

from __future__ import annotations

import argparse
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

ROOT = Path(__file__).resolve().parent.parent
# A host with a dot: `https://host/x.svs` and `https://` in a sentence are words. A full stop ends the sentence.
_LINK = re.compile(r"""https?://[\w-]+(?:\.[\w-]+)+(?::\d+)?(?:/[^\s<>"'`|\\]*)?""")
_CODE = re.compile(r"^```.*?^```|^ {4}[^\n]*$|`[^`]*`", re.MULTILINE | re.DOTALL)
_REFUSES_PROGRAMS = (401, 403, 429)
_WAIT_S = 20


def links_of(text: str) -> list[str]:
    """Return the addresses in a text, without what closes the sentence or the bracket around them."""
    found = []
    for link in _LINK.findall(text):
        while link[-1] in ".,;:" or (link[-1] == ")" and link.count(")") > link.count("(")):
            link = link[:-1]
        found.append(link)
    return found


def external_links(root: Path = ROOT) -> dict[str, list[str]]:
    """Return each address with the files that link to it; examples in code are none."""
    pages = [*root.glob("*.md"), *(root / "docs").rglob("*.md"), *(root / "models").glob("*.md")]
    texts = {page: _CODE.sub("", page.read_text(encoding="utf-8")) for page in pages}
    whole = [
        root / "CITATION.cff",
        root / "models/registry.toml",
        *(root / "docs").rglob("*.ipynb"),
    ]
    texts |= {path: path.read_text(encoding="utf-8") for path in whole}
    links: dict[str, list[str]] = {}
    for path, text in sorted(texts.items()):
        for link in dict.fromkeys(links_of(text)):
            links.setdefault(link, []).append(str(path.relative_to(root)))
    return links


def answer_of(link: str) -> str:
    """Return "" for an address that answers, and else what happened."""
    for method in ("HEAD", "GET"):  # some servers know no HEAD
        asked = Request(
            link, method=method, headers={"User-Agent": "Mozilla/5.0 (histofast links)"}
        )
        try:
            with urlopen(asked, timeout=_WAIT_S):
                return ""
        except HTTPError as error:
            said = f"{error.code} {error.reason}"
            if error.code in _REFUSES_PROGRAMS:
                break
        except (OSError, HTTPException, ValueError) as error:
            return str(error) or type(error).__name__
    return said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--list", action="store_true", help="the addresses alone")
    links = external_links()
    if parser.parse_args().list:
        sys.stdout.writelines(f"{link}\t{', '.join(files)}\n" for link, files in links.items())
        return 0
    with ThreadPoolExecutor(8) as pool:
        answers = dict(zip(links, pool.map(answer_of, links), strict=True))
    bad = {link: answer for link, answer in answers.items() if answer}
    sys.stdout.writelines(
        f"{said}: {link} ({', '.join(links[link])})\n" for link, said in bad.items()
    )
    by_hand = [said for said in bad.values() if said.startswith(tuple(map(str, _REFUSES_PROGRAMS)))]
    gone = len(bad) - len(by_hand)
    sys.stdout.write(
        f"{len(links)} addresses, {gone} do not answer, {len(by_hand)} to look at by hand\n"
    )
    return 1 if gone else 0


if __name__ == "__main__":
    sys.exit(main())
