"""Prompts: versioned texts that ask for the emotion of an utterance, or for the cues of a written rewrite.

A transcript is data. It is rendered on one line between quotation marks that it cannot contain, so no transcript can
end the quotation, add an example or change the task.
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
from ecmf_pipeline.core.documents import parse_yaml
from ecmf_pipeline.core.errors import InputError, ParamsError
from ecmf_pipeline.core.files import fingerprint, read_text, sha256_text
from ecmf_pipeline.llm.schema import OneOf, Schema, SomeOf, Text

Calibration = Literal["everyday", "content_free", "none"]
_QUOTATION_MARKS = str.maketrans(dict.fromkeys('"“”„‟«»\uff02「」『』', "'"))
_ANGLE_BRACKETS = str.maketrans({"<": "‹", ">": "›", "\uff1c": "‹", "\uff1e": "›"})  # noqa: RUF001 - look-alikes on purpose
MAX_EMOTIONS = 2
MAX_CUE_CHARACTERS = 160
"""Maximum length of all cues of an answer together."""
PROMPT_KEYS = ("llm.prompt", "llm.cues_prompt")
"""Params that name a `Prompt`."""
CUES = (
    *("brows_down", "inner_brows_up", "brows_up", "eyes_wide", "eyes_squinting", "cheeks_up", "nose_wrinkled"),
    *("jaw_open", "smile", "frown", "lips_pressed", "mouth_stretched", "upper_lip_up", "lips_rolled", "pucker"),
    *("pitch_high", "pitch_low", "pitch_lively", "pitch_flat", "loud", "quiet", "fast", "slow"),
)
"""Names of all cues of face and voice; a prompt file has words for each."""


class Message(TypedDict):
    """One turn of a chat."""

    role: str
    content: str


class PictureMessage(TypedDict):
    """One turn of a chat with pictures, in the format of servers with vision models."""

    role: str
    content: list[dict[str, Any]]


Turn = Message | PictureMessage
Chat = Sequence[Message]
"""The turns of one question, up to its answer."""


class KnownLabel(Config):
    """The words of a prompt for one label.

    Attributes:
        word: The word that the model reads and is scored on.
        adjective: The word in the cue sentence.
        example: An utterance of that emotion, written for the prompt (never from a corpus).
    """

    word: str
    adjective: str
    example: str


class Wording(Config):
    """Templates of an enriched text; see `rewriting.enrich`.

    Attributes:
        enriched: The whole text, with ``{text}`` (the original words) and ``{cue}``.
        clear: The cue if one emotion is clear (``{first}``).
        clear_second: The same with a probable second emotion (``{first}``, ``{second}``).
        likely: The cue if one emotion is likely.
        likely_second: The same with a probable second emotion.
        unclear: The cue if no emotion is likely.
    """

    enriched: str
    clear: str
    clear_second: str
    likely: str
    likely_second: str
    unclear: str


class ServerWording(Config):
    """Chat prompt of a server about an utterance, or about pictures alone; answers are JSON.

    Attributes:
        version: Increased with every change of this section.
        instruction: The task; ``{labels}`` is replaced by the list of labels.
        item: One utterance, ``{text}``, between tags that it cannot contain; or the text after the pictures.
    """

    version: int = Field(ge=1)
    instruction: str
    item: str


class Prompt(Config):
    """One prompt file. Single braces enclose placeholders; a literal brace is doubled (``{{``).

    Attributes:
        version: Increased with every change of the file.
        instruction: The task; ``{labels}`` is replaced by the list of labels.
        comma: Separator of listed labels.
        last_comma: Separator before the last listed label.
        item: One utterance, ``{text}``, up to the start of the answer.
        space: Separator of item and answer.
        separator: Separator of items.
        labels: The labels with examples, in the order of the examples.
        aliases: Other spellings of those labels.
        content_free: Inputs without content, for calibration (Zhao et al. 2021, arXiv 2102.09690).
        everyday: Ordinary utterances, balanced over the main labels, for calibration (after Zhou et al. 2023, arXiv
            2309.17249, with a fixed batch, so a score does not depend on the corpus).
        wording: Templates of an enriched text.
        chat: Chat prompt of a server; required only by ``backend: openai``.
        frames: Chat prompt about pictures; required only by ``vote.inputs: [frames]``.
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
    def _check_complete(self) -> Prompt:
        """Check that each template has exactly its placeholders and that each alias refers to a label."""
        _check_placeholders(
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
        if unknown := sorted(set(self.aliases.values()) - set(self.labels)):
            raise ValueError(f"aliases refer to unknown labels: {', '.join(unknown)}")
        return self

    def known_labels(self, labels: Sequence[str]) -> list[KnownLabel | None]:
        """Return the entry of each label; None if the prompt has no entry, or if two labels share it."""
        names = [label.strip().lower() for label in labels]
        entries = [self.labels.get(self.aliases.get(name, name)) for name in names]
        return [entry if entries.count(entry) == 1 else None for entry in entries]

    def words(self, labels: Sequence[str]) -> list[str]:
        """Return the word for each label in the prompt; an unknown label is its own word.

        Raises:
            InputError: If a label has no word, or two labels have the same word.
        """
        words: dict[str, str] = {}
        for label, entry in zip(labels, self.known_labels(labels), strict=True):
            word = entry.word if entry else as_data(label.replace("_", " "))
            if not word:
                raise InputError(f"the label {label!r} has no word for a prompt", "rename the label in the corpus")
            if word in words:
                raise InputError(
                    f"the labels {words[word]!r} and {label!r} have the same word {word!r} in a prompt",
                    "rename one of the labels in the corpus",
                )
            words[word] = label
        return list(words)

    def adjectives(self, labels: Sequence[str]) -> list[str]:
        """Return the word for each label in a cue sentence."""
        return [
            entry.adjective if entry else word
            for word, entry in zip(self.words(labels), self.known_labels(labels), strict=True)
        ]

    def calibration_texts(self, kind: Calibration) -> tuple[str, ...]:
        """Return the utterances whose mean score is subtracted."""
        return {"everyday": self.everyday, "content_free": self.content_free, "none": ()}[kind]

    def render(self, text: str, labels: Sequence[str]) -> str:
        """Return the whole prompt as plain text, up to the start of the answer.

        Args:
            text: The utterance, sanitised by `as_data`.
            labels: The labels to choose from.
        """
        shots = [self.item.format(text=example) + self.space + word for example, word in self._examples(labels)]
        return self.separator.join([self._instruction(labels), *shots, self.item.format(text=text)])

    def messages(self, text: str, labels: Sequence[str]) -> list[Message]:
        """Return the prompt as turns of a chat.

        The instruction is part of the first user turn: some models have no system role.
        """
        turns: list[Message] = []
        for example, word in self._examples(labels):
            turns.append({"role": "user", "content": self.item.format(text=example)})
            turns.append({"role": "assistant", "content": word})
        turns.append({"role": "user", "content": self.item.format(text=text)})
        turns[0] = {"role": "user", "content": self._instruction(labels) + self.separator + turns[0]["content"]}
        return turns

    def settings(self) -> dict[str, object]:
        """Return the part of a fingerprint that describes the prompt."""
        return {
            "version": self.version,
            "hash": fingerprint(self.model_dump(mode="json", exclude={"wording", "chat", "frames"})),
        }

    def chat_messages(self, text: str, labels: Sequence[str]) -> list[Message]:
        """Return the turns for a server, up to its answer: the task, the examples with their answers, the utterance.

        Args:
            text: The utterance as spoken; it is sanitised here.
            labels: The labels to choose from.

        Raises:
            ParamsError: If the prompt file has no section ``chat``.
        """
        if self.chat is None:
            raise ParamsError("the prompt has no section 'chat'", "copy it from emotion_en.yaml", keys=PROMPT_KEYS)
        item = self.chat.item
        listed = json_words(self.words(labels))
        turns: list[Message] = [{"role": "system", "content": self.chat.instruction.format(labels=listed)}]
        for example, word in self._examples(labels):
            turns.append({"role": "user", "content": item.format(text=as_tagged_data(example))})
            turns.append({"role": "assistant", "content": json.dumps({"label": word}, ensure_ascii=False)})
        return [*turns, {"role": "user", "content": item.format(text=as_tagged_data(text))}]

    def chat_settings(self) -> dict[str, object]:
        """Return the part of a fingerprint that describes the chat prompt."""
        fields = self.model_dump(mode="json", include={"chat", "labels", "aliases"})
        return {"version": self.chat.version if self.chat else 0, "hash": fingerprint(fields)}

    def with_examples(self, examples: Mapping[str, str]) -> Prompt:
        """Return the prompt with other utterances as examples.

        Args:
            examples: Utterance by label of the corpus. Labels without an entry in the prompt are ignored; entries
                without an utterance keep their example.
        """
        entries = dict(self.labels)
        for label, text in examples.items():
            name = label.strip().lower()
            if (name := self.aliases.get(name, name)) in entries:
                entries[name] = entries[name].model_copy(update={"example": as_data(text)})
        return self.model_copy(update={"labels": entries})

    def _instruction(self, labels: Sequence[str]) -> str:
        words = self.words(labels)
        listed = self.comma.join(words[:-1]) + (self.last_comma if len(words) > 1 else "") + words[-1]
        return self.instruction.format(labels=listed)

    def _examples(self, labels: Sequence[str]) -> list[tuple[str, str]]:
        entries = [entry for entry in self.known_labels(labels) if entry]
        return [(entry.example, entry.word) for entry in self.labels.values() if entry in entries]


@dataclass(frozen=True, slots=True)
class Context:
    """The parts of an utterance that a prompt for rewriting contains.

    Attributes:
        text: The spoken words.
        before: Previous utterances, in order.
        after: Next utterances, in order.
        cues: Cues of face and voice, in words.
    """

    text: str
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    cues: tuple[str, ...] = ()


class CueAnswer(Config):
    """The answer of a model.

    Attributes:
        cues: Phrases that show the emotion, as copied by the model, separated by semicolons.
        emotions: The emotions of these phrases, the strongest first.
        clarity: Whether the phrases show an emotion.
    """

    cues: str
    emotions: tuple[str, ...] = Field(max_length=MAX_EMOTIONS)
    clarity: Literal["clear", "unclear"]


class Marks(Config):
    """Templates of the parts of a context: ``{text}`` between tags that it cannot contain."""

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
    """Templates of an enriched text.

    Attributes:
        enriched: The whole text, with ``{text}`` (the original words) and ``{cue}``.
        clear: The sentence if ``{emotions}`` are clear and no cue can be quoted.
        clear_cues: The same with ``{cues}``.
        unclear: The sentence without cues.
        shown: Cues of face and voice, ``{cues}``, after a scored rewrite.
        between: Separator of cues.
        and_: Separator of two emotions (``and`` in the file).
    """

    enriched: str
    clear: str
    clear_cues: str
    unclear: str
    shown: str
    between: str
    and_: str = Field(alias="and")


class RewritePrompt(Config):
    """One prompt file. Single braces enclose placeholders; a literal brace is doubled (``{{``).

    Attributes:
        version: Increased with every change of the file.
        instruction: The task; ``{emotions}`` is replaced by the list of emotions.
        marks: Templates of the parts of a context.
        emotions: The emotions that an answer may name.
        examples: Utterances with their answers.
        wording: Templates of an enriched text.
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
    def _check_complete(self) -> RewritePrompt:
        """Check the placeholders of the templates, the emotions of the examples, and the words for cues."""
        wording = self.wording
        _check_placeholders(
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
                raise ValueError(f"the example {example.text!r} names {sorted(unknown)}, which emotions lacks")
        if different := sorted(set(self.cue_words) ^ set(CUES)):
            raise ValueError(f"cue_words has missing or unknown cues: {different}")
        return self

    def answer_schema(self) -> Schema:
        """Return the schema of an answer, with the fields in the order of the reasoning."""
        return Schema.of(
            cues=Text(MAX_CUE_CHARACTERS, empty=True),
            emotions=SomeOf(self.emotions, MAX_EMOTIONS),
            clarity=OneOf(("clear", "unclear")),
        )

    def messages(self, context: Context) -> list[Message]:
        """Return the turns of the question about one utterance, up to the answer."""
        listed = json_words(self.emotions)
        turns: list[Message] = [{"role": "system", "content": self.instruction.format(emotions=listed)}]
        for example in self.examples:
            example_context = Context(example.text, example.before, example.after, example.cues)
            turns.append({"role": "user", "content": self._render_context(example_context)})
            answer = json.dumps(example.answer.model_dump(mode="json"), ensure_ascii=False)
            turns.append({"role": "assistant", "content": answer})
        return [*turns, {"role": "user", "content": self._render_context(context)}]

    def cue_phrases(self, cues: Sequence[str]) -> tuple[str, ...]:
        """Return the words for cues of `CUES`."""
        return tuple(self.cue_words[cue] for cue in cues)

    def cue_text(self, cues: Iterable[str]) -> str:
        """Return the words for cues of `CUES` as one text; empty without cues."""
        return self.wording.between.join(self.cue_words[cue] for cue in cues)

    def cue_suffix(self, cues: Sequence[str]) -> str:
        """Return the text that appends cues, in words, to a scored rewrite; empty without cues."""
        return self.wording.shown.format(cues=self.wording.between.join(cues)) if cues else ""

    def settings(self) -> dict[str, object]:
        """Return the part of a fingerprint that describes the prompt.

        Words for cues are part of the questions that contain them; wordings are applied after the answer.
        """
        fields = self.model_dump(mode="json", exclude={"wording", "cue_words"})
        return {"version": self.version, "hash": fingerprint(fields)}

    def _render_context(self, context: Context) -> str:
        parts: list[tuple[str, Sequence[str]]] = [
            (self.marks.before, context.before),
            (self.marks.utterance, [context.text]),
            (self.marks.after, context.after),
            (self.marks.cues, ["; ".join(context.cues)] if context.cues else []),
        ]
        return "\n".join(mark.format(text=as_tagged_data(text)) for mark, texts in parts for text in texts)


PromptT = TypeVar("PromptT", Prompt, RewritePrompt)


def packaged_prompts() -> Mapping[str, Traversable]:
    """Return the files of the packaged prompts, by name."""
    return _packaged("prompts")


def packaged_rewrite_prompts() -> Mapping[str, Traversable]:
    """Return the files of the packaged prompts for rewriting, by name."""
    return _packaged("prompts/rewrite")


def load_prompt(name: str) -> Prompt:
    """Load a packaged prompt by its name, or your own by the path of its ``.yaml`` file.

    Raises:
        ParamsError: If the prompt does not exist or is invalid.
    """
    return _load(name, Prompt, packaged_prompts(), PROMPT_KEYS, "a prompt", "emotion_en")


def load_rewrite_prompt(name: str) -> RewritePrompt:
    """Load a packaged prompt for rewriting by its name, or your own by the path of its ``.yaml`` file.

    Raises:
        ParamsError: If the prompt does not exist or is invalid.
    """
    return _load(
        name, RewritePrompt, packaged_rewrite_prompts(), ("rewrite.prompt",), "a prompt for rewriting", "rewrite_en"
    )


def _packaged(folder: str) -> dict[str, Traversable]:
    files = sorted(resources.files("ecmf_pipeline.llm").joinpath(folder).iterdir(), key=lambda file: file.name)
    return {file.name.removesuffix(".yaml"): file for file in files if file.name.endswith(".yaml")}


def _load(
    name: str,
    kind: type[PromptT],
    packaged: Mapping[str, Traversable],
    keys: Sequence[str],
    kind_name: str,
    example: str,
) -> PromptT:
    hint = f"set it to {', '.join(packaged)}, or to the path of a .yaml file"
    if name.endswith(".yaml"):
        if not Path(name).is_file():
            raise ParamsError(f"{' or '.join(keys)}: the prompt file {name} does not exist", hint, keys=keys)
        text = read_text(Path(name))
    elif name in packaged:
        text = packaged[name].read_text(encoding="utf-8")
    else:
        raise ParamsError(
            f"{' or '.join(keys)}: there is no prompt {name!r}",
            hint,
            keys=keys,
        )
    try:
        return kind.model_validate(parse_yaml(text))
    except (yaml.YAMLError, ValidationError) as error:
        raise ParamsError(
            f"{' or '.join(keys)}: {name} is not {kind_name}: {error}",
            f"start from a copy of {example}.yaml",
            keys=keys,
        ) from error


def _check_placeholders(*templates: tuple[str, Sequence[str]]) -> None:
    """Raise a ValueError if a template has other placeholders than expected."""
    for template, expected in templates:
        placeholders = [field for _, field, _, _ in Formatter().parse(template) if field is not None]
        if placeholders != expected:
            raise ValueError(
                f"{template!r} has the placeholders {placeholders} instead of {expected} (double a literal brace)"
            )


def json_words(words: Sequence[str]) -> str:
    """Return words as a comma-separated list of JSON strings."""
    return ", ".join(json.dumps(word, ensure_ascii=False) for word in words)


def question_key(chat: Chat) -> str:
    """Return the SHA-256 of a question."""
    return sha256_text(json.dumps(list(chat), ensure_ascii=False, sort_keys=True))


def as_tagged_data(text: str) -> str:
    """Return the text as data that cannot contain a tag."""
    return as_data(text).translate(_ANGLE_BRACKETS)


def as_data(text: str) -> str:
    """Return the text on one line, with apostrophes for quotation marks and spaces for control characters."""
    plain = "".join(" " if unicodedata.category(character) in {"Cc", "Cs"} else character for character in text)
    return " ".join(plain.translate(_QUOTATION_MARKS).split())
