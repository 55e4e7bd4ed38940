"""Benchmarks of label refinement (`python -m tools.bench.labels`)."""
