"""Settings of the LLM room; imports neither torch nor numpy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from ecmf_pipeline.core.config import Config
from ecmf_pipeline.core.errors import ModelError, ParamsError
from ecmf_pipeline.core.files import remembered_sha256
from ecmf_pipeline.llm.prompt import Calibration, Prompt, load_prompt

CueKind = Literal["face", "audio"]
"""A branch whose features can be put into words."""
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")
_MODEL_FILES = {".safetensors", ".bin", ".json", ".model", ".txt", ".jinja"}
_HINT = "run `ecmf-pipe models` for the embedded model, or give a folder or hub id under `model`"


class ServerConfig(Config):
    """Where the server is and how it is asked. The key itself stands in the environment and nowhere else.

    Attributes:
        base_url: Address of its API, with the ``/v1``.
        key_env: Name of the environment variable that holds the key; None for a server that wants none.
        structured: How answers are bound to their schema: by the server (json_schema), by the server as any JSON
            (json_object), or by the prompt alone (none). Every answer is checked in any case.
        scoring: Label scores from the log-probabilities of one answer, or from the share of several samples
            (self-consistency), for servers that give no log-probabilities.
        samples: Answers asked of each text when scoring by samples.
        sample_temperature: Temperature of those answers.
        seed: Seed of the first one; the others count on.
        answer_tokens: Most tokens of an answer.
        concurrency: Requests under way at once.
        timeout: Seconds that a request may take, until its answer is there as a whole; it is then given up and tried
            again. A run that is stopped waits as long for what is under way.
        max_retries: How often a request is tried again after the server failed (429, 5xx, broken or no answer).
        first_wait: Seconds before the first retry; each further one waits twice as long, with jitter, unless the server
            says when (Retry-After).
        longest_wait: Most seconds between two tries, whatever the server says.
    """

    base_url: str = "http://127.0.0.1:8000/v1"
    key_env: str | None = "OPENAI_API_KEY"
    structured: Literal["json_schema", "json_object", "none"] = "json_schema"
    scoring: Literal["logprobs", "samples"] = "logprobs"
    samples: int = Field(default=5, gt=0)
    sample_temperature: float = Field(default=0.7, gt=0)
    seed: int = Field(default=7, ge=0)
    answer_tokens: int = Field(default=64, gt=0)
    concurrency: int = Field(default=8, gt=0)
    timeout: float = Field(default=60.0, gt=0)
    max_retries: int = Field(default=6, ge=0)
    first_wait: float = Field(default=0.5, ge=0)
    longest_wait: float = Field(default=120.0, gt=0)

    @field_validator("base_url", mode="before")
    @classmethod
    def _plain_address(cls, value: Any) -> Any:
        """An address with a password or a query would carry a secret into locks, settings and reports."""
        parts = urlsplit(str(value))
        if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc or parts.query:
            # Raised as what it is: pydantic's own errors repeat the value, which may hold a secret.
            raise ParamsError(
                "`llm.server.base_url` must be http(s)://host[:port]/path, without user, password or query",
                "a key belongs into the environment variable that `llm.server.key_env` names",
            )
        return value

    @field_validator("key_env", mode="before")
    @classmethod
    def _a_name(cls, value: Any) -> Any:
        if value is not None and not _VARIABLE.fullmatch(str(value)):
            raise ParamsError(
                "`llm.server.key_env` is no name of an environment variable (A-Z, 0-9 and _)",
                "give the variable's name, never the key itself; if that was a key, take it out of the history, too",
            )
        return value

    def settings(self) -> dict[str, Any]:
        """What changes an answer; where the server stands and how fast it is asked does not."""
        changes = {"structured", "scoring", "answer_tokens"}
        if self.scoring == "samples":
            changes |= {"samples", "sample_temperature", "seed"}
        return self.model_dump(mode="json", include=changes)


class BudgetConfig(Config):
    """What one run may spend; it then stops cleanly and the next one goes on.

    Attributes:
        max_requests: Requests sent, retries included; None: no limit.
        max_tokens: Tokens of prompts and answers together, as the server counts them; None: no limit.
    """

    max_requests: int | None = Field(default=None, ge=0)
    max_tokens: int | None = Field(default=None, ge=0)


class PriceConfig(Config):
    """What a server costs, for the dry run: any currency, for a million tokens.

    Attributes:
        prompt: Of prompts.
        answer: Of answers.
    """

    prompt: float = Field(default=0.0, ge=0)
    answer: float = Field(default=0.0, ge=0)


class ShownFrames(Config):
    """The pictures of a clip that a vision-capable server is shown.

    Attributes:
        count: How many, uniform in time; fewer where the clip has fewer.
        side: Pixels of the longer side; larger pictures are scaled down.
        crops: Show the speaker's face, cut out, in place of whole frames.
        quality: Of the JPEG files, in percent.
    """

    count: int = Field(default=4, gt=0, le=32)
    side: int = Field(default=384, ge=64)
    crops: bool = False
    quality: int = Field(default=85, ge=10, le=100)


class LlmVotesConfig(Config):
    """How the LLM's scores become votes; `vote.llm_margin` says where it abstains.

    Attributes:
        examples: The examples in the prompt: those written for it (packaged), or labelled clips of the corpus, for each
            fold drawn from the other folds, and so of other groups (corpus).
        temperature: Divides the scores before they become probabilities; "fitted": fitted for each fold on the labelled
            clips of the other folds, 1 where they are fewer than 30.
        bias: What is added to each label's score then: fitted with it, or nothing (none).
        cues: Branches whose cues in words are judged where ``vote.inputs`` names cues.
        frames: Where ``vote.inputs`` names frames: pictures of each clip that a server is shown, and how.
    """

    examples: Literal["packaged", "corpus"] = "packaged"
    temperature: Literal["fitted"] | Annotated[float, Field(gt=0)] = "fitted"
    bias: Literal["fitted", "none"] = "fitted"
    cues: tuple[CueKind, ...] = ("face", "audio")
    frames: ShownFrames = ShownFrames()


class LlmConfig(Config):
    """The LLM and what it is asked.

    Attributes:
        backend: Who answers: a model in this process' workers (transformers), or an OpenAI-compatible server (openai).
        model: A causal language model: a local folder, or a hub id; for a server, the name it is served under.
        gguf_file: The GGUF file inside it; None for safetensors weights.
        revision: Commit, tag or branch of a hub id. Pin a commit: a branch may move, and scores made before it moved
            would still be taken for current.
        prompt: A packaged prompt (emotion_en, emotion_zh), or the path of your own ``.yaml`` file.
        cues_prompt: The prompt about cues of face and voice (``vote.inputs: [cues]``): cues_en, cues_zh, or your own.
        chat_template: Ask in the turns of the model's chat template instead of plain text.
        calibration: What is subtracted from each label's score: its mean over everyday utterances, over inputs without
            content, or nothing.
        max_tokens: Longer utterances are cut after that many tokens.
        dtype: Arithmetic of the model. bfloat16 is faster where the processor has it and moves near ties.
        batch_size: Utterances per forward pass. They are durable as soon as it is done: what a crash costs at most.
        device: A torch device; "auto" takes CUDA where there is one.
        workers: Processes that ask side by side. A language model's matrix products use all cores by themselves, and
            each worker holds a copy of the model: so one, with all threads, is the default; N share the cores, and the
            GPUs where there are several. None: one for each core, with one thread; 0: none, the main process asks, and
            a text that makes it crash ends the run.
        clip_timeout: Seconds that one text may take on average of a batch. One that takes longer, twice, is
            quarantined.
        server: The server, for ``backend: openai``; of the keys above it has model, revision (what you call the state
            of that model), prompt, calibration, max_tokens (estimated) and max_quarantined.
        budget: What one run may send to it.
        prices: What it costs, for the dry run.
        votes: How the LLM's scores become votes.
        max_quarantined: Share of the clips with words whose text may be set aside before the stage stops with exit
            code 1.
    """

    backend: Literal["transformers", "openai"] = "transformers"
    model: str = "data/models/smollm2"
    gguf_file: str | None = "SmolLM2-135M-Instruct.Q4_1.gguf"
    revision: str | None = None
    prompt: str = "emotion_en"
    cues_prompt: str = "cues_en"
    chat_template: bool = False
    calibration: Calibration = "everyday"
    max_tokens: int = Field(default=128, gt=0)
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    batch_size: int = Field(default=24, gt=0)
    device: str = "auto"
    workers: int | None = Field(default=1, ge=0)
    clip_timeout: float = Field(default=300.0, gt=0)
    server: ServerConfig = ServerConfig()
    budget: BudgetConfig = BudgetConfig()
    prices: PriceConfig = PriceConfig()
    votes: LlmVotesConfig = LlmVotesConfig()
    max_quarantined: float = Field(default=0.2, ge=0, le=1)

    def settings(self, labels: Sequence[str], prompt: Prompt | None = None) -> dict[str, Any]:
        """All that changes the scores, as plain JSON values; how and where the loop runs does not.

        Args:
            labels: Labels to choose from.
            prompt: The prompt with examples of the corpus; None: as it is packaged.

        Raises:
            ModelError: When the model's files are not there.
            ParamsError: When there is no such prompt.
            InputError: When two labels would be asked about with the same word.
        """
        prompt = prompt or load_prompt(self.prompt)
        prompt.words(labels)  # refuses them here, and not in each worker
        if self.backend == "openai":  # calibration is subtracted from what is kept
            return {
                "client": "openai",
                "weights": self.weights(),
                "prompt": prompt.chat_settings(),
                "labels": list(labels),
                "max_tokens": self.max_tokens,
                "server": self.server.settings(),
            }
        return {
            "client": "transformers",
            "weights": self.weights(),
            "prompt": prompt.settings(),
            "labels": list(labels),
            "chat_template": self.chat_template,
            "calibration": self.calibration,
            "max_tokens": self.max_tokens,
            "dtype": self.dtype,
        }

    def weights(self) -> dict[str, str]:
        """What identifies the model: SHA-256 of its files, by name, or hub id and revision.

        Raises:
            ModelError: As `files` does.
        """
        if self.backend == "openai":
            return {"served": self.model, "revision": self.revision or ""}
        if files := self.files():
            return {file.name: remembered_sha256(file) for file in files}
        return {"hub": self.model, "revision": self.revision or "main", "gguf_file": self.gguf_file or ""}

    def files(self) -> list[Path]:
        """The files of a local model; none for a hub id.

        Raises:
            ModelError: When ``model`` is neither a folder with weights nor looks like a hub id.
        """
        folder = Path(self.model)
        if self.backend == "openai":
            return []
        if folder.is_dir():
            files = [folder / self.gguf_file] if self.gguf_file else _model_files(folder)
            if not files or not all(file.is_file() for file in files):
                raise ModelError(f"{folder} holds no {self.gguf_file or 'model'}", _HINT)
            return files
        if not _HUB_ID.fullmatch(self.model):
            raise ModelError(f"there is no model folder {self.model}", _HINT)
        return []


class RewriteConfig(Config):
    """How transcripts are enriched.

    Attributes:
        how: By fixed rules from the model's label scores (scored), which any model can give; or from cues and emotions
            that the model finds in the words (written), which takes one that can follow instructions.
        prompt: A packaged prompt for rewriting (rewrite_en, rewrite_zh), or the path of your own ``.yaml`` file: what
            is asked where it is written, and words for faces and voices.
        neighbours: How many utterances before and after it, in the same dialogue, the model is shown (written).
        dialogues: How clip ids tell dialogue and order: a regular expression with the groups ``dialogue`` and
            ``position`` (a number). Clips that it does not fit have no neighbours.
        cues: Branches whose features are put into words (``face``: mini_xception's blendshapes; ``audio``: egemaps) and
            shown to the model, or, where it is scored, told after the cue sentence.
        clear: Probability from which an emotion is stated ("sounds sad").
        likely: Probability from which it is suggested ("may be sad"); below it is unclear.
        second: Probability from which the second emotion is mentioned ("perhaps worried").
        margin: Lead of the first emotion over the second below which it is unclear.
        temperature: Divides the scores before they become probabilities.
    """

    how: Literal["scored", "written"] = "scored"
    prompt: str = "rewrite_en"
    neighbours: int = Field(default=0, ge=0)
    dialogues: str = r"(?P<dialogue>.+_dia\d+)_utt(?P<position>\d+)"
    cues: tuple[CueKind, ...] = ()
    clear: float = Field(default=0.5, gt=0, le=1)
    likely: float = Field(default=0.3, gt=0, le=1)
    second: float = Field(default=0.2, gt=0, le=1)
    margin: float = Field(default=0.05, ge=0, le=1)
    temperature: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _of_use(self) -> RewriteConfig:
        if self.neighbours and self.how == "scored":
            raise ValueError("neighbours are shown to a model that writes: set rewrite.how to written as well")
        try:
            groups = set(re.compile(self.dialogues).groupindex)
        except re.error as error:
            raise ValueError(f"dialogues is no regular expression: {error}") from error
        if groups != {"dialogue", "position"}:
            raise ValueError("dialogues must have the groups (?P<dialogue>...) and (?P<position>...), and no others")
        return self


def _model_files(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.iterdir() if path.suffix in _MODEL_FILES and path.is_file())
    return files if any(file.suffix in {".safetensors", ".bin"} for file in files) else []
