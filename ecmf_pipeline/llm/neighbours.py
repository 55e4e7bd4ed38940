"""What is said before and after an utterance of the same dialogue."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ecmf_pipeline.clips import Clip


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The words around one utterance, in the order of the dialogue.

    Attributes:
        before: What was said before it.
        after: What was said after it.
    """

    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


def neighbours_of(clips: Sequence[Clip], count: int, dialogues: str) -> Mapping[str, Neighbours]:
    """The nearest utterances before and after each clip.

    Clip ids tell the order: MELD's ``train_dia0_utt3`` does; MER's clips are drawn from many films and their numbers
    mean nothing. Utterances without words are passed over; where the corpus left some out, the next ones count.

    Args:
        clips: The clips, of any split: only words are read.
        count: How many on either side, at most.
        dialogues: Regular expression of clip ids with the groups ``dialogue`` and ``position``; see `RewriteConfig`.

    Returns:
        By clip id; clips whose id does not fit are left out.
    """
    if count == 0:
        return {}
    pattern = re.compile(dialogues)
    lines: dict[str, list[tuple[int, Clip]]] = defaultdict(list)
    for clip in clips:
        found = pattern.fullmatch(clip.clip_id)
        if found and found["position"].isdecimal():
            lines[found["dialogue"]].append((int(found["position"]), clip))
    around: dict[str, Neighbours] = {}
    for line in lines.values():
        ordered = [clip for _, clip in sorted(line, key=lambda entry: (entry[0], entry[1].clip_id))]
        for place, clip in enumerate(ordered):
            before = [other.transcript for other in ordered[:place] if other.transcript.strip()]
            after = [other.transcript for other in ordered[place + 1 :] if other.transcript.strip()]
            around[clip.clip_id] = Neighbours(tuple(before[-count:]), tuple(after[:count]))
    return around
