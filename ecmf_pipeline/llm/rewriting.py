"""The rewrite: what each clip says, with the emotional cues in it put in words after it.

Scored, a sentence follows from the model's label scores by fixed rules; written, the model finds cues and emotions,
which are checked and put in words.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.clips import Clip
from ecmf_pipeline.llm.answers import ScoreBooks
from ecmf_pipeline.llm.config import LlmConfig, RewriteConfig
from ecmf_pipeline.llm.generation import fill_in
from ecmf_pipeline.llm.prompt import (
    Context,
    Prompt,
    RewritePrompt,
    as_data,
    load_prompt,
    load_rewrite_prompt,
)
from ecmf_pipeline.llm.schema import Value
from ecmf_pipeline.llm.scoring import label_scores, probabilities
from ecmf_pipeline.llm.server_run import shortened
from ecmf_pipeline.runner import Engine

_BETWEEN = re.compile("[;；]")  # noqa: RUF001 - both scripts
_ENDS = " .,;:!?\"'()。，；：！？、…（）“”"  # noqa: RUF001 - both scripts

Neighbours = tuple[tuple[str, ...], tuple[str, ...]]
"""The words before and after one utterance."""


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
            before, after = around.get(clip.clip_id, ((), ()))
            contexts[str(clip.clip_id)] = Context(clip.transcript, before, after, prompt.words_for(names))
    return contexts


def neighbours_of(clips: Sequence[Clip], count: int, dialogues: str) -> Mapping[str, Neighbours]:
    """The nearest utterances before and after each clip, in the order of the dialogue.

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
            around[clip.clip_id] = tuple(before[-count:]), tuple(after[:count])
    return around


@dataclass(frozen=True, slots=True)
class Rewritten:
    """The enriched texts, and what they took.

    Attributes:
        texts: The enriched text of each clip with words; the original alone where the model abstains.
        unclear: How many of them name no emotion, since the model found none.
        unquoted: How many cues were left out, since they stand nowhere in what the model was shown.
        asked: How many questions were answered just now.
        cached: How many were answered from the cache.
        cut: How many clips say more than the model was shown.
        quarantined: How many clips are set aside.
        invalid: How many clips the model abstains on because its answers were not valid.
    """

    texts: Mapping[str, str] = field(default_factory=dict)
    unclear: int = 0
    unquoted: int = 0
    asked: int = 0
    cached: int = 0
    cut: int = 0
    quarantined: int = 0
    invalid: int = 0


def enrich_texts(
    llm: LlmConfig,
    rewrite: RewriteConfig,
    contexts: Mapping[str, Context],
    labels: Sequence[str],
    *,
    books: ScoreBooks,
    engine: Engine | None = None,
) -> Rewritten:
    """Enrich what clips say, asking only what no cache knows.

    Args:
        llm: The model.
        rewrite: How transcripts are enriched.
        contexts: What there is to show of each clip with words, by clip id.
        labels: Labels that are scored, (K,).
        books: Where the stage keeps what it has asked.
        engine: Who runs the workers; None: as ``llm`` says.

    Raises:
        ModelError: When the model cannot be loaded.
        TryAgain: As `answers.ask_about` does, with what else it raises.
    """
    prompt = load_rewrite_prompt(rewrite.prompt)
    if rewrite.how == "written":
        return write_rewrites(contexts, config=llm, prompt=prompt, books=books, engine=engine)
    scores = label_scores(
        llm,
        {clip_id: context.text for clip_id, context in contexts.items()},
        labels,
        books=books,
        engine=engine,
    )
    wording = load_prompt(llm.prompt)
    texts, unclear = {}, 0
    probs = probabilities(scores.values, temperature=rewrite.temperature)
    for (clip_id, context), row in zip(contexts.items(), probs, strict=True):
        text = enrich(context.text, row, labels, prompt=wording, config=rewrite)
        unclear += wording.wording.unclear in text
        texts[clip_id] = text + prompt.told(context.cues)
    return Rewritten(
        texts,
        unclear,
        asked=scores.asked,
        cached=scores.cached,
        cut=scores.truncated,
        quarantined=scores.quarantined,
        invalid=scores.invalid,
    )


