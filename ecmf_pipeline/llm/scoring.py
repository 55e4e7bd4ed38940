"""Scores of many utterances, each text asked once, and what they amount to: probabilities and votes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.errors import ServerUnavailable, TryAgain
from ecmf_pipeline.files import sha256_text
from ecmf_pipeline.llm.asking import Threads
from ecmf_pipeline.llm.cache import ScoreCache, ScoreKeeper, ScoreSealer, ScoreWriter
from ecmf_pipeline.llm.config import LlmConfig
from ecmf_pipeline.llm.step import BRANCH, Utterance
from ecmf_pipeline.quarantine import Quarantine
from ecmf_pipeline.runner import Engine, InProcess, LocalProcesses, Run, RunConfig, RunReport, StepFactory, Target
from ecmf_pipeline.runner.machine import usable_cores

PART_SIZE = 1024
"""Texts whose scores stand in one file."""


@dataclass(frozen=True, slots=True)
class ScoreBooks:
    """Where a stage keeps what it has asked.

    Attributes:
        stage: The stage.
        cache: Scores already paid for.
        waiting: What is not sealed yet; outside of what DVC tracks.
        quarantine: Table of the clips whose text the model could not be asked about.
        earlier: Stages that asked the same before: what they know is read, what they set aside is not asked.
    """

    stage: str
    cache: Path
    waiting: Path
    quarantine: Path
    earlier: tuple[ScoreBooks, ...] = ()


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores of a list of utterances.

    Attributes:
        values: Calibrated log-scores, (n, K); NaN where there are no words, and where the text is set aside.
        asked: How many texts the model was asked.
        cached: How many texts were answered from the cache.
        empty: How many utterances have no words.
        truncated: How many of the texts asked were too long and cut.
        quarantined: How many utterances are set aside, by this run or earlier ones.
        invalid: How many utterances the model abstains on because its answers were not valid.
        damaged: How many lines of the cache could not be read; their texts were asked again.
    """

    values: NDArray[np.float64]
    asked: int
    cached: int
    empty: int
    truncated: int
    quarantined: int
    damaged: int
    invalid: int = 0


def scored(
    utterances: Mapping[str, str],
    labels: Sequence[str],
    *,
    fingerprint: str,
    books: ScoreBooks,
    steps: StepFactory,
    config: LlmConfig,
    retry_quarantined: bool = False,
    engine: Engine | None = None,
) -> Scored:
    """Score each utterance, asking the model only what is not known.

    Equal texts are asked once. Each finished batch is durable at once, so a run that is cut short asks only the rest
    when it is repeated.

    Args:
        utterances: What each clip says, by clip id, (n,); blank ones are not asked.
        labels: Labels to choose from, (K,).
        fingerprint: Of all that changes a score.
        books: Where the stage keeps what it has asked.
        steps: Makes the step of each worker; not called when everything is known.
        config: How the loop runs.
        retry_quarantined: Whether texts that were set aside are tried again.
        engine: Who runs the workers; None: processes of this machine, as ``config`` says.

    Raises:
        StoreBusy: When another run asks for the same stage.
        TryAgain: When a server failed each time it was asked about some texts.
        BudgetSpent: When more would have to be asked than the budget allows.
        TooManyQuarantined: When too many texts make the model fail; what was scored is kept.
        Interrupted: On Ctrl-C or SIGTERM; what was complete is kept.
    """
    keys = {clip_id: sha256_text(text) for clip_id, text in utterances.items() if text.strip()}
    cache = ScoreCache(books.cache, fingerprint, also=[other.cache for other in books.earlier])
    with ScoreWriter(cache, books.waiting) as writer:
        known = {key for key in keys.values() if key in cache}
        missing = {clip_id: key for clip_id, key in keys.items() if key not in known}
        quarantine = _set_aside(books, fingerprint, missing, retry=retry_quarantined)
        report = RunReport(reused={BRANCH: len(keys) - len(missing)})
        if items := _items(utterances, missing, quarantine):
            run: Run[Utterance] = Run(
                steps,
                ScoreKeeper(writer.spool),
                ScoreSealer(writer, keys),
                {BRANCH: quarantine},
                RunConfig(_batch_size(config), PART_SIZE, config.max_quarantined, config.workers, config.clip_timeout),
                report,
                engine or _engine(config),
            )
            run(items, books.stage)
            if ServerUnavailable.__name__ in report.transient:
                count = report.transient[ServerUnavailable.__name__]
                raise TryAgain(
                    f"{books.stage}: {count} clips are without an answer, since the "
                    f"server failed each time; the answers are kept.\n  See {books.quarantine}, and run it again."
                )
        else:
            quarantine.write()
            quarantine.refuse_too_many(len(keys), config.max_quarantined)
    values = np.full((len(utterances), len(labels)), np.nan)
    for row, clip_id in enumerate(utterances):
        if clip_id in keys and keys[clip_id] in cache:
            values[row] = cache[keys[clip_id]].scores or np.nan
    asked = {key for key in missing.values() if key in cache}
    return Scored(
        values,
        asked=len(asked),
        cached=len(known),
        empty=len(utterances) - len(keys),
        truncated=sum(cache[key].cut for key in asked),
        quarantined=len(quarantine),
        damaged=cache.dropped,
        invalid=sum(not cache[key].scores for key in keys.values() if key in cache),
    )


