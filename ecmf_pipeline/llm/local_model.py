"""A causal language model of transformers on this machine, and its tokenizer: what scoring and writing both need."""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import sys
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from safetensors import SafetensorError

from ecmf_pipeline.core.errors import ModelError
from ecmf_pipeline.llm.config import LlmConfig
from ecmf_pipeline.llm.prompt import Message

_BEFORE_THE_END = set(".!?,;:…。！？，；：")  # noqa: RUF001 - Chinese has its own punctuation


class LocalModel:
    """Any causal language model of transformers, GGUF files included; loaded when it is first needed.

    Args:
        config: The model.
        worker: Number of the worker that asks; where ``config.device`` leaves the choice, workers share out the GPUs.
    """

    def __init__(self, config: LlmConfig, worker: int = 0) -> None:
        self.config = config
        self._worker = worker

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer."""
        from transformers import AutoTokenizer

        return _load(AutoTokenizer, self.config)

    @cached_property
    def network(self) -> Any:
        """The model itself, on its device."""
        from transformers import AutoModelForCausalLM

        device = self.config.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cuda":
            device = f"cuda:{self._worker % torch.cuda.device_count()}"
        network = _load(AutoModelForCausalLM, self.config, dtype=getattr(torch, self.config.dtype))
        return network.to(device).eval()

    @cached_property
    def accepts(self) -> frozenset[str]:
        """Names of the arguments that the model's forward pass takes."""
        return frozenset(inspect.signature(self.network.forward).parameters)

    @property
    def reads(self) -> int | None:
        """How many tokens it can read; None where it does not say."""
        limit: int | None = getattr(self.network.config, "max_position_embeddings", None)
        return limit

    @cached_property
    def opening(self) -> list[int]:
        """The sign that opens a text, where the model knows one."""
        sign = self.tokenizer.bos_token_id
        return [sign] if sign in self.tokenizer("")["input_ids"][:1] else []

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, without signs of the tokenizer's own."""
        tokens: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return tokens

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, without half a character at its end."""
        text: str = self.tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
        return text.rstrip("\ufffd")

    def chat(self, messages: Sequence[Message]) -> str:
        """The turns of a chat as the model's template writes them, up to where it answers.

        Raises:
            ModelError: When the model has no template.
        """
        if not self.tokenizer.chat_template:
            raise ModelError(f"{self.config.model} has no chat template", "set chat_template: false")
        rendered: str = self.tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        return rendered

    def harmless(self, text: str) -> str:
        """The text with none of the tokenizer's own signs in it, such as those that end a turn."""
        for sign in sorted(self.tokenizer.get_added_vocab(), key=len, reverse=True):
            if sign.strip() and sign in text:
                text = text.replace(sign, f"{sign[0]} {sign[1:]}" if len(sign) > 1 else " ")
        return text

    def prefix_cache(self, prefix: Sequence[int]) -> Any:
        """Keys and values of a prefix; None where the model keeps a state that is not made of keys and values."""
        if not prefix or not {"past_key_values", "use_cache"} <= self.accepts:
            return None
        tokens = torch.tensor([list(prefix)], device=self.network.device)  # (1, P)
        cache = self.network(tokens, use_cache=True).past_key_values
        return None if cache is None or any(cache.is_linear) else cache

    @staticmethod
    def repeated(cache: Any, rows: int) -> Any:
        """A copy of a prefix' keys and values for each of several rows; a forward pass appends to what it is given."""
        cache = copy.deepcopy(cache)
        cache.batch_repeat_interleave(rows)
        return cache

    def logits(
        self,
        tokens: torch.Tensor,
        mask: torch.Tensor,
        kept: Sequence[int],
        cache: Any = None,
        places: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """One forward pass over a batch.

        Args:
            tokens: What comes after the cache, (B, L).
            mask: 1 where there is a token and 0 where a row is filled up, (B, P + L).
            kept: Positions in ``tokens`` whose logits are wanted.
            cache: Keys and values of the P tokens before, of each row; it is appended to.
            places: Place of each token in its row's text, (B, L), where rows are filled up in between.

        Returns:
            Logits, (B, len(kept), V).
        """
        device = self.network.device
        options: dict[str, Any] = {} if cache is None else {"past_key_values": cache, "use_cache": True}
        if places is not None:
            options["position_ids"] = places.to(device)
        positions = torch.tensor(list(kept), device=device)
        if narrow := "logits_to_keep" in self.accepts:
            options["logits_to_keep"] = positions
        logits: torch.Tensor = self.network(tokens.to(device), attention_mask=mask.to(device), **options).logits
        return logits if narrow else logits[:, positions]


def _load(kind: Any, config: LlmConfig, **options: Any) -> Any:
    """Load a tokenizer or model without letting its progress bars into a log."""
    if config.gguf_file:
        options["gguf_file"] = config.gguf_file
    config.files()  # says clearly what is missing
    try:
        with _quiet():
            return kind.from_pretrained(
                config.model, revision=config.revision or "main", trust_remote_code=False, **options
            )
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(
            f"{config.model} cannot be loaded: {error}", "check `model`, `gguf_file` and `revision`"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep progress bars off standard error unless it is a terminal; the GGUF reader of transformers has no switch."""
    if sys.stderr.isatty():
        yield
        return
    with contextlib.redirect_stderr(io.StringIO()):
        yield


class Vocabulary:
    """What a model's tokens are good for inside of a text on one line.

    Args:
        model: Whose tokens.
    """

    def __init__(self, model: LocalModel) -> None:
        tokenizer = model.tokenizer
        size = len(tokenizer)
        self._pieces: list[str] = [
            tokenizer.decode([token], clean_up_tokenization_spaces=False) for token in range(size)
        ]
        own = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
        ends = [_ends(piece) for piece in self._pieces]
        self._barred = torch.tensor(
            [
                token in own or not (ends[token] or _harmless(piece))  # (V,)
                for token, piece in enumerate(self._pieces)
            ]
        )
        self._no_beginning = torch.tensor(
            [ends[token] or not piece.strip() for token, piece in enumerate(self._pieces)]
        )

    def likeliest(self, logits: torch.Tensor, *, begun: bool) -> int:
        """The likeliest token that may come next.

        Args:
            logits: Of all tokens, (V,); a model may have more than its tokenizer.
            begun: Whether the text may end here, or hold a blank.
        """
        barred = self._barred if begun else self._barred | self._no_beginning
        return int(logits[: len(barred)].masked_fill(barred, -torch.inf).argmax())

    def before_the_end(self, token: int) -> str | None:
        """What a token that ends the text says before the quotation mark; None for one that does not end it."""
        piece = self._pieces[token]
        return piece.split('"')[0] if '"' in piece else None


def _ends(piece: str) -> bool:
    return '"' in piece and set(piece.split('"')[0]) <= _BEFORE_THE_END


def _harmless(piece: str) -> bool:
    """Whether it stays on the line and inside of the quotation marks; parts of characters do."""
    return not set(piece) & {'"', "\\"} and all(sign.isprintable() for sign in piece) and bool(piece)


def shortened_at_a_word(text: str, longest: int) -> str:
    """The text, or as many of its whole words as there is room for; a script without blanks is cut anywhere."""
    if len(text) <= longest:
        return text
    begun = text[: longest + 1]
    return begun.rsplit(" ", 1)[0] if " " in begun.strip() else text[:longest]
