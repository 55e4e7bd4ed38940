"""Count four habits of roundabout English per 1,000 words; exit with code 1 if one is above its limit.

``python -m tools.plain_english`` prints a table, ``--list`` each occurrence with file and line. `make lint` runs it.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

HABITS = {
    "what is/are/the": (re.compile(r"\bwhat (?:is|are|the)\b", re.IGNORECASE), 0.5),
    "where it/the/no": (re.compile(r"\bwhere (?:it|the|no)\b", re.IGNORECASE), 1.0),
    "say, tell": (re.compile(r"\b(?:say|says|said|saying|tell|tells|told|telling)\b", re.IGNORECASE), 0.5),
    "stand": (re.compile(r"\b(?:stand|stands|stood|standing)\b", re.IGNORECASE), 0.5),
}
"""Pattern of each habit, and the most occurrences allowed per 1,000 words."""

PROSE_STRING = re.compile(r"[A-Za-z]+(?:[ ,]+[A-Za-z{}']+){3,}")
"""A string literal of at least four words in a row is read by people."""

_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_INLINE_CODE = re.compile(r"`[^`\n]*`")


class Text(NamedTuple):
    """A piece of prose: the group it counts in, its file, its first line, its words."""

    group: str
    path: Path
    line: int
    text: str


def python_texts(path: Path, *, package: bool) -> Iterator[Text]:
    """Yield docstrings, comments and prose strings of a Python file."""
    source = path.read_text(encoding="utf-8")
    suffix = "" if package else " of tests and tools"
    documented: set[int] = set()
    tree = ast.parse(source)
    for node in ast.walk(tree):
        for statement in getattr(node, "body", None) or () if not isinstance(node, ast.Lambda | ast.IfExp) else ():
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                value = statement.value
                if isinstance(value.value, str):
                    documented.add(id(value))
                    yield Text(f"docstrings{suffix}", path, value.lineno, value.value)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documented:
            message = Text(f"messages{suffix}", path, node.lineno, node.value)
            if PROSE_STRING.search(message.text):
                yield message
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield Text(f"docstrings{suffix}", path, token.start[0], token.string.lstrip("# "))


def yaml_comments(path: Path) -> Iterator[Text]:
    """Yield the comments of a YAML file."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        _, found, comment = line.partition("#")
        if found:
            yield Text("docs", path, number, comment)


def markdown_prose(path: Path) -> Iterator[Text]:
    """Yield the lines of a Markdown file, without code."""
    group = "README" if path.name == "README.md" else "docs"
    text = _FENCE.sub(lambda fence: "\n" * fence.group().count("\n"), path.read_text(encoding="utf-8"))
    for number, line in enumerate(text.splitlines(), 1):
        yield Text(group, path, number, _INLINE_CODE.sub("", line))


def project_texts(root: Path) -> Iterator[Text]:
    """Yield all prose of the repository."""
    for folder in ("ecmf_pipeline", "tests", "tools"):
        for path in sorted((root / folder).rglob("*.py")):
            if path != Path(__file__).resolve():  # it names the habits
                yield from python_texts(path, package=folder == "ecmf_pipeline")
    for path in [*sorted(root.glob("*.md")), *sorted((root / "docs").rglob("*.md"))]:
        yield from markdown_prose(path)
    for path in [*sorted(root.glob("*.yaml")), *sorted((root / "ecmf_pipeline/settings/presets").glob("*.yaml"))]:
        yield from yaml_comments(path)


def count(texts: Iterable[Text]) -> tuple[Counter[str], dict[str, list[tuple[str, Text, str]]]]:
    """Return the words of each group, and its occurrences as (habit, text, match)."""
    words: Counter[str] = Counter()
    occurrences: dict[str, list[tuple[str, Text, str]]] = {}
    for text in texts:
        words[text.group] += len(re.findall(r"[A-Za-z][\w'-]*", text.text))
        for habit, (pattern, _) in HABITS.items():
            for match in pattern.finditer(" ".join(text.text.split())):
                start = max(match.start() - 30, 0)
                excerpt = " ".join(text.text.split())[start : match.end() + 30]
                occurrences.setdefault(text.group, []).append((habit, text, excerpt))
    return words, occurrences


def write_line(line: str) -> None:
    """Write a line to standard output."""
    sys.stdout.write(f"{line}\n")


def main() -> None:
    """Print the table, or each occurrence; exit with code 1 above a limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="print each occurrence")
    parser.add_argument("paths", nargs="*", help="with --list: only files whose path contains one of these")
    options = parser.parse_args()
    root = Path(__file__).resolve().parents[1]
    words, occurrences = count(project_texts(root))
    if options.list:
        for group, entries in occurrences.items():
            for habit, text, excerpt in entries:
                path = text.path.relative_to(root).as_posix()
                if not options.paths or any(part in path for part in options.paths):
                    write_line(f"{path}:{text.line}: {group}: {habit}: ...{excerpt}...")
        return
    too_many = False
    write_line(f"{'':32}{'words':>8}" + "".join(f"{habit:>18}" for habit in HABITS))
    for group in sorted(words):
        found = Counter(habit for habit, _, _ in occurrences.get(group, ()))
        rates = {habit: 1000 * found[habit] / max(words[group], 1) for habit in HABITS}
        too_many |= any(rates[habit] >= limit for habit, (_, limit) in HABITS.items())
        write_line(f"{group:32}{words[group]:8}" + "".join(f"{rates[habit]:18.2f}" for habit in HABITS))
    if too_many:
        write_line("error: too many per 1,000 words\nhint: rewrite the sentences that this lists:")
        write_line("  python -m tools.plain_english --list")
        sys.exit(1)


if __name__ == "__main__":
    main()