def without_words(clips: int, labels: int, books: ScoreBooks) -> Scored:
    """The scores of a corpus in which nobody speaks: no model is needed, and nothing is set aside.

    Args:
        clips: How many clips there are, n.
        labels: How many labels, K.
        books: Where the stage keeps what it has asked.
    """
    quarantine = Quarantine(books.quarantine, stage=books.stage)
    quarantine.clear()
    quarantine.write()
    return Scored(np.full((clips, labels), np.nan), 0, 0, clips, 0, 0, 0)


def _set_aside(books: ScoreBooks, fingerprint: str, missing: dict[str, str], *, retry: bool) -> Quarantine:
    """The stage's table: of the clips that miss scores, those whose text was found to break the model."""

    def table(of: ScoreBooks) -> Quarantine:
        read = Quarantine(of.quarantine, stage=of.stage, fingerprint=fingerprint, section="llm")
        read.keep_only(missing)
        return read

    own = table(books)
    if retry:
        own.clear()
        return own
    bad = {entry.digest: entry for read in (*map(table, books.earlier), own) for entry in read}
    for clip_id, key in missing.items():
        if key in bad:  # also when it was another clip, or an earlier stage, that it was tried for
            own.add(clip_id, bad[key].reason, bad[key].message, key)
    return own


def _items(utterances: Mapping[str, str], missing: Mapping[str, str], quarantine: Quarantine) -> list[Utterance]:
    """What is to be asked, each text once: of the texts that will stand in one part, the shorter ones first.

    A batch is as wide as its longest text: on MELD's utterances, batches in the order of the corpus cost twice the
    processor time.
    """
    clips: dict[str, list[str]] = defaultdict(list)
    for clip_id, key in missing.items():
        if not quarantine.holds(clip_id, key):
            clips[key].append(clip_id)
    items = [
        Utterance(utterances[clip_ids[0]], tuple(Target(clip_id, BRANCH, key) for clip_id in clip_ids))
        for key, clip_ids in clips.items()
    ]
    parts = [items[start : start + PART_SIZE] for start in range(0, len(items), PART_SIZE)]
    return [item for part in parts for item in sorted(part, key=lambda item: len(item.text))]


def _batch_size(config: LlmConfig) -> int:
    """Texts that are durable together: a server's answers are paid for one by one."""
    return 1 if config.backend == "openai" else config.batch_size


def _engine(config: LlmConfig) -> Engine:
    """Workers that share out the cores: a single one has all of them. Waiting for a server takes none."""
    if config.backend == "openai":
        return Threads(config.server.concurrency)
    if config.workers == 0:
        return InProcess()
    threads = 1 if config.workers is None else max(1, usable_cores() // config.workers)
    return LocalProcesses(config.workers, config.clip_timeout, threads)


def probabilities(
    scores: NDArray[np.float64], *, temperature: float | NDArray[np.float64] = 1.0
) -> NDArray[np.float64]:
    """Softmax over the labels, (n, K); rows of NaN stay NaN.

    Args:
        scores: Log-scores, (n, K).
        temperature: Divides the scores first: above 1 flattens, below 1 sharpens. One for all, or one for each, (n, 1).
    """
    scaled = scores / temperature
    scaled = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    normalised: NDArray[np.float64] = scaled / scaled.sum(axis=1, keepdims=True)
    return normalised


def votes_from_scores(
    scores: NDArray[np.float64], *, margin: float, temperature: float | NDArray[np.float64] = 1.0
) -> NDArray[np.float64]:
    """The LLM's votes as probabilities, (n, K), with rows of NaN where it abstains.

    It abstains where there are no words (a NaN row of scores) and where the first label leads the second by less than
    ``margin`` in probability.

    Args:
        scores: Calibrated log-scores, (n, K), K >= 2.
        margin: The least lead.
        temperature: Divides the scores before they become probabilities.
    """
    votes = probabilities(scores, temperature=temperature)
    ordered = np.sort(votes, axis=1)
    lead = ordered[:, -1] - ordered[:, -2]
    votes[~(lead >= margin)] = np.nan  # written so that a NaN lead abstains too
    return votes
