"""From votes to labels: voters, the models that combine them, and what is done with each clip's label.

The names below are loaded on first use, so that importing a configuration loads no numpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ecmf_pipeline.labels.combining import CombinedVotes, combine_votes
    from ecmf_pipeline.labels.votes import SourceReport

__all__ = ["CombinedVotes", "SourceReport", "combine_votes"]

_HOMES = {"CombinedVotes": "combining", "SourceReport": "votes", "combine_votes": "combining"}


def __getattr__(name: str) -> Any:
    """Import what is asked for from its module (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
