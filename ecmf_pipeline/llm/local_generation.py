"""Answers under a schema from a local causal language model (constrained decoding).

Braces, names and quotation marks are written by this module, so an answer cannot violate its schema; the model writes
the values. Words are scored: the most probable one, with its closing punctuation, is chosen. Texts are decoded
greedily. There is no sampling: the same question has the same answer.

Several questions are answered in one batch, with cached keys and values. The common prefix of their prompts is run
once. Shorter rows are padded with masked tokens.
"""

from __future__ import annotations

import copy
import json
from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch

from ecmf_pipeline.core.errors import FeaturesNotFinite, ModelError, RequestRefused
from ecmf_pipeline.llm.config import LlmConfig
from ecmf_pipeline.llm.local import LocalModel
from ecmf_pipeline.llm.prompt import Chat, Message
from ecmf_pipeline.llm.schema import FieldKind, Generated, InvalidAnswer, OneOf, Schema, SomeOf, Text, Value

_REQUIRED_ARGUMENTS = {"past_key_values", "use_cache", "position_ids"}
_MIN_PREFIX = 16
"""Minimum length of a prefix that is cached."""


class TransformersGenerator:
    """Answers of forms from a causal language model of transformers; loaded on first use.

    Args:
        config: The model and its batch size.
        worker: Number of the worker.
    """

    def __init__(self, config: LlmConfig, worker: int = 0) -> None:
        self.config = config
        self._model = LocalModel(config, worker)
        self._prefix: list[int] = []
        self._cache: object = None

    @torch.inference_mode()
    def generate(self, chats: Sequence[Chat], schema: Schema) -> list[Generated]:
        """Answer each chat.

        Args:
            chats: The questions, (n,). Data in them must have passed `prompt.as_data`.
            schema: Schema of the answers.

        Returns:
            The answers, (n,).

        Raises:
            RequestRefused: If a question with its answer exceeds the maximum length of the model.
            FeaturesNotFinite: If the logits of the model are NaN.
            ModelError: If the model cannot be loaded or does not cache keys and values.
        """
        prompts = [self._tokens(chat) for chat in chats]
        longest = max(map(len, prompts), default=0) + schema.max_answer_tokens()
        if longest > (limit := self._model.max_length or longest):
            raise RequestRefused(
                f"the question with its answer may take {longest} tokens; the model reads {limit} tokens"
            )
        self._cache_prefix(prompts)
        answers: list[Generated] = []
        for start in range(0, len(prompts), self.config.batch_size):
            answers += self._fill_in(prompts[start : start + self.config.batch_size], schema)
        return answers

    def _tokens(self, chat: Chat) -> list[int]:
        """Return the tokens of a prompt, in the chat template if there is one, with special tokens escaped."""
        turns: list[Message] = [
            {"role": turn["role"], "content": self._model.escape_special_tokens(turn["content"])} for turn in chat
        ]
        if self._model.tokenizer.chat_template:
            return self._model.encode(self._model.chat(turns))
        plain = "\n\n".join(turn["content"] for turn in turns)
        return [*self._model.bos_tokens, *self._model.encode(plain + "\n")]

    def _cache_prefix(self, prompts: Sequence[list[int]]) -> None:
        """Run the common prefix of the prompts, unless the cached one fits all of them."""
        size = len(self._prefix)
        if self._cache is not None and all(len(p) > size and p[:size] == self._prefix for p in prompts):
            return
        prefix = prompts[0][: _common_prefix_length(prompts)] if len(prompts) > 1 else []
        self._prefix = prefix if len(prefix) >= _MIN_PREFIX else []
        self._cache = self._model.prefix_cache(self._prefix)

    def _fill_in(self, prompts: Sequence[list[int]], schema: Schema) -> list[Generated]:
        """Answer one batch, field by field."""
        prefix = self._prefix if self._cache is not None else []
        batch = GenerationBatch(self._model, prompts, prefix, self._cache if prefix else None)
        writer = FieldWriter(self._model, batch, self._masks)
        values: list[dict[str, object]] = [{} for _ in prompts]
        for number, (name, kind) in enumerate(schema.fields):
            writer.write(f"{', ' if number else '{'}{json.dumps(name)}: ")
            for row, value in enumerate(writer.value(kind)):
                values[row][name] = value
        return [_validate(json.dumps(answer, ensure_ascii=False), schema) for answer in values]

    @cached_property
    def _masks(self) -> TokenMasks:
        return TokenMasks(self._model)


