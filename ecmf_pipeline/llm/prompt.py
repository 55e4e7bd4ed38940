"""Prompts: versioned texts that ask for the emotion of an utterance, or for the cues of a written rewrite.

A transcript is data. It stands on one line between quotation marks that it cannot itself contain, so nothing a speaker
says can end the quotation, add an example or change the task.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.abc import Traversable
from pathlib import Path
from string import Formatter
from typing import Any, Literal, TypedDict, TypeVar

import yaml
from pydantic import Field, ValidationError, model_validator

from ecmf_pipeline.core.config import Config
from ecmf_pipeline.core.errors import InputError, ParamsError
from ecmf_pipeline.core.files import fingerprint, read_text, sha256_text
from ecmf_pipeline.llm.schema import OneOf, Schema, SomeOf, Text

Calibration = Literal["everyday", "content_free", "none"]
_QUOTATION_MARKS = str.maketrans(dict.fromkeys('"“”„‟«»\uff02「」『』', "'"))
_MARKS = str.maketrans({"<": "‹", ">": "›", "\uff1c": "‹", "\uff1e": "›"})  # noqa: RUF001 - the look-alikes are meant
MOST_EMOTIONS = 2
LONGEST_CUES = 160
"""Characters of all cues of an answer."""
CUES = (
    *("brows_down", "inner_brows_up", "brows_up", "eyes_wide", "eyes_squinting", "cheeks_up", "nose_wrinkled"),
    *("jaw_open", "smile", "frown", "lips_pressed", "mouth_stretched", "upper_lip_up", "lips_rolled", "pucker"),
    *("pitch_high", "pitch_low", "pitch_lively", "pitch_flat", "loud", "quiet", "fast", "slow"),
)
"""All that a face or a voice can be said to do; a prompt file has words for each."""


class Message(TypedDict):
    """One turn of a chat."""

    role: str
    content: str


class PictureMessage(TypedDict):
    """One turn of a chat that shows pictures, as servers of vision models take it."""

    role: str
    content: list[dict[str, Any]]


Turn = Message | PictureMessage
Chat = Sequence[Message]
"""The turns of one question, up to its answer."""


class KnownLabel(Config):
    """How a prompt speaks of one label.

    Attributes:
        word: What the LLM reads and is scored on.
        adjective: What the cue sentence says.
        example: An utterance of that emotion, written for the prompt (never from a corpus).
    """

    word: str
    adjective: str
    example: str


class Wording(Config):
    """The sentences that an answer is put in; see `rewriting.enrich`.

    Attributes:
        enriched: The whole text, of ``{text}`` (the original words) and ``{cue}``.
        clear: The cue when one emotion is clear (``{first}``).
        clear_second: The same when another is well possible (``{first}``, ``{second}``).
        likely: The cue when one emotion is likely.
        likely_second: The same when another is well possible.
        unclear: The cue when no emotion stands out.
    """

    enriched: str
    clear: str
    clear_second: str
    likely: str
    likely_second: str
    unclear: str


class ServerWording(Config):
    """How a server is asked about an utterance, or about pictures alone: in the turns of a chat, with answers in JSON.

    Attributes:
        version: Raised with every change of this section.
        instruction: The task; ``{labels}`` is where the labels are listed.
        item: One utterance, ``{text}``, between marks that it cannot itself contain; or what stands after the pictures.
    """

    version: int = Field(ge=1)
    instruction: str
    item: str


class Prompt(Config):
    """One prompt file. A brace that is meant stands twice (``{{``): single ones are places to fill.

    Attributes:
        version: Raised with every change of the file.
        instruction: The task; ``{labels}`` is where the labels are listed.
        comma: What stands between listed labels.
        last_comma: What stands before the last one.
        item: One utterance, ``{text}``, up to the place of the answer.
        space: What stands between item and answer.
        separator: What stands between items.
        labels: The labels the prompt has examples for, in the order of the examples.
        aliases: Other spellings of those labels.
        content_free: Inputs without content, for calibration (Zhao et al. 2021, arXiv 2102.09690).
        everyday: Ordinary utterances, balanced over the main labels, for calibration (after Zhou et al. 2023, arXiv
            2309.17249, with a fixed batch, so that a score does not depend on the corpus).
        wording: The sentences that the answer is put in.
        chat: How a server is asked; only ``backend: openai`` needs it.
        frames: How a server is asked about pictures; only ``vote.inputs: [frames]`` needs it.
    """

    version: int = Field(ge=1)
    instruction: str
    comma: str
    last_comma: str
    item: str
    space: str
    separator: str
    labels: dict[str, KnownLabel]
    aliases: dict[str, str]
    content_free: tuple[str, ...] = Field(min_length=1)
    everyday: tuple[str, ...] = Field(min_length=1)
    wording: Wording
    chat: ServerWording | None = None
    frames: ServerWording | None = None

    @model_validator(mode="after")
    def _complete(self) -> Prompt:
        """Every place to fill is there and nothing else, every alias leads somewhere."""
        _check_places(
            (self.instruction, ["labels"]),
            (self.item, ["text"]),
            *([(self.chat.instruction, ["labels"]), (self.chat.item, ["text"])] if self.chat else []),
            *([(self.frames.instruction, ["labels"]), (self.frames.item, [])] if self.frames else []),
            (self.wording.enriched, ["text", "cue"]),
            (self.wording.clear, ["first"]),
            (self.wording.clear_second, ["first", "second"]),
            (self.wording.likely, ["first"]),
            (self.wording.likely_second, ["first", "second"]),
            (self.wording.unclear, []),
        )
        if lost := sorted(set(self.aliases.values()) - set(self.labels)):
            raise ValueError(f"aliases lead to unknown labels: {', '.join(lost)}")
        return self

    def known(self, labels: Sequence[str]) -> list[KnownLabel | None]:
        """What the prompt knows of each label; None where it knows nothing, or where two labels would share a word."""
        names = [label.strip().lower() for label in labels]
        found = [self.labels.get(self.aliases.get(name, name)) for name in names]
        return [known if found.count(known) == 1 else None for known in found]

    def words(self, labels: Sequence[str]) -> list[str]:
        """The word that stands for each label in the prompt; a label that is not known stands for itself.

        Raises:
            InputError: When a label has no word, or two have the same.
        """
        words: dict[str, str] = {}
        for label, known in zip(labels, self.known(labels), strict=True):
            word = known.word if known else as_data(label.replace("_", " "))
            if not word or word in words:
                what = f"{words[word]!r} and {label!r} are both {word!r}" if word else f"{label!r} is nothing"
                raise InputError(f"labels: to a language model {what}", "rename one in the corpus")
            words[word] = label
        return list(words)

    def adjectives(self, labels: Sequence[str]) -> list[str]:
        """The word that stands for each label in a cue sentence."""
        return [
            known.adjective if known else word
            for word, known in zip(self.words(labels), self.known(labels), strict=True)
        ]

    def calibration_texts(self, kind: Calibration) -> tuple[str, ...]:
        """The utterances whose mean score is subtracted."""
        return {"everyday": self.everyday, "content_free": self.content_free, "none": ()}[kind]

    def render(self, text: str, labels: Sequence[str]) -> str:
        """The whole prompt as plain text, up to where the answer begins.

        Args:
            text: The utterance, made harmless by `as_data`.
            labels: The labels to choose from.
        """
        shots = [self.item.format(text=example) + self.space + word for example, word in self._examples(labels)]
        return self.separator.join([self._instruction(labels), *shots, self.item.format(text=text)])

    def messages(self, text: str, labels: Sequence[str]) -> list[Message]:
        """The same as turns of a chat; the instruction opens the first, since not every model has a system role."""
        turns: list[Message] = []
        for example, word in self._examples(labels):
            turns.append({"role": "user", "content": self.item.format(text=example)})
            turns.append({"role": "assistant", "content": word})
        turns.append({"role": "user", "content": self.item.format(text=text)})
        turns[0] = {"role": "user", "content": self._instruction(labels) + self.separator + turns[0]["content"]}
        return turns

    def settings(self) -> dict[str, object]:
        """The prompt's part of a fingerprint."""
        return {
            "version": self.version,
            "hash": fingerprint(self.model_dump(mode="json", exclude={"wording", "chat", "frames"})),
        }

    def chat_messages(self, text: str, labels: Sequence[str]) -> list[Message]:
        """The turns that ask a server, up to its answer: the task, the examples with their answers, the utterance.

        Args:
            text: The utterance as it was spoken; it is made harmless here.
            labels: The labels to choose from.

        Raises:
            ParamsError: When the prompt file does not say how a server is asked.
        """
        if self.chat is None:
            raise ParamsError("the prompt has no section `chat`", "copy it from emotion_en.yaml")
        item = self.chat.item
        listed = json_words(self.words(labels))
        turns: list[Message] = [{"role": "system", "content": self.chat.instruction.format(labels=listed)}]
        for example, word in self._examples(labels):
            turns.append({"role": "user", "content": item.format(text=unmarked(example))})
            turns.append({"role": "assistant", "content": json.dumps({"label": word}, ensure_ascii=False)})
        return [*turns, {"role": "user", "content": item.format(text=unmarked(text))}]

    def chat_settings(self) -> dict[str, object]:
        """The same for a server: what it is asked depends on these alone."""
        asked = self.model_dump(mode="json", include={"chat", "labels", "aliases"})
        return {"version": self.chat.version if self.chat else 0, "hash": fingerprint(asked)}

    def with_examples(self, examples: Mapping[str, str]) -> Prompt:
        """The prompt with other utterances as examples.

        Args:
            examples: Utterance by label of the corpus; a label that the prompt does not know, or that has none, keeps
                what the prompt says.
        """
        known = dict(self.labels)
        for label, text in examples.items():
            name = label.strip().lower()
            if (name := self.aliases.get(name, name)) in known:
                known[name] = known[name].model_copy(update={"example": as_data(text)})
        return self.model_copy(update={"labels": known})

    def _instruction(self, labels: Sequence[str]) -> str:
        words = self.words(labels)
        listed = self.comma.join(words[:-1]) + (self.last_comma if len(words) > 1 else "") + words[-1]
        return self.instruction.format(labels=listed)

    def _examples(self, labels: Sequence[str]) -> list[tuple[str, str]]:
        asked = [known for known in self.known(labels) if known]
        return [(known.example, known.word) for known in self.labels.values() if known in asked]


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
        cues: Phrases that show the emotion, as the model copied them, separated by semicolons.
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
        _check_places(
            (self.instruction, ["emotions"]),
            *((mark, ["text"]) for mark in self.marks.model_dump().values()),
            (wording.enriched, ["text", "cue"]),
            (wording.clear, ["emotions"]),
            (wording.clear_cues, ["emotions", "cues"]),
            (wording.unclear, []),
            (wording.shown, ["cues"]),
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
        listed = json_words(self.emotions)
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


PromptT = TypeVar("PromptT", Prompt, RewritePrompt)


def packaged_prompts() -> Mapping[str, Traversable]:
    """The files of the prompts that ship with the package, by name."""
    return _packaged("prompts")


def packaged_rewrite_prompts() -> Mapping[str, Traversable]:
    """The files of the prompts for rewriting that ship with the package, by name."""
    return _packaged("prompts/rewrite")


def load_prompt(name: str) -> Prompt:
    """Read a packaged prompt by its name, or one's own by the path of its ``.yaml`` file.

    Raises:
        ParamsError: When there is none, or it is not a prompt.
    """
    return _load(name, Prompt, packaged_prompts(), "", "a prompt", "emotion_en")


def load_rewrite_prompt(name: str) -> RewritePrompt:
    """Read a packaged prompt for rewriting by its name, or one's own by the path of its ``.yaml`` file.

    Raises:
        ParamsError: When there is none, or it is no prompt for rewriting.
    """
    return _load(
        name, RewritePrompt, packaged_rewrite_prompts(), "rewrite.prompt: ", "a prompt for rewriting", "rewrite_en"
    )


def _packaged(folder: str) -> dict[str, Traversable]:
    files = sorted(resources.files("ecmf_pipeline.llm").joinpath(folder).iterdir(), key=lambda file: file.name)
    return {file.name.removesuffix(".yaml"): file for file in files if file.name.endswith(".yaml")}


def _load(
    name: str, kind: type[PromptT], packaged: Mapping[str, Traversable], param: str, what: str, example: str
) -> PromptT:
    if name.endswith(".yaml"):
        if not Path(name).is_file():
            raise ParamsError(f"{param}the prompt file {name} is missing")
        text = read_text(Path(name))
    elif name in packaged:
        text = packaged[name].read_text(encoding="utf-8")
    else:
        raise ParamsError(
            f"{param}there is no prompt {name!r}", f"take {' or '.join(packaged)}, or the path of a .yaml file"
        )
    try:
        return kind.model_validate(yaml.safe_load(text))
    except (yaml.YAMLError, ValidationError) as error:
        raise ParamsError(f"{param}{name} is not {what}: {error}", f"start from a copy of {example}.yaml") from error


def _check_places(*templates: tuple[str, Sequence[str]]) -> None:
    """Refuse a template that has other places to fill than those given."""
    for template, places in templates:
        if (found := [place for _, place, _, _ in Formatter().parse(template) if place is not None]) != places:
            raise ValueError(
                f"{template!r} has the places {found} to fill, not {places} (a brace that is meant stands twice)"
            )


def json_words(words: Sequence[str]) -> str:
    """Words as JSON writes them, as a server is told them."""
    return ", ".join(json.dumps(word, ensure_ascii=False) for word in words)


def question_key(chat: Chat) -> str:
    """SHA-256 of a question."""
    return sha256_text(json.dumps(list(chat), ensure_ascii=False, sort_keys=True))


def unmarked(text: str) -> str:
    """The text as data that cannot end the marks around it."""
    return as_data(text).translate(_MARKS)


def as_data(text: str) -> str:
    """The text on one line, with its quotation marks turned into apostrophes and control characters into spaces."""
    plain = "".join(" " if unicodedata.category(character) in {"Cc", "Cs"} else character for character in text)
    return " ".join(plain.translate(_QUOTATION_MARKS).split())
