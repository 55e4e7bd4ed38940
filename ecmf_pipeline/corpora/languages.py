"""Detect the language of transcripts: by script, and by a mixture over the whole corpus.

The language of a short utterance ("Oh no!") is uncertain. py3langid gives a probability of each language for each text;
the shares of the languages in the corpus, fitted by expectation maximisation, are the prior. A text is then in another
language than its corpus only if its script, or a high probability, shows it.
"""

from __future__ import annotations

import hashlib
import io
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.clips import Clip, Clips
from ecmf_pipeline.core.files import fingerprint, write_atomic
from ecmf_pipeline.core.languages import normalise_code

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

_SCRIPTS = {
    "ARABIC": "ar fa ps sd ur",
    "ARMENIAN": "hy",
    "BENGALI": "as bn",
    "CJK": "ja zh",
    "CYRILLIC": "ba be bg kk mk mn ru sr tg tt uk",
    "DEVANAGARI": "hi mr ne sa",
    "ETHIOPIC": "am",
    "GEORGIAN": "ka",
    "GREEK": "el",
    "GUJARATI": "gu",
    "GURMUKHI": "pa",
    "HANGUL": "ko",
    "HEBREW": "he yi",
    "KANA": "ja",
    "KANNADA": "kn",
    "KHMER": "km",
    "LAO": "lo",
    "LATIN": (
        "af az bs ca cs cy da de en es et eu fi fo fr gl ha hr ht hu id is it la lb ln lt lv mg ms mt nl no oc pl pt "
        "ro sk sl sn so sq sr sv sw tk tl tr uz vi yo br"
    ),
    "MALAYALAM": "ml",
    "MYANMAR": "my",
    "SINHALA": "si",
    "TAMIL": "ta",
    "TELUGU": "te",
    "THAI": "th",
    "TIBETAN": "bo",
}
"""The languages of each script, by the first word of the Unicode names of its letters.

These are the languages that Whisper recognises. py3langid knows more, but rare ones win on interjections.
"""

_LANGUAGES = tuple(sorted({code for codes in _SCRIPTS.values() for code in codes.split()}))
_COLUMN = {code: column for column, code in enumerate(_LANGUAGES)}
_LETTERS_IN_A_WORD = 3
"""A character of Chinese, Japanese or Korean counts as this many letters against those of other scripts."""
_ITERATIONS = 50
_LEAST_PROBABILITY = 1e-6
"""Of a language that is written in the script of a text; float16 has no smaller numbers of full precision."""
_SAMPLED_TRANSLATIONS = 200
_LEAST_SHARE = 1e-4
"""Smallest prior of a language; from 1e-3 to 1e-6 it made no difference on MELD with and without 1% other languages."""


def detect_languages(
    texts: Sequence[str], prior: Mapping[str, int] | None = None, *, cache_path: Path | None = None
) -> list[str]:
    """Return the language code of each text, "" for texts without letters.

    Args:
        texts: Transcripts of one corpus, (n,).
        prior: Number of texts by language in a larger corpus of which these are a part; None: fitted to the texts.
        cache_path: File with the probabilities of earlier texts, which may be missing or deleted; None: no cache.
    """
    scripts = {text: _script(text) for text in dict.fromkeys(texts)}
    scored = [text for text, script in scripts.items() if script]
    if not scored:
        return [""] * len(texts)
    known = _read_cache(cache_path)
    keys = [_key(text) for text in scored]
    missing = [(key, text) for key, text in zip(keys, scored, strict=True) if key not in known]
    known |= {key: _probabilities(text, scripts[text]) for key, text in missing}
    probs = np.stack([known[key] for key in keys])  # (m, L)
    if cache_path is not None and missing:
        _write_cache(cache_path, keys, probs)
    shares = _fitted_shares(probs.astype(np.float64)) if prior is None else _shares(prior)
    codes = [_LANGUAGES[column] for column in (probs * shares).argmax(axis=1)]
    code_of = dict(zip(scored, codes, strict=True))
    return [code_of.get(text, "") for text in texts]


def with_languages(clips: Sequence[Clip], language: str, *, cache_path: Path | None = None) -> tuple[Clip, ...]:
    """Return the clips with the language of their transcripts.

    Args:
        clips: All clips of the corpus.
        language: A code, or ``auto``: a language that is already known is kept, others are detected by
            `detect_languages`.
        cache_path: See `detect_languages`.
    """
    if language != "auto":
        return tuple(replace(clip, language=language if clip.transcript.strip() else "") for clip in clips)
    codes = detect_languages([clip.transcript for clip in clips], cache_path=cache_path)
    return tuple(
        clip if clip.language or not code else replace(clip, language=code)
        for clip, code in zip(clips, codes, strict=True)
    )


