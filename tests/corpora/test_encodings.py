"""Tables in other encodings than UTF-8 are read if the bytes leave no doubt."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from ecmf_pipeline.core.errors import InputError
from ecmf_pipeline.corpora.listing import CorpusListing, FindingKind, count_by_kind
from ecmf_pipeline.corpora.tables import read_table

Read = Callable[..., CorpusListing]

CHINESE = "name,text\na,我想念他们，因为他们对我很好。\nb,你在说什么？我不知道你为什么要这样做。\n"  # noqa: RUF001
ENGLISH = "name,text\na,“We’ll see…” she said – a café\n"  # noqa: RUF001
GERMAN = "name,text\na,Grüße aus der schönen Straße\n"
KOREAN = "name,text\na,나는 그 사람을 좋아하지 않아요 왜냐하면 그는 거짓말을 했어요\nb,오늘 날씨가 정말 좋네요\n"
JAPANESE = "name,text\na,私は彼のことが好きではありません。今日はとても良い天気ですね\n"
RUSSIAN = "name,text\na,Я не знаю что ты хочешь сказать\n"
CZECH = "name,text\na,příliš žluťoučký kůň\n"
TURKISH = "name,text\na,şimdi iyi değil\n"
FRENCH = "name,text\na,où est-elle très bien\n"
SPANISH = "name,text\na,él está aquí con el niño\n"
TRADITIONAL = "name,text\na,我想念他們，因為他們對我很好。\nb,你在說什麼？我不知道你為什麼要這樣做。\n"  # noqa: RUF001


def write(path: Path, text: str, encoding: str) -> Path:
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (CHINESE, "gb2312"),
        (CHINESE, "gb18030"),
        (CHINESE, "utf-16"),
        (CHINESE, "utf-16-le"),
        (CHINESE, "utf-16-be"),
        (CHINESE, "utf-32"),
        (ENGLISH, "utf-16-le"),
        (ENGLISH, "cp1252"),
        (GERMAN, "cp1252"),
    ],
)
def test_unambiguous_encodings_are_read_with_a_finding(tmp_path: Path, text: str, encoding: str) -> None:
    table = read_table(write(tmp_path / "t.csv", text, encoding), ("name", "text"))
    assert table.rows == tuple(tuple(row) for row in csv.reader(text.splitlines()[1:]))
    [finding] = table.findings
    assert finding.kind is FindingKind.ENCODING
    assert "iconv -f" in finding.message
    assert "-t UTF-8 t.csv" in finding.message


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_utf8_has_no_finding(tmp_path: Path, encoding: str) -> None:
    assert read_table(write(tmp_path / "t.csv", CHINESE + ENGLISH[10:], encoding), ("name", "text")).findings == ()


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("name,text\na,高兴\n", "gbk"),  # too few characters
        (KOREAN, "euc-kr"),
        (JAPANESE, "euc-jp"),
        (JAPANESE, "shift-jis"),
        (RUSSIAN, "cp1251"),
        (RUSSIAN, "koi8-r"),
        (CZECH, "cp1250"),
        (TURKISH, "cp1254"),
        (FRENCH, "cp1252"),  # è is č in Windows-1250
        (SPANISH, "mac-roman"),
        (SPANISH, "cp850"),
        (TRADITIONAL, "big5"),
    ],
)
def test_other_encodings_are_refused_with_the_command(tmp_path: Path, text: str, encoding: str) -> None:
    with pytest.raises(InputError) as caught:
        read_table(write(tmp_path / "t.csv", text, encoding), ("name", "text"))
    assert (caught.value.command or "").startswith(f"iconv -f ENCODING -t UTF-8 {tmp_path / 't.csv'} > ")


def test_damaged_utf8_and_utf16_are_refused(tmp_path: Path) -> None:
    for content in (CHINESE.encode()[:-3] + b"\n", CHINESE.encode("utf-16")[:-1]):
        (tmp_path / "t.csv").write_bytes(content)
        with pytest.raises(InputError):
            read_table(tmp_path / "t.csv", ("name", "text"))


def test_c1_characters_are_read_as_windows_1252_in_every_layout(tmp_path: Path, read: Read) -> None:
    spoken = ["we\x92ll see", "wait\x97what?", "\x93no\x94 \x85", "a\x81b"]
    meant = ["we\u2019ll see", "wait\u2014what?", "\u201cno\u201d \u2026", "ab"]
    tables = {
        "meld": ("train_sent_emo.csv", "Utterance,Speaker,Emotion,Dialogue_ID,Utterance_ID", "{text},A,joy,0,{n}"),
        "mer": ("subtitle_chieng.csv", "name,chinese,english", "c{n},x,{text}"),
        "folder": ("transcripts.csv", "name,text", "c{n},{text}"),
    }
    for kind, (name, header, row) in tables.items():
        root = tmp_path / kind
        for n in range(len(spoken)):
            media = root / {"meld": f"train/dia0_utt{n}", "mer": f"video/c{n}", "folder": f"c{n}"}[kind]
            media.parent.mkdir(parents=True, exist_ok=True)
            media.with_suffix(".mp4").write_bytes(b"x")
        rows = [row.format(n=n, text=text) for n, text in enumerate(spoken)]
        (root / name).write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
        listing = read(root, kind)
        assert [clip.transcript for clip in listing.clips] == meant
        assert count_by_kind(listing.findings)["encoding"] == 6