def enrich(
    transcript: str, probs: NDArray[np.float64], labels: Sequence[str], *, prompt: Prompt, config: RewriteConfig
) -> str:
    """The transcript with one cue sentence after it.

    The words are worded from the probabilities by fixed rules: a small model's own rewrites invent things that were not
    said, its likelihoods do not.

    Args:
        transcript: The words spoken; they stand in the result as they are.
        probs: Probability of each label, (K,); NaN where the model gave none.
        labels: The labels, (K,).
        prompt: Gives the adjectives and sentences, in its language.
        config: The thresholds.

    Returns:
        The enriched text; "" for a transcript without words, which stays masked.
    """
    if not transcript.strip():
        return ""
    cue = _cue(probs, prompt.adjectives(labels), prompt, config)
    return prompt.wording.enriched.format(text=transcript.strip(), cue=cue)


def _cue(probs: NDArray[np.float64], adjectives: Sequence[str], prompt: Prompt, config: RewriteConfig) -> str:
    """The sentence for these probabilities."""
    wording = prompt.wording
    order = np.argsort(-probs, kind="stable")  # equal probabilities: the earlier label first
    first, second = int(order[0]), int(order[1])
    stands_out = probs[first] >= config.likely and probs[first] - probs[second] >= config.margin
    if not stands_out:  # NaN does not stand out either
        return wording.unclear
    clear = probs[first] >= config.clear
    if probs[second] >= config.second:
        template = wording.clear_second if clear else wording.likely_second
        return template.format(first=adjectives[first], second=adjectives[second])
    return (wording.clear if clear else wording.likely).format(first=adjectives[first])


def write_rewrites(
    contexts: Mapping[str, Context],
    *,
    config: LlmConfig,
    prompt: RewritePrompt,
    books: ScoreBooks,
    engine: Engine | None = None,
) -> Rewritten:
    """Have the model find the cues of each utterance, asking only what is not known; see `enrich_texts`."""
    shown = {clip_id: shortened_context(context, config.max_tokens) for clip_id, context in contexts.items()}
    forms = fill_in(
        config,
        {clip_id: prompt.messages(context) for clip_id, context in shown.items()},
        prompt.schema_of_answers(),
        prompt=prompt.settings(),
        books=books,
        engine=engine,
    )
    texts, unclear, unquoted = {}, 0, 0
    for clip_id, context in contexts.items():
        found = put_in_words(context, forms.values[clip_id], prompt)
        texts[clip_id] = found.text
        unclear += found.unclear
        unquoted += found.unquoted
    return Rewritten(
        texts,
        unclear=unclear,
        unquoted=unquoted,
        asked=forms.asked,
        cached=forms.cached,
        cut=sum(shown[clip_id].text != context.text for clip_id, context in contexts.items()),
        quarantined=forms.quarantined,
        invalid=forms.invalid,
    )


@dataclass(frozen=True, slots=True)
class Worded:
    """An enriched text.

    Attributes:
        text: The text.
        unclear: Whether it names no emotion, since the model found none.
        unquoted: How many cues were left out.
    """

    text: str
    unclear: bool = False
    unquoted: int = 0


def put_in_words(context: Context, values: Mapping[str, Value] | None, prompt: RewritePrompt) -> Worded:
    """The enriched text of an utterance.

    The original words stand in it as they are. A cue is told only where it can be quoted, since models also name what
    they were not shown; one that is called clear without an emotion is unclear.

    Args:
        context: What the model was shown.
        values: What it answered, as the prompt's schema has it; None where it abstains, and the original words stand
            alone.
        prompt: Gives the sentences.
    """
    text, wording = context.text.strip(), prompt.wording
    if values is None:
        return Worded(text)
    emotions = values["emotions"]
    if values["clarity"] != "clear" or not isinstance(emotions, tuple) or not emotions:
        return Worded(wording.enriched.format(text=text, cue=wording.unclear), unclear=True)
    shown = _plain("\n".join([context.text, *context.cues]))
    named = [cue for cue in _BETWEEN.split(str(values["cues"])) if _plain(cue)]
    quoted = [as_data(cue).strip(_ENDS) for cue in named if _plain(cue) in shown]
    places = {"emotions": wording.and_.join(emotions), "cues": wording.between.join(dict.fromkeys(quoted))}
    sentence = (wording.clear_cues if quoted else wording.clear).format_map(places)
    return Worded(wording.enriched.format(text=text, cue=sentence), unquoted=len(named) - len(quoted))


def _plain(text: str) -> str:
    """A text as quotations are compared: case, quotation marks and what stands at the ends do not count."""
    return as_data(text).casefold().strip(_ENDS)


def shortened_context(context: Context, tokens: int) -> Context:
    """The context with each of its texts cut after about so many tokens."""
    before, after = (tuple(shortened(text, tokens)[0] for text in some) for some in (context.before, context.after))
    return replace(context, text=shortened(context.text, tokens)[0], before=before, after=after)
