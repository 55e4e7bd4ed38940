"""Prompts for the written rewrite: what a model is shown of an utterance, and what it must answer.

All that is shown is data between marks that it cannot itself contain. The answer names cues and emotions alone: the
enriched text is put together here, from the original words, so that no answer can lose or change them.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Formatter
from typing import Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from ecmf_pipeline.core.clips import Clip
from ecmf_pipeline.core.config import Config
from ecmf_pipeline.core.errors import ParamsError
from ecmf_pipeline.core.files import fingerprint, read_text
from ecmf_pipeline.llm.config import RewriteConfig
from ecmf_pipeline.llm.prompt import Message, unmarked
from ecmf_pipeline.llm.schema import OneOf, Schema, SomeOf, Text

MOST_EMOTIONS = 2
LONGEST_CUES = 160
"""Characters of all cues of an answer."""
CUES = (
    *("brows_down", "inner_brows_up", "brows_up", "eyes_wide", "eyes_squinting", "cheeks_up", "nose_wrinkled"),
    *("jaw_open", "smile", "frown", "lips_pressed", "mouth_stretched", "upper_lip_up", "lips_rolled", "pucker"),
    *("pitch_high", "pitch_low", "pitch_lively", "pitch_flat", "loud", "quiet", "fast", "slow"),
)
"""All that a face or a voice can be said to do; a prompt file has words for each."""


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The words around one utterance, in the order of the dialogue.

    Attributes:
        before: What was said before it.
        after: What was said after it.
    """

    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Context:
    """What a model is shown of one utterance.

    Attributes:
        text: The words spoken.
        before: What was said before them, in order.
        after: What was said after them, in order.
        cues: What face and voice do, in words.
    """

    text: str
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    cues: tuple[str, ...] = ()


class CueAnswer(Config):
    """What a model answers.

    Attributes:
        cues: Phrases that show the emotion, as the model copied them, `BETWEEN` them.
        emotions: The emotions that they show, the stronger first.
        clarity: Whether they show any.
    """

    cues: str
    emotions: tuple[str, ...] = Field(max_length=MOST_EMOTIONS)
    clarity: Literal["clear", "unclear"]


class Marks(Config):
    """Where each part stands, ``{text}`` between marks that it cannot itself contain."""

    before: str
    after: str
    cues: str
    utterance: str


class Example(Config):
    """An utterance with its answer, written for the prompt."""

    text: str
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    cues: tuple[str, ...] = ()
    answer: CueAnswer


class RewriteWording(Config):
    """The sentences that an answer is put in.

    Attributes:
        enriched: The whole text, of ``{text}`` (the original words) and ``{cue}``.
        clear: The sentence where ``{emotions}`` are clear and no cue can be quoted.
        clear_cues: The same with ``{cues}``.
        unclear: The sentence where there are no cues.
        shown: What face and voice do, ``{cues}``, where no model writes.
        between: What stands between cues.
        and_: What stands between two emotions (``and`` in the file).
    """

    enriched: str
    clear: str
    clear_cues: str
    unclear: str
    shown: str
    between: str
    and_: str = Field(alias="and")


