"""The zoo: bad and odd files as they turn up in corpora, made on the spot, and what each must come to."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from tests.zoo.films import Film, to_streaming

RIGHT = "right"
UNREADABLE = frozenset({"UnreadableMedia"})
EITHER = frozenset({RIGHT, "UnreadableMedia"})
SHOWN = frozenset({RIGHT})
NO_PICTURES = frozenset({"NoVideoStream"})
NO_SOUND = frozenset({"NoAudioStream"})

X265 = {"preset": "ultrafast", "crf": "10", "x265-params": "log-level=none:pools=1"}
VP9 = {"deadline": "realtime", "cpu-used": "8", "crf": "10", "b": "0", "auto-alt-ref": "0"}
TEXTURED = Film(texture=40, lengths=(40,) * 50)


@dataclass(frozen=True)
class Specimen:
    """One file of the zoo.

    Attributes:
        name: Its file name.
        make: Writes it.
        film: What its pictures and sound are where they are right.
        pictures: What may become of its pictures: ``right``, or reasons.
        sound: The same of its sound.
        finding: The kind of finding by which `index` leaves it out; empty when it is listed as a clip.
        why_not: Why it cannot be made on this machine; empty when it can.
    """

    name: str
    make: Callable[[Path], object]
    film: Film = field(default_factory=Film)
    pictures: frozenset[str] = SHOWN
    sound: frozenset[str] = SHOWN
    finding: str = ""
    why_not: str = ""


def zoo() -> list[Specimen]:
    """All specimens."""
    return [*_broken(), *_odd(), *_codecs(), *_named(), *_links()]


def build(folder: Path) -> list[Specimen]:
    """Write the zoo into a folder.

    Returns:
        The specimens that this machine can make.
    """
    os.environ.setdefault("SVT_LOG", "1")  # the AV1 encoder is talkative
    folder.mkdir(parents=True, exist_ok=True)
    made = [specimen for specimen in zoo() if not specimen.why_not]
    for specimen in made:
        specimen.make(folder / specimen.name)
    return made


def healthy(folder: Path) -> dict[str, Film]:
    """Write three clips with nothing wrong, by clip id."""
    folder.mkdir(parents=True, exist_ok=True)
    films = {"healthy_1": Film(), "healthy_2": Film(size=(80, 60)), "healthy_3": Film(lengths=(40,) * 40, texture=20)}
    for name, film in films.items():
        film.write(folder / f"{name}.mp4")
    return films


def _broken() -> list[Specimen]:
    broken = {
        "zero_bytes.mp4": lambda path: path.write_bytes(b""),
        "random_bytes.mp4": lambda path: path.write_bytes(np.random.default_rng(0).bytes(20_000)),
        "text.mp4": lambda path: path.write_text("name,label\nclip,happy\n" * 50),
        "playlist.mp4": lambda path: path.write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n"),
        "no_moov.mp4": _without_moov,
        "cut_in_half.mp4": lambda path: _cut(path, 0.5),
        "bit_flips.mp4": lambda path: _flip(path, 400),
        "one_byte_off.mp4": lambda path: _flip(path, 1),
        "length_lies.mp4": _lying_about_its_length,
    }
    expected = {"one_byte_off.mp4": (EITHER, EITHER), "length_lies.mp4": (SHOWN, SHOWN)}
    films = dict.fromkeys(("bit_flips.mp4", "one_byte_off.mp4"), TEXTURED)
    return [
        Specimen(name, make, films.get(name, Film()), *expected.get(name, (UNREADABLE, UNREADABLE)))
        for name, make in broken.items()
    ]


def _odd() -> list[Specimen]:
    films = {
        "video_only.mp4": Film(sound=None),
        "one_frame.mp4": Film(lengths=(200,)),
        "variable_frame_rate.mp4": Film(lengths=(200,) * 5 + (25,) * 40),
        **{f"phone_{90 * turn}.mp4": Film(size=(54, 96), turn=turn) for turn in (1, 2, 3)},
        "phone_mirrored.mp4": Film(turn=1, mirrored=True),
        "63x47.mp4": Film(size=(63, 47), pixels="yuv444p"),
        "63x47_mpeg4.avi": Film(size=(63, 47), codec="mpeg4", options={"qscale": "2"}, sound_codec="mp2"),
        "narrow.mp4": Film(size=(48, 80)),
        "4k.mp4": Film(size=(3840, 2160), lengths=(200,) * 3),
        "full_range.mp4": Film(pixels="yuvj420p"),
        "long_pause.mp4": Film(lengths=(40,) * 5 + (3000,) + (40,) * 5),
    }
    silent = frozenset({"SilentAudio"})
    return [
        *(
            Specimen(name, film.write, film, sound=SHOWN if film.sound is not None else NO_SOUND)
            for name, film in films.items()
        ),
        Specimen("silent.mp4", Film(sound=0.0).write, Film(sound=0.0), sound=silent),
        Specimen("audio_only.mp4", Film(codec=None).write, pictures=NO_PICTURES),
        Specimen("cover_art.mp4", _with_cover_art),
        Specimen("two_films.mp4", _with_a_second_film, sound=NO_SOUND),
        Specimen("size_changes.webm", _changing_its_size, Film(lengths=(40,) * 50), sound=NO_SOUND),
    ]


def _codecs() -> list[Specimen]:
    films = {
        "10_bit.mp4": Film(pixels="yuv420p10le"),
        "hevc.mp4": Film(codec="libx265", options=X265),
        "hevc_10_bit.mp4": Film(codec="libx265", options=X265, pixels="yuv420p10le"),
        "av1.mp4": Film(size=(128, 96), codec="libsvtav1", options={"preset": "12", "crf": "10"}),
        "vp9.webm": Film(codec="libvpx-vp9", options=VP9, sound_codec="libopus"),
        "vp9_transparent.webm": Film(codec="libvpx-vp9", options=VP9, pixels="yuva420p", sound_codec="libopus"),
        "gif.mp4": Film(codec="gif", pixels="rgb8", options={}, sound=None, container="gif"),
        "mp4.avi": Film(container="mp4"),
        "png.mp4": Film(lengths=(40,), codec="png", pixels="rgb24", options={}, sound=None, container="image2pipe"),
    }
    return [
        Specimen(
            name,
            film.write,
            film,
            sound=SHOWN if film.sound is not None else NO_SOUND,
            why_not="" if _can_encode(film.codec) else f"PyAV has no encoder {film.codec} here",
        )
        for name, film in films.items()
    ]


def _named() -> list[Specimen]:
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
    def unlistable(name: str, make: Callable[[Path], object], why_not: str = "") -> Specimen:
        return Specimen(name, make, finding="unreadable", why_not=why_not)

    def forbidden(path: Path) -> None:
        Film().write(path)
        path.chmod(0)

    unreachable = frozenset({"FileUnreachable"})
    may_not = "root may read every file" if os.geteuid() == 0 else ""
    return [
        unlistable("link_to_itself.mp4", lambda path: path.symlink_to(path.name)),
        unlistable("link_to_nothing.mp4", lambda path: path.symlink_to("nowhere.mp4")),
        unlistable("pipe.mp4", os.mkfifo),
        Specimen("folder_loop", lambda path: (path.mkdir(), (path / "again").symlink_to("..")), finding="none"),
        Specimen("forbidden.mp4", forbidden, pictures=unreachable, sound=unreachable, why_not=may_not),
    ]


def _can_encode(codec: str | None) -> bool:
    import av

    try:
        av.Codec(codec, "w")
    except av.codec.codec.UnknownCodecError:
        return False
    return True


def _without_moov(path: Path) -> None:
    TEXTURED.write(path)
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex(b"moov") - 4])


def _cut(path: Path, share: float) -> None:
    to_streaming(TEXTURED.write(path))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def _flip(path: Path, count: int) -> None:
    """Change bytes of the pictures and the sound, none of the headers."""
    TEXTURED.write(path)
    content = bytearray(path.read_bytes())
    first, last = content.index(b"mdat") + 2000, content.rindex(b"moov") - 8
    for place in np.random.default_rng(1).integers(first, last, count):
        content[place] ^= 0x55
    path.write_bytes(content)


def _lying_about_its_length(path: Path) -> None:
    """An hour says the header of the pictures' track; its table of times, which counts, says a second."""
    Film().write(path)
    content = bytearray(path.read_bytes())
    at = content.index(b"mdhd") + 4 + 16
    content[at : at + 4] = (3600 * int.from_bytes(content[at - 4 : at], "big")).to_bytes(4, "big")
    path.write_bytes(content)


