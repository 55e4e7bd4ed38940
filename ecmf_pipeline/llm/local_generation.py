"""Answers under a schema from a local causal language model.

The braces, names and quotation marks are written by us, so that an answer cannot leave its schema; the model writes the
values alone. Words are scored (the likeliest of all that are allowed is taken, its closing sign included),
texts are decoded greedily. Nothing is drawn: the same question gets the same answer.

Several questions are answered side by side, over keys and values that are kept. The prefix that their prompts share is
run once. Rows that wait for others are filled up with tokens that nobody attends to.
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
from ecmf_pipeline.llm.schema import Generated, InvalidAnswer, Kind, OneOf, Schema, SomeOf, Text, Value

_NEEDED = {"past_key_values", "use_cache", "position_ids"}
_LEAST_SHARED = 16
"""A prefix of fewer tokens is not worth keeping."""


class TransformersGenerator:
    """Fills in forms with any causal language model of transformers; loaded with the first question.

    Args:
        config: The model and its batch size.
        worker: Number of the worker that asks.
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
            chats: The questions, (n,). What is data in them stands there as `prompt.as_data` left it.
            schema: The form of the answers.

        Returns:
            The answers, (n,).

        Raises:
            RequestRefused: When a question with its answer takes more tokens than the model reads.
            FeaturesNotFinite: When the model computes no numbers.
            ModelError: When the model cannot be loaded, or keeps no keys and values.
        """
        prompts = [self._tokens(chat) for chat in chats]
        longest = max(map(len, prompts), default=0) + schema.most_tokens()
        if longest > (limit := self._model.reads or longest):
            raise RequestRefused(f"the question with its answer may take {longest} tokens; the model reads {limit}")
        self._share(prompts)
        answers: list[Generated] = []
        for start in range(0, len(prompts), self.config.batch_size):
            answers += self._fill_in(prompts[start : start + self.config.batch_size], schema)
        return answers

    def _tokens(self, chat: Chat) -> list[int]:
        """The prompt, in the model's chat template where it has one; nothing in it can end a turn."""
        turns: list[Message] = [
            {"role": turn["role"], "content": self._model.harmless(turn["content"])} for turn in chat
        ]
        if self._model.tokenizer.chat_template:
            return self._model.encode(self._model.chat(turns))
        plain = "\n\n".join(turn["content"] for turn in turns)
        return [*self._model.opening, *self._model.encode(plain + "\n")]

    def _share(self, prompts: Sequence[list[int]]) -> None:
        """Run what all prompts begin with, unless that is what was kept last time."""
        size = len(self._prefix)
        if self._cache is not None and all(len(p) > size and p[:size] == self._prefix for p in prompts):
            return
        shared = prompts[0][: _shared(prompts)] if len(prompts) > 1 else []
        self._prefix = shared if len(shared) >= _LEAST_SHARED else []
        self._cache = self._model.prefix_cache(self._prefix)

    def _fill_in(self, prompts: Sequence[list[int]], schema: Schema) -> list[Generated]:
        """One batch, field by field."""
        prefix = self._prefix if self._cache is not None else []
        rows = Rows(self._model, prompts, prefix, self._cache if prefix else None)
        writer = Writer(self._model, rows, self._vocabulary)
        values: list[dict[str, object]] = [{} for _ in prompts]
        for number, (name, kind) in enumerate(schema.fields):
            writer.write(f"{', ' if number else '{'}{json.dumps(name)}: ")
            for row, value in enumerate(writer.value(kind)):
                values[row][name] = value
        return [_read(json.dumps(answer, ensure_ascii=False), schema) for answer in values]

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return Vocabulary(self._model)


def _shared(prompts: Sequence[list[int]]) -> int:
    """With how many tokens all prompts begin, leaving each at least one."""
    shortest = min(map(len, prompts)) - 1
    return next((i for i in range(shortest) if len({prompt[i] for prompt in prompts}) > 1), shortest)


def _read(content: str, schema: Schema) -> Generated:
    """An answer, read like anybody's: a text that holds nothing but parts of characters is invalid, say."""
    try:
        return Generated(schema.read(content))
    except InvalidAnswer as error:
        return Generated(None, (f"{error}: {content}",))


