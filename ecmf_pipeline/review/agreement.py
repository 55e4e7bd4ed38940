"""How far reviewers agree: Krippendorff's alpha, and which answers they confuse."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import read_corpus_tables
from ecmf_pipeline.core.console import echo, format_count
from ecmf_pipeline.core.errors import MissingInput
from ecmf_pipeline.labels.verdicts import UNSURE, Answer, latest_answers, read_answers, verdicts_path
from ecmf_pipeline.settings.params import load_params


@dataclass(frozen=True, slots=True)
class ReviewerWork:
    """The answers of one reviewer: their number, those that are `UNSURE`, and the median seconds of an answer."""

    reviewer: str
    answers: int
    unsure: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """Agreement of the reviewers.

    Attributes:
        work: The reviewers, those with most answers first.
        shared: Number of clips that at least two reviewers have answered.
        differing: Number of those on which they differ.
        alpha: Krippendorff's alpha for nominal data: 1 for full agreement, 0 for chance; None if no two reviewers
            answered the same clip.
        answers: The answers that occur on shared clips, labels first.
        confusions: Number of pairs of reviewers who gave two answers to the same clip, (a, b) with a before b.
    """

    work: list[ReviewerWork]
    shared: int
    differing: int
    alpha: float | None
    answers: list[str]
    confusions: dict[tuple[str, str], int]


def measure_agreement(answers: Iterable[Answer], labels: Sequence[str]) -> Agreement:
    """Measure how far reviewers agree; answers that are `UNSURE` do not count as different.

    Args:
        answers: The answers that count, at most one for each clip and reviewer.
        labels: The labels of the corpus.

    Raises:
        MissingInput: If the library that computes alpha is not installed and needed.
    """
    by_clip: dict[str, dict[str, str]] = defaultdict(dict)
    by_reviewer: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        by_reviewer[answer.reviewer].append(answer)
        if answer.label != UNSURE or UNSURE in labels:
            by_clip[answer.clip_id][answer.reviewer] = answer.label
    shared = {clip_id: given for clip_id, given in by_clip.items() if len(given) > 1}
    used = Counter(label for given in shared.values() for label in given.values())
    order = [label for label in labels if label in used] + sorted(label for label in used if label not in labels)
    rank = {label: position for position, label in enumerate(order)}
    confusions: Counter[tuple[str, str]] = Counter()
    for given in shared.values():
        for pair in combinations(given.values(), 2):
            first, second = sorted(pair, key=rank.__getitem__)
            confusions[first, second] += 1
    work = [
        ReviewerWork(
            reviewer or "unknown",
            len(given),
            sum(answer.label == UNSURE and UNSURE not in labels for answer in given),
            median([answer.seconds for answer in given if answer.seconds] or [0.0]),
        )
        for reviewer, given in by_reviewer.items()
    ]
    return Agreement(
        sorted(work, key=lambda one: (-one.answers, one.reviewer)),
        len(shared),
        sum(len(set(given.values())) > 1 for given in shared.values()),
        _alpha(shared) if shared else None,
        order,
        dict(confusions),
    )


def show_agreement() -> None:
    """Print the agreement of the reviewers of the project in the current directory.

    Raises:
        MissingInput: If there are no answers, or `index` has not run yet.
    """
    corpus = read_corpus_tables()
    path = verdicts_path(load_params().refine.verdicts) or paths.VERDICTS
    answers, _ = read_answers(path, corpus.labels, [clip.clip_id for clip in corpus.clips])
    found = measure_agreement(latest_answers(answers).values(), corpus.labels)
    for one in found.work:
        seconds = f", median {one.seconds:.1f} s" if one.seconds else ""
        echo(f"{one.reviewer}: {format_count(one.answers, 'answer')}, {one.unsure} unsure{seconds}")
    if found.alpha is None:
        echo("agreement: unknown, because no two reviewers have answered the same clip")
        return
    echo(
        f"agreement: Krippendorff's alpha {found.alpha:.2f} on {format_count(found.shared, 'clip')}, "
        f"of which {found.differing} with different answers"
    )
    for (first, second), count in sorted(found.confusions.items(), key=lambda item: (-item[1], item[0])):
        if first != second:
            echo(f"  {first} or {second}: {format_count(count, 'pair')} of reviewers")


def _alpha(shared: dict[str, dict[str, str]]) -> float:
    try:
        from nltk.metrics.agreement import AnnotationTask
    except ImportError:
        raise MissingInput(
            "the agreement of reviewers needs the package nltk", command='pip install "ecmf-pipeline[review]"'
        ) from None
    triples = [(reviewer, clip_id, label) for clip_id, given in shared.items() for reviewer, label in given.items()]
    if len({label for _, _, label in triples}) == 1:  # AnnotationTask needs two answers
        return 1.0
    return round(float(AnnotationTask(triples).alpha()), 4)
