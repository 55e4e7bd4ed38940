"""Write synthetic trees with the names of published corpora; the files are not media."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

LFS_POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:c6f94b2592487c7556bd86df7df6e8f4420d1b9c11414aeec9d8e5e640b51495\nsize 72862\n"
)


def touch(root: Path, paths: Iterable[str], content: str = "stub") -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content, encoding="utf-8")


def write_table(path: Path, header: str, rows: Iterable[Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n", encoding="utf-8")


def ravdess(root: Path) -> Path:
    """Write 66 takes in three modalities, song without film for the last, and a file with another name."""
    for actor in range(1, 12):
        takes = [f"0{channel}-0{emotion}-01-01-01-{actor:02}" for channel, emotions in ((1, "158"), (2, "145"))
                 for emotion in emotions]  # fmt: skip
        for take in takes:
            touch(root, (f"Actor_{actor:02}/{modality}-{take}.mp4" for modality in ("01", "02")))
            touch(root, [f"Actor_{actor:02}/03-{take}.wav"])
    (root / "Actor_11/01-02-05-01-01-01-11.mp4").unlink()
    touch(root, ["Actor_01/._01-01-01-01-01-01-01.mp4", "Actor_01/01-01-09-01-01-01-01.mp4"])
    return root


def cremad(root: Path) -> Path:
    """Write 66 clips as film and two sound files, votes with a tie, a name with one X, and a Git LFS pointer."""
    names = [f"{1001 + actor}_DFA_{emotion}_XX" for actor in range(11)
             for emotion in ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")]  # fmt: skip
    for name in names:
        touch(root, [f"VideoFlash/{name}.flv", f"AudioWAV/{name}.wav", f"AudioMP3/{name}.mp3"])
    touch(root, ["AudioWAV/1040_ITH_SAD_X.wav"], LFS_POINTER)
    rows = [
        (f'"{100_000 * kind + clip}"', 5, 0, 0, 0, 5 if kind == 2 else 0, 0, f'"{name}"', 10)
        for kind in (1, 2, 3)
        for clip, name in enumerate(names, start=1)
    ]
    write_table(
        root / "processedResults/tabulatedVotes.csv", '"","A","D","F","H","N","S","fileName","numResponses"', rows
    )
    write_table(
        root / "processedResults/summaryTable.csv",
        '"","FileName","VoiceVote","VoiceLevel","FaceVote","FaceLevel","MultiModalVote","MultiModalLevel"',
        [(1, names[0], "A", 75, "A:N", "60:70", "A", 80)],
    )
    return root


def iemocap(root: Path, *, films: bool = True, sentences: bool = True) -> Path:
    """Write 150 utterances of five sessions, with turns that nobody evaluated and files of macOS."""
    labels = ("neu", "ang", "hap", "exc", "sad", "fru", "xxx", "fea", "oth", "neu")
    for session, part in itertools.product(range(1, 6), ("impro01", "impro02", "script01_1")):
        dialog = f"Ses0{session}F_{part}"
        names = [f"{dialog}_{'FM'[i % 2]}{i:03}" for i in range(10)]
        lines = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
        for i, (name, label) in enumerate(zip(names, labels, strict=True)):
            lines += [
                f"[{i}.2500 - {i + 1}.1200]\t{name}\t{label}\t[2.5000, 2.5000, 2.5000]",
                "C-E2:\tNeutral;\t()",
                "",
            ]
        turns = [f"{name} [{i:03}.2500-{i + 1:03}.1200]: Words {i}." for i, name in enumerate(names)]
        turns += [f"{dialog}_MXX0 [011.0000-012.0000]: Not evaluated.", "M: Breathing"]
        folder = f"Session{session}/dialog"
        touch(root, [f"{folder}/EmoEvaluation/{dialog}.txt"], "\n".join(lines))
        touch(root, [f"{folder}/EmoEvaluation/._{dialog}.txt"], "\x00\x05\x16\x07")
        touch(root, [f"{folder}/EmoEvaluation/Categorical/{dialog}_e2_cat.txt"], f"{names[0]} :Neutral; ()")
        touch(root, [f"{folder}/transcriptions/{dialog}.txt"], "\n".join(turns))
        touch(root, [f"{folder}/wav/{dialog}.wav"])
        touch(root, [f"{folder}/avi/DivX/{dialog}.avi"] * films)
        touch(root, (f"Session{session}/sentences/wav/{dialog}/{name}.wav" for name in names if sentences))
    return root


def mosei(root: Path, *, folds: bool = True) -> Path:
    """Write 150 parts of 30 films, with a negative start, ties, no emotion, and films in no standard fold."""
    import h5py
    import numpy as np

    films = [f"film{number:02}-_x" for number in range(30)]
    touch(root, (f"Raw/Videos/Full/Combined/{film}.mp4" for film in films))
    touch(root, (f"Raw/Videos/Segmented/Combined/{film}_{part}.mp4" for film in films for part in range(5)))
    root.mkdir(parents=True, exist_ok=True)
    with h5py.File(root / "CMU_MOSEI_Labels.csd", "w") as file:
        for film in films:
            times = [[5.0 * part - 0.084, 5.0 * part + 4] for part in (4, 0, 1, 2, 3)]  # not in the order of the words
            scores = np.zeros((5, 7), np.float32)
            scores[:, 0] = -1.3333, -1 / 6, 0, 1 / 3, 3
            scores[:, 1:] = [[0, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [0] * 6, [2, 1, 0, 0, 0, 0], [0, 0, 0.3, 0, 0, 0]]
            file[f"All Labels/data/{film}/intervals"] = np.array(times)
            file[f"All Labels/data/{film}/features"] = scores
            lines = [f"{film}___{part}___{5.0 * part - 0.084}___{5.0 * part + 4}___Part {part}." for part in range(5)]
            touch(root, [f"Raw/Transcript/Segmented/Combined/{film}.txt"], "\n".join(lines))
    if folds:
        parts = {"train": films[:12], "valid": films[12:14], "test": films[14:28]}
        text = "\n".join(f"standard_{part}_fold = {names!r}" for part, names in parts.items())
        touch(root, ["cmu_mosei_std_folds.py"], f"#author\n{text}\n")
    return root


def mosi(root: Path) -> Path:
    """Write 200 clips in the layout of MMSA: words in capitals, a score that is missing, a file without a row."""
    rows = []
    for video, clip in itertools.product(range(20), range(1, 11)):
        mode = "train" if video < 12 else "valid" if video < 14 else "test"
        score = (-3.0, -0.4, 0.0, 1.8, 2.4)[clip % 5]
        rows.append((f"-mosi_{video:02}", clip, "I LOVED THIS (UHH) MOVIE", score, "", "", "", "Positive", mode))
        touch(root, [f"Raw/-mosi_{video:02}/{clip}.mp4"])
    rows[0] = (*rows[0][:3], "", *rows[0][4:])
    touch(root, ["Raw/-mosi_00/11.mp4"])
    write_table(root / "label.csv", "video_id,clip_id,text,label,label_T,label_A,label_V,annotation,mode", rows)
    return root


def chsims(root: Path, *, zeros: bool = True) -> Path:
    """Write 200 clips; without zeros as a spreadsheet saves the table."""
    rows = []
    for video, clip in itertools.product(range(1, 21), range(1, 11)):
        mode = "train" if video < 12 else "valid" if video < 16 else "test"
        score = (-1.0, -0.1, 0.0, 0.1, 0.8)[clip % 5]
        number = f"{clip:04}" if zeros else str(clip)
        rows.append((f"video_{video:04}", number, "我不想嫁给李茶", score, -0.8, 0.0, 0.6, "Negative", mode))
        touch(root, [f"Raw/video_{video:04}/{clip:04}.mp4"])
    rows[0] = (*rows[0][:3], "", *rows[0][4:])
    write_table(root / "label.csv", "video_id,clip_id,text,label,label_T,label_A,label_V,annotation,mode", rows)
    return root


def emodb(root: Path) -> Path:
    """Write 200 files, some without version or of a text that the documentation lacks, and label files."""
    emotions = "WLEAFTN"
    texts = [f"{kind}{number:02}" for kind in "ab" for number in range(1, 11)]
    names = [
        f"{speaker:02}{text}{emotions[i % 7]}{'abc'[i % 3]}"
        for i, (speaker, text) in enumerate(itertools.product((3, *range(8, 17)), texts))
    ]
    touch(root, (f"wav/{name}.wav" for name in names))
    touch(root, ["wav/16b10Wb.WAV", "wav/16a02Nx.wav", "wav/03a01F.wav"])
    touch(root, ["lablaut/03a01Fa.lablaut", "wav/erkennung.txt", "wav/noise.wav"])
    return root


def tess(root: Path) -> Path:
    """Write 98 files twice, as one published copy has them, and the speaker without F."""
    for folder in ("", "TESS Toronto emotional speech set data/"):
        for speaker, emotion in itertools.product(
            ("OAF", "YAF"), ("angry", "disgust", "fear", "happy", "neutral", "ps", "sad")
        ):
            words = ("back", "bar", "base", "bath", "bean", "beg", "bite")
            names = [f"{speaker}_{word}_{emotion}.wav" for word in words]
            if speaker == "OAF" and emotion == "neutral":
                names[-1] = "OA_bite_neutral.wav"
            touch(root, (f"{folder}{speaker}_{'Pleasant_surprise' if emotion == 'ps' else emotion}/{n}" for n in names))
    return root


def savee(root: Path, *, flat: bool = False) -> Path:
    """Write 140 sentences as sound files, half of them as films too; or flat, with the speaker in the name."""
    sentences = [f"{emotion}{number:02}" for emotion in ("a", "d", "f", "h", "n", "sa", "su") for number in range(1, 6)]
    for speaker, sentence in itertools.product(("DC", "JE", "JK", "KL"), sentences):
        touch(root, [f"{speaker}_{sentence}.wav" if flat else f"AudioData/{speaker}/{sentence}.wav"])
        if not flat and speaker in {"DC", "JE"}:
            touch(root, [f"AudioVisualClip/{speaker}/{sentence}.avi"])
    touch(root, ["AudioData/Info.txt", "AudioData/DC/photo.jpg"])
    return root


def table(root: Path) -> Path:
    """Write 200 recordings and a table of 800 parts of them, with a row without length and a missing file."""
    touch(root, (f"rec/{number:03}.mp4" for number in range(200)))
    rows = [
        (f"rec/{n:03}.mp4", ("joy", "anger")[p % 2], f"s{n % 5}", ("train", "test")[p == 3], p, p + 0.9, "Hi")
        for n, p in itertools.product(range(200), range(4))
    ]
    rows += [("rec/001.mp4", "joy", "s1", "train", 9, 9, "Hi"), ("rec\\999.mp4", "joy", "s1", "train", 0, 1, "Hi")]
    write_table(root / "labels.csv", "path,emotion,group,split,start,end,text", rows)
    return root
