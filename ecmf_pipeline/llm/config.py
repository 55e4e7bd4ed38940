"""Settings of the language model; imports neither torch nor numpy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from ecmf_pipeline.core.config import Config
from ecmf_pipeline.core.errors import ModelError, ParamsError
from ecmf_pipeline.core.languages import Languages, known_languages
from ecmf_pipeline.core.shards import Shard
from ecmf_pipeline.core.weights import weights_sha256
from ecmf_pipeline.llm.prompt import Calibration, Prompt, load_prompt

CueKind = Literal["face", "audio"]
"""A branch whose features can be expressed as cues in words."""
_VARIABLE_NAME = re.compile(r"[A-Z_][A-Z0-9_]*")
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")
_MODEL_FILES = {".safetensors", ".bin", ".json", ".model", ".txt", ".jinja"}
_HINT = "set llm.model to a model folder or a hub id; for the embedded model, run"
_COMMAND = "ecmf-pipe models"


class ServerConfig(Config):
    """Address and request options of a server. The key itself is read from the environment only.

    Attributes:
        base_url: Address of the API, with the ``/v1``.
        key_env: Name of the environment variable that holds the key; None for a server without a key.
        structured: How answers are constrained to their schema: by the server (json_schema), by the server to any JSON
            (json_object), or by the prompt alone (none). Every answer is validated in any case.
        scoring: Label scores from the log-probabilities of one answer, or from the shares of several samples
            (self-consistency), for servers without log-probabilities.
        samples: Number of answers for each text if scoring is "samples".
        sample_temperature: Temperature of these answers.
        seed: Seed of the first sample; the seeds of the others follow it.
        answer_tokens: Maximum number of tokens of an answer.
        concurrency: Number of concurrent requests.
        timeout: Seconds until the whole answer must have arrived; the request is then cancelled and retried. An
            interrupted run waits at most this long for pending requests.
        max_retries: Number of retries after a failure of the server (429, 5xx, invalid or no response).
        first_wait: Seconds before the first retry. Each further wait is twice as long, with jitter, unless the server
            sends Retry-After.
        longest_wait: Maximum number of seconds between two tries, even if Retry-After is longer.
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
    def _check_address(cls, value: Any) -> Any:
        """Reject an address with a password or a query: locks, settings and reports would contain the secret."""
        parts = urlsplit(str(value))
        if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc or parts.query:
            # Not a ValueError: pydantic's errors repeat the value, which may hold a secret.
            raise ParamsError(
                "llm.server.base_url is not http(s)://host[:port]/path without user, password and query",
                "put a key into the environment variable named by llm.server.key_env",
                keys=["llm.server.base_url"],
            )
        return value

    @field_validator("key_env", mode="before")
    @classmethod
    def _check_variable_name(cls, value: Any) -> Any:
        """Reject a value that is not the name of an environment variable."""
        if value is not None and not _VARIABLE_NAME.fullmatch(str(value)):
            raise ParamsError(
                "llm.server.key_env is not the name of an environment variable (A-Z, 0-9 and _)",
                "set the name of the variable, not the key; if you committed a key, remove it from the history",
                keys=["llm.server.key_env"],
            )
        return value

    def settings(self) -> dict[str, Any]:
        """Return the settings that change an answer; the address and the speed of requests do not."""
        fields = {"structured", "scoring", "answer_tokens"}
        if self.scoring == "samples":
            fields |= {"samples", "sample_temperature", "seed"}
        return self.model_dump(mode="json", include=fields)


class BudgetConfig(Config):
    """Limits of one run; the run stops cleanly at a limit and the next run continues.

    The shards of one number divide them: together, they spend as much as one run may.

    Attributes:
        max_requests: Number of requests, retries included; None: no limit.
        max_tokens: Tokens of prompts and answers together, as counted by the server; None: no limit.
    """

    max_requests: int | None = Field(default=None, ge=0)
    max_tokens: int | None = Field(default=None, ge=0)

    def of_shard(self, shard: Shard) -> BudgetConfig:
        """Return the share of a shard; the shares of all shards add up to these limits."""

        def share(limit: int | None) -> int | None:
            return None if limit is None else (limit + shard.count - shard.number) // shard.count

        return BudgetConfig(max_requests=share(self.max_requests), max_tokens=share(self.max_tokens))


