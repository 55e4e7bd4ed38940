"""Bench of the fusion: a set as large as MER2025's, the baseline's loop, RAVDESS (`python -m tools.bench.fusion`)."""
