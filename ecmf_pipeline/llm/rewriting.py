"""Rewrite transcripts: append emotional cues in words.

A scored rewrite derives a sentence from the label scores of the model by fixed rules. In a written rewrite the model
finds cues and emotions, which are validated and put into a sentence.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.clips import Clip
from ecmf_pipeline.llm.answers import AnswerFiles
from ecmf_pipeline.llm.config import LlmConfig, RewriteConfig
from ecmf_pipeline.llm.generation import fill_in_forms
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
from ecmf_pipeline.llm.server_run import truncate_text
from ecmf_pipeline.runner import Engine

_CUE_SEPARATOR = re.compile("[;；]")  # noqa: RUF001 - both scripts
_OUTER_PUNCTUATION = " .,;:!?\"'()。，；：！？、…（）“”"  # noqa: RUF001 - both scripts

Neighbours = tuple[tuple[str, ...], tuple[str, ...]]
"""The utterances before and after one utterance."""


def rewrite_contexts(
    clips: Sequence[Clip], config: RewriteConfig, cues: Sequence[Mapping[str, Sequence[str]]]
) -> dict[str, Context]:
    """Return the context of each clip with words, by clip id: its transcript, neighbours and cues.

    Args:
        clips: The whole corpus.
        config: Number of neighbours, and the prompt.
        cues: Names of cues by clip id, for each branch.
    """
    prompt = load_rewrite_prompt(config.prompt)
    neighbours = neighbours_of(clips, config.neighbours, config.dialogues)
    contexts = {}
    for clip in clips:
        if clip.transcript.strip():
            names = [name for table in cues for name in table.get(clip.clip_id, ())]
            before, after = neighbours.get(clip.clip_id, ((), ()))
            contexts[str(clip.clip_id)] = Context(clip.transcript, before, after, prompt.cue_phrases(names))
    return contexts


def neighbours_of(clips: Sequence[Clip], count: int, dialogues: str) -> Mapping[str, Neighbours]:
    """Return the nearest utterances before and after each clip, in the order of the dialogue.

    The order is part of clip ids such as MELD's ``train_dia0_utt3``; MER's clips come from many films and their numbers
    have no meaning. Utterances without words are skipped; if the corpus lacks some, the next ones are used.

    Args:
        clips: The clips of all splits; only their words are read.
        count: Maximum number of utterances on either side.
        dialogues: Regular expression of clip ids with the groups ``dialogue`` and ``position``; see `RewriteConfig`.

    Returns:
        Neighbours by clip id; clips whose id does not match are left out.
    """
    if count == 0:
        return {}
    pattern = re.compile(dialogues)
    dialogues_by_name: dict[str, list[tuple[int, Clip]]] = defaultdict(list)
    for clip in clips:
        match = pattern.fullmatch(clip.clip_id)
        if match and match["position"].isdecimal():
            dialogues_by_name[match["dialogue"]].append((int(match["position"]), clip))
    neighbours: dict[str, Neighbours] = {}
    for dialogue in dialogues_by_name.values():
        ordered = [clip for _, clip in sorted(dialogue, key=lambda entry: (entry[0], entry[1].clip_id))]
        for index, clip in enumerate(ordered):
            before = [other.transcript for other in ordered[:index] if other.transcript.strip()]
            after = [other.transcript for other in ordered[index + 1 :] if other.transcript.strip()]
            neighbours[clip.clip_id] = tuple(before[-count:]), tuple(after[:count])
    return neighbours


@dataclass(frozen=True, slots=True)
class RewriteResult:
    """The enriched texts, with the counts of the run.

    Attributes:
        texts: The enriched text of each clip with words; the original text if the model abstains.
        unclear: Number of texts without an emotion, because the model found none.
        unquoted: Number of cues that were dropped because the context does not contain them.
        answered: Number of questions that this run answered.
        cached: Number of questions with a cached answer.
        truncated: Number of clips whose text was truncated for the model.
        quarantined: Number of quarantined clips.
        invalid: Number of clips on which the model abstains because its answers were invalid.
    """

    texts: Mapping[str, str] = field(default_factory=dict)
    unclear: int = 0
    unquoted: int = 0
    answered: int = 0
    cached: int = 0
    truncated: int = 0
    quarantined: int = 0
    invalid: int = 0


def enrich_transcripts(
    llm: LlmConfig,
    rewrite: RewriteConfig,
    contexts: Mapping[str, Context],
    labels: Sequence[str],
    *,
    answer_files: AnswerFiles,
    engine: Engine | None = None,
) -> RewriteResult:
    """Return the enriched transcripts; only questions without a cached answer are sent to the model.

    Args:
        llm: The model.
        rewrite: How transcripts are enriched.
        contexts: Context of each clip with words, by clip id.
        labels: Labels to score, (K,).
        answer_files: Files of the stage.
        engine: Runs the workers; None: according to ``llm``.

    Raises:
        ModelError: If the model cannot be loaded.
        TryAgain: See `questions.answer_questions`, also for further errors.
    """
    prompt = load_rewrite_prompt(rewrite.prompt)
    if rewrite.how == "written":
        return generate_rewrites(contexts, config=llm, prompt=prompt, answer_files=answer_files, engine=engine)
    scores = label_scores(
        llm,
        {clip_id: context.text for clip_id, context in contexts.items()},
        labels,
        answer_files=answer_files,
        engine=engine,
    )
    wording = load_prompt(llm.prompt)
    texts, unclear = {}, 0
    probs = probabilities(scores.values, temperature=rewrite.temperature)
    for (clip_id, context), row in zip(contexts.items(), probs, strict=True):
        text = enrich(context.text, row, labels, prompt=wording, config=rewrite)
        unclear += wording.wording.unclear in text
        texts[clip_id] = text + prompt.cue_suffix(context.cues)
    return RewriteResult(
        texts,
        unclear,
        answered=scores.answered,
        cached=scores.cached,
        truncated=scores.truncated,
        quarantined=scores.quarantined,
        invalid=scores.invalid,
    )


def enrich(
    transcript: str, probs: NDArray[np.float64], labels: Sequence[str], *, prompt: Prompt, config: RewriteConfig
) -> str:
    """Return the transcript with one cue sentence appended.

    The sentence follows from the probabilities by fixed rules: rewrites of small models contain things that were not
    spoken, their likelihoods do not.

    Args:
        transcript: The spoken words; the result contains them unchanged.
        probs: Probability of each label, (K,); NaN if the model abstains.
        labels: The labels, (K,).
        prompt: The prompt with adjectives and sentences, in its language.
        config: The thresholds.

    Returns:
        The enriched text; "" for a transcript without words, whose features stay masked.
    """
    if not transcript.strip():
        return ""
    cue = _cue(probs, prompt.adjectives(labels), prompt, config)
    return prompt.wording.enriched.format(text=transcript.strip(), cue=cue)


def _cue(probs: NDArray[np.float64], adjectives: Sequence[str], prompt: Prompt, config: RewriteConfig) -> str:
    """Return the cue sentence for these probabilities."""
    wording = prompt.wording
    order = np.argsort(-probs, kind="stable")  # equal probabilities: the earlier label first
    first, second = int(order[0]), int(order[1])
    is_likely = probs[first] >= config.likely and probs[first] - probs[second] >= config.margin
    if not is_likely:  # also for NaN
        return wording.unclear
    clear = probs[first] >= config.clear
    if probs[second] >= config.second:
        template = wording.clear_second if clear else wording.likely_second
        return template.format(first=adjectives[first], second=adjectives[second])
    return (wording.clear if clear else wording.likely).format(first=adjectives[first])


def generate_rewrites(
    contexts: Mapping[str, Context],
    *,
    config: LlmConfig,
    prompt: RewritePrompt,
    answer_files: AnswerFiles,
    engine: Engine | None = None,
) -> RewriteResult:
    """Let the model find the cues of each utterance, and return the enriched transcripts; see `enrich_transcripts`."""
    shortened_contexts = {
        clip_id: truncate_context(context, config.max_tokens) for clip_id, context in contexts.items()
    }
    forms = fill_in_forms(
        config,
        {clip_id: prompt.messages(context) for clip_id, context in shortened_contexts.items()},
        prompt.answer_schema(),
        prompt=prompt.settings(),
        answer_files=answer_files,
        engine=engine,
    )
    texts, unclear, unquoted = {}, 0, 0
    for clip_id, context in contexts.items():
        enriched = enrich_with_answer(context, forms.values[clip_id], prompt)
        texts[clip_id] = enriched.text
        unclear += enriched.unclear
        unquoted += enriched.unquoted
    return RewriteResult(
        texts,
        unclear=unclear,
        unquoted=unquoted,
        answered=forms.answered,
        cached=forms.cached,
        truncated=sum(shortened_contexts[clip_id].text != context.text for clip_id, context in contexts.items()),
        quarantined=forms.quarantined,
        invalid=forms.invalid,
    )


@dataclass(frozen=True, slots=True)
class EnrichedText:
    """An enriched text.

    Attributes:
        text: The text.
        unclear: Whether it contains no emotion, because the model found none.
        unquoted: Number of dropped cues.
    """

    text: str
    unclear: bool = False
    unquoted: int = 0


def enrich_with_answer(context: Context, values: Mapping[str, Value] | None, prompt: RewritePrompt) -> EnrichedText:
    """Return the enriched text of an utterance.

    It contains the original words unchanged. Only cues that can be quoted from the context are used, since models also
    name cues that the context does not contain. An answer that is clear but without an emotion counts as unclear.

    Args:
        context: The context in the prompt.
        values: The answer, valid under the schema of the prompt; None if the model abstains: the text is the original.
        prompt: The prompt with the sentences.
    """
    text, wording = context.text.strip(), prompt.wording
    if values is None:
        return EnrichedText(text)
    emotions = values["emotions"]
    if values["clarity"] != "clear" or not isinstance(emotions, tuple) or not emotions:
        return EnrichedText(wording.enriched.format(text=text, cue=wording.unclear), unclear=True)
    source = _normalise("\n".join([context.text, *context.cues]))
    cues = [cue for cue in _CUE_SEPARATOR.split(str(values["cues"])) if _normalise(cue)]
    quoted = [as_data(cue).strip(_OUTER_PUNCTUATION) for cue in cues if _normalise(cue) in source]
    fields = {"emotions": wording.and_.join(emotions), "cues": wording.between.join(dict.fromkeys(quoted))}
    sentence = (wording.clear_cues if quoted else wording.clear).format_map(fields)
    return EnrichedText(wording.enriched.format(text=text, cue=sentence), unquoted=len(cues) - len(quoted))


def _normalise(text: str) -> str:
    """Return a text for the comparison of quotations: case, quotation marks and outer punctuation do not count."""
    return as_data(text).casefold().strip(_OUTER_PUNCTUATION)


def truncate_context(context: Context, tokens: int) -> Context:
    """Return the context with each of its texts truncated to about this many tokens."""
    before, after = (tuple(truncate_text(text, tokens)[0] for text in side) for side in (context.before, context.after))
    return replace(context, text=truncate_text(context.text, tokens)[0], before=before, after=after)
