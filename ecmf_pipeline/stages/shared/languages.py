"""Texts in languages that the text encoder or the LLM does not know: which they are, and notes for the user."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip, Clips
from ecmf_pipeline.core.console import format_count
from ecmf_pipeline.core.files import read_sealed_json
from ecmf_pipeline.core.languages import count_foreign, format_language, format_languages, is_foreign
from ecmf_pipeline.corpora.languages import detect_languages
from ecmf_pipeline.encoders.base_config import TextColumn
from ecmf_pipeline.settings.params import Params


def foreign_columns(params: Params, clips: Sequence[Clip]) -> list[tuple[TextColumn, ...]]:
    """Return the texts of each clip that the text encoders in use do not know, and that params do not keep.

    An enriched transcript is in the language of its transcript.

    Args:
        params: The params of the project.
        clips: The clips of the corpus with all known transcripts.
    """
    if params.corpus.foreign_text == "keep":
        return [()] * len(clips)
    languages: dict[TextColumn, Sequence[str]] = {}
    spoken = _languages(params, clips)
    for column in sorted(params.text_columns):
        if params.known_languages(column) is not None:
            languages[column] = _translation_languages(clips) if column == "translation" else spoken
    return [
        tuple(column for column, codes in languages.items() if is_foreign(codes[row], params.known_languages(column)))
        for row in range(len(clips))
    ]


def _language(params: Params, clip: Clip) -> str:
    """Return the language in params if it is set there, else that of the clip."""
    return clip.language if params.corpus.language == "auto" else params.corpus.language


def _translation_languages(clips: Sequence[Clip]) -> list[str]:
    translations = Clips.of(clips).column("translation").tolist()
    return detect_languages(translations, cache_path=paths.TRANSLATION_LANGUAGE_CACHE)


def _languages(params: Params, clips: Sequence[Clip]) -> list[str]:
    """Return the language in params for all clips if it is set there, else that of each clip."""
    if params.corpus.language != "auto":
        return [params.corpus.language] * len(clips)
    languages: list[str] = Clips.of(clips).column("language").tolist()
    return languages


def llm_transcript(params: Params, clip: Clip) -> str:
    """Return the transcript of a clip for the LLM; "" if the LLM does not know its language."""
    return "" if is_foreign(_language(params, clip), params.llm.known_languages) else clip.transcript


def llm_transcripts(params: Params, clips: Sequence[Clip]) -> tuple[dict[str, str], int]:
    """Return the transcripts for the LLM by clip id, and how many are left out because of their language."""
    columns = Clips.of(clips)
    known = params.llm.known_languages
    languages = _languages(params, clips)
    is_known = {code: not is_foreign(code, known) for code in set(languages)}
    texts = columns.column("transcript").tolist()
    readable = [is_known[code] for code in languages]
    transcripts = {
        clip_id: text if reads else "" for clip_id, text, reads in zip(columns.ids, texts, readable, strict=True)
    }
    return transcripts, sum(not reads and bool(text.strip()) for text, reads in zip(texts, readable, strict=True))


def corpus_languages() -> dict[str, int]:
    """Return the number of transcripts by language, according to `index`; empty before it ran."""
    if not paths.INDEX_METRICS.is_file():
        return {}
    counts: dict[str, int] = read_sealed_json(paths.INDEX_METRICS, made_by="index").get("languages", {})
    return counts


def language_notes(params: Params, languages: Mapping[str, int], translation: str) -> Iterator[str]:
    """Yield a sentence for each model in use that does not know the language of some transcripts.

    Each states the number of texts, their languages, the consequence, and the setting to change.

    Args:
        params: The params of the project.
        languages: Number of transcripts by language.
        translation: Language of the translations, "" if there are none.
    """
    total = sum(languages.values())
    for name, encoder in params.text_encoders.items():
        known = encoder.known_languages
        spoken = [column for column in encoder.text_columns if column != "translation"]
        if known is None:
            continue
        if spoken and (foreign := count_foreign(languages, known)):
            kept = params.corpus.foreign_text == "keep"
            effect = "corpus.foreign_text keeps them" if kept else "these clips get no text features"
            yield (
                f"{_of(foreign, total)}, but text encoder {name} knows {format_languages(known)}: {effect}; "
                f"{_remedies(name, known, translation)}"
            )
        elif not spoken and is_foreign(translation, known):
            yield (
                f"the translations are {format_language(translation)}, but text encoder {name} knows "
                f"{format_languages(known)}: set encoders.{name}.inputs to original, or use another text encoder"
            )
    llm = params.llm.known_languages
    if params.needs_llm and llm is not None and (foreign := count_foreign(languages, llm)):
        yield (
            f"{_of(foreign, total)}, but the LLM {params.llm.model} knows {format_languages(llm)}: it does not vote on "
            "them and does not enrich them; set llm.model to one that knows the language, or llm.languages if it does"
        )


def _remedies(name: str, known: frozenset[str], translation: str) -> str:
    if translation and not is_foreign(translation, known):
        return f"set encoders.{name}.inputs to translation, which is {format_language(translation)}"
    return (
        "set preset to multilingual or extract.encoders.text to an encoder that knows it, corpus.language if the "
        f"detected language is wrong, or encoders.{name}.languages if {name} knows it"
    )


def _of(foreign: Mapping[str, int], total: int) -> str:
    named = ", ".join(format_language(code) for code in list(foreign)[:3])
    more = f" and {format_count(len(foreign) - 3, 'more language')}" if len(foreign) > 3 else ""
    return f"{sum(foreign.values())} of {format_count(total, 'transcript')} are in {named}{more}"
