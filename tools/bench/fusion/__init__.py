"""Benchmarks of the fusion model (`python -m tools.bench.fusion`): generated features, RAVDESS, the baseline's loop."""
