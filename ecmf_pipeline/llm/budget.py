"""What a run has sent and may still send."""

from __future__ import annotations

import threading

from ecmf_pipeline.errors import BudgetSpent
from ecmf_pipeline.llm.server_config import BudgetConfig


class Budget:
    """Counts requests and tokens of one run, over all its threads.

    Args:
        config: The limits.

    Attributes:
        requests: Requests sent.
        tokens: Tokens paid for.
    """

    def __init__(self, config: BudgetConfig) -> None:
        self._config = config
        self._settled = threading.Condition()
        self._reserved = 0
        self.requests = 0
        self.tokens = 0

    def reserve(self, tokens: int) -> None:
        """Make room for one request before it is sent; waits where only requests under way leave no room for it.

        Args:
            tokens: The most that it is expected to take; `settle` replaces it by what it took.

        Raises:
            BudgetSpent: When it would go beyond a limit. It is not sent then.
        """
        config = self._config
        with self._settled:
            while True:
                if config.max_requests is not None and self.requests >= config.max_requests:
                    raise BudgetSpent(f"llm.budget.max_requests is spent: {self.requests} requests were sent")
                room = None if config.max_tokens is None else config.max_tokens - self.tokens
                if room is None or self._reserved + tokens <= room:
                    break
                if tokens > room or not self._reserved:
                    raise BudgetSpent(
                        f"llm.budget.max_tokens is spent: {self.tokens} of {config.max_tokens} tokens, and the next "
                        f"request may take {tokens}"
                    )
                self._settled.wait()  # those under way mostly take less than they may
            self.requests += 1
            self._reserved += tokens

    def settle(self, reserved: int, used: int) -> None:
        """Replace what was reserved by what was used; 0 for a request that failed."""
        with self._settled:
            self._reserved -= reserved
            self.tokens += used
            self._settled.notify_all()
