"""Match the files beside clips: subtitles, and the sound of a clip."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cache

from ecmf_pipeline.core.clips import ClipId
from ecmf_pipeline.core.console import format_count
from ecmf_pipeline.corpora.listing import Finding, FindingKind, SubtitleFile, quote_names
from ecmf_pipeline.corpora.scan import strip_media_extension

_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{2,8})*")
_MARKS = {"forced", "sdh", "cc", "hi", "default"}
"""Further parts of the names of subtitle files: forced ones, and those for the deaf and hard of hearing."""

_MEDIA_FOLDERS = {"audio", "audios", "sound", "sounds", "wav", "wavs", "mp3", "video", "videos", "mp4"}
"""Folders that hold the sounds, or the pictures, of the same clips."""


def split_sounds(
    files: Mapping[ClipId, str], sounds: Mapping[ClipId, str]
) -> tuple[dict[ClipId, str], dict[ClipId, str]]:
    """Return the file of each clip, and the sound file of each clip that has a video file too.

    A sound file belongs to the video file of the same path, apart from folders such as ``audio`` and ``video``. Others
    are clips of their own.

    Args:
        files: The video file of each clip id.
        sounds: The sound file of each id.
    """
    of_name: defaultdict[str, list[ClipId]] = defaultdict(list)
    for clip_id, path in files.items():
        of_name[_without_media_folders(path)].append(clip_id)
    clips, beside = dict(files), dict[ClipId, str]()
    for clip_id, path in sounds.items():
        owners = [clip_id] if clip_id in files else of_name.get(_without_media_folders(path), [])
        if len(owners) == 1:
            beside.setdefault(owners[0], path)
        else:
            clips[clip_id] = path
    return clips, beside


def match_subtitles(
    paths: Iterable[str], files: Mapping[ClipId, str]
) -> tuple[dict[ClipId, SubtitleFile], list[Finding]]:
    """Match subtitle files to the clips with the same name in the same folder: ``a.srt`` or ``a.en.srt`` to ``a.mp4``.

    Of several files of a clip, the one without a language is used, else the first in order of names.

    Args:
        paths: The subtitle files.
        files: The file of each clip id.

    Returns:
        The subtitle file of each clip, and findings.
    """
    clips = {_normal(path.rpartition(".")[0]): clip_id for clip_id, path in files.items()}
    of_clip: defaultdict[ClipId, list[SubtitleFile]] = defaultdict(list)
    unmatched = []
    for path in paths:
        stem, language = strip_media_extension(_normal(path.rpartition(".")[0])), ""
        while stem not in clips:
            shorter, _, part = stem.rpartition(".")
            if not shorter or not (part.lower() in _MARKS or _LANGUAGE.fullmatch(part)):
                break
            stem, language = shorter, language if part.lower() in _MARKS else part
        if stem in clips:
            of_clip[clips[stem]].append(SubtitleFile(path, language_code(language)))
        else:
            unmatched.append(path)
    chosen = {clip: min(found, key=lambda file: (bool(file.language), file.path)) for clip, found in of_clip.items()}
    findings = [
        Finding(
            FindingKind.SEVERAL_SUBTITLES,
            clip_id,
            f"clip {clip_id!r} has {len(found)} subtitle files: {chosen[clip_id].path!r} is used; remove the others "
            "to use another one",
        )
        for clip_id, found in of_clip.items()
        if len(found) > 1
    ]
    if unmatched:
        message = (
            f"{format_count(len(unmatched), 'subtitle file')} without clip of the same name: {quote_names(unmatched)}; "
            "rename or remove them"
        )
        findings.append(Finding(FindingKind.SUBTITLES_WITHOUT_CLIP, "", message, count=len(unmatched)))
    return chosen, findings


@cache
def language_code(language: str) -> str:
    """Return the two-letter code of a language code (``eng``, ``zh-CN``); "" if there is none."""
    from iso639 import Lang  # lazy: it loads a table of all languages
    from iso639.exceptions import DeprecatedLanguageValue, InvalidLanguageValue

    code = re.split("[-_]", language.lower())[0]
    try:
        return str(Lang(code).pt1) if code else ""
    except (DeprecatedLanguageValue, InvalidLanguageValue):
        return ""


def _without_media_folders(path: str) -> str:
    parts = strip_media_extension(_normal(path)).split("/")
    return "/".join(part for part in parts[:-1] if part.casefold() not in _MEDIA_FOLDERS) + "/" + parts[-1]


def _normal(path: str) -> str:
    return unicodedata.normalize("NFC", path)
