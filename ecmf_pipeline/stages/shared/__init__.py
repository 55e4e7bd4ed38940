"""What several stages share: opened inputs, the set-up of the LLM, a single clip."""
