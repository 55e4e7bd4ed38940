"""What the embedded LLM is worth on MELD (`python -m tools.bench.meld FOLDER`)."""
