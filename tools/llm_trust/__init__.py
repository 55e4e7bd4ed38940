"""Measure how reliable answers of the language model are (`python -m tools.llm_trust faults|injected`)."""