def _common_prefix_length(prompts: Sequence[list[int]]) -> int:
    """Return the number of common first tokens of the prompts, at least one less than the length of each prompt."""
    shortest = min(map(len, prompts)) - 1
    return next((i for i in range(shortest) if len({prompt[i] for prompt in prompts}) > 1), shortest)


def _validate(content: str, schema: Schema) -> Generated:
    """Validate an answer like that of a server: for example, a text of incomplete characters is invalid."""
    try:
        return Generated(schema.read(content))
    except InvalidAnswer as error:
        return Generated(None, (f"{error}: {content}",))


class FieldWriter:
    """Writer of the values of fields into all rows of a batch."""

    def __init__(self, model: LocalModel, batch: GenerationBatch, masks: TokenMasks) -> None:
        self._model = model
        self._batch = batch
        self._masks = masks
        self._all_rows = list(range(batch.count))

    def write(self, text: str, rows: Sequence[int] | None = None) -> None:
        """Append the same text to all rows, or some."""
        for row in self._all_rows if rows is None else rows:
            self._batch.append(row, self._tokens_after("\n", text))

    def value(self, kind: FieldKind) -> Sequence[Value]:
        """Let the model fill in a value of this kind in every row, with its closing punctuation."""
        if isinstance(kind, OneOf):
            self.write('"')
            return [kind.words[word] for word in self._choose(self._all_rows, _escaped(kind.words), '"', '"')]
        return self._word_lists(kind) if isinstance(kind, SomeOf) else self._texts(kind)

    def _choose(
        self, rows: Sequence[int], options: Sequence[str], after: str, end: str, forbidden: torch.Tensor | None = None
    ) -> list[int]:
        """Append the most probable option with its ``end`` to each row; return the index of each row's option.

        Args:
            rows: Indices of the rows, (R,).
            options: The options, (K,).
            after: Text before the option.
            end: Text after the option.
            forbidden: Options that are not allowed in each row, (R, K).
        """
        tokens = [tuple(self._tokens_after(after, option + end)) for option in options]
        likelihoods = self._batch.likelihoods(rows, tokens)
        if forbidden is not None:
            likelihoods = likelihoods.masked_fill(forbidden, -torch.inf)
        best: list[int] = likelihoods.argmax(dim=1).tolist()
        for row, option in zip(rows, best, strict=True):
            self._batch.append(row, tokens[option])
        return best

    def _word_lists(self, kind: SomeOf) -> list[tuple[str, ...]]:
        """Return several words for each row: the model closes the list or adds a word that it does not contain."""
        self.write("[")
        used = torch.zeros(self._batch.count, len(kind.words), dtype=torch.bool)
        lists: list[list[str]] = [[] for _ in self._all_rows]
        unfinished = self._all_rows
        for number in range(min(kind.most, len(kind.words))):
            continues = self._choose(unfinished, ["]", ', "' if number else '"'], "\n", "")
            unfinished = [row for row, option in zip(unfinished, continues, strict=True) if option]
            if not unfinished:
                break
            chosen = self._choose(unfinished, _escaped(kind.words), '"', '"', used[unfinished])
            for row, word in zip(unfinished, chosen, strict=True):
                used[row, word] = True
                lists[row].append(kind.words[word])
        self.write("]", unfinished)
        return [tuple(words) for words in lists]

    def _texts(self, kind: Text) -> list[str]:
        """Return a text for each row, decoded greedily, with quotation marks in the rows."""
        self.write('"')
        tokens: list[list[int]] = [[] for _ in self._all_rows]
        texts = [""] * self._batch.count
        unfinished = self._all_rows
        while unfinished:
            ended = set()
            for row, logits in zip(unfinished, self._batch.logits(unfinished), strict=True):
                token = self._masks.most_probable(logits, begun=kind.empty or bool(texts[row].strip()))
                end = self._masks.text_before_quote(token)
                if end is None:
                    tokens[row].append(token)
                    self._batch.append(row, [token])
                texts[row] = self._model.decode(tokens[row]) + (end or "")
                if end is not None or len(texts[row]) >= kind.longest or len(tokens[row]) >= kind.max_answer_tokens():
                    self.write(f'{end or ""}"', [row])
                    ended.add(row)
            unfinished = [row for row in unfinished if row not in ended]
        return [truncate_at_word(text, kind.longest) for text in texts]

    def _tokens_after(self, before: str, text: str) -> list[int]:
        """Return the tokens of a text after another text: some tokenizers add a space before a separate text."""
        start, whole = self._model.encode(before), self._model.encode(before + text)
        return whole[len(start) :] if whole[: len(start)] == start else self._model.encode(text)