class Writer:
    """Writes one value after the other into all rows, which end where the answer begins."""

    def __init__(self, model: LocalModel, rows: Rows, vocabulary: Vocabulary) -> None:
        self._model = model
        self._rows = rows
        self._vocabulary = vocabulary
        self._everyone = list(range(rows.count))

    def write(self, text: str, to: Sequence[int] | None = None) -> None:
        """Put the same text into all rows, or some."""
        for row in self._everyone if to is None else to:
            self._rows.append(row, self._after("\n", text))

    def value(self, kind: Kind) -> Sequence[Value]:
        """Have every row fill in a value of this kind, with the sign that ends it."""
        if isinstance(kind, OneOf):
            self.write('"')
            return [kind.words[word] for word in self._choice(self._everyone, _escaped(kind.words), '"', '"')]
        return self._several(kind) if isinstance(kind, SomeOf) else self._texts(kind)

    def _choice(
        self, rows: Sequence[int], options: Sequence[str], after: str, end: str, barred: torch.Tensor | None = None
    ) -> list[int]:
        """The index of each row's likeliest option, which is written into it with its ``end``.

        Args:
            rows: Which rows, (R,).
            options: What may be written, (K,).
            after: What stands before it.
            end: What follows it.
            barred: What may not be written, in each row, (R, K).
        """
        tokens = [tuple(self._after(after, option + end)) for option in options]
        likelihoods = self._rows.likelihoods(rows, tokens)
        if barred is not None:
            likelihoods = likelihoods.masked_fill(barred, -torch.inf)
        best: list[int] = likelihoods.argmax(dim=1).tolist()
        for row, option in zip(rows, best, strict=True):
            self._rows.append(row, tokens[option])
        return best

    def _several(self, kind: SomeOf) -> list[tuple[str, ...]]:
        """Several words for each row: it closes the list, or names one more that it has not named yet."""
        self.write("[")
        named = torch.zeros(self._rows.count, len(kind.words), dtype=torch.bool)
        found: list[list[str]] = [[] for _ in self._everyone]
        going = self._everyone
        for number in range(min(kind.most, len(kind.words))):
            goes_on = self._choice(going, ["]", ', "' if number else '"'], "\n", "")
            going = [row for row, goes in zip(going, goes_on, strict=True) if goes]
            if not going:
                break
            chosen = self._choice(going, _escaped(kind.words), '"', '"', named[going])
            for row, word in zip(going, chosen, strict=True):
                named[row, word] = True
                found[row].append(kind.words[word])
        self.write("]", going)
        return [tuple(words) for words in found]

    def _texts(self, kind: Text) -> list[str]:
        """A text for each row, decoded greedily, with its quotation marks."""
        self.write('"')
        tokens: list[list[int]] = [[] for _ in self._everyone]
        texts = [""] * self._rows.count
        going = self._everyone
        while going:
            ended = set()
            for row, logits in zip(going, self._rows.logits(going), strict=True):
                token = self._vocabulary.likeliest(logits, begun=kind.empty or bool(texts[row].strip()))
                end = self._vocabulary.before_the_end(token)
                if end is None:
                    tokens[row].append(token)
                    self._rows.append(row, [token])
                texts[row] = self._model.decode(tokens[row]) + (end or "")
                if end is not None or len(texts[row]) >= kind.longest or len(tokens[row]) >= kind.most_tokens():
                    self.write(f'{end or ""}"', [row])
                    ended.add(row)
            going = [row for row in going if row not in ended]
        return [shortened_at_a_word(text, kind.longest) for text in texts]

    def _after(self, before: str, text: str) -> list[int]:
        """Tokens of a text where another stands before it: alone, some tokenizers put a blank before it."""
        start, whole = self._model.encode(before), self._model.encode(before + text)
        return whole[len(start) :] if whole[: len(start)] == start else self._model.encode(text)


def _escaped(words: Sequence[str]) -> list[str]:
    """Each word as JSON writes it, without its quotation marks."""
    return [json.dumps(word, ensure_ascii=False)[1:-1] for word in words]


