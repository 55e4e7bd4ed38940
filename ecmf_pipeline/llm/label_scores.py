"""How well each label fits each text, by whichever model params name: all that a stage needs to ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ecmf_pipeline.files import fingerprint
from ecmf_pipeline.llm.budget import Budget
from ecmf_pipeline.llm.config import LlmConfig
from ecmf_pipeline.llm.loop import ScoreBooks
from ecmf_pipeline.llm.prompt import Prompt, load_prompt
from ecmf_pipeline.llm.scoring import Scored, scored
from ecmf_pipeline.llm.server_calibration import CALIBRATION, calibrated, calibration_of_server
from ecmf_pipeline.llm.steps import steps_of
from ecmf_pipeline.runner import Engine


def label_scores(
    config: LlmConfig,
    texts: Mapping[str, str],
    labels: Sequence[str],
    *,
    books: ScoreBooks,
    prompt: Prompt | None = None,
    retry_quarantined: bool = False,
    engine: Engine | None = None,
    budget: Budget | None = None,
) -> Scored:
    """The calibrated label scores of what clips say, asking only what no cache knows.

    Args:
        config: The model and what it is asked.
        texts: What each clip says, by clip id, (n,); blank ones are not asked.
        labels: Labels to choose from, (K,).
        books: Where the stage keeps what it has asked.
        prompt: The prompt with examples of the corpus; None: as it is packaged.
        retry_quarantined: Whether texts that were set aside are tried again although nothing changed.
        engine: Who runs the workers; None: processes of this machine, as ``config`` says.
        budget: What may still be sent to a server, where a stage asks in several loops; None: one for this loop.

    Returns:
        The scores, (n, K).

    Raises:
        ModelError: When the model cannot be loaded, or gave no valid answer on any calibration text.
        TryAgain: As `scored` does, with what else it raises.
    """
    asked = prompt or load_prompt(config.prompt)
    calibration = calibration_of_server(config, asked)
    found = scored(
        {**texts, **{f"{CALIBRATION}{number}": text for number, text in enumerate(calibration)}},
        labels,
        fingerprint=fingerprint(config.settings(labels, prompt)),
        books=books,
        steps=steps_of(config, asked, labels, budget),
        config=config,
        retry_quarantined=retry_quarantined,
        engine=engine,
    )
    return calibrated(found, len(calibration))
