"""Languages of texts, and the languages that models know.

Codes are those of Whisper: ISO 639-1 (``en``, ``zh``) where it exists. An empty code means an unknown language.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator

_CODE = re.compile(r"[a-z]{2,3}")
_ALIASES = {"yue": "zh", "wuu": "zh", "nb": "no", "nn": "no", "jw": "jv"}
"""Codes of close relatives, which models of the other language read."""

_KNOWN: tuple[tuple[re.Pattern[str], tuple[str, ...] | Literal["all"]], ...] = (
    (re.compile(r"multilingual|xlm|labse|bge-m3|e5_small|mbert|mdeberta|glot500", re.IGNORECASE), "all"),
    (re.compile(r"chinese|[-_]zh\b|\bmacbert|\bernie-3.*zh", re.IGNORECASE), ("zh",)),
    (
        # https://qwenlm.github.io/blog/qwen2.5: "more than 29 languages", of which it lists these
        re.compile(r"qwen", re.IGNORECASE),
        ("zh", "en", "fr", "es", "pt", "de", "it", "ru", "ja", "ko", "vi", "th", "ar"),
    ),
    (re.compile(r"german|gbert|[-_]de\b", re.IGNORECASE), ("de",)),
    (re.compile(r"camembert|flaubert|french", re.IGNORECASE), ("fr",)),
    (re.compile(r"japanese", re.IGNORECASE), ("ja",)),
    (re.compile(r"minilm|all-mpnet|smollm|(^|/)(distil)?(bert|roberta)-(base|large)|[-_]en\b", re.IGNORECASE), ("en",)),
)
"""Languages by parts of the name of a model, according to its authors; the first match counts."""

NAMES = {
    "ar": "Arabic",
    "de": "German",
    "en": "English",
    "es": "Spanish",
    "fr": "French",
    "hi": "Hindi",
    "it": "Italian",
    "ja": "Japanese",
    "ko": "Korean",
    "nl": "Dutch",
    "pl": "Polish",
    "pt": "Portuguese",
    "ru": "Russian",
    "tr": "Turkish",
    "zh": "Chinese",
}
"""English names of common languages, for messages."""


def normalise_code(code: str) -> str:
    """Return the code of a language in lower case, without a region, and with close relatives merged."""
    short = code.strip().lower().replace("_", "-").partition("-")[0]
    return _ALIASES.get(short, short)


def is_code(code: str) -> bool:
    """Return whether a text has the form of a language code."""
    return _CODE.fullmatch(normalise_code(code)) is not None


def _parse_languages(value: object) -> object:
    return (value,) if isinstance(value, str) and value not in {"auto", "all"} else value


def _check_languages(value: tuple[str, ...] | str) -> tuple[str, ...] | str:
    if isinstance(value, str):
        return value
    codes = tuple(dict.fromkeys(map(normalise_code, value)))
    if not codes or not all(map(is_code, codes)):
        raise ValueError("give codes such as [en] or [zh, en], or all, or auto")
    return codes


Languages = Annotated[
    tuple[str, ...] | Literal["all", "auto"], BeforeValidator(_parse_languages), AfterValidator(_check_languages)
]
"""The languages that a model knows: codes, ``all``, or ``auto``: those of `languages_of_model`."""


def languages_of_model(name: str) -> tuple[str, ...] | None:
    """Return the languages that the authors of a model state; None if every language, or if they are not known here.

    Args:
        name: An id on the model hub, or a folder, whose name then counts.
    """
    known = _match(name)
    return known if isinstance(known, tuple) else None


def is_documented(name: str) -> bool:
    """Return whether the languages of a model are known from its name."""
    return _match(name) is not None


def _match(name: str) -> tuple[str, ...] | Literal["all"] | None:
    short = Path(name).name if Path(name).is_dir() or name.startswith(("/", ".", "data/")) else name
    return next((languages for pattern, languages in _KNOWN if pattern.search(short)), None)


def known_languages(languages: Languages, model: str) -> frozenset[str] | None:
    """Return the codes of the languages that a model knows; None for every language, or if they are unknown.

    Args:
        languages: The value in params.
        model: An id on the model hub, or a folder.
    """
    resolved = languages_of_model(model) if languages == "auto" else languages
    return None if resolved is None or resolved == "all" else frozenset(resolved)


def is_foreign(code: str, known: frozenset[str] | None) -> bool:
    """Return whether a language is known, and is none of the languages of a model; None stands for every language."""
    return bool(code) and known is not None and normalise_code(code) not in known


def format_language(code: str) -> str:
    """Format a language for messages: ``German (de)``, or the code alone."""
    return f"{NAMES[code]} ({code})" if code in NAMES else code


def format_languages(codes: Iterable[str]) -> str:
    """Format the languages that a model knows for messages."""
    return ", ".join(sorted(codes))


def count_foreign(counts: Mapping[str, int], known: frozenset[str] | None) -> dict[str, int]:
    """Return the counts of the languages that a model does not know, the most frequent first."""
    foreign = {code: number for code, number in counts.items() if is_foreign(code, known)}
    return dict(sorted(foreign.items(), key=lambda entry: (-entry[1], entry[0])))
