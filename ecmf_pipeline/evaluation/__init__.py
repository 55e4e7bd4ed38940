"""Scores of predictions and of refined labels, judged by labels that neither was made from."""