class PriceConfig(Config):
    """Prices of a server for the dry run, in any currency for a million tokens.

    Attributes:
        prompt: Price of prompt tokens.
        answer: Price of answer tokens.
    """

    prompt: float = Field(default=0.0, ge=0)
    answer: float = Field(default=0.0, ge=0)


class ShownFrames(Config):
    """The pictures of a clip that are sent to a server with a vision model.

    Attributes:
        count: Number of pictures, uniform in time; fewer if the clip has fewer.
        side: Pixels of the longer side; larger pictures are scaled down.
        crops: Send crops of the speaker's face instead of whole frames.
        quality: JPEG quality in percent.
    """

    count: int = Field(default=4, gt=0, le=32)
    side: int = Field(default=384, ge=64)
    crops: bool = False
    quality: int = Field(default=85, ge=10, le=100)


class LlmVotesConfig(Config):
    """How label scores become votes; the model abstains below `vote.llm_margin`.

    Attributes:
        examples: The examples in the prompt: those of the prompt file (packaged), or labelled clips of the corpus
            (corpus). For each fold, the latter are drawn from other folds, and therefore from other groups.
        temperature: Divisor of the scores before softmax. "fitted": fitted for each fold on the labelled clips of the
            other folds, 1 if there are fewer than 30.
        bias: Offset of the score of each label: fitted together with the temperature, or none.
        cues: Branches whose cues in words are scored if ``vote.inputs`` contains cues.
        frames: Pictures of each clip that are sent to a server if ``vote.inputs`` contains frames.
    """

    examples: Literal["packaged", "corpus"] = "packaged"
    temperature: Literal["fitted"] | Annotated[float, Field(gt=0)] = "fitted"
    bias: Literal["fitted", "none"] = "fitted"
    cues: tuple[CueKind, ...] = ("face", "audio")
    frames: ShownFrames = ShownFrames()


class LlmConfig(Config):
    """The language model and its prompts.

    Attributes:
        backend: A model in the workers of this process (transformers), or an OpenAI-compatible server (openai).
        model: A causal language model: a local folder or a hub id; for a server, its name on the server.
        gguf_file: The GGUF file in the folder; None for safetensors weights.
        revision: Commit, tag or branch of a hub id. Pin a commit: if a branch moves, cached scores of its old state are
            not recognised as outdated.
        languages: The languages that the model knows, such as ``[en]``; ``all``; or ``auto``: those that its authors
            state, as far as `core.languages` knows the model, else all. It abstains on transcripts in other languages,
            and they are not enriched.
        prompt: A packaged prompt (emotion_en, emotion_zh), or the path of your own ``.yaml`` file.
        cues_prompt: The prompt for cues of face and voice (``vote.inputs: [cues]``): cues_en, cues_zh, or your own.
        chat_template: Format the prompt with the chat template of the model instead of plain text.
        calibration: Baseline that is subtracted from the score of each label: its mean over everyday utterances, its
            mean over inputs without content, or none.
        max_tokens: Longer utterances are truncated to this many tokens.
        dtype: Data type of the computation. bfloat16 is faster on processors that support it and changes near ties.
        batch_size: Utterances in one forward pass. Each batch is durable when it is done, so a crash loses at most the
            batches in progress.
        device: A torch device; "auto" uses CUDA if available.
        workers: Number of worker processes. The matrix products of a language model use all cores, and each worker
            holds a copy of the model, so the default is one worker with all threads. N workers share the cores, and
            the GPUs if there are several. None: a worker for each core, with one thread. 0: the main process runs the
            model, and a text that crashes it ends the run.
        clip_timeout: Seconds for each text, on average over a batch. A text that takes longer twice is quarantined
            until this value is raised.
        server: The server, for ``backend: openai``. It also uses model, revision (a name of your choice for the state
            of the model), prompt, calibration, max_tokens (estimated) and max_quarantined.
        budget: Limits of the requests of one run.
        prices: Prices of the server, for the dry run.
        votes: How label scores become votes.
        max_quarantined: Maximum share of clips with words whose text may be quarantined; above it the stage stops with
            exit code 1.
    """

    backend: Literal["transformers", "openai"] = "transformers"
    model: str = "data/models/smollm2"
    gguf_file: str | None = "SmolLM2-135M-Instruct.Q4_1.gguf"
    revision: str | None = None
    languages: Languages = "auto"
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

    @property
    def known_languages(self) -> frozenset[str] | None:
        """The languages in ``languages``; None for every language, or if they are unknown."""
        return known_languages(self.languages, self.model)

    def settings(self, labels: Sequence[str], prompt: Prompt | None = None) -> dict[str, Any]:
        """Return all settings that change the scores, as JSON values, without those of the execution.

        Args:
            labels: Labels to choose from.
            prompt: The prompt with examples of the corpus; None: the packaged prompt.

        Raises:
            ModelError: If files of the model are missing.
            ParamsError: If the prompt does not exist.
            InputError: If two labels have the same word in the prompt.
        """
        prompt = prompt or load_prompt(self.prompt)
        prompt.words(labels)  # raises here instead of in each worker
        if self.backend == "openai":  # cached scores of a server are uncalibrated
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
        """Return the identity of the model: SHA-256 of its files by name, or hub id and revision.

        Raises:
            ModelError: See `files`; also if embedded weights were altered.
        """
        if self.backend == "openai":
            return {"served": self.model, "revision": self.revision or ""}
        if files := self.files():
            return {file.name: weights_sha256(file) for file in files}
        return {"hub": self.model, "revision": self.revision or "main", "gguf_file": self.gguf_file or ""}

    def files(self) -> list[Path]:
        """Return the files of a local model; empty for a hub id.

        Raises:
            ModelError: If ``model`` is neither a folder with weights nor a valid hub id.
        """
        folder = Path(self.model)
        if self.backend == "openai":
            return []
        if folder.is_dir():
            files = [folder / self.gguf_file] if self.gguf_file else _model_files(folder)
            if not files or not all(file.is_file() for file in files):
                raise ModelError(f"{folder} has no {self.gguf_file or 'model weights'}", _HINT, command=_COMMAND)
            return files
        if not _HUB_ID.fullmatch(self.model):
            raise ModelError(f"the model folder {self.model} does not exist", _HINT, command=_COMMAND)
        return []