def _with_cover_art(path: Path) -> None:
    import av
    from av.stream import Disposition

    film = Film()
    with av.open(str(path), "w") as container:
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 320, 240, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        pictures, sound = film.video_stream(container), film.audio_stream(container)
        picture = av.VideoFrame.from_ndarray(np.full((240, 320, 3), 250, np.uint8), format="rgb24")
        picture.pts, picture.time_base = 0, Fraction(1, 1)
        packets = [*cover.encode(picture), *cover.encode(), *film.packets(pictures), *film.tone(sound)]
        for packet in packets:
            container.mux(packet)


def _with_a_second_film(path: Path) -> None:
    import av

    with av.open(str(path), "w") as container:
        films = [Film(), Film(size=(256, 192))]
        streams = [film.video_stream(container) for film in films]
        for film, stream in zip(films, streams, strict=True):
            for packet in film.packets(stream):
                container.mux(packet)


def _changing_its_size(path: Path) -> None:
    """As video calls are recorded: the sender halves its pictures when the line is bad."""
    import av

    whole = Film(lengths=(40,) * 50, codec="libvpx-vp9", options=VP9)
    with av.open(str(path), "w") as container, av.open(os.devnull, "w", format="webm") as elsewhere:
        stream = whole.video_stream(container)
        small = replace(whole, size=(32, 24))
        packets = whole.packets(stream, until=1.0) + small.packets(small.video_stream(elsewhere), since=1.0)
        for packet in packets:
            packet.stream = stream
            container.mux(packet)
