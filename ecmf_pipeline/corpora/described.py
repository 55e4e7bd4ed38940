"""Read corpora with a published layout. Each is described by a small module in `kinds`.

A description lists the clips of a corpus: their files or parts of files, emotions, groups, splits, words and votes. The
reader here maps emotions to labels, chooses among several files of one clip, and reports clips and files
that it leaves out.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from pathlib import Path, PurePosixPath

from ecmf_pipeline.core.clips import Clip, ClipId, Half, Split, validate_clip_id
from ecmf_pipeline.core.console import format_count
from ecmf_pipeline.core.errors import CorpusError
from ecmf_pipeline.corpora.config import MER_LABELS, CorpusConfig, CorpusKind
from ecmf_pipeline.corpora.encodings import decode_table
from ecmf_pipeline.corpora.glimpse import Glimpse, look_at
from ecmf_pipeline.corpora.labels import distinct_labels
from ecmf_pipeline.corpora.listing import CorpusListing, Finding, FindingKind, quote_names, require_folder
from ecmf_pipeline.corpora.mapping import chosen_mapping, unmapped_findings
from ecmf_pipeline.corpora.scan import Scan, is_sound_file, scan_media, unread_findings
from ecmf_pipeline.corpora.tables import Table, read_table

_LOSSLESS = (".wav", ".flac")

Votes = Mapping[str, Mapping[str, float]]
"""The weight of each emotion, by source of votes."""


@dataclass(frozen=True, slots=True)
class Described:
    """One clip as its corpus describes it.

    Attributes:
        clip_id: The clip id.
        emotion: The emotion in the words of the corpus; empty if unknown.
        path: The media file, relative to the corpus folder; empty if there is none.
        sound: A file with the same sound, for media files without sound.
        group: The speaker or dialogue.
        split: The published split. None: train, if the clip has a label.
        text: The spoken words.
        start: Start of the clip in the media file, in seconds.
        end: End of the clip in seconds; 0 for the whole file.
        half: The half of the pictures that shows the speaker.
        gold: The true emotion, if it is not the given one.
        votes: Votes of people on the clip.
        rank: The preference among several files of one clip; the lowest is used.
    """

    clip_id: str
    emotion: str = ""
    path: str = ""
    sound: str = ""
    group: str = ""
    split: Split | None = None
    text: str = ""
    start: float = 0.0
    end: float = 0.0
    half: Half = Half.WHOLE
    gold: str = ""
    votes: Votes = field(default_factory=dict)
    rank: int = 0


@dataclass
class Source:
    """The corpus folder that a description reads.

    Attributes:
        root: The folder.
        config: The settings of the corpus.
        scan: Its files.
        findings: The problems; a description may add some.
        tables: The paths of the tables that a description has read.
    """

    root: Path
    config: CorpusConfig
    scan: Scan
    findings: list[Finding] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)

    def find(self, *names: str) -> str:
        """Return the path of a table with one of these names, in any case, in the uppermost folder; else empty."""
        wanted = {name.casefold() for name in names}
        found = [path for path in self.scan.unread if PurePosixPath(path).name.casefold() in wanted]
        return min(found, key=lambda path: (path.count("/"), path), default="")

    def table(self, path: str, required: Sequence[str]) -> Table:
        """Read a table, and add its findings.

        Raises:
            CorpusError: If a required column is missing, or there are no rows.
        """
        table = read_table(self.root / path, required)
        if not table.rows and not table.findings:
            raise CorpusError(f"{table.path} has no rows", "add a row for each clip, or remove the file")
        self.tables.append(path)
        self.findings += table.findings
        return table

    def lines(self, path: str) -> list[str]:
        """Read the lines of a text file, and add findings about its encoding."""
        self.tables.append(path)
        text, findings = decode_table(self.root / path)
        self.findings += findings
        return text.splitlines()

    def report(self, kind: FindingKind, names: Iterable[str], noun: str, problem: str, hint: str) -> None:
        """Add one finding about several clips, rows or files, such as "3 clips without file"; none without names."""
        listed = list(names)
        if listed:
            message = f"{self.root}: {format_count(len(listed), noun)} {problem}: {quote_names(listed)}; {hint}"
            self.findings.append(Finding(kind, "", message, count=len(listed)))

    def report_unlisted(self, used: Collection[str], table: str) -> None:
        """Add one finding about the media files that no row of a table names."""
        unlisted = [path for path in (*self.scan.media, *self.scan.sounds) if path not in used]
        hint = f"add rows to {table} to use them"
        self.report(FindingKind.UNREAD_FILES, unlisted, "media file", "without a row, not read", hint)


@dataclass(frozen=True, slots=True)
class Description:
    """The layout of a published corpus.

    Attributes:
        kind: The value of ``corpus.kind``.
        title: The name of the corpus.
        layout: What its folder holds, in words.
        groups: The meaning of a group, such as actor.
        fits: Return whether the names in a folder are those of the corpus.
        read: Return the clips.
        mapping: Return the default label of each emotion, "" for none, in the order of the labels. If it is empty,
            each emotion is a label.
        published: The published split, in words; empty if there is none.
        left_out: The unused parts of the corpus, in words.
    """

    kind: CorpusKind
    title: str
    layout: str
    groups: str
    fits: Callable[[Glimpse], bool]
    read: Callable[[Source], Iterable[Described]]
    mapping: Callable[[CorpusConfig], Mapping[str, str]]
    published: str = ""
    left_out: str = ""


def read_described(description: Description, config: CorpusConfig) -> CorpusListing:
    """List a corpus by its description.

    Raises:
        CorpusError: If the folder does not exist or has no clips of this corpus, or a table is unusable.
        ParamsError: If ``corpus.mapping`` names an emotion that the corpus does not have.
    """
    root = require_folder(config.root, f"set corpus.root in params.yaml to the folder with {description.layout}")
    scan = scan_media(root, nested=True)
    source = Source(root, config, scan, [*scan.findings])
    found = list(_valid(description.read(source), source))
    if not found:
        raise CorpusError(
            f"{root} has no clips of {description.title}: expected {description.layout}; the folder holds "
            f"{look_at(root).contents()}",
            "set corpus.root in params.yaml to the folder of the corpus",
        )
    tables = [path for path in source.tables if not path.endswith(".txt")]  # a corpus has thousands of these
    source.findings += unread_findings(scan, tables)
    named = Counter(emotion.casefold() for clip in found for emotion in {clip.emotion, clip.gold} if emotion)
    default = description.mapping(config) or _identity(found, config.labels or ())
    mapping = chosen_mapping(config.mapping, default, named.keys())
    labels = config.labels or _labels([*default, *mapping], mapping, named) or MER_LABELS
    source.findings += unmapped_findings(named.elements(), mapping, labels)
    _report_missing(found, source)
    label_of = {emotion: label for emotion, label in mapping.items() if label in labels}
    clips = sorted((_clip(clip, label_of) for clip in found), key=lambda clip: clip.clip_id)
    is_published = any(clip.split for clip in found)
    return CorpusListing(
        root,
        tuple(clips),
        labels,
        tuple(ClipId(clip.clip_id) for clip in found if clip.split is Split.CANDIDATE),
        tuple(source.findings),
        groups=description.groups,
        splits=f"published split: {description.published}" if is_published else "no published split",
        votes=_votes(found, label_of),
    )


def each(*emotions: str) -> Callable[[CorpusConfig], Mapping[str, str]]:
    """Return a default mapping that makes each emotion a label."""
    return lambda _: {emotion: emotion for emotion in emotions}


def by_name(
    source: Source, pattern: re.Pattern[str], describe: Callable[[re.Match[str]], Described]
) -> Iterator[Described]:
    """Yield the clips of a corpus with labels in its file names.

    Of several files of one clip, a video file comes before a sound file; then the rank decides, then lossless sound
    comes first, then the name. The first sound file serves if the video has no sound.

    Args:
        source: The corpus folder.
        pattern: The pattern of a path without extension, below the name of the corpus folder; it is searched, so that
            it should end with ``$``.
        describe: Return the clip of a match, without path.
    """
    files: defaultdict[str, list[tuple[tuple[bool, int, bool, str], Described]]] = defaultdict(list)
    unnamed = []
    name = source.root.resolve().name  # a part of a corpus has some of its names in those of the folders above
    for is_sound, paths in enumerate((source.scan.media, source.scan.sounds)):
        for path in paths:
            if match := pattern.search(f"{name}/{path.rpartition('.')[0]}"):
                clip = describe(match)
                preference = (bool(is_sound), clip.rank, not path.lower().endswith(_LOSSLESS), path)
                files[clip.clip_id].append((preference, clip))
            else:
                unnamed.append(path)
    copies = []
    for takes in files.values():
        takes.sort(key=itemgetter(0))
        paths = [preference[-1] for preference, _ in takes]
        if len(takes) > 1:
            names = Counter(PurePosixPath(path).name for path in paths)
            copies += [path for path in paths[1:] if names[PurePosixPath(path).name] > 1]
        (is_sound, *_), clip = takes[0]
        sound = "" if is_sound else next((preference[-1] for preference, _ in takes if preference[0]), "")
        yield replace(clip, path=paths[0], sound=sound)
    if files:
        hint = "not named as the files of the corpus are; rename or remove them"
        source.report(FindingKind.UNREAD_FILES, unnamed, "media file", "not read", hint)
        source.report(FindingKind.DUPLICATE_CLIP, copies, "file", "not read, as copies of others", "remove them")


def _valid(clips: Iterable[Described], source: Source) -> Iterator[Described]:
    """Yield the clips with valid, distinct ids; report the others. A clip with two emotions has none."""
    found: dict[str, Described] = {}
    repeated, conflicting = [], []
    for clip in clips:
        try:
            validate_clip_id(clip.clip_id)
        except CorpusError as error:
            message = f"clip is skipped: {error.message}; {error.hint}"
            source.findings.append(Finding(FindingKind.BAD_CLIP_ID, "", message))
            continue
        first = found.setdefault(clip.clip_id, clip)
        if first is clip:
            continue
        repeated.append(clip.clip_id)
        if (first.emotion, first.gold) != (clip.emotion, clip.gold):
            found[clip.clip_id] = replace(first, emotion="", gold="")
            conflicting.append(clip.clip_id)
    yield from found.values()
    source.report(FindingKind.CONFLICTING_ROW, conflicting, "clip", "with two labels", "both are ignored; keep one row")
    source.report(FindingKind.DUPLICATE_ROW, repeated, "clip", "listed twice", "the first is used; keep one of them")


def _identity(clips: Iterable[Described], labels: Sequence[str]) -> dict[str, str]:
    """Return the emotions of the clips as labels, spelled as in ``labels``; upper and lower case are equivalent."""
    emotions = distinct_labels(emotion for clip in clips for emotion in (clip.emotion, clip.gold))
    spelled = {label.casefold(): label for label in labels}
    return {emotion.casefold(): spelled.get(emotion.casefold(), emotion) for emotion in emotions}


def _labels(order: Iterable[str], mapping: Mapping[str, str], named: Mapping[str, int]) -> tuple[str, ...]:
    """Return the labels of the emotions that occur: song, for example, has neither disgust nor surprise."""
    used = (mapping.get(emotion, "") for emotion in order if named.get(emotion))
    return tuple(dict.fromkeys(label for label in used if label))


def _report_missing(found: Sequence[Described], source: Source) -> None:
    missing = [clip.clip_id for clip in found if not clip.path]
    if len(missing) == len(found):
        message = f"{source.root}: no clip has a media file: only text can be used; add the media files"
        source.findings.append(Finding(FindingKind.NO_MEDIA, "", message, count=len(missing)))
    else:
        source.report(FindingKind.LABEL_WITHOUT_FILE, missing, "clip", "without file", "add the files")
    unlabelled = [clip.clip_id for clip in found if not clip.emotion and not clip.gold]
    source.report(FindingKind.FILE_WITHOUT_LABEL, unlabelled, "clip", "without label", "not trained on")


def _clip(clip: Described, label_of: Mapping[str, str]) -> Clip:
    label, gold = label_of.get(clip.emotion.casefold(), ""), label_of.get(clip.gold.casefold(), "")
    split = clip.split or Split.TRAIN
    if split is Split.TRAIN and not label:
        split = Split.UNLABELED
    return Clip(
        ClipId(clip.clip_id),
        path=clip.path,
        audio_path="" if is_sound_file(clip.path) else clip.sound,
        transcript=clip.text,
        given_label=label if split is Split.TRAIN else "",
        gold_label=gold or (label if split is Split.CANDIDATE else ""),
        split=split,
        group=clip.group,
        start=clip.start,
        end=clip.end,
        half=clip.half,
    )


def _votes(found: Iterable[Described], label_of: Mapping[str, str]) -> dict[str, dict[ClipId, dict[str, float]]]:
    """Return the probability of each label by source and clip; emotions without label are left out."""
    votes: defaultdict[str, dict[ClipId, dict[str, float]]] = defaultdict(dict)
    for clip in found:
        for source, weights in clip.votes.items():
            sums: defaultdict[str, float] = defaultdict(float)
            for emotion, weight in weights.items():
                if weight and (label := label_of.get(emotion)):
                    sums[label] += weight
            if total := sum(sums.values()):
                votes[source][ClipId(clip.clip_id)] = {label: weight / total for label, weight in sums.items()}
    return dict(votes)