class RewriteConfig(Config):
    """How transcripts are enriched.

    Attributes:
        how: By fixed rules from the label scores of the model (scored), which works with any model; or from cues and
            emotions that the model finds in the words (written), which needs a model that follows instructions.
        prompt: A packaged prompt for rewriting (rewrite_en, rewrite_zh), or the path of your own ``.yaml`` file. It
            contains the task of a written rewrite, and words for cues of faces and voices.
        neighbours: Number of utterances before and after it, in the same dialogue, that the prompt contains (written).
        dialogues: How clip ids encode dialogue and order: a regular expression with the groups ``dialogue`` and
            ``position`` (a number). Clips that do not match have no neighbours.
        cues: Branches whose features are expressed in words (``face``: blendshapes of mini_xception; ``audio``:
            egemaps). They are part of the prompt (written), or appended after the cue sentence (scored).
        clear: Minimum probability of a stated emotion ("sounds sad").
        likely: Minimum probability of a suggested emotion ("may be sad"); below it the emotion is unclear.
        second: Minimum probability for a mention of the second emotion ("perhaps worried").
        margin: Minimum lead of the first emotion over the second; below it the emotion is unclear.
        temperature: Divisor of the scores before softmax.
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
    def _check_usable(self) -> RewriteConfig:
        """Reject settings that have no effect and an invalid pattern of dialogues."""
        if self.neighbours and self.how == "scored":
            raise ValueError("neighbours have no effect on a scored rewrite: set rewrite.how to written")
        try:
            groups = set(re.compile(self.dialogues).groupindex)
        except re.error as error:
            raise ValueError(f"dialogues is not a regular expression: {error}") from error
        if groups != {"dialogue", "position"}:
            raise ValueError("dialogues must have exactly the groups (?P<dialogue>...) and (?P<position>...)")
        return self


def _model_files(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.iterdir() if path.suffix in _MODEL_FILES and path.is_file())
    return files if any(file.suffix in {".safetensors", ".bin"} for file in files) else []
