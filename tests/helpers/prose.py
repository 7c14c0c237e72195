"""Words per sentence and semicolons of the project's Markdown: a look, not a limit.

    python -m tests.helpers.prose              # a line per file, and the total
    python -m tests.helpers.prose --long 25    # each sentence of more than 25 words, too

Only prose counts: paragraphs and list items. Code, headings, and tables are left out of the words, and tables count for
semicolons only.
"""

from __future__ import annotations

import argparse
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_RECORDS = ("CHANGELOG.md", "tests/benchmarks/results/", "tests/chaos/results/")
"""What happened, as it was written down then. Not rewritten, so not counted."""

_FENCE = re.compile(r"^( *)(```|~~~).*?^\1\2[ \t]*$", re.MULTILINE | re.DOTALL)
_INLINE_CODE = re.compile(r"(`+)(?:(?!\1).)+?\1", re.DOTALL)
_IMAGE = re.compile(r"!\[[^\]]*\]\([^)]*\)")
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
_HTML = re.compile(r"<!--.*?-->|</?[a-z][^>]*>", re.DOTALL | re.IGNORECASE)
_ENTITY = re.compile(r"&#?\w+;")
_ITEM = re.compile(r"^\s*(?:[-*+]|\d+\.)\s+(?:\[[ x]\] )?")
_END = re.compile(r"(?<=[.!?])[*_)\"']*\s+(?=[A-Z0-9*_(\"'`]|code\b)")
_WORD = re.compile(r"\w[\w'’./%-]*")


@dataclass(frozen=True, kw_only=True)
class Prose:
    """The sentences of one file, and how many semicolons stand outside its code."""

    sentences: tuple[str, ...]
    num_semicolons: int

    @property
    def num_words(self) -> int:
        """Of all sentences; code in a sentence is one word."""
        return sum(map(num_words, self.sentences))


def num_words(sentence: str) -> int:
    """Words of a sentence."""
    return len(_WORD.findall(sentence))


def read_prose(markdown: str) -> Prose:
    """The prose of a Markdown text."""
    text = _FENCE.sub("\n", markdown)
    text = _INLINE_CODE.sub("code", text)
    text = _ENTITY.sub(" ", _HTML.sub("", _LINK.sub(r"\1", _IMAGE.sub("", text))))
    sentences = [sentence for block in _blocks(text) for sentence in _sentences(block)]
    return Prose(sentences=tuple(sentences), num_semicolons=text.count(";"))


def _blocks(text: str) -> list[str]:
    """Paragraphs and list items, each on one line."""
    blocks: list[list[str]] = [[]]
    for line in text.splitlines():
        bare = line.strip().lstrip("> ")
        if not bare or bare.startswith(("#", "|", "---", "===")):
            blocks.append([])
        elif _ITEM.match(line):
            blocks.append([_ITEM.sub("", line).strip()])
        elif line.startswith("    ") and not blocks[-1]:
            continue  # indented code
        else:
            blocks[-1].append(bare)
    return [" ".join(lines) for lines in blocks if lines]


def _sentences(block: str) -> list[str]:
    return [sentence for part in _END.split(block) if num_words(sentence := part.strip())]


def pages() -> list[Path]:
    """Every Markdown file that git tracks or would track, except dated records."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    return [ROOT / name for name in sorted(set(listed)) if not name.startswith(_RECORDS) and (ROOT / name).is_file()]


def main() -> None:
    """Print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, help="default: all Markdown files of the project")
    parser.add_argument("--long", type=int, metavar="N", help="also print each sentence of more than N words")
    options = parser.parse_args()
    read = {path: read_prose(path.read_text()) for path in options.files or pages()}
    print("words  sentences  words/sentence  semicolons  file")
    for path, prose in read.items():
        name = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
        print(_line(prose.num_words, len(prose.sentences), prose.num_semicolons, name))
        for sentence in prose.sentences:
            if options.long is not None and num_words(sentence) > options.long:
                print(f"    {num_words(sentence)} words: {sentence}")
    total = (
        sum(prose.num_words for prose in read.values()),
        sum(len(prose.sentences) for prose in read.values()),
        sum(prose.num_semicolons for prose in read.values()),
    )
    print(_line(*total, "all prose (aim: 18 words per sentence, no semicolons)"))


def _line(num_words: int, num_sentences: int, num_semicolons: int, name: str) -> str:
    mean = num_words / num_sentences if num_sentences else 0.0
    return f"{num_words:5,}  {num_sentences:9,}  {mean:14.1f}  {num_semicolons:10,}  {name}"


if __name__ == "__main__":
    main()
