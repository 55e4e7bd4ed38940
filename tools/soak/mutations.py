"""Damage media files at random, at the places where containers and codecs store sizes, rates and times."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from tools.soak.media_sources import SIZE

_HEADER_FIELDS: Final = re.compile(
    # Boxes of MP4, chunks of RIFF, elements of Matroska, properties of FLV, and start codes of MPEG, H.264 and JPEG.
    rb"mvhd|tkhd|mdhd|elst|stsd|stts|ctts|stss|stsc|stsz|stco|avc1|hvc1|mp4[av]|alac|esds|avcC|hvcC|moov|trak|mdat"
    rb"|avih|strh|strf|fmt |data|LIST|idx1|movi|fact|RIFF"
    rb"|\x44\x89|\x2a\xd7\xb1|\xb0\x81|\xba\x81|\xb5\x88|\x9f\x81|\xe7[\x81\x82]|\xa3|\xa0|\x63\xa2|\x86|\x1f\x43\xb6\x75"
    rb"|duration|width|height|framerate|videodatarate|audiosamplerate|audiochannels|filesize|onMetaData"
    rb"|\x00\x00\x01[\xb3\xb5\xb8\x00\xba\xbb\xe0\xc0]|\x00\x00\x01[\x67\x68\x65]|\x9d\x01\x2a|\xff[\xc0\xc4\xda\xdb]"
    rb"|\x47[\x40\x41]|OggS|OpusHead|fLaC|ID3|Xing|Info|\xff\xfb",
    re.DOTALL,
)
_CODEC_TAG: Final = re.compile(
    rb"avc1|hvc1|mp4[av]|alac|XVID|FMP4|MJPG|H264|WMV2|V_[A-Z0-9/]+|A_[A-Z0-9/_]+|isom|matroska|webm|WAVE|AVI "
    rb"|vids|auds|vide|soun"
)
_OTHER_TAGS: Final = (
    b"avc1",
    b"hvc1",
    b"mp4v",
    b"MJPG",
    b"H264",
    b"DIVX",
    b"alac",
    b"ac-3",
    b"tx3g",
    b"zzzz",
    b"\0\0\0\0",
)
_EXTREMES: Final = (
    0,
    1,
    2,
    255,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**62,
    2**63 - 1,
    2**63,
    2**64 - 1,
)
_LARGE_SIZES: Final = (
    (65535, 65535),
    (16384, 16384),
    (16383, 16383),
    (8192, 8192),
    (0, 0),
    (1, 1),
    (65535, 1),
    (159, 121),
)

Mutation = Callable[[bytearray, np.random.Generator], None]


def mutate(source: bytes, rng: np.random.Generator) -> bytes:
    """Return a damaged copy: one to four random mutations, more often one than several."""
    content = bytearray(source)
    for _ in range(min(4, rng.geometric(0.5))):
        if content:
            _MUTATIONS[rng.integers(len(_MUTATIONS))](content, rng)
    return bytes(content)


def _position(content: bytearray, rng: np.random.Generator) -> int:
    """Return a random position; half of them are in the first or last 2 kB, where containers have their headers."""
    end = min(len(content), 2048)
    choice = rng.integers(4)
    if choice == 0:
        return int(rng.integers(end))
    return len(content) - 1 - int(rng.integers(end)) if choice == 1 else int(rng.integers(len(content)))


def _block(content: bytearray, rng: np.random.Generator) -> slice:
    start = _position(content, rng)
    return slice(start, min(len(content), start + int(2 ** rng.uniform(0, 13))))


def _flip_bytes(content: bytearray, rng: np.random.Generator) -> None:
    for _ in range(int(2 ** rng.uniform(0, 6))):
        content[_position(content, rng)] ^= int(rng.integers(1, 256))


def _zero_block(content: bytearray, rng: np.random.Generator) -> None:
    block = _block(content, rng)
    content[block] = bytes([int(rng.choice([0, 255]))]) * (block.stop - block.start)


def _repeat_block(content: bytearray, rng: np.random.Generator) -> None:
    block = _block(content, rng)
    content[block] = bytes(content[block]) * int(rng.integers(2, 5))


def _cut(content: bytearray, rng: np.random.Generator) -> None:
    if rng.integers(2):
        del content[_position(content, rng) :]
    else:
        del content[_block(content, rng)]


def _insert(content: bytearray, rng: np.random.Generator) -> None:
    start = _position(content, rng)
    content[start:start] = rng.bytes(int(2 ** rng.uniform(0, 10)))


def _swap_blocks(content: bytearray, rng: np.random.Generator) -> None:
    first, second = _block(content, rng), _block(content, rng)
    content[first], content[second] = bytes(content[second]), bytes(content[first])


def _append_itself(content: bytearray, rng: np.random.Generator) -> None:
    content += content[_position(content, rng) :] if rng.integers(2) else content[:]


def _overwrite_header_field(content: bytearray, rng: np.random.Generator) -> None:
    """Set a number in or near a header to an extreme value: sizes, lengths, rates, channels, time scales, offsets."""
    matches = list(_HEADER_FIELDS.finditer(content))
    if not matches:
        return
    tags: dict[bytes, list[re.Match[bytes]]] = {}
    for match in matches:
        tags.setdefault(match.group()[:4], []).append(match)
    of_tag = tags[sorted(tags)[rng.integers(len(tags))]]  # each kind is equally likely, not each occurrence
    match = of_tag[rng.integers(len(of_tag))]
    start = match.start() - 4 if rng.integers(4) == 0 else match.end() + int(2 ** rng.uniform(0, 6.5)) - 1
    width = int(rng.choice([1, 2, 4, 8]))
    value = _EXTREMES[rng.integers(len(_EXTREMES))] % 256**width
    order = "big" if rng.integers(2) else "little"
    if 0 <= start <= len(content) - width:
        content[start : start + width] = value.to_bytes(width, order)  # type: ignore[arg-type]


def _change_codec_tag(content: bytearray, rng: np.random.Generator) -> None:
    if matches := list(_CODEC_TAG.finditer(content)):
        match = matches[rng.integers(len(matches))]
        tag = _OTHER_TAGS[rng.integers(len(_OTHER_TAGS))]
        content[match.start() : match.start() + 4] = tag


def _change_picture_size(content: bytearray, rng: np.random.Generator) -> None:
    """Replace the size of the pictures wherever a header has it in whole bytes, or in 12 bits (MPEG)."""
    width, height = _LARGE_SIZES[rng.integers(len(_LARGE_SIZES))]
    for count, order in ((4, "big"), (2, "big"), (4, "little"), (2, "little")):
        for old, new in ((SIZE, (width, height)), (SIZE[::-1], (height, width))):
            encoded = [b"".join(side.to_bytes(count, order) for side in pair) for pair in (old, new)]  # type: ignore[arg-type]
            content[:] = content.replace(*encoded)
    new_mpeg = ((min(width, 4095) << 12) | min(height, 4095)).to_bytes(3, "big")
    content[:] = content.replace(
        b"\0\0\1\xb3" + ((SIZE[0] << 12) | SIZE[1]).to_bytes(3, "big"), b"\0\0\1\xb3" + new_mpeg
    )


_MUTATIONS: Final[Sequence[Mutation]] = (
    _flip_bytes,
    _zero_block,
    _repeat_block,
    _cut,
    _insert,
    _swap_blocks,
    _append_itself,
    _overwrite_header_field,
    _overwrite_header_field,
    _overwrite_header_field,
    _change_codec_tag,
    _change_picture_size,
)
