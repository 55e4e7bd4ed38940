"""Pages of the documentation, their fenced blocks, and the commands in them."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]

_BLOCK = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")
_SEPARATORS = {"&&", "||", ";", "|"}
SHELLS = {"sh", "bash", "shell"}
PROGRAMS = ("ecmf-pipe", "dvc", "make", "python")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block.

    Attributes:
        page: The path of its page, relative to the repository.
        language: The language after the fence.
        text: Its content, dedented.
    """

    page: str
    language: str
    text: str


@dataclass(frozen=True, slots=True)
class Command:
    """A command line.

    Attributes:
        page: The path of its page, relative to the repository.
        words: The program and its arguments.
        complete: Whether it is in a shell block; else it is quoted in the text and may lack arguments.
    """

    page: str
    words: tuple[str, ...]
    complete: bool

    def __str__(self) -> str:
        return f"{self.page}: {shlex.join(self.words)}"


def pages(*, decisions: bool = False) -> list[Path]:
    """Return README.md and all pages of docs/; decision records, which describe past code, only on request."""
    found = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
    return [page for page in found if decisions or page.parent.name != "adr"]


def blocks(*languages: str) -> list[Block]:
    """Return the fenced blocks of some languages of all pages."""
    return [
        Block(page.relative_to(REPOSITORY).as_posix(), match["language"], textwrap.dedent(match["text"]))
        for page in pages()
        for match in _BLOCK.finditer(page.read_text(encoding="utf-8"))
        if match["language"] in languages
    ]


def commands(program: str) -> list[Command]:
    """Return the commands of a program, in shell blocks and in inline code."""
    found = [
        Command(block.page, words, complete=True)
        for block in blocks(*SHELLS)
        for words in split_commands(block.text)
        if words[0] == program
    ]
    for page in pages():
        text = _BLOCK.sub("", page.read_text(encoding="utf-8"))
        for code in _INLINE.findall(text):
            if code.split()[0:1] == [program] and len(code.split()) > 1:
                words = tuple(word.strip("[]") for word in code.split())
                found.append(Command(page.relative_to(REPOSITORY).as_posix(), words, complete=False))
    return list(dict.fromkeys(found))


def split_commands(script: str) -> Iterator[tuple[str, ...]]:
    """Yield the words of each command of a shell script, without comments, assignments and prompts."""
    for line in script.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for token in [*lexer, ";"]:
            if token not in _SEPARATORS:
                words.append(token)
                continue
            while words and re.fullmatch(r"\w+=.*", words[0]):
                del words[0]
            if words:
                yield tuple(words)
            words = []
