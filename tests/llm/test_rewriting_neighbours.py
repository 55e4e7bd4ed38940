from __future__ import annotations

from ecmf_pipeline.core.clips import Clip, ClipId
from ecmf_pipeline.llm.config import RewriteConfig
from ecmf_pipeline.llm.rewriting import neighbours_of

MELD = RewriteConfig().dialogues


def clip(name: str, text: str) -> Clip:
    return Clip(ClipId(name), transcript=text)


def test_neighbours_are_in_order_and_from_the_same_dialogue() -> None:
    clips = [clip(f"test_dia1_utt{number}", f"line {number}") for number in (10, 2, 9, 0)]
    clips += [clip("test_dia2_utt1", "elsewhere"), clip("dev_dia1_utt1", "another part"), clip("sample_7", "alone")]
    around = neighbours_of(clips, 2, MELD)
    assert around["test_dia1_utt9"] == (("line 0", "line 2"), ("line 10",))
    assert around["test_dia1_utt0"] == ((), ("line 2", "line 9"))
    assert around["test_dia2_utt1"] == around["dev_dia1_utt1"] == ((), ())
    assert "sample_7" not in around


def test_clips_without_words_are_skipped() -> None:
    clips = [clip("a_dia0_utt0", "first"), clip("a_dia0_utt1", " "), clip("a_dia0_utt2", "third")]
    around = neighbours_of(clips, 1, MELD)
    assert around["a_dia0_utt2"] == (("first",), ())
    assert around["a_dia0_utt1"] == (("first",), ("third",))


def test_the_pattern_of_clip_ids_is_configurable() -> None:
    clips = [clip("Ses01F_impro01_F000", "a"), clip("Ses01F_impro01_F001", "b"), clip("Ses01F_impro02_F000", "c")]
    around = neighbours_of(clips, 3, r"(?P<dialogue>.+)_[FM](?P<position>\d+)")
    assert around["Ses01F_impro01_F000"] == ((), ("b",))
    assert neighbours_of(clips, 3, MELD) == {}
    assert neighbours_of(clips, 0, MELD) == {}
