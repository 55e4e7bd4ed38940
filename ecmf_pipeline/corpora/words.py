"""Choose the words of each clip: those of the tables of the corpus, else those of its subtitles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from ecmf_pipeline.core.clips import Clip, ClipId, WordsFrom
from ecmf_pipeline.core.console import format_count
from ecmf_pipeline.core.files import to_utf8_command
from ecmf_pipeline.corpora.listing import CorpusListing, Finding, FindingKind, SubtitleFile
from ecmf_pipeline.corpora.measuring import Measurement

_MAX_BEYOND = 1.0
"""Seconds by which subtitles may end after the recording: they are often shown a little longer than it lasts."""


def add_words(clip: Clip, measured: Mapping[str, Measurement], subtitles: Mapping[ClipId, SubtitleFile]) -> Clip:
    """Return a clip with the origin of its transcript; without one it gets the words of its subtitles.

    A subtitle file beside the clip comes before the subtitles in it. A part of a file gets no words of the whole.

    Args:
        clip: The clip, with the transcript of the tables of the corpus.
        measured: The measurement of each file.
        subtitles: The subtitle file of each clip that has one.
    """
    if clip.transcript:
        return replace(clip, words_from=clip.words_from or WordsFrom.CORPUS)
    file = subtitles.get(clip.clip_id)
    beside, inside = measured[file.path if file else ""], measured[clip.path]
    if clip.end or not (words := beside.words or inside.words):
        return clip
    language = (file.language if file else "") if beside.words else inside.language
    return replace(clip, transcript=words, words_from=WordsFrom.SUBTITLES, language=clip.language or language)


def subtitle_findings(listing: CorpusListing, measured: Mapping[str, Measurement]) -> Iterator[Finding]:
    """Yield findings about subtitles: damaged files, their times, and clips with two transcripts."""
    for clip in listing.clips:
        if clip.end:  # `segment` reports the subtitles of recordings
            continue
        file, media = listing.subtitles.get(clip.clip_id), measured[clip.path]
        if file:
            yield from _file_findings(clip, file.path, measured[file.path])
        for path, subtitles in ((file.path if file else "", measured[file.path if file else ""]), (clip.path, media)):
            yield from _time_findings(clip, path, subtitles, media.duration)
        texts = {
            "the table of transcripts": clip.transcript,
            repr(file.path) if file else "": measured[file.path].words if file else "",
            f"the subtitles in {clip.path!r}": media.words,
        }
        first, *others = [name for name, text in texts.items() if text] or [""]
        if different := [name for name in others if _words(texts[name]) != _words(texts[first])]:
            message = (
                f"clip {clip.clip_id!r} has two transcripts: that of {first} is used, that of {different[0]} differs; "
                "remove the wrong one"
            )
            yield Finding(FindingKind.TWO_TRANSCRIPTS, clip.clip_id, message)


def _file_findings(clip: Clip, path: str, subtitles: Measurement) -> Iterator[Finding]:
    if subtitles.reason:
        message = (
            f"{path!r} is unusable ({subtitles.message}): clip {clip.clip_id!r} gets no words of it; replace the file"
        )
        yield Finding(FindingKind.UNREADABLE, clip.clip_id, message)
    if subtitles.encoding:
        command = to_utf8_command(Path(path), subtitles.encoding)
        message = f"{path!r} is read as {subtitles.encoding}; convert it to UTF-8: {command}"
        yield Finding(FindingKind.ENCODING, clip.clip_id, message)


def _time_findings(clip: Clip, path: str, subtitles: Measurement, duration: float) -> Iterator[Finding]:
    if subtitles.overlaps:
        message = (
            f"{path!r}: {format_count(subtitles.overlaps, 'overlapping subtitle')} of clip {clip.clip_id!r}: their "
            "words are joined in order of time; check them"
        )
        yield Finding(FindingKind.OVERLAPPING_SUBTITLES, clip.clip_id, message)
    if duration and subtitles.words_end > duration + _MAX_BEYOND:
        message = (
            f"{path!r}: the subtitles end at {subtitles.words_end:.2f} s, but clip {clip.clip_id!r} at {duration:.2f} "
            "s; check that they belong together"
        )
        yield Finding(FindingKind.SUBTITLES_BEYOND_END, clip.clip_id, message)


def _words(text: str) -> list[str]:
    """Return the words of a text, without case and punctuation."""
    return ["".join(filter(str.isalnum, word)) for word in text.casefold().split()]
