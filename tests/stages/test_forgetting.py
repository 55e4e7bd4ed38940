"""Tests that nothing about forgotten clips is left, and that nothing of other clips is lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip, ClipId, Corpus, Modality, Split, read_corpus_tables, write_corpus_tables
from ecmf_pipeline.core.errors import InputError
from ecmf_pipeline.core.files import sha256_text
from ecmf_pipeline.core.tables import open_table, write_sealed_csv
from ecmf_pipeline.corpora.forgotten import limited_to, read_forgotten, without_forgotten
from ecmf_pipeline.corpora.listing import CorpusListing
from ecmf_pipeline.llm.answers import AnswerCache, AnswerWriter, FormAnswer, ScoreCache, TextScores
from ecmf_pipeline.settings.params import load_params
from ecmf_pipeline.sharing.versions import keep_version
from ecmf_pipeline.stages import index, segment
from ecmf_pipeline.stages.shared import forgetting
from ecmf_pipeline.stages.shared.forgetting import forget
from ecmf_pipeline.stages.shared.llm_questions import fingerprints_in_use, questions
from ecmf_pipeline.store import FeatureRow, FeatureStore, StoreWriter, create_settings_group, make_current
from ecmf_pipeline.store.format import spool_folder
from ecmf_pipeline.store.verify import verify_store
from ecmf_pipeline.store.writer import pack_rows
from ecmf_pipeline.transcription.table import TranscriptRecord

NAMES = ("annagone", "bertstay", "clarastay", "doragone")
WORDS = {"annagone": "Secret words of Anna.", "bertstay": "Oh.", "clarastay": "I see.", "doragone": "Oh."}
TEXT_SETTINGS = ("aaaaaaaaaaaa", "bbbbbbbbbbbb")


def write_corpus(write_media: Callable[..., Path]) -> None:
    for name in NAMES:
        write_media(Path(f"corpus/{name}.mp4"))
    Path("corpus/labels.csv").write_text(
        "name,label,group\n" + "".join(f"{name},{'happy' if 'a' in name[:2] else 'sad'},{name[:4]}\n" for name in NAMES)
    )
    Path("corpus/transcripts.csv").write_text("name,text\n" + "".join(f"{name},{WORDS[name]}\n" for name in NAMES))


def write_store(root: Path, settings: dict[str, Any], clips: list[Clip]) -> FeatureStore:
    """Write two parts, and leave the rows of an earlier content of two clips in the spool, as a killed run does."""
    fingerprint = create_settings_group(root, settings, dim=3, dtype="float32")

    def row(clip: Clip, digest: str = "") -> FeatureRow:
        return FeatureRow(clip.clip_id, digest or clip.digest, np.full((2, 3), len(clip.clip_id), np.float32))

    with StoreWriter(root, fingerprint) as writer:
        writer.append([row(clip) for clip in clips[:1]])
        writer.append([row(clip) for clip in clips[1:]])
        make_current(root, fingerprint)
    spool = spool_folder(root, fingerprint)
    spool.mkdir(parents=True)
    (spool / "run.0.batch").write_bytes(pack_rows([row(clip, "earlier") for clip in clips[:2]]))
    return FeatureStore(root, fingerprint)


def write_answers(cache: AnswerCache[Any], spool: Path, *batches: list[Any]) -> None:
    with AnswerWriter(cache, spool) as writer:
        for batch in batches:
            writer.append(batch)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_media: Callable[..., Path]) -> list[Clip]:
    """A DVC project of four clips, two of which have the same words, with something about each clip in each place."""
    monkeypatch.chdir(tmp_path)
    Path(".dvc").mkdir()
    Path("params.yaml").write_text("corpus: {kind: folder, root: corpus}\nindex: {workers: 0}\n")
    write_corpus(write_media)
    index.run()
    clips = read_corpus_tables().clips
    for frames in (4, 8):
        write_store(paths.features(Modality.FACE), {"encoder": {"type": "test"}, "media": {"frames": frames}}, clips)
    for name in TEXT_SETTINGS:
        for cache, spool in ((paths.REWRITE_CACHE, ".rewrite.spool"), (paths.VOTE_CACHE, ".votes.spool")):
            scores = [TextScores.of(sha256_text(clip.transcript), np.ones(2)) for clip in clips]
            frames = [TextScores.of(clip.digest, np.zeros(2)) for clip in clips]
            write_answers(ScoreCache(cache, name), paths.DATA / spool, scores, frames)
    records = [TranscriptRecord(clip.digest, "en") for clip in clips]
    write_answers(
        AnswerCache(paths.TRANSCRIPT_CACHE, TEXT_SETTINGS[0], TranscriptRecord.parse),
        paths.DATA / ".transcripts.spool",
        records,
    )
    for table in (paths.VOTES, paths.REFINED, paths.TRANSCRIPTS, paths.REWRITES):
        write_sealed_csv(table, ["clip_id", "text"], [[clip.clip_id, clip.transcript] for clip in clips])
    paths.NEXT.write_text("clip_id,path\n" + "".join(f"{clip.clip_id},{clip.path}\n" for clip in clips))
    Path("data/submission.csv").write_text("name,discrete\n" + "".join(f"{name},sad\n" for name in NAMES))
    paths.VERDICTS.parent.mkdir()
    paths.VERDICTS.write_text(
        "name,label,reviewer,digest\n" + "".join(f"{clip.clip_id},sad,me,{clip.digest}\n" for clip in clips)
    )
    keep_version(paths.VERDICTS)
    paths.CORRECTIONS.write_text('Name;Text\nAnnagone.MP4;"Secret\nwords"\nbertstay.mp4;"Oh; \nyes"\n')
    for path in ("data/fusion/given/fusion/config.json", "data/predictions/given/fusion.npz", "data/report/index.html"):
        Path(path).parent.mkdir(parents=True)
        Path(path).write_text(json.dumps(NAMES))
    Path("data/.review/media").mkdir(parents=True)
    Path("data/.review/media/x.mp4").write_bytes(b"annagone")
    Path("data/.review/secret").write_text("secret")
    return clips


def mentions(texts: list[str]) -> set[str]:
    """Return the files and names of files below data, labels and .ecmf that hold one of some texts."""
    needles = [text.encode() for text in texts]
    found = set()
    for root in (paths.DATA, paths.VERDICTS.parent, paths.KEPT):
        for path in root.rglob("*"):
            content = str(path).encode() + (path.read_bytes() if path.is_file() else b"")
            if any(needle in content for needle in needles):
                found.add(str(path))
    return found


def traces(clips: list[Clip], *names: str) -> list[str]:
    """Return ids, digests in hex, words and keys of the words of clips; not of words that other clips have too."""
    chosen = [clip for clip in clips if clip.clip_id in names]
    words = {clip.transcript for clip in chosen} - {clip.transcript for clip in clips if clip not in chosen}
    return [*names, *(clip.digest for clip in chosen), *words, *map(sha256_text, words), "Annagone"]


def state() -> dict[str, bytes]:
    return {
        str(path): path.read_bytes()
        for root in (paths.DATA, paths.VERDICTS.parent, paths.KEPT)
        for path in root.rglob("*")
        if path.is_file() and "lock" not in path.name
    }


def check_others(clips: list[Clip]) -> None:
    """Check that everything about the clips that stay is there."""
    others = [clip for clip in clips if clip.clip_id in ("bertstay", "clarastay")]
    assert read_corpus_tables().clips == others
    root = paths.features(Modality.FACE)
    assert verify_store(root).findings == []
    for group in root.glob("*/zarr.json"):
        store = FeatureStore(root, group.parent.name)
        assert all(store.holds(clip.clip_id, clip.digest) for clip in others)
        assert store.holds("bertstay", "earlier")
        assert store.row("bertstay", others[0].digest).values.tolist() == [[8.0] * 3] * 2
        assert len(store) == 2
    for name in TEXT_SETTINGS:
        for folder in (paths.REWRITE_CACHE, paths.VOTE_CACHE):
            cache = ScoreCache(folder, name)
            assert {row.key for row in cache.rows()} == {
                key for clip in others for key in (clip.digest, sha256_text(clip.transcript))
            }
    for table in (paths.VOTES, paths.REFINED, paths.TRANSCRIPTS, paths.REWRITES):
        rows = open_table(table, command=None).parse(tuple, ["clip_id", "text"])  # checks the seal
        assert rows == [(clip.clip_id, clip.transcript) for clip in others]
    assert paths.VERDICTS.read_text().count("\n") == 3
    assert paths.CORRECTIONS.read_text() == 'Name;Text\nbertstay.mp4;"Oh; \nyes"\n'
    (version,) = (paths.KEPT / "versions" / paths.VERDICTS).glob("*")
    assert version.read_text() == paths.VERDICTS.read_text()
    assert Path("data/.review/secret").is_file()


def test_nothing_about_forgotten_clips_is_left_and_all_of_the_others(project, capsys):
    gone = traces(project, "annagone", "doragone")
    assert len(mentions(gone)) > 15
    forget(load_params(), ["corpus/annagone.mp4"], ["dora"])
    assert mentions(gone) == set()
    check_others(project)
    assert Path("corpus/annagone.mp4").is_file()
    printed = capsys.readouterr().out
    assert "data/features/face.zarr: removed 6" in printed
    index.run()  # the files are still there, but are skipped and not read
    assert mentions(gone) == set()
    check_others(project)
    assert "2 forgotten clips skipped" in paths.FINDINGS.read_text()
    for name in ("annagone", "doragone"):
        Path(f"corpus/{name}.mp4").unlink()
    labels = Path("corpus/labels.csv")
    labels.write_text("".join(line for line in labels.read_text().splitlines(True) if "gone" not in line))
    index.run()  # of the clips, only transcripts in a table of the corpus are left
    assert "(forgotten)" in paths.FINDINGS.read_text()
    assert mentions(gone) == set()
    check_others(project)


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("folder", ["features/.shards", ".shards/rewrite"])
def test_shards_that_are_not_merged_must_be_merged_first(folder: str):
    (paths.DATA / folder / "1-of-8").mkdir(parents=True)
    with pytest.raises(InputError, match="1 shard") as caught:
        forget(load_params(), ["annagone"], [])
    assert caught.value.command == f"ecmf-pipe {'rewrite' if 'rewrite' in folder else 'extract'}"


def test_a_dry_run_prints_the_same_and_changes_nothing(project, capsys):
    before = state()
    forget(load_params(), ["annagone"], [], dry_run=True)
    expected = capsys.readouterr().out.replace("would remove", "removed").splitlines()
    assert state() == before
    forget(load_params(), ["annagone"], [])
    done = capsys.readouterr().out.splitlines()
    differing = [line for line in done if line not in expected]
    assert [line.split(":")[0].strip() for line in differing] == ["data/features/face.zarr"]  # leftovers of killed runs


def test_unknown_names_change_nothing(project):
    before = state()
    with pytest.raises(InputError) as raised:
        forget(load_params(), ["annagone", "bertstey"], [])
    assert "bertstay" in raised.value.message
    assert raised.value.exit_code == 2
    with pytest.raises(InputError):
        forget(load_params(), [], ["nobody"])
    with pytest.raises(InputError):
        forget(load_params(), [], [])
    assert state() == before


@pytest.mark.parametrize("again", [("annagone", "doragone"), ()])
def test_a_killed_command_is_finished_by_the_next(project, monkeypatch, again):
    gone = traces(project, "annagone", "doragone")
    real = forgetting.places_of
    places = len(list(real(load_params(), project[1:3], is_new=True)))
    for stop in range(0, places, 7):
        started = iter(range(places))

        def killed(*args: Any, stop: int = stop, started: Any = started, **options: Any) -> Any:
            for place in real(*args, **options):
                if next(started) == stop:
                    raise KeyboardInterrupt
                yield place

        monkeypatch.setattr(forgetting, "places_of", killed)
        with pytest.raises(KeyboardInterrupt):
            forget(load_params(), ["annagone", "doragone"], [])
    monkeypatch.setattr(forgetting, "places_of", real)
    assert mentions(gone)
    forget(load_params(), list(again), [])
    assert mentions(gone) == set()
    check_others(project)
    forgotten = paths.FORGOTTEN.read_text()
    forget(load_params(), ["annagone"], [])  # forgotten already
    check_others(project)
    assert paths.FORGOTTEN.read_text() == forgotten
    assert forgotten.count("\n") == 3


def test_copies_are_forgotten_too_and_skipped_under_any_name(project, write_media):
    content = Path("corpus/annagone.mp4").read_bytes()
    Path("corpus/copied.mp4").write_bytes(content)
    index.run()
    forget(load_params(), ["annagone"], [])
    assert [clip.clip_id for clip in read_corpus_tables().clips] == list(NAMES[1:])
    Path("corpus/renamed.mp4").write_bytes(content)
    index.run()
    assert [clip.clip_id for clip in read_corpus_tables().clips] == list(NAMES[1:])


SRT = "1\n00:00:00,000 --> 00:00:02,000\nSecret morning.\n\n2\n00:00:02,500 --> 00:00:05,000\nHow are you?\n"


@pytest.fixture
def recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_clip: Callable[..., Path]) -> list[Clip]:
    """Two recordings with subtitles, cut into two clips each."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("first", "second")):
        make_clip(Path(f"corpus/{name}.mp4"), pictures=150 + number)
        Path(f"corpus/{name}.srt").write_text(SRT.replace("morning", f"morning of the {name}"))
    Path("params.yaml").write_text(
        "corpus: {kind: folder, root: corpus}\nindex: {workers: 0}\n"
        "segment: {by: subtitles, max_seconds: 4, workers: 0, pad: 0}\n"
    )
    segment.run()
    index.run()
    return read_corpus_tables().clips


