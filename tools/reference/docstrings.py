"""Read descriptions from docstrings in Google style."""

from __future__ import annotations

import inspect
import re

_ENTRY = re.compile(r"    (\w+)(?: \([^)]*\))?: (.*)")
_QUOTED = re.compile(r"(`[^`]*`)")


def attribute_docs(cls: type) -> dict[str, str]:
    """Return the description of each attribute, base classes included, from ``Attributes:`` and ``Args:`` sections."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base.__doc__ and base.__module__.startswith("ecmf_pipeline"):
            docs |= _section_entries(inspect.cleandoc(base.__doc__))
    return docs


def introduction(cls: type) -> str:
    """Return the paragraphs of a class docstring before its sections, as Markdown."""
    text = inspect.cleandoc(cls.__doc__ or "")
    before = re.split(r"^(?:Attributes|Args|Raises|Returns):$", text, maxsplit=1, flags=re.MULTILINE)[0]
    return "\n\n".join(as_markdown(paragraph) for paragraph in before.strip().split("\n\n"))


def as_markdown(text: str) -> str:
    """Return reStructuredText prose on one line as Markdown, with YAML's ``null`` for ``None``."""
    joined = " ".join(text.replace("``", "`").split())
    return "".join(
        part if part.startswith("`") else re.sub(r"\bNone\b", "`null`", part.replace("<", "&lt;"))
        for part in _QUOTED.split(joined)
    )


def table_cell(text: str) -> str:
    """Escape a text for a cell of a Markdown table."""
    return text.replace("|", "\\|")


def _section_entries(docstring: str) -> dict[str, str]:
    entries: dict[str, list[str]] = {}
    inside, name = False, ""
    for line in docstring.splitlines():
        if line and not line.startswith(" "):
            inside, name = line in {"Attributes:", "Args:"}, ""
        elif inside and (match := _ENTRY.fullmatch(line)):
            name = match[1]
            entries[name] = [match[2]]
        elif inside and name and line.startswith("        "):
            entries[name].append(line)
    return {name: as_markdown("\n".join(lines)) for name, lines in entries.items()}