class RewritePrompt(Config):
    """One prompt file. A brace that is meant stands twice (``{{``): single ones are places to fill.

    Attributes:
        version: Raised with every change of the file.
        instruction: The task; ``{emotions}`` is where the emotions are listed.
        marks: Where each part of what is shown stands.
        emotions: The words that an answer may name.
        examples: Utterances with their answers.
        wording: The sentences that an answer is put in.
        cue_words: Words for each of `CUES`.
    """

    version: int = Field(ge=1)
    instruction: str
    marks: Marks
    emotions: tuple[str, ...] = Field(min_length=2)
    examples: tuple[Example, ...]
    wording: RewriteWording
    cue_words: dict[str, str]

    @model_validator(mode="after")
    def _complete(self) -> RewritePrompt:
        """Every place to fill is there and nothing else; examples keep to the schema; each cue has words."""
        wording = self.wording
        for template, places in (
            (self.instruction, ["emotions"]),
            *((mark, ["text"]) for mark in self.marks.model_dump().values()),
            (wording.enriched, ["text", "cue"]),
            (wording.clear, ["emotions"]),
            (wording.clear_cues, ["emotions", "cues"]),
            (wording.unclear, []),
            (wording.shown, ["cues"]),
        ):
            if (found := [place for _, place, _, _ in Formatter().parse(template) if place is not None]) != places:
                raise ValueError(
                    f"{template!r} has the places {found} to fill, not {places} (a brace that is meant stands twice)"
                )
        for example in self.examples:
            if unknown := set(example.answer.emotions) - set(self.emotions):
                raise ValueError(f"the example {example.text!r} names {sorted(unknown)}, not among `emotions`")
        if set(self.cue_words) != set(CUES):
            raise ValueError(f"cue_words differ from what there is: {sorted(set(self.cue_words) ^ set(CUES))}")
        return self

    def schema_of_answers(self) -> Schema:
        """The form of an answer: what is found first is written first."""
        return Schema.of(
            cues=Text(LONGEST_CUES, empty=True),
            emotions=SomeOf(self.emotions, MOST_EMOTIONS),
            clarity=OneOf(("clear", "unclear")),
        )

    def messages(self, context: Context) -> list[Message]:
        """The turns that ask about one utterance, up to the answer."""
        listed = ", ".join(json.dumps(word, ensure_ascii=False) for word in self.emotions)
        turns: list[Message] = [{"role": "system", "content": self.instruction.format(emotions=listed)}]
        for example in self.examples:
            shown = Context(example.text, example.before, example.after, example.cues)
            turns.append({"role": "user", "content": self._shown(shown)})
            answer = json.dumps(example.answer.model_dump(mode="json"), ensure_ascii=False)
            turns.append({"role": "assistant", "content": answer})
        return [*turns, {"role": "user", "content": self._shown(context)}]

    def words_for(self, cues: Sequence[str]) -> tuple[str, ...]:
        """Words for some of `CUES`."""
        return tuple(self.cue_words[cue] for cue in cues)

    def cue_text(self, cues: Iterable[str]) -> str:
        """Some of `CUES` in words, as one text; empty where there are none."""
        return self.wording.between.join(self.cue_words[cue] for cue in cues)

    def told(self, cues: Sequence[str]) -> str:
        """What stands after a text where cues, in words, are told without a model; empty where there are none."""
        return self.wording.shown.format(cues=self.wording.between.join(cues)) if cues else ""

    def settings(self) -> dict[str, object]:
        """The prompt's part of a fingerprint: words for cues count where they are shown, wordings need no model."""
        asked = self.model_dump(mode="json", exclude={"wording", "cue_words"})
        return {"version": self.version, "hash": fingerprint(asked)}

    def _shown(self, context: Context) -> str:
        parts: list[tuple[str, Sequence[str]]] = [
            (self.marks.before, context.before),
            (self.marks.utterance, [context.text]),
            (self.marks.after, context.after),
            (self.marks.cues, ["; ".join(context.cues)] if context.cues else []),
        ]
        return "\n".join(mark.format(text=unmarked(text)) for mark, texts in parts for text in texts)


def packaged_rewrite_prompts() -> Mapping[str, str]:
    """The prompts for rewriting that ship with the package: their text by name."""
    folder = resources.files("ecmf_pipeline.llm") / "prompts" / "rewrite"
    files = sorted((entry.name, entry) for entry in folder.iterdir() if entry.name.endswith(".yaml"))
    return {name.removesuffix(".yaml"): entry.read_text(encoding="utf-8") for name, entry in files}


def load_rewrite_prompt(name: str) -> RewritePrompt:
    """Read a packaged prompt by its name, or one's own by the path of its ``.yaml`` file.

    Raises:
        ParamsError: When there is none, or it is no prompt for rewriting.
    """
    packaged = packaged_rewrite_prompts()
    if name.endswith(".yaml"):
        if not Path(name).is_file():
            raise ParamsError(f"rewrite.prompt: the prompt file {name} is missing")
        text = read_text(Path(name))
    elif name in packaged:
        text = packaged[name]
    else:
        raise ParamsError(
            f"rewrite.prompt: there is no prompt {name!r}",
            f"take {' or '.join(packaged)}, or the path of a .yaml file",
        )
    try:
        return RewritePrompt.model_validate(yaml.safe_load(text))
    except (yaml.YAMLError, ValidationError) as error:
        raise ParamsError(
            f"rewrite.prompt: {name} is not a prompt for rewriting: {error}", "start from a copy of rewrite_en.yaml"
        ) from error


def contexts_of(
    clips: Sequence[Clip], config: RewriteConfig, cues: Sequence[Mapping[str, Sequence[str]]]
) -> dict[str, Context]:
    """What the rewrite may show of each clip with words, by clip id: the words, their neighbours, cues.

    Args:
        clips: The whole corpus.
        config: How many neighbours are shown, and by which prompt.
        cues: Names of cues by clip id, of each branch that is told of.
    """
    prompt = load_rewrite_prompt(config.prompt)
    around = neighbours_of(clips, config.neighbours, config.dialogues)
    contexts = {}
    for clip in clips:
        if clip.transcript.strip():
            names = [name for table in cues for name in table.get(clip.clip_id, ())]
            near = around.get(clip.clip_id, Neighbours())
            contexts[str(clip.clip_id)] = Context(clip.transcript, near.before, near.after, prompt.words_for(names))
    return contexts


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
