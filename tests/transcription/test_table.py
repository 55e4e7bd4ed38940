"""Verdicts on transcripts, the table of transcripts and lines of the cache."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ecmf_pipeline.core.clips import Clip, ClipId, WordsFrom
from ecmf_pipeline.core.errors import InputError, MissingInput
from ecmf_pipeline.transcription.config import TranscribeConfig
from ecmf_pipeline.transcription.table import (
    Transcript,
    TranscriptRecord,
    Utterance,
    Verdict,
    Word,
    assess_transcript,
    corrected_transcript,
    read_transcripts,
    with_transcripts,
    write_transcripts,
)
from tests.transcription.fakes import utterance

CONFIG = TranscribeConfig()


def assess(*utterances: Utterance) -> Transcript:
    return assess_transcript(TranscriptRecord("k", "en", 0.9, utterances), CONFIG)


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, Verdict.USED),
        ({"no_speech": 0.61, "confidence": -0.1}, Verdict.NO_SPEECH),  # "Thank you." on noise is confident and short
        ({"no_speech": 0.13}, Verdict.USED),
        ({"confidence": -1.01}, Verdict.UNSURE),
        ({"repetition": 2.5}, Verdict.REPEATS),
        ({"loudness": -61.0}, Verdict.QUIET),
    ],
)
def test_each_limit_has_its_verdict(changes: dict[str, float], verdict: Verdict) -> None:
    assert assess(utterance("Thank you.", **changes)).verdict is verdict


def test_an_invented_utterance_does_not_cost_the_others() -> None:
    words = tuple(Word(text, 0.0, 1.0, 0.9) for text in ("so", "it", "is"))
    real = utterance("so it is", words=words, confidence=-0.3)
    invented = utterance("Thank you.", no_speech=0.9, confidence=-0.1)
    transcript = assess(real, invented)
    assert (transcript.text, transcript.verdict, transcript.confidence) == ("so it is", Verdict.USED, -0.3)
    assert assess(invented, utterance("A longer text that is quiet.", loudness=-80)).verdict is Verdict.QUIET
    assert assess() == Transcript("", Verdict.SILENT)


def test_words_of_the_corpus_are_replaced_by_corrections_only() -> None:
    clips = [
        Clip(ClipId("a")),
        Clip(ClipId("b"), transcript="Mine.", words_from=WordsFrom.CORPUS),
        Clip(ClipId("c"), translation="Hers."),
        Clip(ClipId("d")),
        Clip(ClipId("e"), transcript="Hers.", translation="Ihres.", words_from=WordsFrom.SUBTITLES, language="en"),
        Clip(ClipId("f"), transcript="Noise", translation="Rauschen", words_from=WordsFrom.CORPUS),
    ]
    transcripts = {ClipId(name): Transcript("New.", Verdict.USED, language="de") for name in "abc"}
    transcripts[ClipId("d")] = Transcript("Perhaps.", Verdict.UNSURE)
    transcripts[ClipId("e")] = corrected_transcript("His.")
    transcripts[ClipId("f")] = corrected_transcript("")
    found = with_transcripts(clips, transcripts)
    assert [(clip.transcript, clip.translation, clip.words_from.value, clip.language) for clip in found] == [
        ("New.", "", "machine", "de"),
        ("Mine.", "", "corpus", ""),
        ("", "Hers.", "", ""),
        ("", "", "", ""),
        ("His.", "Ihres.", "corrected", "en"),
        ("", "", "corrected", ""),
    ]


def test_table_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "transcripts.csv"
    with pytest.raises(MissingInput) as missing:
        read_transcripts(path)
    assert missing.value.command == "ecmf-pipe transcribe"
    used = Transcript('He said "no", then', Verdict.USED, WordsFrom.MACHINE, "en", 0.9, -0.25, 0.125, -21.5)
    table = {
        ClipId("b"): used,
        ClipId("a"): Transcript("", Verdict.SILENT),
        ClipId("c"): corrected_transcript("Yes.", used),
    }
    assert write_transcripts(path, table)
    assert not write_transcripts(path, table)
    assert read_transcripts(path) == table
    text = path.read_text()
    for damaged in (
        "",
        "clip_id\na\n",
        text + "d,x,machine,used,en,1,high,0,0\n",
        text + "d,x,machine,maybe,en,1,-1,0,0\n",
        text + "d,x,corpus,used,en,1,-1,0,0\n",
    ):
        path.write_text(damaged)
        with pytest.raises(InputError) as caught:
            read_transcripts(path)
        assert str(path) in caught.value.message


def test_cache_line_round_trip() -> None:
    row = TranscriptRecord("0" * 64, "zh", 0.5, (utterance("她说:“好”", words=(Word("她", 0.5, 1.25, 0.75),)),))
    assert TranscriptRecord.parse(row.line().encode()) == row
    damaged_row = {"key": 1, "language": "", "language_probability": 0, "utterances": []}
    for damaged in (b"{}", b"{", b"[]", json.dumps(damaged_row).encode()):
        with pytest.raises(ValueError, match="validation error"):
            TranscriptRecord.parse(damaged)