def _escaped(words: Sequence[str]) -> list[str]:
    """Return each word in JSON spelling, without quotation marks."""
    return [json.dumps(word, ensure_ascii=False)[1:-1] for word in words]


class GenerationBatch:
    """B texts that a model continues. Appended tokens are run when logits are requested, for all rows at once.

    Rows are padded to the same width. Padding is masked, and each token has its position in its own text, so the
    results equal those of a separate run.

    Args:
        model: The model.
        prompts: The tokens at the start of each text, (B,).
        prefix: Common first tokens, whose keys and values are in `cache`.
        cache: Keys and values of the prefix; None without a prefix.

    Raises:
        ModelError: If the model does not cache keys and values in the required form.
    """

    def __init__(self, model: LocalModel, prompts: Sequence[list[int]], prefix: Sequence[int], cache: Any) -> None:
        self.count = len(prompts)
        self._model = model
        self._pending = [list(prompt[len(prefix) :]) for prompt in prompts]
        self._lengths = [len(prefix)] * self.count
        self._mask = torch.ones(self.count, len(prefix), dtype=torch.long)  # (B, P)
        self._cache = _empty_cache(model) if cache is None else model.repeat_cache(cache, self.count)
        self._last: list[torch.Tensor] = [torch.empty(0)] * self.count

    def append(self, row: int, tokens: Sequence[int]) -> None:
        """Append tokens to a text."""
        self._pending[row] += tokens

    def logits(self, rows: Sequence[int]) -> torch.Tensor:
        """Return the logits of the next token in some rows, (len(rows), V).

        Raises:
            FeaturesNotFinite: If the logits are NaN.
        """
        if any(self._pending):
            kept_positions = sorted({len(tokens) - 1 for tokens in self._pending if tokens})
            logits, self._mask = self._run(self._pending, kept_positions, self._cache)
            for row, tokens in enumerate(self._pending):
                if tokens:
                    self._last[row] = logits[row, kept_positions.index(len(tokens) - 1)]
                    self._lengths[row] += len(tokens)
            self._pending = [[] for _ in range(self.count)]
        last = torch.stack([self._last[row] for row in rows])
        if last.isnan().any():
            raise FeaturesNotFinite("the logits of the model are NaN for the transcript")
        return last

    def likelihoods(self, rows: Sequence[int], options: Sequence[tuple[int, ...]]) -> torch.Tensor:
        """Return the log-likelihood of each continuation, in some rows, without appending it.

        Args:
            rows: Indices of the rows.
            options: Tokens of each continuation, (K,).

        Returns:
            Sums over the tokens, (len(rows), K).
        """
        first = self.logits(rows).log_softmax(dim=1)  # (R, V)
        likelihoods = torch.stack([first[:, option[0]] for option in options], dim=1)  # (R, K)
        branches: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, option in enumerate(options):
            branches[option[:-1]].append(index)
        for branch, indices in branches.items():
            if not branch:  # options of one token need no further pass
                continue
            logits, _ = self._run([branch] * self.count, range(len(branch)), copy.deepcopy(self._cache))
            steps = logits[list(rows)].log_softmax(dim=2)  # (R, len(branch), V)
            for index in indices:
                for position, token in enumerate(options[index][1:]):
                    likelihoods[:, index] += steps[:, position, token]
        return likelihoods

    def _run(
        self, tokens: Sequence[Sequence[int]], kept_positions: Sequence[int], cache: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits of the new tokens, (B, len(kept_positions), V), and the extended mask, (B, P + L)."""
        width = max(map(len, tokens))
        padded = torch.tensor([[*row, *([0] * (width - len(row)))] for row in tokens])  # (B, L)
        new = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in tokens])  # (B, L)
        mask = torch.cat([self._mask, new], dim=1)
        position_ids = torch.tensor(self._lengths)[:, None] + (new.cumsum(dim=1) - 1).clamp(min=0)
        return self._model.logits(padded, mask, kept_positions, cache, position_ids).float().cpu(), mask


def _empty_cache(model: LocalModel) -> Any:
    from transformers import DynamicCache

    cache: Any = DynamicCache(config=model.network.config)
    if not model.forward_arguments >= _REQUIRED_ARGUMENTS or any(cache.is_linear):
        raise ModelError(
            f"{model.config.model} cannot fill in forms: its keys and values cannot be shared between rows",
            "use another model, or serve this one and set llm.backend: openai",
        )
    return cache


_CLOSING_PUNCTUATION = set(".!?,;:…。！？，；：")  # noqa: RUF001 - Chinese has its own punctuation


class TokenMasks:
    """The tokens of a model that are allowed in a text on one line."""

    def __init__(self, model: LocalModel) -> None:
        tokenizer = model.tokenizer
        size = len(tokenizer)
        self._pieces: list[str] = [
            tokenizer.decode([token], clean_up_tokenization_spaces=False) for token in range(size)
        ]
        special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
        ends = [_ends_text(piece) for piece in self._pieces]
        self._forbidden = torch.tensor(
            [
                token in special or not (ends[token] or _stays_in_text(piece))  # (V,)
                for token, piece in enumerate(self._pieces)
            ]
        )
        self._forbidden_at_start = torch.tensor(
            [ends[token] or not piece.strip() for token, piece in enumerate(self._pieces)]
        )

    def most_probable(self, logits: torch.Tensor, *, begun: bool) -> int:
        """Return the most probable allowed token.

        Args:
            logits: Logits of all tokens, (V,); a model may have more tokens than its tokenizer.
            begun: Whether the text may end here, or continue with a space.
        """
        forbidden = self._forbidden if begun else self._forbidden | self._forbidden_at_start
        return int(logits[: len(forbidden)].masked_fill(forbidden, -torch.inf).argmax())

    def text_before_quote(self, token: int) -> str | None:
        """Return the text before the quotation mark of a token that ends the text; None for other tokens."""
        piece = self._pieces[token]
        return piece.split('"')[0] if '"' in piece else None


def _ends_text(piece: str) -> bool:
    return '"' in piece and set(piece.split('"')[0]) <= _CLOSING_PUNCTUATION


def _stays_in_text(piece: str) -> bool:
    """Return whether a token keeps the text on its line and inside the quotation marks; parts of characters do."""
    return not set(piece) & {'"', "\\"} and all(character.isprintable() for character in piece) and bool(piece)


def truncate_at_word(text: str, longest: int) -> str:
    """Return the text, or as many of its whole words as fit; a text without spaces is truncated anywhere."""
    if len(text) <= longest:
        return text
    start = text[: longest + 1]
    return start.rsplit(" ", 1)[0] if " " in start.strip() else text[:longest]