def test_the_name_of_a_recording_stands_for_all_its_parts(recordings):
    first = [clip for clip in recordings if clip.path == "first.mp4"]
    assert len(first) == 2
    gone = ["first", first[0].file_digest, *(clip.digest for clip in first)]
    assert len(mentions(gone)) >= 4
    for _ in range(2):
        forget(load_params(), ["first"], [])
        assert mentions(gone) == set()
        segment.run()
        index.run()
        assert mentions(gone) == set()
        assert [clip.path for clip in read_corpus_tables().clips] == ["second.mp4"] * 2


def test_one_part_of_a_recording_is_skipped_from_then_on(recordings):
    name = recordings[0].clip_id
    forget(load_params(), [name], [])
    for _ in range(2):
        assert [clip.clip_id for clip in read_corpus_tables().clips] == [clip.clip_id for clip in recordings[1:]]
        assert "Secret morning of the first" not in paths.SEGMENTS.read_text()
        segment.run()
        index.run()


def test_a_part_of_a_file_with_parts_of_others_is_forgotten_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("corpus: {kind: folder, root: corpus}\n")
    clips = [
        Clip(ClipId(name), "dialogue.mp4", name * 64, start=start, end=start + 1, file_digest="f" * 64)
        for start, name in enumerate("ab")
    ]
    write_corpus_tables(Corpus(clips, [], [ClipId("a"), ClipId("b")], synthetic=False))
    forget(load_params(), ["a"], [])
    forgotten = read_forgotten()
    assert (read_corpus_tables().clips, read_corpus_tables().candidates) == (clips[1:], ["b"])
    listing = CorpusListing(Path(), tuple(clips), (), (), votes={"people": {ClipId(name): {"sad": 1} for name in "ab"}})
    assert without_forgotten(listing, forgotten).clips == (clips[1],)
    assert limited_to(listing, {ClipId("b")}).votes == {"people": {"b": {"sad": 1}}}
    forget(load_params(), ["b"], [])
    assert read_forgotten().has("f" * 64)


