"""Benches of the label refinement (`python -m tools.bench.labels`)."""
