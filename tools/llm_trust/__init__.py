"""How far the LLM's answers can be trusted (`python -m tools.llm_trust faults|injected`)."""
