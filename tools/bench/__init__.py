"""Benches, one module or folder each; `python -m tools.bench` measures stores, scoring and DVC."""