class Rows:
    """B texts. What is appended is run when logits are asked for, for all rows at once.

    Rows are filled up to the same width. What fills them is masked, and each token is told its place in its own text,
    so that it computes what it would compute alone.

    Args:
        model: The model.
        prompts: The tokens that each text begins with, (B,).
        prefix: What all of them begin with and `cache` knows.
        cache: Keys and values of the prefix; None without one.

    Raises:
        ModelError: When the model does not keep keys and values that can be used so.
    """

    def __init__(self, model: LocalModel, prompts: Sequence[list[int]], prefix: Sequence[int], cache: Any) -> None:
        self.count = len(prompts)
        self._model = model
        self._pending = [list(prompt[len(prefix) :]) for prompt in prompts]
        self._places = [len(prefix)] * self.count
        self._mask = torch.ones(self.count, len(prefix), dtype=torch.long)  # (B, P)
        self._cache = _empty_cache(model) if cache is None else model.repeated(cache, self.count)
        self._last: list[torch.Tensor] = [torch.empty(0)] * self.count

    def append(self, row: int, tokens: Sequence[int]) -> None:
        """Let a text go on."""
        self._pending[row] += tokens

    def logits(self, rows: Sequence[int]) -> torch.Tensor:
        """What may come next in some rows, (len(rows), V).

        Raises:
            FeaturesNotFinite: When the model computes no numbers.
        """
        if any(self._pending):
            kept = sorted({len(tokens) - 1 for tokens in self._pending if tokens})
            logits, self._mask = self._run(self._pending, kept, self._cache)
            for row, tokens in enumerate(self._pending):
                if tokens:
                    self._last[row] = logits[row, kept.index(len(tokens) - 1)]
                    self._places[row] += len(tokens)
            self._pending = [[] for _ in range(self.count)]
        last = torch.stack([self._last[row] for row in rows])
        if last.isnan().any():
            raise FeaturesNotFinite("the model computes no numbers of what is said")
        return last

    def likelihoods(self, rows: Sequence[int], options: Sequence[tuple[int, ...]]) -> torch.Tensor:
        """Log-likelihood of each of several continuations, in some rows; the texts stay as they are.

        Args:
            rows: Which rows.
            options: Tokens of each continuation, (K,).

        Returns:
            Sums over the tokens, (len(rows), K).
        """
        first = self.logits(rows).log_softmax(dim=1)  # (R, V)
        found = torch.stack([first[:, option[0]] for option in options], dim=1)  # (R, K)
        branches: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, option in enumerate(options):
            branches[option[:-1]].append(index)
        for branch, indices in branches.items():
            if not branch:  # one token: all is known
                continue
            logits, _ = self._run([branch] * self.count, range(len(branch)), copy.deepcopy(self._cache))
            steps = logits[list(rows)].log_softmax(dim=2)  # (R, len(branch), V)
            for index in indices:
                for position, token in enumerate(options[index][1:]):
                    found[:, index] += steps[:, position, token]
        return found

    def _run(
        self, tokens: Sequence[Sequence[int]], kept: Sequence[int], cache: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits at some positions of what is new, (B, len(kept), V), and the mask with all of it, (B, P + L)."""
        width = max(map(len, tokens))
        filled = torch.tensor([[*row, *([0] * (width - len(row)))] for row in tokens])  # (B, L)
        new = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in tokens])  # (B, L)
        mask = torch.cat([self._mask, new], dim=1)
        places = torch.tensor(self._places)[:, None] + (new.cumsum(dim=1) - 1).clamp(min=0)
        return self._model.logits(filled, mask, kept, cache, places).float().cpu(), mask


def _empty_cache(model: LocalModel) -> Any:
    from transformers import DynamicCache

    cache: Any = DynamicCache(config=model.network.config)
    if not model.accepts >= _NEEDED or any(cache.is_linear):
        raise ModelError(
            f"{model.config.model} keeps no keys and values that rows can share, and cannot write answers here",
            "take another model for it, or serve this one and set llm.backend: openai",
        )
    return cache


_BEFORE_THE_END = set(".!?,;:…。！？，；：")  # noqa: RUF001 - Chinese has its own punctuation


class Vocabulary:
    """What a model's tokens are good for inside of a text on one line."""

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
