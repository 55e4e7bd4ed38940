"""Benchmarks, one module or package each. `python -m tools.bench` measures stores, LLM scoring and DVC."""
