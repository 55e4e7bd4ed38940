"""Functions that several stages share: inputs, LLM set-up, feature stores, a single clip."""
