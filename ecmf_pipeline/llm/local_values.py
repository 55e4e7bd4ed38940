"""The values of an answer, as a local model fills them in: several rows side by side, one field after the other."""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch

from ecmf_pipeline.llm.local_model import LocalModel
from ecmf_pipeline.llm.local_rows import Rows
from ecmf_pipeline.llm.local_text import Vocabulary, shortened_at_a_word
from ecmf_pipeline.llm.schema import Flag, Kind, Number, OneOf, SomeOf, Text, Value


class Writer:
    """Writes one value after the other into all rows.

    Args:
        model: The model.
        rows: The rows, up to where the answer begins.
        vocabulary: What may stand in a text.
    """

    def __init__(self, model: LocalModel, rows: Rows, vocabulary: Vocabulary) -> None:
        self._model = model
        self._rows = rows
        self._vocabulary = vocabulary
        self._everyone = list(range(rows.count))

    def write(self, text: str, to: Sequence[int] | None = None) -> None:
        """Put the same text into all rows, or some."""
        for row in self._everyone if to is None else to:
            self._rows.append(row, self._after("\n", text))

    def value(self, kind: Kind, end: str) -> Sequence[Value]:
        """Have every row fill in a value.

        Args:
            kind: What is allowed.
            end: What follows a value that no sign of its own ends: the comma or brace, which is written, too.
        """
        if isinstance(kind, OneOf):
            self.write('"')
            return [kind.words[word] for word in self._choice(self._everyone, _escaped(kind.words), '"', '"')]
        if isinstance(kind, Flag):
            return [not word for word in self._choice(self._everyone, ["true", "false"], "\n", "")]
        if isinstance(kind, Number):
            numbers = kind.written()
            return [float(numbers[number]) for number in self._choice(self._everyone, numbers, "\n", end)]
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
    """Words as JSON writes them, without their quotation marks."""
    return [json.dumps(word, ensure_ascii=False)[1:-1] for word in words]
