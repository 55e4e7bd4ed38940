"""Evaluate predictions and refined labels on labels that they were not made from."""