def test_written_rewrites_are_removed_also_those_about_neighbours(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(
        "corpus: {kind: folder, root: corpus}\nllm: {model: no/where, gguf_file: null}\n"
        "rewrite: {how: written, neighbours: 1}\n"
    )
    clips = [
        Clip(ClipId(f"train_dia0_utt{number}"), transcript=f"Line {number}.", given_label="sad", split=Split.TRAIN)
        for number in range(5)
    ]
    write_corpus_tables(Corpus(clips, ["happy", "sad"], [], synthetic=False))
    params = load_params()
    keys = list(next(iter(questions(params))).keys.values())
    in_use = fingerprints_in_use(params)["rewrite"]
    answers = [FormAnswer(key, {"cues": "Line"}) for key in keys]
    for name in (in_use, "cccccccccccc"):  # the second of another prompt
        write_answers(
            AnswerCache(paths.REWRITE_ANSWERS, name, FormAnswer.parse), paths.DATA / ".rewrite.spool", answers
        )
    forget(params, ["train_dia0_utt0"], [])
    left = {row.key for row in AnswerCache(paths.REWRITE_ANSWERS, in_use, FormAnswer.parse).rows()}
    assert left == set(keys[2:])
    assert len(AnswerCache(paths.REWRITE_ANSWERS, "cccccccccccc", FormAnswer.parse)) == 0


def test_all_written_rewrites_are_removed_if_their_questions_are_unknown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(
        "llm: {model: no/where, gguf_file: null}\nrewrite: {how: written, cues: [face]}\n"  # `cues` has not run
    )
    clips = [Clip(ClipId(name), transcript=f"Words of {name}.") for name in ("gone", "stays")]
    write_corpus_tables(Corpus(clips, ["happy", "sad"], [], synthetic=False))
    params = load_params()
    in_use = fingerprints_in_use(params)["rewrite"]
    cache = AnswerCache(paths.REWRITE_ANSWERS, in_use, FormAnswer.parse)
    write_answers(cache, paths.DATA / ".rewrite.spool", [FormAnswer("some key", {"cues": "Words of gone"})])
    forget(params, ["gone"], [])
    assert len(AnswerCache(paths.REWRITE_ANSWERS, in_use, FormAnswer.parse)) == 0
