"""The zoo: synthetic bad and unusual files, as they occur in corpora, with the expected result of each."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.media.film_cases import FilmCase
from tests.media.film_writing import write_film
from tests.zoo.films import Film, move_header_to_front

RIGHT = "right"
UNREADABLE = frozenset({"UnreadableMedia", "TruncatedMedia"})
DECODED_OR_UNREADABLE = frozenset({RIGHT, *UNREADABLE})
DECODED = frozenset({RIGHT})
NO_PICTURES = frozenset({"NoVideoStream"})
NO_SOUND = frozenset({"NoAudioStream"})

X265 = {"preset": "ultrafast", "crf": "10", "x265-params": "log-level=none:pools=1"}
AV1 = {"preset": "8", "crf": "15", "svtav1-params": "lp=1"}  # faster presets write damaged pictures
VP9 = {"deadline": "realtime", "cpu-used": "8", "crf": "10", "b": "0", "auto-alt-ref": "0"}
TEXTURED = Film(texture=40, durations=(40,) * 50)


@dataclass(frozen=True)
class Specimen:
    """One file of the zoo.

    Attributes:
        name: The file name.
        make: The function that writes the file.
        film: The expected pictures and sound.
        pictures: The allowed results for the pictures: ``right``, or reasons of a `ClipError`.
        sound: The allowed results for the sound.
        finding: The kind of the finding if `index` skips the file; empty if the file is listed as a clip.
        skip_reason: Why the file cannot be written on this machine; empty if it can.
    """

    name: str
    make: Callable[[Path], object]
    film: Film = field(default_factory=Film)
    pictures: frozenset[str] = DECODED
    sound: frozenset[str] = DECODED
    finding: str = ""
    skip_reason: str = ""


def zoo() -> list[Specimen]:
    """Return all specimens."""
    return [*_broken(), *_unusual_content(), *_codecs(), *_unusual_names(), *_links()]


def write_zoo(folder: Path) -> list[Specimen]:
    """Write the zoo into a folder.

    Returns:
        The specimens that can be written on this machine.
    """
    os.environ.setdefault("SVT_LOG", "1")  # silences the AV1 encoder
    folder.mkdir(parents=True, exist_ok=True)
    specimens = [specimen for specimen in zoo() if not specimen.skip_reason]
    for specimen in specimens:
        specimen.make(folder / specimen.name)
    return specimens


def write_healthy(folder: Path) -> dict[str, Film]:
    """Write three valid clips and return their films by clip id."""
    folder.mkdir(parents=True, exist_ok=True)
    films = {"healthy_1": Film(), "healthy_2": Film(size=(80, 60)), "healthy_3": Film(durations=(40,) * 40, texture=20)}
    for name, film in films.items():
        film.write(folder / f"{name}.mp4")
    return films


def _broken() -> list[Specimen]:
    broken = {
        "zero_bytes.mp4": lambda path: path.write_bytes(b""),
        "random_bytes.mp4": lambda path: path.write_bytes(np.random.default_rng(0).bytes(20_000)),
        "text.mp4": lambda path: path.write_text("name,label\nclip,happy\n" * 50),
        "playlist.mp4": lambda path: path.write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n"),
        "no_moov.mp4": _write_without_moov,
        "cut_in_half.mp4": lambda path: _write_truncated(path, 0.5),
        "bit_flips.mp4": lambda path: _write_flipped_bytes(path, 400),
        "one_byte_off.mp4": lambda path: _write_flipped_bytes(path, 1),
        "length_lies.mp4": _write_wrong_duration,
    }
    expected = {
        "one_byte_off.mp4": (DECODED_OR_UNREADABLE, DECODED_OR_UNREADABLE),
        "length_lies.mp4": (DECODED, DECODED),
    }
    films = dict.fromkeys(("bit_flips.mp4", "one_byte_off.mp4"), TEXTURED)
    return [
        Specimen(name, make, films.get(name, Film()), *expected.get(name, (UNREADABLE, UNREADABLE)))
        for name, make in broken.items()
    ]


def _unusual_content() -> list[Specimen]:
    films = {
        "video_only.mp4": Film(sound=None),
        "one_frame.mp4": Film(durations=(200,)),
        "variable_frame_rate.mp4": Film(durations=(200,) * 5 + (25,) * 40),
        **{f"phone_{90 * turn}.mp4": Film(size=(54, 96), turn=turn) for turn in (1, 2, 3)},
        "phone_mirrored.mp4": Film(turn=1, mirrored=True),
        "63x47.mp4": Film(size=(63, 47), pixels="yuv444p"),
        "63x47_mpeg4.avi": Film(size=(63, 47), codec="mpeg4", options={"qscale": "2"}, sound_codec="mp2"),
        "narrow.mp4": Film(size=(48, 80)),
        "4k.mp4": Film(size=(3840, 2160), durations=(200,) * 3),
        "full_range.mp4": Film(pixels="yuvj420p"),
        "long_pause.mp4": Film(durations=(40,) * 5 + (3000,) + (40,) * 5),
    }
    silent = frozenset({"SilentAudio"})
    return [
        *(
            Specimen(name, film.write, film, sound=DECODED if film.sound is not None else NO_SOUND)
            for name, film in films.items()
        ),
        Specimen("silent.mp4", Film(sound=0.0).write, Film(sound=0.0), sound=silent),
        Specimen("audio_only.mp4", Film(codec=None).write, pictures=NO_PICTURES),
        _of_matrix("cover_art.mp4", FilmCase("libx264", "mp4", variant="cover_first")),
        _of_matrix("two_films.mp4", FilmCase("libx264", "mp4", variant="second_video")),
        _of_matrix("size_changes.webm", FilmCase("libvpx-vp9", "webm", variant="resized")),
    ]


def _of_matrix(name: str, case: FilmCase) -> Specimen:
    """Return a film of the film matrix."""
    film = Film(size=case.size, durations=(40,) * case.pictures, sound=None)
    return Specimen(name, lambda path: write_film(case, path), film, sound=NO_SOUND)


def _codecs() -> list[Specimen]:
    films = {
        "10_bit.mp4": Film(pixels="yuv420p10le"),
        "hevc.mp4": Film(codec="libx265", options=X265),
        "hevc_10_bit.mp4": Film(codec="libx265", options=X265, pixels="yuv420p10le"),
        "av1.mp4": Film(size=(128, 96), codec="libsvtav1", options=AV1),
        "vp9.webm": Film(codec="libvpx-vp9", options=VP9, sound_codec="libopus"),
        "vp9_transparent.webm": Film(codec="libvpx-vp9", options=VP9, pixels="yuva420p", sound_codec="libopus"),
        "gif.mp4": Film(codec="gif", pixels="rgb8", options={}, sound=None, container="gif"),
        "mp4.avi": Film(container="mp4"),
        "png.mp4": Film(durations=(40,), codec="png", pixels="rgb24", options={}, sound=None, container="image2pipe"),
    }
    return [
        Specimen(
            name,
            film.write,
            film,
            sound=DECODED if film.sound is not None else NO_SOUND,
            skip_reason="" if _can_encode(film.codec) else f"PyAV has no encoder {film.codec} here",
        )
        for name, film in films.items()
    ]


def _unusual_names() -> list[Specimen]:
    good = [
        "with  spaces.mp4",
        "quo\"te's, \u201cthese\u201d.mp4",
        "\u89c6\u9891 \u4e00.mp4",
        "x" * 200 + ".mp4",
        "\u4e2d" * 80 + ".mp4",
        "http:x.mp4",
        "concat:a|b.mp4",
        "-leading.mp4",
        "%03d[1]*?.mp4",
        "$(touch gone);.mp4",
        "\u202egpj.mp4",
    ]
    bad = ["new\nline.mp4", " .mp4", os.fsdecode(b"not_utf8_\xff.mp4"), "bell\x07.mp4", "back\\slash.mp4"]
    return [
        *(Specimen(name, Film().write) for name in good),
        *(Specimen(name, lambda path: path.write_bytes(b"any"), finding="bad_clip_id") for name in bad),
    ]


def _links() -> list[Specimen]:
    def make_unreadable(name: str, make: Callable[[Path], object], skip_reason: str = "") -> Specimen:
        return Specimen(name, make, finding="unreadable", skip_reason=skip_reason)

    def forbidden(path: Path) -> None:
        Film().write(path)
        path.chmod(0)

    unreachable = frozenset({"FileUnreachable"})
    permission_reason = "root can read all files" if os.geteuid() == 0 else ""
    return [
        make_unreadable("link_to_itself.mp4", lambda path: path.symlink_to(path.name)),
        make_unreadable("link_to_nothing.mp4", lambda path: path.symlink_to("nowhere.mp4")),
        make_unreadable("pipe.mp4", os.mkfifo),
        Specimen("folder_loop", lambda path: (path.mkdir(), (path / "again").symlink_to("..")), finding="none"),
        Specimen("forbidden.mp4", forbidden, pictures=unreachable, sound=unreachable, skip_reason=permission_reason),
    ]


def _can_encode(codec: str | None) -> bool:
    import av

    try:
        av.Codec(codec, "w")
    except av.codec.codec.UnknownCodecError:
        return False
    return True


def _write_without_moov(path: Path) -> None:
    TEXTURED.write(path)
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex(b"moov") - 4])


def _write_truncated(path: Path, share: float) -> None:
    move_header_to_front(TEXTURED.write(path))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def _write_flipped_bytes(path: Path, count: int) -> None:
    """Write a film and change bytes of its pictures and sound, but not of its headers."""
    TEXTURED.write(path)
    content = bytearray(path.read_bytes())
    first, last = content.index(b"mdat") + 2000, content.rindex(b"moov") - 8
    for place in np.random.default_rng(1).integers(first, last, count):
        content[place] ^= 0x55
    path.write_bytes(content)


def _write_wrong_duration(path: Path) -> None:
    """Write a film of one second whose track header gives an hour; the time table of the track is right."""
    Film().write(path)
    content = bytearray(path.read_bytes())
    start = content.index(b"mdhd") + 4 + 16
    content[start : start + 4] = (3600 * int.from_bytes(content[start - 4 : start], "big")).to_bytes(4, "big")
    path.write_bytes(content)
