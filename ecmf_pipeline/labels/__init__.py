"""From votes to labels: voters, the models that combine votes, and the decision on each clip's label.

The names in ``__all__`` are stable. They are imported when they are first used.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from ecmf_pipeline.labels.combining import CombinedVotes as CombinedVotes
    from ecmf_pipeline.labels.combining import combine_votes as combine_votes
    from ecmf_pipeline.labels.votes import SourceReport as SourceReport

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"combining": ["CombinedVotes", "combine_votes"], "votes": ["SourceReport"]}
)
