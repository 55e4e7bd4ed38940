"""Benchmark of the embedded LLM on MELD (`python -m tools.bench.meld FOLDER`)."""