def translation_language(clips: Sequence[Clip]) -> str:
    """Return the most frequent language of the translations, by a sample of them; "" without translations."""
    columns = Clips.of(clips)
    texts = columns.where(columns.is_not_blank("translation")).column("translation").tolist()
    sample = texts[:: max(1, len(texts) // _SAMPLED_TRANSLATIONS)]
    return next(iter(count_languages(detect_languages(sample))), "")


def count_languages(codes: Sequence[str]) -> dict[str, int]:
    """Count known language codes, the most frequent first."""
    counts = Counter(filter(None, codes))
    return dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))


def _fitted_shares(probs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the shares of the languages in a mixture, (L,), fitted to probabilities, (m, L).

    They are the maximum of the posterior whose prior equals one further English text: it decides for a few short texts.
    """
    shares = np.full(probs.shape[1], 1 / probs.shape[1])
    english = np.arange(len(_LANGUAGES)) == _COLUMN["en"]
    for _ in range(_ITERATIONS):
        weighted = probs * shares
        counts = (weighted / weighted.sum(axis=1, keepdims=True)).sum(axis=0) + english
        shares = counts / counts.sum()
    floored: NDArray[np.float64] = np.maximum(shares, _LEAST_SHARE)
    return floored


def _shares(prior: Mapping[str, int]) -> NDArray[np.float64]:
    shares = np.zeros(len(_LANGUAGES))
    for code, number in prior.items():
        if code in _COLUMN:
            shares[_COLUMN[code]] += number
    floored: NDArray[np.float64] = np.maximum(shares / max(1.0, shares.sum()), _LEAST_SHARE)
    return floored


def _probabilities(text: str, script: str) -> NDArray[np.float16]:
    """Return the probability of each language that is written in a script, (L,); the others have zero."""
    codes = _SCRIPTS[script].split()
    probs = np.where(np.isin(_LANGUAGES, codes), _LEAST_PROBABILITY, 0.0)
    for label, probability in _identifier(script).rank(text) if len(codes) > 1 else ():
        probs[_COLUMN[normalise_code(label)]] += probability
    return probs.astype(np.float16)


@cache
def _identifier(script: str) -> LanguageIdentifier:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # loads 5 MB, only if there are texts

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    codes = set(_SCRIPTS[script].split())
    identifier.set_languages([label for label in identifier.labels if normalise_code(label) in codes])
    return identifier


def _key(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _read_cache(path: Path | None) -> dict[int, NDArray[np.float16]]:
    """Return the cached probabilities by key; empty if the file is missing, damaged or of another detector."""
    if path is None:
        return {}
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            if str(arrays["detector"]) != _detector():
                return {}
            return dict(zip(arrays["keys"].tolist(), arrays["probs"], strict=True))
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return {}


def _write_cache(path: Path, keys: Sequence[int], probs: NDArray[np.float16]) -> None:
    content = io.BytesIO()
    np.savez(content, detector=np.array(_detector()), keys=np.array(keys, np.uint64), probs=probs)
    with suppress(OSError):  # the next run computes them again
        write_atomic(path, content.getvalue())


def forget_texts(path: Path, texts: Collection[str], *, dry_run: bool = False) -> int:
    """Remove texts from the cache of `detect_languages`; return how many it had."""
    known = _read_cache(path)
    found = known.keys() & {_key(text) for text in texts}
    if found and not dry_run:
        left = [key for key in known if key not in found]
        probs = np.stack([known[key] for key in left]) if left else np.empty((0, len(_LANGUAGES)), np.float16)
        _write_cache(path, left, probs)
    return len(found)


def _detector() -> str:
    """Return the version of everything that the probabilities depend on."""
    return f"py3langid {version('py3langid')} {fingerprint(_SCRIPTS)}"


def _script(text: str) -> str:
    """Return the script of most letters of a text, "" if it has no letters of a known script."""
    if text.isascii():
        return "LATIN" if any(map(str.isalpha, text)) else ""
    counts = Counter(map(_script_of_letter, text))
    del counts[""]
    for script in ("CJK", "KANA", "HANGUL"):
        counts[script] *= _LETTERS_IN_A_WORD
    if counts["KANA"]:  # Japanese mixes both
        counts["KANA"] += counts.pop("CJK")
    script, number = counts.most_common(1)[0] if counts else ("", 0)
    return script if number else ""


@cache
def _script_of_letter(letter: str) -> str:
    if not letter.isalpha():
        return ""
    word = unicodedata.name(letter, "").partition(" ")[0]
    script = {"HIRAGANA": "KANA", "KATAKANA": "KANA", "HALFWIDTH": "KANA", "FULLWIDTH": "LATIN"}.get(word, word)
    return script if script in _SCRIPTS else ""
