"""The embedded sample corpus: a small synthetic one, drawn from one photograph and one speech synthesiser."""
