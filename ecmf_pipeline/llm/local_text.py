"""Which tokens may stand in a text between quotation marks, and which end it."""

from __future__ import annotations

import torch

from ecmf_pipeline.llm.local_model import LocalModel

_BEFORE_THE_END = set(".!?,;:…。！？，；：")  # noqa: RUF001 - Chinese has its own punctuation


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
